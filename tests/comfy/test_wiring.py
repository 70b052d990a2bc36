"""What is connected where it does not belong is refused before sampling, in words, on the node that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.comfy.conftest import Bench
from tests.comfy.golden_models import STAGE1, STAGE2, VAE
from tests.comfy.server import ComfyServer, RejectedError

CONTEXT = torch.ones(1, 226, 32)


class Wires:
    """A bench with both stages' parts at hand."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.stage1 = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
        self.stage2 = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
        self.positive = bench.tensor("ProbeConditioning", CONTEXT)

    def refiner(self, **sockets: Any) -> tuple[str, str]:
        node = self.bench.add(
            "FlashVideoStage2Refiner",
            **{"model": self.stage2, "positive": self.positive, "steps": 1, "cfg": 1.0, **sockets},
        )
        return self.fails(node)

    def sampler1(self, **sockets: Any) -> tuple[str, str]:
        empty = self.bench.add("FlashVideoEmptyLatent", size="custom", width=32, height=32, length=1)
        given = {"model": self.stage1, "positive": self.positive, "latent": empty, "steps": 1, **sockets}
        return self.fails(self.bench.add("FlashVideoStage1Sampler", **given))

    def core(self, **sockets: Any) -> tuple[str, str]:
        guider = self.bench.add("BasicGuider", model=sockets.pop("model", self.stage2), conditioning=self.positive)
        given = {
            "noise": self.bench.add("RandomNoise", noise_seed=1),
            "sampler": self.bench.add("KSamplerSelect", sampler_name="euler"),
            "sigmas": self.bench.add("FlashVideoStage2Sigmas", steps=2),
            **sockets,
        }
        return self.fails(self.bench.add("SamplerCustomAdvanced", guider=guider, **given))

    def wired(self, kind: str, **sockets: Any) -> tuple[str, str]:
        """A node with all that it needs, but for the sockets given here."""
        needed = self.bench.server.get(f"/object_info/{kind}")[kind]
        stage1 = kind.startswith("FlashVideoStage1")
        latent = self.bench.add("FlashVideoEmptyLatent", size="custom", width=32, height=32, length=1)
        right = {
            "model": self.stage1 if stage1 else self.stage2,
            "positive": self.positive,
            "latent": latent if stage1 else self.bench.latent(torch.ones(1, 16, 1, 4, 4)),
            "vae": self.bench.add("FlashVideoLoadVAE", vae_name=VAE),
            "image": self.bench.add("EmptyImage", width=32, height=32),
        }
        given = {name: link for name, link in right.items() if name in needed["input"]["required"]}
        node = self.bench.add(kind, **{**given, **sockets})
        self.bench.add("PreviewAny", source=node)
        return self.failed()

    def fails(self, node: list[Any]) -> tuple[str, str]:
        self.bench.save(node)
        return self.failed()

    def failed(self) -> tuple[str, str]:
        """(class of the node that failed, message)."""
        run = self.bench.server.run(self.bench.graph)
        assert run.error, "the workflow ran, an error was expected"
        assert run.error["exception_type"] == "ValueError"
        return run.error["node_type"], run.message


@pytest.fixture
def wires(bench: Bench) -> Wires:
    return Wires(bench)


NODES_WITH_A_MODEL = {
    "FlashVideoStage1Sampler": "Stage I",
    "FlashVideoStage1Sigmas": "Stage I",
    "FlashVideoStage1Guider": "Stage I",
    "FlashVideoDegrade": "Stage II",
    "FlashVideoStage2Refiner": "Stage II",
    "FlashVideoStage2NoiseStep": "Stage II",
    "FlashVideoParameterGrid": "Stage II",
    "FlashVideoRefineOneFrame": "Stage II",
}


@pytest.mark.parametrize("kind", NODES_WITH_A_MODEL)
def test_the_other_stages_model(wires: Wires, kind: str) -> None:
    """In every node that takes one."""
    needed, wrong = NODES_WITH_A_MODEL[kind], wires.stage2
    if needed == "Stage II":
        wrong = wires.stage1
    node, message = wires.wired(kind, model=wrong)
    assert node == kind
    assert f"this node needs {needed}. Connect FlashVideo Load {needed}" in message


NODES_WITH_A_VAE = ("FlashVideoStage1Sampler", "FlashVideoUpscaleEncode", "FlashVideoTiledDecode")
NODES_WITH_A_VAE += ("FlashVideoDecodeVideo", "FlashVideoParameterGrid", "FlashVideoRefineOneFrame")


@pytest.mark.parametrize("kind", NODES_WITH_A_VAE)
def test_an_image_vae(wires: Wires, kind: str) -> None:
    """In every node that takes one, before it samples."""
    node, message = wires.wired(kind, vae=wires.bench.add("VAELoader", vae_name="pixel_space"))
    assert node == kind
    assert "another kind of VAE" in message
    assert "Connect FlashVideo Load VAE" in message


def test_an_image_models_latent(wires: Wires) -> None:
    """SDXL: four channels, no frames."""
    latent = wires.bench.latent(torch.ones(1, 4, 8, 8), flashvideo_noise_step=675)
    assert "expected floating point [B, 16, T, h, w]" in wires.refiner(latent=latent)[1]


def test_an_image_vaes_latent_of_16_channels(wires: Wires) -> None:
    assert "video latents of the CogVideoX VAE" in wires.refiner(latent=wires.bench.latent(torch.ones(1, 16, 8, 8)))[1]


def test_odd_latents(wires: Wires, latents: Any) -> None:
    latent = wires.bench.latent(latents(1, 16, 2, 5, 6), flashvideo_noise_step=675)
    assert "multiples of 16" in wires.refiner(latent=latent)[1]


def test_an_undegraded_latent(wires: Wires, latents: Any) -> None:
    latent = wires.bench.latent(latents())
    assert "carries no noise step" in wires.refiner(latent=latent)[1]


def test_a_latent_of_another_noise_step(wires: Wires, latents: Any) -> None:
    latent = wires.bench.latent(latents(), flashvideo_noise_step=600)
    message = wires.refiner(latent=latent, noise_step=675)[1]
    assert "600" in message
    assert "675" in message


def test_a_model_set_to_another_noise_step(wires: Wires, latents: Any) -> None:
    latent = wires.bench.latent(latents(), flashvideo_noise_step=600)
    model = wires.bench.add("FlashVideoStage2NoiseStep", model=wires.stage2, noise_step=700)
    assert "noise steps disagree" in wires.refiner(latent=latent, model=model)[1]


def test_degrading_twice(wires: Wires, latents: Any) -> None:
    once = wires.bench.add("FlashVideoDegrade", latent=wires.bench.latent(latents()))
    node, message = wires.fails(wires.bench.add("FlashVideoDegrade", latent=once))
    assert node == "FlashVideoDegrade"
    assert "degraded already (noise step 675)" in message


def test_degrading_an_empty_latent(wires: Wires) -> None:
    empty = wires.bench.add("FlashVideoEmptyLatent")
    assert "empty" in wires.fails(wires.bench.add("FlashVideoDegrade", latent=empty))[1]


def test_a_full_latent_in_stage1(wires: Wires, latents: Any) -> None:
    assert "not empty" in wires.sampler1(latent=wires.bench.latent(latents()))[1]


def test_the_wrong_text_encoder(wires: Wires) -> None:
    wide = wires.bench.tensor("ProbeConditioning", torch.ones(1, 226, 64))
    assert "expected [1, 226, 32]" in wires.sampler1(positive=wide)[1]


def test_masks_that_would_be_ignored(wires: Wires, latents: Any) -> None:
    mask = wires.bench.add("SolidMask", value=1.0, width=48, height=32)
    given = wires.bench.latent(latents(), flashvideo_noise_step=675)
    masked = wires.bench.add("SetLatentNoiseMask", samples=given, mask=mask)
    assert "noise mask" in wires.refiner(latent=masked)[1]


def test_a_mask_on_a_degraded_latent(wires: Wires, latents: Any) -> None:
    mask = wires.bench.add("SolidMask", value=0.0, width=48, height=32)
    masked = wires.bench.add("SetLatentNoiseMask", samples=wires.bench.latent(latents()), mask=mask)
    assert "needs the undegraded latent" in wires.core(latent_image=masked, noise=wires.bench.add("DisableNoise"))[1]


def test_core_an_empty_latent(wires: Wires) -> None:
    assert "latent is empty" in wires.core(latent_image=wires.bench.add("FlashVideoEmptyLatent"))[1]


def test_core_start_below_one_with_noise(wires: Wires, latents: Any) -> None:
    sigmas = wires.bench.add("SplitSigmas", sigmas=wires.bench.add("FlashVideoStage2Sigmas"), step=1)
    message = wires.core(latent_image=wires.bench.latent(latents()), sigmas=[sigmas[0], 1])[1]
    assert "starts at sigma 0.88" in message


def test_core_stage1_sigmas_for_stage2(wires: Wires, latents: Any) -> None:
    sigmas = wires.bench.add("FlashVideoStage1Sigmas", model=wires.stage1, steps=2)
    assert "Connect Stage II Sigmas" in wires.core(latent_image=wires.bench.latent(latents()), sigmas=sigmas)[1]


def test_core_stage1_solver_for_stage2(wires: Wires, latents: Any) -> None:
    solver = wires.bench.add("FlashVideoStage1Solver")
    message = wires.core(latent_image=wires.bench.latent(latents()), sampler=solver)[1]
    assert "Stage I Solver samples Stage I; the model is Stage II" in message


def test_core_stage2_sigmas_for_stage1(wires: Wires) -> None:
    empty = wires.bench.add("FlashVideoEmptyLatent", size="custom", width=32, height=32, length=1)
    sockets = {"sampler": wires.bench.add("FlashVideoStage1Solver"), "latent_image": empty}
    assert "Use Stage I Sigmas from their start" in wires.core(model=wires.stage1, **sockets)[1]


def test_core_a_replaced_model_sampling(wires: Wires, latents: Any) -> None:
    shifted = wires.bench.add("ModelSamplingSD3", model=wires.stage2, shift=3.0)
    message = wires.core(model=shifted, latent_image=wires.bench.latent(latents()))[1]
    assert "replaced Stage II's sampling" in message


def test_core_stage1_without_noise(wires: Wires) -> None:
    none = wires.bench.add("DisableNoise")
    sigmas = wires.bench.add("FlashVideoStage1Sigmas", model=wires.stage1, steps=2)
    sockets = {"sampler": wires.bench.add("FlashVideoStage1Solver"), "sigmas": sigmas, "noise": none}
    empty = wires.bench.add("FlashVideoEmptyLatent", size="custom", width=32, height=32, length=1)
    assert "Connect RandomNoise" in wires.core(model=wires.stage1, latent_image=empty, **sockets)[1]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"width": 1081}, "width 1081: sizes are multiples of 16 pixels. Use 1072 or 1088"),
        ({"height": 0}, "height 0"),
        ({"length": 50}, "50 frames: the VAE takes 1, 5, 9"),
        ({"width": 10**6}, "at most 16384"),
        ({"size": "../x"}, "expected one of"),
    ],
)
def test_sizes_are_refused_when_queued(server: ComfyServer, bench: Bench, inputs: dict[str, Any], words: str) -> None:
    bench.save(bench.add("FlashVideoEmptyLatent", **{"size": "custom", **inputs}))
    with pytest.raises(RejectedError) as caught:
        server.queue(bench.graph)
    assert words in caught.value.details


def test_a_file_outside_the_model_folders(server: ComfyServer, bench: Bench) -> None:
    bench.add("ProbeModel", model=bench.add("FlashVideoLoadStage1", model_name="../../secret.pt"))
    with pytest.raises(RejectedError, match=r"There is no '\.\./\.\./secret\.pt' in models/diffusion_models"):
        server.queue(bench.graph)


def test_a_fractional_exponent_of_the_authors_curve(server: ComfyServer, wires: Wires) -> None:
    bench = wires.bench
    empty = bench.add("FlashVideoEmptyLatent")
    bench.save(
        bench.add("FlashVideoStage1Sampler", model=wires.stage1, positive=wires.positive, latent=empty, exponent=4.5)
    )
    with pytest.raises(RejectedError) as caught:
        server.queue(bench.graph)
    assert "whole number" in caught.value.details
