"""Pick Preview and Refine One Frame: deciding before paying for a whole clip."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..host.codec import VaeLimits, decode_images, require_vae, resize_remarks, upscaled_latent
from ..host.stage2_sampling import degraded_latent, refined_latent
from ..shared.node_text import told
from ..shared.widgets import (
    OF_INPUT,
    check_chosen_size,
    chosen_target,
    model_input,
    negative_input,
    noise_step_input,
    positive_input,
    schedule_inputs,
    seed_input,
    short_side_input,
    solver_input,
    stage2_cfg_input,
    target_inputs,
    vae_input,
)
from ..shared.wiring import conditionings, image_to_video, require_index, require_stage

_MAX_FRAMES = 100000


def pick_sample(latent: dict[str, Any], index: int) -> dict[str, Any]:
    """One sample of a batch as a LATENT of its own.

    Raises:
        ValueError: the batch is smaller.
    """
    samples = latent["samples"]
    count = len(samples)
    index = require_index("index", index, count, "samples in the latent")
    picked = {key: value for key, value in latent.items() if key != "batch_index"}
    mask = picked.get("noise_mask")
    if isinstance(mask, Tensor) and len(mask) == count:
        picked["noise_mask"] = mask[index][None]
    return {**picked, "samples": samples[index][None].clone()}


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
                model_input("stage2"),
                positive_input("stage2"),
                io.Image.Input("image", tooltip="The preview's frames, or a single picture."),
                vae_input(),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=-_MAX_FRAMES,
                    max=_MAX_FRAMES,
                    tooltip="Which frame: 0 is the first, -1 the last.",
                ),
                *target_inputs(),
                noise_step_input(),
                seed_input("Seed of the posterior's draw and of the degradation's noise."),
                *schedule_inputs(),
                stage2_cfg_input(),
                solver_input(advanced=True, optional=True),
                negative_input(),
                short_side_input(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The refined frame."),
                io.Latent.Output(display_name="latent", tooltip="Its latent, in VAE space."),
            ],
        )

    @classmethod
    def validate_inputs(cls, size: Any = None, width: Any = None, height: Any = None) -> bool:
        check_chosen_size(size, width, height, OF_INPUT)
        return True

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
        short_side: int = 1072,
    ) -> io.NodeOutput:
        require_stage(model, "stage2")
        require_vae(vae)
        conditionings(model, positive, negative)
        count = image_to_video(image).shape[2]
        frame = require_index("frame", frame, count, "frames")
        limits, target = VaeLimits(), chosen_target(size, width, height, short_side, (image.shape[1], image.shape[2]))
        latent = upscaled_latent(vae, image[frame][None], target, resize, limits, seed)
        degraded = degraded_latent(latent, noise_step, seed, model)
        refined = refined_latent(model, positive, degraded, steps, shift, cfg, solver=solver, negative=negative)
        return told(decode_images(vae, refined, limits), refined, remarks=resize_remarks(image, target, resize))


NODES = [PickPreview, RefineOneFrame]
