"""Queues the tiny workflow many times in a real ComfyUI and counts what grows: memory, open files, what is on the disk.

    python -m tests.fuzz.queued [--runs 1000]

Every run has a seed of its own, makes a preview, lets it through and refines it. A line after every tenth of the runs;
memory and files are those between two runs, without
ComfyUI's own list of past runs, which would grow. ``COMFYUI_PATH`` says where ComfyUI is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.comfy.server import ComfyServer, find_comfyui
from tests.ui.models import add_tiny_models
from tests.ui.small import made_small

_SEEDED = "FlashVideoStage1Sampler"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    given = parser.parse_args()
    comfyui = find_comfyui()
    if comfyui is None:
        raise SystemExit("No ComfyUI was found; set COMFYUI_PATH to its folder.")
    with tempfile.TemporaryDirectory(prefix="queued-") as folder:
        server = ComfyServer(comfyui, Path(folder))
        add_tiny_models(server)
        server.start()
        server.post("/flashvideo/previews/limit", {"megabytes": 1})  # the store reaches its limit, and stays there
        try:
            return _queue(server, given.runs)
        finally:
            server.stop()


def _queue(server: ComfyServer, runs: int) -> int:
    nodes, failed, began = made_small("tiny-demo", approve="always"), 0, time.monotonic()
    print(
        f"{'runs':>6}{'MB':>7}{'handles':>9}{'threads':>9}{'temp':>7}{'store':>7}{'output':>8}{'failed':>8}{'s/run':>7}"
    )
    for number in range(1, runs + 1):
        for node in nodes.values():
            if node["class_type"] == _SEEDED:
                node["inputs"]["seed"] = number
        run = server.run(nodes)
        server.post("/history", {"clear": True})  # ComfyUI keeps ten thousand runs, some 30 KB each
        if run.error:
            failed += 1
            print(f"  run {number}: {run.message}")
        if number in (1, 10) or number % max(1, runs // 10) == 0:
            counts = _counted(server)
            columns = f"{counts['MB']:>7}{counts['handles']:>9}{counts['threads']:>9}{counts['temp']:>7}"
            columns += f"{counts['store']:>7}{counts['output']:>8}{failed:>8}"
            print(f"{number:>6}{columns}{(time.monotonic() - began) / number:>7.2f}", flush=True)
    return bool(failed)


def _counted(server: ComfyServer) -> Counter[str]:
    """Resident megabytes, open handles and threads of the server; files in its folders."""
    assert server.process is not None
    process = Path(f"/proc/{server.process.pid}")
    counts = Counter(MB=int((process / "statm").read_text().split()[1]) * 4096 // 10**6)
    counts["handles"] = len([*(process / "fd").iterdir()])
    counts["threads"] = len([*(process / "task").iterdir()])
    for name, folder in (("temp", "temp"), ("store", "user"), ("output", "output")):
        counts[name] = sum(path.is_file() for path in (server.base / folder).rglob("*"))
    return counts


if __name__ == "__main__":
    sys.exit(main())
