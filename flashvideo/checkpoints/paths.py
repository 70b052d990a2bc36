"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` and ``~name`` as the home folders that they stand for.

    Raises:
        ValueError: the home folder of a user whom this system does not know.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        first = Path(path).parts[0]
        raise ValueError(
            f"{path} begins with {first}, and this system knows no such home folder. Write the folder's whole path, or "
            f"./{path} for a folder of that name here."
        ) from error
