"""Refine Video: a VIDEO of any length that is refined while it is saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ...flashvideo.method.windows import TimeWindows
from ...flashvideo.runs.attention import AUTO, FULL, WINDOWS
from ...flashvideo.runs.prompts import prompts_in
from ...flashvideo.runs.settings import Stage2Settings
from ...flashvideo.runs.stretches import Stretch, check_prompts, cuts_of, stretch_words, stretches_between
from ...flashvideo.video.color_match import cells_of_a_latent
from ...flashvideo.video.cuts import CutFinder
from ...flashvideo.video.resize import resize_words
from ..host.codec import VaeLimits, limit_inputs, require_vae
from ..host.lazy_video import FrameSource, HeldFrames, KeptFrames, LazyVideo
from ..host.misfits import require_own_sampling
from ..host.network import with_windows_unless_set
from ..host.refining import RefinedFrames, require_mask_of, require_same_noise_step
from ..host.source import described
from ..kept.signature import content_and_models, signature
from ..shared.node_text import told
from ..shared.widgets import (
    OF_INPUT,
    STAGE2,
    bit_depth_input,
    check_chosen_size,
    chosen_target,
    guidance_every_input,
    model_input,
    negative_input,
    noise_step_input,
    positive_input,
    posterior_input,
    schedule_inputs,
    seed_input,
    setting_input,
    short_side_input,
    solver_input,
    stage2_cfg_input,
    target_inputs,
    vae_input,
)
from ..shared.wiring import STAGES, conditionings, require_stage, require_unguided
from .text import MOTION, encoded_text, motion_input, staged_prompt

_WINDOWS = TimeWindows()
_CHOSEN = -1.0  # cells to match colours in
# of the inputs, what the refined latents are made from
_SOURCES = ("video", "model", "positive", "negative", "vae", "clip", "keep")


class RefineVideo(io.ComfyNode):
    """Stage II of a whole video, as a stream."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoRefineVideo",
            display_name="FlashVideo Refine Video",
            category="FlashVideo",
            description="Brings a video of any length to full resolution while Save Video writes it: read, enlarged, "
            "refined in windows of time and decoded frame by frame, in the memory of a few seconds of video. Its frame "
            "rate and audio are kept.",
            search_aliases=[
                "flashvideo",
                "upscale video",
                "video upscaler",
                "restore",
                "long video",
                "super resolution",
            ],
            inputs=[
                io.Video.Input("video", tooltip="From Load Video or Create Video; any length, size and frame rate."),
                model_input("stage2"),
                positive_input("stage2", " (with the motion level)"),
                vae_input(),
                *target_inputs(),
                noise_step_input(more=" More gives Stage II more freedom, less keeps closer to the video."),
                *schedule_inputs(),
                stage2_cfg_input(),
                solver_input(),
                seed_input("Of the noise, drawn frame by frame: the same for long and short parts of one video."),
                io.Int.Input(
                    "window",
                    default=_WINDOWS.length,
                    min=1,
                    max=1024,
                    tooltip="Latent frames that Stage II sees at once, 4 frames each. It was trained on 13.",
                    advanced=True,
                ),
                io.Int.Input(
                    "overlap",
                    default=_WINDOWS.overlap,
                    min=0,
                    max=1023,
                    tooltip="Latent frames that two windows share; less than a window.",
                    advanced=True,
                ),
                setting_input(
                    STAGE2["match_colors"],
                    default=_CHOSEN,
                    low=_CHOSEN,
                    tooltip="Keeps the video's colours and light, in cells of so many of its pixels; Stage II's detail "
                    "stays. -1 takes 8 of the result's pixels, 0 leaves them to Stage II.",
                    advanced=True,
                ),
                posterior_input(),
                bit_depth_input(),
                *limit_inputs(),
                short_side_input(),
                guidance_every_input(STAGE2),
                negative_input(),
                io.Audio.Input("audio", optional=True, tooltip="Audio to put under the video, instead of its own."),
                io.String.Input(
                    "cuts",
                    default=AUTO,
                    tooltip="Where scenes change; each is refined for itself. auto looks for it, off takes the video "
                    "for one scene, 120,455 are the frames that begin one.",
                    advanced=True,
                    optional=True,
                ),
                io.Combo.Input(
                    "attention",
                    options=[AUTO, FULL, WINDOWS],
                    default=AUTO,
                    tooltip=f"{STAGE2['attention'].help} A model that comes from Attention Windows keeps its own.",
                    advanced=True,
                    optional=True,
                ),
                io.Clip.Input("clip", optional=True, tooltip="For prompts: FlashVideo Load Text Encoder."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="Instead of positive, with clip: one prompt a line for each stretch between cuts, or one "
                    "for all. Lines that begin with # do not count.",
                    advanced=True,
                    optional=True,
                ),
                motion_input(advanced=True, optional=True),
                io.Mask.Input(
                    "keep",
                    optional=True,
                    tooltip="White stays as the video shows it, enlarged: faces, text. One mask for all frames, or one "
                    "for each; of any size.",
                ),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="For Save Video, which refines it on the way.")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def validate_inputs(cls, size: Any = None, width: Any = None, height: Any = None, cuts: Any = None) -> bool:
        check_chosen_size(size, width, height, OF_INPUT)
        if cuts is not None:
            cuts_of(cuts)
        return True

    @classmethod
    def execute(
        cls,
        video: Any,
        model: Any,
        positive: Any,
        vae: Any,
        size: str,
        width: int,
        height: int,
        resize: str,
        noise_step: int,
        steps: int,
        shift: float,
        cfg: float,
        solver: str,
        seed: int,
        window: int = _WINDOWS.length,
        overlap: int = _WINDOWS.overlap,
        match_colors: float = _CHOSEN,
        posterior: str = "sample",
        bit_depth: int = 8,
        tile_size: int = 0,
        memory_gb: float = 0.0,
        short_side: int = STAGE2["height"].default,
        guidance_every: int = 1,
        negative: Any = None,
        audio: Any = None,
        cuts: str = AUTO,
        attention: str = AUTO,
        clip: Any = None,
        prompts: str = "",
        motion: str = MOTION,
        keep: Any = None,
    ) -> io.NodeOutput:
        require_stage(model, "stage2")
        require_unguided(model, cfg)
        require_vae(vae)
        require_own_sampling("stage2", model.get_model_object("model_sampling"))
        require_same_noise_step(model, noise_step)
        given, lines = cuts_of(cuts), prompts_in(prompts)
        if lines and clip is None:
            raise ValueError(
                f"prompts has {len(lines)} prompts, and clip is not connected, which encodes them. Connect FlashVideo "
                "Load Text Encoder, or leave prompts empty."
            )
        positive, negative = conditionings(model, positive, negative)
        finder = CutFinder()
        source = described(video, with_audio=audio is None, cuts=finder if given == AUTO else None)
        frames, shape = source.shape[0], source.shape[1:]
        stretches = stretches_between(finder.cuts if isinstance(given, str) else given, frames)
        if keep is not None:
            keep = require_mask_of(keep, frames)
        rows, columns = chosen_target(size, width, height, short_side, shape)
        settings = Stage2Settings(
            height=rows,
            width=columns,
            noise_step=int(noise_step),
            num_steps=int(steps),
            shift=shift,
            guidance_scale=cfg,
            guidance_every=int(guidance_every),
            solver=solver,
            resize=resize,
            sample_posterior=posterior == "sample",
            attention=attention,
            time_windows=f"{int(window)},{int(overlap)}",
            match_colors=cells_of_a_latent(shape, (rows, columns)) if match_colors == _CHOSEN else match_colors,
            seed=int(seed),
        )
        settings.check()
        positives = _encoded(clip, lines, motion, stretches) if lines else (positive,)
        for each in positives:
            conditionings(model, each, negative)
        refined: FrameSource = KeptFrames(
            RefinedFrames(
                video,
                stretches,
                with_windows_unless_set(model, settings.attention_windows),
                vae,
                positives,
                negative,
                keep,
                settings,
                VaeLimits(tile_size, memory_gb),
                {**cls._made_from(), **({"prompts": lines, "motion": motion} if lines else {})},
            )
        )
        taken = source.taken
        if taken.numbers is not None:
            refined = HeldFrames(refined, taken.numbers)
        remarks = [resize_words(*shape, rows, columns, mode=resize), *taken.remarks]
        if len(stretches) > 1:
            remarks.append(f"{stretch_words(stretches)} (cuts: off refines them as one).")
        audio = taken.audio if audio is None else audio
        return told(LazyVideo(refined, taken.rate, audio, bit_depth), remarks=remarks)

    @classmethod
    def _made_from(cls) -> dict[str, str]:
        """Signatures of what is connected."""
        lookup = cls.hidden.dynprompt.get_node
        inputs = lookup(cls.hidden.unique_id)["inputs"]
        return {name: signature(inputs[name], lookup, content_and_models) for name in _SOURCES if name in inputs}


def _encoded(clip: Any, prompts: list[str], motion: str, stretches: Sequence[Stretch]) -> tuple[Any, ...]:
    """CONDITIONINGs of prompts, one for all stretches or one for each.

    Raises:
        ValueError: another number of prompts.
    """
    check_prompts(prompts, stretches)
    texts = {prompt: staged_prompt(prompt, STAGES["stage2"], motion) for prompt in prompts}
    encoded = {prompt: encoded_text(clip, text) for prompt, text in texts.items()}
    return tuple(encoded[prompt] for prompt in prompts)


NODES = [RefineVideo]
