"""Latents are whitened by a map inside the autoencoder, and videos stay what they were."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from flashvideo.training.config import from_table
from flashvideo.training.vae import VaeConfig, VaeModel, new_vae, save_vae, vae_run, whitening_clips
from flashvideo.training.whitening import measure_latents, whiten
from flashvideo.vae.codec import decode_latents

SMALL = VaeModel(block_out_channels=(8, 8, 8, 8), norm_num_groups=4)


@pytest.fixture(scope="module")
def clips():
    return [clip[:, :5, :32, :48] for clip in whitening_clips(6, 3)]


@pytest.fixture(scope="module")
def vae():
    """Random weights whose latents have offsets and are far from alike, and whose decoder's norms listen to latents."""
    made = new_vae(VaeConfig(model=SMALL))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for name, weight in made.named_parameters():
            if ".conv_y." in name or ".conv_b." in name:
                weight.add_(0.1 * torch.randn_like(weight))
        out = made.encoder.conv_out.conv
        out.weight[:16] *= torch.logspace(-1, 1, 16)[:, None, None, None, None]
        out.bias[:16] = torch.randn(16)
    return made.requires_grad_(False)


def test_latents_become_white(vae, clips):
    changed = copy.deepcopy(vae)
    before = measure_latents(changed, clips)
    whiten(changed, before)
    after = measure_latents(changed, clips)
    variance, directions = torch.linalg.eigh(before.covariance)
    expected = (variance.clamp(min=0) / 0.25**2).clamp(max=1)  # small ones are not amplified without end
    assert (expected < 0.5).any()
    assert (expected == 1).any()
    torch.testing.assert_close(after.mean, torch.zeros(16, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(directions.T @ after.covariance @ directions, expected.diag(), atol=1e-3, rtol=0)
    gain = directions @ torch.diag(1 / variance.clamp(min=0).sqrt().clamp(min=0.25)) @ directions.T
    torch.testing.assert_close(after.noise, gain.square() @ before.noise, rtol=1e-4, atol=0)


def mapped_latents(statistics):
    """Some latents, and what they are after whitening."""
    latents = torch.randn((1, 16, 3, 6, 8), generator=torch.Generator().manual_seed(1))
    variance, directions = torch.linalg.eigh(statistics.covariance)
    gain = (directions @ torch.diag(1 / variance.clamp(min=0).sqrt().clamp(min=0.25)) @ directions.T).float()
    return latents, torch.einsum("ji,bithw->bjthw", gain, latents - statistics.mean.float()[:, None, None, None])


def test_videos_stay_what_they_were(vae, clips):
    """Exactly so without a mean; with one, but for the edges, where the first convolution pads with zeros."""
    measured = measure_latents(vae, clips)
    linear, whole = copy.deepcopy(vae), copy.deepcopy(vae)
    centred = replace(measured, mean=torch.zeros_like(measured.mean))
    whiten(linear, centred)
    whiten(whole, measured)

    latents, mapped = mapped_latents(centred)
    video = decode_latents(vae, latents)
    torch.testing.assert_close(decode_latents(linear, mapped), video, atol=2e-4 * float(video.std()), rtol=0)
    assert (decode_latents(vae, mapped) - video).abs().max() > video.std()

    latents, mapped = mapped_latents(measured)
    for name in ("conv_in", "mid_block.resnets.0.norm1.conv_y", "mid_block.resnets.0.norm2.conv_b"):
        old, new = (model.decoder.get_submodule(name) for model in (vae, whole))
        inside = (old(latents)[0] - new(mapped)[0])[..., 1:-1, 1:-1]
        assert inside.abs().max() < 1e-4, name
        assert (old(latents)[0] - old(mapped)[0]).abs().max() > 0.1, name


def test_a_run_whitens_before_it_trains(vae, tmp_path):
    start = save_vae(vae, tmp_path / "vae.safetensors")
    table = {"start": str(start), "train": "decoder", "whiten": 4, "model": {}, "phases": [{"steps": 1, "frames": 1}]}
    run = vae_run(from_table(VaeConfig, table, "whiten.toml"), tmp_path / "run")
    statistics = measure_latents(run.objective.vae, whitening_clips(4, VaeConfig().run.seed))
    assert statistics.mean.abs().max() < 1e-4
    assert statistics.covariance.diagonal().max() < 1 + 1e-3
    assert not any(p.requires_grad for p in run.objective.vae.encoder.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"whiten": -1}, "whiten is -1; expected a number of clips"), ({"whiten": 4}, "whiten needs `start`")],
)
def test_settings_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        VaeConfig(**changes).check()


def test_nothing_to_measure():
    with pytest.raises(ValueError, match="no clips"):
        measure_latents(None, [])


def test_full_size_clips_are_among_those_measured():
    sizes = [tuple(clip.shape) for clip in whitening_clips(32, 0)]
    assert sizes.count((3, 17, 192, 320)) == 2
    assert sizes.count((3, 17, 48, 80)) == 32
    assert math.prod(sizes[-1]) == 16 * math.prod(sizes[0])
