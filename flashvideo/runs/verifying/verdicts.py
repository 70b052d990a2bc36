"""How far what a path gives is from what the plain one gives, and how far it may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...checkpoints.files import DTYPE_NAMES
from ...tensors.failures import is_too_large

OK, OVER, FAILED, NOT_HERE = "ok", "over", "failed", "not here"
Status = Literal["ok", "over", "failed", "not here"]
_SUMS = 64  # roundings that fp32 sums in another order may differ by, in a layer
_ROUNDINGS = 3  # of a layer's results to a dtype with fewer bits


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class NotHereError(Exception):
    """A path that this machine does not offer, with the reason."""


@dataclass(frozen=True)
class Limit:
    """The largest relative difference that is right, and why."""

    value: float
    reason: str


EXACT = Limit(0.0, "the same bytes")


def unit(dtype: torch.dtype) -> float:
    """The largest relative error of rounding to ``dtype``."""
    return float(torch.finfo(dtype).eps) / 2


def usual_dtype(device: torch.device) -> torch.dtype:
    """That runs compute in on a device."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def named(dtype: torch.dtype, device: torch.device) -> str:
    """A path that computes in a dtype."""
    return f"{DTYPE_NAMES[dtype]} on {device}"


def reordered(layers: int) -> Limit:
    """Of sums in another order, in fp32; errors of layers add up like noise."""
    value = _SUMS * unit(torch.float32) * math.sqrt(layers)
    return Limit(value, f"fp32 in another order: {_SUMS} x 2^-24 x sqrt({layers} layers)")


def convolved(dtype: torch.dtype, layers: int, device: torch.device) -> Limit:
    """Of convolutions: torch lets cuDNN's round fp32 to TF32, unless told otherwise."""
    return rounded(dtype, layers, tf32=device.type == "cuda" and torch.backends.cudnn.allow_tf32)


def rounded(dtype: torch.dtype, layers: int, *, tf32: bool = False) -> Limit:
    """Of results that are rounded to ``dtype``; in fp32 there is only another order.

    Args:
        tf32: fp32 is rounded to TF32 before it is multiplied.
    """
    if dtype == torch.float32 and not tf32:
        return reordered(layers)
    name, step = ("TF32", unit(torch.float16)) if dtype == torch.float32 else (DTYPE_NAMES[dtype], unit(dtype))
    reason = f"rounding to {name}: {_ROUNDINGS} x 2^{math.log2(step):.0f} x sqrt({layers} layers)"
    return Limit(_ROUNDINGS * step * math.sqrt(layers), reason)


def stored(name: str, step: float, layers: int) -> Limit:
    """Of weights that a file keeps in few bits.

    Args:
        step: of the format, relative to the weights that it is coarsest for.
    """
    return Limit(2 * step * math.sqrt(layers), f"steps of {name}: 2 x 2^{math.log2(step):.0f} x sqrt({layers} layers)")


@dataclass(frozen=True)
class Verdict:
    """What was found of a path.

    Attributes:
        part: Stage I, Stage II, encode or decode.
        path: what it is called.
        status: ``ok``, ``over`` its limit, ``failed`` with an error, or ``not here``.
        limit: of both differences.
        largest: difference of an element, relative to the largest element.
        rms: root mean square of the differences, relative to that of the elements.
        why: it failed, or is not here.
    """

    part: str
    path: str
    status: Status
    limit: Limit
    largest: float | None = None
    rms: float | None = None
    why: str = ""

    @property
    def ok(self) -> bool:
        return self.status in (OK, NOT_HERE)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; differences that are not finite are None."""
        numbers = {"largest": self.largest, "rms": self.rms}
        return {
            "part": self.part,
            "path": self.path,
            "status": self.status,
            **{name: value if value is not None and math.isfinite(value) else None for name, value in numbers.items()},
            "limit": self.limit.value,
            "reason": self.why or self.limit.reason,
        }


@dataclass(frozen=True)
class Path:
    """A way to a result that should be that of the plain one.

    Attributes:
        group: of paths that are chosen together, one of :data:`GROUPS`.
        name: in the table.
        run: gives the result.
        limit: of its difference from the plain one's.
    """

    group: str
    name: str
    run: Callable[[], Tensor]
    limit: Limit


GROUPS = {
    "files": "every kind of file that is read",
    "dtypes": "the device in fp32, bf16 and fp16",
    "kernels": "fused kernels (Triton)",
    "attention": "each kernel of attention",
    "compiled": "torch.compile",
    "windows": "windows that cover everything, streams",
    "tiles": "the VAE in tiles",
    "offload": "models and activations that wait elsewhere",
}


def judge(part: str, path: Path, expected: Tensor) -> Verdict:
    """Run a path and compare what it gives with what is expected."""
    try:
        found = path.run()
    except NotHereError as error:
        return absent(part, path.name, path.limit, str(error))
    except (RuntimeError, ValueError, MemoryError) as error:
        return no_result(part, path.name, path.limit, error)
    largest, rms = differences(found, expected)
    same = path.limit is not EXACT or torch.equal(found, expected)
    status: Status = "ok" if same and max(largest, rms) <= path.limit.value else "over"
    return Verdict(part, path.name, status, path.limit, largest, rms)


def absent(part: str, path: str, limit: Limit, why: str) -> Verdict:
    """Of a path that is not here."""
    return Verdict(part, path, "not here", limit, why=why)


def no_result(part: str, path: str, limit: Limit, error: BaseException) -> Verdict:
    """Of a path that ended in an error; one for which the memory is too small is not here."""
    if is_too_large(error):
        return absent(part, path, limit, f"too large for the memory here ({first_line(error)})")
    return Verdict(part, path, "failed", limit, why=first_line(error))


def first_line(error: BaseException) -> str:
    """Of what an error says, with its kind."""
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0]:.120}"


def differences(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Largest and root mean square difference, relative; infinite for other shapes and values that are not finite."""
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return math.inf, math.inf
    left, right = found.double(), expected.double()
    error = left - right
    scales = (float(right.abs().max()), float(right.norm()))
    return tuple(  # type: ignore[return-value]
        float(size) / scale if scale else (math.inf if size else 0.0)
        for size, scale in zip((error.abs().max(), error.norm()), scales, strict=True)
    )


@dataclass(frozen=True)
class Certificate:
    """All verdicts, and where they are from.

    Attributes:
        place: device, versions and models, in words.
    """

    verdicts: tuple[Verdict, ...]
    place: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether no path is over its limit, or failed."""
        return all(verdict.ok for verdict in self.verdicts)

    @property
    def summary(self) -> str:
        counts = {status: sum(v.status == status for v in self.verdicts) for status in (OK, OVER, FAILED, NOT_HERE)}
        return ", ".join(f"{count} {status}" for status, count in counts.items() if count)

    def told(self) -> tuple[str, ...]:
        """In few lines: how many paths are right, and which are not."""
        wrong = (f"{v.part}, {v.path}: {v.status} ({v.why or v.limit.reason})" for v in self.verdicts if not v.ok)
        return (self.summary, *wrong)

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "place": dict(self.place), "paths": [v.to_dict() for v in self.verdicts]}

    def lines(self) -> Iterator[str]:
        """As a table in Markdown, aligned."""
        head = ("part", "path", "largest", "rms", "limit", "", "why")
        rows = [head, *(_cells(verdict) for verdict in self.verdicts)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
        yield from (f"{name}: {value}" for name, value in self.place.items())
        yield ""
        for number, row in enumerate(rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            yield f"| {' | '.join((*cells, row[-1]))} |"
            if number == 0:
                yield f"|{'|'.join('-' * (width + 2) for width in widths)}|---|"
        yield from ("", self.summary)


def _cells(verdict: Verdict) -> tuple[str, ...]:
    numbers = ("" if number is None else _shown(number) for number in (verdict.largest, verdict.rms))
    limit = _shown(verdict.limit.value)
    why = verdict.why or verdict.limit.reason
    return (verdict.part, verdict.path, *numbers, limit, verdict.status, why)


def _shown(number: float) -> str:
    return f"{number:.1e}" if number else "0"


def check_groups(names: Iterable[str]) -> frozenset[str]:
    """Names of groups of paths.

    Raises:
        ValueError: another name, or none.
    """
    chosen = frozenset(names)
    if not chosen or chosen - set(GROUPS):
        raise ValueError(f"paths are {','.join(sorted(chosen)) or 'none'}; expected some of {', '.join(GROUPS)}.")
    return chosen
