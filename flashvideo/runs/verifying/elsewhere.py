"""Models that another program runs, ComfyUI for instance, against the plain path of their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path as FilePath

import torch
from torch import Tensor

from ...checkpoints.files import DTYPE_NAMES
from ...checkpoints.metadata import STAGES
from ...loading.load import load_vae
from ...models.windows import AttentionWindows
from .codecs import fixed_latents, fixed_video, plain_decode, plain_encode, resnets
from .stages import LOADERS, Inputs, plain
from .verdicts import Limit, Path, Verdict, convolved, judge, rounded, stored, unit


def evaluation_verdict(
    kind: str,
    file: str | FilePath,
    name: str,
    run: Callable[[Inputs], Tensor],
    *,
    dtype: torch.dtype,
    weight_dtype: torch.dtype,
    windows: AttentionWindows | None = None,
) -> Verdict:
    """An evaluation of a stage by somebody else.

    Args:
        kind: ``stage1`` or ``stage2``.
        file: of the stage.
        name: of the path.
        run: gives the evaluation of inputs, ``[2, 16, T, h, w]``.
        dtype: that is computed in.
        weight_dtype: that weights were brought to, which counts where it has fewer bits.
        windows: that its attention is confined to.
    """
    network = LOADERS[kind](file, dtype=torch.float32)
    layers, expected, inputs = len(network.layers), plain(network, windows), Inputs.of(network)
    del network
    limit = rounded(dtype, layers)
    if unit(weight_dtype) > unit(dtype):
        limit = stored(DTYPE_NAMES[weight_dtype], unit(weight_dtype), layers)
    return judge(STAGES[kind], Path("dtypes", name, partial(run, inputs), limit), expected)


def codec_verdicts(
    file: str | FilePath,
    name: str,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[Verdict]:
    """A VAE by somebody else.

    Args:
        file: of the VAE.
        name: of the path.
        encode: ``[1, 3, F, H, W]`` in 0..1 -> the posterior's mean, ``[1, 16, T, h, w]``.
        decode: the other way.
        dtype, device: that it computes in and on.
    """
    vae = load_vae(file, dtype=torch.float32)
    limits: dict[str, Limit] = {
        half: convolved(dtype, resnets(getattr(vae, half)), device) for half in ("encoder", "decoder")
    }
    mean = plain_encode(vae, sample=False)
    yield judge("encode", Path("dtypes", name, partial(encode, fixed_video()), limits["encoder"]), mean)
    yield judge("decode", Path("dtypes", name, partial(decode, fixed_latents()), limits["decoder"]), plain_decode(vae))
