"""The judge on true clips, on the captions of other clips, and on clips as imperfect as a small model's."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from flashvideo.shapes.judge import FoundShape, Reading, Tally, Verdict, compare, judge_clip, read_clip, total
from flashvideo.shapes.render import low_resolution, render_clip
from flashvideo.shapes.scenes import BACKGROUNDS, FORMS, TEXTURES, Scene, Shape, sample_scene

LARGE, SMALL = 60, 141  # clips at 192x320 and at 48x80
IMPERFECT = range(12, 21)
STAGE1 = ("colour", "form", "motion", "size", "background")
ALL = (*STAGE1, "texture")


def held_out(index: int) -> Scene:
    return sample_scene(1_000_000 + index, count=1 + index % 3, held_out=True)


@pytest.fixture(scope="module")
def readings(one_thread):
    """``readings[rows]``: scene and reading of true held-out clips, 192 or 48 rows high."""
    read: dict[int, list[tuple[Scene, Reading]]] = {192: [], 48: []}
    with one_thread(), torch.no_grad():
        for index in range(SMALL):
            scene = held_out(index)
            clip = render_clip(scene)
            read[48].append((scene, read_clip(low_resolution(clip, 4))))
            if index < LARGE:
                read[192].append((scene, read_clip(clip)))
    return read


def overall(verdict: Verdict) -> Tally:
    """All attributes together."""
    return sum((tally for _, tally in verdict.tallies()), Tally())


def accuracy(verdict: Verdict) -> float:
    return overall(verdict).right / overall(verdict).total


def accuracies(verdicts) -> dict[str, float]:
    return {name: tally.right / tally.total for name, tally in total(verdicts).tallies() if tally.total}


@pytest.mark.parametrize(("rows", "names"), [(192, ALL), (48, STAGE1)])
def test_true_clips_are_read_right(readings, rows, names):
    verdicts = [compare(reading, scene) for scene, reading in readings[rows]]
    pooled = total(verdicts)
    assert set(accuracies(verdicts)) == set(names)
    assert pooled.background.total == len(verdicts)
    assert pooled.colour.total == 2 * len(verdicts)  # one, two and three shapes evenly
    assert accuracy(pooled) >= 0.99
    assert min(accuracies(verdicts).values()) >= 0.98
    assert pooled.missing + pooled.extra <= 0.01 * pooled.colour.total


def test_true_clips_are_read_where_their_shapes_are(readings):
    """Names could be right by luck; places could not."""
    for scene, reading in readings[192]:
        for shape in scene.shapes:
            nearest = min(reading.shapes, key=lambda found: math.dist((found.x, found.y), (shape.x, shape.y)))
            assert math.dist((nearest.x, nearest.y), (shape.x, shape.y)) < 0.25 * shape.radius
            assert nearest.colour == shape.colour


def as_read_by_a_perfect_judge(scene: Scene) -> Reading:
    found = [
        FoundShape(s.colour, s.form, s.motion, s.size, s.texture, s.x, s.y, area=s.radius**2, fit=1.0)
        for s in scene.shapes
    ]
    return Reading(scene.background, tuple(found), shows_motion=True, shows_texture=True)


def by_chance(count: int) -> dict[str, float]:
    """What a perfect judge makes of other clips' captions: base rates, lifted by the best matching."""
    scenes = [sample_scene(7_000_000 + index, count=count, held_out=True) for index in range(800)]
    return accuracies(compare(as_read_by_a_perfect_judge(a), b) for a, b in pairwise(scenes))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_captions_of_other_clips_are_right_by_chance_only(readings, count):
    pairs = [(scene, replace(reading, shows_texture=False)) for scene, reading in readings[48]]
    group = [(scene, reading) for scene, reading in pairs if len(scene.shapes) == count]
    shuffled = [
        compare(group[index][1], group[(index + way) % len(group)][0])
        for way in (1, 5, 11)
        for index in range(len(group))
    ]
    chance = by_chance(count)
    for name, share in accuracies(shuffled).items():
        assert share == pytest.approx(chance[name], abs=0.12), name
    if count == 1:  # no choice in matching: the chance that two draws agree
        scenes = [sample_scene(7_000_000 + index, count=1, held_out=True) for index in range(800)]
        for name in ("colour", "form", "motion", "size"):
            drawn = [getattr(scene.shapes[0], name) for scene in scenes]
            agree = sum((drawn.count(value) / len(drawn)) ** 2 for value in set(drawn))
            assert chance[name] == pytest.approx(agree, abs=0.06), name
        assert accuracies(shuffled)["form"] < 0.4
        assert accuracies(shuffled)["colour"] < 0.3


def blurred(video: torch.Tensor, sigma: float) -> torch.Tensor:
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for side in (2, 3):  # sums of shifted clips: convolutions of so few channels are slow
        wide = F.pad(video, (reach, reach, 0, 0) if side == 3 else (0, 0, reach, reach), mode="replicate")
        length = video.shape[side]
        video = sum(weight * wide.narrow(side, index, length) for index, weight in enumerate(kernel.tolist()))
    return video


def noisy(video: torch.Tensor, sigma: float, softness: float = 0.0) -> torch.Tensor:
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    if softness:
        noise = blurred(noise, softness)
    return (video + noise * sigma / noise.std()).clamp(0, 1)


def tinted(video: torch.Tensor) -> torch.Tensor:
    gain, offset = torch.tensor([0.95, 1.05, 1.0]), torch.tensor([0.05, -0.03, 0.0])
    return (video * gain[:, None, None, None] + offset[:, None, None, None]).clamp(0, 1)


def shaky(video: torch.Tensor) -> torch.Tensor:
    """Frames up to a pixel out of place, two without any shape."""
    ways = [(0, 1), (1, 0), (0, 0), (-1, 0), (0, -1)]
    frames = [torch.roll(video[:, f], ways[f % 5], (1, 2)) for f in range(video.shape[1])]
    frames[5] = frames[11] = video.median(dim=1).values
    return torch.stack(frames, dim=1)


IMPERFECTIONS = {
    "blur 192": (1, lambda v: blurred(v, 1.5)),
    "noise 192": (1, lambda v: noisy(v, 0.03)),
    "tint 192": (1, tinted),
    "soft edges 48": (4, lambda v: blurred(v, 1.3)),
    "blotches 48": (4, lambda v: noisy(v, 0.05, softness=2)),
    "pale 48": (4, lambda v: 0.7 * v + 0.3 * v.mean()),
    "ghost 48": (4, lambda v: 0.7 * v + 0.3 * torch.roll(v, 3, 1)),
    "shaky 48": (4, shaky),
}


@pytest.fixture(scope="module")
def true_clips():
    """``true_clips[factor]``: scenes and clips, whole and at a quarter of both sides."""
    whole = [(held_out(index), render_clip(held_out(index))) for index in IMPERFECT]
    return {1: whole, 4: [(scene, low_resolution(clip, 4)) for scene, clip in whole]}


@pytest.mark.parametrize("name", IMPERFECTIONS)
def test_imperfect_clips_are_read_nearly_as_well(name, true_clips, one_thread):
    factor, spoil = IMPERFECTIONS[name]
    with one_thread():
        pooled = total(judge_clip(spoil(clip), scene) for scene, clip in true_clips[factor])
    assert accuracy(pooled) >= 0.97
    assert pooled.missing == 0
    assert pooled.extra <= 1


def shape(**changes) -> Shape:
    usual = Shape("red", "square", "striped", "large", "right", 0.5, 0.35, 0.22, 0.25, (0.3, 0.6))
    return replace(usual, **changes)


OTHER = shape(colour="white", form="star", size="small", texture="barred", motion="still", x=1.2, y=0.75, radius=0.14)
PAIR = Scene((shape(), OTHER), "sea", "", 0)


def wrong(verdict: Verdict) -> dict[str, int]:
    return {name: tally.total - tally.right for name, tally in verdict.tallies() if tally.right < tally.total}


@pytest.mark.parametrize(
    ("name", "drawn"),
    [("colour", "pink"), ("form", "circle"), ("motion", "left"), ("size", "small"), ("texture", "banded")],
)
def test_one_attribute_drawn_otherwise_is_the_only_one_wrong(name, drawn):
    changes = {name: drawn, "radius": 0.145} if name == "size" else {name: drawn}
    verdict = judge_clip(render_clip(replace(PAIR, shapes=(shape(**changes), OTHER))), PAIR)
    assert wrong(verdict) == {name: 1}
    assert (verdict.missing, verdict.extra) == (0, 0)


def test_another_background_is_wrong():
    assert wrong(judge_clip(render_clip(replace(PAIR, background="night")), PAIR)) == {"background": 1}


def test_a_missing_shape_gets_every_attribute_wrong():
    verdict = judge_clip(render_clip(replace(PAIR, shapes=(OTHER,))), PAIR)
    assert wrong(verdict) == dict.fromkeys(("colour", "form", "motion", "size", "texture"), 1)
    assert (verdict.missing, verdict.extra) == (1, 0)


def test_a_shape_drawn_twice_is_extra():
    twice = (shape(), OTHER, replace(OTHER, y=0.2, x=1.4))
    verdict = judge_clip(render_clip(replace(PAIR, shapes=twice)), PAIR)
    assert wrong(verdict) == {}
    assert (verdict.missing, verdict.extra) == (0, 1)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_background_shows_no_shape(background):
    clip = render_clip(Scene((), background, "", 0), frames=5)
    for video in (clip, low_resolution(clip, 4)):
        reading = read_clip(video)
        assert (reading.background, reading.shapes) == (background, ())
    verdict = judge_clip(clip, replace(PAIR, background=background))
    assert overall(verdict) == Tally(1, 11)
    assert verdict.missing == 2


def test_slanted_ways_are_no_direction():
    clip = low_resolution(render_clip(Scene((shape(motion="still"),), "wall", "", 0)), 4)
    ways = [torch.roll(clip[:, f], (round(0.8 * f), round(0.8 * f)), (1, 2)) for f in range(17)]
    assert [found.motion for found in read_clip(torch.stack(ways, dim=1)).shapes] == ["slanted"]


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("form", FORMS)
def test_textures_are_read_in_every_form_and_only_where_they_show(form, texture):
    clip = render_clip(Scene((shape(form=form, texture=texture, radius=0.14),), "desert", "", 0), frames=5)
    assert [found.texture for found in read_clip(clip).shapes] == [texture]
    enlarged = F.interpolate(low_resolution(clip, 4).transpose(0, 1), scale_factor=4, mode="bicubic").transpose(0, 1)
    assert [found.texture for found in read_clip(enlarged).shapes] == ["plain"]
    assert [found.texture for found in read_clip(low_resolution(clip, 4)).shapes] == [None]


def test_short_clips_are_not_judged_on_motion():
    clip = render_clip(PAIR)
    for frames in (1, 4):
        verdict = judge_clip(clip[:, :frames], PAIR)
        assert verdict.motion == Tally(0, 0)
        assert wrong(verdict) == {}


@pytest.mark.parametrize("size", [(40, 66), (96, 160), (120, 200), (200, 332)])
def test_other_sizes_of_the_aspect_are_read(size):
    frames = F.interpolate(render_clip(PAIR).transpose(0, 1), size, mode="bilinear", antialias=True)
    verdict = judge_clip(frames.transpose(0, 1), PAIR)
    assert wrong(verdict) == {}
    assert bool(verdict.texture.total) == (size[0] >= 144)


def test_noise_is_read_without_complaint():
    noise = torch.rand(3, 5, 48, 80, generator=torch.Generator().manual_seed(0))
    assert accuracy(judge_clip(noise, PAIR)) < 0.5


def test_the_matching_takes_most_attributes_right():
    """The red shape was drawn as the blue one was asked, and the other way round: three attributes beat one."""
    asked = Scene((shape(), shape(colour="blue", form="star", motion="up")), "sea", "", 0)
    drawn = replace(asked, shapes=(shape(colour="blue"), replace(asked.shapes[1], colour="red")))
    verdict = compare(as_read_by_a_perfect_judge(drawn), asked)
    assert wrong(verdict) == {"colour": 2}


def test_verdicts_add_up():
    one = Verdict(colour=Tally(1, 2), background=Tally(1, 1), extra=1)
    assert total([one, one]) == Verdict(colour=Tally(2, 4), background=Tally(2, 2), extra=2)
    assert overall(one + one) == Tally(4, 6)


@pytest.mark.parametrize("bad", [torch.zeros(3, 48, 80), torch.zeros(1, 5, 48, 80), torch.zeros(3, 0, 48, 80)])
def test_other_shapes_are_refused(bad):
    with pytest.raises(ValueError, match=r"expected floating point \[3, F, H, W\]"):
        read_clip(bad)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        read_clip(torch.full((3, 2, 48, 80), float("nan")))
