"""The strength of a LoRA: everything that says something of it, against PEFT and against the formula."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvideo import convert_checkpoint, load_stage1
from flashvideo.loading.lora import open_lora, read_lora, save_lora
from flashvideo.loading.lora_scale import _MORE_THAN_LORA, _PLAIN_ENTRIES, _WITHOUT_EFFECT
from flashvideo.runs.inspect import inspect_checkpoint

SMALL = {"num_layers": 2, "num_attention_heads": 2, "text_embed_dim": 32, "time_embed_dim": 64}
Q, OUT = "transformer_blocks.0.attn1.to_q", "transformer_blocks.1.attn1.to_out.0"
PEFT, KOHYA = (".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight")


def tensors(sides=PEFT, rank=4, prefix="transformer."):
    state = {}
    for module in (Q, OUT):
        state[f"{prefix}{module}{sides[0]}"] = torch.ones(rank, 128)
        state[f"{prefix}{module}{sides[1]}"] = torch.ones(128, rank)
    return state


def lora(folder, *, rank=4, sides=PEFT, config=None, header=None, alphas=(), name="lora.safetensors"):
    """A file with what is said of it in each place."""
    folder.mkdir(exist_ok=True)
    state = tensors(sides, rank)
    state |= {f"transformer.{module}.alpha": torch.tensor(float(alpha)) for module, alpha in alphas}
    save_file(state, folder / name, metadata=header)
    if config is not None:
        (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder / name


def scales(path):
    return {module.piece.module: module.scale.value for module in open_lora(path).modules}


PEFT_CONFIGS = {
    "plain": {"lora_alpha": 8},
    "rank-stabilised": {"lora_alpha": 8, "use_rslora": True},
    "rank-stabilised, another rank": {"r": 6, "lora_alpha": 3, "use_rslora": True},
    "alpha of a leaf": {"lora_alpha": 8, "alpha_pattern": {"to_q": 2}},
    "alpha of one module": {"lora_alpha": 8, "alpha_pattern": {"transformer_blocks.1.attn1.to_out.0": 32}},
    "alpha by an expression": {"lora_alpha": 8, "alpha_pattern": {r"transformer_blocks\.1\..*": 1}},
    "rank of a leaf": {"lora_alpha": 8, "rank_pattern": {"to_k": 2}},
    "the first pattern holds": {"lora_alpha": 8, "alpha_pattern": {r".*\.attn1\.to_(q|k)": 5, "to_q": 50}},
    "everything": {
        **{"r": 5, "lora_alpha": 3, "use_rslora": True, "rank_pattern": {r"\w*_blocks\.0\.attn1\.to_v": 7, "to_q": 3}},
        **{"alpha_pattern": {r".*1\.attn1\.to_\w": 11}},
    },
}


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """diffusers' transformer and its folder."""
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    model = CogVideoXTransformer3DModel(**SMALL, use_rotary_positional_embeddings=True)
    folder = tmp_path_factory.mktemp("cogvideox")
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("config", PEFT_CONFIGS.values(), ids=PEFT_CONFIGS)
def test_scales_are_pefts(twin, tmp_path, config):
    """Its own folder, its file alone, diffusers' header; scales to the last bit, and the merged weights."""
    from peft import LoraConfig, get_peft_model

    base, folder = twin
    config = {"r": 4, **config}
    made = LoraConfig(**config, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    model = get_peft_model(copy.deepcopy(base), made)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)
    expected = {
        name.removeprefix("base_model.model."): module.scaling["default"]
        for name, module in model.named_modules()
        if hasattr(module, "scaling")
    }
    assert len(expected) == 8
    model.save_pretrained(tmp_path / "peft")
    header = {f"transformer.{k}": sorted(v) if isinstance(v, set) else v for k, v in made.to_dict().items()}
    weights = model.get_base_model().state_dict()
    state = {f"transformer.{k.replace('.default', '')}": v for k, v in weights.items() if "lora_" in k}
    (tmp_path / "diffusers").mkdir()
    named = tmp_path / "diffusers" / "pytorch_lora_weights.safetensors"
    save_file(state, named, metadata={"lora_adapter_metadata": json.dumps(header)})
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    reference = load_stage1(tmp_path / "merged")
    (tmp_path / "pickled").mkdir()
    torch.save(load_file(tmp_path / "peft" / "adapter_model.safetensors"), tmp_path / "pickled" / "adapter_model.bin")
    shutil.copy(tmp_path / "peft" / "adapter_config.json", tmp_path / "pickled")
    for path in (tmp_path / "peft", tmp_path / "peft" / "adapter_model.safetensors", tmp_path / "pickled", named):
        assert scales(path) == expected
        assert open_lora(path).notes == ()
        loaded = load_stage1(folder, lora=path)
        for name, parameter in reference.named_parameters():
            assert torch.allclose(loaded.get_parameter(name), parameter, atol=1e-6), name


@pytest.mark.parametrize("rank", [4, 16, 128])
def test_rank_stabilised_from_the_header(tmp_path, rank):
    """alpha / sqrt(rank): sqrt(rank) times as strong as alpha / rank."""
    config = {"transformer.r": rank, "transformer.lora_alpha": 8, "transformer.use_rslora": True}
    path = lora(tmp_path, rank=rank, header={"lora_adapter_metadata": json.dumps(config)})
    assert set(scales(path).values()) == {8 / math.sqrt(rank)}
    down, up = read_lora(path)["layers.1.attn_out"]
    assert torch.allclose(up @ down, torch.full((128, 128), rank * 8 / math.sqrt(rank)))


@pytest.mark.parametrize(
    ("made", "scale"),
    [
        ({}, 1),
        ({"header": {"lora_alpha": "8"}}, 2),
        ({"header": {"lora_alpha": "8", "use_rslora": "True"}}, 4),
        ({"header": {"alpha": "8", "rank": "4", "rslora": "false"}}, 2),
        ({"header": {"network_alpha": "2", "network_dim": "4"}}, 0.5),
        ({"header": {"transformer.lora_alpha": "2"}}, 0.5),
        ({"header": {"lora_alpha": "-2"}}, -0.5),
        ({"header": {"alpha_pattern": '{"attn1.*": 6}'}}, 1.5),
        ({"header": {"rank": "7"}}, 1),  # of whatever: there is no alpha
        ({"header": {"peft_config": '{"lora_alpha": 2, "peft_type": "LORA"}'}}, 0.5),
        ({"header": {"lora_adapter_metadata": '{"text_encoder.lora_alpha": 2, "transformer.lora_alpha": 16}'}}, 4),
        ({"header": {"lora_adapter_metadata": '{"text_encoder.lora_alpha": 2}'}}, 1),
        ({"header": {"ss_network_alpha": "2", "ss_network_dim": "8"}, "sides": KOHYA}, 0.5),
        ({"header": {"ss_network_alpha": "2", "ss_network_args": '{"rs_lora": "True"}'}, "sides": KOHYA}, 1),
        ({"header": {"ss_network_alpha": "None"}, "sides": KOHYA}, 1),
        ({"header": {"ss_network_alpha": "nan"}, "sides": KOHYA, "alphas": [(Q, 2), (OUT, 2)]}, 0.5),
        ({"config": {"lora_alpha": 2}}, 0.5),
        ({"config": {"r": 4, "lora_alpha": 2.0, "use_rslora": True}}, 1),
        ({"config": {"r": 4}}, 1),
        ({"alphas": [(Q, 2), (OUT, 2)]}, 0.5),
        ({"alphas": [(Q, -2), (OUT, -2)]}, -0.5),
    ],
)
def test_where_a_scale_is_stated(tmp_path, made, scale):
    path = lora(tmp_path / "lora", **made)
    assert scales(path) == {Q: scale, OUT: scale}
    assert open_lora(path).notes == ()
    converted = convert_checkpoint(path, tmp_path / "converted.safetensors")
    down, up = read_lora(converted)["layers.1.attn_out"]
    assert torch.allclose(up @ down, torch.full((128, 128), 4.0 * scale))
    (group,) = inspect_checkpoint(path).lora_scales
    assert (group.scale, len(group.modules)) == (scale, 2)


@pytest.mark.parametrize(
    ("made", "scale", "said"),
    [
        (
            {"alphas": [(Q, 4), (OUT, 4)], "config": {"lora_alpha": 8}},
            1,
            "contradicting scales of .*: 1 .*from its alpha.* is used; 2 .*adapter_config.json.* is not",
        ),
        (
            {"header": {"lora_adapter_metadata": '{"lora_alpha": 4}'}, "config": {"lora_alpha": 8}},
            1,
            "contradicting scales",
        ),
        ({"config": {"lora_alpha": 2}, "header": {"lora_alpha": "8"}}, 0.5, "contradicting scales"),
        ({"header": {"ss_network_alpha": "2"}}, 1, "ss_network_alpha .* says alpha 2, .* scale 1 is used"),
        ({"config": {"lora_alpha": 4, "alpha_pattern": {"to_w": 2}}}, 1, "something of to_w: no module"),
        ({"header": {"lora_scale": "0.7"}}, 1, "the header says lora_scale '0.7'.* as the strength"),
        ({"config": {"lora_alpha": 4, "use_new_idea": True}}, 1, "use_new_idea, which is not known here"),
    ],
)
def test_contradictions_are_told(tmp_path, caplog, made, scale, said):
    path = lora(tmp_path, **made)
    with caplog.at_level(logging.WARNING):
        read_lora(path)
    assert set(scales(path).values()) == {scale}
    (note,) = inspect_checkpoint(path).notes
    assert re.search(said, note)
    assert note in caplog.text


def test_a_configuration_belongs_to_its_own_weights(tmp_path):
    """In a folder of many LoRAs it is adapter_model's."""
    own = lora(tmp_path, config={"lora_alpha": 8}, name="adapter_model.safetensors")
    other = lora(tmp_path, name="style.safetensors")
    assert set(scales(own).values()) == {2}
    assert set(scales(other).values()) == {1}
    (note,) = open_lora(other).notes
    assert "adapter_config.json was not used" in note


def test_a_converted_file_has_its_scale_in_it(tmp_path):
    """Nothing that lies beside it is applied a second time."""
    path = lora(tmp_path, config={"lora_alpha": 8})
    converted = convert_checkpoint(path, tmp_path / "native.safetensors")
    path.unlink()
    assert set(scales(converted).values()) == {1}
    assert torch.allclose(read_lora(converted)["layers.1.attn_out"][1], torch.full((128, 4), 2.0))


@pytest.mark.parametrize("value", [10**5000, {"a": {}}, "x" * 10**6], ids=["an endless number", "a table", "a text"])
def test_what_pickles_state_is_shown_in_short(tmp_path, value):
    torch.save({"state_dict": tensors(), "lora_alpha": value}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"the header of a.pt says lora_alpha.*; expected a finite number") as error:
        read_lora(tmp_path / "a.pt")
    assert len(str(error.value)) < 500
    torch.save({"state_dict": tensors(), "lora_alpha": 8, "use_rslora": value}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="expected true or false"):
        read_lora(tmp_path / "b.pt")
    torch.save({**tensors(), f"transformer.{Q}.alpha": value}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="expected a finite number"):
        read_lora(tmp_path / "c.pt")


def test_pickles_state_it_in_plain_numbers(tmp_path):
    state = tensors()
    torch.save({**state, f"transformer.{Q}.alpha": 2, f"transformer.{OUT}.alpha": 8.0}, tmp_path / "a.pt")
    assert scales(tmp_path / "a.pt") == {Q: 0.5, OUT: 2}
    torch.save({**state, f"transformer.{Q}.lora_A.alpha": 2}, tmp_path / "elsewhere.pt")
    with pytest.raises(ValueError, match="match no module"):
        read_lora(tmp_path / "elsewhere.pt")
    torch.save({"state_dict": state, "lora_alpha": 8, "use_rslora": True}, tmp_path / "b.pt")
    assert set(scales(tmp_path / "b.pt").values()) == {4}
    torch.save({"state_dict": state, "lora_config": {"r": 4, "lora_alpha": 8}}, tmp_path / "c.pt")
    assert set(scales(tmp_path / "c.pt").values()) == {2}
    torch.save({"state_dict": state, "lora_alpha": 8}, tmp_path / "d.pt", _use_new_zipfile_serialization=False)
    assert set(scales(tmp_path / "d.pt").values()) == {2}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"alphas": [(Q, math.nan)]}, "to_q.alpha is nan; expected a finite number, not 0"),
        ({"alphas": [(Q, math.inf)]}, "to_q.alpha is inf"),
        ({"alphas": [(Q, 0)]}, "to_q.alpha is 0.0"),
        ({"config": {"lora_alpha": 0}}, "lora_alpha 0; expected a finite number"),
        ({"config": '{"lora_alpha": NaN}'}, "lora_alpha nan"),
        ({"config": '{"lora_alpha": 1e400}'}, "lora_alpha inf"),
        ({"config": f'{{"lora_alpha": 1{"0" * 400}}}'}, r"lora_alpha \(int\)"),
        ({"config": {"lora_alpha": True}}, "lora_alpha True"),
        ({"config": {"lora_alpha": "much"}}, "lora_alpha 'much'"),
        ({"config": {"lora_alpha": [4]}}, r"lora_alpha \(list\)"),
        ({"config": {"lora_alpha": 4, "alpha_pattern": {"to_q": "x"}}}, "alpha_pattern of to_q 'x'"),
        ({"config": {"lora_alpha": 4, "alpha_pattern": [4]}}, "expected a table of module names"),
        ({"config": {"lora_alpha": 4, "alpha_pattern": {"to_(q": 4}}}, r"pattern to_\(q, which is none"),
        ({"config": {"lora_alpha": 4, "alpha_pattern": {"(a+)+$": 4}}}, "could take forever"),
        ({"config": {"lora_alpha": 4, "alpha_pattern": {r"((\w+))+!": 4}}}, "could take forever"),
        ({"config": {"lora_alpha": 4, "alpha_pattern": {r"(\w?\w?)+!": 4}}}, "could take forever"),
        ({"config": {"lora_alpha": 4, "rank_pattern": {".*.*.*.*.*.*x": 4}}}, "could take forever"),
        ({"config": {"lora_alpha": 4, "rank_pattern": {r"\w?" * 30 + "!": 4}}}, "could take forever"),
        ({"config": {"lora_alpha": 4, "rank_pattern": {f".*{i}": 4 for i in range(300)}}}, "more than 200 expressions"),
        ({"config": {"lora_alpha": 4, "use_rslora": "perhaps"}}, "use_rslora 'perhaps'; expected true or false"),
        ({"config": {"lora_alpha": 4, "r": 0}}, "r 0; expected a whole number"),
        ({"config": {"lora_alpha": 4, "r": -4}}, "r -4"),
        ({"config": {"lora_alpha": 4, "r": 2.5}}, "r 2.5"),
        ({"config": {"lora_alpha": 4, "r": 8}}, "says rank 8 of .*to_q, its tensors have rank 4"),
        ({"config": {"lora_alpha": 4, "r": 4, "rank_pattern": {"to_out.0": 2}}}, "says rank 2 of .*to_out.0"),
        ({"config": {"use_rslora": True}}, "states no alpha of"),
        ({"config": {"alpha_pattern": {"to_q": 4}}}, "states no alpha of .*to_out"),
        ({"config": "[]"}, "no table of settings"),
        ({"config": "{"}, "is no JSON"),
        ({"config": '{"a":' * 100000}, "is no JSON"),
        ({"header": {"lora_adapter_metadata": "lora"}}, "lora_adapter_metadata of lora.safetensors is no JSON"),
        ({"header": {"lora_alpha": "nan"}}, "lora_alpha 'nan'"),
        ({"header": {"lora_alpha": "4", "r": "64"}}, "says rank 64"),
        ({"header": {"ss_network_alpha": "x"}, "sides": KOHYA}, "ss_network_alpha 'x'"),
        ({"header": {"lora_adapter_metadata": '{"lora_alpha": 4, "transformer.lora_alpha": 8}'}}, "two values of"),
    ],
)
def test_scales_that_are_no_numbers_are_refused(tmp_path, made, message):
    path = lora(tmp_path, **made)
    with pytest.raises(ValueError, match=message):
        read_lora(path)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(path, tmp_path / "out.safetensors")
    assert re.search(message, inspect_checkpoint(path).problems[0])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        *[({name: True}, words) for name, words in _MORE_THAN_LORA.items()],
        ({"bias": "lora_only"}, "trained biases"),
        ({"peft_type": "LOHA"}, "PEFT's LOHA"),
        *[({"init_lora_weights": start}, start) for start in ("pissa", "pissa_niter_16", "olora", "loftq", "corda")],
    ],
)
def test_configurations_of_more_than_a_lora_are_refused(tmp_path, config, message):
    path = lora(tmp_path, config={"r": 4, "lora_alpha": 4, **config})
    with pytest.raises(ValueError, match=f"{message}.*only plain LoRA is read"):
        read_lora(path)


def test_starts_that_leave_the_model_alone_are_read(tmp_path):
    for start in (True, False, "gaussian", "eva", "orthogonal"):
        path = lora(tmp_path, config={"r": 4, "lora_alpha": 4, "init_lora_weights": start, "bias": "none"})
        assert set(scales(path).values()) == {1}


def test_every_setting_of_peft_is_known():
    """A new one may be a scale."""
    from peft import LoraConfig

    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert not fields - {*_PLAIN_ENTRIES, *_MORE_THAN_LORA, *_WITHOUT_EFFECT}


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_strengths_that_are_no_numbers_are_refused(twin, tmp_path, scale):
    path = lora(tmp_path)
    with pytest.raises(ValueError, match="lora_scale is"):
        load_stage1(twin[1], lora=path, lora_scale=scale)


def test_a_lora_is_written_in_a_dtype(tmp_path):
    path = lora(tmp_path / "lora", config={"r": 4, "lora_alpha": 6})
    for dtype in ("fp32", "bf16", "fp16"):
        found = inspect_checkpoint(convert_checkpoint(path, tmp_path / f"{dtype}.safetensors", dtype=dtype))
        assert (found.metadata.dtype, set(found.dtypes)) == (dtype, {dtype})
    assert inspect_checkpoint(convert_checkpoint(path, tmp_path / "new.safetensors")).metadata.dtype == "fp32"
    with pytest.raises(ValueError, match="not written in fp8"):
        convert_checkpoint(path, tmp_path / "fp8.safetensors", dtype="fp8_e4m3")
    with pytest.raises(ValueError, match="too large for fp16"):
        save_lora({"a": (torch.ones(1, 1), torch.full((1, 1), 1e6))}, tmp_path / "x.safetensors", dtype=torch.float16)
