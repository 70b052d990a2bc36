"""Checks that run before long work starts: each says what was wrong, what was expected and what to do."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..tensors.sizes import SIZE_MULTIPLE

NOISE_STEPS = 1000
MAX_TEXT = 20_000  # characters; a model reads about a thousand


def check_size(height: int, width: int) -> None:
    """Raise ValueError unless both are positive multiples of 16."""
    for name, value in (("height", height), ("width", width)):
        if value < SIZE_MULTIPLE or value % SIZE_MULTIPLE:
            below = max(SIZE_MULTIPLE, value // SIZE_MULTIPLE * SIZE_MULTIPLE)
            raise ValueError(
                f"{name} {value}: sizes are multiples of {SIZE_MULTIPLE} pixels. "
                f"Use {below} or {below + SIZE_MULTIPLE}."
            )


def check_noise_step(noise_step: float) -> None:
    """Raise ValueError unless the noise step is an index of the schedule."""
    if not 0 <= noise_step < NOISE_STEPS or int(noise_step) != noise_step:
        raise ValueError(
            f"noise step {noise_step}: expected a whole number from 0 (clean) to {NOISE_STEPS - 1} (pure noise); "
            "the published Stage II was trained on 650 to 750, 675 is the default."
        )


def check_positive(name: str, value: int) -> None:
    if int(value) != value or value < 1:
        raise ValueError(f"{name} is {value}; expected a whole number of at least 1.")


def check_text(name: str, text: Any) -> None:
    """Raise ValueError unless ``text`` is some text that a tokenizer and a file can hold; it may be empty."""
    if not isinstance(text, str):
        raise ValueError(f"{name} is {shortened(text)}; expected text.")
    if len(text) > MAX_TEXT:
        raise ValueError(
            f"{name} has {len(text)} characters; expected at most {MAX_TEXT}, of which the model reads about a "
            "thousand. Shorten it."
        )
    wrong = next((index for index, one in enumerate(text) if one == "\0" or "\ud800" <= one <= "\udfff"), None)
    if wrong is not None:
        what = "a NUL" if text[wrong] == "\0" else "half of a surrogate pair, or a byte that is not UTF-8,"
        raise ValueError(f"{name} has {what} at character {wrong + 1}; expected text in UTF-8. Take it out.")


def shortened(value: Any, length: int = 80) -> str:
    """A value as messages show it."""
    try:
        words = ascii(value)
    except RecursionError:
        words = "nested too deeply"
    return words if len(words) <= length else f"{words[:length]}..."


def check_finite_number(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a finite number.")


def check_prompt_embeds(name: str, embeds: Tensor, batch: int, transformer: Any) -> None:
    """Raise ValueError unless ``embeds`` fit the batch and, where it tells, the transformer."""
    length, dim = getattr(transformer, "text_length", None), getattr(transformer, "text_dim", None)
    shape = list(embeds.shape)
    fits = embeds.ndim == 3 and shape[0] in (1, batch) and length in (None, shape[1]) and dim in (None, shape[2])
    if not fits:
        raise ValueError(
            f"{name} has shape {shape}; expected [{batch}, {length or 226}, {dim or 'D'}]. "
            "Encode the prompt with the text encoder that belongs to this model, padded to its token count."
        )
