"""Every API workflow that comes with the pack, made small, queued over HTTP."""

from __future__ import annotations

import pytest

from flashvideo.shapes.judge import read_clip
from flashvideo.video.files import read_video
from tests.comfy.server import ComfyServer
from tests.ui.models import add_tiny_models
from tests.ui.small import api_workflow, made_small, workflows


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
        path = with_models.base / "output" / item["subfolder"] / item["filename"]
        assert path.stat().st_size > 1000
        if name.startswith("24-fps"):
            video, fps = read_video(path)
            assert (video.shape[2], fps) == (3 * 8 + 1, 24), "two new frames between each two of nine"


def test_the_tiny_demo_shows_what_its_prompt_says(server: ComfyServer) -> None:
    """As it comes, but for the approval, which is a person's."""
    nodes = api_workflow("tiny-demo")
    (gate,) = [node for node in nodes.values() if node["class_type"] == "FlashVideoPreviewGate"]
    gate["inputs"]["approve"] = "always"
    run = server.run(nodes)
    assert not run.error, run.message
    (saved,) = [item for ui in run.outputs.values() for item in ui.get("images", []) if item["type"] == "output"]
    video, _ = read_video(server.base / "output" / saved["subfolder"] / saved["filename"])
    reading = read_clip(video[0])
    (star,) = reading.shapes
    assert (reading.background, star.colour, star.form) == ("sea", "red", "star")
    assert (star.size, star.texture, star.motion) == ("large", "striped", "left")
