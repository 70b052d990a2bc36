"""Load Stage I, Load Stage II and Load LoRA."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...flashvideo.checkpoints.files import name_list, open_weights
from ...flashvideo.loading.lora import check_lora_fits, read_lora
from ...flashvideo.loading.source import stored_student
from ..host.model import WEIGHT_DTYPES, load_stage
from ..shared.model_files import check_model, model_choices, model_path
from ..shared.wiring import STAGES, STUDENT, require_any_stage

CATEGORY = "FlashVideo"

_DTYPE_TIP = (
    "How the weights are kept. default: as the file has them. fp8 halves the memory of bf16 at a small loss "
    "(a file converted to scaled fp8 loses less); _fast also multiplies in fp8 where the GPU can."
)


def _stage_schema(node_id: str, stage: str, description: str, aliases: list[str]) -> io.Schema:
    return io.Schema(
        node_id=node_id,
        display_name=f"FlashVideo Load {STAGES[stage]}",
        category=CATEGORY,
        description=description,
        search_aliases=aliases,
        inputs=[
            io.Combo.Input(
                "model_name",
                options=model_choices("diffusion_models", stage),
                tooltip=f"The {STAGES[stage]} file in models/diffusion_models: published .pt, converted .safetensors "
                "(bf16 or scaled fp8), or the tiny one that comes with the pack. The architecture is read from it.",
            ),
            io.Combo.Input(
                "weight_dtype",
                options=list(WEIGHT_DTYPES),
                default="default",
                tooltip=_DTYPE_TIP,
                advanced=True,
                optional=True,
            ),
        ],
        outputs=[io.Model.Output(display_name="model", tooltip=f"The {STAGES[stage]} transformer.")],
    )


class LoadStage1(io.ComfyNode):
    """Stage I's transformer as a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _stage_schema(
            "FlashVideoLoadStage1",
            "stage1",
            "Loads the transformer that paints the small video from a prompt.",
            ["flashvideo", "stage 1 loader", "load diffusion model", "unet loader", "text to video"],
        )

    @classmethod
    def validate_inputs(cls, model_name: Any = None) -> bool | str:
        return check_model("diffusion_models", model_name, "stage1")

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str = "default") -> io.NodeOutput:
        return io.NodeOutput(load_stage(model_path("diffusion_models", model_name, "stage1"), "stage1", weight_dtype))


class LoadStage2(io.ComfyNode):
    """Stage II's transformer as a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _stage_schema(
            "FlashVideoLoadStage2",
            "stage2",
            "Loads the transformer that brings a small video to full resolution in four steps.",
            ["flashvideo", "stage 2 loader", "load diffusion model", "unet loader", "video upscale", "refiner"],
        )

    @classmethod
    def validate_inputs(cls, model_name: Any = None) -> bool | str:
        return check_model("diffusion_models", model_name, "stage2")

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str = "default") -> io.NodeOutput:
        return io.NodeOutput(load_stage(model_path("diffusion_models", model_name, "stage2"), "stage2", weight_dtype))


def lora_patches(model: Any, path: str) -> dict[str, Any]:
    """A LoRA file of any naming as ComfyUI's patches of native weights.

    Raises:
        ValueError: keys that match nothing, or shapes of another model.
    """
    from comfy.weight_adapter.lora import LoRAAdapter

    pairs = read_lora(path)
    shapes = {name: tuple(p.shape) for name, p in model.model.diffusion_model.named_parameters()}
    check_lora_fits(path, pairs, shapes, "this model")
    return {
        f"diffusion_model.{module}.weight": LoRAAdapter({f"{module}.weight"}, (up, down, None, None, None, None))
        for module, (down, up) in pairs.items()
    }


class LoadLora(io.ComfyNode):
    """A LoRA of any naming on a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoLoadLora",
            display_name="FlashVideo Load LoRA",
            category=CATEGORY,
            description="Puts a LoRA on Stage I or Stage II, whatever its naming: diffusers/PEFT, Kohya, published or "
            "native. A key that matches nothing is an error.",
            search_aliases=["flashvideo", "lora loader", "load lora", "peft", "kohya", "adapter"],
            inputs=[
                io.Model.Input("model", tooltip="A FlashVideo model of the stage that the LoRA was made for."),
                io.Combo.Input("lora_name", options=model_choices("loras"), tooltip="The LoRA file in models/loras."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.05,
                    tooltip="How strongly the LoRA acts: 1 as trained, 0 not at all, negative the opposite.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the LoRA.")],
        )

    @classmethod
    def validate_inputs(cls, lora_name: Any = None) -> bool | str:
        return check_model("loras", lora_name)

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength: float = 1.0) -> io.NodeOutput:
        require_any_stage(model)
        path = model_path("loras", lora_name)
        patches = lora_patches(model, path)
        if strength == 0:
            return io.NodeOutput(model)
        patched = model.clone()
        taken = set(patched.add_patches(patches, strength))
        if left := sorted(set(patches) - taken):
            raise ValueError(f"{lora_name}: ComfyUI took no patch for {name_list(left)}. Is another node in the way?")
        if (student := stored_student(open_weights(path))) is not None:
            patched.model_options["transformer_options"][STUDENT] = student
        return io.NodeOutput(patched)


NODES = [LoadStage1, LoadStage2, LoadLora]
