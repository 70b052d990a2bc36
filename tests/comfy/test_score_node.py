"""Score Video: what the library tells, of VIDEOs of every kind, on the node and behind its outputs."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flashvideo import score_video
from flashvideo.scores.shown import Footage, Part, given
from tests.comfy.conftest import Bench, saved
from tests.comfy.server import Run
from tests.comfy.test_vae_nodes import image_of
from tests.comfy.test_video_nodes import expected_images, lazy, trim
from tests.unit.scores.clips import FPS, moving, write

INDICES = ("sharpness", "likeness", "drift", "flicker", "seam", "pulse")


def put(bench: Bench, name: str, video: Tensor, **more: Any) -> tuple[Any, Path]:
    """A file ``[3, F, H, W]`` in the server's input folder: Load Video with it, and its path."""
    path = write(bench.server.base / "input" / name, video, **more)
    return bench.add("LoadVideo", file=name), path


def blinking(frames: int = 24) -> Tensor:
    """Every fourth frame is brighter: a pulse, and flicker."""
    video = moving(frames) * 0.8
    video[:, ::4] += 0.06
    return video


def scored(bench: Bench, video: Any, **more: Any) -> tuple[dict[str, Any], list[Any], Run]:
    """What comes as JSON of a run, the node, the run."""
    node = bench.add("FlashVideoScoreVideo", video=video, **more)
    text = bench.add("PreviewAny", source=node)
    run = bench.run()
    return json.loads(run.outputs[text[0]]["text"][0]), node, run


def expect(told: dict[str, Any], video: Footage, **more: Footage) -> None:
    """The same as of the library, whatever PyTorch the server has."""
    known = score_video(video, **more).to_dict()
    assert told.keys() == known.keys()
    assert told["video"] == known["video"]
    for name in INDICES:
        close = pytest.approx(known[name], rel=1e-2, abs=1e-3) if known[name] is not None else None
        assert told[name] == close, name
    assert len(told["series"]["seconds"]) == known["video"]["frames"]


def test_a_file_beside_its_source(bench: Bench) -> None:
    (video, path), (source, against) = put(bench, "blinking.mp4", blinking()), put(bench, "still.mp4", moving() * 0.8)
    told, node, run = scored(bench, video, source=source)
    expect(told, path, against=against)
    assert told["details"]["pulse"]["period"] == 4
    (shown,) = run.outputs[node[0]]["flashvideo_score"]
    assert {name: shown[name] for name in INDICES} == {name: told[name] for name in INDICES}
    assert shown["details"] == told["details"]
    picture = bench.server.base / "temp" / shown["plot"]["subfolder"] / shown["plot"]["filename"]
    assert picture.stat().st_size > 1000
    assert len(run.progress[node[0]]) > 1


def test_numbers_and_the_plot_come_out(bench: Bench) -> None:
    video, _ = put(bench, "numbers.mp4", blinking())
    told, node, _ = scored(bench, video, source=video)
    plot = bench.save([node[0], 1], "ProbeSaveImage", "image")
    texts = {name: bench.add("PreviewAny", source=[node[0], 2 + index]) for index, name in enumerate(INDICES)}
    run = bench.run()
    for name, link in texts.items():
        assert float(run.outputs[link[0]]["text"][0]) == pytest.approx(told[name], rel=1e-4)
    image = saved(plot, "image")
    assert image.shape[0] == 1
    assert image.shape[2:] == (960, 3)
    assert float((image.amax(-1) > 0.6).float().mean()) > 0.005, "lines and words"


def test_without_a_source_nothing_behind_likeness_runs(bench: Bench) -> None:
    video, _ = put(bench, "alone.mp4", moving())
    told, node, _ = scored(bench, video)
    assert told["likeness"] is None
    bench.add("PreviewAny", source=[node[0], 2 + INDICES.index("likeness")])
    assert "no likeness without a source" in bench.fails()


def test_a_trimmed_file_counts_in_its_part(bench: Bench) -> None:
    video, path = put(bench, "trimmed.mp4", torch.cat((moving(12) * 0.3, moving(24), moving(12) * 0.3), 1))
    told, _, run = scored(bench, trim(bench, video, 12 / FPS, 24 / FPS))
    expect(told, Part(path, Fraction(1), Fraction(3)))
    assert told["video"]["frames"] == 24
    assert told["sharpness"] == pytest.approx(score_video(write(path, moving(24))).detail.sharpness, rel=1e-2)
    assert all(done <= total == 24 for steps in run.progress.values() for done, total in steps)


def test_videos_that_no_file_holds(bench: Bench, latents: Any) -> None:
    latent = latents(1, 16, 3, 6, 8)
    told, _, _ = scored(bench, lazy(bench, latent, frames=9))
    frames = expected_images(latent)[:9].movedim(-1, 0)
    assert told["video"] == {"frames": 9, "height": 48, "width": 64}
    assert told["sharpness"] == pytest.approx(score_video(given(frames, 8)).detail.sharpness, rel=2e-2)
    again = Bench(bench.server, bench.folder)
    images = again.tensor("ProbeImage", image_of(blinking()[None]))
    told, _, _ = scored(again, again.add("CreateVideo", images=images, fps=12.0))
    expect(told, given(blinking(), 12))


def test_a_true_video(bench: Bench) -> None:
    (video, path), (reference, true) = put(bench, "made.mp4", blinking()), put(bench, "true.mp4", moving())
    told, _, _ = scored(bench, video, reference=reference)
    expect(told, path, true=true)
    assert 0 < told["ssim"] < 1


def test_what_was_left_out_is_told(bench: Bench) -> None:
    (long, _), (short, _) = put(bench, "long.mp4", moving(24)), put(bench, "short.mp4", moving(12))
    told, node, run = scored(bench, long, source=short)
    assert told["video"]["frames"] == 12
    assert run.outputs[node[0]]["flashvideo_told"] == told["remarks"]
    assert "source ends earlier: the first 12 frames of video count" in told["remarks"][0]


def test_refusals_say_which(bench: Bench) -> None:
    (video, path), (small, _) = put(bench, "large.mp4", moving()), put(bench, "small.mp4", moving(24, 48, 64))
    damaged = path.with_name("cut.mp4")
    damaged.write_bytes(path.read_bytes()[:-3000])
    for sockets, words in (
        ({"video": video, "reference": small}, "reference is 64x48 and video 128x96"),
        ({"video": bench.add("LoadVideo", file="cut.mp4")}, "cut.mp4"),
    ):
        again = Bench(bench.server, bench.folder)
        again.graph.nodes.update(bench.graph.nodes)
        again.add("PreviewAny", source=again.add("FlashVideoScoreVideo", **sockets))
        assert words in again.fails()
