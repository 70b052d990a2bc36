"""Attention in pieces of samples and heads: no call is too large, and the pieces do not show."""

from __future__ import annotations

import pytest
import torch

from flashvideo.models import attention
from flashvideo.models.attention import in_pieces, sdpa_attention
from flashvideo.models.network import FlashVideoNetwork

BATCH, HEADS, TOKENS, WIDTH = 2, 5, 700, 16


def tensors(dtype, spread=False):
    """q, k and v as the network hands them over: apart, or as parts of one product."""
    made = torch.randn(3, BATCH, TOKENS, HEADS, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    parts = made.permute(1, 2, 0, 3, 4).contiguous().unbind(2) if spread else made.unbind(0)
    return [part.transpose(1, 2) for part in parts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [False, True], ids=["apart", "of one product"])
@pytest.mark.parametrize("heads", [1, 2, 5], ids=["one head", "two heads", "all heads"])
def test_pieces_show_nowhere(monkeypatch, dtype, spread, heads):
    q, k, v = tensors(dtype, spread)
    whole = sdpa_attention(q, k, v, HEADS)
    limit = heads * TOKENS * WIDTH * q.element_size()
    monkeypatch.setattr(attention, "LARGEST_BYTES", limit)
    calls, sdpa = [], attention._sdpa

    def watched(*parts):
        calls.append(max(part.numel() * part.element_size() for part in parts[:3]))
        assert parts[3] == parts[0].shape[1]
        return sdpa(*parts)

    monkeypatch.setattr(attention, "_sdpa", watched)
    assert torch.equal(sdpa_attention(q, k, v, HEADS), whole)
    assert max(calls) <= limit
    assert len(calls) == BATCH * -(-HEADS // heads)


def test_what_lies_far_apart_is_cut_too():
    """At 2160x3840 q has 0.8 * 10^9 elements, but they lie 2.4 * 10^9 apart where q is a part of one product."""
    product = torch.empty(1, 421_426, 3, 30, 64, dtype=torch.bfloat16, device="meta")
    q, k, v = (part.transpose(1, 2) for part in product.unbind(2))
    calls = []

    def attend(q, _k, _v, heads):
        calls.append((q.shape[1], heads, q.is_contiguous()))
        return q.transpose(1, 2).flatten(2)

    assert in_pieces(attend, q, k, v, 30).shape == (1, 421_426, 1920)
    assert calls == [(30, 30, True)]


@pytest.mark.parametrize("rows", [100, 226, 227, 500])
def test_a_network_in_pieces_is_the_same(monkeypatch, within, rows):
    """Pieces that end within the text, with it, and after it; with attention in pieces as well."""
    network = FlashVideoNetwork(num_layers=2, num_attention_heads=2, text_embed_dim=32, time_embed_dim=64).eval()
    generator = torch.Generator().manual_seed(0)
    x, text = (torch.randn(shape, generator=generator) for shape in ((2, 16, 5, 16, 16), (2, 226, 32)))
    with torch.no_grad():
        whole = network(x, torch.tensor([500.0]), text, inplace=True)
        monkeypatch.setattr("flashvideo.models.layer.TOKENS_ON_CPU", 2 * rows)
        monkeypatch.setattr(attention, "LARGEST_BYTES", 1 << 17)
        pieces = network(x, torch.tensor([500.0]), text, inplace=True)
    within(pieces, whole, 1e-6 * whole.abs().max().item())
