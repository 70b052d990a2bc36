"""The models as ComfyUI's own: its nodes act on them, they survive being unloaded."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flashvideo.loading.draft import load_draft_decoder
from flashvideo.vae.draft import decode_draft
from tests.comfy.conftest import Bench, saved
from tests.comfy.golden_models import STAGE1, STAGE2, TEXT, VAE
from tests.comfy.server import ComfyServer
from tests.comfy.test_loaders import make_lora
from tests.conftest import assert_within
from tests.unit.vae.draft_files import save_decoder


class Stage1Bench:
    """Stage I in parts, on which core's model nodes can be put."""

    def __init__(self, bench: Bench, context: torch.Tensor) -> None:
        self.bench = bench
        self.model = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
        self.positive = bench.tensor("ProbeConditioning", context)
        self.latent = bench.add("FlashVideoEmptyLatent", size="custom", width=48, height=32, length=17)

    def sample(self, model: Any = None, steps: int = 6) -> Any:
        model = model or self.model
        return self.bench.save(
            self.bench.add(
                "FlashVideoStage1Sampler",
                **{"model": model, "positive": self.positive, "latent": self.latent, "steps": steps},
            )
        )


@pytest.fixture
def stage1(bench: Bench, golden: Any) -> Stage1Bench:
    return Stage1Bench(bench, golden("sampler_stage1")["context"])


@pytest.mark.parametrize(
    ("node", "settings"),
    [
        ("EasyCache", {"reuse_threshold": 3.0, "start_percent": 0.1, "end_percent": 0.95, "verbose": False}),
        ("LazyCache", {"reuse_threshold": 3.0, "start_percent": 0.1, "end_percent": 0.95, "verbose": False}),
        ("APG", {"eta": 0.5, "norm_threshold": 2.0, "momentum": 0.0}),
        ("RescaleCFG", {"multiplier": 0.7}),
        ("ProbeAttention", {}),
        ("NAGuidance", {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}),
        (
            "SkipLayerGuidanceDiT",
            {"double_layers": "0", "single_layers": "", "scale": 3.0, "start_percent": 0.0, "end_percent": 1.0}
            | {"rescaling_scale": 0.0},
        ),
        (
            "WanContextWindowsManual",
            {"context_length": 13, "context_overlap": 5, "context_schedule": "standard_static"}
            | {"context_stride": 1, "closed_loop": False, "fuse_method": "pyramid"},
        ),
    ],
)
def test_core_model_nodes_act(stage1: Stage1Bench, node: str, settings: dict[str, Any]) -> None:
    plain = stage1.sample()
    changed = stage1.sample(stage1.bench.add(node, model=stage1.model, **settings))
    again = stage1.sample(stage1.bench.add("ProbeSame", model=stage1.model))
    stage1.bench.run()
    assert torch.isfinite(saved(changed)).all()
    assert (saved(changed) - saved(plain)).abs().max() > 1e-3, f"{node} had no effect"
    assert torch.equal(saved(again), saved(plain)), f"{node} left something behind"


@pytest.mark.parametrize(("sampler", "scheduler"), [("euler", "simple"), ("dpmpp_2m", "sgm_uniform")])
def test_core_ksampler_runs_both_stages(stage1: Stage1Bench, latents: Any, sampler: str, scheduler: str) -> None:
    bench = stage1.bench
    shared = {"positive": stage1.positive, "negative": stage1.positive, "sampler_name": sampler}
    shared |= {"scheduler": scheduler, "steps": 4, "cfg": 3.0, "seed": 1, "denoise": 1.0}
    one = bench.save(bench.add("KSampler", model=stage1.model, latent_image=stage1.latent, **shared))
    stage2 = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    two = bench.save(bench.add("KSampler", model=stage2, latent_image=bench.latent(latents()), **shared))
    bench.run()
    for path in (one, two):
        assert torch.isfinite(saved(path)).all()
        assert 0.1 < saved(path).std() < 10


def test_split_sigmas_continue_a_run(stage1: Stage1Bench) -> None:
    """Not the same draws, but a video: the second part takes over the first one's noise level."""
    bench = stage1.bench
    sigmas = bench.add("FlashVideoStage1Sigmas", model=stage1.model, steps=8)
    split = bench.graph.add("SplitSigmas", sigmas=sigmas, step=4)
    guider = bench.add("FlashVideoStage1Guider", model=stage1.model, positive=stage1.positive, steps=8)
    solver = bench.add("FlashVideoStage1Solver")

    def part(noise: Any, latent: Any, index: int) -> Any:
        sockets = {"noise": noise, "latent_image": latent, "sigmas": [split, index]}
        return bench.add("SamplerCustomAdvanced", guider=guider, sampler=solver, **sockets)

    first = part(bench.add("RandomNoise", noise_seed=3), stage1.latent, 0)
    path = bench.save(part(bench.add("DisableNoise"), first, 1))
    whole = stage1.sample(steps=8)
    bench.run()
    assert torch.isfinite(saved(path)).all()
    assert 0.5 < saved(path).std() / saved(whole).std() < 2


def test_unloading_changes_nothing(server: ComfyServer, bench: Bench) -> None:
    """From the prompt to the refined picture, with a LoRA."""
    lora = server.add_model("loras", make_lora(bench.folder, "native"), f"{bench.folder.name}.safetensors")
    encoder = bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    stage1 = {"model": bench.add("FlashVideoLoadStage1", model_name=STAGE1)}
    stage2 = {"model": bench.add("FlashVideoLoadStage2", model_name=STAGE2)}
    stage2["model"] = bench.add("FlashVideoLoadLora", **stage2, lora_name=lora, strength=0.5)
    for sockets, stage in ((stage1, "Stage I"), (stage2, "Stage II")):
        sockets["positive"] = bench.add("FlashVideoTextEncode", clip=encoder, prompt="a boat", stage=stage)
    size = {"size": "custom", "width": 48, "height": 32}
    painted = bench.add(
        "FlashVideoStage1Sampler", **stage1, latent=bench.add("FlashVideoEmptyLatent", **size, length=5), steps=2
    )
    image = bench.add("VAEDecode", vae=vae, samples=painted)
    degraded = bench.add("FlashVideoDegrade", latent=bench.add("FlashVideoUpscaleEncode", vae=vae, image=image, **size))
    refined = bench.add("FlashVideoStage2Refiner", **stage2, latent=degraded, steps=2)
    path = bench.save(bench.add("FlashVideoTiledDecode", vae=vae, latent=refined), "ProbeSaveImage", "image")
    bench.run()
    before = saved(path, "image").clone()
    server.free()
    assert set(bench.graph.nodes) == set(bench.run().executed), "something came from the cache"
    assert torch.equal(saved(path, "image"), before)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_torch_compile_changes_nothing_but_speed(stage1: Stage1Bench) -> None:
    bench = stage1.bench
    plain = stage1.sample(steps=2)
    compiled = stage1.sample(bench.add("TorchCompileModel", model=stage1.model, backend="inductor"), steps=2)
    bench.run(timeout=400)
    probe = bench.add("ProbeCompiled", nonce=1)
    assert bench.run().outputs[probe[0]]["graphs"][0] > 0
    assert_within(saved(compiled), saved(plain), 1e-4)


def test_the_live_picture_has_the_vaes_colours(stage1: Stage1Bench) -> None:
    """A stand-in VAE whose colours are a known linear map; the picture of each step shows exactly those."""
    bench = stage1.bench
    vae = bench.add("ProbeVae")
    bench.save(
        bench.add(
            "FlashVideoStage1Sampler",
            **{"model": stage1.model, "positive": stage1.positive, "latent": stage1.latent, "steps": 3, "vae": vae},
        )
    )
    run = bench.run()
    assert len(run.previews) >= 3
    factors = bench.add("ProbeColours", vae=vae)
    error = float(bench.run().outputs[factors[0]]["error"][0])
    assert error < 1e-4


def test_the_live_picture_with_the_packs_own_vae(stage1: Stage1Bench) -> None:
    bench = stage1.bench
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    sockets = {"model": stage1.model, "positive": stage1.positive, "latent": stage1.latent, "vae": vae}
    bench.save(bench.add("FlashVideoStage1Sampler", **sockets, steps=3))
    previews = bench.run().previews
    pictures = [Image.open(BytesIO(data[data.index(b"\xff\xd8") :])) for data in previews]
    assert len(pictures) >= 3
    assert pictures[-1].width / pictures[-1].height == pytest.approx(48 / 32, rel=0.01)


def test_the_live_picture_of_the_draft_decoder(stage1: Stage1Bench, tmp_path: Path) -> None:
    """Where ComfyUI's previews are set to TAESD: of both stages, at full size; without its file a line in the log."""
    bench, taesd = stage1.bench, {"extra_data": {"preview_method": "taesd"}}
    stage1.sample(steps=2)
    assert not bench.run(**taesd).previews
    assert "Download https://github.com/madebyollin/taehv/raw/main/safetensors/taecvx.safetensors" in bench.server.log()
    file = save_decoder(tmp_path / "taecvx.safetensors")
    linked = bench.server.base / "models" / "vae_approx" / bench.server.add_model("vae_approx", file)
    try:
        stage1.sample(steps=3)
        model = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
        degraded = bench.add("FlashVideoDegrade", latent=bench.latent(torch.ones(1, 16, 3, 4, 8)))
        sockets = {"model": model, "positive": stage1.positive, "latent": degraded}
        refined = bench.save(bench.add("FlashVideoStage2Refiner", **sockets, steps=1))
        previews = bench.run(**taesd).previews
    finally:
        linked.unlink()
    pictures = [Image.open(BytesIO(data[data.index(b"\xff\xd8") :])) for data in previews]
    assert sorted(picture.size for picture in pictures) == [(512, 256), *[(512, 341)] * 3]  # ComfyUI enlarges them
    (shown,) = (picture.convert("RGB").resize((64, 32)) for picture in pictures if picture.height == 256)
    (frame,) = decode_draft(load_draft_decoder(file), saved(refined)[:, :, 1:2])
    seen = torch.from_numpy(np.array(shown)).movedim(-1, 0) / 255
    assert torch.corrcoef(torch.stack((seen.flatten(), frame.flatten())))[0, 1] > 0.9


def test_generation_imports_neither_diffusers_nor_peft(server: ComfyServer, bench: Bench) -> None:
    """This server has loaded both stages, LoRA and text, and sampled, by now or in this test."""
    Stage1Bench(bench, torch.ones(1, 226, 32)).sample(steps=1)
    stage2 = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    positive = bench.add(
        "FlashVideoTextEncode",
        clip=bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT),
        prompt="a boat",
        stage="Stage II",
    )
    degraded = bench.add("FlashVideoDegrade", latent=bench.latent(torch.ones(1, 16, 2, 4, 4)))
    bench.save(bench.add("FlashVideoStage2Refiner", model=stage2, positive=positive, latent=degraded, steps=1))
    bench.run()
    bench = Bench(server, bench.folder)
    probe = bench.add("ProbeModules", names="diffusers peft einops", nonce=1)
    assert bench.run().outputs[probe[0]]["modules"] == ["einops"]
