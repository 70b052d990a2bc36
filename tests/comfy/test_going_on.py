"""Refine Video goes on where it was stopped: nothing that was finished is made again, and the frames are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.comfy.conftest import Bench, saved
from tests.comfy.golden_models import STAGE2, VAE
from tests.comfy.test_interrupting import CONTEXT
from tests.comfy.test_refine_video import NODE, WIDGETS
from tests.comfy.test_vae_nodes import a_video, image_of

STORE = "/flashvideo/previews"
STEPS = 2 * 13  # of 49 frames


class KilledError(Exception):
    pass


class Counted:
    """A refinement that counts the evaluations it makes."""

    def __init__(self, bench: Bench, folder: Path, frames: int = 49) -> None:
        folder.mkdir()
        self.bench, self._counts = Bench(bench.server, folder), folder / "evaluations"
        model = self.bench.add("FlashVideoLoadStage2", model_name=STAGE2)
        images = self.bench.tensor("ProbeImage", image_of(a_video(frames, 16, 24)))
        self.node = self.bench.add(
            NODE,
            video=self.bench.add("CreateVideo", images=images, fps=8.0),
            model=self.bench.add("ProbeEvaluations", model=model, path=str(self._counts)),
            positive=self.bench.tensor("ProbeConditioning", CONTEXT),
            vae=self.bench.add("FlashVideoLoadVAE", vae_name=VAE),
            **WIDGETS,
        )
        self._frames = folder / "frames.safetensors"
        self.bench.add("ProbeVideo", video=self.node, path=str(self._frames))

    def change(self, **inputs: Any) -> None:
        self.bench.graph.nodes[self.node[0]]["inputs"] |= inputs

    def run(self, on_event: Callable[[str, dict[str, Any]], None] | None = None) -> int:
        """Evaluations that a run made, to its end or not."""
        self._counts.unlink(missing_ok=True)
        try:
            self.bench.server.run(self.bench.graph, on_event=on_event)
        except KilledError:
            self.bench.server.start()
        return self._counts.stat().st_size if self._counts.exists() else 0

    def frames(self) -> Tensor:
        return saved(self._frames, "images")


@pytest.mark.parametrize("end", ["interrupted", "killed"])
def test_it_goes_on(bench: Bench, tmp_path: Path, end: str) -> None:
    server = bench.server
    server.post(f"{STORE}/empty", {})
    whole = Counted(bench, tmp_path / "whole")
    in_all = whole.run()
    stopped = Counted(bench, tmp_path / "stopped")

    told: list[float] = []

    def stop(name: str, data: dict[str, Any]) -> None:
        if name == "progress" and data["value"] >= STEPS // 3 and not told:
            told.append(data["value"])
            if end == "interrupted":
                server.post("/interrupt", {})
                return
            assert server.process is not None
            server.process.kill()
            server.process.wait()
            raise KilledError

    before = stopped.run(stop)
    with pytest.raises(OSError, match="No such file"):
        stopped.frames()
    after = stopped.run()
    assert min(before, after) > in_all // 8
    assert in_all <= before + after <= in_all + 1, "only the one that was being made is made again"
    assert torch.equal(stopped.frames(), whole.frames())
    assert server.get(STORE)["bytes"] > 0


def test_what_else_is_asked_for_is_made_anew(bench: Bench, tmp_path: Path) -> None:
    refinement = Counted(bench, tmp_path / "it", frames=17)
    in_all = refinement.run()
    assert in_all > 0
    bench.server.free()
    refinement.change(bit_depth=10, tile_size=64)
    assert refinement.run() == 0, "the latents are those that are there"
    other = refinement.bench.tensor("ProbeImage", image_of(a_video(9, 16, 24)))
    video = refinement.bench.add("CreateVideo", images=other, fps=8.0)
    others: list[dict[str, Any]] = [{"seed": 6}, {"noise_step": 700}, {"window": 5}, {"video": video}]
    for changes in others:
        refinement.change(**changes)
        assert refinement.run() > 0, changes
    bench.server.post(f"{STORE}/empty", {})
    bench.server.free()
    assert refinement.run() > 0
