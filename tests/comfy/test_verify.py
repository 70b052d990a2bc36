"""Verify: a MODEL and a VAE as ComfyUI runs them, against their files' plain fp32."""

from __future__ import annotations

import pytest

from tests.comfy.conftest import Bench
from tests.comfy.golden_models import STAGE1, STAGE2, VAE
from tests.comfy.server import Run
from tests.comfy.test_loaders import make_lora


def verified(bench: Bench, **sockets: object) -> tuple[str, str, Run]:
    """The table, whether all is right, the run."""
    node = bench.add("FlashVideoVerify", **sockets)
    shown = [bench.add("PreviewAny", source=[node[0], index]) for index in range(2)]
    run = bench.run()
    table, ok = (run.outputs[each[0]]["text"][0] for each in shown)
    return table, ok, run


@pytest.mark.parametrize("dtype", ["default", "bf16", "fp8_e4m3fn"])
def test_a_loaded_stage_is_right(bench: Bench, dtype: str) -> None:
    table, ok, _ = verified(bench, model=bench.add("FlashVideoLoadStage2", model_name=STAGE2, weight_dtype=dtype))
    assert ok.lower() == "true", table
    assert "| Stage II | ComfyUI, " in table
    assert table.count("attention_") == 1


def test_windows_are_followed_and_the_vae_is_right(bench: Bench) -> None:
    model = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
    windows = bench.add("FlashVideoAttentionWindows", model=model, width=64, height=32)
    table, ok, run = verified(bench, model=windows, vae=bench.add("FlashVideoLoadVAE", vae_name=VAE))
    assert ok.lower() == "true", table
    assert all(f"| {part} " in table for part in ("Stage I", "encode", "decode"))
    assert ["3 ok"] in [told.get("flashvideo_told") for told in run.outputs.values()]


def test_attention_that_is_wrong_is_over(bench: Bench) -> None:
    model = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
    table, ok, _ = verified(bench, model=bench.add("ProbeAttention", model=model))
    assert ok.lower() == "false", table
    assert "| over " in table


def test_a_lora_is_refused(bench: Bench) -> None:
    bench.server.add_model("loras", make_lora(bench.folder, "diffusers", "stage1"), "verified.safetensors")
    model = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
    loaded = bench.add("FlashVideoLoadLora", model=model, lora_name="verified.safetensors")
    bench.add("FlashVideoVerify", model=loaded)
    assert "has LoRAs or other patches of its weights" in bench.fails()
