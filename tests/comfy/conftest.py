"""One ComfyUI server for all tests of the nodes; without a ComfyUI they are skipped, and one line says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tests.comfy.golden_models import add_golden_models
from tests.comfy.server import ComfyServer, Graph, Run, find_comfyui
from tests.conftest import skipped_for

HERE = Path(__file__).parent
_COMFYUI = find_comfyui()
_REASON = "no ComfyUI was found; set COMFYUI_PATH to its folder"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _COMFYUI is not None:
        return
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.skip(reason=_REASON))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if skipped := skipped_for(terminalreporter, _REASON):
        terminalreporter.write_line(f"tests/comfy: {skipped} tests skipped, {_REASON}.")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running ComfyUI with the pack, the probe nodes and nothing else."""
    assert _COMFYUI is not None
    server = ComfyServer(_COMFYUI, tmp_path_factory.mktemp("comfyui"), [HERE / "probe_nodes"])
    add_golden_models(server)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the server
    try:
        yield server.start()
    finally:
        server.stop()
        torch.set_num_threads(threads)


class Bench:
    """A graph with files for tensors: what most tests need."""

    def __init__(self, server: ComfyServer, folder: Path) -> None:
        self.server, self.folder, self.graph = server, folder, Graph()
        self.files: dict[str, Path] = {}

    def add(self, kind: str, **inputs: Any) -> list[Any]:
        """A node, its other widgets at their defaults; gives the link to its first output."""
        return [self.graph.add(kind, **{**self.server.defaults(kind), **inputs}), 0]

    def tensor(self, kind: str, tensor: Tensor, **inputs: Any) -> list[Any]:
        """A probe node (ProbeLatent, ProbeConditioning, ProbeNoise, ProbeStage1Solver) with a tensor."""
        path = self.folder / f"in{len(self.files)}.safetensors"
        self.files[f"in{len(self.files)}"] = path
        save_file({"it": tensor.contiguous()}, path)
        return self.add(kind, path=str(path), name="it", **inputs)

    def latent(self, tensor: Tensor, **extra: Any) -> list[Any]:
        return self.tensor("ProbeLatent", tensor, extra=json.dumps(extra))

    def save(self, link: list[Any], kind: str = "ProbeSaveLatent", socket: str = "latent") -> Path:
        path = self.folder / f"out{len(self.files)}.safetensors"
        self.files[f"out{len(self.files)}"] = path
        self.add(kind, **{socket: link}, path=str(path))
        return path

    def run(self, **more: Any) -> Run:
        """Run, expecting success."""
        run = self.server.run(self.graph, **more)
        assert not run.error, run.message
        return run

    def fails(self) -> str:
        """Run, expecting an error; gives its message."""
        run = self.server.run(self.graph)
        assert run.error, "the workflow ran, an error was expected"
        return run.message


def saved(path: Path, name: str = "samples") -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def saved_keys(path: Path) -> dict[str, str]:
    """A saved LATENT's other keys."""
    with safe_open(path, framework="pt") as file:
        return dict(json.loads(file.metadata()["others"]))


@pytest.fixture
def bench(server: ComfyServer, tmp_path: Path) -> Bench:
    return Bench(server, tmp_path)


@pytest.fixture
def latents() -> Any:
    """Random latents of a seed."""

    def make(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(*(shape or (1, 16, 3, 4, 6)), generator=torch.Generator().manual_seed(seed))

    return make
