"""Settings of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ..method.checks import NOISE_STEPS, check_noise_step, check_size, shortened
from ..method.stage1 import GUIDANCE_CURVES, stage1_guidance
from ..method.stage2 import ROUNDINGS, SOLVERS
from ..method.stream import check_evaluations
from ..method.windows import TimeWindows
from ..models.windows import AttentionWindows
from ..tensors.sizes import SIZE_MULTIPLE, TEMPORAL_FACTOR, latent_frames
from ..video.files import DEFAULT_FPS, MAX_FPS
from ..video.resize import RESIZE_MODES
from .attention import ATTENTION, AUTO, attention_windows, check_attention
from .fields import check_fields, from_dict, setting
from .keeping import NOTHING_KEPT, identified
from .sizes import MAX_SIDE, SIZES
from .sizes import parse_size as parse_size
from .sizes import size_name as size_name
from .time_windows import OFF, TIME_WINDOWS, check_time_windows, time_windows

_SIDE = {"low": SIZE_MULTIPLE, "step": SIZE_MULTIPLE, "offered": (SIZE_MULTIPLE, MAX_SIDE)}
MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class Stage1Settings:
    """Stage I. Sizes in pixels; defaults are the authors' run."""

    height: int = setting(SIZES["270p"][0], "Stage I was trained on 270p.", option="preview-size", **_SIDE)
    width: int = setting(SIZES["270p"][1], "Stage I was trained on 270p.", option="preview-size", **_SIDE)
    num_frames: int = setting(
        49,
        "Frames: 1, 5, 9 ... (4n + 1). Trained on 49, which are 6 seconds at 8 frames a second.",
        option="frames",
        low=1,
        step=TEMPORAL_FACTOR,
        offered=(1, 4001),
    )
    num_steps: int = setting(
        51,
        "Evaluations of the model. The authors run 51 (their paper says 50).",
        label="steps of Stage I",
        option="preview-steps",
        low=1,
        high=NOISE_STEPS,
        reason=f"the schedule has {NOISE_STEPS}",
    )
    guidance_scale: float = setting(
        8.0,
        "Guidance scale: how closely the prompt is followed. The guidance of a step swings between 1 and 1 + this.",
        option="preview-cfg",
        low=0,
        step=0.1,
        offered=(0, 100),
    )
    guidance_exponent: float = setting(
        5.0,
        "Exponent of the guidance curve. The authors' curve needs a whole number.",
        low=0,
        high=20,
        step=1,
        advanced=True,
    )
    guidance_curve: str = setting(
        "authors",
        "authors: what the model was sampled with. smooth: grows over the steps. constant: plain CFG.",
        option="guidance-curve",
        choices=GUIDANCE_CURVES,
        advanced=True,
    )
    guidance_every: int = setting(
        1,
        "Evaluate the branch without a prompt at the first of so many steps in a row only, and reuse its difference: "
        "2 saves a quarter of the time, 4 three eighths.",
        option="preview-guidance-every",
        low=1,
        offered=(1, 1000),
        advanced=True,
    )
    seed: int = setting(
        0, "Of everything that is drawn, in both stages.", option="seed", low=0, high=MAX_SEED, of_models=False
    )

    def check(self) -> None:
        """Raise ValueError for settings that cannot run."""
        check_size(self.height, self.width)
        latent_frames(self.num_frames)
        check_seed(self.seed)
        check_fields(self)
        stage1_guidance(
            self.guidance_curve,  # type: ignore[arg-type]
            0,
            NOISE_STEPS - 1,
            self.num_steps,
            self.guidance_scale,
            self.guidance_exponent,
        )

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """``(1, 16, T, h, w)``."""
        return (1, 16, latent_frames(self.num_frames), self.height // 8, self.width // 8)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "stage1") -> Stage1Settings:
        """The inverse, refusing unknown keys with a ValueError that names ``where`` they stand; missing ones keep
        their defaults."""
        return from_dict(cls, values, where)


@dataclass(frozen=True)
class Stage2Settings:
    """Stage II. Sizes in pixels; 1072 x 1920 is what the authors call 1080p.

    Attributes:
        noise_step: strength of the latent degradation.
        num_steps: steps of the flow; evaluations are this times the solver's.
        motion: put in front of the prompt.
        resize: how the preview is brought to the target's shape: ``stretch`` (as trained), ``crop`` or ``pad``.
        sample_posterior: draw from the VAE's posterior, as the authors do; else take its mean.
        attention: see :func:`~flashvideo.runs.attention.attention_windows`.
        time_windows: see :func:`~flashvideo.runs.time_windows.time_windows`.
        match_colors: keep the preview's colours at this coarseness, in its pixels (:func:`~flashvideo.match_colors`);
            0, as the authors do, leaves them to Stage II.
        keep: file of a mask, see :mod:`flashvideo.runs.keeping`.
        seed: of the posterior and the degradation.
    """

    height: int = setting(
        SIZES["1080p"][0],
        "Size of the refined video; Stage II was trained on 1080p.",
        option="size",
        of_input=True,
        **_SIDE,
    )
    width: int = setting(
        SIZES["1080p"][1],
        "Size of the refined video; Stage II was trained on 1080p.",
        option="size",
        of_input=True,
        **_SIDE,
    )
    noise_step: int = setting(
        675,
        "How much of the latent is replaced by noise: 675 by default, trained on 650 to 750.",
        option="noise-step",
        low=0,
        high=NOISE_STEPS - 1,
    )
    num_steps: int = setting(
        4,
        "Steps of the flow. 4 by default; the authors ran 5.",
        label="steps of Stage II",
        option="steps",
        low=1,
        offered=(1, 1000),
    )
    shift: float = setting(
        2.5,
        "Above 1 the steps grow towards the end; 1 gives equal steps (the paper's), 2.5 the authors' run.",
        option="shift",
        above=0,
        step=0.1,
        offered=(0.01, 100),
    )
    guidance_scale: float = setting(
        13.0,
        "Guidance scale; the authors use 10 to 13. 1 halves the cost and leaves guidance out.",
        option="cfg",
        low=0,
        step=0.1,
        offered=(0, 100),
    )
    guidance_every: int = setting(
        1,
        "Evaluate the branch without a prompt at the first of so many evaluations in a row only, and reuse its "
        "difference: 2 saves a quarter of the time.",
        option="guidance-every",
        low=1,
        offered=(1, 1000),
        advanced=True,
    )
    guide_student: bool = setting(
        False,
        "Allow guidance above 1 for a student, which has its teacher's in its weights.",
        option="guide-student",
        of_models=False,
    )
    solver: str = setting(
        "euler",
        "euler: one evaluation a step, the paper's. midpoint, heun: two. rk4: four.",
        option="solver",
        choices=tuple(SOLVERS),
    )
    rounding: str | None = setting(
        None,
        "bf16 rounds time steps and noise step as the authors' production run did; exact does not.",
        option="rounding",
        choices=ROUNDINGS,
        off=None,
        advanced=True,
        of_models=False,
    )
    motion: str = setting(
        "medium motion,",
        "Stage II only: the words in front of the prompt. The authors always use medium motion.",
        option="motion",
    )
    resize: str = setting(
        "stretch",
        "stretch: what Stage II was trained on. crop and pad keep the aspect ratio.",
        option="resize",
        choices=RESIZE_MODES,
    )
    sample_posterior: bool = setting(
        True,
        "Encode to the mean of the VAE's posterior, not to a sample of it as the authors do.",
        option="posterior-mean",
        of_models=False,
    )
    attention: str = setting(
        AUTO,
        "What attention sees: full, everything. auto: windows of the trained size, 1920x1072, where the video is "
        "larger. windows: 960x544 and the whole frame in cells of 4x4 patches, faster at 1080p.",
        option="attention",
        words=ATTENTION,
        read=check_attention,
    )
    time_windows: str = setting(
        OFF,
        "Refine longer videos on overlapping stretches of so many latent frames, joined at every evaluation: the "
        "memory of one stretch for any length. Stage II was trained on 13 latent frames, which are 49 frames.",
        option="time-windows",
        off=OFF,
        words=TIME_WINDOWS,
        read=check_time_windows,
    )
    match_colors: float = setting(
        0.0,
        "Keep the preview's colours and light, in cells of so many of its pixels; Stage II's detail stays.",
        option="match-colors",
        off=0,
        low=1,
        high=1024,
        step=1,
    )
    keep: str = setting(
        NOTHING_KEPT,
        "A picture or video, white where the preview is kept as it is, enlarged: faces, text. Grey keeps a part.",
        option="keep",
        words="a file",
        of_models=False,
        given=identified,
    )
    seed: int = setting(
        0, "Of the posterior and the degradation.", option="seed", low=0, high=MAX_SEED, of_models=False
    )

    def check(self) -> None:
        """Raise ValueError for settings that cannot run."""
        check_size(self.height, self.width)
        check_noise_step(self.noise_step)
        check_seed(self.seed)
        check_fields(self)
        if self.windows_in_time is not None:
            check_evaluations(self.num_steps, self.solver)

    @property
    def windows_in_time(self) -> TimeWindows | None:
        """The stretches that are evaluated; ``None``: everything at once."""
        return time_windows(self.time_windows)

    @property
    def attention_windows(self) -> AttentionWindows | None:
        """What attention is confined to; ``None``: full attention."""
        return attention_windows(self.attention, self.height, self.width)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "stage2") -> Stage2Settings:
        """As :meth:`Stage1Settings.from_dict`."""
        return from_dict(cls, values, where)

    def with_seed(self, seed: int) -> Stage2Settings:
        return replace(self, seed=seed)


@dataclass(frozen=True)
class VideoSettings:
    """Of the files of both stages' videos; :func:`~flashvideo.video.files.check_fps` is their check."""

    fps: float = setting(
        DEFAULT_FPS,
        "Frames per second; both stages were trained on 8.",
        option="fps",
        above=0,
        high=MAX_FPS,
        step=0.01,
        offered=(0.01, MAX_FPS),
    )


def check_seed(seed: int) -> None:
    if not 0 <= seed <= MAX_SEED or int(seed) != seed:
        raise ValueError(f"seed {shortened(seed)}: expected a whole number from 0 to 2^64 - 1.")
