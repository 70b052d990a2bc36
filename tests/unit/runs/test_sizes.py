"""Sizes in terms of what is enlarged: turned with it, in its shape, in multiples of 16."""

from __future__ import annotations

import pytest

from flashvideo.runs.sizes import ANY_SIZE, SIZES, target_size

LANDSCAPE, UPRIGHT, SQUARE = (256, 480), (480, 256), (256, 256)


@pytest.mark.parametrize("name", SIZES)
def test_names_follow_the_orientation(name: str) -> None:
    height, width = SIZES[name]
    assert target_size(name, *LANDSCAPE) == target_size(name.upper(), *SQUARE) == (height, width)
    assert target_size(name, *UPRIGHT) == (width, height)


@pytest.mark.parametrize(
    ("text", "shape", "size"),
    [
        ("960x528", UPRIGHT, (528, 960)),
        ("x2", LANDSCAPE, (512, 960)),
        ("X2", UPRIGHT, (960, 512)),
        ("×4", LANDSCAPE, (1024, 1920)),
        ("x1.5", (100, 180), (144, 272)),
        ("x0.01", LANDSCAPE, (16, 16)),
        ("short=720", LANDSCAPE, (720, 1344)),
        ("short=720", UPRIGHT, (1344, 720)),
        ("short=1080", (1080, 1920), (1088, 1920)),
        ("input", (250, 475), (256, 480)),
        (" Input ", UPRIGHT, UPRIGHT),
    ],
)
def test_sizes_in_terms_of_the_input(text: str, shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert target_size(text, *shape) == size


@pytest.mark.parametrize(
    "text", ["", "x", "x0", "x-2", "xinf", "x2e9", "2x", "short", "short=", "short=0", "big", "1e3x2"]
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        target_size(text, *LANDSCAPE)


def test_the_words_name_every_kind() -> None:
    assert all(name in ANY_SIZE for name in (*SIZES, "WIDTHxHEIGHT", "x2", "short=", "input"))
