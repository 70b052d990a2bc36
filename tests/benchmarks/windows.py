"""One evaluation in windows of the frame against one with full attention, as frames grow; and what both compute.

Prints ratios from one process, the two taking turns, the exponent of time in tokens, and the operations of the
published Stage II by size. Nothing is asserted.

    python -m tests.benchmarks.windows [--heads 8] [--layers 2] [--rounds 3] [--device cpu] [--window 256x256+8]
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch
from torch.utils.flop_counter import FlopCounterMode

from flashvideo import AttentionWindows
from flashvideo.models.transformer import FlashVideoTransformer3DModel
from flashvideo.report.kernels.machine import seconds
from flashvideo.runs.attention import attention_windows
from tests.meta_device import META, full_transformer

FRAMES = 13
SIDES = (22, 44, 62)  # of the frame, in patches: 6, 25 and 50 thousand tokens
SIZES = {"1080p": (1072, 1920), "1440p": (1440, 2560), "4K": (2144, 3840)}
PATTERNS = ("full", "auto", "windows", "640x368+4", "640x368+8", "480x272")
TEXT = 226


def operations(windows: AttentionWindows | None, height: int, width: int, layers: int = 2) -> float:
    """Of one evaluation of the published Stage II, 49 frames: counted in two layers, an even and an odd one."""
    model = full_transformer("stage2")
    x = torch.empty(1, 16, FRAMES, height // 8, width // 8, device=META, dtype=torch.bfloat16)
    text = torch.empty(1, TEXT, 4096, device=META, dtype=torch.bfloat16)
    whole, model.layers = model.layers, model.layers[:layers]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            model(x, torch.zeros(1, device=META), text, noise_step=675.0, attention_windows=windows)
    finally:
        model.layers = whole
    return counted.get_total_flops() * len(whole) / layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", default="256x256+8")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)

    print("operations of an evaluation, in PFLOP (full attention: times as many)")
    print("        " + "".join(f"{pattern:>22}" for pattern in PATTERNS))
    for name, size in SIZES.items():
        counts = [operations(attention_windows(pattern, *size), *size) for pattern in PATTERNS]
        print(f"{name:8}" + "".join(f"{count / 1e15:14.2f} ({counts[0] / count:4.1f})" for count in counts))

    torch.manual_seed(0)
    shape = {"num_layers": options.layers, "num_attention_heads": options.heads, "text_embed_dim": 512}
    model = FlashVideoTransformer3DModel(**shape).to(device, dtype).eval()
    print(
        f"\nwidth {64 * options.heads}, {options.layers} layers, {options.dtype}, {torch.get_num_threads()} threads, "
    )
    print(f"windows {options.window}\ntokens    full s  windows s  ratio")
    taken: list[tuple[int, float]] = []
    for side in SIDES:
        windows = attention_windows(options.window, 16 * side, 16 * side)
        x = torch.randn(1, 16, FRAMES, 2 * side, 2 * side, device=device, dtype=dtype)
        text, t = torch.randn(1, TEXT, 512, device=device, dtype=dtype), torch.tensor([500.0], device=device)
        prepared = model.prepare(text, x.shape)

        def run(windows: AttentionWindows | None, x=x, t=t, prepared=prepared) -> object:
            return model(x, t, None, prepared=prepared, inplace=True, attention_windows=windows)

        with torch.no_grad():
            pairs = [
                (seconds(lambda: run(None), device), seconds(lambda windows=windows: run(windows), device))
                for _ in range(options.rounds)
            ]
        slow, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
        tokens = TEXT + FRAMES * side * side
        taken.append((tokens, fast))
        print(f"{tokens:6d}  {slow:8.2f}  {fast:9.2f}  {statistics.median(b / a for a, b in pairs):.3f}", flush=True)
    (fewest, least), (most, longest) = taken[0], taken[-1]
    print(f"exponent of time in tokens, in windows: {math.log(longest / least) / math.log(most / fewest):.2f}")


if __name__ == "__main__":
    main()
