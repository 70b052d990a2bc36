"""LoRA files of every naming: the same change, merged or as an adapter, there and back."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvideo import FlashVideoTransformer3DModel, convert_checkpoint, load_stage1
from flashvideo.checkpoints.layouts import LAYOUTS, transformer_layout
from flashvideo.checkpoints.lora_names import resolve_module
from flashvideo.loading.lora import read_lora
from flashvideo.runs.inspect import inspect_checkpoint
from tests.lora_files import NAMINGS, SAT, adapter_pairs, add_adapter, diffusers_names, every_product, lora_file

SMALL = {"num_layers": 2, "num_attention_heads": 2, "text_embed_dim": 32, "time_embed_dim": 64}
MODULES = {  # diffusers module -> (out, in)
    "attn1.to_q": (128, 128),
    "attn1.to_k": (128, 128),
    "attn1.to_v": (128, 128),
    "attn1.to_out.0": (128, 128),
    "norm1.linear": (768, 64),
    "norm2.linear": (768, 64),
    "ff.net.0.proj": (512, 128),
    "ff.net.2": (128, 512),
}


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """A diffusers CogVideoX folder with random weights."""
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    model = CogVideoXTransformer3DModel(**SMALL, use_rotary_positional_embeddings=True)
    folder = tmp_path_factory.mktemp("cogvideox")
    model.save_pretrained(folder)
    return model, folder


def adapters(modules=MODULES, rank=3, ranks=None):
    generator = torch.Generator().manual_seed(7)
    made = {}
    for layer in range(2):
        for module, (out, features) in modules.items():
            r = (ranks or {}).get(module, rank)
            pair = (torch.randn(r, features, generator=generator), torch.randn(out, r, generator=generator))
            made[f"transformer_blocks.{layer}.{module}"] = tuple(tensor * 0.1 for tensor in pair)
    return made


def diffusers_file(path, pairs, metadata=None):
    state = {}
    for module, (down, up) in pairs.items():
        state[f"transformer.{module}.lora_A.weight"], state[f"transformer.{module}.lora_B.weight"] = down, up
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata=metadata)
    return path


def kohya_file(path, pairs, alpha):
    state = {}
    for module, (down, up) in pairs.items():
        name = "lora_unet_" + module.replace(".", "_")
        state[f"{name}.lora_down.weight"], state[f"{name}.lora_up.weight"] = down, up
        state[f"{name}.alpha"] = torch.tensor(float(alpha))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def merged_by_hand(model, pairs, scale, tmp_path):
    """diffusers' model with the change added to its own separate weights, loaded through its folder."""
    import copy

    changed = copy.deepcopy(model)
    with torch.no_grad():
        for module, (down, up) in pairs.items():
            changed.get_submodule(module).weight += scale * (up @ down)
    changed.save_pretrained(tmp_path / "merged")
    return load_stage1(tmp_path / "merged")


def assert_same(a, b, atol=1e-6):
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.allclose(x, y, atol=atol), name


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_diffusers_lora_merges_as_by_hand(twin, tmp_path, scale):
    model, folder = twin
    pairs = adapters()
    path = diffusers_file(tmp_path / "lora.safetensors", pairs)
    assert_same(load_stage1(folder, lora=path, lora_scale=scale), merged_by_hand(model, pairs, scale, tmp_path))


def test_lora_with_different_ranks_of_q_k_v(twin, tmp_path):
    model, folder = twin
    pairs = adapters(ranks={"attn1.to_q": 1, "attn1.to_v": 5})
    del pairs["transformer_blocks.1.attn1.to_k"]
    path = diffusers_file(tmp_path / "lora.safetensors", pairs)
    assert_same(load_stage1(folder, lora=path), merged_by_hand(model, pairs, 1, tmp_path))
    down, up = read_lora(path)["layers.0.qkv"]
    assert down.shape == (1 + 3 + 5, 128)
    assert up.shape == (384, 9)
    assert up[:128, 1:].abs().max() == 0, "q's rows use q's ranks only"


def test_kohya_lora_with_alpha(twin, tmp_path):
    model, folder = twin
    pairs = adapters(rank=4)
    path = kohya_file(tmp_path / "lora.safetensors", pairs, alpha=2)
    assert_same(load_stage1(folder, lora=path), merged_by_hand(model, pairs, 0.5, tmp_path))


def test_peft_metadata_gives_the_alpha(twin, tmp_path):
    model, folder = twin
    pairs = adapters(rank=4)
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})}
    path = diffusers_file(tmp_path / "lora.safetensors", pairs, metadata)
    assert_same(load_stage1(folder, lora=path), merged_by_hand(model, pairs, 2, tmp_path))


def test_lora_trained_by_peft_on_diffusers_model(twin, tmp_path):
    """A LoRA as diffusers itself saves it."""
    import copy

    from diffusers import CogVideoXPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    model, folder = twin
    trained = copy.deepcopy(model)
    trained.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    state = get_peft_model_state_dict(trained)
    CogVideoXPipeline.save_lora_weights(tmp_path, transformer_lora_layers=state)
    merged = load_stage1(folder, lora=tmp_path / "pytorch_lora_weights.safetensors")
    trained.fuse_lora()
    expected = torch.cat([trained.transformer_blocks[0].attn1.get_submodule(f"to_{p}").weight for p in "qkv"])
    assert torch.allclose(merged.layers[0].qkv.weight, expected, atol=1e-6)


@pytest.fixture(scope="module")
def every_module(twin):
    return every_product(load_stage1(twin[1]))


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_name_is_loaded_inspected_and_converted(twin, every_module, tmp_path, naming):
    path = lora_file(every_module, tmp_path / "lora.safetensors", naming)
    base, merged = load_stage1(twin[1]), load_stage1(twin[1], lora=path)
    for module, (down, up) in every_module.items():
        expected = base.get_submodule(module).weight + up @ down
        assert torch.allclose(merged.get_submodule(module).weight, expected, atol=1e-5), module
    found = inspect_checkpoint(path)
    assert (found.kind, found.sound, found.notes) == ("lora", True, ())
    (scales,) = found.lora_scales
    assert scales.scale == (0.5 if NAMINGS[naming].sides is SAT else 1)
    again = read_lora(convert_checkpoint(path, tmp_path / "converted.safetensors", kind="lora"))
    assert again.keys() == every_module.keys()
    for module, (down, up) in every_module.items():
        assert torch.allclose(again[module][1] @ again[module][0], up @ down, atol=1e-5), module


def test_every_module_has_names_of_its_own():
    """Names are read word by word: no two modules are the same words."""
    for layout in LAYOUTS:
        for native, pieces in transformer_layout(layout, 42).items():
            for piece in pieces:
                for name in (piece.module, "lora_unet_" + piece.module.replace(".", "_")):
                    resolved, found = resolve_module(name)
                    assert (resolved, found.rows, found.parts) == (native, piece.rows, piece.parts), name


def test_a_fused_adapter_holds_its_parts(tmp_path):
    pairs = adapters(ranks={"attn1.to_q": 2})
    path = diffusers_file(tmp_path / "a.safetensors", pairs)
    saved = diffusers_names(read_lora(path))
    original = load_file(path)
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], original[name]) for name in saved)


def test_published_lora_naming_is_read(tmp_path, tiny_stage1):
    """The LoRA of the published file, alone in a file, is what the file merges."""
    from tests.conftest import TINY

    state = torch.load(TINY / "stage1.pt", weights_only=True)["module"]
    save_file({n: t.contiguous() for n, t in state.items() if "matrix_" in n}, tmp_path / "lora.safetensors")
    plain = {n.replace(".original.", "."): t for n, t in state.items() if "matrix_" not in n}
    torch.save({"module": plain}, tmp_path / "base.pt")
    assert_same(load_stage1(tmp_path / "base.pt", lora=tmp_path / "lora.safetensors"), tiny_stage1)


def test_adapter_equals_merged_and_can_be_switched(twin, tmp_path, within):
    _, folder = twin
    path = diffusers_file(tmp_path / "lora.safetensors", adapters())
    merged, adapted = load_stage1(folder, lora=path), load_stage1(folder)
    plain = load_stage1(folder)
    add_adapter(adapted, path, "style")
    x = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    inputs = (x, torch.tensor([500.0]), torch.randn(1, 226, 32, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        within(adapted(*inputs), merged(*inputs), 2e-5)
        adapted.disable_lora()
        within(adapted(*inputs), plain(*inputs), 1e-6)
        adapted.enable_lora()
        adapted.set_adapters("style", 0.5)
        within(adapted(*inputs), load_stage1(folder, lora=path, lora_scale=0.5)(*inputs), 2e-5)


def test_adapter_trained_here_is_read_in_every_naming(tmp_path):
    from peft import LoraConfig

    torch.manual_seed(0)
    model = FlashVideoTransformer3DModel(**SMALL)
    model.save_pretrained(tmp_path / "base")
    model.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["qkv", "modulation", "mlp_up"]))
    x, text = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 226, 32)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        model(x, torch.tensor([500.0]), text).square().mean().backward()
        optimizer.step()
    pairs = adapter_pairs(model)
    assert set(pairs) == {f"layers.{i}.{m}" for i in range(2) for m in ("qkv", "modulation", "mlp_up")}
    assert any((up @ down).abs().max() > 0 for down, up in pairs.values())
    with torch.no_grad():
        expected = model(x, torch.tensor([500.0]), text)
    for naming in NAMINGS:
        path = lora_file(pairs, tmp_path / f"{naming}.safetensors", naming)
        with torch.no_grad():
            out = load_stage1(tmp_path / "base", lora=path)(x, torch.tensor([500.0]), text)
        assert torch.allclose(out, expected, atol=2e-5), naming


def test_native_naming_is_what_comfyui_maps(tmp_path):
    """ComfyUI's LoRA loaders look for ``diffusion_model.<module>.lora_A.weight``."""
    path = diffusers_file(tmp_path / "a.safetensors", adapters())
    converted = convert_checkpoint(path, tmp_path / "b.safetensors", kind="lora")
    assert "diffusion_model.layers.0.qkv.lora_A.weight" in load_file(converted)


Q = "transformer.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"transformer.nothing.here.lora_A.weight": torch.zeros(1, 1)}, "1 of 33 keys match no module.*nothing.here"),
        ({f"{Q}.lora_B.weight": None}, "incomplete"),
        (
            {"transformer.transformer_blocks.0.attn1.to_q.alpha": torch.ones(()), f"{Q}.lora_A.weight": None},
            "incomplete",
        ),
        ({f"{Q}.lora_B.weight": torch.zeros(128, 7)}, "ranks 3 and 7"),
        ({f"{Q}.lora_A.weight": torch.zeros(3)}, r"expected \[rank, in\]"),
        ({f"{Q}.lora_A.weight": torch.zeros(0, 128), f"{Q}.lora_B.weight": torch.zeros(128, 0)}, "none of them 0"),
        ({f"{Q}.lora_B.weight": torch.zeros(128, 3, 2, 2)}, r"expected \[rank, in\]"),
        ({f"{Q}.lora_A.weight": torch.zeros(3, 64)}, "do not fit together"),
        ({f"{Q}.lora_B.weight": torch.zeros(100, 3)}, "do not fit together"),
        ({f"{Q}.lora_A.weight": torch.zeros(3, 128, dtype=torch.int8)}, "expected floating point"),
        ({f"{Q}.lora_A.weight": torch.full((3, 128), torch.nan)}, "no finite numbers"),
        ({f"{Q}.lora_B.weight": torch.full((128, 3), torch.inf)}, "no finite numbers"),
        ({f"{Q}.lora_A.other.weight": torch.zeros(3, 128)}, "two adapters of one module"),
        ({"lora_unet__transformer_blocks_0_attn1_to_q.lora_down.weight": torch.zeros(3, 128)}, "two adapters"),
        ({f"{Q}.hada_w1_a": torch.zeros(1)}, "a LoHa"),
        ({f"{Q}.lokr_w1": torch.zeros(1)}, "a LoKr"),
        ({f"{Q}.dora_scale": torch.zeros(1)}, "a DoRA"),
        ({f"{Q}.lora_magnitude_vector.default.weight": torch.zeros(1)}, "a DoRA"),
        ({f"{Q}.lora_magnitude_vector": torch.zeros(1)}, "a DoRA"),
        ({f"{Q}.oft_blocks": torch.zeros(1)}, "an OFT adapter"),
        ({f"{Q}.a1.weight": torch.zeros(1)}, "a GLoRA"),
        ({f"{Q}.lora_mid.weight": torch.zeros(1)}, "a LoCon in Tucker form"),
        ({f"{Q}.lora_E": torch.zeros(1)}, "an AdaLoRA"),
        ({f"{Q}.lora_embedding_A": torch.zeros(1)}, "a LoRA of embeddings"),
        ({f"{Q}.lora_diag.default": torch.zeros(1)}, "another method of PEFT's"),
        ({f"{Q}.scalar": torch.zeros(1)}, "a LoRA with a scalar"),
        ({f"{Q}.lora_B.bias": torch.zeros(1)}, "a LoRA with biases of its own"),
        ({f"{Q}.lora_B.default.bias": torch.zeros(1)}, "a LoRA with biases of its own"),
        ({f"{Q}.lora_up.bias": torch.zeros(1)}, "a LoRA with biases of its own"),
        ({f"{Q}.diff_b": torch.zeros(1)}, "an extracted difference"),
        ({f"{Q}.bias": torch.zeros(1)}, "trained beside the LoRA"),
        ({"transformer.proj_out.weight": torch.zeros(1)}, "trained beside the LoRA"),
        ({"transformer.proj_out.modules_to_save.default.weight": torch.zeros(1)}, "trained beside the LoRA"),
        ({"lora_te_encoder_block_0.lora_down.weight": torch.zeros(1)}, "changes the text encoder"),
        ({"text_encoder.encoder.block.0.lora_A.weight": torch.zeros(1)}, "changes the text encoder"),
    ],
)
def test_files_that_do_not_fit_are_refused(twin, tmp_path, added, message):
    """In words, wherever they are given; ``None`` takes a tensor away."""
    state = load_file(diffusers_file(tmp_path / "a.safetensors", adapters())) | added
    path = tmp_path / "b.safetensors"
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    for use in (
        lambda: read_lora(path),
        lambda: load_stage1(twin[1], lora=path),
        lambda: convert_checkpoint(path, tmp_path / "out.safetensors"),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    assert not (tmp_path / "out.safetensors").exists()
    found = inspect_checkpoint(path)
    assert found.kind == "lora"
    assert not found.sound


def test_lora_of_another_width_is_refused(twin, tmp_path):
    _, folder = twin
    wide = {"ff.net.0.proj": (1024, 256)}
    path = diffusers_file(tmp_path / "lora.safetensors", adapters(wide))
    with pytest.raises(ValueError, match=r"does not fit.*layers\.0\.mlp_up"):
        load_stage1(folder, lora=path)
