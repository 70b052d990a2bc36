"""Write ``docs/tiny.png``: both stages of FlashVideo-Tiny on the report's first captions of one to three shapes.

Run from the repository root: ``python -m tools.make_tiny_picture``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from flashvideo.loading.model_store import BUNDLED, ModelStore, find_models
from flashvideo.report import Bench, LoadedModels, ReportSettings
from flashvideo.report.bench import MIXED, captions_of
from flashvideo.report.fidelity import two_stages

DOCS = Path(__file__).resolve().parents[1] / "docs"
_CLIPS = 4
_FRAMES = (0, 8, 16)


def main() -> None:
    """Row by row a clip: first, middle and last frame of Stage I, then of Stage II."""
    models = LoadedModels(ModelStore(find_models(BUNDLED, {}, ("stage1", "stage2", "vae", "text"))))
    bench = Bench(models, ReportSettings(), DOCS)
    scenes = bench.scenes(MIXED, _CLIPS)
    frames = []
    for low, high in zip(*two_stages(bench, scenes), strict=True):
        small = torch.nn.functional.interpolate(low.transpose(0, 1), high.shape[2:], mode="nearest").transpose(0, 1)
        frames += [clip[:, frame] for clip in (small, high) for frame in _FRAMES]
    bench.sheet("tiny.png", "", frames, 2 * len(_FRAMES))
    sys.stdout.write("\n".join(captions_of(scenes)) + "\n")


if __name__ == "__main__":
    main()
