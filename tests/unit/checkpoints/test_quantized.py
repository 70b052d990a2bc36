"""Weights in few bits with scales: every way that ComfyUI and the common quantisers store them, at real widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flashvideo.checkpoints.files import WeightFile, open_weights
from flashvideo.checkpoints.quantized import unquantized
from tests.quantized_files import FP8, WAYS, note, quantized

NAME = "layers.0.mlp_up"


def opened(folder: Path, layer: dict[str, Any], metadata: dict[str, str] | None = None) -> WeightFile:
    state = {f"{NAME}.{leaf}": tensor for leaf, tensor in layer.items()}
    save_file(state, folder / "layer.safetensors", metadata=metadata)
    return unquantized(open_weights(folder / "layer.safetensors"))


@pytest.mark.parametrize("shape", [(7680, 1920), (1920, 7680), (160, 192)], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_values_are_exact(tmp_path, way, shape):
    """Stage II's widths are read in 14 blocks of rows; 160 and 192 end in a part of a block of 64 and 128."""
    layer, expected = quantized(way, shape)
    weights = opened(tmp_path, layer)
    assert list(weights.tensors) == [f"{NAME}.weight"]
    info = weights.tensors[f"{NAME}.weight"]
    assert info.shape == shape
    whole = info.load(torch.float32)
    limit = 1e-5 if "rotated" in way else 0.0  # sums of products round by their order
    assert (whole - expected).abs().max() <= limit * expected.abs().max()
    assert torch.equal(info.load(torch.bfloat16), whole.bfloat16())
    rows = info.rows()
    assert torch.equal(torch.cat([rows(start, min(start + 37, shape[0])) for start in range(0, shape[0], 37)]), whole)


@pytest.mark.parametrize("way", ["one number", "rows", "mxfp8", "nvfp4"])
def test_the_header_says_the_format(tmp_path, way):
    layer, expected = quantized(way, (64, 64))
    stated = {"mxfp8": "mxfp8", "nvfp4": "nvfp4"}.get(way, "float8_e4m3fn")
    layer.pop("comfy_quant", None)
    header = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": {NAME: {"format": stated}}})}
    weights = opened(tmp_path, layer, header)
    assert weights.tensors[f"{NAME}.weight"].quantized.format == stated
    assert torch.equal(weights.tensors[f"{NAME}.weight"].read(), expected)


def test_bytes_may_hold_fp8_and_scales(tmp_path):
    """As QUANTIZATION.md allows it."""
    for way, leaf in (("comfy_quant", "weight"), ("nvfp4", "weight_scale")):
        layer, expected = quantized(way, (64, 64))
        weights = opened(tmp_path, {**layer, leaf: layer[leaf].view(torch.uint8)})
        assert torch.equal(weights.tensors[f"{NAME}.weight"].read(), expected)


def test_smoothing_is_folded_into_the_columns(tmp_path):
    layer, expected = quantized("nvfp4", (64, 96))
    smoothing = torch.rand(96) + 0.5
    weights = opened(tmp_path, {**layer, "pre_quant_scale": smoothing})
    assert torch.equal(weights.tensors[f"{NAME}.weight"].read(), expected * smoothing)


def test_plain_weights_and_markers(tmp_path):
    """A scale of activations without one of the weight, ComfyUI's old marker, notes of no weight."""
    plain = torch.randn(4, 4)
    state = {"a.weight": plain, "a.input_scale": torch.ones(()), "model.scaled_fp8": torch.ones(2).to(FP8)}
    save_file({**state, "b.weight_scale": torch.ones(())}, tmp_path / "x.safetensors")
    weights = unquantized(open_weights(tmp_path / "x.safetensors"))
    assert list(weights.tensors) == ["a.weight", "b.weight_scale"]
    assert torch.equal(weights.tensors["a.weight"].read(), plain)


def _changed(way: str, **changes: Any) -> dict[str, Any]:
    layer = {**quantized(way, (160, 192))[0], **changes}
    return {leaf: tensor for leaf, tensor in layer.items() if tensor is not None}


BYTES = torch.zeros(160, 192, dtype=torch.uint8)
REFUSED = {
    "one a column": (_changed("one number", weight_scale=torch.ones(192)), r"scale of shape \[192\]"),
    "other blocks": (_changed("one number", weight_scale=torch.ones(7, 3)), r"scale of shape \[7, 3\]"),
    "empty": (_changed("one number", weight_scale=torch.ones(0)), r"scale of shape \[0\]"),
    "none": (_changed("comfy_quant", weight_scale=None), "lacks its weight_scale"),
    "deep": (_changed("one number", weight_scale=torch.ones(160, 2, 2)), r"scale of shape \[160, 2, 2\]"),
    "two": (_changed("one number", scale_weight=torch.ones(())), "two tensors for weight_scale"),
    "flat": (_changed("one number", weight=torch.ones(160).to(FP8)), "scales belong to a matrix"),
    "bytes": (_changed("one number", weight=BYTES), r"stored as torch\.uint8"),
    "long": (_changed("one number", weight=BYTES.long()), r"stored as torch\.int64"),
    "activations": (_changed("comfy_quant", input_scale=torch.ones(160)), r"input_scale of shape \[160\]"),
    "smoothing": (_changed("comfy_quant", pre_quant_scale=torch.ones(160)), "pre_quant_scale"),
    "second": (_changed("comfy_quant", weight_scale_2=torch.ones(())), "has a weight_scale_2"),
    "nvfp4 alone": (_changed("nvfp4", weight_scale_2=None), "lacks its weight_scale_2"),
    "nvfp4 in order": (_changed("nvfp4", weight_scale=torch.ones(160, 12).to(FP8)), r"expected bytes \[256, 12\]"),
    "nvfp4 in fp8": (_changed("nvfp4", weight=torch.ones(160, 96).to(FP8)), "which nvfp4 is not"),
    "mxfp8 in fp32": (_changed("mxfp8", weight_scale=torch.ones(256, 8)), "mxfp8 scales torch.float32"),
    "rotation": (_changed("int8", comfy_quant=note({"format": "int8_tensorwise", "convrot": True})), "groups of 256"),
    "odd rotation": (
        _changed("int8", comfy_quant=note({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 32})),
        "groups of 32",
    ),
    "rotation in words": (
        _changed("int8", comfy_quant=note({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": [4]})),
        "groups of -1",
    ),
    "w4a4": (_changed("int8", comfy_quant=note({"format": "convrot_w4a4"})), "'convrot_w4a4', which is not read"),
    "unknown": (_changed("int8", comfy_quant=note({"format": ["x"]})), "which is not read"),
    "no JSON": (_changed("int8", comfy_quant=torch.zeros(9, dtype=torch.uint8)), "no JSON"),
    "no table": (_changed("int8", comfy_quant=torch.tensor(list(b"[1]"), dtype=torch.uint8)), "no table"),
    "odd note": (_changed("int8", comfy_quant=torch.zeros(2, 2)), "bytes of a JSON table"),
    "GPTQ": ({"qweight": BYTES.int(), "qzeros": BYTES.int(), "scales": torch.ones(4)}, "GPTQ or AWQ"),
    "Nunchaku": ({"qweight": BYTES, "wscales": torch.ones(4)}, "Nunchaku"),
    "bitsandbytes": ({"weight": BYTES, "weight.absmax": torch.ones(4)}, "bitsandbytes"),
    "LLM.int8": ({"weight": BYTES.char(), "SCB": torch.ones(4)}, "bitsandbytes"),
    "Quanto": ({"weight._data": BYTES.char(), "weight._scale": torch.ones(160, 1)}, "Quanto"),
    "compressed": ({"weight_packed": BYTES, "weight_scale": torch.ones(4)}, "compressed-tensors"),
    "w4a8": ({"weight": BYTES.char(), "weight_s_rel": torch.ones(4)}, "asym_w4a8_int8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_its_name(tmp_path, case):
    layer, words = REFUSED[case]
    with pytest.raises(ValueError, match=words) as error:
        opened(tmp_path, layer)
    assert "layer.safetensors" in str(error.value)
    assert NAME in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"layers": 3}', '{"layers": {"a": 3}}'])
def test_a_damaged_header(tmp_path, text):
    with pytest.raises(ValueError, match="_quantization_metadata"):
        opened(tmp_path, quantized("one number", (16, 16))[0], {"_quantization_metadata": text})
