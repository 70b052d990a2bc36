"""Faults of rising size, planted in moving textures: every index rises with them, and is silent without."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvideo.scores.borders import BorderMeasure
from flashvideo.scores.detail import DetailMeasure
from flashvideo.scores.flicker import FlickerMeasure
from flashvideo.scores.frames import Frame
from flashvideo.scores.likeness import LikenessMeasure
from flashvideo.scores.periods import PulseMeasure
from tests.unit.scores.clips import moving

HEIGHT, WIDTH, FRAMES = 160, 256, 33


@pytest.fixture(scope="module")
def clean() -> Tensor:
    """``[3, F, H, W]``, as large as four times its source."""
    return moving(FRAMES, HEIGHT, WIDTH, step=1)


def smaller(video: Tensor) -> Tensor:
    return F.avg_pool2d(video.movedim(1, 0), 4).movedim(0, 1)


def to_bytes(video: Tensor) -> Tensor:
    return (video * 255).round().clamp(0, 255).to(torch.uint8)


def measured(measure: Any, video: Tensor, source: Tensor | None) -> Any:
    pixels, shown = to_bytes(video), None if source is None else to_bytes(source)
    for index in range(video.shape[1]):
        frame = Frame(index, index / 24, pixels[:, index], None if shown is None else shown[:, index])
        measure.add(frame.luma if isinstance(measure, DetailMeasure) else frame)
    return measure.result()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def one_border(video: Tensor, levels: float) -> Tensor:
    video = video.clone()
    video[..., 101:] += levels / 255
    return video


def tiles(video: Tensor, levels: float) -> Tensor:
    """Every tile of 32x32 has a brightness of its own."""
    rows, columns = HEIGHT // 32, WIDTH // 32
    signs = torch.tensor([1.0, -1.0]).repeat(columns)[: rows + columns].unfold(0, columns, 1)[:rows]
    offsets = signs * (1 + noise(rows, columns).abs()) / 4
    return video + levels / 255 * F.interpolate(offsets[None, None], scale_factor=32, mode="nearest")[0]


def patches(video: Tensor, levels: float) -> Tensor:
    """The first column of every 16 is brighter."""
    video = video.clone()
    video[..., ::16] += levels / 255
    return video


def brighter_every_4th(video: Tensor, share: float) -> Tensor:
    video = video.clone()
    video[:, ::4] *= 1 + share
    return video


def smoother_every_8th(video: Tensor, share: float) -> Tensor:
    video = video.clone()
    for number in range(0, FRAMES, 8):
        smooth = F.avg_pool2d(video[:, number][None], 3, 1, 1, count_include_pad=False)[0]
        video[:, number] = (1 - share) * video[:, number] + share * smooth
    return video


def redder(video: Tensor, levels: float) -> Tensor:
    video = video.clone()
    video[0] += torch.linspace(0, levels / 255, FRAMES)[:, None, None]
    return video


def jumping(video: Tensor, levels: float) -> Tensor:
    return video + noise(1, FRAMES, 1, 1) * levels / 255


def jumping_in_places(video: Tensor, levels: float) -> Tensor:
    places = F.interpolate(noise(1, FRAMES, 4, 6), size=(HEIGHT, WIDTH), mode="bilinear")
    return video + places * levels / 255


def boiling(video: Tensor, levels: float) -> Tensor:
    fine = F.interpolate(noise(1, FRAMES, HEIGHT // 2, WIDTH // 2), size=(HEIGHT, WIDTH), mode="bilinear")
    return video[:, :1] + fine * levels / 255  # on a picture that stands still


def seam(video: Tensor, source: Tensor | None) -> float:
    border = measured(BorderMeasure(), video, source)
    return 0.0 if border is None else float(border.levels)


def pulse(video: Tensor, source: Tensor | None) -> float:
    found = measured(PulseMeasure(), video, source)
    return 0.0 if found is None else float(found.share)


def drift(video: Tensor, source: Tensor | None) -> float:
    return float(measured(LikenessMeasure(), video, source).drift)


def flicker(video: Tensor, source: Tensor | None) -> float:
    return float(measured(FlickerMeasure(), video, source).flicker)


@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize(
    ("index", "fault", "sizes", "silent"),
    [
        (seam, one_border, (0, 4, 8, 16), 0.0),
        (seam, tiles, (0, 4, 8, 16), 0.0),
        (seam, patches, (0, 2, 4, 8), 0.0),
        (pulse, brighter_every_4th, (0, 0.01, 0.02, 0.05), 0.0),
        (pulse, smoother_every_8th, (0, 0.3, 0.6, 1.0), 0.0),
        (drift, redder, (0, 8, 16, 32), 0.5),
        (flicker, jumping, (0, 1, 2, 4), 0.3),
        (flicker, jumping_in_places, (0, 1, 2, 4), 0.3),
        (flicker, boiling, (0, 4, 8, 16), 0.3),
    ],
)
def test_index_rises_with_the_fault(
    clean: Tensor, index: Any, fault: Any, sizes: tuple[float, ...], silent: float, with_source: bool
) -> None:
    base = clean[:, :1].expand_as(clean) if fault is boiling else clean
    source = smaller(base) if with_source else None
    found = [index(fault(clean, size) if size else base, source) for size in sizes]
    assert found[0] <= silent, found
    assert all(before < after for before, after in pairwise(found)), found


def test_drift_from_a_source_is_seen_in_parts_of_a_level(clean: Tensor) -> None:
    found = [drift(redder(clean, size), smaller(clean)) for size in (0, 0.5, 1, 2)]
    assert found[0] < 0.05
    assert found == pytest.approx([0, 0.35, 0.7, 1.4], abs=0.15), "of a smoothed course, from its first to its last"


@pytest.mark.parametrize(("fault", "period"), [(tiles, 32), (patches, 16)])
def test_borders_are_named(clean: Tensor, fault: Any, period: int) -> None:
    border = measured(BorderMeasure(), fault(clean, 8), smaller(clean))
    assert (border.period, border.place % period) == (period, 0)


def test_a_single_border_is_named(clean: Tensor) -> None:
    border = measured(BorderMeasure(), one_border(clean, 8), None)
    assert (border.axis, border.place, border.period) == ("x", 101, 0)
    assert border.levels == pytest.approx(8, abs=2)


@pytest.mark.parametrize(("fault", "period"), [(brighter_every_4th, 4), (smoother_every_8th, 8)])
def test_periods_are_named(clean: Tensor, fault: Any, period: int) -> None:
    assert measured(PulseMeasure(), fault(clean, 0.6 if period == 8 else 0.05), None).period == period


def test_what_the_source_has_is_none_of_the_videos_faults(clean: Tensor) -> None:
    for fault, size in ((brighter_every_4th, 0.05), (jumping, 4), (redder, 8)):
        video = fault(clean, size).clamp(0, 1)
        index = {brighter_every_4th: pulse, jumping: flicker, redder: drift}[fault]
        assert index(video, smaller(video)) < 0.1 * index(video, smaller(clean))
    bordered = one_border(clean, 16).clamp(0, 1)
    assert seam(bordered, smaller(bordered)) < seam(bordered, smaller(clean))


def test_sharpness_falls_with_blur_and_not_with_contrast(clean: Tensor) -> None:
    def sharpness(video: Tensor) -> float:
        return float(measured(DetailMeasure(), video, None).sharpness)

    def blurred(width: int) -> Tensor:
        frames = clean.movedim(1, 0)
        return F.avg_pool2d(frames, width, 1, width // 2, count_include_pad=False).movedim(0, 1)

    found = [sharpness(video) for video in (clean, blurred(3), blurred(5), blurred(9))]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(1, abs=0.1), "amplitudes fall as 1/f"
    enlarged = F.interpolate(smaller(clean).movedim(1, 0), scale_factor=4, mode="bicubic").movedim(0, 1)
    assert sharpness(enlarged) < 0.1
    assert sharpness(0.3 + 0.5 * clean) == pytest.approx(found[0], rel=0.05)
    assert DetailMeasure().add(Frame(0, 0, to_bytes(clean)[:, 0]).luma) == pytest.approx(found[0], rel=0.1), "a frame's"


def test_likeness_is_of_the_low_band(clean: Tensor) -> None:
    def likeness(video: Tensor) -> float:
        return float(measured(LikenessMeasure(), video, smaller(clean)).likeness)

    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(HEIGHT // 2, WIDTH // 2)
    assert likeness(clean) > 55
    assert likeness(clean + 0.05 * checks) > 45, "detail that the source cannot show"
    found = [likeness(clean + levels / 255) for levels in (1, 2, 4, 8)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(30.1, abs=0.5)


def test_a_constant_offset_is_no_drift(clean: Tensor) -> None:
    result = measured(LikenessMeasure(), clean + 8 / 255, smaller(clean))
    assert result.drift < 0.1
    assert result.colour_shift == pytest.approx((8, 8, 8), abs=0.2)


@pytest.mark.parametrize("index", [seam, pulse, drift, flicker])
def test_pictures_that_are_sound(index: Any) -> None:
    """A still, a flat one, and a drawing whose parts move."""
    flat = torch.full((3, FRAMES, HEIGHT, WIDTH), 0.4)
    drawn = flat.clone()
    for number in range(FRAMES):
        drawn[0, number, 40:100, 20 + 4 * number : 70 + 4 * number] = 0.9
    for video in (flat, drawn, moving(1, HEIGHT, WIDTH).expand(3, FRAMES, HEIGHT, WIDTH)):
        assert index(video, None) == pytest.approx(0, abs=0.1)


def test_an_edge_that_the_source_shows_hides_no_border() -> None:
    """A horizon that its source, at half the size, has between two rows."""
    drawn = torch.full((3, 9, HEIGHT, WIDTH), 0.4)
    drawn[2, :, :101] = 0.9
    source = F.avg_pool2d(drawn.movedim(1, 0), 2).movedim(0, 1)
    assert seam(drawn, source) == 0
    assert seam(drawn, None) > 5
    for size in (4, 8, 16):
        border = measured(BorderMeasure(), one_border(drawn, size), source)
        assert (border.axis, border.place, border.levels) == ("x", 101, pytest.approx(size, abs=1))
