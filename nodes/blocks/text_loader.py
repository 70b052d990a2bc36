"""Load Text Encoder: small and large T5 encoders."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.text import load_text_encoder
from ..shared.model_files import model_choices, model_path


class LoadTextEncoder(io.ComfyNode):
    """T5 of any size as a CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoLoadTextEncoder",
            display_name="FlashVideo Load Text Encoder",
            category="FlashVideo",
            description="Loads a T5 v1.1 encoder of any size. Core's CLIPLoader (type cogvideox) gives the same for "
            "T5-XXL; this one also takes the tiny bundled encoder.",
            search_aliases=["flashvideo", "clip loader", "load clip", "t5", "t5xxl", "text encoder"],
            inputs=[
                io.Combo.Input(
                    "text_encoder_name",
                    options=model_choices("text_encoders", "text"),
                    tooltip="T5-XXL v1.1 in models/text_encoders (t5xxl_fp16, t5xxl_fp8_e4m3fn_scaled ...), as both "
                    "published stages need it; the tiny bundled one belongs to the tiny models.",
                ),
            ],
            outputs=[io.Clip.Output(display_name="clip", tooltip="The text encoder, for any text encode node.")],
        )

    @classmethod
    def execute(cls, text_encoder_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_text_encoder(model_path("text_encoders", text_encoder_name, "text")))


NODES = [LoadTextEncoder]
