"""Pickled checkpoints with classes that nobody knows here: read, and nothing of them is called."""

from __future__ import annotations

import argparse
import builtins
import importlib
import logging
import pickle

import pytest
import torch

from flashvideo import (
    load_stage1,
    load_stage2,
)
from tests.conftest import TINY


class Payload:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [logging.FileHandler, builtins.open])
def test_unknown_callables_are_not_called(tmp_path, function):
    mark = tmp_path / "executed"
    tree = torch.load(TINY / "stage2.pt", weights_only=True)
    tree["log"] = Payload(function, str(mark), "w")
    pickle.loads(pickle.dumps(tree["log"])).close()
    assert mark.exists()
    mark.unlink()
    torch.save(tree, tmp_path / "stage2.pt")
    load_stage2(tmp_path / "stage2.pt")
    assert not mark.exists()


def test_honest_pickle_with_unknown_classes_loads(tmp_path, monkeypatch):
    module = importlib.import_module("types").ModuleType("megatron_like")
    module.Config = type("Config", (dict,), {"__module__": "megatron_like"})
    module.Flags = type("Flags", (set,), {"__module__": "megatron_like"})
    monkeypatch.setitem(__import__("sys").modules, "megatron_like", module)
    tree = torch.load(TINY / "stage1.pt", weights_only=True)
    tree["args"] = argparse.Namespace(lr=1e-4, nested=module.Config(a=[1, 2]), flags=module.Flags("ab"))
    tree["rng"] = (torch.get_rng_state(), torch.float16, torch.Size((2, 3)))
    torch.save(tree, tmp_path / "stage1.pt")
    monkeypatch.delitem(__import__("sys").modules, "megatron_like")
    ours, theirs = (load_stage1(path).state_dict() for path in (tmp_path / "stage1.pt", TINY / "stage1.pt"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    from flashvideo.checkpoints.pickles import InertPlaceholder, PickledFile

    args = PickledFile(tmp_path / "stage1.pt").tree["args"]
    assert isinstance(args, InertPlaceholder)
    assert type(args).__module__ == "placeholder.argparse"
