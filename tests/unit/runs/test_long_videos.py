"""Frames that come in parts: each finds the preview's frame that it belongs to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from flashvideo import decode_latents, match_colors
from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.runs import chain
from flashvideo.runs.jobs import Outputs, Wanted
from flashvideo.runs.runner import Runner
from flashvideo.runs.settings import Stage2Settings
from flashvideo.video.files import read_video
from tests.conftest import TINY

FRAMES = 17  # of 5 latent frames, which are decoded as 3 and 2


@pytest.fixture
def preview():
    """Every frame is brighter than the one before."""
    return torch.linspace(0.1, 0.9, FRAMES).view(1, 1, -1, 1, 1).expand(1, 3, FRAMES, 16, 16)


def test_colours_are_those_of_the_same_frame(preview, tiny_vae, seeded):
    models = ModelStore(find_models(str(TINY), {}, ("vae",)))
    latents = torch.randn(1, 16, 5, 4, 4, generator=seeded)
    parts = list(chain.decode_frames(models, latents, preview=preview, settings=Stage2Settings(match_colors=1.0)))
    assert [part.shape[2] for part in parts] == [9, 8]
    torch.testing.assert_close(torch.cat(parts, dim=2), match_colors(decode_latents(tiny_vae, latents), preview))


@pytest.fixture
def joint(preview, monkeypatch, tmp_path):
    """A preview beside a black video that was decoded in two parts."""
    black = torch.zeros(1, 3, FRAMES, 32, 32)
    monkeypatch.setattr(chain, "record_frames", lambda *_, **__: iter([black[:, :, :9], black[:, :, 9:]]))
    record = SimpleNamespace(fps=8, prompt="a ball", description=dict)
    outputs = Outputs(tmp_path / "out.mp4")
    Runner(SimpleNamespace(), Wanted(joint=True)).decode(record, outputs, preview=preview)
    return outputs.joint


def test_the_preview_runs_beside_the_video(joint, preview):
    video, _ = read_video(joint)
    left, right = video[..., 4:28], video[..., -28:-4]
    assert video.shape[2] == FRAMES
    torch.testing.assert_close(left.mean(dim=(1, 3, 4)), preview.mean(dim=(1, 3, 4)), atol=0.03, rtol=0)
    assert right.max() < 0.05


def test_the_comparison_is_compressed_as_the_authors_do(joint):
    assert b"crf=15.0" in joint.read_bytes()  # x264 writes its settings into the stream
    assert b"crf=5.0" in joint.with_name("out.mp4").read_bytes()
