"""Every long node stops when it is told to, the server lives on, and the next run is as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.comfy.conftest import Bench, saved
from tests.comfy.golden_models import STAGE1, STAGE2, VAE
from tests.comfy.server import Run
from tests.comfy.test_vae_nodes import a_video, image_of
from tests.comfy.test_video_nodes import file_frames
from tests.unit.video.odd_videos import corners, make

Link = list[Any]
CONTEXT = torch.linspace(-1, 1, 226 * 32).view(1, 226, 32)


class Parts:
    """Inputs for long nodes: small, and enough of them to take seconds on one thread."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.add = bench, bench.add

    @property
    def vae(self) -> Link:
        return self.add("FlashVideoLoadVAE", vae_name=VAE)

    def stage1(self) -> dict[str, Link]:
        model = self.add("FlashVideoLoadStage1", model_name=STAGE1)
        return {"model": model, "positive": self.bench.tensor("ProbeConditioning", CONTEXT)}

    def stage2(self) -> dict[str, Link]:
        model = self.add("FlashVideoLoadStage2", model_name=STAGE2)
        return {"model": model, "positive": self.bench.tensor("ProbeConditioning", CONTEXT)}

    def empty(self) -> Link:
        return self.add("FlashVideoEmptyLatent", size="custom", width=64, height=64, length=17)

    def latent(self, frames: int = 3, side: int = 8, **extra: Any) -> Link:
        samples = torch.randn(1, 16, frames, side, side, generator=torch.Generator().manual_seed(1))
        return self.bench.latent(samples, **extra)

    def image(self, frames: int, side: int) -> Link:
        return self.bench.tensor("ProbeImage", image_of(a_video(frames, side, side)))


def stage1_sampler(parts: Parts) -> Link:
    return parts.add("FlashVideoStage1Sampler", **parts.stage1(), latent=parts.empty(), steps=150)


def stage1_in_parts(parts: Parts) -> Link:
    sockets = parts.stage1()
    return parts.add(
        "SamplerCustomAdvanced",
        noise=parts.add("RandomNoise", noise_seed=1),
        guider=parts.add("FlashVideoStage1Guider", **sockets),
        sampler=parts.add("FlashVideoStage1Solver"),
        sigmas=parts.add("FlashVideoStage1Sigmas", model=sockets["model"], steps=150),
        latent_image=parts.empty(),
    )


def stage2_refiner(parts: Parts) -> Link:
    latent = parts.latent(flashvideo_noise_step=675)
    return parts.add("FlashVideoStage2Refiner", **parts.stage2(), latent=latent, steps=150)


def stage2_in_parts(parts: Parts) -> Link:
    sockets = parts.stage2()
    return parts.add(
        "SamplerCustomAdvanced",
        noise=parts.add("RandomNoise", noise_seed=1),
        guider=parts.add("BasicGuider", model=sockets["model"], conditioning=sockets["positive"]),
        sampler=parts.add("KSamplerSelect", sampler_name="euler"),
        sigmas=parts.add("FlashVideoStage2Sigmas", steps=250),
        latent_image=parts.latent(),
    )


def upscale_and_encode(parts: Parts) -> Link:
    size = {"size": "custom", "width": 160, "height": 160}
    return parts.add("FlashVideoUpscaleEncode", vae=parts.vae, image=parts.image(33, 48), **size, tile_size=48)


def core_encode(parts: Parts) -> Link:
    return parts.add("VAEEncode", vae=parts.vae, pixels=parts.image(65, 96))


def core_tiled_encode(parts: Parts) -> Link:
    return parts.add("VAEEncodeTiled", vae=parts.vae, pixels=parts.image(33, 128), tile_size=64, overlap=0)


def core_decode(parts: Parts) -> Link:
    return parts.add("VAEDecode", vae=parts.vae, samples=parts.latent(9, 10))


def core_tiled_decode(parts: Parts) -> Link:
    return parts.add("VAEDecodeTiled", vae=parts.vae, samples=parts.latent(5, 12), tile_size=64, overlap=0)


def tiled_decode(parts: Parts) -> Link:
    return parts.add("FlashVideoTiledDecode", vae=parts.vae, latent=parts.latent(5, 12), tile_size=32)


def parameter_grid(parts: Parts) -> Link:
    lists = {"steps": "10, 20", "cfg": "1, 4", "noise_step": "650, 700"}
    return parts.add("FlashVideoParameterGrid", **parts.stage2(), vae=parts.vae, latent=parts.latent(), **lists)


def one_frame(parts: Parts) -> Link:
    widgets = {"size": "custom", "width": 160, "height": 160, "steps": 40, "frame": 2}
    return parts.add("FlashVideoRefineOneFrame", **parts.stage2(), vae=parts.vae, image=parts.image(5, 48), **widgets)


def compare(parts: Parts) -> Link:
    return parts.add("FlashVideoCompare", before=parts.image(65, 64), after=parts.image(65, 400))


def lazy_video_to_frames(parts: Parts) -> Link:
    video = parts.add("FlashVideoDecodeVideo", vae=parts.vae, latent=parts.latent(5, 12), tile_size=32)
    return parts.add("GetVideoComponents", video=video)


def refined_video_to_frames(parts: Parts) -> Link:
    video = parts.add("CreateVideo", images=parts.image(33, 48), fps=8.0)
    widgets = {"size": "custom", "width": 96, "height": 96, "steps": 12, "window": 3, "overlap": 1}
    video = parts.add("FlashVideoRefineVideo", **parts.stage2(), vae=parts.vae, video=video, **widgets)
    return parts.add("GetVideoComponents", video=video)


def video_frames(parts: Parts) -> Link:
    path = parts.bench.server.base / "input" / f"{parts.bench.folder.name}.mp4"
    make(path, [corners().repeat(8, 0).repeat(8, 1)] * 120)
    return parts.add("FlashVideoVideoFrames", video=parts.add("LoadVideo", file=path.name))


def score_video(parts: Parts) -> Link:
    images = parts.image(65, 256)
    return parts.add("FlashVideoScoreVideo", video=parts.add("CreateVideo", images=images, fps=8.0))


LATENT, IMAGE = ("ProbeSaveLatent", "latent", "samples"), ("ProbeSaveImage", "image", "image")
CASES: dict[Callable[[Parts], Link], Any] = {
    **dict.fromkeys((stage1_sampler, stage1_in_parts, stage2_refiner, stage2_in_parts), LATENT),
    **dict.fromkeys((upscale_and_encode, core_encode, core_tiled_encode), LATENT),
    **dict.fromkeys((core_decode, core_tiled_decode, tiled_decode, lazy_video_to_frames), IMAGE),
    **dict.fromkeys((parameter_grid, one_frame, video_frames, refined_video_to_frames), IMAGE),
    score_video: ("ProbeSaveImage", "image", "image", 1),
    compare: None,
}
IN_PARTS = (upscale_and_encode, parameter_grid, one_frame, compare)  # one kind of work after another


class Case:
    """A long node with what keeps its result."""

    def __init__(self, bench: Bench, make: Callable[[Parts], Link]) -> None:
        bench.folder.mkdir(exist_ok=True)
        self.bench, self.node, kind = bench, make(Parts(bench)), CASES[make]
        self.path, self.name = None, ""
        if kind:
            output = [self.node[0], kind[3] if len(kind) > 3 else 0]
            self.path, self.name = bench.save(output, *kind[:2]), kind[2]

    def result(self, run: Run) -> Tensor:
        if self.path is not None:
            return saved(self.path, self.name)
        (shown,) = run.outputs[self.node[0]]["flashvideo_compare"]
        return file_frames(self.bench.server.base / "temp" / shown["after"]["subfolder"] / shown["after"]["filename"])


@pytest.mark.parametrize(
    ("make", "share"),
    [(make, 0.3) for make in CASES if make not in IN_PARTS]
    + [(make, share) for make in IN_PARTS for share in (0, 0.55)],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_a_long_node_stops_and_runs_again(bench: Bench, make: Callable[[Parts], Link], share: float) -> None:
    """Interrupted after a share of its progress messages; other files for the inputs keep ComfyUI's cache out."""
    undisturbed = Case(bench, make)
    began = bench.server.work()
    whole = bench.run()
    work, reports = bench.server.work() - began, len(whole.progress[undisturbed.node[0]])
    case = Case(Bench(bench.server, bench.folder / "again"), make)
    seen: list[float] = []

    def interrupt(name: str, data: dict[str, Any]) -> None:
        if name == "progress" and data["node"] == case.node[0]:
            seen.append(bench.server.work())
            if len(seen) == 1 + int(share * reports):
                bench.server.post("/interrupt", {})

    stopped = bench.server.run(case.bench.graph, on_event=interrupt)
    more_work = bench.server.work() - seen[int(share * reports)]
    assert stopped.interrupted
    assert stopped.error["node_id"] == case.node[0]
    assert more_work < 0.4 * work
    again = case.bench.run()
    assert case.node[0] in again.executed
    assert torch.equal(case.result(again), undisturbed.result(whole))


def test_the_gate_makes_its_previews_the_next_time(bench: Bench) -> None:
    samples = torch.randn(3, 16, 5, 8, 8, generator=torch.Generator().manual_seed(2))
    gate = bench.add("FlashVideoPreviewGate", latent=bench.latent(samples), vae=Parts(bench).vae)

    def interrupt(name: str, data: dict[str, Any]) -> None:
        if name == "progress" and data["node"] == gate[0]:
            bench.server.post("/interrupt", {})

    stopped = bench.server.run(bench.graph, on_event=interrupt)
    assert stopped.interrupted
    (shown,) = bench.run().outputs[gate[0]]["flashvideo_gate"]
    assert [preview["frames"] for preview in shown["previews"]] == [17] * 3
