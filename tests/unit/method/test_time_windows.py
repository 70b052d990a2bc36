"""Windows in time: where they lie, how predictions are joined, and that one flow is solved for the whole video."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flashvideo import TimeWindows, refine_latents
from flashvideo.method.stage2 import SOLVERS
from flashvideo.method.windows import join_windows


@st.composite
def any_windows(draw: Any) -> TimeWindows:
    length = draw(st.integers(1, 14))
    overlap = draw(st.integers(0, length - 1))
    return TimeWindows(length, overlap, lead=draw(st.integers(0, overlap)))


def numbered(count: int) -> list[Tensor]:
    """Latents that hold their own number."""
    return [torch.full((1, 1, 1, 1, 1), float(number)) for number in range(count)]


def starts_of(windows: TimeWindows, count: int) -> list[int]:
    """Where windows begin, as their description says."""
    if count <= windows.length:
        return [0]
    regular = itertools.takewhile(
        lambda start: start + windows.length < count, itertools.count(step=windows.length - windows.overlap)
    )
    return [*regular, count - windows.length]


def shares_of(windows: TimeWindows, count: int) -> Tensor:
    """``[windows, latents]``: how much of the joined prediction is each window's, by the formula."""
    starts, blended = starts_of(windows, count), windows.overlap - windows.lead
    shares = torch.zeros(len(starts), count, dtype=torch.float64)
    shares[0] = 1
    for window, before in enumerate(starts[:-1], start=1):
        begin = before + windows.length - blended
        rising = torch.tensor([(latent - begin + 1) / (blended + 1) for latent in range(count)]).clamp(0, 1)
        shares *= 1 - rising
        shares[window] = rising
    covered = torch.tensor([[start <= t < start + windows.length for t in range(count)] for start in starts])
    return shares * covered


@settings(max_examples=150, deadline=None)
@given(windows=any_windows(), count=st.integers(1, 45))
def test_shares_add_up_to_one_and_are_as_described(windows, count):
    seen = []

    def nth_window(latents: Tensor) -> Tensor:
        """Ones where the n-th window is asked about, for all n at once: one channel each."""
        seen.append(latents.flatten().tolist())
        shown = torch.zeros(1, 45, latents.shape[2], 1, 1, dtype=torch.float64)
        shown[:, len(seen) - 1] = 1
        return shown

    joined = torch.cat(list(join_windows(numbered(count), windows, nth_window)), dim=2)
    size = min(count, windows.length)
    assert seen == [[float(start + index) for index in range(size)] for start in starts_of(windows, count)]
    shares = joined[0, : len(seen), :, 0, 0]
    torch.testing.assert_close(shares, shares_of(windows, count), atol=1e-6, rtol=0)
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(count, dtype=torch.float64))
    assert (shares >= 0).all()


@settings(max_examples=50, deadline=None)
@given(windows=any_windows(), count=st.integers(1, 30), more=st.integers(1, 15))
def test_what_is_final_does_not_depend_on_what_comes_later(windows, count, more):
    """What is yielded before a latent is asked for is the same, whatever that latent is and whether there is one."""

    def predict(latents: Tensor) -> Tensor:
        return latents + latents.mean()

    def until_asked() -> Any:
        yield from numbered(count)
        raise InterruptedError

    early: list[Tensor] = []
    with pytest.raises(InterruptedError):
        early.extend(join_windows(until_asked(), windows, predict))
    for other in (numbered(count), numbered(count + more)):
        whole = list(join_windows(other, windows, predict))
        assert all(torch.equal(a, b) for a, b in zip(early, whole, strict=False))
        assert len(early) <= len(whole)
    if count > windows.length:
        assert len(early) >= count - windows.length - (windows.length - windows.overlap), "held back without need"


def test_what_a_lead_predicts_is_not_used():
    def nothing_at_the_start(latents: Tensor) -> Tensor:
        predicted = torch.ones_like(latents)
        predicted[:, :, : 2 if latents.min() else 0] = math.nan
        return predicted

    joined = list(join_windows(numbered(23), TimeWindows(7, 4, lead=2), nothing_at_the_start))
    torch.testing.assert_close(torch.cat(joined), torch.ones(23, 1, 1, 1, 1))


# refine_latents


def latents_of(count: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, 16, count, 4, 4, generator=torch.Generator().manual_seed(seed))


def text_of(batch: int = 1, dim: int = 32) -> Tensor:
    return torch.randn(batch, 226, dim, generator=torch.Generator().manual_seed(9))


def blurring(x: Tensor, timestep: Tensor, text: Tensor, *, noise_step: float) -> Tensor:
    """A network that looks around in time."""
    prompt = text.mean(dim=(1, 2)).view(-1, 1, 1, 1, 1)
    return (1 - timestep / 1000).view(-1, 1, 1, 1, 1) * (x.roll(1, 2) - x) + prompt * x.mean(dim=2, keepdim=True)


@pytest.mark.parametrize("windows", [TimeWindows(5, 2), TimeWindows(9, 8, lead=3), TimeWindows()])
@pytest.mark.parametrize("sequential", [False, True])
def test_windows_that_cover_everything_change_no_byte(tiny_stage2, monkeypatch, windows, sequential):
    calls = []
    forward = type(tiny_stage2).forward

    def counted(self: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        calls.append(hidden_states.clone())
        return forward(self, hidden_states, *arguments, **options)

    monkeypatch.setattr(type(tiny_stage2), "forward", counted)
    arguments = tiny_stage2, latents_of(5, batch=2), text_of()
    options = {"num_steps": 2, "guidance_scale": 4.0, "sequential_guidance": sequential}
    plain = refine_latents(*arguments, **options)
    asked = list(calls)
    calls.clear()
    assert torch.equal(refine_latents(*arguments, **options, time_windows=windows), plain)
    assert all(torch.equal(a, b) for a, b in zip(asked, calls, strict=True))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_network_that_looks_at_each_latent_alone_sees_no_windows(solver):
    def alone(x: Tensor, timestep: Tensor, text: Tensor, *, noise_step: float) -> Tensor:
        return timestep.view(-1, 1, 1, 1, 1) / 1000 * x.sin()

    arguments, options = (alone, latents_of(11, batch=2), text_of(2)), {"solver": solver, "rounding": "bf16"}
    for windows in (TimeWindows(4, 2), TimeWindows(4, 2, lead=1), TimeWindows(3, 0), TimeWindows(6, 5)):
        joined = refine_latents(*arguments, **options, time_windows=windows)
        torch.testing.assert_close(joined, refine_latents(*arguments, **options), atol=1e-5, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sequential", [False, True])
def test_every_evaluation_is_joined(solver, sequential):
    """The flow of the joined prediction, written out: one solve for the whole video, not one a window."""
    windows, x, text = TimeWindows(5, 3, lead=1), latents_of(12, batch=2), text_of(2)
    shares, starts = shares_of(windows, 12).float(), starts_of(windows, 12)
    sizes = []

    def counted(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        sizes.append((x.shape[0], x.shape[2]))
        return blurring(x, *arguments, **options)

    def joined_by_formula(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        whole = torch.zeros_like(x)
        for start, share in zip(starts, shares, strict=True):
            part = slice(start, start + windows.length)
            whole[:, :, part] += share[part].view(-1, 1, 1) * blurring(x[:, :, part], *arguments, **options)
        return whole

    options = {"solver": solver, "num_steps": 2, "guidance_scale": 3.0, "sequential_guidance": sequential}
    refined = refine_latents(counted, x, text, **options, time_windows=windows)
    torch.testing.assert_close(refined, refine_latents(joined_by_formula, x, text, **options), atol=1e-4, rtol=0)
    branches = [(2, 5)] * 2 if sequential else [(4, 5)]
    assert sizes == branches * (len(starts) * 2 * SOLVERS[solver].evaluations)


def test_callbacks_see_the_whole_video_after_each_step():
    seen = []
    refined = refine_latents(
        blurring, latents_of(9), text_of(), time_windows=TimeWindows(4, 1), callback=lambda *told: seen.append(told)
    )
    assert [told[:2] for told in seen] == [(step, 4) for step in (1, 2, 3, 4)]
    assert all(told[2].shape == refined.shape for told in seen)
    assert torch.equal(seen[-1][2], refined)


def test_text_is_projected_once_for_all_windows(tiny_stage2, monkeypatch):
    shapes = []
    prepare = type(tiny_stage2).prepare

    def counted(self: Any, text: Tensor, shape: torch.Size) -> Any:
        shapes.append(tuple(shape))
        return prepare(self, text, shape)

    monkeypatch.setattr(type(tiny_stage2), "prepare", counted)
    refine_latents(tiny_stage2, latents_of(8), text_of(), num_steps=2, time_windows=TimeWindows(3, 1))
    assert shapes == [(2, 16, 3, 4, 4)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"length": 0}, "time windows of 0 latents; expected 1 or more"),
        ({"length": 5, "overlap": 5}, "overlap by 5; expected an overlap from 0 to 4"),
        ({"overlap": -1}, "overlap by -1; expected an overlap from 0 to 12"),
        ({"overlap": 2, "lead": 3}, "a lead of 3 latents in an overlap of 2; expected 0 to 2"),
        ({"lead": -1}, "a lead of -1 latents"),
        ({"length": 5.0}, "length is 5.0; expected a whole number"),
        ({"lead": True}, "lead is True; expected a whole number"),
    ],
)
def test_windows_that_cannot_be_joined_are_refused(values, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        TimeWindows(**values)
