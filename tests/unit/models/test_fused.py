"""A layer's fused kernels against the plain path, in Triton's interpreter or on a GPU."""

from __future__ import annotations

import pytest
import torch

from flashvideo.models import fused, layer
from flashvideo.models.network import FlashVideoNetwork
from flashvideo.models.rope import rotary_table
from flashvideo.tensors import fusing

pytest.importorskip("triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RUNS = "1" if torch.cuda.is_available() else "interpret"


@pytest.fixture
def fuse(monkeypatch):
    """``fuse(True)``: kernels run from now on; fails if one does not."""
    monkeypatch.setattr(fusing, "_failed", [])
    yield lambda on: monkeypatch.setenv(fusing.SWITCH, RUNS if on else "0")
    assert fusing._failed == []


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)], ids=str
)
@pytest.mark.parametrize("tokens", [9, 4000], ids=["pieces", "one piece"])
def test_a_network_is_the_same(fuse, monkeypatch, dtype, error, tokens):
    monkeypatch.setattr(
        layer, "TOKENS_ON_CPU", tokens
    )  # 9: pieces of text, of text and video, of video; of two samples
    torch.manual_seed(0)
    network = FlashVideoNetwork(
        num_layers=1, num_attention_heads=3, attention_head_dim=16, text_embed_dim=8, max_text_seq_length=6, dtype=dtype
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    network.to(DEVICE)
    x, text = torch.randn(2, 16, 2, 4, 6, device=DEVICE, dtype=dtype), torch.randn(2, 6, 8, device=DEVICE, dtype=dtype)
    times = torch.tensor([500.0, 20.0], device=DEVICE)
    with torch.no_grad():
        fuse(False)
        plain = network(x, times, text).float()
        fuse(True)
        in_one_pass = network(x, times, text, inplace=True).float()
    assert (in_one_pass - plain).norm() <= error * plain.norm()
    assert dtype is torch.float32 or not torch.equal(in_one_pass, plain), "other roundings: the kernels did run"


def test_odd_head_sizes_go_the_plain_way(fuse):
    network = FlashVideoNetwork(num_layers=1, num_attention_heads=1, attention_head_dim=48, text_embed_dim=8).to(DEVICE)
    norms = network.layers[0].q_norm, network.layers[0].k_norm
    qkv = torch.randn(1, 10, 3 * 48, device=DEVICE)
    into = tuple(torch.empty(1, 10, 1, 48, device=DEVICE) for _ in range(3))
    fuse(True)
    assert fused.position(qkv, into, norms, rotary_table(1, 2, 5, 48, DEVICE), 0) is None


def test_pieces_of_text_alone():
    """On any device: a piece may hold no video token."""
    from flashvideo.models.rope import rotate

    nothing = torch.empty(2, 0, 3, 16, dtype=torch.bfloat16)
    assert rotate(nothing, rotary_table(1, 1, 1, 16)[:, :0], torch.empty_like(nothing)).shape == nothing.shape
