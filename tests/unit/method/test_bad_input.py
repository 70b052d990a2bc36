"""Bad arguments of the samplers: a clear error before the transformer runs."""

from __future__ import annotations

import pytest
import torch

from flashvideo import (
    degrade_latents,
    refine_latents,
    sample_stage1,
)

# settings


def latents(*shape):
    return torch.zeros(shape or (1, 16, 2, 4, 4))


EMBEDS = torch.zeros(1, 226, 32)


def never(*_, **__):
    raise AssertionError("the transformer ran")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((latents(1, 4, 2, 4, 4), EMBEDS), {}, r"noise is .* \[1, 4, 2, 4, 4\]"),
        ((latents(16, 2, 4, 4), EMBEDS), {}, r"expected floating point \[B, 16"),
        ((latents(1, 16, 2, 4, 5), EMBEDS), {}, "must be even"),
        ((latents().long(), EMBEDS), {}, "torch.int64"),
        ((latents(), torch.zeros(1, 226, 16)), {}, r"prompt_embeds has shape \[1, 226, 16\]; expected \[1, 226, 32\]"),
        ((latents(), torch.zeros(1, 100, 32)), {}, r"expected \[1, 226, 32\]"),
        ((latents(), torch.zeros(3, 226, 32)), {}, r"expected \[1, 226, 32\]"),
        ((latents(), EMBEDS), {"negative_prompt_embeds": torch.zeros(1, 226, 8)}, "negative_prompt_embeds has shape"),
        ((latents(), EMBEDS), {"num_steps": 0}, "num_steps is 0"),
        ((latents(), EMBEDS), {"num_steps": 1001}, "1000 steps"),
        ((latents(), EMBEDS), {"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ((latents(), EMBEDS), {"guidance_exponent": 4.5}, "must be whole"),
        ((latents(), EMBEDS), {"guidance_curve": "wild"}, "guidance_curve is 'wild'"),
        ((latents(), EMBEDS), {"num_steps": 3, "step_noise": [latents()] * 3}, "expected 2 tensors"),
        ((latents(), EMBEDS), {"num_steps": 2, "step_noise": [latents(1, 16, 1, 4, 4)]}, "expected 1 tensors of shape"),
    ],
)
def test_sample_stage1_refuses(tiny_stage1, monkeypatch, arguments, options, message):
    monkeypatch.setattr(type(tiny_stage1), "forward", never)
    with pytest.raises(ValueError, match=message):
        sample_stage1(tiny_stage1, *arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((latents(1, 4, 2, 4, 4), EMBEDS), {}, r"latents is .* \[1, 4, 2, 4, 4\]"),
        ((latents(1, 16, 2, 3, 4), EMBEDS), {}, "must be even"),
        ((latents(), torch.zeros(1, 226, 16)), {}, r"prompt_embeds has shape \[1, 226, 16\]"),
        ((latents(), EMBEDS), {"noise_step": 1000}, "noise step 1000"),
        ((latents(), EMBEDS), {"noise_step": 675.5}, "noise step 675.5"),
        ((latents(), EMBEDS), {"num_steps": 0}, "num_steps is 0"),
        ((latents(), EMBEDS), {"shift": 0}, "shift is 0"),
        ((latents(), EMBEDS), {"shift": -1}, "shift is -1"),
        ((latents(), EMBEDS), {"shift": float("nan")}, "shift is nan"),
        ((latents(), EMBEDS), {"solver": "magic"}, "solver is 'magic'; expected one of euler"),
        ((latents(), EMBEDS), {"rounding": "fp4"}, "rounding is 'fp4'"),
        ((latents(), EMBEDS), {"guidance_scale": -1}, "guidance_scale is -1"),
    ],
)
def test_refine_latents_refuses(tiny_stage2, monkeypatch, arguments, options, message):
    monkeypatch.setattr(type(tiny_stage2), "forward", never)
    with pytest.raises(ValueError, match=message):
        refine_latents(tiny_stage2, *arguments, **options)


def test_other_stage_is_refused(tiny_stage1, tiny_stage2, monkeypatch):
    monkeypatch.setattr(type(tiny_stage1), "forward", never)
    with pytest.raises(ValueError, match="Stage II transformer"):
        sample_stage1(tiny_stage2, latents(), EMBEDS)
    with pytest.raises(ValueError, match="looks like Stage I's"):
        refine_latents(tiny_stage1, latents(), EMBEDS)


def test_degrade_latents_refuses():
    for arguments, options, message in (
        ((latents(1, 4, 2, 4, 4),), {}, "expected floating point"),
        ((latents(), 1000), {}, "noise step 1000"),
        ((latents(), -1), {}, "noise step -1"),
        ((latents(), 0.5), {}, "noise step 0.5"),
        ((latents(),), {"noise": latents(1, 16, 1, 4, 4)}, "noise has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            degrade_latents(*arguments, **options)
