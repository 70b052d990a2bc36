"""Tiles change nothing but memory: any tile, size, length, precision and budget gives what the untiled run gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flashvideo.vae.codec import decode_latents, decode_stream, encode_video
from flashvideo.vae.limits import Limits
from flashvideo.vae.tiling import plan
from flashvideo.vae.tiling.estimate import largest_tile
from flashvideo.vae.tiling.modules import unpadded
from flashvideo.vae.tiling.session import decode_job
from tests.conftest import ODD_NAME

SETTINGS = settings(max_examples=20, deadline=None, derandomize=True)
RELATIVE = 1e-5

tiles = st.one_of(st.integers(1, 5), st.tuples(st.integers(1, 5), st.integers(1, 7)))
sizes = st.tuples(st.integers(1, 5), st.integers(1, 6))


@pytest.fixture(scope="module")
def vae(tiny_vae):
    return tiny_vae


def relative(values, expected):
    return ((values - expected).norm() / expected.norm()).item()


def largest(values, expected):
    return ((values - expected).abs().max() / expected.abs().max()).item()


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_vae(seed=0, widths=(32, 32, 64, 64), layers=1):
    from diffusers import AutoencoderKLCogVideoX

    torch.manual_seed(seed)
    return AutoencoderKLCogVideoX(block_out_channels=widths, layers_per_block=layers).eval()


@SETTINGS
@given(tile=tiles, size=sizes, count=st.integers(1, 5), batch=st.integers(1, 2), seed=st.integers(0, 99))
def test_decode(vae, tile, size, count, batch, seed):
    latents = draw(seed, batch, 16, count, *size)
    untiled = decode_latents(vae, latents, tile=False)
    assert untiled.shape == (batch, 3, 4 * (count - 1) + 1, 8 * size[0], 8 * size[1])
    assert largest(decode_latents(vae, latents, tile=tile), untiled) < RELATIVE


@SETTINGS
@given(tile=tiles, size=sizes, count=st.integers(0, 5), seed=st.integers(0, 99))
def test_encode(vae, tile, size, count, seed):
    video = draw(seed, 1, 3, 4 * count + 1, 8 * size[0], 8 * size[1]).sigmoid()
    untiled = encode_video(vae, video, sample=False, tile=False)
    assert untiled.shape == (1, 16, count + 1, *size)
    assert largest(encode_video(vae, video, sample=False, tile=tile), untiled) < 2 * RELATIVE


@settings(SETTINGS, max_examples=12)
@given(budget=st.integers(1, 10**8), host=st.integers(1, 10**8), size=sizes, count=st.integers(1, 4))
def test_any_budget(vae, tmp_path_factory, budget, host, size, count):
    folder = tmp_path_factory.mktemp(ODD_NAME)
    latents = draw(1, 1, 16, count, *size)
    video = decode_latents(vae, latents, memory_budget=budget, host_budget=host, scratch=folder)
    assert largest(video, decode_latents(vae, latents, tile=False)) < RELATIVE
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "tile", "shape"),
    [
        (torch.bfloat16, 1, (4, 4, 5)),
        (torch.bfloat16, (2, 3), (3, 5, 6)),
        (torch.bfloat16, 4, (3, 5, 6)),
        (torch.float16, (1, 2), (3, 2, 3)),  # small: processors without fp16 arithmetic are slow
    ],
)
def test_halves_are_no_worse_than_untiled(dtype, tile, shape):
    half, same_in_fp32 = small_vae().to(dtype), small_vae()
    same_in_fp32.load_state_dict({name: tensor.float() for name, tensor in half.state_dict().items()})
    latents = draw(3, 1, 16, *shape).to(dtype).float()
    expected = decode_latents(same_in_fp32, latents, tile=False)
    ours = relative(decode_latents(half, latents, tile=tile), expected)
    assert ours <= 1.05 * relative(decode_latents(half, latents, tile=False), expected)
    if shape[0] % 2:
        theirs = (half.decode(latents.to(dtype)).sample.float() / 2 + 0.5).clamp(0, 1)
        assert ours <= 1.05 * relative(theirs, expected)


def test_double_precision_is_exact():
    vae = small_vae().double()
    latents = draw(4, 1, 16, 5, 4, 5).double()
    untiled = decode_latents(vae, latents, tile=False)
    assert (decode_latents(vae, latents, tile=(3, 2)) - untiled).abs().max() < 1e-7  # the video itself is fp32


@pytest.mark.parametrize("count", [1, 3, 5])
def test_untiled_is_diffusers_for_odd_counts(vae, count):
    latents = draw(5, 2, 16, count, 4, 6)
    expected = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    assert largest(decode_latents(vae, latents, tile=False), expected) < RELATIVE


def test_full_width_decoder():
    vae = small_vae(widths=(128, 256, 256, 512), layers=3)
    latents = draw(6, 1, 16, 3, 2, 4)
    untiled = decode_latents(vae, latents, tile=False)
    with torch.no_grad():
        assert largest(untiled, (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)) < RELATIVE
    assert largest(decode_latents(vae, latents, tile=(2, 3)), untiled) < RELATIVE


def count_convolutions(vae, run, grid_limit=None):
    """Voxels out of every convolution, and the largest input side in excess of the tile's, while `run` runs."""
    voxels, excess, hooks = {}, 0, []

    def hook(name):
        def note(module, args, output):
            nonlocal excess
            voxels[name] = voxels.get(name, 0) + output[:, 0].numel()  # frames may lie in the batch
            if grid_limit is not None:
                excess = max(excess, max(args[0].shape[-2:]) - grid_limit(name, module))

        return note

    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            hooks.append(module.register_forward_hook(hook(name)))
    try:
        run()
    finally:
        for handle in hooks:
            handle.remove()
    return voxels, excess


@pytest.mark.parametrize("tile", [1, 2, 3])
def test_no_convolution_sees_more_than_a_tile_or_computes_twice(vae, tile):
    from flashvideo.vae.tiling.modules import ResampleLayer, decoder_layers

    layers = decoder_layers(vae)
    grids = {id(vars(layer.conv)): layer.grid * (1 + isinstance(layer, ResampleLayer)) for layer in layers}
    latents = draw(7, 1, 16, 4, 5, 7)

    def limit(name, module):
        return tile * grids.get(id(vars(module)), 1 if "conv_y" in name or "conv_b" in name else 8)

    untiled, _ = count_convolutions(vae, lambda: decode_latents(vae, latents, tile=False))
    tiled, excess = count_convolutions(vae, lambda: decode_latents(vae, latents, tile=tile), limit)
    assert tiled == untiled
    assert excess <= 2  # one line of halo on each side


def test_encoder_computes_nothing_twice(vae):
    video = draw(8, 1, 3, 21, 32, 40).sigmoid()
    untiled, _ = count_convolutions(vae, lambda: encode_video(vae, video, tile=False))
    tiled, _ = count_convolutions(vae, lambda: encode_video(vae, video, tile=(3, 2)))
    assert tiled == untiled


def seam(video, at):
    """Mean step across column `at` over the mean step across its neighbours."""
    steps = video.diff(dim=-1).abs().mean(dim=(0, 1, 2, 3))
    around = torch.cat([steps[at - 5 : at - 1], steps[at : at + 4]])
    return (steps[at - 1] / around.mean()).item()


def test_no_seams_between_contrasting_halves(vae):
    latents = draw(9, 1, 16, 3, 4, 8)
    latents[..., :4] = latents[..., :4] * 0.1 - 1.0
    latents[..., 4:] = latents[..., 4:] * 3.0 + 2.0
    untiled = decode_latents(vae, latents, tile=False)
    ours = decode_latents(vae, latents, tile=2)
    apart = torch.cat([decode_latents(vae, latents[..., i : i + 2], tile=False) for i in (0, 2, 4, 6)], dim=-1)
    assert largest(ours, untiled) < RELATIVE
    for column in (16, 48):  # borders of tiles inside a half, where the untiled picture has no edge of its own
        assert seam(ours, column) == pytest.approx(seam(untiled, column), rel=1e-3)
    assert (apart - untiled).abs().mean() > 0.05 * untiled.std()  # tiles with their own statistics would show


def test_stream_gives_the_same_frames_as_they_come(vae):
    latents = draw(10, 2, 16, 6, 2, 3)
    parts = list(decode_stream(vae, latents, Limits(2)))
    assert [part.shape[2] for part in parts] == [5, 8, 8]
    assert torch.equal(torch.cat(parts, dim=2), decode_latents(vae, latents, tile=2))
    assert all(part.dtype == torch.float32 and part.device.type == "cpu" for part in parts)


def test_noise_depends_on_the_seed_only(vae):
    video = draw(11, 1, 3, 21, 16, 24).sigmoid()
    results = [encode_video(vae, video, generator=torch.Generator().manual_seed(5), tile=t) for t in (False, 1)]
    noise = torch.randn(1, 16, 6, 2, 3, generator=torch.Generator().manual_seed(5))
    assert largest(results[1], results[0]) < 2 * RELATIVE
    assert torch.equal(results[0], encode_video(vae, video, noise=noise, tile=False))
    assert not torch.allclose(results[0], encode_video(vae, video, sample=False))


def test_chunks():
    assert [plan.decode_chunks(count) for count in (1, 2, 3, 4, 5, 13)] == [
        [1], [2], [3], [2, 2], [3, 2], [3, 2, 2, 2, 2, 2],
    ]  # fmt: skip
    assert [plan.encode_chunks(count) for count in (1, 9, 17, 21, 49)] == [[1], [9], [17], [17, 4], [17, 16, 16]]


def test_larger_budgets_give_larger_tiles(vae):
    job = decode_job(vae, [3, 2, 2], (34, 60), 1)
    areas = [(largest_tile(job, budget) or (0, 0)) for budget in (10**5, 10**7, 10**8, 10**11)]
    assert areas[0] == (0, 0)
    assert areas[-1] == (34, 60)
    assert [a * b for a, b in areas] == sorted(a * b for a, b in areas)


def test_an_unpadded_convolution_is_the_same_module_but_for_its_padding():
    conv = torch.nn.Conv3d(2, 3, 3, padding=(0, 1, 1))
    alone = unpadded(conv)
    calls = []
    conv.register_forward_hook(lambda module, args, result: calls.append(result.shape))
    conv.weight, conv.streamed = torch.nn.Parameter(torch.ones_like(conv.weight)), True
    values = torch.rand(1, 2, 3, 5, 5)
    result = alone(values)
    assert alone.streamed
    assert calls == [(1, 3, 1, 3, 3)]
    assert (conv.padding, alone.padding) == ((0, 1, 1), (0, 0, 0))
    assert torch.equal(result, torch.nn.functional.conv3d(values, conv.weight, conv.bias))
    assert isinstance(alone, torch.nn.Conv3d)
