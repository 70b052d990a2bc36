"""The draft decoder's file: ``taecvx.safetensors`` or ``taecvx.pth``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.files import WeightFile, name_list, open_weights
from ..vae.draft import DraftDecoder
from .load import check_compute_dtype, fill_parameters
from .published import DRAFT

_PREFIX = "decoder."
_MORE_FRAMES = ".conv.weight"  # of the layers that may have rows for frames that they do not make


def open_draft_decoder(path: str | Path) -> WeightFile:
    """Open a draft decoder's file and check that it is one.

    Raises:
        ValueError: a file that is damaged, unsafe, or of another decoder.
    """
    weights = open_weights(path)
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in DraftDecoder().state_dict().items()}
    found = {name: tuple(weights.tensors[name].shape) for name in weights.tensors if name.startswith(_PREFIX)}
    missing, surplus = expected.keys() - found, found.keys() - expected
    wrong = [name for name in expected.keys() & found if not _fits(name, found[name], expected[name])]
    if missing or surplus or wrong:
        raise ValueError(
            f"{weights.path} is no draft decoder of CogVideoX's latents: missing {name_list(missing)}; unexpected "
            f"{name_list(surplus)}; wrong shape {name_list(wrong)}. Give {DRAFT.name}, from {DRAFT.page}"
        )
    return weights


def _fits(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    if name.endswith(_MORE_FRAMES) and len(found) == len(expected):
        return found[0] % expected[0] == 0 and found[0] > 0 and found[1:] == expected[1:]
    return found == expected


def load_draft_decoder(
    path: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> DraftDecoder:
    """Load the draft decoder.

    Args:
        path: ``taecvx.safetensors`` or ``taecvx.pth``; the encoder in it is left alone.
        dtype: to compute in; default: the file's.

    Raises:
        ValueError: a file that is damaged, unsafe, or of another decoder.
    """
    check_compute_dtype(dtype)
    weights = open_draft_decoder(path)
    chosen = dtype or weights.compute_dtype()
    with torch.device("meta"):
        decoder = DraftDecoder()

    def read(name: str, rows: int) -> Tensor:
        # A layer may have rows for each of several frames: the last are those of the frame that is made.
        return weights.tensors[name].read()[-rows:].to(chosen)

    parameters = dict(decoder.named_parameters())
    fill_parameters(decoder, {name: lambda n=name, p=p: read(n, len(p)) for name, p in parameters.items()}, device)
    return decoder.eval().requires_grad_(False)
