"""Compare, Parameter Grid, Pick Preview and Refine One Frame."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flashvideo import decode_latents, degrade_latents, encode_video, load_vae, refine_latents
from flashvideo.runs.seeds import generator_for
from flashvideo.video.resize import resize_video, side_by_side
from tests.comfy.conftest import Bench, saved, saved_keys
from tests.comfy.golden_models import STAGE2, VAE
from tests.comfy.server import RejectedError
from tests.comfy.test_vae_nodes import a_video, close, image_of
from tests.comfy.test_video_nodes import file_frames
from tests.conftest import TINY, assert_within


def stage2(bench: Bench, golden: Any) -> dict[str, Any]:
    context = golden("sampler_stage2")["context"]
    return {
        "model": bench.add("FlashVideoLoadStage2", model_name=STAGE2),
        "positive": bench.tensor("ProbeConditioning", context),
        "vae": bench.add("FlashVideoLoadVAE", vae_name=VAE),
    }


def refined(transformer: Any, clean: Any, context: Any, seed: int, steps: int, cfg: float, noise_step: int) -> Any:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    degraded = degrade_latents(clean, noise_step, noise=noise)
    return refine_latents(transformer, degraded, context, noise_step=noise_step, num_steps=steps, guidance_scale=cfg)


def test_the_grid_is_its_cells(bench: Bench, golden: Any, tiny_stage2: Any, latents: Any) -> None:
    given, context = latents(), golden("sampler_stage2")["context"]
    lists = {"steps": "1, 2", "cfg": "1, 4.5", "noise_step": "650"}
    inputs = {**stage2(bench, golden), "latent": bench.latent(given, flashvideo_frames=8), "seed": 5, "cell_width": 0}
    grid = bench.add("FlashVideoParameterGrid", **inputs, **lists)
    sheet = bench.save(grid, "ProbeSaveImage", "image")
    batch = bench.save([grid[0], 1])
    run = bench.run()
    cells = [refined(tiny_stage2, given, context, 5, n, c, 650) for c in (1.0, 4.5) for n in (1, 2)]
    assert_within(saved(batch), torch.cat(cells), 2e-4)
    assert saved_keys(batch) == {"flashvideo_frames": "8"}
    picture = saved(sheet, "image")
    label = 16
    assert picture.shape == (1, 2 * (32 + label), 2 * 48, 3)
    frame = image_of(decode_latents(load_vae(TINY / "3d-vae.pt"), cells[1]))[4]
    assert float((picture[0, label : label + 32, 48:] - frame).abs().max()) < 5e-3
    assert float(picture[0, :label].std()) > 0.02
    assert any("Cell 4 of 4: NFE 2  CFG 4.5  noise 650" in text for texts in run.texts.values() for text in texts)


@pytest.mark.parametrize(
    ("lists", "said"),
    [({"steps": "1, two"}, "whole numbers"), ({"noise_step": "1000"}, "0 (clean) to 999"), ({"cfg": ""}, "empty")],
)
def test_a_grid_of_nonsense_is_refused_before_work(bench: Bench, golden: Any, lists: Any, said: str) -> None:
    grid = bench.add("FlashVideoParameterGrid", **stage2(bench, golden), latent=bench.latent(torch.rand(1)), **lists)
    bench.save(grid, "ProbeSaveImage", "image")
    with pytest.raises(RejectedError) as refused:
        bench.run()
    assert said in refused.value.details


def test_a_degraded_latent_is_refused_by_the_grid(bench: Bench, golden: Any, latents: Any) -> None:
    degraded = bench.latent(latents(), flashvideo_noise_step=675)
    grid = bench.add("FlashVideoParameterGrid", **stage2(bench, golden), latent=degraded)
    bench.save(grid, "ProbeSaveImage", "image")
    assert "degraded already" in bench.fails()


def test_one_preview_is_picked_without_its_batch(bench: Bench, latents: Any) -> None:
    given = latents(3, 16, 2, 4, 4)
    batch = bench.latent(given, batch_index=[4, 5, 6], flashvideo_frames=5)
    outs = [bench.save(bench.add("FlashVideoPickPreview", latent=batch, index=index)) for index in (1, -1)]
    bench.run()
    assert torch.equal(saved(outs[0]), given[1:2])
    assert torch.equal(saved(outs[1]), given[2:3])
    assert saved_keys(outs[0]) == {"flashvideo_frames": "5"}


def test_a_preview_that_is_not_there_is_refused(bench: Bench, latents: Any) -> None:
    bench.save(bench.add("FlashVideoPickPreview", latent=bench.latent(latents(2, 16, 1, 4, 4)), index=2))
    assert "0 to 1" in bench.fails()


def test_one_frame_is_refined_alone(bench: Bench, golden: Any, tiny_stage2: Any) -> None:
    video, context = a_video(5, 24, 32), golden("sampler_stage2")["context"]
    size = {"size": "custom", "width": 64, "height": 48}
    inputs = {**stage2(bench, golden), **size, "seed": 3, "steps": 2, "cfg": 3.0, "frame": 2}
    node = bench.add("FlashVideoRefineOneFrame", image=bench.tensor("ProbeImage", image_of(video)), **inputs)
    image, latent = bench.save(node, "ProbeSaveImage", "image"), bench.save([node[0], 1])
    bench.run()
    vae = load_vae(TINY / "3d-vae.pt")
    large = resize_video(video[:, :, 2:3], 48, 64)
    clean = encode_video(vae, large, generator=generator_for(3, "posterior"))
    expected = refined(tiny_stage2, clean, context, 3, 2, 3.0, 675)
    assert saved(image, "image").shape == (1, 48, 64, 3)
    assert_within(saved(latent), expected, 2e-4)


def compared(bench: Bench, before: Any, after: Any, **more: Any) -> list[Any]:
    pictures = {"before": bench.tensor("ProbeImage", before), "after": bench.tensor("ProbeImage", after)}
    return bench.add("FlashVideoCompare", **pictures, **more)


def test_compare_shows_both_and_joins_them(bench: Bench) -> None:
    small, large = a_video(5, 24, 32), a_video(5, 48, 64, seed=1)
    node = compared(bench, image_of(small), image_of(large), fps=10.0)
    out = bench.folder / "joint.safetensors"
    bench.add("ProbeVideo", video=node, path=str(out))
    run = bench.run()
    (shown,) = run.outputs[node[0]]["flashvideo_compare"]
    assert {**shown, "before": 0, "after": 0} == {
        **{"before": 0, "after": 0, "kind": "video", "width": 64, "height": 48, "fps": 10.0, "frames": 5}
    }
    for side, video in (("before", resize_video(small, 48, 64)), ("after", large)):
        path = bench.server.base / "temp" / shown[side]["subfolder"] / shown[side]["filename"]
        frames = file_frames(path).float() / 255
        assert frames.shape == (5, 48, 64, 3)
        assert float((frames - image_of(video)).abs().mean()) < 0.03
    assert close(saved(out, "images"), image_of(side_by_side(small, large)))


def test_compare_takes_single_pictures_of_odd_size(bench: Bench) -> None:
    node = compared(bench, torch.rand(1, 15, 17, 3), torch.rand(1, 31, 33, 4))
    (shown,) = bench.run().outputs[node[0]]["flashvideo_compare"]
    assert (shown["kind"], shown["width"], shown["height"]) == ("image", 32, 30)
    assert shown["after"]["filename"].endswith(".png")


def test_compare_refuses_other_lengths(bench: Bench) -> None:
    compared(bench, torch.rand(2, 16, 16, 3), torch.rand(3, 16, 16, 3))
    assert "before has 2 frames and after 3" in bench.fails()
