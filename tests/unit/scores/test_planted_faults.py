"""Every index rises with the fault that it tells, from small ones on, and is silent on clean footage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from flashvideo.scores.detail import DetailMeasure
from flashvideo.scores.flicker import FlickerMeasure
from flashvideo.scores.frames import Frame
from flashvideo.scores.likeness import LikenessMeasure, stepped
from tests.unit.scores.clips import moving
from tools.planted_faults import FAULTS, cartoon, halved

CLIPS = {"texture": moving(24) * 0.8 + 0.1, "cartoon": cartoon(24, 96, 128) * 0.8 + 0.1}
SILENT = {"drift": 0.5, "flicker": 0.7}  # levels, of pictures that are so small


def frames_of(video: Tensor, source: Tensor | None) -> Iterator[Frame]:
    """What measures see of ``[3, F, H, W]`` in 0..1, and of a source with as many frames."""
    shown, low = (None if v is None else v.clamp(0, 1).mul(255).round().byte() for v in (video, source))
    assert shown is not None
    for number in range(shown.shape[1]):
        yield Frame(number, number / 24, shown[:, number], None if low is None else low[:, number])


def sharpness(video: Tensor, source: Tensor | None) -> float:
    measure = DetailMeasure()
    for frame in frames_of(video, source):
        measure.add(frame.luma)
    return measure.result().sharpness


def likeness(video: Tensor, source: Tensor | None) -> float:
    measure = LikenessMeasure()
    for frame in frames_of(video, source):
        measure.add(frame)
    return measure.result().likeness or 0.0


def drift(video: Tensor, source: Tensor | None) -> float:
    measure = LikenessMeasure()
    for frame in frames_of(video, source):
        measure.add(frame)
    return measure.result().drift


def flicker(video: Tensor, source: Tensor | None) -> float:
    measure = FlickerMeasure()
    for frame in frames_of(video, source):
        measure.add(frame)
    return measure.result().flicker


INDICES: dict[str, Callable[[Tensor, Tensor | None], float]] = {
    function.__name__: function for function in (sharpness, likeness, drift, flicker)
}
CASES = [
    (name, clip, with_source)
    for name, fault in FAULTS.items()
    if fault.index in INDICES
    for clip in CLIPS
    for with_source in (True, False)
    if with_source or not (fault.needs_source or fault.index == "drift")
]


def source_of(video: Tensor, with_source: bool) -> Tensor | None:
    return halved(video) if with_source else None


@pytest.mark.parametrize(("name", "clip", "with_source"), CASES)
def test_it_goes_one_way_with_the_fault(name: str, clip: str, with_source: bool) -> None:
    fault, video = FAULTS[name], CLIPS[clip]
    index, source = INDICES[fault.index], source_of(video, with_source)
    values = [index(fault.plant(video, size), source) for size in fault.sizes]
    steps = [later - sooner if fault.rises else sooner - later for sooner, later in pairwise(values)]
    assert all(step >= 0 for step in steps), values
    assert all(step > 0 for step in steps[-3:]), values


@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("index", SILENT)
def test_it_is_silent_on_clean_footage(index: str, clip: str, with_source: bool) -> None:
    assert INDICES[index](CLIPS[clip], source_of(CLIPS[clip], with_source)) <= SILENT[index]


@pytest.mark.parametrize("clip", CLIPS)
def test_drift_without_a_source_is_told_from_what_moves(clip: str) -> None:
    """Small ones are not, since content may do the same."""
    values = [drift(FAULTS["drift"].plant(CLIPS[clip], size), None) for size in (0, 12, 24, 36)]
    assert values[0] == 0
    assert all(sooner < later for sooner, later in pairwise(values)), values
    assert values[-1] == pytest.approx(36, rel=0.35)


def test_brightness_that_moves_along_is_no_drift() -> None:
    waves = 60 * torch.sin(torch.arange(98) * (1.5 * torch.pi / 96)).expand(3, 64, -1)
    before, after = waves[..., :96], waves[..., 2:]
    assert (after - before).mean() < -1
    assert stepped(before, after).tolist() == pytest.approx([0, 0, 0], abs=0.05)
    assert stepped(before, after + 2).tolist() == pytest.approx([2, 2, 2], abs=0.05)
