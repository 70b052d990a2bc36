"""A VAE whose weights accelerate keeps elsewhere and brings for every call gives the same bytes."""

from __future__ import annotations

import copy
from typing import Any

import accelerate
import pytest
import torch
from torch import nn

from flashvideo.vae.codec import decode_latents, encode_video, estimate_decode
from flashvideo.vae.limits import Limits
from flashvideo.vae.tiling.modules import unpadded

CPU = torch.device("cpu")


def on_cpu(vae: Any, _folder: Any) -> None:
    accelerate.cpu_offload(vae, execution_device=CPU)


def on_disk(vae: Any, folder: Any) -> None:
    accelerate.disk_offload(vae, str(folder), execution_device=CPU)


def as_a_whole(vae: Any, _folder: Any) -> None:
    accelerate.cpu_offload_with_hook(vae, execution_device=CPU)


@pytest.mark.parametrize("offload", [on_cpu, on_disk, as_a_whole])
def test_the_same_bytes(tiny_vae, tmp_path, offload):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, 3, 4, 5, generator=generator)
    video = torch.rand(1, 3, 9, 32, 40, generator=generator)
    vae = copy.deepcopy(tiny_vae)
    offload(vae, tmp_path)
    places = {name: parameter.device for name, parameter in vae.named_parameters()}
    assert torch.equal(decode_latents(vae, latents, tile=2), decode_latents(tiny_vae, latents, tile=2))
    encoded = encode_video(vae, video, sample=False, tile=2)
    assert torch.equal(encoded, encode_video(tiny_vae, video, sample=False, tile=2))
    assert {name: parameter.device for name, parameter in vae.named_parameters()} == places
    limits = Limits(memory_budget=1e9, host_budget=1e9)
    assert estimate_decode(vae, 9, 32, 40, limits) == estimate_decode(tiny_vae, 9, 32, 40, limits)


def test_weights_go_back_after_a_failure():
    conv, values = nn.Conv3d(4, 4, 3, padding=1), torch.rand(1, 4, 5, 5, 5)
    accelerate.cpu_offload(conv, execution_device=CPU)
    with pytest.raises(RuntimeError, match="channels"):
        unpadded(conv)(torch.rand(1, 3, 5, 5, 5))
    assert conv.weight.device.type == "meta"
    assert unpadded(conv)(values).shape == (1, 4, 3, 3, 3)
    assert conv(values).shape == (1, 4, 5, 5, 5)
