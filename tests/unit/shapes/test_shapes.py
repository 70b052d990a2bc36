"""The generator of captioned clips: repeatable, true to its captions, its textures only visible at high resolution."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch

from flashvideo.shapes import scenes as scenes_module
from flashvideo.shapes.render import low_resolution, mean_colour, render_clip
from flashvideo.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    FORMS,
    LATTICE,
    MOTIONS,
    SIZES,
    TEXTURES,
    Scene,
    is_held_out,
    sample_scene,
    vocabulary,
)

MOTION_VERBS = {
    "left": {"moves left", "drifts left", "glides left"},
    "right": {"moves right", "drifts right", "glides right"},
    "up": {"moves up", "floats up", "rises"},
    "down": {"moves down", "falls down", "sinks"},
    "still": {"stands still", "stays still", "rests"},
}
BACKGROUND_NOUNS = {"night": "night", "sea": "sea", "meadow": "meadow", "desert": "desert", "wall": "wall"}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(seed, held_out=None) for seed in range(2000)]


def test_a_seed_is_a_scene_for_ever():
    """Trained weights, cached latents and reports rest on it."""
    scene = sample_scene(7, count=3)
    assert scene.caption == (
        "a small plain white star falls down and a small banded pink square moves down "
        "and a small plain yellow star rises in the desert"
    )
    assert hashlib.sha256(repr(scene).encode()).hexdigest()[:16] == "a970e1b364f9c2c1"
    assert scene == sample_scene(7, count=3)
    assert scene != sample_scene(8, count=3)


@pytest.mark.parametrize(
    ("seed", "means"), [(0, (14.24, 80.526, 94.758)), (7, (109.412, 78.045, 49.377))], ids=["sea", "desert"]
)
def test_a_scene_is_a_picture_for_ever(seed, means):
    """To a hundredth of an 8-bit step: floating point differs a little between machines."""
    clip = render_clip(sample_scene(seed, count=3), frames=5)
    assert (clip.mean(dim=(1, 2, 3)) * 255).tolist() == pytest.approx(means, abs=0.01)
    assert torch.equal(clip, render_clip(sample_scene(seed, count=3), frames=5))
    assert clip.dtype == torch.float32
    assert 0 <= clip.min() < clip.max() <= 1


def test_captions_say_what_is_drawn(scenes):
    for scene in scenes:
        words = scene.caption.split()
        assert words[-1] == BACKGROUND_NOUNS[scene.background]
        clauses = scene.caption.split(" and ")
        assert len(clauses) == len(scene.shapes)
        for clause, shape in zip(clauses, scene.shapes, strict=True):
            named = f"a {shape.size} {shape.texture} {shape.colour} {shape.form} "
            assert clause.startswith(named)
            said = clause.removeprefix(named)
            assert any(said == verb or said.startswith(f"{verb} ") for verb in MOTION_VERBS[shape.motion])


def test_captions_fit_the_text_length(scenes):
    longest = max(len(sample_scene(seed, count=3).caption.split()) for seed in range(500))
    assert longest == 26  # 32 tokens hold it, a word a token
    assert max(len(scene.caption.split()) for scene in scenes) <= 26


def test_the_vocabulary_is_what_captions_use(scenes):
    used = {word for scene in scenes for word in scene.caption.split()}
    assert sorted(used) == vocabulary()


def test_sizes_and_ways_are_what_their_words_say(scenes):
    shapes = [shape for scene in scenes for shape in scene.shapes]
    radii = {size: [shape.radius for shape in shapes if shape.size == size] for size in SIZES}
    assert max(radii["small"]) < 0.17 < 0.21 < min(radii["large"])
    for shape in shapes:
        (x0, y0), (x1, y1) = shape.centre(0), shape.centre(1)
        dx, dy = MOTIONS[shape.motion]
        assert (x1 - x0, y1 - y0) == pytest.approx((dx * shape.travel, dy * shape.travel))
        assert 0.15 <= shape.travel <= 0.23
        assert all(place / LATTICE == pytest.approx(round(place / LATTICE)) for place in shape.centre(0.5))


def test_shapes_stay_in_the_frame_and_apart(scenes):
    for scene in scenes:
        assert len({shape.colour for shape in scene.shapes}) == len(scene.shapes)
        for progress in (0, 0.3, 0.5, 0.8, 1):
            for index, shape in enumerate(scene.shapes):
                x, y = shape.centre(progress)
                assert shape.radius < x < 5 / 3 - shape.radius
                assert shape.radius < y < 1 - shape.radius
                for other in scene.shapes[:index]:
                    ox, oy = other.centre(progress)
                    assert max(abs(x - ox), abs(y - oy)) > shape.radius + other.radius


def test_held_out_combinations_never_occur_in_training():
    for seed in range(1500):
        training, unseen = sample_scene(seed), sample_scene(seed, held_out=True)
        assert not any(is_held_out(*shape.combination) for shape in training.shapes)
        assert not training.held_out
        assert all(is_held_out(*shape.combination) for shape in unseen.shapes)
        assert unseen.held_out


def test_training_knows_every_word_and_enough_is_held_out():
    combinations = [(c, f, m) for c in COLOURS for f in FORMS for m in MOTIONS]
    unseen = [combination for combination in combinations if is_held_out(*combination)]
    assert 0.08 < len(unseen) / len(combinations) < 0.2
    seen = set(combinations) - set(unseen)
    for place, names in enumerate((COLOURS, FORMS, tuple(MOTIONS))):
        assert {combination[place] for combination in seen} == set(names)
        assert {combination[place] for combination in unseen} == set(names)
    # Every pair of words is seen in training, so only their meeting is new.
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert {(c[first], c[second]) for c in seen} == {(c[first], c[second]) for c in combinations}


def test_the_asked_number_of_shapes_is_drawn():
    for count in (1, 2, 3):
        assert {len(sample_scene(seed, count=count).shapes) for seed in range(50)} == {count}
    with pytest.raises(ValueError, match="4 shapes: expected 1, 2 or 3"):
        sample_scene(0, count=4)


def test_narrow_frames_have_a_finer_lattice():
    for seed in range(10):
        scene = sample_scene(seed, count=3, held_out=True, aspect=2 / 3)
        assert all(shape.radius < shape.x < 2 / 3 - shape.radius for shape in scene.shapes)


def test_a_frame_without_room_is_refused(monkeypatch):
    monkeypatch.setattr(scenes_module, "_ATTEMPTS", 25)  # all of them on the coarse lattice, which has two places here
    with pytest.raises(ValueError, match=r"no room for 3 shapes in a frame 0\.667 times as wide as high"):
        sample_scene(0, count=3, aspect=2 / 3)


def test_windows_and_spans_are_crops_of_the_whole():
    scene = sample_scene(5, count=3)
    whole = render_clip(scene, frames=9)
    for window in ((0, 0, 64, 64), (100, 170, 92, 150), (37, 11, 1, 300)):
        top, left, height, width = window
        part = render_clip(scene, frames=9, window=window, span=(3, 4))
        crop = whole[:, 3:7, top : top + height, left : left + width]
        assert torch.allclose(part, crop, rtol=0, atol=1e-5)  # vectors of other lengths round sines otherwise


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_shapes_have_their_colour_and_stand_out(background):
    shapes = [replace(sample_scene(1, count=1).shapes[0], colour=colour, texture="plain") for colour in COLOURS]
    for shape in shapes:
        scene = Scene((replace(shape, motion="still"),), background, "", 0)
        frame = render_clip(scene, frames=1)[:, 0]
        row, column = int(shape.y * 192), int(shape.x * 192)
        assert torch.allclose(frame[:, row, column], mean_colour(shape.colour), atol=1e-6)
        bare = render_clip(replace(scene, shapes=()), frames=1)[:, 0]
        assert (frame - bare)[:, row, column].norm() > 0.25


@pytest.mark.parametrize("texture", TEXTURES[1:])
def test_textures_show_at_high_resolution_only(texture):
    """Bars and bands leave most: their period is exactly two of the small pixels."""
    for seed in range(6):
        scene = sample_scene(seed, count=1 + seed % 3)
        plain, drawn = (
            render_clip(replace(scene, shapes=tuple(replace(s, texture=t) for s in scene.shapes)), frames=1)
            for t in ("plain", texture)
        )
        assert (drawn - plain).abs().max() > 0.2
        faint = (low_resolution(drawn) - low_resolution(plain)).abs()
        assert faint.max() < 0.07
        assert faint.square().mean().sqrt() < 0.01


def test_low_resolution_keeps_flat_clips_and_sizes():
    flat = torch.full((3, 2, 48, 80), 0.3)
    assert torch.allclose(low_resolution(flat), torch.full((3, 2, 12, 20), 0.3), atol=1e-6)
    assert low_resolution(flat, 2).shape == (3, 2, 24, 40)


def test_textures_ride_on_their_shape():
    """Anchored: moved along with the shape, by whole pixels, the inside stays the same."""
    shape = replace(
        sample_scene(1, count=1).shapes[0], texture="barred", motion="right", form="square", radius=0.2, travel=0.25
    )
    shape = replace(shape, x=0.8, y=0.5)
    clip = render_clip(Scene((shape,), "wall", "", 0), frames=4)  # 0.25 * 192 / 3 = 16 pixels a frame
    first, last = clip[:, 0, 70:120, 120:140], clip[:, 3, 70:120, 168:188]
    assert first.std() > 0.1
    assert torch.allclose(first, last, atol=1e-3)


def test_low_resolution_is_a_gaussian_and_an_average():
    clip = torch.rand(3, 2, 24, 32, generator=torch.Generator().manual_seed(0))
    sigma, reach = 0.65 * 4, 8
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    frames = torch.nn.functional.pad(clip.transpose(0, 1), (reach,) * 4, mode="replicate")
    blurred = torch.nn.functional.conv2d(frames, kernel.expand(3, 1, -1, -1), groups=3)
    expected = torch.nn.functional.avg_pool2d(blurred, 4).transpose(0, 1)
    torch.testing.assert_close(low_resolution(clip, 4), expected, atol=1e-5, rtol=0)
