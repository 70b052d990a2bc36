"""Target sizes: the video's shape is kept, or what becomes of it is told; what cannot fit is not begun."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.comfy.conftest import Bench, saved
from tests.comfy.golden_models import STAGE2, VAE
from tests.comfy.test_interrupting import CONTEXT
from tests.comfy.test_video_sources import told

UPRIGHT = (96, 64)  # height, width


def upscale(bench: Bench, shape: tuple[int, ...] = UPRIGHT, frames: int = 1, **widgets: Any) -> list[Any]:
    image = bench.tensor("ProbeImage", torch.rand(frames, *shape, 3, generator=torch.Generator().manual_seed(0)))
    return bench.add(
        "FlashVideoUpscaleEncode", image=image, vae=bench.add("FlashVideoLoadVAE", vae_name=VAE), **widgets
    )


@pytest.mark.parametrize(
    ("widgets", "shape", "size", "words"),
    [
        ({"size": "270p (480x256)"}, UPRIGHT, (480, 256), "64x96 becomes 256x480, stretched by 25 % in height."),
        ({"size": "270p (480x256)"}, (64, 96), (256, 480), "96x64 becomes 480x256, stretched by 25 % in width."),
        ({"size": "x2"}, UPRIGHT, (192, 128), "64x96 becomes 128x192."),
        ({"size": "x4"}, (32, 48), (128, 192), "48x32 becomes 192x128."),
        ({"size": "as input"}, (90, 70), (96, 64), "70x90 becomes 64x96, stretched by 17 % in height."),
        ({"size": "short side", "short_side": 128}, UPRIGHT, (192, 128), "64x96 becomes 128x192."),
        (
            {"size": "custom", "width": 64, "height": 64, "resize": "crop"},
            UPRIGHT,
            (64, 64),
            "64x96 becomes 64x64: 33 % of its height are cut off, half on each side.",
        ),
        (
            {"size": "custom", "width": 96, "height": 96, "resize": "pad"},
            UPRIGHT,
            (96, 96),
            "64x96 becomes 96x96: 33 % of the width are borders, half on each side.",
        ),
    ],
)
def test_sizes_follow_the_video_and_changes_are_told(
    bench: Bench, widgets: dict[str, Any], shape: tuple[int, int], size: tuple[int, int], words: str
) -> None:
    node = upscale(bench, shape, **widgets)
    out = bench.save(node)
    run = bench.run()
    assert tuple(8 * side for side in saved(out).shape[3:]) == size
    assert told(run, node) == words


def test_one_frame_follows_too(bench: Bench) -> None:
    node = bench.add(
        "FlashVideoRefineOneFrame",
        model=bench.add("FlashVideoLoadStage2", model_name=STAGE2),
        positive=bench.tensor("ProbeConditioning", CONTEXT),
        image=bench.tensor("ProbeImage", torch.rand(2, *UPRIGHT, 3)),
        vae=bench.add("FlashVideoLoadVAE", vae_name=VAE),
        **{"size": "as input", "steps": 1},
    )
    out = bench.save(node, "ProbeSaveImage", "image")
    run = bench.run()
    assert saved(out, "image").shape == (1, *UPRIGHT, 3)
    assert told(run, node) == "64x96 becomes 64x96."


def test_a_size_that_does_not_fit_is_refused_with_the_estimate(bench: Bench) -> None:
    bench.save(upscale(bench, (16, 16), frames=401, size="custom", width=16384, height=16384))
    began = bench.server.work()
    assert "401 frames of 16384x16384 need 1292 GB of host memory" in bench.fails()
    assert bench.server.work() - began < 20


def test_workflows_of_before_keep_their_meaning(bench: Bench) -> None:
    """The widgets that there were stand where they stood; the new one is behind them, and may be missing."""
    info = bench.server.get("/object_info/FlashVideoUpscaleEncode")["FlashVideoUpscaleEncode"]["input"]
    names = [*info["required"], *info["optional"]]
    before = ["size", "width", "height", "resize", "seed", "posterior", "tile_size", "memory_gb"]
    assert [name for name in names if name not in ("image", "vae")] == [*before, "short_side"]
    node = upscale(bench, (64, 96), size="custom", width=96, height=64)
    assert "short_side" not in bench.graph.nodes[node[0]]["inputs"]
    out = bench.save(node)
    bench.run()
    assert saved(out).shape[3:] == (8, 12)
