"""What attention sees as words, and that a run is made with it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from flashvideo import AttentionWindows, refine_latents
from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.report.planning import published_parts
from flashvideo.runs import chain
from flashvideo.runs.attention import attention_windows
from flashvideo.runs.memory import Load
from flashvideo.runs.offloading import steps_of
from flashvideo.runs.settings import SIZES, Stage2Settings
from tests.conftest import TINY

TRAINED = AttentionWindows(134, 240)
QUARTER = AttentionWindows(68, 120, pooled=4)


@pytest.mark.parametrize(
    ("text", "height", "width", "windows"),
    [
        ("full", 2160, 3840, None),
        ("auto", 256, 480, None),
        ("auto", 1072, 1920, None),
        ("auto", 1920, 1072, None),
        ("auto", 1072, 1936, TRAINED),
        ("auto", 2144, 3840, TRAINED),
        ("auto", 3840, 2144, AttentionWindows(240, 134)),
        ("windows", 1072, 1920, QUARTER),
        ("windows", 1920, 1072, AttentionWindows(120, 68, pooled=4)),
        ("windows", 544, 960, None),
        ("320x192", 1072, 1920, AttentionWindows(24, 40)),
        ("320x192", 1920, 1072, AttentionWindows(24, 40)),
        ("320x192+8", 1072, 1920, AttentionWindows(24, 40, pooled=8)),
        ("320x192,still", 1072, 1920, AttentionWindows(24, 40, shift=False)),
        ("16x16+2,still", 1072, 1920, AttentionWindows(2, 2, shift=False, pooled=2)),
        ("1920x1072", 1072, 1920, None),
        ("4096x16", 1072, 1920, AttentionWindows(2, 512)),
    ],
)
def test_words_are_windows(text, height, width, windows):
    assert attention_windows(text, height, width) == windows
    settings = Stage2Settings(height=height, width=width, attention=text)
    settings.check()
    assert settings.attention_windows == windows
    assert Stage2Settings.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("some", "attention is 'some'; expected auto, full, windows, or WIDTHxHEIGHT, WIDTHxHEIGHT"),
        ("", "attention is ''"),
        ("still", "attention is 'still'"),
        ("320x192+", "attention is '320x192"),
        ("320X192", "attention is '320X192'"),
        ("320x192,moving", "attention is '320x192,moving'"),
        ("320x-16", "attention is '320x-16'"),
        ("330x192", "a window's side is 330 pixels; expected a multiple of 16, as 320 or 336"),
        ("320x8", "a window's side is 8 pixels; expected a multiple of 16, as 16"),
        ("0x192", "a window's side is 0 pixels; expected a multiple of 16, as 16"),
    ],
)
def test_other_words_are_refused(text, said):
    with pytest.raises(ValueError, match=said.replace("+", r"\+")):
        Stage2Settings(attention=text).check()


@pytest.fixture(scope="module")
def models():
    return ModelStore(find_models(TINY, {}, ("stage2", "vae")), dtype=torch.float32)


@pytest.mark.parametrize("text", ["full", "auto", "32x32", "32x32+2", "32x32,still", "64x64"])
def test_a_run_is_made_in_them(models, text):
    settings = Stage2Settings(height=64, width=64, num_steps=2, guidance_scale=2.0, attention=text)
    generator = torch.Generator().manual_seed(3)
    with models.use("stage2") as transformer:
        config = transformer.config
        latents = torch.randn(1, 16, 2, 8, 8, generator=generator)
        embeds = torch.randn(1, transformer.text_length, config["text_embed_dim"], generator=generator)
        how = {"num_steps": 2, "guidance_scale": 2.0, "latent_scale": chain.stage2_scale(models)}
        run = partial(refine_latents, transformer, latents, embeds, **how)
        expected = run(attention_windows=attention_windows(text, 64, 64))
        full = run()
    refined = chain.refine(models, latents, embeds, settings)
    assert torch.equal(refined, expected)
    assert torch.equal(refined, full) == (text in ("full", "auto", "64x64"))


def test_the_estimate_of_a_run_is_of_its_windows():
    """At 4K windows of the trained size take more memory than full attention: what is gathered lies beside the rest."""
    settings = Stage2Settings(height=SIZES["4k"][0], width=SIZES["4k"][1])
    load = Load(49, refined=SIZES["4k"])
    windowed = load.with_windows(settings)
    assert windowed.attention_windows == TRAINED
    assert load.with_windows(replace(settings, attention="full")) == load
    parts = {name: part for name, part in published_parts().items() if name in ("stage2", "vae")}
    work = [
        next(step.work for step in steps_of(parts, one, torch.device("cuda"), 1 << 40) if step.part == "stage2")
        for one in (load, windowed)
    ]
    assert work[0] < work[1] < 1.3 * work[0]
