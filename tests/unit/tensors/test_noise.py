"""A batch is drawn from one generator, or each sample from its own as it is alone."""

from __future__ import annotations

import pytest
import torch

from flashvideo import degrade_latents, encode_video, sample_stage1
from flashvideo.tensors.noise import standard_normal

SHAPE = (3, 16, 2, 4, 4)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]


def test_one_generator_draws_the_batch_at_once():
    expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    assert torch.equal(standard_normal(SHAPE, generators()[0]), expected)
    torch.manual_seed(5)
    assert torch.equal(standard_normal(SHAPE, None), expected)


def test_generators_of_the_samples_draw_them_as_they_are_alone():
    ours, alone = generators(), generators()
    for _ in range(2):  # and go on drawing
        expected = torch.cat([torch.randn(1, *SHAPE[1:], generator=one) for one in alone])
        assert torch.equal(standard_normal(SHAPE, ours), expected)


def test_as_many_generators_as_samples(tiny_vae):
    embeds = torch.zeros(1, 226, 8)
    for call in (
        lambda: standard_normal(SHAPE, generators()[:2]),
        lambda: sample_stage1(
            lambda *_: pytest.fail("evaluated"), torch.zeros(SHAPE), embeds, generator=generators()[:2]
        ),
        lambda: degrade_latents(torch.zeros(SHAPE), generator=generators()[:2]),
        lambda: encode_video(tiny_vae, torch.zeros(3, 3, 1, 16, 16), generator=generators()[:2]),
    ):
        with pytest.raises(ValueError, match="2 generators for a batch of 3"):
            call()
