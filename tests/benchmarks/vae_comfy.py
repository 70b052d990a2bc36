"""ComfyUI's own CogVideoX decodes beside ours on the same module. Run by `vae.py` under ComfyUI's interpreter.

Arguments: ComfyUI's folder, a file with weights and latents, rounds. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def main() -> None:
    comfy_folder, given, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    sys.path[:0] = [comfy_folder, str(Path(__file__).resolve().parents[2])]
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.utils
    from comfy.ldm.cogvideo.vae import AutoencoderKLCogVideoX

    from flashvideo.checkpoints.vae_layout import infer_vae_config
    from flashvideo.vae.codec import decode_latents, decode_stream
    from flashvideo.vae.limits import Limits, Tile
    from tests.live_bytes import live_bytes

    data = torch.load(given, weights_only=True)
    state, latents = data["state"], data["latents"]
    config = infer_vae_config({name: tuple(tensor.shape) for name, tensor in state.items()})
    vae = AutoencoderKLCogVideoX(**{key: config[key] for key in ("block_out_channels", "layers_per_block")})
    vae.load_state_dict(state)
    vae.eval()
    count, height, width = latents.shape[2:]
    half = (-(-height // 2), -(-width // 2))

    def tiled() -> Tensor:
        video = comfy.utils.tiled_scale_multidim(
            latents,
            vae.decode,
            tile=(count, *half),
            overlap=(1, max(1, half[0] // 4), max(1, half[1] // 4)),
            upscale_amount=(lambda frames: max(0, frames * 4 - 3), 8, 8),
            out_channels=3,
            index_formulas=(4, 8, 8),
        )
        return (video / 2 + 0.5).clamp(0, 1)

    runs: dict[str, Callable[[], Tensor]] = {
        "ours untiled": lambda: decode_latents(vae, latents, tile=False),
        "ours quarter tiles": lambda: decode_latents(vae, latents, tile=half),
        "native decode": lambda: (vae.decode(latents) / 2 + 0.5).clamp(0, 1),
        "native decode_tiled": tiled,
    }

    def drained(tile: Tile) -> None:
        for frames in decode_stream(vae, latents, Limits(tile)):
            del frames

    counted: dict[str, Callable[[], object]] = dict(runs)
    counted["ours untiled"] = lambda: drained(False)
    counted["ours quarter tiles"] = lambda: drained(half)
    found: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        results: dict[str, Tensor] = {}
        for _ in range(rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                results[name] = run()
                seconds = time.perf_counter() - start
                found[name] = {"seconds": min(seconds, found.get(name, {}).get("seconds", seconds))}
        expected = results["ours untiled"]
        for name, call in counted.items():
            with live_bytes() as memory:
                call()
            found[name]["mb"], found[name]["stored"] = memory.peak["computing"] / 1e6, memory.peak["stored"] / 1e6
            found[name]["error"] = ((results[name] - expected).norm() / expected.norm()).item()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
