"""Which noise step is suggested: the rule on scores that are known, and on a refiner whose likeness is known."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flashvideo.report.calibration import Calibration, Tried, calibrate, check_calibration, strip
from flashvideo.runs import chain
from flashvideo.runs.settings import Stage2Settings
from flashvideo.scores.likeness import Likeness
from flashvideo.scores.score import score_video
from flashvideo.scores.shown import given as clip
from flashvideo.video.resize import resize_video

STAGE2 = Stage2Settings(height=64, width=96, guidance_scale=1.0, match_colors=4.0, keep="a mask that is not used")


@pytest.fixture(scope="module")
def scores():
    return score_video(clip(torch.zeros(3, 3, 32, 32), 8))


def calibration(scores: Any, likeness: list[float], loss: float = 0.5) -> Calibration:
    tried = (
        Tried(100 * number, replace(scores, likeness=Likeness(value, None, 0.0)))
        for number, value in enumerate(likeness, start=1)
    )
    return Calibration(tuple(tried), loss)


class TestTheRule:
    @pytest.mark.parametrize(
        ("likeness", "suggested", "said"),
        [
            ([32, 31.9, 31.5, 31.4, 29], 300, ""),
            ([32, 31, 30], 100, "a smaller one may stay closer"),
            ([30, 30.1, 29.8], 300, "a larger one may do as well"),
            ([29, 32, 31.8, 27], 300, ""),
            ([32, 31, 31.6, 27], 300, ""),
            ([32], 100, "try several"),
        ],
    )
    def test_the_largest_that_stays_near_the_best(self, scores, likeness, suggested, said):
        found = calibration(scores, likeness)
        assert found.suggested == suggested
        assert found.to_dict()["suggested"] == suggested
        assert (said in found.remark) if said else not found.remark

    @settings(deadline=None, max_examples=50)
    @given(likeness=st.lists(st.floats(10, 50), min_size=1, max_size=8), loss=st.floats(0, 5))
    def test_a_greater_loss_never_suggests_less(self, scores, likeness, loss):
        found, strict = calibration(scores, likeness, loss), calibration(scores, likeness, 0.0)
        assert strict.suggested <= found.suggested
        chosen = next(one for one in found.tried if one.noise_step == found.suggested)
        assert chosen.likeness >= max(likeness) - loss


class _Vae:
    config, dtype = SimpleNamespace(), torch.float32


class Models:
    """Nothing but a place to be entered: the chain's steps are replaced."""

    @contextmanager
    def use(self, name: str):
        yield _Vae()

    def latent_scale(self, name: str) -> float | None:
        return None

    def describe(self) -> dict[str, str]:
        return {}


@pytest.fixture
def known(monkeypatch):
    """A refiner that leaves the source by one level for every 100 steps above 300; what it was called with."""
    called: list[tuple[str, Any]] = []

    def encode(models: Any, video: Tensor, how: Stage2Settings, seeds: Any, progress: Any) -> Tensor:
        called.append(("encode", how))
        return resize_video(video, how.height, how.width)

    def refine(models: Any, latents: Tensor, embeds: Tensor, how: Stage2Settings, progress: Any) -> Tensor:
        called.append(("refine", how))
        return latents + max(0, how.noise_step - 300) / 100 / 255 + 1 / 255

    def decode(models: Any, latents: Tensor, progress: Any, what: str) -> Tensor:
        called.append(("decode", what))
        return latents

    monkeypatch.setattr(chain, "encode_upscaled", encode)
    monkeypatch.setattr(chain, "degrade", lambda models, latents, how, seeds: latents)
    monkeypatch.setattr(chain, "refine", refine)
    monkeypatch.setattr(chain, "decode", decode)
    return called


def test_a_refiner_whose_likeness_is_known_gets_its_step(known):
    video = torch.linspace(0.2, 0.7, 48).expand(1, 3, 5, 32, 48)
    given_out: list[int] = []
    found = calibrate(
        Models(),
        video,
        torch.zeros(1, 226, 32),
        STAGE2,
        (100, 200, 300, 400, 600),
        fps=8,
        refined=lambda tried, clip: given_out.append(tried.noise_step),
    )
    assert found.suggested == 300
    likeness = [one.likeness for one in found.tried]
    assert likeness[:3] == pytest.approx([likeness[0]] * 3)
    assert likeness[2] - likeness[4] > 5
    assert [what for what, _ in known] == ["encode"] + 5 * ["refine"] + 5 * ["decode"], "encoded once"
    assert all(not how.keep and how.match_colors == 0 for what, how in known if what != "decode")
    assert given_out == [100, 200, 300, 400, 600]


@pytest.mark.parametrize(
    ("steps", "loss", "said"),
    [
        ((), 0.5, "expected 1 to 20 of them"),
        ((200, 100), 0.5, "200, 100; expected 1 to 20 of them, rising"),
        ((100, 100), 0.5, "rising"),
        ((100, 1000), 0.5, "noise step 1000"),
        ((100,), -1.0, "expected 0 or more"),
        ((100,), float("nan"), "finite"),
    ],
)
def test_what_cannot_be_tried(steps, loss, said):
    with pytest.raises(ValueError, match="expected") as error:
        check_calibration(steps, loss)
    assert said in str(error.value)


def test_a_strip_shows_where_steps_differ():
    first = torch.zeros(3, 512, 768)
    last = first.clone()
    last[:, 300:400, 500:600] = 1
    picture = strip(torch.full((3, 64, 96), 0.5), [first, last])
    assert picture.shape == (3, 256, 3 * 256)
    assert picture[:, :, :256].mean() == pytest.approx(0.5)
    assert picture[:, :, 512:].sum() == 3 * 100 * 100, "all that differs is in it"
    assert strip(torch.zeros(3, 8, 8), [first[:, :96, :160]]).shape == (3, 96, 320)
