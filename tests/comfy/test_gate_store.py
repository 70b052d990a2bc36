"""The gate's store on its own: what it looks at, and what it does on disks that are full, closed or in use."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.conftest import ODD_NAME
from tests.unit.windows import windows_rule

ROOT = Path(__file__).parents[2]
A, B = "a" * 32, "b" * 32


@pytest.fixture(scope="module")
def module() -> Any:
    """The store's module, without the nodes around it."""
    for name in ("pack", "pack.nodes", "pack.nodes.gate", "pack.nodes.kept"):
        package = ModuleType(name)
        package.__path__ = [str(ROOT.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    yield importlib.import_module("pack.nodes.gate.store")
    for name in [name for name in sys.modules if name.split(".")[0] == "pack"]:
        del sys.modules[name]


@pytest.fixture
def store(module: Any, tmp_path: Path) -> Any:
    return module.GateStore(module.KeptStore(tmp_path / ODD_NAME))


def latent(value: float = 1.0) -> dict[str, Any]:
    return {"samples": torch.full((1, 16, 1, 4, 4), value), "flashvideo_frames": 1}


def settle(root: Path) -> None:
    """Let all folders have changed long ago."""
    for folder in root.iterdir():
        os.utime(folder, (1, 1))


def test_what_did_not_change_is_not_looked_at_again(store: Any, monkeypatch: Any) -> None:
    looked: list[str] = []
    kept, module = store.kept, sys.modules["pack.nodes.kept.store"]
    size = module._size
    monkeypatch.setattr(module, "_size", lambda folder: looked.append(folder.name) or size(folder))
    for signature in (A, B):
        store.add(signature, [latent()])
    settle(kept.root)
    before = kept.size()
    assert before == sum(file.stat().st_size for file in kept.root.rglob("*") if file.is_file())
    looked.clear()
    assert [kept.size() for _ in range(10)] == [before] * 10
    assert looked == []
    store.add(A, [latent(2.0)])
    looked.clear()
    assert kept.size() == sum(file.stat().st_size for file in kept.root.rglob("*") if file.is_file())
    assert looked == [A]
    kept.empty()
    assert kept.size() == 0


def test_a_full_disk_is_told_and_leaves_what_was_there(store: Any, monkeypatch: Any) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.add(A, [latent()])
    before = {path.name: path.read_bytes() for path in store.kept.root.rglob("*") if path.is_file()}
    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: store.add(A, [latent(2.0)]), lambda: setattr(store.kept, "limit", 7)):
        with pytest.raises(OSError, match=r"writing .* failed: No space left on device.*Free some space"):
            write()
    assert {path.name: path.read_bytes() for path in store.kept.root.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_rests_on_replacing_what_is_open(store: Any, monkeypatch: Any) -> None:
    """As on Windows, where the server has a video open while the editor plays it, and caches hold chosen samples."""
    with windows_rule(monkeypatch, sys.modules["pack.flashvideo.checkpoints.locks"]) as broken:
        batch = store.add(A, [latent()])
        chosen = store.latent(A, batch.hashes[0])
        played = store.preview(A, batch.hashes[0], B)
        played.write_bytes(b"video")
        with played.open("rb"):
            store.write(batch)
            assert broken.pop().startswith(f"os.remove of {played}")
            assert played.exists()
            store.kept.empty()
            assert broken
            assert all(str(played) in rule for rule in broken)
        broken.clear()
        store.add(A, [latent()])
        store.write(batch)
        assert broken == []
        assert not played.exists()
        assert torch.equal(store.latent(A, batch.hashes[0])["samples"], chosen["samples"])
        store.kept.limit = 1
        store.kept.empty()
        assert broken == []
        assert store.kept.size() == 0


def test_what_is_in_use_stays_and_what_is_finished_goes_first(store: Any) -> None:
    kept, (finished, old, new) = store.kept, ("f" * 32, A, B)
    for age, name in enumerate((old, finished, new)):
        with kept.using(name, "{}") as folder:
            (folder / "latents").mkdir()
            (folder / "latents" / "00000").write_bytes(bytes(700 << 10))
        os.utime(folder / "entry.json", (age, age))
    kept.finish(finished)
    with kept.using(old, "{}"):
        with kept.using(old, "{}") as again:
            assert again is None, "by one at a time"
        kept.limit = 2
        assert {folder.name for folder in kept.root.iterdir() if folder.is_dir()} == {old, new}
        os.utime(kept.folder(old) / "entry.json", (0, 0))
        kept.limit = 1
        assert kept.folder(old).exists()
        assert not kept.folder(new).exists()
        kept.empty()
        assert kept.folder(old).exists()
    assert kept.empty() > 700 << 10
    assert kept.size() == 0


def test_a_use_that_cannot_be_noted_costs_nothing(store: Any, monkeypatch: Any) -> None:
    def closed(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    store.add(A, [latent()])
    monkeypatch.setattr(os, "utime", closed)
    store.kept.touch(A)
    assert store.batch(A) is not None
