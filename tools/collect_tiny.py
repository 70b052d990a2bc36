"""Puts what the runs of ``configs/tiny`` made into ``flashvideo/assets/tiny``: weights, configurations, losses.

python -m tools.collect_tiny runs/tiny
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "flashvideo" / "assets" / "tiny"
RUNS = (
    *("vae", "vae_finish", "vae_decoder", "vae_textures", "vae_last", "vae_white", "vae_end"),
    *("stage1", "stage1_finish", "stage1_last", "stage2"),
)
MODELS = {  # in the target: in the runs' folder
    "vae.safetensors": "vae_end/vae.safetensors",
    "stage1.safetensors": "stage1_last/stage1.safetensors",
    "stage2.safetensors": "stage2/stage2.safetensors",
    "text": "stage1/text",
}
_RECORDS = {"toml": "config.toml", "jsonl": "log.jsonl"}  # of every run: what it was asked to do, and its losses
_MOST_MEGABYTES = 20


def collect(runs: Path, target: Path = TARGET) -> None:
    """Replace the models in ``target`` and the logs in ``target/training``; ``README.md`` and ``settings.json`` stay.

    Raises:
        SystemExit: something is missing, or the whole is too large for the repository.
    """
    logs = {f"{name}.{kind}": runs / name / file for name in RUNS for kind, file in _RECORDS.items()}
    missing = [
        str(path) for path in (*(runs / place for place in MODELS.values()), *logs.values()) if not path.exists()
    ]
    if missing:
        raise SystemExit(f"There is no {', '.join(missing)}. Run the trainings of docs/training.md first.")
    for name, place in MODELS.items():
        source, copy = runs / place, target / name
        if source.is_dir():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(source, copy)
        else:
            shutil.copyfile(source, copy)
    shutil.rmtree(target / "training", ignore_errors=True)
    (target / "training").mkdir(parents=True)
    for name, path in logs.items():
        shutil.copyfile(path, target / "training" / name)
    megabytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / 1e6
    sys.stdout.write(f"{target}: {megabytes:.1f} MB\n")
    if megabytes > _MOST_MEGABYTES:
        raise SystemExit(f"That is more than {_MOST_MEGABYTES} MB.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    collect(Path(sys.argv[1]))
