"""Compare of VIDEOs: of other sizes, lengths and rates, beside each other and beside images."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from flashvideo.video.resize import side_by_side
from tests.comfy.conftest import Bench, saved
from tests.comfy.server import ComfyServer, Run
from tests.comfy.test_vae_nodes import a_video, image_of
from tests.comfy.test_video_nodes import expected_images, facts, file_frames, lazy, trim
from tests.unit.video.odd_videos import HEIGHT, RATE, WIDTH, grey, make

STRETCHED = "it is held against the video as if stretched."
LOSSLESS = {"crf": "0", "preset": "ultrafast"}


def put(bench: Bench, name: str, count: int, **more: Any) -> Any:
    """A file whose pictures tell their numbers, in the server's input folder."""
    make(bench.server.base / "input" / name, [grey(number) for number in range(count)], options=LOSSLESS, **more)
    return bench.add("LoadVideo", file=name)


def compared(bench: Bench, **sockets: Any) -> tuple[dict[str, Any], Run, Path]:
    """What the node shows, the run, the frames of ``joint``."""
    node, out = bench.add("FlashVideoCompare", **sockets), bench.folder / "joint.safetensors"
    bench.add("ProbeVideo", video=node, path=str(out))
    run = bench.run()
    (shown,) = run.outputs[node[0]]["flashvideo_compare"]
    return shown, run, out


def numbers(frames: Any) -> list[int]:
    """Of the pictures ``[F, H, W, 3]`` in 0..255."""
    return [round((float(frame.float().mean()) - 16) / 8) for frame in frames]


def shown_numbers(bench: Bench, shown: dict[str, Any], side: str) -> list[int]:
    return numbers(file_frames(bench.server.base / "temp" / shown[side]["subfolder"] / shown[side]["filename"]))


def told(run: Run) -> str:
    return " ".join(line for output in run.outputs.values() for line in (output or {}).get("flashvideo_told", []))


def test_other_rates_and_lengths_are_brought_together_by_time(bench: Bench) -> None:
    slow = put(bench, "slow.mp4", 4, times=[0, 3, 6, 9], tick=Fraction(1, RATE))
    fast = put(bench, "fast.mp4", 9)
    shown, run, out = compared(bench, before=slow, after=fast)
    assert (shown["kind"], shown["frames"], shown["fps"]) == ("video", 9, RATE)
    assert shown_numbers(bench, shown, "after") == list(range(9))
    assert shown_numbers(bench, shown, "before") == [number // 3 for number in range(9)]
    joint = saved(out, "images") * 255
    assert joint.shape == (9, HEIGHT, 2 * WIDTH, 3)
    assert numbers(joint[:, :, :WIDTH]) == [number // 3 for number in range(9)]
    assert numbers(joint[:, :, WIDTH:]) == list(range(9))
    assert facts(run)["rate"] == str(RATE)
    assert "before goes on after 0.90 s, where after ends" in told(run)


def test_what_is_longer_ends_with_the_other_in_words(bench: Bench) -> None:
    shown, run, _ = compared(bench, before=put(bench, "short.mp4", 4), after=put(bench, "long.mp4", 9))
    assert shown["frames"] == 4
    assert "before ends earlier: the first 4 frames of after count" in told(run)


def test_other_sizes(bench: Bench) -> None:
    """Odd sides lose a row; the joint has both at the height of the right one."""
    images = bench.tensor("ProbeImage", torch.rand(5, 31, 47, 3))
    video = bench.add("CreateVideo", images=images, fps=float(RATE))
    shown, run, out = compared(bench, before=video, after=put(bench, "wide.mp4", 5))
    assert (shown["width"], shown["height"], shown["frames"]) == (WIDTH, HEIGHT, 5)
    assert saved(out, "images").shape == (5, HEIGHT, WIDTH + 2 * round(46 * HEIGHT / 30 / 2), 3)
    assert told(run) == f"before is 47x31, of another shape than {WIDTH}x{HEIGHT}: " + STRETCHED


@pytest.mark.parametrize("first", ["before", "after"])
def test_images_beside_a_video(bench: Bench, first: str) -> None:
    images = bench.tensor("ProbeImage", torch.stack([torch.from_numpy(grey(n)) for n in range(9)]).float() / 255)
    video, other = put(bench, "beside.mp4", 5), "after" if first == "before" else "before"
    shown, _, _ = compared(bench, **{first: video, other: images, "fps": 2.0 * RATE})
    wanted = {first: [0, 1, 2, 3, 4], other: [0, 2, 4, 6, 8]}
    if other == "after":
        wanted = {first: [n // 2 for n in range(9)], other: list(range(9))}
    assert {side: shown_numbers(bench, shown, side) for side in wanted} == wanted
    assert shown["fps"] == (RATE if first == "after" else 2 * RATE)


def test_a_trimmed_video_in_its_part_and_a_lazy_one(bench: Bench, latents: Any) -> None:
    cut = trim(bench, put(bench, "cut.mp4", 12), 0.3, 0.5)
    shown, _, _ = compared(bench, before=cut, after=cut)
    assert shown_numbers(bench, shown, "after") == shown_numbers(bench, shown, "before") == [3, 4, 5, 6, 7]
    given, again = latents(1, 16, 2, 4, 6), Bench(bench.server, bench.folder)
    video = lazy(again, given)
    shown, _, out = compared(again, before=video, after=video)
    frames = expected_images(given)
    assert (shown["frames"], shown["fps"]) == (5, 8)
    assert float((saved(out, "images") - torch.cat((frames, frames), 2)).abs().max()) < 1 / 255


def test_single_pictures_of_videos(bench: Bench) -> None:
    video = put(bench, "one.mp4", 1)
    shown, _, _ = compared(bench, before=video, after=video)
    assert shown["kind"] == "image"
    assert shown["before"]["filename"].endswith(".png")


def test_two_images_are_exact_as_ever(bench: Bench) -> None:
    small, large = a_video(3, 24, 32), a_video(3, 48, 64, seed=1)
    sides = {"before": small, "after": large}
    sockets = {side: bench.tensor("ProbeImage", image_of(video)) for side, video in sides.items()}
    _, _, out = compared(bench, **sockets)
    assert float((saved(out, "images") - image_of(side_by_side(small, large))).abs().max()) < 1e-5


def test_damaged_files_are_named(bench: Bench) -> None:
    whole = put(bench, "whole.mp4", 9)
    path = bench.server.base / "input" / "whole.mp4"
    path.with_name("torn.mp4").write_bytes(path.read_bytes()[:-300])
    bench.add("FlashVideoCompare", before=whole, after=bench.add("LoadVideo", file="torn.mp4"))
    assert "torn.mp4" in bench.fails()


def test_the_socket_takes_what_it_took(server: ComfyServer) -> None:
    """Saved workflows know sockets by their places and links by their types."""
    inputs = server.get("/object_info/FlashVideoCompare")["FlashVideoCompare"]["input"]["required"]
    assert list(inputs) == ["before", "after", "fps"]
    assert [inputs[name][0] for name in ("before", "after")] == ["IMAGE,VIDEO"] * 2
