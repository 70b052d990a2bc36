"""Section ``cost``: two stages against one stage that works at high resolution from the start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..method.schedules import NOISE_STEPS
from ..runs.settings import Stage1Settings
from ..shapes.judge import Verdict, judge_clip
from ..shapes.scenes import Scene
from ..tensors.sizes import latent_frames
from .bench import MIXED, Bench, captions_of, middle_frame, seeds_of
from .fidelity import prompt_rows, two_stages
from .models import Extra, NetworkSize, VideoModels
from .results import Result, Row, Table, mean_row

SECTION = "cost"
SINGLE = "single"
TWO_STAGES, BRIEFLY = "two stages", "two stages, trained as briefly"
_TIMED_STEPS = (1, 4)
_TIMED_CLIPS = 4
_SHOWN = 4


@dataclass(frozen=True)
class Arm:
    """A way to clips at high resolution and what it costs.

    Attributes:
        make: clips ``[B, 3, F, H, W]`` of a batch of scenes.
        flops: of all evaluations for one clip.
    """

    name: str
    make: Callable[[Sequence[Scene]], Tensor]
    flops: float


@dataclass(frozen=True)
class Run:
    """An arm's verdicts, seconds a clip and middle frames of the first clips."""

    verdicts: tuple[Verdict, ...]
    seconds: tuple[float, ...]
    frames: tuple[Tensor, ...]


def evaluation_flops(network: NetworkSize, frames: int, height: int, width: int) -> float:
    """FLOPs of one evaluation without guidance: ``layers (4 N^2 d + 24 N d^2)``.

    N tokens of width d, text and video: attention's two products take ``4 N^2 d``, the matrices of a layer
    (query, key, value, output, and four times the width in between) ``24 N d^2``. Embeddings and norms are left out.

    Args:
        frames, height, width: of the clip in pixels.
    """
    video = latent_frames(frames) * (height // network.pixels) * (width // network.pixels)
    tokens, width_ = network.text_length + video, network.width
    return network.layers * (4.0 * tokens**2 * width_ + 24.0 * tokens * width_**2)


def branches(guidance_scale: float) -> int:
    """Evaluations in a step: guidance takes a second one."""
    return 1 if guidance_scale == 1 else 2


def cost_section(bench: Bench) -> Result:
    """Judge both ways at equal evaluation cost and at equal time; without the extra ``single`` the first alone.

    A pair of stages that is given for this section alone, trained together for as long as ``single``, is judged as
    well: it shows what the models owe to longer training.
    """
    scenes = bench.scenes(MIXED, bench.settings.ablation_clips)
    ours, *brief = _two_stage_arms(bench)
    runs = {}
    for arm in (ours, *brief):
        arm.make(scenes[:1])  # loads and warms up
        runs[arm.name] = (arm, _run(bench, arm, scenes))
    notes = ["FLOPs are those of the transformers, guidance's second branch counted; seconds include the VAE."]
    single = next((extra for extra in bench.extras if extra.name == SINGLE), None)
    if single is None:
        notes.append("No single-stage transformer was given (--extra single=PATH): nothing to compare with.")
    else:
        seconds = runs[ours.name][1].seconds
        for arm in _single_stage_arms(bench, single, ours, sum(seconds) / len(seconds)):
            runs[arm.name] = (arm, _run(bench, arm, scenes))
    rows = [row for arm, run in runs.values() for row in _rows(arm, run)]
    frames = [frame for shown in zip(*(run.frames for _, run in runs.values()), strict=True) for frame in shown]
    picture = bench.sheet("cost.png", f"Columns: {', '.join(runs)}.", frames, len(runs))
    return Result(SECTION, (Table("Two stages and one", tuple(rows)),), tuple(notes), (picture,))


def _two_stage_arms(bench: Bench) -> list[Arm]:
    """The models, and those that were trained for as short a time as the single stage, if they were given."""
    brief = brief_pair(bench.extras)
    arms = [_two_stage_arm(bench, TWO_STAGES, bench.models, bench.models)]
    return arms if brief is None else [*arms, _two_stage_arm(bench, BRIEFLY, *brief)]


def compared(extra: Extra) -> bool:
    """Whether other weights belong into this section."""
    return extra.name == SINGLE or extra.only == SECTION


def brief_pair(extras: Sequence[Extra]) -> tuple[VideoModels, VideoModels] | None:
    """Stage I and Stage II of the extras that are for this section only; None if there are none.

    Raises:
        ValueError: one without the other, or several.
    """
    brief = [extra for extra in extras if extra.only == SECTION and extra.name != SINGLE]
    models_of = {stage: [extra.models for extra in brief if extra.stage == stage] for stage in ("stage1", "stage2")}
    if not brief:
        return None
    if any(len(models) != 1 for models in models_of.values()):
        given = ", ".join(f"{extra.name} ({extra.stage})" for extra in brief)
        raise ValueError(f"extras with only={SECTION}: {given}; expected one of each stage, which work together.")
    return models_of["stage1"][0], models_of["stage2"][0]


def _two_stage_arm(bench: Bench, name: str, first: VideoModels, second: VideoModels) -> Arm:
    small, large = bench.settings.stage1, bench.settings.stage2
    flops = _sampling_flops(first.network("stage1"), small)
    one = evaluation_flops(second.network("stage2"), small.num_frames, large.height, large.width)
    flops += one * large.num_steps * branches(large.guidance_scale)
    return Arm(name, lambda scenes: two_stages(bench, scenes, first, second)[1], flops)


def _sampling_flops(network: NetworkSize, settings: Stage1Settings) -> float:
    one = evaluation_flops(network, settings.num_frames, settings.height, settings.width)
    return one * settings.num_steps * branches(settings.guidance_scale)


def _single_stage_arms(bench: Bench, single: Extra, ours: Arm, seconds: float) -> list[Arm]:
    """One stage at equal cost and at equal time."""
    second = bench.settings.stage2
    usual = replace(bench.settings.stage1, height=second.height, width=second.width)

    def arm(label: str, steps: int) -> Arm:
        settings = replace(usual, num_steps=min(max(1, steps), NOISE_STEPS))
        flops = _sampling_flops(single.models.network("stage1"), settings)
        return Arm(
            f"one stage, {label} ({settings.num_steps} steps)",
            lambda scenes: single.models.generate_low(captions_of(scenes), seeds_of(scenes), settings),
            flops,
        )

    each = arm("", 1).flops
    scenes = bench.scenes(MIXED, min(_TIMED_CLIPS, bench.settings.ablation_clips))
    arm("", 1).make(scenes[:1])  # loads and warms up
    short, long = (min(_seconds(arm("", steps), scene)[1] for scene in scenes) for steps in _TIMED_STEPS)
    step = max(1e-6, (long - short) / (_TIMED_STEPS[1] - _TIMED_STEPS[0]))
    timed = round((seconds - short) / step) + _TIMED_STEPS[0]
    return [arm("equal FLOPs", round(ours.flops / each)), arm("equal time", timed)]


def _run(bench: Bench, arm: Arm, scenes: Sequence[Scene]) -> Run:
    verdicts: list[Verdict] = []
    seconds: list[float] = []
    frames: list[Tensor] = []
    for (scene,) in bench.batches(scenes, 1, f"Cost: {arm.name}"):
        video, taken = _seconds(arm, scene)
        seconds.append(taken)
        verdicts.append(judge_clip(video, scene))
        frames.append(middle_frame(video, video.shape[2], video.shape[3]))
    return Run(tuple(verdicts), tuple(seconds), tuple(frames[:_SHOWN]))


def _seconds(arm: Arm, scene: Scene) -> tuple[Tensor, float]:
    """One clip ``[3, F, H, W]`` and its time, alone, so that no arm gains from larger batches."""
    start = time.perf_counter()
    videos = arm.make([scene])  # on the CPU: the device is done
    return videos[0], time.perf_counter() - start


def _rows(arm: Arm, run: Run) -> list[Row]:
    giga = arm.flops / 1e9
    rows = [
        Row(arm.name, "GFLOP a clip", giga, giga, giga, len(run.verdicts)),
        mean_row(arm.name, "seconds a clip", run.seconds, "s"),
    ]
    return rows + prompt_rows(arm.name, run.verdicts)
