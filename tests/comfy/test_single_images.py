"""A single image goes through every node that takes videos."""

from __future__ import annotations

from typing import Any

import torch

from tests.comfy.conftest import Bench, saved
from tests.comfy.golden_models import STAGE1, STAGE2, VAE
from tests.comfy.test_video_nodes import AUTO, file_frames, saved_file

CONTEXT = torch.linspace(-1, 1, 226 * 32).view(1, 226, 32)
SMALL = {"size": "custom", "width": 32, "height": 32}
LARGE = {"size": "custom", "width": 64, "height": 64}


def kept(bench: Bench, link: list[Any]) -> Any:
    return bench.save(link, "ProbeSaveImage", "image")


def test_one_frame_through_both_stages(bench: Bench) -> None:
    positive, vae = bench.tensor("ProbeConditioning", CONTEXT), bench.add("FlashVideoLoadVAE", vae_name=VAE)
    stage1 = {"model": bench.add("FlashVideoLoadStage1", model_name=STAGE1), "positive": positive}
    stage2 = {"model": bench.add("FlashVideoLoadStage2", model_name=STAGE2), "positive": positive}
    empty = bench.add("FlashVideoEmptyLatent", **SMALL, length=1)
    painted = bench.add("FlashVideoStage1Sampler", **stage1, latent=empty, steps=2, vae=vae)
    picked = bench.add("FlashVideoPickPreview", latent=painted)
    small = bench.add("FlashVideoTiledDecode", vae=vae, latent=picked)
    clean = bench.add("FlashVideoUpscaleEncode", vae=vae, image=small, **LARGE)
    degraded = bench.add("FlashVideoDegrade", latent=clean)
    refined = bench.add("FlashVideoStage2Refiner", **stage2, latent=degraded, steps=2)
    large = bench.add("VAEDecode", vae=vae, samples=refined)
    grid = bench.add("FlashVideoParameterGrid", **stage2, vae=vae, latent=clean, steps="1", cfg="1", cell_width=0)
    proof = bench.add("FlashVideoRefineOneFrame", **stage2, vae=vae, image=small, **LARGE, steps=2)
    shown = bench.add("FlashVideoCompare", before=small, after=large)
    video = bench.add("FlashVideoDecodeVideo", vae=vae, latent=refined)
    file = bench.add("SaveVideo", video=video, filename_prefix="single", **AUTO)
    paths = [kept(bench, link) for link in (small, large, proof)]
    sheet = kept(bench, grid)
    run = bench.run()
    assert saved(paths[0], "image").shape == (1, 32, 32, 3)
    assert saved(paths[1], "image").shape == saved(paths[2], "image").shape == (1, 64, 64, 3)
    assert torch.equal(saved(paths[1], "image"), saved(paths[2], "image"))  # the same seeds and settings
    assert saved(sheet, "image").shape[1:] == (64 + 16, 64, 3)
    assert run.outputs[shown[0]]["flashvideo_compare"][0]["kind"] == "image"
    assert file_frames(saved_file(bench, run, file)).shape == (1, 64, 64, 3)


def test_one_frame_through_cores_samplers(bench: Bench) -> None:
    positive = bench.tensor("ProbeConditioning", CONTEXT)
    stage1 = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
    stage2 = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    empty = bench.add("FlashVideoEmptyLatent", **SMALL, length=1)
    noise = bench.add("RandomNoise", noise_seed=1)
    painted = bench.add(
        "SamplerCustomAdvanced",
        **{"noise": noise, "latent_image": empty, "sampler": bench.add("FlashVideoStage1Solver")},
        guider=bench.add("FlashVideoStage1Guider", model=stage1, positive=positive),
        sigmas=bench.add("FlashVideoStage1Sigmas", model=stage1, steps=2),
    )
    refined = bench.add(
        "SamplerCustomAdvanced",
        **{"noise": noise, "latent_image": painted, "sampler": bench.add("KSamplerSelect", sampler_name="euler")},
        guider=bench.add("BasicGuider", model=stage2, conditioning=positive),
        sigmas=bench.add("FlashVideoStage2Sigmas", steps=2),
    )
    path = bench.save(refined)
    bench.run()
    assert saved(path).shape == (1, 16, 1, 4, 4)
    assert torch.isfinite(saved(path)).all()
