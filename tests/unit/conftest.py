"""Fixtures of several files: the command line on the bundled tiny model at the smallest sizes, its text encoder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from flashvideo.cli import main
from flashvideo.loading.model_store import ModelStore
from flashvideo.loading.text import load_text_encoder
from flashvideo.report import Bench
from flashvideo.runs import chain
from tests.conftest import TINY
from tests.lora_files import lora_file as write_lora
from tests.unit.report.oracle import SETTINGS as REPORT_SETTINGS
from tests.unit.training.small_runs import write_config

SIZES = {"preview-size": "32x32", "size": "64x64", "frames": "5", "preview-steps": "2", "steps": "2"}
SMALL = ["--models", str(TINY), *(f"--{name}={value}" for name, value in SIZES.items())]
PREVIEW_FILES = ["out.preview.mp4", "out.preview.safetensors"]
TINY_TEXT = TINY / "text"
PROMPT = "a tiny red boat on a calm lake"


@dataclass(frozen=True)
class Said:
    """What a command wrote."""

    out: str
    err: str


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whether all golden tensors were used can be told only at the end."""
    items.sort(key=lambda item: item.path.name == "test_golden_coverage.py")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "FLASHVIDEO_MODELS"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def with_one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more, and busy machines lose a lot."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def one_thread():
    return with_one_thread


@pytest.fixture
def run(capsys):
    """``run("inspect", path, code=1)``: a command in this process; its exit code is checked."""

    def command(*arguments: Any, code: int = 0) -> Said:
        capsys.readouterr()
        try:
            with with_one_thread():
                found = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            found = int(leaving.code or 0)
        said = Said(*capsys.readouterr())
        assert found == code, f"exit code {found}, expected {code}: {said.err}"
        return said

    return command


@pytest.fixture
def generate(run):
    """``generate("a prompt", "-o", path)`` with the tiny model at the smallest size."""

    def command(*arguments: Any, code: int = 0) -> Said:
        return run("generate", *SMALL, *arguments, code=code)

    return command


@pytest.fixture
def small() -> list[str]:
    return list(SMALL)


def names_in(folder: Path) -> list[str]:
    """All names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def names_of_models(models: dict[str, str]) -> dict[str, str]:
    """What a record says of its models, without the fingerprints of their weights, which every file has."""
    shown = {name: re.sub(r" \([0-9a-f]{12}\)", "", text) for name, text in models.items()}
    assert all(shown[name] != text for name, text in models.items() if not name.endswith("dtype"))
    return shown


@pytest.fixture
def names():
    return names_in


@pytest.fixture
def small_files():
    """``with small_files(bytes):`` no file grows beyond that: what a full disk does, by the system itself."""
    resource = pytest.importorskip("resource", reason="limits of a process are Unix's")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A folder with everything that one run can write, as ``out.*``."""
    folder = tmp_path_factory.mktemp("made")
    options = [*SMALL, "--seed", "3", "--joint", "--keep-degraded", "--keep-latents"]
    with with_one_thread():
        assert main(["generate", *options, "a red ball rolls", "-o", str(folder / "out.mp4")]) == 0
    return folder


class StoppedError(RuntimeError):
    pass


def stop(error):
    """A function that only raises."""

    def raising(*_, **__):
        raise error

    return raising


@pytest.fixture
def count(monkeypatch):
    """``count("sample_stage1")``: a list that grows with each call of a function of the chain."""

    def watch(name):
        calls, function = [], getattr(chain, name)
        monkeypatch.setattr(chain, name, lambda *a, **k: calls.append(name) or function(*a, **k))
        return calls

    return watch


@pytest.fixture
def no_work(monkeypatch):
    """Fails the test if a model is loaded."""

    def loading(_store, name):
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr(ModelStore, "_load", loading)


@pytest.fixture
def lora_file(tmp_path_factory):
    pairs = {"layers.0.attn_out": (torch.randn(4, 128), torch.randn(128, 4))}
    return write_lora(pairs, tmp_path_factory.mktemp("lora") / "lora.safetensors", "diffusers")


@pytest.fixture(scope="session")
def tiny_text():
    return load_text_encoder(TINY_TEXT)


@pytest.fixture
def write(tmp_path):
    """``write(text, **changes)``: the configuration of a small training run."""
    return partial(write_config, tmp_path)


@pytest.fixture
def bench(tmp_path):
    """``bench(models, **changes)``: where the sections of a report are measured."""
    return lambda models, **more: Bench(models, REPORT_SETTINGS, tmp_path / "report", **more)
