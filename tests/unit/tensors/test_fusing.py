"""Where Triton's kernels stand in for torch's operations, and what happens where they cannot."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from flashvideo.tensors import fusing


@pytest.fixture
def here(monkeypatch):
    """A machine on which kernels run."""
    monkeypatch.setattr(fusing, "_failed", [])
    monkeypatch.setattr(fusing, "_installed", lambda: True)
    monkeypatch.setenv(fusing.SWITCH, "interpret")


@pytest.fixture
def module(monkeypatch):
    """``module(kernel)``: the name of a module that has ``kernel``."""

    def make(kernel):
        monkeypatch.setitem(sys.modules, "some_kernels", types.SimpleNamespace(kernel=kernel))
        return "some_kernels"

    return make


VALUES = torch.ones(2, 3)


def test_where_they_run(here, monkeypatch):
    assert fusing.available(VALUES)
    assert not fusing.available(VALUES.double())
    assert not fusing.available(VALUES.clone().requires_grad_())
    with torch.no_grad():
        assert fusing.available(VALUES.clone().requires_grad_())
    monkeypatch.setenv(fusing.SWITCH, "0")
    assert not fusing.available(VALUES)
    monkeypatch.delenv(fusing.SWITCH)
    assert not fusing.available(VALUES), "a CPU"


def test_what_cannot_be_built_is_said_once_and_left_out(here, module, caplog):
    def broken(*_):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    assert fusing.run(module(broken), "kernel", 1) is None
    assert "Triton's kernel does not run here (RuntimeError: Failed to find C compiler" in caplog.text
    assert "FLASHVIDEO_TRITON=0" in caplog.text
    assert not fusing.available(VALUES)


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: an illegal memory access")]
)
def test_errors_of_the_device_are_not_swallowed(here, module, error):
    def broken(*_):
        raise error

    with pytest.raises(type(error)):
        fusing.run(module(broken), "kernel")
    assert fusing.available(VALUES)


def hooked():
    norm = nn.LayerNorm(4)
    norm.register_forward_hook(lambda *_: None)
    return norm


def streamed():
    norm = nn.LayerNorm(4)
    norm.comfy_cast_weights = True
    return norm


def patched():
    norm = nn.LayerNorm(4)
    norm.weight_function = [lambda weight: weight]
    return norm


def offloaded():
    norm = nn.LayerNorm(4)
    norm._hf_hook = object()
    return norm


@pytest.mark.parametrize(
    "layer",
    [hooked, streamed, patched, offloaded, lambda: nn.LayerNorm(4, device="meta"), lambda: nn.LayerNorm(4).double()],
    ids=["hooked", "streamed", "patched", "offloaded", "elsewhere", "fp64"],
)
def test_weights_that_others_bring_are_not_read(layer):
    assert fusing.weights_of(layer(), VALUES) is None


@pytest.mark.parametrize("layer", [nn.LayerNorm(4), nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3)])
def test_weights_in_place(layer):
    assert fusing.weights_of(layer, VALUES) == (layer.weight, layer.bias)


def test_layers_without_weights():
    assert fusing.weights_of(nn.LayerNorm(4, elementwise_affine=False), VALUES) is None
    assert fusing.weights_of(nn.Identity(), VALUES) is None
