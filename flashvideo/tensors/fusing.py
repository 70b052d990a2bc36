"""Triton kernels that do in one pass what torch's operations do in several: where they run, and what if one fails.

Every one of them has a plain path beside it, which gives the same numbers to rounding. Triton comes with torch for
NVIDIA cards on Linux; it compiles a kernel when it is first called, which takes a C compiler. ``FLASHVIDEO_TRITON=0``
leaves them out; ``FLASHVIDEO_TRITON=interpret`` runs them on a CPU too, in Triton's interpreter, where that is on
(``TRITON_INTERPRET=1`` when Triton is imported).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from .failures import is_too_large

log = logging.getLogger(__name__)

SWITCH = "FLASHVIDEO_TRITON"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_failed: list[str] = []
_recorders: list[Callable[[str, tuple[Any, ...]], None]] = []
_left_out = ContextVar("_left_out", default=False)


@contextmanager
def left_out() -> Iterator[None]:
    """Within the block torch's own operations do all the work."""
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def available(values: Tensor) -> bool:
    """Whether kernels run on ``values``: a dtype and a device that they know, and nothing that traces or records."""
    switch = os.environ.get(SWITCH)
    return (
        (values.device.type == "cuda" or switch == "interpret" or _on_paper(values))
        and values.dtype in DTYPES
        and torch.version.hip is None
        and switch != "0"
        and not _failed
        and not torch.compiler.is_compiling()
        and not _left_out.get()
        and not (torch.is_grad_enabled() and values.requires_grad)
        and (_on_paper(values) or _installed())
    )


def _on_paper(values: Any) -> bool:
    return bool(_recorders) and isinstance(values, Tensor) and values.device.type == "meta"


@contextmanager
def recorded(record: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """``record(kernel, arguments)`` is told of every kernel. On the meta device, where there is nothing to compute,
    they count as run, so that what a device with Triton would do can be counted without one.
    """
    _recorders.append(record)
    try:
        yield
    finally:
        _recorders.remove(record)


def run(module: str, kernel: str, *arguments: Any) -> Any:
    """``kernel(*arguments)`` of a module of kernels; ``None`` if it cannot be built here, now and from now on.

    Raises:
        RuntimeError: what was too large, as torch says it.
    """
    for record in _recorders:
        record(kernel, arguments)
    if any(_on_paper(argument) for argument in arguments):
        return True
    try:
        return getattr(importlib.import_module(module), kernel)(*arguments)
    except Exception as error:
        if is_too_large(error) or (isinstance(error, RuntimeError) and "CUDA error" in str(error)):
            raise
        _failed.append(kernel)
        said = str(error).strip().splitlines()
        log.warning(
            "Triton's %s does not run here (%s); torch's own operations do its work, somewhat slower. %s=0 says so "
            "from the start.",
            kernel,
            f"{type(error).__name__}: {said[0] if said else ''}",
            SWITCH,
        )
        return None


def weights_of(module: Any, like: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias of a torch layer that has them in place, beside ``like``.

    ``None`` where somebody else brings, casts or patches them when the layer is called (ComfyUI, accelerate, hooks).
    """
    if not isinstance(module, nn.LayerNorm | nn.Conv2d | nn.Conv3d):
        return None
    if getattr(module, "comfy_cast_weights", False) or vars(module).get("_hf_hook") is not None:
        return None
    if any(getattr(module, name, ()) for name in ("weight_function", "bias_function", "_forward_pre_hooks")):
        return None
    if any(getattr(module, name, ()) for name in ("_forward_hooks", "parametrizations")):
        return None
    weight, bias = module.weight, module.bias
    if weight is None or weight.device != like.device or weight.dtype not in DTYPES:
        return None
    return weight, bias
