"""Settings of a run, and the sizes that people ask for by name."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from ..method.checks import check_finite_number, check_noise_step, check_positive, check_size
from ..tensors.sizes import latent_frames
from ..video.color_match import check_match_colors
from ..method.guidance import check_guidance
from ..method.schedules import NOISE_STEPS
from ..method.stage1 import stage1_guidance
from ..method.stage2 import get_solver

# name -> (height, width) in pixels: the nominal sizes floored to multiples of 16, as the authors run them
SIZES = {
    "270p": (256, 480),
    "540p": (528, 960),
    "720p": (720, 1280),
    "1080p": (1072, 1920),
    "2k": (1440, 2560),
    "4k": (2160, 3840),
}
DEFAULT_FPS = 8
MAX_FPS = 1000
RESIZE_MODES = ("stretch", "crop", "pad")
_SettingsType = TypeVar("_SettingsType", "Stage1Settings", "Stage2Settings")


def parse_size(text: str) -> tuple[int, int]:
    """``1080p`` or ``WIDTHxHEIGHT`` -> (height, width) in pixels.

    Raises:
        ValueError: neither, or a size that is no multiple of 16.
    """
    if text.lower() in SIZES:
        return SIZES[text.lower()]
    match = re.fullmatch(r"(\d+)[xX×](\d+)", text.strip())
    if not match:
        raise ValueError(f"size {text!r}: expected {', '.join(SIZES)} or WIDTHxHEIGHT, for example 960x528.")
    width, height = int(match[1]), int(match[2])
    check_size(height, width)
    return height, width


def _from_dict(kind: type[_SettingsType], values: dict[str, Any]) -> _SettingsType:
    known = {field.name for field in fields(kind)}
    return kind(**{key: value for key, value in values.items() if key in known})


@dataclass(frozen=True)
class Stage1Settings:
    """Stage I. Sizes in pixels; defaults are the authors' run."""

    height: int = 256
    width: int = 480
    num_frames: int = 49
    num_steps: int = 51
    guidance_scale: float = 8.0
    guidance_exponent: float = 5.0
    guidance_curve: str = "authors"
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError for settings that cannot run."""
        check_size(self.height, self.width)
        latent_frames(self.num_frames)
        check_positive("steps of Stage I", self.num_steps)
        if self.num_steps > NOISE_STEPS:
            raise ValueError(f"{self.num_steps} steps of Stage I: the schedule has {NOISE_STEPS}. Use fewer.")
        check_guidance(self.guidance_scale)
        stage1_guidance(
            self.guidance_curve,  # type: ignore[arg-type]
            0,
            NOISE_STEPS - 1,
            self.num_steps,
            self.guidance_scale,
            self.guidance_exponent,
        )
        check_seed(self.seed)

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """``(1, 16, T, h, w)``."""
        return (1, 16, latent_frames(self.num_frames), self.height // 8, self.width // 8)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Stage1Settings:
        return _from_dict(cls, values)


@dataclass(frozen=True)
class Stage2Settings:
    """Stage II. Sizes in pixels; 1072 x 1920 is what the authors call 1080p.

    Attributes:
        noise_step: strength of the latent degradation.
        num_steps: steps of the flow; evaluations are this times the solver's.
        motion: put in front of the prompt.
        resize: how the preview is brought to the target's shape: ``stretch`` (as trained), ``crop`` or ``pad``.
        sample_posterior: draw from the VAE's posterior, as the authors do; else take its mean.
        match_colors: keep the preview's colours at this coarseness, in its pixels (:func:`~flashvideo.match_colors`);
            0, as the authors do, leaves them to Stage II.
        seed: of the posterior and the degradation.
    """

    height: int = 1072
    width: int = 1920
    noise_step: int = 675
    num_steps: int = 4
    shift: float = 2.5
    guidance_scale: float = 13.0
    solver: str = "euler"
    rounding: str | None = None
    motion: str = "medium motion,"
    resize: str = "stretch"
    sample_posterior: bool = True
    match_colors: float = 0.0
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError for settings that cannot run."""
        check_size(self.height, self.width)
        check_noise_step(self.noise_step)
        check_positive("steps of Stage II", self.num_steps)
        get_solver(self.solver)
        check_guidance(self.guidance_scale)
        check_finite_number("shift", self.shift)
        if self.shift <= 0:
            raise ValueError(f"shift is {self.shift}; expected a positive number (2.5 by default).")
        if self.rounding not in (None, "bf16"):
            raise ValueError(f"rounding is {self.rounding!r}; expected nothing (exact) or 'bf16'.")
        if self.resize not in RESIZE_MODES:
            raise ValueError(f"resize is {self.resize!r}; expected one of {', '.join(RESIZE_MODES)}.")
        check_match_colors(self.match_colors)
        check_seed(self.seed)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Stage2Settings:
        return _from_dict(cls, values)

    def with_seed(self, seed: int) -> Stage2Settings:
        return replace(self, seed=seed)


def check_seed(seed: int) -> None:
    if int(seed) != seed or not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed}: expected a whole number from 0 to 2^63 - 1.")
