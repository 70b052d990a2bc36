"""Shared fixtures: the golden tensors of the authors' code and the tiny models that made them."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # counts when Triton is imported; see flashvideo.tensors.fusing

GOLDEN = Path(__file__).parent / "golden"
TINY = Path(__file__).parent / "weights"
ODD_NAME = "mein Ordner – café 映像 ' & 100%"  # of folders and files that people have


def skipped_for(terminalreporter: Any, reason: str) -> int:
    """How many tests were skipped for a reason, on all workers."""
    return sum(reason in str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))


class GoldenFile:
    """A golden file's tensors by name. Latents are stored ``[B, T, C, H, W]``; :meth:`latents` gives ours."""

    def __init__(self, name: str, used: set[str]) -> None:
        self.name, self._used = name, used
        self._handle = safe_open(GOLDEN / f"{name}.safetensors", framework="pt")
        self.names = list(self._handle.keys())

    def __getitem__(self, name: str) -> Tensor:
        self._used.add(f"{self.name}/{name}")
        return self._handle.get_tensor(name)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def latents(self, name: str) -> Tensor:
        """``[..., T, C, H, W]`` -> ``[..., C, T, H, W]``."""
        return self[name].transpose(-4, -3).contiguous()


class GoldenStore:
    """All golden files; remembers which tensors a test session has read."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    @cache  # noqa: B019 (one store a session)
    def __call__(self, name: str) -> GoldenFile:
        return GoldenFile(name, self.used)

    @cache  # noqa: B019
    def json(self, name: str) -> Any:
        return json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def golden() -> GoldenStore:
    return GoldenStore()


@pytest.fixture(scope="session")
def tiny_stage1() -> Any:
    from flashvideo import load_stage1

    return load_stage1(TINY / "stage1.pt")


@pytest.fixture(scope="session")
def tiny_stage2() -> Any:
    from flashvideo import load_stage2

    return load_stage2(TINY / "stage2.pt")


@pytest.fixture(scope="session")
def tiny_vae() -> Any:
    from flashvideo import load_vae

    return load_vae(TINY / "3d-vae.pt")


def assert_within(actual: Tensor, expected: Tensor, limit: float) -> None:
    """Largest absolute difference at most ``limit``; shapes equal."""
    assert actual.shape == expected.shape, f"{list(actual.shape)} is not {list(expected.shape)}"
    error = (actual.double() - expected.double()).abs().max().item()
    assert error <= limit, f"largest error {error:.3g}, limit {limit:.3g}"


@pytest.fixture(scope="session")
def within() -> Any:
    return assert_within


@pytest.fixture
def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
