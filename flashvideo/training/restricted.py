"""Resuming without running anything that a run's folder may hold.

accelerate, ``torch.distributed.checkpoint`` and DeepSpeed keep a run's state in pickles, and a pickle is a program.
Some of their readers ask torch for its restricted unpickler, some do not, and older versions less.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_FORCED, _FORBIDDEN = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
# What the table of contents of torch.distributed.checkpoint is made of. It is read by plain pickle.
_CHECKPOINT = "torch.distributed.checkpoint"
_TABLE_OF_CONTENTS = {
    *((f"{_CHECKPOINT}.metadata", name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
    *((f"{_CHECKPOINT}.metadata", f"{kind}StorageMetadata") for kind in ("Tensor", "Chunk", "Bytes")),
    (f"{_CHECKPOINT}.metadata", "_MEM_FORMAT_ENCODING"),
    (f"{_CHECKPOINT}.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    *((module, f"{kind}Path") for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
}


@contextmanager
def restricted_unpickling(folder: Path) -> Iterator[None]:
    """Inside, ``torch.load`` builds tensors and plain containers only, whatever its callers ask for.

    Args:
        folder: that is going to be read.

    Raises:
        ValueError: a sharded checkpoint in the folder whose table of contents holds anything else.
    """
    for path in sorted(folder.rglob("*.metadata")):
        _check_table_of_contents(path)
    before = {name: os.environ.pop(name, None) for name in (_FORCED, _FORBIDDEN)}
    allowed = torch.serialization.get_safe_globals()
    os.environ[_FORCED] = "1"
    torch.serialization.add_safe_globals(_deepspeed_types())
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)
        del os.environ[_FORCED]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _deepspeed_types() -> list[Any]:
    """What DeepSpeed keeps besides tensors: a loss scale, a stage's number and places of parameters, all plain data."""
    if "deepspeed" not in sys.modules:
        return []
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]


def _check_table_of_contents(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            _TableOfContents(stream).load()
    except Exception as error:  # a damaged pickle makes the unpickler raise anything
        raise ValueError(
            f"{path} cannot be read: {error or type(error).__name__}. Nothing in it was executed. "
            "Resume from a folder that you made yourself."
        ) from error


class _TableOfContents(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _TABLE_OF_CONTENTS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
