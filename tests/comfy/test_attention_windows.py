"""Attention Windows: what it makes of a MODEL is the library's, whoever samples with it, and among core's nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from flashvideo import AttentionWindows, TimeWindows, degrade_latents, load_stage2, refine_latents, sample_stage1
from flashvideo.models.attention import sdpa_attention
from flashvideo.models.estimate import evaluation_bytes
from tests.comfy.conftest import Bench, saved
from tests.comfy.golden_models import STAGE1, STAGE2
from tests.comfy.server import RejectedError
from tests.conftest import TINY, assert_within

NODE = "FlashVideoAttentionWindows"
HALF = {"width": 48, "height": 32, "pooled": 2}  # of the frame's 96x64
HALF_LATENTS = AttentionWindows(4, 6, pooled=2)
SETTINGS, SOLVE = {"steps": 2, "cfg": 5.0}, {"num_steps": 2, "guidance_scale": 5.0}


@pytest.fixture
def context(golden: Any) -> Tensor:
    embeds: Tensor = golden("sampler_stage2")["context"]
    return embeds


@pytest.fixture
def given(latents: Any) -> Tensor:
    samples: Tensor = latents(1, 16, 3, 8, 12)
    return samples


class Refining:
    """Stage II on one latent, with MODELs of any kind."""

    def __init__(self, bench: Bench, given: Tensor, context: Tensor) -> None:
        self.bench, self.add = bench, bench.add
        self.model = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
        self.positive = bench.tensor("ProbeConditioning", context)
        self.negative = bench.tensor("ProbeConditioning", torch.zeros_like(context))
        self.plain, self.degraded = bench.latent(given), bench.latent(given, flashvideo_noise_step=675)

    def windows(self, model: Any = None, **inputs: Any) -> Any:
        return self.add(NODE, model=model or self.model, **{**HALF, **inputs})

    def refined(self, model: Any, **settings: Any) -> Path:
        sockets = {"model": model, "positive": self.positive, "latent": self.degraded}
        return self.bench.save(self.add("FlashVideoStage2Refiner", **sockets, **{**SETTINGS, **settings}))

    def sampled(self, model: Any) -> Path:
        """By core's sampler, from the undegraded latent and seed 42."""
        prompts = {"positive": self.positive, "negative": self.negative}
        out = self.add(
            "SamplerCustomAdvanced",
            noise=self.add("RandomNoise", noise_seed=42),
            guider=self.add("CFGGuider", model=model, **prompts, cfg=SETTINGS["cfg"]),
            sampler=self.add("KSamplerSelect", sampler_name="euler"),
            sigmas=self.add("FlashVideoStage2Sigmas", steps=SETTINGS["steps"]),
            latent_image=self.plain,
        )
        return self.bench.save(out)


@pytest.fixture
def refining(bench: Bench, given: Tensor, context: Tensor) -> Refining:
    return Refining(bench, given, context)


def differ(*results: Tensor) -> bool:
    """By more than rounding, each from each."""
    pairs = [(a, b) for k, a in enumerate(results) for b in results[:k]]
    return all((a - b).abs().max() > 1e-3 for a, b in pairs)


@pytest.mark.parametrize(
    ("inputs", "windows"),
    [
        (HALF, HALF_LATENTS),
        ({"width": 16, "height": 48, "pooled": 0, "shift": False}, AttentionWindows(6, 2, shift=False)),
        ({"width": 960, "height": 32, "pooled": 64}, AttentionWindows(4, 120, pooled=64)),
    ],
    ids=["half", "uneven", "wide"],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_windows_are_the_librarys(
    bench: Bench, context: Tensor, latents: Any, tiny_stage2: Any, inputs: Any, windows: AttentionWindows, batch: int
) -> None:
    given = latents(batch, 16, 3, 8, 12)
    refining = Refining(bench, given, context)
    path = refining.refined(refining.windows(**inputs))
    bench.run()
    expected = refine_latents(tiny_stage2, given, context, **SOLVE, attention_windows=windows)
    assert_within(saved(path), expected, 2e-4)
    assert differ(expected, refine_latents(tiny_stage2, given, context, **SOLVE))


def test_cores_sampler_follows_them(refining: Refining, given: Tensor, context: Tensor, tiny_stage2: Any) -> None:
    path = refining.sampled(refining.windows())
    refining.bench.run()
    start = degrade_latents(given, 675, generator=torch.Generator().manual_seed(42))
    expected = refine_latents(tiny_stage2, start, context, **SOLVE, attention_windows=HALF_LATENTS)
    assert_within(saved(path), expected, 2e-4)


def test_stage1_too(bench: Bench, context: Tensor, tiny_stage1: Any) -> None:
    positive = bench.tensor("ProbeConditioning", context)
    empty = bench.add("FlashVideoEmptyLatent", size="custom", width=96, height=64, length=5)
    model = bench.add(NODE, model=bench.add("FlashVideoLoadStage1", model_name=STAGE1), **HALF)
    sampled = bench.add("FlashVideoStage1Sampler", model=model, positive=positive, latent=empty, seed=7, steps=4)
    path = bench.save(sampled)
    bench.run()

    def windowed(*arguments: Any, **options: Any) -> Tensor:
        result: Tensor = tiny_stage1(*arguments, **options, attention_windows=HALF_LATENTS)
        return result

    results = []
    for transformer in (windowed, tiny_stage1):
        generator = torch.Generator().manual_seed(7)
        start = torch.randn(1, 16, 2, 8, 12, generator=generator)
        results.append(sample_stage1(transformer, start, context, num_steps=4, generator=generator))
    assert_within(saved(path), results[0], 2e-4)
    assert differ(*results)


def test_a_window_that_covers_the_frame_changes_nothing(refining: Refining) -> None:
    """Not a byte. Of two nodes the last counts."""
    half, covered = refining.windows(), refining.windows(width=96, height=64)
    models = (refining.model, covered, refining.windows(half, width=960, height=544), half, refining.windows(covered))
    paths = [refining.refined(model) for model in models]
    refining.bench.run()
    plain, whole, last_whole, cut, last_cut = (saved(path) for path in paths)
    assert torch.equal(plain, whole)
    assert torch.equal(plain, last_whole)
    assert torch.equal(cut, last_cut)
    assert differ(plain, cut)


def test_the_model_before_the_node_stays_as_it_was(refining: Refining) -> None:
    cut = refining.refined(refining.windows())
    refining.bench.run()
    plain = refining.refined(refining.model)
    assert refining.model[0] in refining.bench.run().cached
    assert differ(saved(plain), saved(cut))


def test_clones_and_files(refining: Refining) -> None:
    """Clones have the windows; a file of the MODEL has its weights alone."""
    windowed = refining.windows()
    merge = refining.add("ModelMergeSimple", model1=windowed, model2=refining.model, ratio=1.0)
    paths = [refining.refined(model) for model in (windowed, refining.add("ProbeSame", model=windowed), merge)]
    for name, model in (("windowed", windowed), ("plain", refining.model)):
        refining.add("ModelSave", model=model, filename_prefix=f"saved/{name}")
    refining.bench.run()
    windowed, clone, merged = (saved(path) for path in paths)
    assert torch.equal(windowed, clone)
    assert torch.equal(windowed, merged)
    folder = refining.bench.server.base / "output" / "saved"
    one, other = (load_file(next(folder.glob(f"{name}*.safetensors"))) for name in ("windowed", "plain"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("dtype", ["fp8_e4m3fn", "bf16"])
def test_other_weights(refining: Refining, dtype: str) -> None:
    model = refining.add("FlashVideoLoadStage2", model_name=STAGE2, weight_dtype=dtype)
    models = (model, refining.windows(model), refining.windows(model, width=96, height=64))
    paths = [refining.refined(each) for each in models]
    refining.bench.run()
    plain, windowed, whole = (saved(path) for path in paths)
    assert torch.equal(plain, whole)
    assert torch.isfinite(windowed).all()
    assert differ(windowed, plain)


def test_the_attention_that_was_chosen(refining: Refining, given: Tensor, context: Tensor) -> None:
    """Each window's goes through what another pack has put in attention's place."""
    path = refining.refined(refining.add("ProbeAttention", model=refining.windows()))
    refining.bench.run()
    weaker = load_stage2(TINY / "stage2.pt")
    for layer in weaker.layers:
        layer.attention = lambda *tensors, **options: sdpa_attention(*tensors, **options) * 0.8
    expected = refine_latents(weaker, given, context, **SOLVE, attention_windows=HALF_LATENTS)
    assert_within(saved(path), expected, 2e-4)


def test_layers_that_are_replaced(refining: Refining) -> None:
    """By what runs the original, they have its windows; skip layer guidance acts beside them."""
    slg = {"double_layers": "0", "single_layers": "", "scale": 3.0, "start_percent": 0.0, "end_percent": 1.0}
    slg |= {"rescaling_scale": 0.0}
    windowed = refining.windows()
    models = [windowed, refining.add("ProbeBlocks", model=windowed)]
    models += [refining.add("SkipLayerGuidanceDiT", model=model, **slg) for model in (windowed, refining.model)]
    paths = [refining.refined(model) for model in models]
    refining.bench.run()
    alone, passed_through, skipping, skipping_plain = (saved(path) for path in paths)
    assert_within(passed_through, alone, 1e-6)
    assert differ(alone, skipping, skipping_plain)


def test_windows_in_time_as_well(refining: Refining, latents: Any, context: Tensor, tiny_stage2: Any) -> None:
    """Core's, in either order."""
    given = latents(1, 16, 8, 8, 12)
    refining.degraded = refining.bench.latent(given, flashvideo_noise_step=675)
    core = {"context_length": 4, "context_overlap": 2, "context_schedule": "standard_static", "fuse_method": "pyramid"}
    core |= {"dim": 2, "freenoise": False, "causal_window_fix": False}
    before = refining.windows(refining.add("ContextWindowsManual", model=refining.model, **core))
    behind = refining.add("ContextWindowsManual", model=refining.windows(), **core)
    paths = [refining.refined(model) for model in (before, behind)]
    refining.bench.run()
    windows = {"attention_windows": HALF_LATENTS, "time_windows": TimeWindows(4, 2)}
    expected = refine_latents(tiny_stage2, given, context, **SOLVE, **windows)
    for path in paths:
        assert_within(saved(path), expected, 2e-4)


def test_comfyui_is_told_what_they_take(refining: Refining, tmp_path: Path, tiny_stage2: Any) -> None:
    """While the MODEL with windows samples, and not of the one without that samples next."""
    models = {"windowed": refining.windows(width=960, height=544, pooled=4), "plain": refining.model}
    for name, model in models.items():
        refining.refined(refining.add("ProbeEstimate", model=model, path=str(tmp_path / name)))
    refining.bench.run()
    shape = (1, 16, 13, 134, 240)
    windowed, plain = (
        evaluation_bytes(tiny_stage2.config, shape, 4, windows)
        for windows in (AttentionWindows(68, 120, pooled=4), None)
    )
    assert windowed > plain
    assert [json.loads((tmp_path / name).read_text()) for name in models] == [windowed, plain]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"width": 545}, "width 545: sizes are multiples of 16 pixels. Use 544 or 560"),
        ({"height": 0}, "height 0"),
        ({"pooled": -1}, "smaller than min of 0"),
    ],
)
def test_sizes_are_refused_when_queued(refining: Refining, inputs: dict[str, Any], said: str) -> None:
    refining.refined(refining.windows(**inputs))
    with pytest.raises(RejectedError) as caught:
        refining.bench.server.queue(refining.bench.graph)
    assert said in caught.value.details


def test_a_size_that_is_linked(refining: Refining) -> None:
    refining.refined(refining.windows(height=refining.add("PrimitiveInt", value=30)))
    assert "height 30: sizes are multiples of 16 pixels. Use 16 or 32" in refining.bench.fails()


def test_another_model(bench: Bench) -> None:
    bench.add("PreviewAny", source=bench.add(NODE, model=bench.add("ProbeOtherModel")))
    assert "this node needs FlashVideo's Stage I or Stage II" in bench.fails()


def test_patches_of_all_tokens_attention(refining: Refining) -> None:
    patched = refining.add("NAGuidance", model=refining.windows(), nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)
    refining.refined(patched)
    assert "Attention Windows cuts it into windows. Take one of the two out" in refining.bench.fails()
