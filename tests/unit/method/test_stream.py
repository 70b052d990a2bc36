"""Stage II as a stream: the bytes of the solve that holds everything, in the memory of a few windows."""

from __future__ import annotations

import dataclasses
import gc
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from flashvideo import TimeWindows, refine_latents, refine_stream
from flashvideo.method.stage2 import SOLVERS, Refinement
from flashvideo.method.stream import MAX_EVALUATIONS
from flashvideo.runs.settings import Stage2Settings
from tests.unit.method.test_time_windows import blurring, latents_of, text_of


def in_pieces(latents: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    """Latents by so many at a time, over and over."""
    start, turn = 0, 0
    while start < latents.shape[2]:
        size = sizes[turn % len(sizes)]
        yield latents[:, :, start : start + size]
        start, turn = start + size, turn + 1


def both(transformer: Any, latents: Tensor, sizes: list[int], **options: Any) -> tuple[Tensor, Tensor]:
    """Refined all at once, and as a stream; the whole's windows and settings are the stream's."""
    text = text_of()
    whole = refine_latents(transformer, latents, text, **options)
    stream = refine_stream(transformer, in_pieces(latents, sizes), text, **options)
    return whole, torch.cat(list(stream), dim=2)


@pytest.mark.parametrize("count", [1, 4, 5, 6, 7, 8, 9, 14, 23])
@pytest.mark.parametrize(
    "windows", [TimeWindows(5, 2), TimeWindows(5, 2, lead=1), TimeWindows(6, 5), TimeWindows(3, 0)]
)
def test_a_stream_gives_the_bytes_of_the_whole(count, windows):
    latents = latents_of(count, batch=2)
    whole, streamed = both(blurring, latents, [1, 3], time_windows=windows, num_steps=3, guidance_scale=3.0)
    assert torch.equal(whole, streamed)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "options",
    [
        {"guidance_scale": 1.0, "rounding": "bf16", "noise_step": 500},
        {"guidance_scale": 7.0, "sequential_guidance": True, "shift": 1.0, "latent_scale": 0.9},
        {"guidance_scale": 4.0, "negative_prompt_embeds": text_of() / 3, "guidance_every": 2},
    ],
)
def test_with_every_solver_and_setting(tiny_stage2, solver, options):
    latents = latents_of(10, batch=2).to(torch.bfloat16)
    windows = TimeWindows(4, 2, lead=1)
    whole, streamed = both(tiny_stage2, latents, [2], solver=solver, num_steps=2, time_windows=windows, **options)
    assert whole.dtype == streamed.dtype == torch.bfloat16
    assert torch.equal(whole, streamed)


def test_the_trained_length_is_the_default(tiny_stage2):
    latents = latents_of(15)
    whole = refine_latents(tiny_stage2, latents, text_of(), num_steps=1, time_windows=TimeWindows())
    assert torch.equal(torch.cat(list(refine_stream(tiny_stage2, [latents], text_of(), num_steps=1)), dim=2), whole)


def test_defaults_are_those_of_the_whole():
    whole = inspect.signature(refine_latents).parameters
    fields = {field.name: field.default for field in dataclasses.fields(Refinement)}
    settings = {name: value for name, value in fields.items() if value is not dataclasses.MISSING}
    assert settings.pop("keepers") is None  # a stream's alone
    for name in ("num_steps", "shift", "guidance_scale"):  # None asks the transformer, which a student answers
        assert settings.pop(name) == Stage2Settings.__dataclass_fields__[name].default
        assert whole[name].default is None
    assert settings == {name: whole[name].default for name in settings}
    assert set(whole) - set(fields) == {"latents", "callback", "keep", "source"}


@pytest.fixture
def nothing_else():
    """Objects that were there before are not among those that ``gc`` finds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def held_latents() -> int:
    """Latent frames in memory, each storage counted once."""
    found = [one.untyped_storage() for one in gc.get_objects() if isinstance(one, Tensor) and one.ndim == 5]
    return sum({storage.data_ptr(): storage.nbytes() for storage in found}.values()) // (4 * 16 * 6 * 10)


def most_held(count: int, solver: str, windows: TimeWindows, **more: Any) -> int:
    most = 0

    def network(x: Tensor, timestep: Tensor, text: Tensor, *, noise_step: float) -> Tensor:
        nonlocal most
        most = max(most, held_latents())
        return x.sin()

    latents = (torch.full((1, 16, 1, 6, 10), float(number)) for number in range(count))
    options = {"num_steps": 2, "solver": solver, "time_windows": windows, **more}
    assert sum(1 for _ in refine_stream(network, latents, text_of(), **options)) == count
    return most


@pytest.mark.parametrize("solver", ["euler", "rk4"])
@pytest.mark.parametrize("windows", [TimeWindows(5, 2), TimeWindows(6, 5, lead=2)])
def test_what_is_held_does_not_grow_with_the_length(nothing_else, solver, windows):
    short, long = (most_held(count, solver, windows, guidance_scale=1.0) for count in (30, 150))
    assert long == short
    assert 0 < long <= 5 * windows.length * 2 * SOLVERS[solver].evaluations


@pytest.mark.parametrize("every", [2, 3])
def test_reused_guidance_is_let_go(nothing_else, every):
    """Also that of the last evaluation of both branches, which none comes to reuse (every 2 of 3 evaluations)."""
    how = {"solver": "euler", "windows": TimeWindows(5, 2), "guidance_every": every, "sequential_guidance": True}
    assert most_held(30, num_steps=3, **how) == most_held(150, num_steps=3, **how)


def test_latents_are_read_as_they_are_needed_and_given_as_soon_as_they_are_final():
    read = 0

    def counted() -> Iterator[Tensor]:
        nonlocal read
        for latent in latents_of(40).split(1, dim=2):
            read += 1
            yield latent

    windows = TimeWindows(5, 2)
    stream = refine_stream(blurring, counted(), text_of(), num_steps=2, time_windows=windows)
    assert read <= 1
    behind = []
    for given, _latent in enumerate(stream, start=1):
        behind.append(read - given)
    # A step gives what it has read but the latents of a blend, and reads a window's news at a time.
    assert max(behind[:30]) <= 2 * windows.length
    assert behind[-1] == 0


def test_callbacks_see_each_latent_after_each_step():
    latents, seen = latents_of(9), {step: [] for step in (1, 2, 3)}

    def told(done: int, total: int, latent: Tensor) -> None:
        assert total == 3
        seen[done].append(latent)

    steps: list[Tensor] = []
    options = {"num_steps": 3, "time_windows": TimeWindows(4, 1)}
    refine_latents(blurring, latents, text_of(), **options, callback=lambda _done, _total, x: steps.append(x))
    list(refine_stream(blurring, [latents], text_of(), **options, callback=told))
    for one_by_one, whole in zip(seen.values(), steps, strict=True):
        assert torch.equal(torch.cat(one_by_one, dim=2), whole)


def test_a_callback_stops_the_stream():
    def stop(done: int, _total: int, _latent: Tensor) -> None:
        if done == 2:
            raise KeyboardInterrupt

    stream = refine_stream(blurring, [latents_of(9)], text_of(), time_windows=TimeWindows(4, 1), callback=stop)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert list(stream) == []


def test_no_latents_are_no_latents():
    assert list(refine_stream(blurring, [], text_of())) == []


def test_as_many_evaluations_as_are_allowed():
    """Each waits within the next one: more would be too deep for Python."""
    latents, options = latents_of(5), {"solver": "rk4", "guidance_scale": 1.0, "time_windows": TimeWindows(2, 1)}
    whole, streamed = both(blurring, latents, [1], num_steps=MAX_EVALUATIONS // 4, **options)
    assert torch.equal(whole, streamed)
    with pytest.raises(ValueError, match=f"17 steps of rk4 are 68 evaluations; .* at most {MAX_EVALUATIONS}"):
        refine_stream(blurring, [latents], text_of(), num_steps=MAX_EVALUATIONS // 4 + 1, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise_step": 1000}, "noise step 1000"),
        ({"solver": "magic"}, "solver is 'magic'"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"guidance_scale": -1}, "guidance_scale is -1"),
        ({"time_windows": (13, 3)}, r"time_windows is \(13, 3\); expected TimeWindows"),
        ({"time_windows": None}, "time_windows is None; a stream has no end"),
    ],
)
def test_settings_are_checked_at_once(options, said):
    def never() -> Iterator[Tensor]:
        raise AssertionError("the latents were read")
        yield

    with pytest.raises(ValueError, match=said):
        refine_stream(blurring, never(), text_of(), **options)


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([latents_of(2)[:, :4]], r"latents is .* \[1, 4, 2, 4, 4\]"),
        ([latents_of(9), latents_of(1)[..., :2, :]], r"\[1, 16, t, 2, 4\] .* before came as .* \[1, 16, t, 4, 4\]"),
        ([latents_of(9), latents_of(1).double()], "come as torch.float64"),
        ([latents_of(9), latents_of(1, batch=2)], r"come as .* \[2, 16, t, 4, 4\]"),
    ],
)
def test_latents_that_do_not_fit_are_refused_as_they_come(pieces, said):
    stream = refine_stream(blurring, iter(pieces), text_of(), time_windows=TimeWindows(4, 1))
    with pytest.raises(ValueError, match=said):
        list(stream)


def test_prompts_are_checked_before_the_first_evaluation(tiny_stage2, monkeypatch):
    monkeypatch.setattr(type(tiny_stage2), "forward", None)
    with pytest.raises(ValueError, match="prompt_embeds has shape"):
        next(refine_stream(tiny_stage2, [latents_of(9)], text_of(dim=7)))
