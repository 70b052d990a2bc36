"""A stage's paths: an evaluation of its transformer on fixed inputs, by everything that computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...loading.load import load_stage1, load_stage2
from ...loading.model_store import ModelPaths, ModelStore, Offload, release_memory
from ...method.stage2 import refine_latents
from ...method.stream import refine_stream
from ...method.windows import TimeWindows
from ...models.windows import AttentionWindows
from ...tensors import fusing
from ...tensors.sizes import LATENT_CHANNELS
from .verdicts import (
    DTYPES,
    EXACT,
    Limit,
    NotHereError,
    Path,
    Verdict,
    first_line,
    judge,
    named,
    no_result,
    rounded,
    usual_dtype,
)

SHAPE = (2, LATENT_CHANNELS, 5, 8, 16)
TIMESTEPS, NOISE_STEP = (900.0, 150.0), 675
LOADERS: dict[str, Callable[..., Any]] = {"stage1": load_stage1, "stage2": load_stage2}
STAGE_GROUPS = frozenset(("dtypes", "kernels", "attention", "compiled", "windows", "offload"))
_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
_NO_KERNEL = ("No available kernel", "No viable backend")
_WINDOWS = TimeWindows(3, 1)


@dataclass(frozen=True)
class Inputs:
    """What a transformer is evaluated on: two samples, one with a prompt and one without, at two times.

    Attributes:
        latents: ``[2, 16, T, h, w]`` in model space.
        timestep: ``[2]``.
        embeds: ``[2, 226, D]``, the second all zeros.
        noise_step: of Stage II.
    """

    latents: Tensor
    timestep: Tensor
    embeds: Tensor
    noise_step: int | None

    @classmethod
    def of(cls, network: Any) -> Inputs:
        """Drawn from a fixed seed, on the CPU in fp32."""
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(SHAPE, generator=generator)
        embeds = torch.randn(2, network.text_length, network.text_dim, generator=generator)
        embeds[1] = 0
        noise_step = None if network.noise_step_embedding is None else NOISE_STEP
        return cls(latents, torch.tensor(TIMESTEPS), embeds, noise_step)


@torch.no_grad()
def evaluate(network: Any, *, inplace: bool = True, windows: AttentionWindows | None = None) -> Tensor:
    """One evaluation on :class:`Inputs`, fp32 on the CPU.

    Args:
        inplace: as samplers call it.
    """
    weight, inputs = next(network.parameters()), Inputs.of(network)
    out = network(
        inputs.latents.to(weight.device, weight.dtype),
        inputs.timestep.to(weight.device),
        inputs.embeds.to(weight.device, weight.dtype),
        noise_step=inputs.noise_step,
        inplace=inplace,
        attention_windows=windows,
    )
    return out.float().cpu()


def plain(network: Any, windows: AttentionWindows | None = None) -> Tensor:
    """:func:`evaluate` by torch's operations alone, nothing overwritten, attention as softmax(q k) v."""
    with fusing.left_out(), sdpa_kernel(SDPBackend.MATH):
        return evaluate(network, inplace=False, windows=windows)


def stage_verdicts(
    part: str, kind: str, file: FilePath, device: torch.device, groups: frozenset[str]
) -> Iterator[Verdict]:
    """All paths of a stage's file.

    Args:
        part: what verdicts call it.
        kind: ``stage1`` or ``stage2``.
        groups: of paths that are looked at.
    """
    load = partial(LOADERS[kind], file)
    network = load(dtype=torch.float32)
    expected, layers = plain(network), len(network.layers)
    del network
    for dtype in DTYPES:
        name, limit, usual = named(dtype, device), rounded(dtype, layers), dtype == usual_dtype(device)
        try:
            network = load(dtype=dtype, device=device)
        except (RuntimeError, MemoryError) as error:
            yield no_result(part, name, limit, error)
            release_memory(device)
            continue
        if usual:
            yield from _exact(part, network, groups)
            resident = evaluate(network)
        for path in _of_dtype(network, name, device, limit, usual):
            if path.group in groups:
                yield judge(part, path, expected)
        del network, path
        release_memory(device)
        if usual and "offload" in groups:  # alone on the device
            yield from _offloaded(part, kind, file, device, resident)


def _of_dtype(network: Any, name: str, device: torch.device, limit: Limit, usual: bool) -> Iterator[Path]:
    """A dtype; the one that runs compute in with each set of kernels."""
    yield Path("dtypes", name, partial(_within, fusing.left_out(), network), limit)
    if not usual:
        return
    yield fused_path(name, device, partial(evaluate, network), limit)
    for kernel, backend in _KERNELS.items():
        yield Path("attention", f"{name}, {kernel} attention", partial(_with_kernel, network, backend), limit)
    yield Path("compiled", f"{name}, compiled", partial(_compiled, network), limit)


def _within(context: AbstractContextManager[Any], network: Any) -> Tensor:
    with context:
        return evaluate(network)


def fused_path(name: str, device: torch.device, run: Callable[[], Tensor], limit: Limit) -> Path:
    """``run`` with fused kernels."""
    return Path("kernels", f"{name}, fused kernels", partial(_with_fused_kernels, device, run), limit)


def _with_fused_kernels(device: torch.device, run: Callable[[], Tensor]) -> Tensor:
    """What ``run`` gives where fused kernels do run.

    Raises:
        NotHereError: they do not.
    """
    probe = torch.empty(1, device=device)
    if not fusing.available(probe):
        raise NotHereError("Triton's kernels run on NVIDIA cards")
    result = run()
    if not fusing.available(probe):
        raise NotHereError("Triton's kernels cannot be built here; the log says why")
    return result


def _with_kernel(network: Any, backend: SDPBackend) -> Tensor:
    try:
        return _within(sdpa_kernel(backend), network)
    except RuntimeError as error:
        if any(words in str(error) for words in _NO_KERNEL):
            raise NotHereError("torch has no such kernel for this device and dtype") from error
        raise


def _exact(part: str, network: Any, groups: frozenset[str]) -> Iterator[Verdict]:
    """Windows that cover everything, and streams: the bytes of what does without."""
    if "windows" not in groups:
        return
    frame = AttentionWindows(*SHAPE[3:])
    windows = Path("windows", "attention windows of the frame", partial(evaluate, network, windows=frame), EXACT)
    yield judge(part, windows, evaluate(network))
    if network.noise_step_embedding is None:
        return
    inputs = Inputs.of(network)
    settings: dict[str, Any] = {"num_steps": 2, "guidance_scale": 1.0, "noise_step": NOISE_STEP}
    latents, embeds = inputs.latents[:1], inputs.embeds[:1]
    refine = partial(refine_latents, network, latents, embeds, **settings)
    covering = Path("windows", "one time window", partial(refine, time_windows=TimeWindows(SHAPE[2], 0)), EXACT)
    yield judge(part, covering, refine())

    def streamed() -> Tensor:
        pieces = refine_stream(network, latents.split(2, dim=2), embeds, time_windows=_WINDOWS, **settings)
        return torch.cat(tuple(pieces), dim=2)

    yield judge(part, Path("windows", "time windows as a stream", streamed, EXACT), refine(time_windows=_WINDOWS))


def _offloaded(part: str, kind: str, file: FilePath, device: torch.device, expected: Tensor) -> Iterator[Verdict]:
    places: dict[Offload, str] = {"cpu": "host memory", "disk": "its file"}
    for place, words in places.items():
        store = ModelStore(ModelPaths(**{kind: file}), device=device, dtype=usual_dtype(device), offload=place)
        yield judge(part, Path("offload", f"waiting in {words}", partial(_used_twice, store, kind), EXACT), expected)


def _used_twice(store: ModelStore, name: str) -> Tensor:
    """What comes out once the model has been away."""
    with store.use(name):
        pass
    with store.use(name) as network:
        return evaluate(network)


def _compiled(network: Any) -> Tensor:
    """The layers by torch.compile.

    Raises:
        NotHereError: it has no compiler that works.
    """
    network.compile_repeated_blocks()
    try:
        return evaluate(network)
    except TorchDynamoException as error:
        raise NotHereError(f"torch.compile does not work ({first_line(error)})") from error
