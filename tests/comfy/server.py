"""A real ComfyUI with the pack in its ``custom_nodes``, in a base directory of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .websocket import BINARY, WebSocket

ROOT = Path(__file__).resolve().parents[2]
PACK_FOLDER = "ComfyUI-FlashVideo"
_FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user")
_PREVIEW, _TEXT, _PREVIEW_WITH_METADATA = 1, 3, 4  # ComfyUI's binary messages
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def find_comfyui() -> Path | None:
    """``COMFYUI_PATH``, else the ComfyUI that this pack is installed in, else comfy-cli's default workspace."""
    given = os.environ.get("COMFYUI_PATH")
    places = [Path(given)] if given else [ROOT.parent.parent, Path("~/comfy/ComfyUI").expanduser()]
    return next((place.resolve() for place in places if (place / "main.py").is_file()), None)


def find_python(comfyui: Path) -> str:
    """``COMFYUI_PYTHON``, else ComfyUI's own environment, else the running interpreter."""
    given = os.environ.get("COMFYUI_PYTHON")
    pythons = [comfyui / folder / "bin" / "python" for folder in (".venv", "venv")]
    return given or next((str(python) for python in pythons if python.is_file()), sys.executable)


class Graph:
    """An API-format workflow: ``add`` gives a node's id, ``out`` a link to one of its outputs."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, **inputs: Any) -> str:
        name = str(len(self.nodes) + 1)
        self.nodes[name] = {"class_type": kind, "inputs": {k: v for k, v in inputs.items() if v is not None}}
        return name

    @staticmethod
    def out(node: str, index: int = 0) -> list[Any]:
        return [node, index]


@dataclass
class Run:
    """What became of a queued workflow.

    Attributes:
        executed, cached: node ids.
        outputs: node id -> its ``ui`` dictionary.
        progress: node id -> (value, maximum) in order.
        previews: pictures sent while sampling.
        texts: node id -> lines shown on it.
        error: ``node_type``, ``exception_message`` ... of a failed run; empty otherwise.
    """

    prompt_id: str
    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    previews: list[bytes] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def message(self) -> str:
        return str(self.error.get("exception_message", ""))


class RejectedError(Exception):
    """The server refused a workflow before running it; ``errors`` are by node."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.errors = body.get("node_errors") or {}
        super().__init__(json.dumps(body)[:2000])

    @property
    def details(self) -> str:
        return " | ".join(f"{e['message']}: {e['details']}" for n in self.errors.values() for e in n["errors"])


class ComfyServer:
    """One process. ``base`` keeps its files over restarts."""

    def __init__(self, comfyui: Path, base: Path, packs: Iterable[Path] = (), extra: Iterable[str] = ()) -> None:
        self.comfyui, self.base, self.python = comfyui, base, find_python(comfyui)
        self.extra = [*extra]
        self.headers = {"Content-Type": "application/json"}
        self.process: subprocess.Popen[bytes] | None = None
        self._defaults: dict[str, dict[str, Any]] = {}
        for folder in _FOLDERS:
            (base / folder).mkdir(parents=True, exist_ok=True)
        (base / "custom_nodes" / PACK_FOLDER).symlink_to(ROOT, target_is_directory=True)
        for pack in packs:
            (base / "custom_nodes" / pack.name).symlink_to(pack, target_is_directory=True)

    def add_model(self, folder: str, file: Path, name: str = "") -> str:
        """Link a file into a model folder; gives its name there."""
        target = self.base / "models" / folder / (name or file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(file.resolve(), target_is_directory=file.is_dir())
        return name or file.name

    # ---- the process

    def start(self, timeout: float = 120) -> ComfyServer:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = {"--listen": "127.0.0.1", "--port": str(self.port), "--base-directory": str(self.base)}
        options["--database-url"] = "sqlite:///:memory:"
        arguments = [part for pair in options.items() for part in pair]
        arguments += ["--disable-auto-launch", "--disable-api-nodes", "--cpu", *self.extra]
        # one thread: on tiny tensors, and beside other work, threads spend their time waiting for each other
        environment = {
            "OMP_NUM_THREADS": "1",
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        with (self.base / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, str(self.comfyui / "main.py"), *arguments],
                cwd=self.base,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return self
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"ComfyUI did not start:\n{self.log()[-4000:]}")

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def work(self) -> float:
        """Seconds of a processor that the server has used; where the system does not tell, seconds of the clock."""
        assert self.process is not None
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return time.monotonic()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime of all threads

    def log(self) -> str:
        return _COLOUR.sub("", (self.base / "server.log").read_text(errors="replace"))

    # ---- HTTP

    def request(self, path: str, data: Any = None) -> bytes:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, self.headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def post(self, path: str, data: Any) -> Any:
        content = self.request(path, data)
        return json.loads(content) if content else None

    def free(self) -> None:
        """Unload all models and forget all results; returns when it is sure to happen before the next prompt.

        The queue's thread frees when it comes to it, which may be after a prompt that was queued later. So one more
        goes first: whether before or after it, its thread has freed when it takes the next.
        """
        self.post("/free", {"unload_models": True, "free_memory": True})
        graph = Graph()
        graph.add("PreviewAny", source=Graph.out(graph.add("PrimitiveInt", value=1)))
        self.run(graph)

    def queue(self, graph: Graph | dict[str, Any], client_id: str = "", **more: Any) -> str:
        """Queue a workflow; gives its prompt id.

        Raises:
            RejectedError: validation failed, also if only some of its output nodes were refused.
        """
        nodes = graph.nodes if isinstance(graph, Graph) else graph
        try:
            answer = self.post("/prompt", {"prompt": nodes, "client_id": client_id, **more})
        except urllib.error.HTTPError as error:
            raise RejectedError(json.loads(error.read())) from error
        if answer.get("node_errors"):
            raise RejectedError(answer)
        return str(answer["prompt_id"])

    def defaults(self, kind: str) -> dict[str, Any]:
        """Values of a node's required widgets, as the editor would fill them in."""
        if kind not in self._defaults:
            required = self.get(f"/object_info/{urllib.parse.quote(kind)}")[kind]["input"].get("required", {})
            settings = {name: (spec[1] if len(spec) > 1 else {}) for name, spec in required.items()}
            self._defaults[kind] = {name: s["default"] for name, s in settings.items() if "default" in s}
        return self._defaults[kind]

    # ---- running

    def run(self, graph: Graph | dict[str, Any], timeout: float = 120, on_event: Any = None, **more: Any) -> Run:
        """Queue a workflow, follow it to its end. Failures are in ``Run.error``.

        Args:
            on_event: called as ``on_event(type, data)`` for each message, for example to interrupt.
        """
        client = uuid.uuid4().hex
        listener = WebSocket("127.0.0.1", self.port, f"/ws?clientId={client}", timeout)
        try:
            listener.receive()  # a server that has said something knows this client; it would not keep messages for it
            run = Run(self.queue(graph, client, **more))
            deadline = time.monotonic() + timeout
            while self._take(run, *listener.receive(), on_event):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not finished after {timeout} s:\n{self.log()[-2000:]}")
        finally:
            listener.close()
        return run

    def _take(self, run: Run, kind: int, payload: bytes, on_event: Any) -> bool:
        """Note a message; whether the run goes on."""
        if kind == BINARY:
            self._take_binary(run, payload)
            return True
        message = json.loads(payload)
        name, data = message["type"], message.get("data") or {}
        if data.get("prompt_id") not in (None, run.prompt_id):
            return True
        if on_event is not None:
            on_event(name, data)
        if name == "executing" and data.get("node"):
            run.executed.append(data["node"])
        elif name == "execution_cached":
            run.cached = data["nodes"]
        elif name == "executed":
            run.outputs[data["node"]] = data.get("output")
        elif name == "progress":
            run.progress.setdefault(data["node"], []).append((data["value"], data["max"]))
        elif name in ("execution_error", "execution_interrupted"):
            run.error, run.interrupted = data, name == "execution_interrupted"
            return False
        return name != "execution_success"

    @staticmethod
    def _take_binary(run: Run, payload: bytes) -> None:
        (kind,) = struct.unpack(">I", payload[:4])
        if kind in (_PREVIEW, _PREVIEW_WITH_METADATA):
            run.previews.append(payload[4:])
        elif kind == _TEXT:
            (length,) = struct.unpack(">I", payload[4:8])
            node = payload[8 : 8 + length].decode()
            run.texts.setdefault(node, []).append(payload[8 + length :].decode())
