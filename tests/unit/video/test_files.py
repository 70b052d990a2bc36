"""Video files: what is written can be read, is the same every time, and is whole or not there."""

from __future__ import annotations

import re
import wave
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from flashvideo.training.media import BadClipError, Framing, read_clip
from flashvideo.video import files as video_io
from flashvideo.video.files import VideoWriter, check_output, read_metadata, read_video, write_image, write_video

SUFFIXES = (".mp4", ".mov", ".mkv")


def clip(frames: int = 9, height: int = 48, width: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 4, 3, 4, generator=generator)
    smooth = F.interpolate(coarse, size=(frames, height, width), mode="trilinear")
    return (smooth + 0.02 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_with_metadata(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    settings = {"seed": "3", "prompt": 'a "red"; boat = é\n\\x', "settings": '{"steps": 51}'}
    assert write_video(path, clip(), fps=8, metadata=settings) == path
    video, fps = read_video(path)
    assert fps == 8
    assert video.shape == (1, 3, 9, 48, 64)
    assert video.dtype == torch.float32
    assert (video - clip()).abs().mean() * 255 < 4
    assert (video - clip()).mean().abs() * 255 < 0.3
    assert read_metadata(path) == settings
    assert read_video(path, max_frames=2)[0].shape[2] == 2
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "colour", [(1, 0.1, 0.1), (0.2, 0.6, 0.3), (0.1, 0.2, 0.9), (0.5, 0.5, 0.5), (1, 1, 1), (0, 0, 0)]
)
def test_colours_survive(tmp_path, colour):
    import av

    video = torch.tensor(colour, dtype=torch.float32).view(1, 3, 1, 1, 1).expand(1, 3, 2, 32, 32)
    path = write_video(tmp_path / "out.mp4", video)
    assert (read_video(path)[0] - video).abs().max() * 255 <= 2
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        next(container.decode(video=0))
        assert [int(value) for value in (codec.colorspace, codec.color_range, codec.color_primaries)] == [1, 1, 1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_frames_give_the_same_bytes_however_they_are_streamed(tmp_path, suffix):
    video, files = clip(24), set()
    for run, sizes in enumerate(([24], [1, 4, 19], *[[24]] * 10)):
        path = tmp_path / f"{run}{suffix}"
        with VideoWriter(path, metadata={"seed": "1"}) as writer:
            for part in video.split(sizes, dim=2):
                writer.write(part if run % 2 else part[0])
        assert writer.frames_written == 24
        files.add(path.read_bytes())
    assert len(files) == 1


def test_fractional_rates_and_quality(tmp_path):
    fine = write_video(tmp_path / "fine.mp4", clip(), fps=Fraction(24000, 1001))
    assert read_video(fine)[1] == Fraction(24000, 1001)
    coarse = write_video(tmp_path / "coarse.mp4", clip(), crf=40)
    assert coarse.stat().st_size < fine.stat().st_size / 2


def test_values_are_rounded_to_nearest_and_clamped(tmp_path):
    levels = torch.arange(256).float().view(1, 16, 16).expand(3, 16, 16)
    path = write_image(tmp_path / "levels.png", (levels + 0.4) / 255)
    assert torch.equal(read_video(path)[0][0, :, 0] * 255, levels)
    write_image(path, (levels - 0.4) / 255, overwrite=True)
    assert torch.equal((read_video(path)[0][0, :, 0] * 255).round(), levels)
    beyond = write_image(tmp_path / "beyond.png", torch.tensor([-3.0, 0.5, 7.0]).view(3, 1, 1).expand(3, 4, 4))
    assert read_video(beyond)[0][0, :, 0, 0, 0].mul(255).tolist() == [0, 128, 255]


def test_jpeg(tmp_path):
    frame = clip()[0, :, 0]
    path = write_image(tmp_path / "frame.jpg", frame)
    assert (read_video(path)[0][0, :, 0] - frame).abs().mean() * 255 < 5
    with pytest.raises(ValueError, match="--overwrite"):
        write_image(path, frame)
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        write_image(tmp_path / "other.jpg", frame[0])
    with pytest.raises(ValueError, match=r"\.png, \.jpg"):
        write_image(tmp_path / "frame.webp", frame)


class TestNothingHalfWritten:
    @pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, FileNotFoundError])
    @pytest.mark.parametrize("written", [0, 9])
    def test_after_an_exception(self, tmp_path, failure, written):
        (tmp_path / "old.mp4").write_bytes(b"old")
        with pytest.raises(failure, match="stop"), VideoWriter(tmp_path / "old.mp4", overwrite=True) as writer:  # noqa: PT012
            if written:
                writer.write(clip(written))
            raise failure("stop")
        assert [file.name for file in tmp_path.iterdir()] == ["old.mp4"]
        assert (tmp_path / "old.mp4").read_bytes() == b"old"

    @pytest.mark.parametrize("frames", [4, 60])
    def test_when_the_disk_is_full(self, tmp_path, small_files, frames):
        noise = torch.rand(1, 3, frames, 96, 128, generator=torch.Generator().manual_seed(0))
        with small_files(20_000), pytest.raises(OSError, match="half-written") as caught:
            write_video(tmp_path / "out.mp4", noise)
        assert str(tmp_path / "out.mp4") in str(caught.value)
        assert not list(tmp_path.iterdir())

    def test_without_frames(self, tmp_path):
        with pytest.raises(ValueError, match="no frames"), VideoWriter(tmp_path / "out.mp4"):
            pass
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("frames", "words"),
        [
            (torch.zeros(1, 3, 1, 31, 32), "even sizes"),
            (torch.zeros(1, 3, 1, 64, 32), "expected \\(32, 32\\)"),
            (torch.zeros(1, 4, 1, 32, 32), "expected floating point"),
            (torch.zeros(2, 3, 1, 32, 32), "expected floating point"),
            (torch.zeros(1, 3, 1, 32, 32, dtype=torch.uint8), "expected floating point"),
            (torch.full((1, 3, 1, 32, 32), float("nan")), "frame 1 holds NaN"),
        ],
    )
    def test_after_bad_frames(self, tmp_path, frames, words):
        with pytest.raises(ValueError, match=words), VideoWriter(tmp_path / "out.mp4") as writer:  # noqa: PT012
            writer.write(torch.zeros(3, 1, 32, 32))
            writer.write(frames)
        assert not list(tmp_path.iterdir())


class TestCheckOutput:
    def test_a_good_path_is_left_alone(self, tmp_path):
        assert check_output(tmp_path / "out.MP4") == tmp_path / "out.MP4"
        assert check_output(str(tmp_path / "any.thing"), suffixes=None) == tmp_path / "any.thing"
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("out.avi", r"\.mp4, \.mov, \.mkv"),
            ("out", r"\(none\)"),
            ("no/out.mp4", "does not exist"),
            ("d.mp4", "folder"),
        ],
    )
    def test_bad_paths(self, tmp_path, name, words):
        (tmp_path / "d.mp4").mkdir()
        with pytest.raises(ValueError, match=words):
            check_output(tmp_path / name)
        with pytest.raises(ValueError, match=words):
            VideoWriter(tmp_path / name)

    def test_existing_files_are_kept(self, tmp_path):
        path = tmp_path / "out.mp4"
        path.write_bytes(b"mine")
        with pytest.raises(ValueError, match="--overwrite"):
            check_output(path)
        with pytest.raises(ValueError, match="--overwrite"):
            write_video(path, clip())
        assert path.read_bytes() == b"mine"
        assert write_video(path, clip(), overwrite=True).stat().st_size > 1000

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
    def test_unwritable_folder(self):
        with pytest.raises(ValueError, match="cannot be written to"):
            check_output("/proc/out.mp4")


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"fps": 0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"crf": 52}, "crf is 52"),
        ({"metadata": {"Seed": "1"}}, "lower-case"),
        ({"metadata": {"seed": 1}}, "strings"),
        ({"metadata": {"encoder": "me"}}, "encoder"),
    ],
)
def test_bad_settings(tmp_path, keywords, words):
    with pytest.raises(ValueError, match=words):
        VideoWriter(tmp_path / "out.mp4", **keywords)


def test_a_writer_outside_its_block(tmp_path):
    writer = VideoWriter(tmp_path / "out.mp4")
    with pytest.raises(ValueError, match="with VideoWriter"):
        writer.write(clip())
    assert not list(tmp_path.iterdir())


class TestBadVideos:
    @pytest.mark.parametrize("content", [b"", b"<!doctype html><html></html>", b"\x00" * 4096, b"just text\n" * 50])
    def test_other_files(self, tmp_path, content):
        path = tmp_path / "in.mp4"
        path.write_bytes(content)
        for read in (read_video, read_metadata):
            with pytest.raises(ValueError, match=r"in\.mp4"):
                read(path)

    def test_missing(self, tmp_path):
        with pytest.raises(ValueError, match="There is no file"):
            read_video(tmp_path / "in.mp4")

    def test_sound_only(self, tmp_path):
        with wave.open(str(tmp_path / "in.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(16000))
        with pytest.raises(ValueError, match="no video stream"):
            read_video(tmp_path / "in.wav")

    def test_a_codec_that_nobody_knows(self, tmp_path):
        path = write_video(tmp_path / "in.mp4", clip(5))
        path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
        with pytest.raises(ValueError, match="no video stream that can be decoded"):
            read_video(path)
        for start in ("random", "first"):
            with pytest.raises(BadClipError, match="no video stream that can be decoded"):
                read_clip(path, Framing(32, 32, 5, start=start), torch.Generator())

    def test_truncated(self, tmp_path):
        path = write_video(tmp_path / "in.mp4", clip(24))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=r"cut short: \d+ of 24|damaged after \d+ frames") as caught:
            read_video(path)  # FFmpeg 6 stops at the cut, later ones end there
        readable = int(re.search(r"(\d+) (of 24|frames)", str(caught.value))[1])
        assert 0 < readable < 24
        assert read_video(path, max_frames=readable)[0].shape[2] == readable

    def test_max_frames(self, tmp_path):
        with pytest.raises(ValueError, match="max_frames"):
            read_video(tmp_path / "in.mp4", max_frames=0)


def test_default_quality_is_the_authors():
    assert (video_io.DEFAULT_FPS, video_io.DEFAULT_CRF, video_io.JOINT_CRF) == (8, 5, 15)
