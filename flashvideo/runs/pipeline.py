"""Both stages as a diffusers pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from ..loading.model_store import release_memory
from ..method.checks import check_prompt_embeds
from ..method.student import check_student_guidance, student_of
from ..models.transformer import FlashVideoTransformer3DModel
from ..video.files import DEFAULT_FPS, check_fps
from . import chain
from .memory import Load, check_host_memory
from .offloading import Part, plan_offload
from .record import Record
from .settings import Stage1Settings, Stage2Settings

log = logging.getLogger(__name__)


@dataclass
class FlashVideoPipelineOutput(BaseOutput):
    """What a call gives.

    Attributes:
        frames: ``[1, 3, F, H, W]``, 0..1, fp32 on the CPU: the refined video, or the preview if Stage II was left out.
        preview_frames: the small video, likewise.
        preview: its record: latents, embeddings and settings; :meth:`FlashVideoPipeline.refine` takes it.
    """

    frames: Tensor
    preview_frames: Tensor
    preview: Record


class FlashVideoPipeline(DiffusionPipeline):
    """Text to a small video (Stage I) to a large one (Stage II); arXiv 2502.05179.

    Args:
        stage1, stage2: transformers; either may be missing for runs that do not need it.
        vae: CogVideoX's, for both stages.
        text_encoder, tokenizer: T5 v1.1 XXL's encoder, without attention mask, as in training.

    Put it on a device with ``.to(device)``, or call :meth:`offload_to` to have one model at a time there, always or
    only where they do not fit together.
    """

    model_cpu_offload_seq = "text_encoder->stage1->stage2->vae"
    _optional_components = ["stage1", "stage2", "text_encoder", "tokenizer"]  # noqa: RUF012 (diffusers reads it so)

    def __init__(
        self,
        stage1: FlashVideoTransformer3DModel | None,
        stage2: FlashVideoTransformer3DModel | None,
        vae: AutoencoderKLCogVideoX,
        text_encoder: Any = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(stage1=stage1, stage2=stage2, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer)
        self._offload_device: torch.device | None = None
        self._fitted_device: torch.device | None = None

    def offload_to(self, device: torch.device | str, *, only_if_needed: bool = False) -> FlashVideoPipeline:
        """Keep the models in host memory and put each on ``device`` while it works.

        Args:
            device: to compute on.
            only_if_needed: every call chooses by what is free and by its sizes whether models stay on the device, and
                the log says so. A call that cannot fit is refused with the estimate.
        """
        device = torch.device(device)
        self._fitted_device = device if only_if_needed and device.type != "cpu" else None
        self._offload_device = device
        self.to("cpu")
        return self

    def _make_fit(self, load: Load, *names: str) -> None:
        """Refuse a call whose videos do not fit; choose where its models wait, if that is to be chosen.

        Raises:
            ValueError: videos that host memory cannot hold, a step that does not fit on the device.
        """
        check_host_memory(load)
        device = self._fitted_device
        if device is None:
            return
        parts = {name: Part(getattr(self, name), getattr(self, name).config) for name in names if name != "text"}
        if "text" in names:
            parts["text"] = Part(self.text_encoder, self.text_encoder.config.to_dict())
        plan = plan_offload(parts, load, device)
        if plan.shortage:
            raise ValueError(
                f"{load.name} do not fit on {device}: {plan.shortage}; offload_to without only_if_needed tries it all "
                "the same."
            )
        stay = plan.offload == "none"
        log.log(logging.INFO if stay else logging.WARNING, "%s", plan.reason)
        self._offload_device = None if stay else device
        self.to("cpu")
        for part in parts.values() if stay else ():
            part.module.to(device)

    def _require(self, *names: str) -> None:
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise ValueError(
                f"This pipeline was made without {', '.join(missing)}. Pass it to the constructor, or leave out the "
                "step that needs it (preview_only=True, prompt_embeds=...)."
            )

    def _check_guidance(self, stage2: Stage2Settings) -> None:
        check_student_guidance(student_of(self.stage2), stage2.guidance_scale, stage2.guide_student)

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        """A part, on its device meanwhile; see :class:`flashvideo.runs.chain.Models`."""
        module: nn.Module = getattr(self, "text_encoder" if name == "text" else name)
        if self._offload_device is not None:
            module.to(self._offload_device)
        try:
            length = next((m.text_length for m in (self.stage1, self.stage2) if m is not None), 226)
            yield (module, self.tokenizer, length) if name == "text" else module
        finally:
            if self._offload_device is not None:
                module.to("cpu")
                release_memory(self._offload_device)

    def latent_scale(self, name: str) -> float | None:
        """The scale that a stage's checkpoint carries, if it does."""
        module = getattr(self, name)
        return None if module is None else module.config.latent_scale

    def describe(self) -> dict[str, str]:
        """Where the models came from, for the record."""
        parts = {name: getattr(self, name) for name in ("stage1", "stage2", "vae")}
        record = {name: str(part.dtype).removeprefix("torch.") for name, part in parts.items() if part is not None}
        student = student_of(self.stage2)
        return record if student is None else {**record, "student": str(student)}

    def __call__(
        self,
        prompt: str | None = None,
        *,
        stage1: Stage1Settings | None = None,
        stage2: Stage2Settings | None = None,
        prompt_embeds: tuple[Tensor, Tensor] | None = None,
        fps: float = DEFAULT_FPS,
        seed: int | None = None,
        preview_only: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> FlashVideoPipelineOutput:
        """Generate a video.

        Args:
            prompt: 60 to 130 words work best.
            stage1, stage2: settings; defaults are the authors' run (256x480 to 1072x1920, 49 frames).
            prompt_embeds: of both stages' prompts instead of encoding ``prompt``, ``[1, 226, D]`` each.
            fps: recorded with the preview.
            seed: of both stages, instead of those in the settings.
            preview_only: stop after Stage I.
            progress: ``progress(what, steps done, steps)``; default: a progress bar for each step.

        Raises:
            ValueError: settings or prompt that cannot run, videos that do not fit into host memory, or onto the device
                where that is looked at; before anything runs.
        """
        first, second = stage1 or Stage1Settings(), stage2 or Stage2Settings()
        if seed is not None:
            first, second = replace(first, seed=seed), second.with_seed(seed)
        first.check()
        second.check()
        check_fps(fps)
        self._require("stage1", "vae", *(() if preview_only else ("stage2",)))
        report = progress or self._bars()
        if prompt_embeds is None:
            if prompt is None:
                raise ValueError("Give a prompt, or prompt_embeds of both stages.")
            self._require("text_encoder", "tokenizer")
        if not preview_only:
            self._check_guidance(second)
        refined = None if preview_only else (second.height, second.width)
        load = Load(first.num_frames, (first.height, first.width), refined, encodes=not preview_only)
        load = load.with_windows(second)
        stages = ("stage1",) if preview_only else ("stage1", "stage2")
        self._make_fit(load, *stages, "vae", *(("text",) if prompt_embeds is None else ()))
        if prompt_embeds is None:
            assert prompt is not None
            prompt_embeds = chain.embed_for_both(self, [prompt], second.motion, report)
        for name, embeds in zip(("stage1", "stage2"), prompt_embeds, strict=True):
            check_prompt_embeds(f"prompt_embeds of {name}", embeds, 1, getattr(self, name))
        preview = chain.make_preview(self, prompt or "", prompt_embeds, first, second, fps, report)
        small = chain.decode(self, preview.latents, report)
        frames = small if preview_only else self._refined(preview, second, small, report)
        return FlashVideoPipelineOutput(frames=frames, preview_frames=small, preview=preview)

    def refine(
        self,
        preview: Record,
        stage2: Stage2Settings | None = None,
        *,
        video: Tensor | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Tensor:
        """Stage II of a preview: ``[1, 3, F, H, W]``, 0..1, fp32 on the CPU.

        Args:
            preview: its record, as a call gives it.
            stage2: settings; default: those that the preview was made for.
            video: the preview's decoded video, if it is at hand.
        """
        self._require("stage2", "vae")
        check_prompt_embeds("the preview's stage2_embeds", preview.stage2_embeds, 1, self.stage2)
        settings = stage2 or preview.stage2
        self._check_guidance(settings)
        self._make_fit(Load.of_refining(preview, settings), "stage2", "vae")
        return self._refined(preview, settings, video, progress or self._bars())

    def _refined(
        self, preview: Record, stage2: Stage2Settings, video: Tensor | None, report: Callable[[str, int, int], None]
    ) -> Tensor:
        refined = chain.refine_record(self, preview, stage2, report, video=video)
        return torch.cat(list(chain.record_frames(self, refined, report, preview=video)), dim=2)

    def _bars(self) -> Callable[[str, int, int], None]:
        bars: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            bar = bars.get(what) or bars.setdefault(what, self.progress_bar(total=total))
            bar.set_description(what)
            bar.update(done - bar.n)
            if done >= total:
                bars.pop(what).close()

        return report


# Older versions of diffusers compare what a folder holds with annotations that are classes, not strings or unions.
FlashVideoPipeline.__init__.__annotations__.update(
    stage1=FlashVideoTransformer3DModel,
    stage2=FlashVideoTransformer3DModel,
    vae=AutoencoderKLCogVideoX,
    text_encoder=nn.Module,
    tokenizer=object,
)
