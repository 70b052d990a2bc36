"""What tests of options look at: the parser's own list, and the models that a command asks for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flashvideo.cli import build_parser, options
from flashvideo.loading.model_store import ModelStore
from tests.unit.conftest import StoppedError

FILES = {"stage1": "stage1.pt", "stage2": "stage2.pt", "vae": "3d-vae.pt", "text": "text"}
PROMPT = "a red ball rolls"


def options_of(command: str) -> list[str]:
    """All options of a command but ``--help``, by their long names."""
    (commands,) = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    names = {action.option_strings[-1] for action in commands[command]._actions if action.option_strings}
    return sorted(names - {"--help"})


def watch_models(patch: pytest.MonkeyPatch, found: dict[str, Any], loads: bool) -> None:
    """Note the device that a command asks for and the arguments of its model store; without ``loads`` stop there."""

    def store(*arguments: Any, **more: Any) -> ModelStore:
        made = ModelStore(*arguments, **more)
        for name in ("dtype", "vae_dtype", "lora", "lora_scale", "offload"):
            found[f"store.{name}"] = getattr(made, name)
        found.update({f"store.paths.{name}": str(path) for name, path in vars(made.paths).items()})
        if not loads:
            raise StoppedError
        return made

    def device(name: str) -> torch.device:
        found["device"] = name
        return torch.device("cpu")

    patch.setattr(options, "ModelStore", store)
    patch.setattr(options, "pick_device", device)


def flat(table: dict[str, Any], place: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= flat(value, f"{place}{name}.") if isinstance(value, dict) else {f"{place}{name}": value}
    return found
