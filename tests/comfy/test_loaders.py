"""Load Stage I / II, Load LoRA: every file kind and naming, through a real server, against the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvideo import convert_checkpoint, load_stage1, load_stage2, refine_latents, sample_stage1
from flashvideo.loading.lora import read_lora, save_lora
from flashvideo.method.student import Student
from flashvideo.training.models import save_transformer
from tests.comfy.conftest import Bench, saved
from tests.comfy.golden_models import STAGE1, STAGE2
from tests.conftest import TINY, assert_within
from tests.lora_files import NAMINGS, every_product, lora_file
from tests.quantized_files import WAYS, quantized_state


@pytest.fixture(scope="session")
def model_files(server: Any, tmp_path_factory: Any) -> dict[str, Path]:
    """The tiny models in every layout, in the server's model folders; "converted/..." as users' subfolders are."""
    folder = tmp_path_factory.mktemp("converted")
    files = {"published.pt": TINY / "stage2.pt"}
    for dtype in ("fp32", "bf16", "fp8_e4m3"):
        name = f"stage2-{dtype}.safetensors"
        files[name] = convert_checkpoint(TINY / "stage2.pt", folder / name, dtype=dtype)
    files["stage1-fp32.safetensors"] = convert_checkpoint(TINY / "stage1.pt", folder / "s1.safetensors")
    for name, file in files.items():
        server.add_model("diffusion_models", file, f"converted/{name}")
    return files


def refined(bench: Bench, model: Any, context: torch.Tensor, given: torch.Tensor, cfg: float = 4.0) -> Path:
    sockets = {"model": model, "positive": bench.tensor("ProbeConditioning", context)}
    latent = bench.latent(given, flashvideo_noise_step=675)
    return bench.save(bench.add("FlashVideoStage2Refiner", **sockets, latent=latent, steps=2, cfg=cfg))


def library(path: Path, context: torch.Tensor, given: torch.Tensor, **more: Any) -> torch.Tensor:
    transformer = load_stage2(path, dtype=torch.float32, **more)
    return refine_latents(transformer, given, context, num_steps=2, guidance_scale=4.0)


@pytest.mark.parametrize(
    ("name", "weights", "limit"),
    [
        ("published.pt", "default", 1e-4),
        ("stage2-fp32.safetensors", "default", 1e-4),
        ("stage2-bf16.safetensors", "default", 1e-4),
        ("stage2-fp8_e4m3.safetensors", "default", 1e-4),
        ("stage2-fp8_e4m3.safetensors", "fp32", 2e-2),  # the scaled weights pass through bf16
        ("stage2-fp32.safetensors", "bf16", 0.05),
        ("stage2-bf16.safetensors", "fp16", 1e-4),
    ],
)
def test_every_file_gives_the_librarys_result(
    bench: Bench, golden: Any, latents: Any, model_files: dict[str, Path], name: str, weights: str, limit: float
) -> None:
    context, given = golden("sampler_stage2")["context"], latents()
    model = bench.add("FlashVideoLoadStage2", model_name=f"converted/{name}", weight_dtype=weights)
    out = refined(bench, model, context, given)
    probe = bench.add("ProbeModel", model=model)
    facts = json.loads(bench.run().outputs[probe[0]]["facts"][0])
    expected = library(model_files[name], context, given)
    error = (saved(out) - expected).abs().max() / expected.abs().max()
    assert error <= limit, f"relative error {error:.3g}"
    assert all(layer.startswith("comfy.ops") for layer in facts["layers"]), "a layer that ComfyUI cannot stream"
    assert facts["copied"], "a fresh copy has other weights"
    assert facts["scale"] == pytest.approx(1.15258426)
    scaled = "fp8" in name and weights == "default"
    assert ("QuantizedTensor" in facts["weights"]) == scaled
    if weights == "bf16":
        assert facts["dtypes"] == ["torch.bfloat16"]


NATIVE_WAYS = {  # which ComfyUI keeps and computes with; the others are put together by the library
    *("one number", "one number in a list", "e5m2", "comfy_quant", "scale_input"),
    *("int8", "int8 rows", "int8 rotated", "mxfp8", "nvfp4"),
}


@pytest.mark.parametrize("way", WAYS)
def test_quantised_layers_are_what_the_library_reads(
    bench: Bench, golden: Any, latents: Any, model_files: dict[str, Path], tmp_path: Path, way: str
) -> None:
    stored, meant = quantized_state(way, load_file(model_files["stage2-fp32.safetensors"]))
    for name, state in (("stored", stored), ("meant", meant)):
        save_file(state, tmp_path / f"{name}.safetensors")
    bench.server.add_model("diffusion_models", tmp_path / "stored.safetensors", f"quantized/{way}.safetensors")
    context, given = golden("sampler_stage2")["context"], latents()
    model = bench.add("FlashVideoLoadStage2", model_name=f"quantized/{way}.safetensors")
    out = refined(bench, model, context, given)
    probe = bench.add("ProbeModel", model=model)
    facts = json.loads(bench.run().outputs[probe[0]]["facts"][0])
    assert ("QuantizedTensor" in facts["weights"]) == (way in NATIVE_WAYS)
    expected = library(tmp_path / "meant.safetensors", context, given)
    assert_within(saved(out), expected, 0.02 * float(expected.abs().max()))
    assert_within(saved(out), library(tmp_path / "stored.safetensors", context, given), 0.02)


def test_fp8_weights_stay_near(bench: Bench, golden: Any, latents: Any, model_files: dict[str, Path]) -> None:
    """ComfyUI's plain fp8, without scales."""
    context, given = golden("sampler_stage2")["context"], latents()
    model = bench.add("FlashVideoLoadStage2", model_name=STAGE2, weight_dtype="fp8_e4m3fn")
    out = refined(bench, model, context, given)
    bench.run()
    expected = library(TINY / "stage2.pt", context, given)
    assert (saved(out) - expected).norm() / expected.norm() < 0.5


def make_lora(folder: Path, naming: str, stage: str = "stage2") -> Path:
    """A LoRA on q, k, v, the attention's output and an MLP, in one of the namings."""
    transformer = (load_stage1 if stage == "stage1" else load_stage2)(TINY / f"{stage}.pt")
    generator, pairs = torch.Generator().manual_seed(5), {}
    names = dict(transformer.named_modules())
    for module in ("layers.0.qkv", "layers.1.qkv", "layers.0.attn_out", "layers.1.mlp_up"):
        rows, columns = names[module].weight.shape
        ranks = 6 if module.endswith("qkv") else 2
        up = torch.randn(rows, ranks, generator=generator) * 0.3
        if module.endswith("qkv"):  # each of q, k, v has its own two ranks, as separate adapters have
            third = rows // 3
            mask = torch.zeros(rows, ranks)
            for i in range(3):
                mask[i * third : (i + 1) * third, 2 * i : 2 * i + 2] = 1
            up = up * mask
        pairs[module] = (torch.randn(ranks, columns, generator=generator) * 0.3, up)
    return lora_file(pairs, folder / f"{stage}-{naming}.safetensors", naming)


@pytest.mark.parametrize("made_by", ["file", "LoRA"])
def test_a_student_is_not_guided_twice(bench: Bench, golden: Any, latents: Any, tmp_path: Path, made_by: str) -> None:
    """Unguided it is the library's, as often evaluated as it was made for."""
    context, given, student = golden("sampler_stage2")["context"], latents(), Student(2, 2.5, 4.0)
    if made_by == "file":
        distilled = load_stage2(TINY / "stage2.pt")
        distilled.register_to_config(student=student.to_table())
        file = save_transformer(distilled, tmp_path / "student.safetensors", "stage2")
        name = bench.server.add_model("diffusion_models", file, f"{tmp_path.name}.safetensors")
        model = bench.add("FlashVideoLoadStage2", model_name=name)
    else:
        file = save_lora(read_lora(make_lora(tmp_path, "native")), tmp_path / "lora.safetensors", student=student)
        distilled = load_stage2(TINY / "stage2.pt", lora=file)
        name = bench.server.add_model("loras", file, f"{tmp_path.name}.safetensors")
        plain = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
        model = bench.add("FlashVideoLoadLora", model=plain, lora_name=name)
    out = refined(bench, model, context, given, cfg=1.0)
    bench.run()
    assert_within(saved(out), refine_latents(distilled, given, context), 2e-4)
    refined(bench, model, context, given)
    assert "guidance 4 would guide it a second time. Take 1" in bench.fails()


@pytest.mark.parametrize("naming", ["native", "diffusers", "Kohya"])
def test_lora_of_any_naming_is_the_merge(
    bench: Bench, golden: Any, latents: Any, tmp_path: Path, naming: str, model_files: dict[str, Path]
) -> None:
    """Full, half and no strength, and off again; the second time in the same server process."""
    context, given = golden("sampler_stage2")["context"], latents()
    file = make_lora(tmp_path, naming)
    name = bench.server.add_model("loras", file, f"{tmp_path.name}-{naming}.safetensors")
    model = bench.add("FlashVideoLoadStage2", model_name="converted/stage2-fp32.safetensors")
    outs: dict[Any, Path] = {None: refined(bench, model, context, given)}
    for strength in (1.0, 0.5, 0.0):
        patched = bench.add("FlashVideoLoadLora", model=model, lora_name=name, strength=strength)
        outs[strength] = refined(bench, patched, context, given)
        core = bench.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)
        outs["core", strength] = refined(bench, core, context, given)
    outs["again"] = refined(bench, model, context, given)
    bench.run()
    plain, merged = library(TINY / "stage2.pt", context, given), library(TINY / "stage2.pt", context, given, lora=file)
    half = library(TINY / "stage2.pt", context, given, lora=file, lora_scale=0.5)
    assert (plain - merged).abs().max() > 0.05
    expected = {None: plain, 1.0: merged, 0.5: half, 0.0: plain, "again": plain}
    for strength in (1.0, 0.5, 0.0):  # core's loader ignores what is not named natively, as our help page says
        expected["core", strength] = expected[strength] if naming == "native" else plain
    for key, path in outs.items():
        assert_within(saved(path), expected[key], 2e-4)
    assert torch.equal(saved(outs[None]), saved(outs["again"]))


CORE_READS = {"native", "native, Kohya", "ComfyUI's trainer"}  # docs/lora.md says so
CORE_TAKES = {"diffusion_model.time_embedding.linear_1.weight", "diffusion_model.time_embedding.linear_2.weight"}


def test_every_name_is_put_on_the_model(bench: Bench, tmp_path: Path, model_files: dict[str, Path]) -> None:
    """The table of names, by our node and by core's: all of it, or what the page on LoRAs says."""
    base = load_stage1(TINY / "stage1.pt", dtype=torch.float32)
    pairs = every_product(base)
    model = bench.add("FlashVideoLoadStage1", model_name="converted/stage1-fp32.safetensors")
    files = {}
    for index, naming in enumerate(NAMINGS):
        file = lora_file(pairs, tmp_path / f"{index}.safetensors", naming)
        name = bench.server.add_model("loras", file, f"{tmp_path.name}-{index}.safetensors")
        ours = bench.add("FlashVideoLoadLora", model=model, lora_name=name)
        core = bench.add("LoraLoaderModelOnly", model=model, lora_name=name)
        files[naming] = [bench.save(link, "ProbePatchedWeights", "model") for link in (ours, core)]
    bench.run()
    for naming, (ours, core) in files.items():
        patched, taken = load_file(ours), load_file(core)
        assert set(patched) == {f"diffusion_model.{module}.weight" for module in pairs}, naming
        for module, (down, up) in pairs.items():
            expected = base.get_parameter(f"{module}.weight") + up @ down
            assert torch.allclose(patched[f"diffusion_model.{module}.weight"], expected, atol=1e-5), (naming, module)
        if naming in CORE_READS:
            assert all(torch.allclose(taken[name], patched[name], atol=1e-5) for name in patched), naming
        else:
            assert set(taken) <= CORE_TAKES, naming


def test_strength_is_what_the_file_states(bench: Bench, tmp_path: Path, model_files: dict[str, Path]) -> None:
    """Also where core's loader does not look: rank-stabilised, in the header."""
    base = load_stage1(TINY / "stage1.pt", dtype=torch.float32)
    down, up = torch.ones(4, 128), torch.ones(128, 4)
    names = {f"diffusion_model.layers.0.attn_out.lora_{side}.weight": t for side, t in (("A", down), ("B", up))}
    config = {"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 8, "use_rslora": True})}
    save_file(names, tmp_path / "rs.safetensors", metadata=config)
    name = bench.server.add_model("loras", tmp_path / "rs.safetensors", f"{tmp_path.name}-rs.safetensors")
    model = bench.add("FlashVideoLoadStage1", model_name="converted/stage1-fp32.safetensors")
    ours = bench.add("FlashVideoLoadLora", model=model, lora_name=name)
    core = bench.add("LoraLoaderModelOnly", model=model, lora_name=name)
    files = [bench.save(link, "ProbePatchedWeights", "model") for link in (ours, core)]
    bench.run()
    weight = base.get_parameter("layers.0.attn_out.weight")
    for file, scale in zip(files, (4, 1), strict=True):  # docs/lora.md says that core's applies 1
        changed = load_file(file)["diffusion_model.layers.0.attn_out.weight"]
        assert torch.allclose(changed, weight + scale * up @ down, atol=1e-5)


def test_a_published_lora_is_the_merge(bench: Bench, golden: Any, latents: Any, tmp_path: Path) -> None:
    """That of the published Stage I file, which has q, k, v adapters one by one."""
    weights = torch.load(TINY / "stage1.pt", weights_only=True)["module"]
    file = tmp_path / "published.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in weights.items() if "matrix_" in name}, file)
    name = bench.server.add_model("loras", file, f"{tmp_path.name}-published.safetensors")
    context = golden("sampler_stage1")["context"]
    model = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
    sockets = {
        "model": bench.add("FlashVideoLoadLora", model=model, lora_name=name, strength=0.5),
        "positive": bench.tensor("ProbeConditioning", context),
        "latent": bench.add("FlashVideoEmptyLatent", size="custom", width=48, height=32, length=5),
    }
    out = bench.save(bench.add("FlashVideoStage1Sampler", **sockets, seed=3, steps=3))
    bench.run()
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(1, 16, 2, 4, 6, generator=generator)
    merged = load_stage1(TINY / "stage1.pt", lora=file, lora_scale=0.5)
    assert_within(saved(out), sample_stage1(merged, start, context, num_steps=3, generator=generator), 1e-4)


def test_lora_on_fp8_weights(
    bench: Bench, golden: Any, latents: Any, tmp_path: Path, model_files: dict[str, Path]
) -> None:
    context, given = golden("sampler_stage2")["context"], latents()
    file = make_lora(tmp_path, "native")
    name = bench.server.add_model("loras", file, f"{tmp_path.name}-fp8.safetensors")
    path = "stage2-fp8_e4m3.safetensors"
    model = bench.add("FlashVideoLoadStage2", model_name=f"converted/{path}")
    out = refined(bench, bench.add("FlashVideoLoadLora", model=model, lora_name=name), context, given)
    bench.run()
    merged = library(model_files[path], context, given, lora=file)
    assert (saved(out) - merged).norm() / merged.norm() < 0.2  # ComfyUI rounds the sum to fp8 again


def test_wrong_files_are_refused_in_words(server: Any, tmp_path: Path, golden: Any) -> None:
    other, damaged = tmp_path / "sdxl.safetensors", tmp_path / "cut.safetensors"
    save_file({"lora_unet_input_blocks_1.lora_down.weight": torch.ones(2, 4)}, other)
    whole = convert_checkpoint(TINY / "stage2.pt", tmp_path / "whole.safetensors")
    state = load_file(whole)
    state["layers.9.extra"] = state.pop("layers.1.qkv.weight")
    save_file(state, damaged)
    foreign = make_lora(tmp_path, "native", "stage1")
    pairs = {name: (a[:, : a.shape[1] // 2], b) for name, (a, b) in read_lora(foreign).items()}
    narrow = save_lora(pairs, tmp_path / "narrow.safetensors")
    half = tmp_path / "half.safetensors"
    save_file(
        {**load_file(make_lora(tmp_path, "native")), "diffusion_model.layers.77.qkv.lora_A.weight": torch.ones(2, 4)},
        half,
    )
    for folder, file in (("loras", other), ("loras", narrow), ("loras", half), ("diffusion_models", damaged)):
        server.add_model(folder, file, f"{tmp_path.name}-{file.name}")

    def message(kind: str, **inputs: Any) -> str:
        bench = Bench(server, tmp_path)
        if kind == "FlashVideoLoadLora":
            inputs["model"] = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
        bench.add("ProbeModel", model=bench.add(kind, **inputs))
        return bench.fails()

    assert "match no module" in message("FlashVideoLoadLora", lora_name=f"{tmp_path.name}-sdxl.safetensors")
    assert "layers.77" in message("FlashVideoLoadLora", lora_name=f"{tmp_path.name}-half.safetensors")
    assert "does not fit this model" in message("FlashVideoLoadLora", lora_name=f"{tmp_path.name}-narrow.safetensors")
    text = message("FlashVideoLoadStage2", model_name=f"{tmp_path.name}-cut.safetensors")
    assert "missing" in text
    assert "layers.1.qkv.weight" in text


def test_the_other_stage_is_refused(bench: Bench, model_files: dict[str, Path]) -> None:
    bench.add("ProbeModel", model=bench.add("FlashVideoLoadStage2", model_name="converted/stage1-fp32.safetensors"))
    assert "Stage I transformer" in bench.fails()


def test_gguf_files_are_in_the_menus_that_read_them(bench: Bench, tmp_path: Path) -> None:
    """ComfyUI lists none. What cannot be read is said on the node."""
    (tmp_path / "q.gguf").write_bytes(b"GGUF" + bytes(60))
    for folder in ("diffusion_models", "text_encoders", "vae", "loras"):
        bench.server.add_model(folder, tmp_path / "q.gguf", "deep/q.gguf")
    kinds = ("LoadStage1", "LoadStage2", "LoadTextEncoder", "LoadVAE", "LoadLora")
    listed = [kind for kind in kinds if "deep/q.gguf" in str(bench.server.get(f"/object_info/FlashVideo{kind}"))]
    assert listed == ["LoadStage1", "LoadStage2", "LoadTextEncoder"]
    bench.add("PreviewAny", source=bench.add("FlashVideoLoadStage2", model_name="deep/q.gguf"))
    assert "q.gguf" in bench.fails()
