"""What an evaluation of the transformer takes beside its weights, before it runs.

With a token tensor of ``t`` bytes (text and video tokens, each of the network's width) a layer holds

    while q, k and v are made    5 t at most                     x, its norm, their product
    in attention                 5 t + 4 bytes a token and head  x, q, k, v, the result, its logarithms
    in attention in windows      5 t and what is gathered
    in the MLP                   4.5 t, of few tokens 7 t        x, attention's result; of half of the tokens, or of
                                                                 few, the norm and the four times wider state

Around the layers there are the rotary table, the latents' patches and the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .layer import FEW_TOKENS
from .windows import AttentionWindows, gathered_tokens

_PROMPT = 226  # tokens
_FLOAT = 4


def evaluation_bytes(
    config: Mapping[str, Any], shape: Sequence[int], itemsize: int, windows: AttentionWindows | None = None
) -> int:
    """The most bytes that one evaluation in place holds on a GPU, with a fused attention.

    Args:
        config: of the network, the keywords of its constructor.
        shape: of the latents, ``[B, 16, T, h, w]``.
        itemsize: bytes of a number.
        windows: that attention is confined to.
    """
    batch, channels, frames, height, width = shape
    patch, heads = config.get("patch_size", 2), config["num_attention_heads"]
    dim = heads * config["attention_head_dim"]
    video = frames * (height // patch) * (width // patch)
    text = config.get("max_text_seq_length", _PROMPT)
    tokens = text + video
    token_tensor = batch * tokens * dim * itemsize
    grid = frames, height // patch, width // patch
    gathered = 0 if windows is None else gathered_tokens(windows, grid, patch, text, batch)
    pooled = 0 if windows is None or not gathered or not windows.pooled else 3 * token_tensor // windows.pooled**2
    attention = 5 * token_tensor + _FLOAT * batch * tokens * heads + pooled + gathered * dim * itemsize
    layer = max(attention, 7 * token_tensor if batch * tokens <= FEW_TOKENS else 0)
    rotary = _FLOAT * video * config["attention_head_dim"]
    latents = 2 * batch * channels * frames * height * width * itemsize
    modulation = 24 * batch * dim * itemsize
    return layer + rotary + latents + batch * text * dim * itemsize + modulation


def sampling_bytes(
    config: Mapping[str, Any],
    shape: Sequence[int],
    itemsize: int,
    *,
    sequential: bool,
    windows: AttentionWindows | None = None,
) -> int:
    """The most bytes that a run of either sampler holds: an evaluation, both branches' inputs, and the latents.

    Args:
        config, shape, itemsize, windows: see :func:`evaluation_bytes`.
        sequential: CFG's branches go one after the other, else as one batch.
    """
    batch, channels, frames, height, width = shape
    both = (batch if sequential else 2 * batch, *shape[1:])
    latents = 6 * _FLOAT * batch * channels * frames * height * width
    patch = config.get("patch_size", 2)
    rotary = _FLOAT * frames * (height // patch) * (width // patch) * config["attention_head_dim"]
    prompts = 4 * batch * config.get("max_text_seq_length", _PROMPT) * config["text_embed_dim"] * itemsize
    return evaluation_bytes(config, both, itemsize, windows) + latents + (rotary if sequential else 0) + prompts
