"""What this machine reaches: its rates, and the published networks with random weights, as far as they fit."""

from __future__ import annotations

import gc
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...models.network import FlashVideoNetwork
from ...tensors.sizes import SPATIAL_FACTOR, latent_frames
from ...vae.codec import decode_latents
from ...vae.tiling.memory import free_on
from .counter import Count, counting
from .live import LiveBytes
from .networks import FULL_SIZE, PROMPT, Case, count
from .rates import Rates, predict

Progress = Callable[[str, int, int], None]

_WIDTH, _HEADS = 1920, 30  # Stage II's
_SIZES = (((1072, 1920), 49), ((544, 960), 49), ((256, 480), 49), ((256, 480), 17), ((128, 240), 9), ((64, 112), 5))
_DEPTHS = (None, 2)  # layers: all, an even and an odd one
_SHARE = 0.8  # of the free memory
_TRIES = 3


@dataclass(frozen=True)
class Measured:
    """A network on this machine.

    Attributes:
        name: of the case.
        count: of what ran.
        seconds: median of several runs.
        peak_bytes: beside weights and inputs.
        peers: seconds of others' classes on the same input, in turns with ours; or why there are none.
    """

    name: str
    count: Count
    seconds: float
    peak_bytes: int
    peers: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """Rates of a device, and what ran on it."""

    device: str
    dtype: str
    torch: str
    threads: int
    rates: Rates
    runs: tuple[Measured, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        runs = [asdict(replace(run, count=Count())) | {"count": run.count.to_dict()} for run in self.runs]
        return {**asdict(replace(self, runs=())), "runs": runs}


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of ``run``, all that the device does included."""
    wait = torch.cuda.synchronize if device.type == "cuda" else torch.mps.synchronize if device.type == "mps" else None
    if wait:
        wait()
    start = time.perf_counter()
    run()
    if wait:
        wait()
    return time.perf_counter() - start


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most memory that ``run`` takes beside what is there; on a CPU counted by its tensors."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as counted:
        run()
    return counted.peak["computing"]


def median_seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of several runs, after one that does not count."""
    run()
    return statistics.median(seconds(run, device) for _ in range(_TRIES))


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """What well-shaped kernels of torch reach here: shapes of Stage II and of the VAE."""
    few = device.type == "cpu"
    with torch.no_grad():
        return Rates(
            _products(512 if few else 16384, device, dtype),
            _convolutions(34 if few else 136, device, dtype),
            _attention(2048 if few else 32768, device, dtype),
            _memory(1 << (25 if few else 28), device),
            _launch(device),
        )


def _products(tokens: int, device: torch.device, dtype: torch.dtype) -> float:
    x, weight = (torch.randn(rows, _WIDTH, device=device).to(dtype) for rows in (tokens, 4 * _WIDTH))
    return 8 * tokens * _WIDTH**2 / median_seconds(lambda: F.linear(x, weight), device)


def _convolutions(side: int, device: torch.device, dtype: torch.dtype) -> float:
    layout = torch.channels_last_3d
    image = torch.randn(1, 256, 5, side, side, device=device).to(dtype, memory_format=layout)
    kernel = torch.randn(256, 256, 3, 3, 3, device=device).to(dtype, memory_format=layout)
    operations = 2 * 27 * 256 * 256 * 3 * (side - 2) ** 2
    return operations / median_seconds(lambda: F.conv3d(image, kernel), device)


def _attention(tokens: int, device: torch.device, dtype: torch.dtype) -> float:
    q, k, v = (torch.randn(1, _HEADS, tokens, 64, device=device).to(dtype) for _ in range(3))
    run = median_seconds(lambda: F.scaled_dot_product_attention(q, k, v), device)
    return 4 * _HEADS * tokens**2 * 64 / run


def _memory(elements: int, device: torch.device) -> float:
    source = torch.zeros(elements, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device)


def _launch(device: torch.device) -> float:
    few = torch.zeros(8, device=device)

    def thousand() -> None:
        for _ in range(1000):
            few.add_(1.0)

    return median_seconds(thousand, device) / 1000


def measure(
    device: torch.device, dtype: torch.dtype, *, limit: float, peers: bool, progress: Progress | None = None
) -> Machine:
    """Rates, one evaluation of Stage II and one decode: of the largest sizes that fit and take no more than ``limit``,
    or of the smallest.

    Args:
        limit: seconds of a run, as predicted.
        peers: time diffusers' and, where it can be imported, ComfyUI's classes too.
        progress: called with what is done, how much of it, and of how much.
    """
    say = progress or (lambda *_: None)
    say("rates", 0, 3)
    rates = measure_rates(device, dtype)
    runs: list[Measured] = []
    for index, run in enumerate((_evaluation, _decode)):
        say(run.__name__.strip("_"), index + 1, 3)
        runs += run(device, dtype, rates, limit, peers)
        gc.collect()
    say("done", 3, 3)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return Machine(
        name, str(dtype).removeprefix("torch."), torch.__version__, torch.get_num_threads(), rates, tuple(runs)
    )


def _evaluation(
    device: torch.device, dtype: torch.dtype, rates: Rates, limit: float, peers: bool
) -> Iterator[Measured]:
    for layers, (size, frames) in product(_DEPTHS, _SIZES):
        depth = layers or FULL_SIZE["stage2"]["num_layers"]
        case = Case("stage2", size, frames)
        expected = count(case, layers=layers, dtype=dtype)
        needed = depth * 30 * _WIDTH**2 * dtype.itemsize + expected.peak_bytes
        last = (layers, (size, frames)) == (_DEPTHS[-1], _SIZES[-1])
        if fits(needed, device) and (last or predict(expected, rates).total <= limit):
            yield _evaluated(case, depth, device, dtype, peers)
            return


def _evaluated(case: Case, layers: int, device: torch.device, dtype: torch.dtype, peers: bool) -> Measured:
    torch.manual_seed(0)
    network = FlashVideoNetwork(**FULL_SIZE["stage2"] | {"num_layers": layers}, device=device, dtype=dtype).eval()
    rows, columns = (side // SPATIAL_FACTOR for side in case.size)
    x = torch.randn(1, 16, latent_frames(case.frames), rows, columns, device=device).to(dtype)
    text, step = torch.randn(1, *PROMPT, device=device).to(dtype), torch.tensor([500.0], device=device)
    noise_step = torch.tensor([675.0], device=device)

    def ours() -> object:
        with torch.no_grad():
            return network(x, step, None, noise_step=noise_step, prepared=prepared, inplace=True)

    with torch.no_grad():
        prepared = network.prepare(text, x.shape)
    others: dict[str, Callable[[], object] | str] = {}
    if peers:
        others["diffusers"] = _diffusers_transformer(layers, x, text, step)
        others["ComfyUI"] = _comfyui_transformer(layers, x, text, step)
    name = case.name + ("" if layers == FULL_SIZE["stage2"]["num_layers"] else f", {layers} layers")
    return _in_turns(name, network, ours, others, device)


def _in_turns(
    name: str, network: nn.Module, ours: Callable[[], object], others: dict[str, Any], device: torch.device
) -> Measured:
    ours()
    with counting(network, meta=False) as counter:
        ours()
    peak = peak_bytes(ours, device)
    runs = {"": ours} | {peer: run for peer, run in others.items() if callable(run)}
    times: dict[str, list[float]] = {peer: [] for peer in runs}
    for _ in range(_TRIES):
        for peer, run in runs.items():
            times[peer].append(seconds(run, device))
    medians = {peer: statistics.median(values) for peer, values in times.items()}
    told = {peer: medians.get(peer, run) for peer, run in others.items()}
    return Measured(name, counter.count(), medians[""], peak, told)


def _diffusers_transformer(layers: int, x: Any, text: Any, step: Any) -> Callable[[], object]:
    from diffusers import CogVideoXTransformer3DModel

    with torch.device(x.device):
        theirs = CogVideoXTransformer3DModel(
            num_layers=layers, num_attention_heads=_HEADS, use_rotary_positional_embeddings=True
        )
    theirs = theirs.to(x.dtype).eval()
    tokens = x.shape[2] * (x.shape[3] // 2) * (x.shape[4] // 2)
    rotary = torch.rand(2, tokens, 64, device=x.device)

    def run() -> object:
        with torch.no_grad():
            return theirs(x.transpose(1, 2), text, step, image_rotary_emb=(rotary[0], rotary[1]), return_dict=False)

    return run


def _comfyui_transformer(layers: int, x: Any, text: Any, step: Any) -> Callable[[], object] | str:
    try:  # as a program that happens to be here: the library knows nothing of ComfyUI
        if x.device.type == "cpu":
            importlib.import_module("comfy.cli_args").args.cpu = True  # or ComfyUI looks for a GPU
        operations = importlib.import_module("comfy.ops").disable_weight_init
        network = importlib.import_module("comfy.ldm.cogvideo.model").CogVideoXTransformer3DModel
    except ImportError as error:
        return f"not here ({error})"
    theirs = network(
        num_layers=layers,
        num_attention_heads=_HEADS,
        use_rotary_positional_embeddings=True,
        dtype=x.dtype,
        device=x.device,
        operations=operations,
    ).eval()

    def run() -> object:
        with torch.no_grad():
            return theirs(x, step, text)

    return run


def _decode(device: torch.device, dtype: torch.dtype, rates: Rates, limit: float, peers: bool) -> Iterator[Measured]:
    from diffusers import AutoencoderKLCogVideoX

    (rows, columns), frames = _SIZES[-1]
    small = count(Case("decode", (rows, columns), frames), dtype=dtype)
    for size, length in _SIZES:
        times = size[0] * size[1] * latent_frames(length) / (rows * columns * latent_frames(frames))
        planes = times * (small.peak_bytes + small.stored_bytes)
        if not fits(int(planes), device) or (times > 1 and times * predict(small, rates).total > limit):
            continue
        torch.manual_seed(0)
        with torch.device(device):
            vae = AutoencoderKLCogVideoX().eval().requires_grad_(False)
        vae.to(dtype)
        latents = torch.randn(1, 16, latent_frames(length), size[0] // 8, size[1] // 8, device=device).to(dtype)

        def theirs(vae: Any = vae, latents: Any = latents) -> object:
            with torch.no_grad():
                return vae.decode(latents).sample

        def ours(vae: Any = vae, latents: Any = latents) -> object:
            return decode_latents(vae, latents)

        others = {"diffusers": theirs} if peers else {}
        yield _in_turns(Case("decode", size, length).name, vae, ours, others, device)
        return


def fits(size: int, device: torch.device) -> bool:
    """Whether so many bytes may be taken."""
    return size < _SHARE * free_on(device)


@contextmanager
def importable(folder: str | None) -> Iterator[None]:
    """ComfyUI's modules can be imported from its folder."""
    if folder is None:
        yield
        return
    before, words = list(sys.path), list(sys.argv)
    sys.path.insert(0, folder)
    sys.argv[1:] = []  # which ComfyUI reads when it is imported
    try:
        yield
    finally:
        sys.path[:], sys.argv[:] = before, words


def results_table(machine: Machine) -> Sequence[Sequence[str]]:
    """Rows of name, launches, seconds, predicted seconds, share of the limit, peak and peers."""
    rows = []
    for run in machine.runs:
        prediction = predict(run.count, machine.rates)
        peers = ", ".join(
            f"{peer} {seconds / run.seconds:.2f}x" if isinstance(seconds, float) else f"{peer}: {seconds}"
            for peer, seconds in run.peers.items()
        )
        rows.append(
            (
                run.name,
                f"{run.count.total.launches:,}",
                f"{run.seconds:.3g}",
                f"{prediction.total:.3g}",
                f"{prediction.limit / run.seconds:.0%}",
                f"{run.peak_bytes / 2**30:.2f}",
                peers,
            )
        )
    return rows
