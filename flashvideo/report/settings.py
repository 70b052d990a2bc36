"""What a report measures with: sizes, steps, numbers of clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..method.checks import check_noise_step, check_positive
from ..method.guidance import check_guidance
from ..runs.settings import Stage1Settings, Stage2Settings, check_seed

TINY_STAGE1 = Stage1Settings(
    height=48, width=80, num_frames=17, num_steps=30, guidance_scale=4.0, guidance_curve="constant"
)
TINY_STAGE2 = Stage2Settings(height=192, width=320, noise_step=200, guidance_scale=1.0, match_colors=1.0)


@dataclass(frozen=True)
class ReportSettings:
    """Defaults are those of FlashVideo-Tiny.

    Attributes:
        clips: held-out clips behind every number of the main sections, and of each group of captions in fidelity.
        ablation_clips: the same of the ablations, the sizes and the cost.
        ablation_frames: of the clips in them, from the middle of the whole clip; those of the noise step, which depends
            on the length, of Stage I and of the cost have all frames.
        seed: of scenes, noise and everything else that is drawn; the seeds in the stages' settings are not used.
        stage1, stage2: how clips are made and refined.
        nfe, cfg, noise_steps: values that the ablations of Stage II try.
        batch: clips of Stage I at once, large_batch: clips at high resolution.
    """

    clips: int = 200
    ablation_clips: int = 200
    ablation_frames: int = 5
    seed: int = 0
    stage1: Stage1Settings = TINY_STAGE1
    stage2: Stage2Settings = TINY_STAGE2
    nfe: tuple[int, ...] = tuple(range(1, 9))
    cfg: tuple[float, ...] = (1.0, 2.0, 4.0, 7.0, 13.0)
    noise_steps: tuple[int, ...] = (100, 200, 300, 500, 675)
    batch: int = 16
    large_batch: int = 4

    @property
    def factor(self) -> int:
        """High over low resolution."""
        return self.stage2.height // self.stage1.height

    def check(self) -> None:
        """Raise ValueError for settings that cannot run."""
        for name in ("clips", "ablation_clips"):
            if (number := getattr(self, name)) < 2:
                raise ValueError(f"{name} is {number}; expected at least 2, or there is no interval around a mean.")
        for name in ("batch", "large_batch"):
            check_positive(name, getattr(self, name))
        check_seed(self.seed)
        self.stage1.check()
        self.stage2.check()
        low, high = (self.stage1.height, self.stage1.width), (self.stage2.height, self.stage2.width)
        if self.factor < 2 or high != (low[0] * self.factor, low[1] * self.factor):
            raise ValueError(
                f"the low resolution is {low[1]}x{low[0]}, the high one {high[1]}x{high[0]}; expected a whole "
                "multiple of it, at least twice, the same in both directions."
            )
        if self.stage1.num_frames < 2:
            raise ValueError(f"clips of {self.stage1.num_frames} frame; expected 5 or more (4n + 1) to see motion.")
        if self.ablation_frames % 4 != 1 or not 5 <= self.ablation_frames <= self.stage1.num_frames:
            raise ValueError(
                f"ablation_frames is {self.ablation_frames}; expected 5, 9, 13 ... up to {self.stage1.num_frames}, the "
                "frames of a clip."
            )
        self._check_values()

    def _check_values(self) -> None:
        checks: dict[str, Callable[[Any], None]] = {
            "nfe": lambda value: check_positive("nfe", value),
            "cfg": check_guidance,
            "noise_steps": check_noise_step,
        }
        for name, check in checks.items():
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"the values of {name} are {values}; expected one or more, each once.")
            for value in values:
                check(value)

    def to_dict(self) -> dict[str, Any]:
        """What decides the numbers; batches only take more or less time and memory."""
        values = asdict(self)
        del values["batch"], values["large_batch"]
        return values
