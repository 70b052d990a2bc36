"""Every API workflow that comes with the pack, made small, queued over HTTP."""

from __future__ import annotations

import pytest

from tests.comfy.server import ComfyServer
from tests.ui.models import add_tiny_models
from tests.ui.small import made_small, workflows


@pytest.fixture(scope="module")
def with_models(server: ComfyServer) -> ComfyServer:
    add_tiny_models(server)
    return server


@pytest.mark.parametrize("name", workflows())
def test_a_workflow_runs_to_a_file(with_models: ComfyServer, name: str) -> None:
    run = with_models.run(made_small(name, approve="always"))
    assert not run.error, run.message
    saved = [item for ui in run.outputs.values() for item in ui.get("images", []) if item["type"] == "output"]
    assert saved
    for item in saved:
        assert (with_models.base / "output" / item["subfolder"] / item["filename"]).stat().st_size > 1000
