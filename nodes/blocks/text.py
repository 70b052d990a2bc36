"""Load Text Encoder and Text Encode: a prompt as both stages were trained with it."""

from __future__ import annotations

import logging
from typing import Any

import torch
from comfy_api.latest import io

from ...flashvideo.loading.text import stage2_prompt
from ..host.text import load_text_encoder, text_length
from ..shared.model_files import check_model, model_choices, model_path
from ..shared.node_text import show_on_node
from ..shared.widgets import STAGE2
from ..shared.wiring import STAGES, zero_conditioning

log = logging.getLogger(__name__)

MOTIONS = ["very low motion", "low motion", "medium motion", "high motion", "very high motion", "none"]
MOTION = STAGE2["motion"].default.removesuffix(",")
_PAD = 0

Tokens = dict[str, list[list[tuple[Any, ...]]]]


def staged_prompt(prompt: str, stage: str, motion: str) -> str:
    """Stage I's prompt is bare; Stage II's has the motion level in front, with a comma and no space."""
    if stage == STAGES["stage1"]:
        return prompt
    return stage2_prompt(prompt, "" if motion == "none" else f"{motion},")


def fit_tokens(tokens: Tokens, length: int) -> tuple[Tokens, int]:
    """Tokens padded or cut to a length, and how many were lost. The end token stays.

    Raises:
        ValueError: the tokens of another kind of text encoder.
    """
    if set(tokens) != {"t5xxl"}:
        raise ValueError(
            f"The text encoder is another kind ({', '.join(sorted(tokens))}); FlashVideo needs T5 v1.1 XXL. Use "
            "CLIPLoader with type cogvideox, or FlashVideo Load Text Encoder."
        )
    (row,) = tokens["t5xxl"]
    lost = max(0, len(row) - length)
    fitted = [*row[: length - 1], row[-1]] if lost else [*row, *[(_PAD, 1.0)] * (length - len(row))]
    return {"t5xxl": [fitted]}, lost


def motion_input(*, advanced: bool = False, optional: bool = False) -> io.Input:
    tooltip = STAGE2["motion"].help
    return io.Combo.Input(
        "motion", options=MOTIONS, default=MOTION, tooltip=tooltip, advanced=advanced, optional=optional
    )


def encoded_text(clip: Any, text: str, *, weights: bool = False) -> Any:
    """CONDITIONING of a text as a stage reads it; ``weights`` reads (words:1.2).

    Raises:
        ValueError: another kind of text encoder, or one whose file does not do.
    """
    length = text_length(clip)
    tokens, lost = fit_tokens(clip.tokenize(text, disable_weights=not weights), length)
    if lost:
        said = f"The prompt has {length + lost} tokens; the last {lost} were cut off."
        log.warning("FlashVideo: %s", said)
        show_on_node(said)
    conditioning = clip.encode_from_tokens_scheduled(tokens)
    for embeds, extra in conditioning:
        if "attention_mask" in extra:
            raise ValueError(
                "This text encoder masks its padding, which the model was not trained with. Load it with "
                "CLIPLoader type cogvideox, or FlashVideo Load Text Encoder."
            )
        if not torch.isfinite(embeds).all():
            raise ValueError("The text encoder gave NaN or infinite values. Use its bf16, fp8 or fp32 file.")
    return conditioning


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
    def validate_inputs(cls, text_encoder_name: Any = None) -> bool | str:
        return check_model("text_encoders", text_encoder_name, "text")

    @classmethod
    def execute(cls, text_encoder_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_text_encoder(model_path("text_encoders", text_encoder_name, "text")))


class TextEncode(io.ComfyNode):
    """A prompt and "no prompt" as CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoTextEncode",
            display_name="FlashVideo Text Encode",
            category="FlashVideo",
            description="Encodes a prompt for one stage: 226 tokens, and an all-zero negative, as the models were "
            "trained. Each stage needs its own encoding. Describe the video in 60 to 130 words.",
            search_aliases=["flashvideo", "clip text encode", "prompt", "conditioning", "t5"],
            inputs=[
                io.Clip.Input("clip", tooltip="T5: FlashVideo Load Text Encoder, or CLIPLoader with type cogvideox."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The video in words: subject, motion, surroundings, light, camera. What goes beyond 226 "
                    "tokens is cut off, and the node says so.",
                ),
                io.Combo.Input(
                    "stage",
                    options=list(STAGES.values()),
                    default=STAGES["stage1"],
                    tooltip="Which model the prompt is for. Stage I gets it bare, Stage II with the motion level in "
                    "front.",
                ),
                motion_input(),
                io.Boolean.Input(
                    "prompt_weights",
                    default=False,
                    tooltip="On: (words:1.2) weighs words as in other text encode nodes. Off: parentheses are "
                    "ordinary characters. The models were trained without weights.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", display_name="positive", tooltip="The encoded prompt."),
                io.Conditioning.Output(
                    "negative",
                    display_name="negative",
                    tooltip="All zeros, as both stages were trained to take for no prompt. Words have no place here.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, clip: Any, prompt: str, stage: str, motion: str = MOTION, prompt_weights: bool = False
    ) -> io.NodeOutput:
        if clip is None:
            raise ValueError("clip is None: the checkpoint has no text encoder. Use FlashVideo Load Text Encoder.")
        if not prompt.strip():
            raise ValueError("The prompt is empty. Describe the video in 60 to 130 words.")
        text = staged_prompt(prompt, stage, motion)
        positive = encoded_text(clip, text, weights=prompt_weights)
        return io.NodeOutput(positive, zero_conditioning(positive))


NODES = [LoadTextEncoder, TextEncode]
