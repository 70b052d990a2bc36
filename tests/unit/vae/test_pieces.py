"""Convolutions in pieces of our own choosing: no call is too large, and the pieces do not show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flashvideo.vae.codec import decode_latents, encode_video
from flashvideo.vae.tiling import layers as op
from flashvideo.vae.tiling.modules import unpadded


class Cut(torch.nn.Conv3d):
    """Stands for a convolution whose own ``forward`` cuts its input."""

    def forward(self, input: Tensor) -> Tensor:
        raise AssertionError("cut by the convolution's class")


def test_diffusers_convolution_is_not_left_to_cut_its_input(monkeypatch):
    conv = Cut(4, 4, 3)
    with pytest.raises(AssertionError):
        unpadded(conv)(torch.rand(1, 4, 3, 3, 3))  # other classes keep their own way: ComfyUI's casts and streams
    monkeypatch.setattr(Cut, "__module__", "diffusers.models")

    class Derived(Cut):
        pass

    values = torch.rand(1, 4, 3, 3, 3)
    own = Derived(4, 4, 3)
    assert torch.equal(unpadded(own)(values), torch.nn.functional.conv3d(values, own.weight, own.bias))


@pytest.mark.parametrize("limit", [900, 2000, 4500, 14000])
@pytest.mark.parametrize(
    "conv",
    [torch.nn.Conv3d(4, 4, 3), torch.nn.Conv3d(4, 9, 3), torch.nn.Conv3d(9, 4, 1), torch.nn.Conv3d(2, 20, 3)],
    ids=["as many", "more", "pixelwise", "much more"],
)
def test_pieces_of_a_causal_convolution_show_nowhere(conv, limit, monkeypatch):
    monkeypatch.setattr(op, "goes_in_windows", lambda *_: False)
    values = torch.rand(7, 12, 10, conv.in_channels)
    check_pieces(conv, values, op.convolve_3d, limit, monkeypatch)


@pytest.mark.parametrize("limit", [300, 900, 2000])
@pytest.mark.parametrize("stride", [1, 2])
def test_pieces_of_a_resampling_show_nowhere(stride, limit, monkeypatch):
    conv = torch.nn.Conv2d(4, 6, 3, stride)
    check_pieces(conv, torch.rand(5, 13, 11, 4), op.convolve_2d, limit, monkeypatch)


def test_pieces_of_a_shortcut_show_nowhere(monkeypatch):
    check_pieces(torch.nn.Conv3d(4, 6, 1), torch.rand(9, 11, 4), op.pixelwise, 300, monkeypatch)


def check_pieces(conv: Any, values: Tensor, convolve: Any, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut to calls of at most ``limit`` elements, and the same result."""
    whole, calls = convolve(conv, values), []
    monkeypatch.setattr(op, "CONVOLUTION_LIMIT", limit)
    conv.register_forward_hook(lambda _, args, result: calls.append(max(args[0].numel(), result.numel())))
    parts = convolve(conv, values)
    assert parts.shape == whole.shape
    assert (parts - whole).abs().max() < 1e-6
    assert max(calls) <= limit or (whole.numel() <= limit and values.numel() <= limit)


def test_a_video_in_pieces_is_the_same(tiny_vae, monkeypatch):
    latents = torch.randn(1, 16, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    video = decode_latents(tiny_vae, latents, tile=False)
    encoded = encode_video(tiny_vae, video, sample=False, tile=False)
    calls = []
    convolve = op._convolve_pieces
    monkeypatch.setattr(
        op, "_convolve_pieces", lambda conv, values, run: (calls.append(conv), convolve(conv, values, run))[1]
    )
    monkeypatch.setattr(op, "CONVOLUTION_LIMIT", 1 << 13)
    monkeypatch.setattr(op, "goes_in_windows", lambda *_: False)
    assert (decode_latents(tiny_vae, latents, tile=False) - video).abs().max() < 1e-5
    assert (encode_video(tiny_vae, video, sample=False, tile=False) - encoded).abs().max() < 1e-4
    assert calls
