"""How the VAE decodes: ours untiled and tiled, diffusers, ComfyUI and the authors' scheme, in one process each.

    python tests/benchmarks/vae.py                 # three minutes on two cores
    python tests/benchmarks/vae.py --full-width    # the published widths and depth
    python tests/benchmarks/vae.py --plot out.png  # growth with pixels, frames and tiles, drawn too
    python tests/benchmarks/vae.py --cuda          # 1072x1920x49 in bf16 on a GPU

Times are the best of several interleaved rounds. `computing` is the peak of live bytes on the computing side, `stored`
that of waiting activations and caches; libraries that keep nothing apart have only the former. Both are counted from
torch's own allocations. Errors are relative to the untiled fp32 decode in the same chunks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from flashvideo.vae.codec import decode_latents, decode_stream, estimate_decode
from flashvideo.vae.limits import Limits
from tests.live_bytes import live_bytes

ROOT = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
Run = Callable[[], Tensor]


def random_vae(full_width: bool) -> Any:
    """A CogVideoX VAE with random weights: published sizes, or half as wide."""
    from diffusers import AutoencoderKLCogVideoX

    torch.manual_seed(0)
    widths = (128, 256, 256, 512) if full_width else (64, 128, 128, 256)
    return AutoencoderKLCogVideoX(block_out_channels=widths).eval().requires_grad_(False)


def ours(vae: Any, latents: Tensor, tile: Any, method: Any = "exact") -> Run:
    return lambda: decode_latents(vae, latents, tile=tile, method=method)


def theirs(vae: Any, latents: Tensor, tiled: bool) -> Run:
    """diffusers' decode; its tiles are about a quarter of the frame here, as ours are."""

    def run() -> Tensor:
        height, width = latents.shape[3:]
        if tiled:
            # Sizes at which its overlaps are whole latents; at others its frames come out too large.
            vae.enable_tiling(48 * max(1, round(height / 12)), 40 * max(1, round(width / 10)))
        try:
            with torch.no_grad():
                return (vae.decode(latents).sample.float() / 2 + 0.5).clamp(0, 1)
        finally:
            vae.disable_tiling()

    return run


def best_times(runs: dict[str, Run], rounds: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Best wall-clock seconds and the result of each run, all runs taking turns."""
    times, results = dict.fromkeys(runs, float("inf")), {}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            results[name] = run()
            times[name] = min(times[name], time.perf_counter() - start)
    return times, results


def peaks(run: Run) -> tuple[float, float]:
    """Peak MB on the computing side and in the store. The finished video counts as the former."""
    with live_bytes() as counted:
        run()
    return counted.peak["computing"] / 1e6, counted.peak["stored"] / 1e6


def streamed(vae: Any, latents: Tensor, tile: Any) -> Run:
    def run() -> Tensor:
        for frames in decode_stream(vae, latents, Limits(tile)):
            del frames
        return latents

    return run


def relative(values: Tensor, expected: Tensor) -> float:
    return ((values - expected).norm() / expected.norm()).item()


def compare(vae: Any, latents: Tensor, rounds: int) -> None:
    """The table of methods."""
    height, width = latents.shape[3:]
    quarter = (-(-height // 2), -(-width // 2))
    runs = {
        "ours untiled": ours(vae, latents, False),
        "ours quarter tiles": ours(vae, latents, quarter),
        "authors' two halves": ours(vae, latents, False, "authors"),
        "diffusers untiled": theirs(vae, latents, False),
        "diffusers enable_tiling": theirs(vae, latents, True),
    }
    counted = dict(runs)
    counted["ours untiled"], counted["ours quarter tiles"] = (
        streamed(vae, latents, False),
        streamed(vae, latents, quarter),
    )
    times, results = best_times(runs, rounds)
    reference = results["ours untiled"]
    base, memory = (
        times["ours untiled"],
        {name: peaks(run) for name, run in counted.items()},
    )
    print(
        f"\n{'':26}{'seconds':>9}{'of ours':>9}{'of diff.':>9}{'computing MB':>14}{'of ours':>9}"
        f"{'stored MB':>11}{'error':>10}",
        flush=True,
    )
    for name in runs:
        computing, stored = memory[name]
        row = f"{name:26}{times[name]:9.2f}{times[name] / base:9.2f}{times[name] / times['diffusers untiled']:9.2f}"
        row += f"{computing:14.0f}{computing / memory['ours untiled'][0]:9.2f}{stored:11.0f}"
        print(row + f"{relative(results[name], reference):10.1e}", flush=True)
    print(f"resident memory of the process, highest: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
    halves(vae, latents[:, :, :3], quarter)


def halves(vae: Any, latents: Tensor, quarter: tuple[int, int]) -> None:
    """Errors in bf16 against the same weights in fp32."""
    half = type(vae).from_config(vae.config).eval()
    half.load_state_dict(vae.state_dict())
    half = half.to(torch.bfloat16)
    same = type(vae).from_config(vae.config).eval()
    same.load_state_dict({name: tensor.float() for name, tensor in half.state_dict().items()})
    latents = latents.to(torch.bfloat16).float()
    expected = decode_latents(same, latents, tile=False)
    found = {
        "ours untiled": decode_latents(half, latents, tile=False),
        "ours quarter tiles": decode_latents(half, latents, tile=quarter),
        "diffusers untiled": theirs(half, latents.to(torch.bfloat16), False)(),
    }
    print("bf16 error: " + ", ".join(f"{name} {relative(video, expected):.2e}" for name, video in found.items()))


def comfyui(vae: Any, latents: Tensor, rounds: int) -> None:
    """ComfyUI's decodes beside ours, under ComfyUI's own interpreter."""
    python = next((p for p in (COMFYUI / ".venv/bin/python", COMFYUI / "venv/bin/python") if p.exists()), None)
    if not (COMFYUI / "comfy").is_dir():
        print(f"\nComfyUI: skipped, not at {COMFYUI} (set COMFYUI_PATH)")
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"state": vae.state_dict(), "latents": latents}, f"{folder}/in.pt")
        command = [str(python or sys.executable), str(Path(__file__).with_name("vae_comfy.py"))]
        done = subprocess.run(
            [*command, str(COMFYUI), f"{folder}/in.pt", str(rounds)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        print(f"\nComfyUI: skipped, {done.stderr.strip().splitlines()[-1]}")
        return
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"\n{'in ComfyUI':26}{'seconds':>9}{'of ours':>9}{'computing MB':>14}{'stored MB':>11}{'error':>10}")
    for name, row in found.items():
        ratio = row["seconds"] / found["ours untiled"]["seconds"]
        print(f"{name:26}{row['seconds']:9.2f}{ratio:9.2f}{row['mb']:14.0f}{row['stored']:11.0f}{row['error']:10.1e}")


def growth(vae: Any, plot: Path | None) -> None:
    """Time and memory against pixels, frames and the number of tiles."""
    series: dict[str, list[tuple[float, float, float, float]]] = {}
    shapes = {
        "pixels": [((3, side, side), False, side * side * 64) for side in (4, 6, 8)],
        "frames": [((count, 4, 4), False, 4 * count - 3) for count in (3, 5, 9)],
        "tiles": [((3, 8, 8), side, (8 // side) ** 2) for side in (8, 4, 2)],
    }
    print(f"\n{'':10}{'':>8}{'seconds':>9}{'computing MB':>14}{'forecast':>10}{'stored MB':>11}{'forecast':>10}")
    for name, cases in shapes.items():
        for (count, height, width), tile, amount in cases:
            latents = torch.randn(1, 16, count, height, width)
            seconds = best_times({"": streamed(vae, latents, tile)}, 2)[0][""]
            computing, stored = peaks(streamed(vae, latents, tile))
            said = estimate_decode(vae, 4 * count - 3, 8 * height, 8 * width, Limits(tile))
            series.setdefault(name, []).append((amount, seconds, computing, stored))
            row = f"{name:10}{amount:8}{seconds:9.2f}{computing:14.1f}{said.working_bytes / 1e6:10.1f}"
            print(row + f"{stored:11.1f}{said.host_bytes / 1e6:10.1f}", flush=True)
    if plot is not None:
        draw(series, plot)


def draw(series: dict[str, list[tuple[float, float, float, float]]], path: Path) -> None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.6))
    for axis, (name, rows) in zip(axes, series.items(), strict=True):
        amounts = [row[0] for row in rows]
        axis.plot(amounts, [row[1] for row in rows], "k-o", label="seconds")
        axis.set(xlabel=name, ylabel="seconds", ylim=(0, None))
        other = axis.twinx()
        other.plot(amounts, [row[2] for row in rows], "C0-s", label="computing MB")
        other.plot(amounts, [row[3] for row in rows], "C1-^", label="stored MB")
        other.set(ylabel="MB", ylim=(0, None))
        lines = [*axis.lines, *other.lines]
        axis.legend(lines, [str(line.get_label()) for line in lines], fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    print(f"drawn to {path}")


def on_cuda(budget: float | None) -> None:
    """1072x1920x49 with the full-width decoder: seconds, peak memory, and the share of convolutions."""
    from torch.profiler import ProfilerActivity, profile

    vae = random_vae(True).to("cuda", torch.bfloat16)
    latents = torch.randn(1, 16, 13, 134, 240)
    said = estimate_decode(vae, 49, 1072, 1920, Limits(memory_budget=budget))
    decode_latents(vae, latents[:, :, :1, :32, :32])
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for frames in decode_stream(vae, latents, Limits(memory_budget=budget)):
        del frames
    seconds, peak = time.perf_counter() - start, torch.cuda.max_memory_allocated() / 1e9
    print(
        f"tiles {said.tile}: {seconds:.1f} s, peak {peak:.2f} GB with weights, "
        f"forecast {said.device_bytes / 1e9:.2f} GB without"
    )
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        decode_latents(vae, latents[:, :, :3], memory_budget=budget)
    events = recorded.key_averages()
    total = sum(event.self_device_time_total for event in events)
    convolution = sum(event.device_time_total for event in events if event.key == "aten::convolution")
    print(f"convolutions: {convolution / total:.0%} of the time on the device")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the default sizes, given for symmetry")
    parser.add_argument("--full-width", action="store_true", help="the published widths")
    parser.add_argument("--latents", type=int, nargs=3, metavar=("T", "H", "W"), help="latents to decode")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="draw growth to this file")
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--cuda", action="store_true", help="1072x1920x49 on a GPU")
    parser.add_argument("--budget", type=float, help="bytes for --cuda")
    options = parser.parse_args()
    if options.cuda:
        if not torch.cuda.is_available():
            print("--cuda: skipped, no CUDA device")
            return
        on_cuda(options.budget)
        return
    vae = random_vae(options.full_width)
    count, height, width = options.latents or ((3, 8, 12) if options.full_width else (3, 10, 12))
    latents = torch.randn(1, 16, count, height, width)
    print(
        f"{8 * height}x{8 * width}x{4 * count - 3}, widths {vae.config.block_out_channels}, "
        f"{torch.get_num_threads()} threads",
        flush=True,
    )
    compare(vae, latents, options.rounds)
    comfyui(vae, latents, options.rounds)
    if not options.no_growth:
        growth(vae, options.plot)


if __name__ == "__main__":
    main()
