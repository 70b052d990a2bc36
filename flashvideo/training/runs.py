"""From a configuration file to a run."""

from __future__ import annotations

from pathlib import Path

from .config import from_table, read_toml
from .loop import Run


def encode(path: str | Path) -> None:
    """Encode the datasets of a stage's configuration into their caches; what is there is kept.

    Raises:
        ValueError: as :func:`open_run`, or a configuration without datasets.
    """
    from .stages import StageConfig, encode_datasets

    table = read_toml(path)
    if table.get("kind") not in ("stage1", "stage2"):
        raise ValueError(f"{path}: kind is {table.get('kind')!r}; only 'stage1' and 'stage2' have datasets to encode.")
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
    if kind in ("stage1", "stage2"):
        from .stages import StageConfig, stage_run

        return stage_run(from_table(StageConfig, table, "config"), folder)
    raise ValueError(f"{path}: kind is {kind!r}; expected 'stage1', 'stage2' or 'vae'.")
