"""Text Encode and Load Text Encoder against the library's encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flashvideo.loading.model_store import ASSETS, BUNDLED
from flashvideo.loading.text import load_text_encoder
from tests.comfy.conftest import Bench, saved
from tests.comfy.golden_models import STAGE1, TEXT
from tests.conftest import TINY, assert_within


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load_text_encoder(TINY / "text")


def embeds(bench: Bench, link: list[Any]) -> Any:
    return bench.save(link, "ProbeSaveConditioning", "conditioning")


@pytest.mark.parametrize(
    ("stage", "motion", "front"),
    [
        ("Stage I", "high motion", ""),
        ("Stage II", "medium motion", "medium motion,"),
        ("Stage II", "none", ""),
    ],
)
def test_stages_and_literal_parentheses(bench: Bench, encoder: Any, stage: str, motion: str, front: str) -> None:
    prompt = "a (red:1.4) boat drifts ((slowly))"
    clip = bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)
    node = bench.add("FlashVideoTextEncode", clip=clip, prompt=prompt, stage=stage, motion=motion)
    positive, negative = embeds(bench, node), embeds(bench, [node[0], 1])
    bench.run()
    assert_within(saved(positive, "embeds"), encoder.encode(front + prompt, warn=False), 2e-5)
    assert saved(negative, "embeds").shape == (1, 226, 32)
    assert not saved(negative, "embeds").any()


def test_weights_when_switched_on_and_in_core(bench: Bench, encoder: Any) -> None:
    clip = bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)
    prompt = "a (red:1.4) boat"
    weighed = bench.add("FlashVideoTextEncode", clip=clip, prompt=prompt, stage="Stage I", prompt_weights=True)
    core = bench.add("CLIPTextEncode", clip=clip, text=prompt)
    plain = bench.add("CLIPTextEncode", clip=clip, text="a red boat")
    paths = [embeds(bench, link) for link in (weighed, core, plain)]
    bench.run()
    a, b, c = (saved(path, "embeds") for path in paths)
    assert torch.equal(a, b)
    assert (a - c).abs().max() > 0.05
    assert_within(c, encoder.encode("a red boat", warn=False), 2e-5)


def test_long_prompts_are_cut_and_the_node_says_so(bench: Bench, encoder: Any) -> None:
    prompt = "a slow boat " * 60
    clip = bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)
    node = bench.add("FlashVideoTextEncode", clip=clip, prompt=prompt, stage="Stage I")
    path = embeds(bench, node)
    run = bench.run()
    tokens = encoder.check(prompt).tokens
    assert tokens > 226
    assert run.texts[node[0]] == [f"The prompt has {tokens} tokens; the last {tokens - 226} were cut off."]
    assert_within(saved(path, "embeds"), encoder.encode(prompt, warn=False), 2e-5)


def test_an_uncut_prompt_of_core_is_refused_in_words(bench: Bench, latents: Any) -> None:
    clip = bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)
    long = bench.add("CLIPTextEncode", clip=clip, text="a slow boat " * 60)
    model = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
    bench.save(
        bench.add("FlashVideoStage1Sampler", model=model, positive=long, latent=bench.add("FlashVideoEmptyLatent"))
    )
    assert "expected [1, 226, 32]" in bench.fails()


def test_the_bundled_encoder(bench: Bench) -> None:
    clip = bench.add("FlashVideoLoadTextEncoder", text_encoder_name="tiny-text (bundled)")
    file = embeds(bench, bench.add("FlashVideoTextEncode", clip=clip, prompt="a boat", stage="Stage I"))
    bench.run()
    encoder = load_text_encoder(ASSETS / BUNDLED / "text", dtype=torch.float32)
    assert_within(saved(file, "embeds"), encoder.encode("a boat", warn=False), 2e-5)


def test_an_empty_prompt_is_refused(bench: Bench) -> None:
    clip = bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)
    embeds(bench, bench.add("FlashVideoTextEncode", clip=clip, prompt=" ", stage="Stage I"))
    assert "prompt is empty" in bench.fails()


def test_a_text_encoder_of_another_family(bench: Bench) -> None:
    embeds(bench, bench.add("FlashVideoTextEncode", clip=bench.add("ProbeOtherClip"), prompt="a", stage="Stage I"))
    assert "The text encoder is another kind (l); FlashVideo needs T5" in bench.fails()


def make_t5(path: Path, kind: torch.dtype, hidden: int = 24, layers: int = 2) -> Path:
    """A small T5 of the full vocabulary in a single file, as ComfyUI's t5xxl files are; fp8 has a scale a layer."""
    width, heads, inner = 16, 2, 16
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    state = {"shared.weight": random(32128, width), "encoder.final_layer_norm.weight": 1 + random(width)}
    state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = random(32, heads)
    for i in range(layers):
        attention, feed = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        state |= {f"{attention}.SelfAttention.{x}.weight": random(inner, width) for x in "qkv"}
        state |= {f"{attention}.SelfAttention.o.weight": random(width, inner)}
        state |= {f"{feed}.DenseReluDense.{x}.weight": random(hidden, width) for x in ("wi_0", "wi_1")}
        state |= {f"{feed}.DenseReluDense.wo.weight": random(width, hidden)}
        state |= {f"{layer}.layer_norm.weight": 1 + random(width) for layer in (attention, feed)}
    if kind == torch.float8_e4m3fn:
        for name in [name for name in state if "SelfAttention." in name or "DenseReluDense" in name]:
            if "relative" not in name:
                state[f"{name.removesuffix('.weight')}.scale_weight"] = torch.tensor(0.01)
                state[name] = (state[name] / 0.01).clamp(-448, 448).to(kind)
        state["scaled_fp8"] = torch.ones(2).to(kind)
    else:
        state = {name: tensor.to(kind) for name, tensor in state.items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_single_files_of_the_full_vocabulary(bench: Bench, tmp_path: Path, kind: torch.dtype) -> None:
    """Without a tokenizer beside them: ComfyUI's own serves."""
    file = make_t5(tmp_path / f"t5-{str(kind)[6:]}.safetensors", kind)
    name = bench.server.add_model("text_encoders", file, f"{tmp_path.name}.safetensors")
    clip = bench.add("FlashVideoLoadTextEncoder", text_encoder_name=name)
    prompt = "A small red boat drifts across a calm lake at dawn."
    path = embeds(bench, bench.add("FlashVideoTextEncode", clip=clip, prompt=prompt, stage="Stage I"))
    bench.run()
    own = bench.server.comfyui / "comfy" / "text_encoders" / "t5_tokenizer"
    expected = load_text_encoder(file, tokenizer=own, dtype=torch.float32).encode(prompt, warn=False)
    assert_within(saved(path, "embeds"), expected, 1e-4)


def test_cores_clip_loader_gives_the_same(bench: Bench, tmp_path: Path) -> None:
    """Core knows T5-XXL by its depth and its feed-forward's width; here all else is small."""
    file = make_t5(tmp_path / "t5xxl.safetensors", torch.bfloat16, hidden=10240, layers=24)
    name = bench.server.add_model("text_encoders", file, f"{tmp_path.name}-xxl.safetensors")
    clips = [
        bench.add("FlashVideoLoadTextEncoder", text_encoder_name=name),
        bench.add("ProbeCoreClip", path=str(file), width=16, heads=2),
    ]
    prompt = {"prompt": "A small (red) boat. " * 60, "stage": "Stage II"}
    paths = [embeds(bench, bench.add("FlashVideoTextEncode", clip=clip, **prompt)) for clip in clips]
    bench.run()
    assert saved(paths[0], "embeds").shape == (1, 226, 16)
    assert torch.equal(saved(paths[0], "embeds"), saved(paths[1], "embeds"))


def test_another_model_is_refused(bench: Bench, tmp_path: Path) -> None:
    save_file({"text_model.embeddings.position_ids": torch.ones(1)}, tmp_path / "clip.safetensors")
    name = bench.server.add_model("text_encoders", tmp_path / "clip.safetensors", f"{tmp_path.name}-clip.safetensors")
    clip = bench.add("FlashVideoLoadTextEncoder", text_encoder_name=name)
    embeds(bench, bench.add("FlashVideoTextEncode", clip=clip, prompt="a", stage="Stage I"))
    assert "no T5 v1.1 encoder" in bench.fails()
