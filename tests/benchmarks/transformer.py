"""One evaluation of our transformer against diffusers' class with the same weights, shape and dtype.

Prints ratios from one process, the two taking turns; nothing is asserted.

    python -m tests.benchmarks.transformer [--layers 4] [--heads 12] [--dtype float32] [--rounds 5] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile

import torch
from diffusers import CogVideoXTransformer3DModel

from flashvideo import load_stage1
from flashvideo.models.rope import rotary_table
from flashvideo.report.kernels.machine import peak_bytes, seconds

BASE = (5, 32, 32)  # latent frames, height, width: 1280 video tokens


def twins(options: argparse.Namespace) -> tuple[CogVideoXTransformer3DModel, torch.nn.Module]:
    torch.manual_seed(0)
    theirs = CogVideoXTransformer3DModel(
        num_layers=options.layers,
        num_attention_heads=options.heads,
        text_embed_dim=512,
        use_rotary_positional_embeddings=True,
    )
    theirs.norm_out.norm.eps = 1e-6
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_stage1(folder)
    dtype = getattr(torch, options.dtype)
    return theirs.to(options.device, dtype).eval(), ours.to(options.device, dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--factors", type=int, nargs="*", default=[1, 2, 4], help="times the tokens")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    theirs, ours = twins(options)
    print(f"width {64 * options.heads}, {options.layers} layers, {options.dtype}, {torch.get_num_threads()} threads")
    print("tokens   diffusers s  ours s  time ratio  diffusers MiB  ours MiB  memory ratio  difference")
    first = None
    for factor in options.factors:
        frames, height, width = BASE[0] * factor, BASE[1], BASE[2]
        x = torch.randn(1, 16, frames, height, width, device=device, dtype=dtype)
        text, t = torch.randn(1, 226, 512, device=device, dtype=dtype), torch.tensor([500.0], device=device)
        cos, sin = rotary_table(frames, height // 2, width // 2, 64, device)
        rotary = (cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1))
        prepared = ours.prepare(text, x.shape)

        def run_theirs(x=x, text=text, t=t, rotary=rotary):
            return theirs(x.transpose(1, 2), text, t, image_rotary_emb=rotary, return_dict=False)[0]

        def run_ours(x=x, t=t, prepared=prepared):
            return ours(x, t, None, prepared=prepared, inplace=True)

        with torch.no_grad():
            a, b = run_theirs().transpose(1, 2).float(), run_ours().float()
            pairs = [(seconds(run_theirs, device), seconds(run_ours, device)) for _ in range(options.rounds)]
            memory = peak_bytes(run_theirs, device), peak_bytes(run_ours, device)
        slow, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(ours_s / theirs_s for theirs_s, ours_s in pairs)
        first = first or fast
        print(
            f"{226 + frames * height * width // 4:6d}  {slow:12.3f}  {fast:6.3f}  {ratio:10.3f}  "
            f"{memory[0] / 2**20:13.1f}  {memory[1] / 2**20:8.1f}  {memory[1] / memory[0]:12.3f}  "
            f"{((a - b).norm() / a.norm()).item():.1e}   (ours: {fast / first:.2f}x the first row)"
        )


if __name__ == "__main__":
    main()
