"""Both stages' nodes, and the same through core's sampler nodes, against the authors' trajectories."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flashvideo import degrade_latents, latent_mask, load_stage2, refine_latents, sample_stage1
from tests.comfy.conftest import Bench, saved, saved_keys
from tests.comfy.golden_models import STAGE1, STAGE2, VAE
from tests.conftest import TINY, assert_within


def stage1_draws(golden_file: Any, run: str, steps: int) -> torch.Tensor:
    """The draws that the solver used: the first, then the second of each pair."""
    draws = golden_file.latents(f"{run}.noise_draws")
    return draws[[0, *range(2, 2 * (steps - 1), 2)]]


@pytest.mark.parametrize(("run", "steps"), [("steps51", 51), ("steps8", 8)])
def test_stage1_parts_follow_the_golden_run(bench: Bench, golden: Any, run: str, steps: int) -> None:
    file = golden("sampler_stage1")
    model = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
    guider = bench.add(
        "FlashVideoStage1Guider", model=model, positive=bench.tensor("ProbeConditioning", file["context"]), cfg=8.0
    )
    start = file.latents(f"{run}.x_init")
    out = bench.add(
        "SamplerCustomAdvanced",
        noise=bench.tensor("ProbeNoise", start),
        guider=guider,
        sampler=bench.tensor("ProbeStage1Solver", stage1_draws(file, run, steps)),
        sigmas=bench.add("FlashVideoStage1Sigmas", model=model, steps=steps),
        latent_image=bench.latent(torch.zeros_like(start)),
    )
    path = bench.save(out)
    bench.run()
    assert_within(saved(path) * 0.7, file.latents(f"{run}.final"), 1e-4)


@pytest.mark.parametrize("every", [1, 3])
def test_stage1_node_is_its_parts_and_the_library(bench: Bench, golden: Any, tiny_stage1: Any, every: int) -> None:
    context, seed, steps = golden("sampler_stage1")["context"], 12345, 6
    model = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
    positive = bench.tensor("ProbeConditioning", context)
    empty = bench.add("FlashVideoEmptyLatent", size="custom", width=64, height=32, length=9)
    sockets = {"model": model, "positive": positive, "latent": empty, "seed": seed, "steps": steps}
    node = bench.save(bench.add("FlashVideoStage1Sampler", **sockets, guidance_every=every))
    parts = bench.save(
        bench.add(
            "SamplerCustomAdvanced",
            noise=bench.add("RandomNoise", noise_seed=seed),
            guider=bench.add("FlashVideoStage1Guider", model=model, positive=positive, guidance_every=every),
            sampler=bench.add("FlashVideoStage1Solver"),
            sigmas=bench.add("FlashVideoStage1Sigmas", model=model, steps=steps),
            latent_image=empty,
        )
    )
    run = bench.run()
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(1, 16, 3, 4, 8, generator=generator)
    how: dict[str, Any] = {"num_steps": steps, "generator": generator, "guidance_every": every}
    expected = sample_stage1(tiny_stage1, start, context, **how)
    assert_within(saved(node), expected, 1e-4)
    assert torch.equal(saved(node), saved(parts))
    assert (steps, steps) in {p for progress in run.progress.values() for p in progress}


def test_a_batch_is_its_seeds_one_by_one(bench: Bench, golden: Any) -> None:
    model = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
    positive = bench.tensor("ProbeConditioning", golden("sampler_stage1")["context"])

    def sampled(seed: int, batch: int, pick: int | None = None) -> Any:
        size = {"width": 48, "height": 32, "length": 5, "batch_size": batch}
        latent = bench.add("FlashVideoEmptyLatent", size="custom", **size)
        if pick is not None:
            latent = bench.add("LatentFromBatch", samples=latent, batch_index=pick, length=1)
        return bench.save(
            bench.add("FlashVideoStage1Sampler", model=model, positive=positive, latent=latent, seed=seed, steps=3)
        )

    together, alone, picked = sampled(7, 3), sampled(9, 1), sampled(7, 3, pick=2)
    bench.run()
    assert saved(together).shape == (3, 16, 2, 4, 6)
    assert torch.equal(saved(together)[2:], saved(alone))
    assert torch.equal(saved(picked), saved(alone))


@pytest.mark.parametrize("run", ["run0", "run1", "run2"])
def test_stage2_follows_the_golden_run(bench: Bench, golden: Any, run: str) -> None:
    """The refiner from the stored degraded latent; core's sampler from the undegraded one and the stored noise."""
    file = golden("sampler_stage2")
    steps, shift, noise_step, cfg = file[f"{run}.params"].tolist()
    scale = 1.15258426
    model = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    positive = bench.tensor("ProbeConditioning", file["context"])
    negative = bench.tensor("ProbeConditioning", torch.zeros_like(file["context"]))
    schedule = {"steps": int(steps), "shift": shift}
    degraded = bench.latent(file.latents(f"{run}.degraded") / scale, flashvideo_noise_step=int(noise_step))
    refined = bench.save(
        bench.add("FlashVideoStage2Refiner", model=model, positive=positive, latent=degraded, cfg=cfg, **schedule)
    )
    stepped = bench.add("FlashVideoStage2NoiseStep", model=model, noise_step=int(noise_step))
    core = bench.save(
        bench.add(
            "SamplerCustomAdvanced",
            noise=bench.tensor("ProbeNoise", file.latents(f"{run}.noise")),
            guider=bench.add("CFGGuider", model=stepped, positive=positive, negative=negative, cfg=cfg),
            sampler=bench.add("KSamplerSelect", sampler_name="euler"),
            sigmas=bench.add("FlashVideoStage2Sigmas", **schedule),
            latent_image=bench.latent(file.latents("ref_latent") / scale),
        )
    )
    bench.run()
    assert_within(saved(refined) * scale, file.latents(f"{run}.final"), 2e-4)
    assert_within(saved(core) * scale, file.latents(f"{run}.final"), 2e-4)
    assert saved_keys(refined) == {}


def test_a_mask_keeps_what_the_library_keeps(bench: Bench, golden: Any, latents: Any, tiny_stage2: Any) -> None:
    context, given = golden("sampler_stage2")["context"], latents()
    height, width = (8 * side for side in given.shape[3:])
    model = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    source = bench.latent(given)
    black, white, half = (
        bench.add("SolidMask", value=value, width=size, height=height)
        for value, size in ((0.0, width), (1.0, width), (1.0, width // 2))
    )
    left = bench.add("MaskComposite", destination=black, source=half, x=0, y=0, operation="add")
    degraded = bench.add("FlashVideoDegrade", latent=source, noise_step=500, seed=42)
    sockets = {"model": model, "positive": bench.tensor("ProbeConditioning", context), "latent": degraded}
    sockets |= {"cfg": 3.0, "steps": 3}
    plain, nothing, everything, part = (
        bench.save(bench.add("FlashVideoStage2Refiner", **sockets, **more))
        for more in ({}, *({"keep": mask, "source": source} for mask in (black, white, left)))
    )
    start = bench.save(degraded)
    bench.run()
    assert torch.equal(saved(nothing), saved(plain))
    assert_within(saved(everything), given, 1e-5)
    mask = torch.zeros(1, height, width)
    mask[..., : width // 2] = 1
    expected = refine_latents(
        tiny_stage2,
        saved(start),
        context,
        noise_step=500,
        guidance_scale=3.0,
        num_steps=3,
        keep=latent_mask(mask, *given.shape[3:]),
        source=given,
    )
    assert_within(saved(part), expected, 1e-4)
    assert not torch.allclose(saved(part), saved(plain), atol=0.01)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": None}, "keep is connected without source"),
        ({"keep": None}, "source is connected without keep"),
        ({"source": "degraded"}, "degraded already"),
    ],
)
def test_masks_that_do_not_fit(bench: Bench, golden: Any, latents: Any, change: dict[str, Any], said: str) -> None:
    source = bench.latent(latents())
    degraded = bench.add("FlashVideoDegrade", latent=source, noise_step=500, seed=42)
    sockets = {"keep": bench.add("SolidMask", value=1.0, width=16, height=16), "source": source, **change}
    sockets = {name: degraded if value == "degraded" else value for name, value in sockets.items()}
    model = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    positive = bench.tensor("ProbeConditioning", golden("sampler_stage2")["context"])
    given = {name: value for name, value in sockets.items() if value is not None}
    bench.save(bench.add("FlashVideoStage2Refiner", model=model, positive=positive, latent=degraded, **given))
    assert said in bench.fails()


def test_degradation_and_refiner_equal_core_from_the_same_seed(bench: Bench, golden: Any, latents: Any) -> None:
    """Also with DisableNoise on the degraded latent, and in two halves."""
    context, given = golden("sampler_stage2")["context"], latents()
    model = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    positive, plain = bench.tensor("ProbeConditioning", context), bench.latent(given)
    degraded = bench.add("FlashVideoDegrade", latent=plain, noise_step=675, seed=42)
    kept = bench.save(degraded)
    refined = bench.save(bench.add("FlashVideoStage2Refiner", model=model, positive=positive, latent=degraded))
    guider = bench.add(
        "CFGGuider",
        model=model,
        positive=positive,
        negative=bench.tensor("ProbeConditioning", torch.zeros_like(context)),
        cfg=13.0,
    )
    sigmas, sampler = bench.add("FlashVideoStage2Sigmas"), bench.add("KSamplerSelect", sampler_name="euler")
    random, none = bench.add("RandomNoise", noise_seed=42), bench.add("DisableNoise")

    def core(noise: Any, latent: Any, chosen: Any) -> Any:
        sockets = {"noise": noise, "latent_image": latent, "sigmas": chosen}
        return bench.add("SamplerCustomAdvanced", guider=guider, sampler=sampler, **sockets)

    split = bench.graph.add("SplitSigmas", sigmas=sigmas, step=2)
    outs = [
        bench.save(core(random, plain, sigmas)),
        bench.save(core(none, degraded, sigmas)),
        bench.save(core(none, core(random, plain, [split, 0]), [split, 1])),
    ]
    bench.run()
    expected = degrade_latents(given, 675, generator=torch.Generator().manual_seed(42))
    assert torch.equal(saved(kept), expected)
    assert saved_keys(kept) == {"flashvideo_noise_step": "675"}
    for out in outs:
        assert_within(saved(out), saved(refined), 5e-5)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4"])
def test_refiner_is_the_library(bench: Bench, golden: Any, latents: Any, solver: str, tiny_stage2: Any) -> None:
    context, given = golden("sampler_stage2")["context"], latents(2, 16, 3, 4, 6)
    model = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    sockets = {
        "model": model,
        "positive": bench.tensor("ProbeConditioning", context),
        "latent": bench.latent(given, flashvideo_noise_step=650),
    }
    settings = {"steps": 3, "cfg": 5.0, "shift": 1.5, "solver": solver}
    exact = bench.save(bench.add("FlashVideoStage2Refiner", **sockets, **settings))
    rounded = bench.save(bench.add("FlashVideoStage2Refiner", **sockets, **settings, rounding="bf16"))
    sparse = bench.save(bench.add("FlashVideoStage2Refiner", **sockets, **settings, guidance_every=2))
    bench.run()
    keywords = {"noise_step": 650, "num_steps": 3, "guidance_scale": 5.0, "shift": 1.5, "solver": solver}
    changes: list[dict[str, Any]] = [{}, {"rounding": "bf16"}, {"guidance_every": 2}]
    for out, change in zip((exact, rounded, sparse), changes, strict=True):
        expected = refine_latents(tiny_stage2, given, context, **keywords, **change)
        assert_within(saved(out), expected, 2e-4)


def test_the_noise_step_comes_from_the_widget_too(bench: Bench, golden: Any, latents: Any) -> None:
    """For latents that were degraded elsewhere; then it is the same as if the latent had carried it."""
    context, given = golden("sampler_stage2")["context"], latents()
    sockets = {"model": bench.add("FlashVideoLoadStage2", model_name=STAGE2), "steps": 2}
    sockets["positive"] = bench.tensor("ProbeConditioning", context)
    carrying = bench.latent(given, flashvideo_noise_step=700)
    paths = [
        bench.save(bench.add("FlashVideoStage2Refiner", **sockets, latent=carrying)),
        bench.save(bench.add("FlashVideoStage2Refiner", **sockets, latent=bench.latent(given), noise_step=700)),
        bench.save(bench.add("FlashVideoStage2Refiner", **sockets, latent=bench.latent(given), noise_step=600)),
    ]
    bench.run()
    of_latent, of_widget, other = (saved(path) for path in paths)
    assert torch.equal(of_latent, of_widget)
    assert not torch.equal(of_latent, other)


def test_stage2_of_a_batch_is_its_samples_one_by_one(bench: Bench, golden: Any, latents: Any) -> None:
    """Degraded with seed + k and refined alike, also when a sample was taken out by core's LatentFromBatch."""
    given = latents(2, 16, 2, 4, 4)
    sockets = {"model": bench.add("FlashVideoLoadStage2", model_name=STAGE2), "steps": 2}
    sockets["positive"] = bench.tensor("ProbeConditioning", golden("sampler_stage2")["context"])

    def refined(latent: Any, seed: int) -> Any:
        degraded = bench.add("FlashVideoDegrade", latent=latent, seed=seed)
        return bench.save(bench.add("FlashVideoStage2Refiner", **sockets, latent=degraded))

    batch = bench.latent(given)
    taken = bench.add("LatentFromBatch", samples=batch, batch_index=1, length=1)
    together, alone, picked = refined(batch, 5), refined(bench.latent(given[1:]), 6), refined(taken, 5)
    bench.run()
    assert torch.equal(saved(together)[1:], saved(alone))
    assert torch.equal(saved(picked), saved(alone))


def test_the_largest_seed(bench: Bench, golden: Any) -> None:
    """2^64 - 1, as the editor may draw it; the second of a batch starts again at 0."""
    largest, context = 2**64 - 1, golden("sampler_stage1")["context"]
    sockets = {"model": bench.add("FlashVideoLoadStage1", model_name=STAGE1)}
    sockets["positive"] = bench.tensor("ProbeConditioning", context)
    size = {"size": "custom", "width": 32, "height": 32, "length": 1}
    outs = []
    for seed, batch in ((largest, 2), (0, 1)):
        empty = bench.add("FlashVideoEmptyLatent", **size, batch_size=batch)
        node = bench.add("FlashVideoStage1Sampler", **sockets, latent=empty, steps=2, seed=seed)
        outs.append(bench.save(node))
    degraded = bench.save(bench.add("FlashVideoDegrade", latent=node, seed=largest))
    image = bench.add("EmptyImage", width=16, height=16)
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    upscaled = bench.save(
        bench.add("FlashVideoUpscaleEncode", image=image, vae=vae, seed=largest, **{**size, "length": None})
    )
    bench.run()
    assert torch.equal(saved(outs[0])[1:], saved(outs[1]))
    for path in (degraded, upscaled):
        assert torch.isfinite(saved(path)).all()


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        ({}, [1, 16, 13, 32, 60]),
        ({"size": "540p (960x528)", "length": 5, "batch_size": 3}, [3, 16, 2, 66, 120]),
        ({"size": "custom", "width": 80, "height": 48, "length": 1}, [1, 16, 1, 6, 10]),
    ],
)
def test_empty_latents(bench: Bench, inputs: dict[str, Any], shape: list[int]) -> None:
    path = bench.save(bench.add("FlashVideoEmptyLatent", **inputs))
    bench.run()
    assert list(saved(path).shape) == shape
    assert not saved(path).any()


def test_a_mask_keeps_what_lies_outside(bench: Bench, golden: Any, latents: Any) -> None:
    """Through core's sampler, from the undegraded latent: mask 0 gives the latent back, 1 is no mask."""
    context, given = golden("sampler_stage2")["context"], bench.latent(latents())
    model = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    guider = bench.add("BasicGuider", model=model, conditioning=bench.tensor("ProbeConditioning", context))
    shared = {"noise": bench.add("RandomNoise", noise_seed=1), "guider": guider}
    shared |= {"sampler": bench.add("KSamplerSelect", sampler_name="euler")}
    shared |= {"sigmas": bench.add("FlashVideoStage2Sigmas", steps=2)}
    paths = []
    for value in (0.0, 1.0, None):
        latent = given
        if value is not None:
            mask = bench.add("SolidMask", value=value, width=48, height=32)
            latent = bench.add("SetLatentNoiseMask", samples=given, mask=mask)
        paths.append(bench.save(bench.add("SamplerCustomAdvanced", latent_image=latent, **shared)))
    bench.run()
    none, everything, unmasked = (saved(path) for path in paths)
    assert_within(none, latents(), 1e-5)
    assert_within(everything, unmasked, 1e-5)


def test_guidance_one_needs_no_negative(bench: Bench, golden: Any, latents: Any) -> None:
    context, given = golden("sampler_stage2")["context"], latents()
    model = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    out = bench.save(
        bench.add(
            "FlashVideoStage2Refiner",
            model=model,
            positive=bench.tensor("ProbeConditioning", context),
            latent=bench.latent(given, flashvideo_noise_step=675),
            cfg=1.0,
        )
    )
    bench.run()
    transformer = load_stage2(TINY / "stage2.pt")
    assert_within(saved(out), refine_latents(transformer, given, context, guidance_scale=1.0), 2e-4)
