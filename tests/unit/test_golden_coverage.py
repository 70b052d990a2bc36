"""Runs last (`conftest.py` sees to it): no golden tensor goes unused."""

from __future__ import annotations

import pytest

from tests.conftest import GOLDEN

GOLDEN_TESTS = {f"{room}/test_golden.py" for room in ("method", "models", "runs", "vae")} | {"loading/test_text.py"}


def test_every_golden_tensor_was_used(request, golden):
    ran = {"/".join(item.path.parts[-2:]) for item in request.session.items}
    if missing := GOLDEN_TESTS - ran:
        pytest.skip(f"says something about whole runs only (without {', '.join(sorted(missing))} it cannot)")
    unused = [
        f"{path.stem}/{name}"
        for path in sorted(GOLDEN.glob("*.safetensors"))
        for name in golden(path.stem).names
        if f"{path.stem}/{name}" not in golden.used
    ]
    assert not unused, f"{len(unused)} golden tensors are compared with nothing: {unused[:20]}"


def test_golden_data_stays_small():
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) <= 15e6
