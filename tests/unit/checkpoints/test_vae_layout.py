"""Key names and architecture of the published 3D VAE file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flashvideo.checkpoints import vae_layout
from tests.conftest import TINY

ROOT = Path(__file__).parents[3]


def full_shapes() -> dict[str, tuple[int, ...]]:
    listed = json.loads((ROOT / "tests/golden/keys_vae.json").read_text())
    return {name: tuple(shape) for name, shape in listed["keys"]}


def tiny_shapes() -> dict[str, tuple[int, ...]]:
    state = torch.load(TINY / "3d-vae.pt", weights_only=True)["state_dict"]
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("shapes", [full_shapes, tiny_shapes])
def test_every_key_has_its_place(shapes):
    from diffusers import AutoencoderKLCogVideoX

    source = shapes()
    with torch.device("meta"):
        vae = AutoencoderKLCogVideoX(**vae_layout.infer_vae_config(source))
    wanted = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    mapped = vae_layout.published_vae_key_map(source)
    assert set(mapped.values()) == set(source)
    assert {vae_layout.published_vae_name(name, 4): name for name in mapped} == {
        old: name for name, old in mapped.items()
    }
    assert {name: source[old] for name, old in mapped.items()} == wanted
    assert vae_layout.infer_vae_config(wanted) == vae_layout.infer_vae_config(source)
    assert vae_layout.is_diffusers_vae(wanted)
    assert not vae_layout.is_published_vae(wanted)


def test_full_size_has_436_keys_and_the_published_widths():
    config = vae_layout.infer_vae_config(full_shapes())
    assert len(vae_layout.published_vae_key_map(full_shapes())) == 436
    assert config["block_out_channels"] == (128, 256, 256, 512)
    assert (config["layers_per_block"], config["latent_channels"]) == (3, 16)


def test_ballast_is_left_out():
    keys = [*tiny_shapes(), "loss.logvar", "encoder.down.0.attn.0.q.weight"]
    mapped = vae_layout.published_vae_key_map(keys)
    assert set(keys) - set(mapped.values()) == {"loss.logvar", "encoder.down.0.attn.0.q.weight"}


def test_wrong_files_are_named():
    with pytest.raises(ValueError, match="published 3D VAE layout"):
        vae_layout.published_vae_key_map(["first_stage_model.encoder.conv_in.weight"])
    with pytest.raises(ValueError, match="not a CogVideoX VAE"):
        vae_layout.infer_vae_config({"x": (1,)})
    shapes = tiny_shapes()
    del shapes["decoder.conv_out.conv.weight"]
    with pytest.raises(ValueError, match=r"decoder\.conv_out"):
        vae_layout.infer_vae_config(shapes)
    narrow = tiny_shapes() | {"encoder.down.0.block.0.conv1.conv.weight": (24, 32, 3, 3, 3)}
    with pytest.raises(ValueError, match="multiples of the 32 groups"):
        vae_layout.infer_vae_config(narrow)
