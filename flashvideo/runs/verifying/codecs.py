"""The VAE's paths, against diffusers' own layers called on whole frames, in the authors' temporal chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from ...loading.load import load_vae
from ...loading.model_store import ModelPaths, ModelStore, release_memory
from ...tensors import fusing
from ...tensors.sizes import LATENT_CHANNELS, SPATIAL_FACTOR
from ...vae.codec import decode_latents, decode_stream, encode_video
from ...vae.limits import Limits
from .stages import fused_path
from .verdicts import DTYPES, EXACT, Limit, Path, Verdict, convolved, judge, named, no_result, usual_dtype

LATENTS = (1, LATENT_CHANNELS, 5, 4, 6)
FRAMES = 33  # two chunks of the encoder
_TILE = (2, 3)
_CHUNK = 16  # frames of diffusers' batches, so that they are the authors' 17, 16, ...
_RESNET = "CogVideoXResnetBlock3D"


def fixed_latents() -> Tensor:
    """What is decoded."""
    return torch.randn(LATENTS, generator=torch.Generator().manual_seed(0))


def fixed_video() -> Tensor:
    """What is encoded."""
    height, width = (side * SPATIAL_FACTOR for side in LATENTS[3:])
    return torch.rand((1, 3, FRAMES, height, width), generator=torch.Generator().manual_seed(1))


def fixed_noise() -> Tensor:
    """What latents are drawn with."""
    shape = (1, LATENT_CHANNELS, (FRAMES - 1) // 4 + 1, *LATENTS[3:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def decode(vae: Any, **limits: Any) -> Tensor:
    """A fixed video out of fixed latents."""
    return decode_latents(vae, fixed_latents(), **limits)


def encode(vae: Any, **limits: Any) -> Tensor:
    """Latents of a fixed video, drawn with fixed noise; on the CPU."""
    return encode_video(vae, fixed_video(), noise=fixed_noise(), **limits).cpu()


@torch.no_grad()
def plain_decode(vae: Any) -> Tensor:
    """:func:`decode` by diffusers alone."""
    return (vae.decode(fixed_latents()).sample / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def plain_encode(vae: Any, *, sample: bool = True) -> Tensor:
    """:func:`encode` by diffusers alone; without ``sample`` the posterior's mean."""
    vae.num_sample_frames_batch_size = _CHUNK
    posterior = vae.encode(fixed_video() * 2 - 1).latent_dist
    mean: Tensor = posterior.mean
    return mean + posterior.std * fixed_noise() if sample else mean


RUNS: dict[str, tuple[Callable[..., Tensor], Callable[[Any], Tensor], str]] = {
    "encode": (encode, plain_encode, "encoder"),
    "decode": (decode, plain_decode, "decoder"),
}
VAE_GROUPS = {
    "encode": frozenset(("dtypes", "kernels", "tiles", "offload")),
    "decode": frozenset(("dtypes", "kernels", "tiles", "offload", "windows")),
}


def vae_verdicts(part: str, file: FilePath, device: torch.device, groups: frozenset[str]) -> Iterator[Verdict]:
    """All paths of a VAE's file.

    Args:
        part: ``encode`` or ``decode``.
        groups: of paths that are looked at.
    """
    run, own, half = RUNS[part]
    vae = load_vae(file, dtype=torch.float32)
    expected, layers = own(vae), resnets(getattr(vae, half))
    del vae
    for dtype in DTYPES:
        limit = convolved(dtype, layers, device)
        try:
            vae = load_vae(file, dtype=dtype, device=device)
        except (RuntimeError, MemoryError) as error:
            yield no_result(part, named(dtype, device), limit, error)
            release_memory(device)
            continue
        usual = dtype == usual_dtype(device)
        for path in _of_dtype(partial(run, vae), named(dtype, device), device, limit, usual):
            if path.group in groups:
                yield judge(part, path, expected)
        if usual:
            yield from _exact(part, file, vae, device, groups)
        del vae
        release_memory(device)


def resnets(half: Any) -> int:
    """How many blocks an encoder or a decoder has."""
    return sum(type(module).__name__ == _RESNET for module in half.modules())


def _of_dtype(run: Callable[..., Tensor], name: str, device: torch.device, limit: Limit, usual: bool) -> Iterator[Path]:
    def unfused(**limits: Any) -> Tensor:
        with fusing.left_out():
            return run(**limits)

    yield Path("dtypes", name, partial(unfused, tile=False), limit)
    if usual:
        yield Path("tiles", f"{name}, tiles", partial(unfused, tile=_TILE), limit)
        yield fused_path(name, device, partial(run, tile=False), limit)


def _exact(part: str, file: FilePath, vae: Any, device: torch.device, groups: frozenset[str]) -> Iterator[Verdict]:
    """What changes where things wait, and no byte of the result."""
    run = partial(RUNS[part][0], tile=False)
    if "offload" in groups:
        tiled = partial(RUNS[part][0], vae, tile=_TILE)
        waiting = Path("offload", "tiles, activations in a file", partial(tiled, host_budget=1), EXACT)
        yield judge(part, waiting, tiled())
        store = ModelStore(ModelPaths(vae=file), device=device, vae_dtype=usual_dtype(device), offload="disk")
        yield judge(part, Path("offload", "waiting in its file", partial(_used_again, store, run), EXACT), run(vae))
    if part == "decode" and "windows" in groups:
        yield judge(part, Path("windows", "as a stream", partial(_streamed, vae), EXACT), run(vae))


def _streamed(vae: Any) -> Tensor:
    return torch.cat(tuple(decode_stream(vae, fixed_latents(), Limits(tile=False))), dim=2)


def _used_again(store: ModelStore, run: Callable[..., Tensor]) -> Tensor:
    with store.use("vae"):
        pass
    with store.use("vae") as vae:
        return run(vae)
