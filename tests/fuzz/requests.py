"""Odd requests to a real ComfyUI: to the gate's routes, and workflows with odd values in our nodes."""

from __future__ import annotations

import copy
import http.client
import json
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from tests.comfy.golden_models import STAGE1, STAGE2, TEXT, VAE, add_golden_models
from tests.comfy.server import ComfyServer, Graph, RejectedError, find_comfyui

from . import mutations, sandbox

NAME = "requests"
_ROUTES = ("", "/empty", "/limit", "/{}", "/{}/{}-{}.mp4")
_TYPES = ("application/json", "application/json; charset=klingon", "text/plain", "", "application/json; charset=\xff")
_SECONDS = 60
_GROWN = 256 << 20
_RAW = ("AttributeError", "TypeError", "KeyError", "IndexError", "NameError", "AssertionError", "UnboundLocalError")


def run(cases: int, seed: int, show: str) -> Counter[str] | None:
    """Counts by outcome; ``None`` without a ComfyUI."""
    comfyui = find_comfyui()
    if comfyui is None:
        return None
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        server = ComfyServer(comfyui, Path(folder))
        add_golden_models(server)
        server.start()
        try:
            graph = _graph(server)
            sound = server.run(graph)
            if sound.error:
                raise SystemExit(f"{NAME}: a sound workflow failed: {sound.message}")
            before = _memory(server)
            for number in range(cases):
                draw = Random(f"{seed} {NAME} {number}")
                title, (outcome, words) = (
                    ("route", _ask(server, draw)) if draw.random() < 0.5 else ("workflow", _queue(server, draw, graph))
                )
                counts[outcome] += 1
                if outcome in (sandbox.TRACED, sandbox.HUNG, show):
                    print(f"  {outcome}: {NAME} {number}, {title}\n    {words[-600:]}", flush=True)
            if (grown := _memory(server) - before) > _GROWN:
                counts[sandbox.GROWN] += 1
                print(f"  grown: the server, by {grown >> 20} MiB in {cases} requests")
        finally:
            server.stop()
    return counts


def _graph(server: ComfyServer) -> dict[str, Any]:
    """Both stages at the smallest size."""
    graph = Graph()

    def add(kind: str, **inputs: Any) -> list[Any]:
        return [graph.add(kind, **{**server.defaults(kind), **inputs}), 0]

    size = {"size": "custom", "width": 32, "height": 32}
    clip = add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)
    vae = add("FlashVideoLoadVAE", vae_name=VAE)
    stage1 = add(
        "FlashVideoStage1Sampler",
        model=add("FlashVideoLoadStage1", model_name=STAGE1),
        positive=add("FlashVideoTextEncode", clip=clip, prompt="a red boat"),
        latent=add("FlashVideoEmptyLatent", **size, length=5),
        steps=1,
    )
    video = add("FlashVideoTiledDecode", latent=stage1, vae=vae)
    upscaled = add("FlashVideoUpscaleEncode", image=video, vae=vae, **size)
    degraded = add("FlashVideoDegrade", latent=upscaled)
    refined = add(
        "FlashVideoStage2Refiner",
        model=add("FlashVideoLoadStage2", model_name=STAGE2),
        positive=add("FlashVideoTextEncode", clip=clip, prompt="a red boat"),
        latent=degraded,
        steps=1,
    )
    add("PreviewImage", images=add("FlashVideoTiledDecode", latent=refined, vae=vae))
    return graph.nodes


def _ask(server: ComfyServer, draw: Random) -> tuple[str, str]:
    hashes = [draw.choice(("0" * 32, "..", "%2e%2e", "x" * 3000, "%00", "é".encode().hex(), "-")) for _ in range(3)]
    path = "/flashvideo/previews" + draw.choice(_ROUTES).format(*hashes)
    body = mutations.text_of(draw, mutations.json_mutated(draw, {"megabytes": draw.choice((100, 0, 1e6))}))
    if draw.random() < 0.3:
        body = mutations.bytes_mutated(draw, body)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_SECONDS)
    try:
        connection.request(draw.choice(("GET", "POST")), path, body, {"Content-Type": draw.choice(_TYPES)})
        answer = connection.getresponse()
        words = f"{path} {body[:200]!r}: {answer.status} {answer.read()[:300]!r}"
    except TimeoutError:
        return sandbox.HUNG, path
    finally:
        connection.close()
    return (
        sandbox.TRACED if answer.status >= 500 else sandbox.REFUSED if answer.status >= 400 else sandbox.ACCEPTED
    ), words


def _queue(server: ComfyServer, draw: Random, graph: dict[str, Any]) -> tuple[str, str]:
    nodes = copy.deepcopy(graph)
    widgets = [(n, name) for n, node in nodes.items() for name, v in node["inputs"].items() if not isinstance(v, list)]
    links = [(n, name) for n, node in nodes.items() for name, v in node["inputs"].items() if isinstance(v, list)]
    for _ in range(draw.choice((1, 1, 2))):
        node, name = draw.choice(widgets if draw.random() < 0.7 else links)
        inputs, kind = nodes[node]["inputs"], draw.random()
        if kind < 0.2:
            del inputs[name]
        elif kind < 0.4:
            inputs[name] = [draw.choice([*nodes, "99"]), draw.choice((0, 1, 7))]
        else:
            inputs[name] = mutations.odd_value(draw)
    words = json.dumps([node["inputs"] for node in nodes.values() if node not in graph.values()])[:300]
    try:
        run = server.run(nodes, timeout=_SECONDS)
    except RejectedError as error:
        return sandbox.REFUSED, f"{words}: {error}"
    except TimeoutError:
        return sandbox.HUNG, words
    if not run.error:
        return sandbox.ACCEPTED, words
    kind_of = str(run.error.get("exception_type", ""))
    ours = any("FlashVideo" in str(run.error.get(key, "")) for key in ("node_type",))
    raw = ours and (kind_of in _RAW or kind_of not in ("ValueError", "RuntimeError"))
    return sandbox.TRACED if raw else sandbox.REFUSED, f"{words}: {kind_of} {run.error.get('node_type')} {run.message}"


def _memory(server: ComfyServer) -> int:
    """Resident bytes."""
    assert server.process is not None
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * 4096
