"""The fused kernels around convolutions against the plain path, in Triton's interpreter or on a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flashvideo.tensors import fusing
from flashvideo.vae.codec import decode_latents, encode_video
from flashvideo.vae.tiling import fused
from flashvideo.vae.tiling import layers as op
from flashvideo.vae.tiling.plan import Region
from flashvideo.vae.tiling.statistics import Statistics

pytest.importorskip("triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RUNS = "1" if torch.cuda.is_available() else "interpret"


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Kernels run; fails if one does not."""
    monkeypatch.setattr(fusing, "_failed", [])
    monkeypatch.setenv(fusing.SWITCH, RUNS)
    yield
    assert fusing._failed == []


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("maps", [True, False], ids=["of latents", "of channels"])
def test_modulation(monkeypatch, alone, maps):
    area = Region(3, 10, 5, 17)  # in the middle of latents of four pixels, all around
    frames, latent_frames = (5, 2) if alone else (4, 2)
    source = random(frames, 9, 14, 6)[:, 1:8, 1:13]
    shape = (latent_frames, 3, 4, 6) if maps else (6,)
    modulation = op.Modulation(random(*shape, seed=1), random(*shape, seed=2), area, 4, alone)
    ours, plain = (torch.full((frames, 9, 14, 6), 7.0, device=DEVICE) for _ in range(2))
    assert fused.modulate(source, ours[:, 1:8, 1:13], modulation.scale, modulation.shift, (3, 1), 4, alone)
    monkeypatch.setenv(fusing.SWITCH, "0")
    modulation.apply(source, plain[:, 1:8, 1:13])
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("parts", ["bias", "straight", "bias straight", ""])
def test_finishing(dtype, parts):
    result = random(3, 5, 7, 6, dtype=dtype) + 50  # a mean much larger than the deviation
    bias = random(6, seed=1, dtype=dtype) if "bias" in parts else None
    straight = random(3, 7, 9, 8, seed=2, dtype=dtype)[:, 1:6, 1:8, :6] if "straight" in parts else None
    expected = result.float() + (0 if bias is None else bias.float()) + (0 if straight is None else straight.float())
    place = torch.zeros(3, 7, 9, 6, device=DEVICE, dtype=dtype)
    statistics = Statistics()
    assert fused.finish(result, bias, straight, place[:, 1:6, 1:8], statistics)
    torch.testing.assert_close(place[:, 1:6, 1:8], expected.to(dtype))
    assert place[:, 0].abs().max() == place[:, :, -1].abs().max() == 0
    written = place[:, 1:6, 1:8].reshape(-1, 6).double()
    mean, variance = statistics.group(6)
    torch.testing.assert_close(mean, written.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance, written.var(0, correction=0), rtol=1e-4, atol=0)


def test_statistics_of_many_programs_and_weights():
    values = random(2, 40, 60, 4)  # 4,800 voxels
    first, twice = Statistics(), Statistics()
    assert fused.finish(values.clone(), None, None, values, first)
    assert fused.finish(values[:1].clone(), None, None, values[:1], twice)
    first.add(twice.weighted(2))
    voxels = torch.cat((values, values[:1], values[:1])).reshape(-1, 4).double()
    mean, variance = first.group(2)
    torch.testing.assert_close(mean, voxels.unflatten(1, (2, 2)).mean((0, 2)), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(variance, voxels.unflatten(1, (2, 2)).var((0, 2), correction=0), rtol=1e-5, atol=0)


def test_finishing_over_the_straight_path():
    plane = random(2, 4, 5, 6)
    result, expected = random(2, 4, 5, 3, seed=1), random(2, 4, 5, 3, seed=1) + plane[..., :3]
    assert fused.finish(result, None, plane[..., :3], plane[..., :3], None)
    torch.testing.assert_close(plane[..., :3], expected)


@pytest.mark.parametrize("core", [Region(0, 3, 0, 4), Region(0, 2, 1, 3), Region(1, 3, 2, 4)], ids=str)
def test_enlarging(core):
    plane = random(2, 3, 4, 5)
    wide = core.grown(3, 4)
    buffer = torch.full((2, 2 * core.height + 2, 2 * core.width + 2, 5), 7.0, device=DEVICE)
    part = plane[:, wide.top : wide.bottom, wide.left : wide.right]
    assert fused.enlarge(part, buffer, (core.top - wide.top, core.left - wide.left))
    large = plane.repeat_interleave(2, 1).repeat_interleave(2, 2).permute(0, 3, 1, 2)
    bordered = F.pad(large, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    into = core.scaled(2)
    torch.testing.assert_close(buffer, bordered[:, into.top : into.bottom + 2, into.left : into.right + 2])


@pytest.mark.parametrize("layer", [nn.Conv3d(3, 4, 3), nn.Conv2d(3, 4, 3, stride=2)], ids=["3d", "2d"])
def test_a_bias_added_later(layer):
    values = random(5, 9, 11, 3)
    layer.to(DEVICE)
    convolve = op.convolve_3d if isinstance(layer, nn.Conv3d) else op.convolve_2d
    with torch.no_grad():
        bias = fused.bias_of(layer, values)
        expected, without = convolve(layer, values), convolve(layer, values, False)
    torch.testing.assert_close(without + bias, expected)
    layer.register_forward_hook(lambda *_: None)
    assert fused.bias_of(layer, values) is None


def test_a_small_vae_is_the_same(monkeypatch):
    from diffusers import AutoencoderKLCogVideoX

    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(block_out_channels=(4, 4, 4, 4), norm_num_groups=2, layers_per_block=1)
    vae.eval().to(DEVICE)
    latents, video = random(1, 16, 2, 2, 3), random(1, 3, 5, 16, 16).sigmoid()
    results = {}
    for switch in ("0", RUNS):
        monkeypatch.setenv(fusing.SWITCH, switch)
        results[switch] = decode_latents(vae, latents, tile=(2, 2)), encode_video(vae, video, sample=False)
    for plain, ours in zip(*results.values(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
        assert not torch.equal(ours, plain), "other roundings: the kernels did run"
