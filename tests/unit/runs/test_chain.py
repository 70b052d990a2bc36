"""One chain: a batch is drawn and made as its samples are alone, and the report takes the command line's path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.method import degradation, stage1
from flashvideo.report import LoadedModels
from flashvideo.runs import chain
from flashvideo.runs.record import load_record
from flashvideo.runs.settings import Stage1Settings, Stage2Settings
from flashvideo.tensors.noise import standard_normal
from flashvideo.vae import codec
from tests.conftest import TINY

PROMPTS, SEEDS = ["a red ball rolls", "rain falls on a lake", "a blue cube turns"], [3, 0, 2**63 - 1]
STAGE1 = Stage1Settings(height=32, width=32, num_frames=5, num_steps=3)
STAGE2 = Stage2Settings(height=64, width=64, num_steps=2, match_colors=1.0)


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    with one_thread():
        yield


@pytest.fixture(scope="module")
def models():
    return ModelStore(find_models(str(TINY), {}, ("stage1", "stage2", "vae", "text")))


def through_the_chain(models, prompts, seeds):
    """Every step's tensor, by the step's name."""
    tensors = dict(zip(("embeds1", "embeds2"), chain.embed_for_both(models, prompts, STAGE2.motion), strict=True))
    tensors["latents"] = chain.sample_previews(models, tensors["embeds1"], STAGE1, seeds)
    tensors["preview"] = chain.decode(models, tensors["latents"])
    tensors["encoded"] = chain.encode_upscaled(models, tensors["preview"], STAGE2, seeds)
    tensors["degraded"] = chain.degrade(models, tensors["encoded"], STAGE2, seeds)
    tensors["refined"] = chain.refine(models, tensors["degraded"], tensors["embeds2"], STAGE2)
    frames = chain.decode_frames(models, tensors["refined"], preview=tensors["preview"], settings=STAGE2)
    return {**tensors, "video": torch.cat(list(frames), dim=2)}


@pytest.fixture
def draws(monkeypatch):
    """All noise ``[B, ...]`` that is drawn, in order, with the module that draws it."""
    drawn = []
    for module in (chain, stage1, degradation, codec):

        def watching(shape, generator, module=module):
            assert generator is not None, "nothing comes from torch's own generator"
            drawn.append((module.__name__, standard_normal(shape, generator)))
            return drawn[-1][1]

        monkeypatch.setattr(module, "standard_normal", watching)
    return drawn


def test_a_batch_is_its_samples_alone(models, draws):
    together = through_the_chain(models, PROMPTS, SEEDS)
    drawn_together = list(draws)
    assert len(drawn_together) == STAGE1.num_steps + 2
    for index, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        draws.clear()
        alone = through_the_chain(models, [prompt], [seed])
        for (name, ours), (_, theirs) in zip(draws, drawn_together, strict=True):
            assert torch.equal(ours[0], theirs[index]), f"{name}: drawn as it is alone"
        for name, tensor in alone.items():
            torch.testing.assert_close(together[name][index : index + 1], tensor, atol=1e-4, rtol=1e-4)
    for name, tensor in together.items():
        assert not torch.allclose(tensor[0], tensor[1]), name


def test_the_report_measures_what_the_command_line_makes(models, generate, tmp_path):
    settings = ["--preview-steps", 3, "--steps", 2, "--match-colors", 1, "--noise-step", 600, "--cfg", 3]
    generate(PROMPTS[0], "--seed", 3, *settings, "--keep-degraded", "--keep-latents", "-o", tmp_path / "out.mp4")
    preview, degraded, refined = (
        load_record(tmp_path / f"out.{content}.safetensors") for content in ("preview", "degraded", "refined")
    )
    stage2 = replace(refined.stage2, seed=12345)  # seeds are given beside the settings
    report = LoadedModels(models)
    low = report.generate_low(PROMPTS[:1], [3], replace(preview.stage1, seed=12345))
    assert torch.equal(low, chain.decode(models, preview.latents))
    high = report.refine(low, PROMPTS[:1], [3], stage2)
    assert torch.equal(high, torch.cat(list(chain.record_frames(models, refined)), dim=2))
    encoded = report.encoded.get(models, low, [3], stage2)
    assert torch.equal(chain.degrade(models, encoded, stage2, [3]), degraded.latents)
