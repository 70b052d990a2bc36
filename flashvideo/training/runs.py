"""From a configuration file to a run."""

from __future__ import annotations

from pathlib import Path

from .config import from_table, read_toml
from .loop import Run

STAGE_KINDS = ("stage1", "stage2", "stage2_student")


def encode(path: str | Path) -> None:
    """Encode the datasets of a stage's configuration into their caches; what is there is kept.

    Raises:
        ValueError: as :func:`open_run`, or a configuration without datasets.
    """
    from .stages import StageConfig, encode_datasets

    table = read_toml(path)
    if table.get("kind") not in STAGE_KINDS:
        raise ValueError(
            f"{path}: kind is {table.get('kind')!r}; only {', '.join(map(repr, STAGE_KINDS))} have datasets to encode."
        )
    encode_datasets(from_table(StageConfig, table, "config"))


def open_run(path: str | Path, folder: Path) -> Run:
    """The run that a TOML file describes; ``kind`` says of what.

    Raises:
        ValueError: a file that is not valid, settings that cannot run, or models that cannot be loaded.
    """
    table = read_toml(path)
    kind = table.get("kind")
    if kind == "vae":
        from .vae import VaeConfig, vae_run

        return vae_run(from_table(VaeConfig, table, "config"), folder)
    if kind in STAGE_KINDS:
        from .stages import StageConfig, stage_run

        return stage_run(from_table(StageConfig, table, "config"), folder)
    raise ValueError(f"{path}: kind is {kind!r}; expected {', '.join(map(repr, STAGE_KINDS))} or 'vae'.")
