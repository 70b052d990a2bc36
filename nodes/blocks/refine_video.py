"""Refine Video: a VIDEO of any length that is refined while it is saved."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...flashvideo.method.windows import TimeWindows
from ...flashvideo.runs.attention import FULL
from ...flashvideo.runs.settings import Stage2Settings
from ...flashvideo.video.color_match import cells_of_a_latent
from ...flashvideo.video.resize import resize_words
from ..host.codec import VaeLimits, limit_inputs, require_vae
from ..host.lazy_video import FrameSource, HeldFrames, KeptFrames, LazyVideo
from ..host.misfits import require_own_sampling
from ..host.refining import RefinedFrames, require_same_noise_step
from ..host.source import described
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
from ..shared.wiring import conditionings, require_stage, require_unguided

_WINDOWS = TimeWindows()
_CHOSEN = -1.0  # cells to match colours in


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
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="For Save Video, which refines it on the way.")],
        )

    @classmethod
    def validate_inputs(cls, size: Any = None, width: Any = None, height: Any = None) -> bool:
        check_chosen_size(size, width, height, OF_INPUT)
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
    ) -> io.NodeOutput:
        require_stage(model, "stage2")
        require_unguided(model, cfg)
        require_vae(vae)
        require_own_sampling("stage2", model.get_model_object("model_sampling"))
        require_same_noise_step(model, noise_step)
        positive, negative = conditionings(model, positive, negative)
        source = described(video, with_audio=audio is None)
        frames, shape = source.shape[0], source.shape[1:]
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
            attention=FULL,  # the MODEL knows its windows
            time_windows=f"{int(window)},{int(overlap)}",
            match_colors=cells_of_a_latent(shape, (rows, columns)) if match_colors == _CHOSEN else match_colors,
            seed=int(seed),
        )
        settings.check()
        refined: FrameSource = KeptFrames(
            RefinedFrames(video, frames, model, vae, positive, negative, settings, VaeLimits(tile_size, memory_gb))
        )
        taken = source.taken
        if taken.numbers is not None:
            refined = HeldFrames(refined, taken.numbers)
        remarks = [resize_words(*shape, rows, columns, mode=resize), *taken.remarks]
        audio = taken.audio if audio is None else audio
        return told(LazyVideo(refined, taken.rate, audio, bit_depth), remarks=remarks)


NODES = [RefineVideo]
