"""Pick Preview and Refine One Frame: deciding before paying for a whole clip."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..flashvideo.stage2 import SOLVERS
from .degrade import LatentDegradation
from .host_sampling import DEFAULT_NOISE_STEP
from .stage1 import chosen_size
from .stage2 import Stage2Refiner, shift_inputs
from .upscale import check_target, image_to_video, size_inputs, upscaled_latent
from .vae_work import VaeLimits, decode_images, require_vae
from .wiring import conditionings, require_stage

_MAX_FRAMES = 100000


def seed_input(tooltip: str) -> io.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip=tooltip,
    )


def stage2_inputs() -> list[io.Input]:
    """Sockets that Stage II needs, whatever it refines."""
    return [
        io.Model.Input("model", tooltip="FlashVideo Load Stage II."),
        io.Conditioning.Input("positive", tooltip="The prompt, encoded for Stage II."),
    ]


def negative_input() -> io.Input:
    return io.Conditioning.Input("negative", optional=True, tooltip="Left open: all zeros, as the model was trained.")


def solver_input() -> io.Input:
    return io.Combo.Input(
        "solver",
        options=list(SOLVERS),
        default="euler",
        tooltip="euler: one evaluation a step, the paper's. midpoint, heun: two. rk4: four.",
        advanced=True,
        optional=True,
    )


def pick_sample(latent: dict[str, Any], index: int) -> dict[str, Any]:
    """One sample of a batch as a LATENT of its own.

    Raises:
        ValueError: the batch is smaller.
    """
    samples = latent["samples"]
    count = len(samples)
    if not -count <= index < count:
        raise ValueError(f"index {index}: the latent has {count} samples, 0 to {count - 1}. Choose one of them.")
    picked = {key: value for key, value in latent.items() if key != "batch_index"}
    mask = picked.get("noise_mask")
    if isinstance(mask, Tensor) and len(mask) == count:
        picked["noise_mask"] = mask[index % count][None]
    return {**picked, "samples": samples[index % count][None].clone()}


class PickPreview(io.ComfyNode):
    """One of K previews."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoPickPreview",
            display_name="FlashVideo Pick Preview",
            category="FlashVideo",
            description="Takes one video out of a batch of previews. It is exactly what its own seed gives alone.",
            search_aliases=["flashvideo", "latent from batch", "choose", "select seed", "preview"],
            inputs=[
                io.Latent.Input("latent", tooltip="A batch of previews from the Stage I Sampler."),
                io.Int.Input(
                    "index",
                    default=0,
                    min=-64,
                    max=63,
                    tooltip="Which one: 0 is that of the sampler's seed, 1 of seed + 1 ... -1 is the last.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The chosen preview, a batch of one.")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], index: int) -> io.NodeOutput:
        return io.NodeOutput(pick_sample(latent, index))


class RefineOneFrame(io.ComfyNode):
    """A proof of what Stage II will make."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoRefineOneFrame",
            display_name="FlashVideo Refine One Frame",
            category="FlashVideo",
            description="Refines a single frame of a preview at full resolution, for a fraction of what the clip "
            "costs: look at the details first. The clip's frame will differ in detail, having seen its neighbours.",
            search_aliases=["flashvideo", "proof", "test frame", "single image", "image upscale", "stage 2"],
            inputs=[
                *stage2_inputs(),
                io.Image.Input("image", tooltip="The preview's frames, or a single picture."),
                io.Vae.Input("vae", tooltip="FlashVideo Load VAE, or core's Load VAE with a CogVideoX VAE."),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=-_MAX_FRAMES,
                    max=_MAX_FRAMES,
                    tooltip="Which frame: 0 is the first, -1 the last.",
                ),
                *size_inputs(),
                io.Int.Input(
                    "noise_step",
                    default=DEFAULT_NOISE_STEP,
                    min=0,
                    max=999,
                    tooltip="How much of the latent is replaced by noise: 675 by default, trained on 650 to 750.",
                ),
                seed_input("Seed of the posterior's draw and of the degradation's noise."),
                *shift_inputs(),
                io.Float.Input(
                    "cfg",
                    default=13.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance scale; the authors use 10 to 13. 1 halves the cost and leaves guidance out.",
                ),
                solver_input(),
                negative_input(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The refined frame."),
                io.Latent.Output(display_name="latent", tooltip="Its latent, in VAE space."),
            ],
        )

    @classmethod
    def validate_inputs(cls, size: Any = None, width: Any = None, height: Any = None) -> bool | str:
        return check_target(size, width, height)

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        image: Tensor,
        vae: Any,
        frame: int,
        size: str,
        width: int,
        height: int,
        resize: str,
        noise_step: int,
        seed: int,
        steps: int,
        shift: float,
        cfg: float,
        solver: str = "euler",
        negative: Any = None,
    ) -> io.NodeOutput:
        require_stage(model, "stage2")
        require_vae(vae)
        conditionings(model, positive, negative)
        count = image_to_video(image).shape[2]
        if not -count <= frame < count:
            raise ValueError(f"frame {frame}: the video has {count} frames, 0 to {count - 1}. Choose one of them.")
        limits, target = VaeLimits(), chosen_size(size, width, height)
        latent = upscaled_latent(vae, image[frame % count][None], target, resize, limits, seed)
        degraded = LatentDegradation.execute(latent, noise_step, seed, model).args[0]
        told = {"solver": solver, "negative": negative}
        refined = Stage2Refiner.execute(model, positive, degraded, steps, shift, cfg, **told).args[0]
        return io.NodeOutput(decode_images(vae, refined, limits), refined)


NODES = [PickPreview, RefineOneFrame]
