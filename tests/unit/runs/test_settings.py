"""Settings and what their fields say of them: ranges hold, unknown names are refused."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest

from flashvideo.runs.fields import Setting, settings_of
from flashvideo.runs.settings import Stage1Settings, Stage2Settings, VideoSettings, parse_size, size_name
from flashvideo.video.files import check_fps

KINDS = (Stage1Settings, Stage2Settings, VideoSettings)
DESCRIBED = [(kind, name, described) for kind in KINDS for name, described in settings_of(kind).items()]
ALL = pytest.mark.parametrize(
    ("kind", "name", "described"), DESCRIBED, ids=[f"{kind.__name__}.{name}" for kind, name, _ in DESCRIBED]
)


def inside(described: Setting) -> list:
    bounds = [bound for bound in (described.low, described.high) if bound is not None]
    tight = [] if described.above is None else [math.nextafter(described.above, math.inf)]
    return [*bounds, *tight, *described.choices]


def outside(described: Setting) -> list:
    if described.kind is bool:
        return [1, "yes", None]
    if described.kind is str:
        return [3, True, *(["dream"] if described.choices else [None])]
    least = 1 if described.kind is int else 0.01
    wrong = ["many", True, None, math.nan, math.inf]
    wrong += [] if described.low is None else [described.low - least]
    wrong += [] if described.high is None else [described.high + least]
    wrong += [] if described.above is None else [described.above]
    return wrong + ([2.5] if described.kind is int else [])


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described_and_its_default_runs(kind):
    assert list(settings_of(kind)) == [field.name for field in fields(kind)]
    for described in settings_of(kind).values():
        described.check(described.default)


@ALL
def test_what_is_in_range_runs_and_nothing_else(kind, name, described):
    frames = {"guidance_exponent": "smooth"}  # the authors' curve needs more of it than a range
    usual = replace(kind(), guidance_curve=frames[name]) if name in frames else kind()
    check = described.check if kind is VideoSettings else lambda value: replace(usual, **{name: value}).check()
    for value in inside(described):
        check(value)
    for value in outside(described):
        with pytest.raises(ValueError, match=r".") as error:
            described.check(value)
        assert str(error.value) == f"{described.label} is {value!r}; expected {described.expected}" + (
            f" ({described.reason})." if described.reason else "."
        )
        with pytest.raises((ValueError, TypeError, OverflowError)):
            check(value)


@ALL
def test_a_widget_offers_what_runs(kind, name, described):
    for value in described.offered or ():
        described.check(value)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        (Stage1Settings, "num_steps", "a whole number: 1 to 1000"),
        (Stage1Settings, "num_frames", "a whole number: 1 or more"),
        (Stage1Settings, "guidance_curve", "one of authors, smooth, constant"),
        (Stage2Settings, "shift", "a number: more than 0"),
        (Stage2Settings, "rounding", "one of bf16, or None"),
        (Stage2Settings, "match_colors", "a number: 0 (off) or 1 to 1024"),
        (Stage2Settings, "sample_posterior", "True or False"),
        (Stage2Settings, "motion", "words"),
        (Stage2Settings, "time_windows", "words: 0 (off) or LENGTH or LENGTH,OVERLAP in latent frames (13,3)"),
        (VideoSettings, "fps", "a number: more than 0 and at most 1000"),
    ],
)
def test_ranges_in_words(kind, name, expected):
    assert settings_of(kind)[name].expected == expected


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_table_of_settings_is_read_whole_or_not_at_all(kind):
    usual = replace(kind(), seed=7)
    assert kind.from_dict(usual.to_dict()) == usual
    assert kind.from_dict({"seed": 7}) == usual, "what an older program did not know has its default"
    with pytest.raises(ValueError, match=r"the file has sharpness, tempo, which this program does not know"):
        kind.from_dict({**usual.to_dict(), "tempo": 1, "sharpness": 2}, "the file")


def test_files_take_the_rates_of_the_setting():
    described = settings_of(VideoSettings)["fps"]
    for value in inside(described):
        check_fps(value)
    for value in (described.above, described.high + 1, math.nan):
        with pytest.raises(ValueError, match=r"fps is .*; expected more than 0 and at most 1000"):
            check_fps(value)


def test_sizes_have_names():
    assert size_name(1072, 1920) == "1080p"
    assert parse_size(size_name(48, 96)) == (48, 96)
