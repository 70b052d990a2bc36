"""Every PyAV reads and writes the same pictures: those that lack what newer or older ones have are simulated."""

from __future__ import annotations

from enum import IntEnum
from fractions import Fraction

import av
import av.video.reformatter as reformatter
import pytest
import torch

from flashvideo.training.media import Framing, read_clip
from flashvideo.video.compression import h264_clip, jpeg_frames
from flashvideo.video.files import read_metadata, read_video, write_image, write_video
from tests.unit.video.test_files import clip as moving_clip

OLD_INTERPOLATIONS = {"FAST_BILINEAR": 1, "BILINEAR": 2, "BICUBIC": 4, "POINT": 16, "AREA": 32, "LANCZOS": 512}
CODECS = [  # a decoder places chroma at the left or in the middle; H.264 in full range has a range to be minded
    ("libx264", "yuv420p", 1, 1),
    ("libx264", "yuv420p", 1, 2),
    ("libx264", "yuv422p", 5, 1),
    ("libx264", "yuv444p", 1, 1),
    ("libx264", "yuv420p", 9, 1),
    ("mpeg4", "yuv420p", 2, 0),
    ("mpeg2video", "yuv420p", 1, 1),
    ("mjpeg", "yuvj420p", 5, 2),
    ("ffv1", "yuv420p", 1, 1),
]


@pytest.fixture
def without_exact_flags(monkeypatch):
    """PyAV up to 17: its ``Interpolation`` names methods, no flags."""
    return lambda: monkeypatch.setattr(reformatter, "Interpolation", IntEnum("Interpolation", OLD_INTERPOLATIONS))


@pytest.fixture
def without_metadata_errors(monkeypatch):
    """PyAV from 19 on: ``av.open`` knows no ``metadata_errors``."""
    av_open = av.open

    def refusing(file, *arguments, **options):
        if "metadata_errors" in options:
            raise TypeError("open() got an unexpected keyword argument 'metadata_errors'")
        return av_open(file, *arguments, **options)

    monkeypatch.setattr(av, "open", refusing)


def coded(path, codec, pixel_format, matrix, color_range):
    """Two frames of saturated blocks."""
    blocks = torch.rand(6, 10, 3, generator=torch.Generator().manual_seed(0))
    pixels = blocks.mul(255).byte().repeat_interleave(8, 0).repeat_interleave(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 80, pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(pixels.numpy(), format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("codec", "pixel_format", "matrix", "color_range"), CODECS)
def test_frames_are_read_alike_without_exact_flags(
    tmp_path, without_exact_flags, codec, pixel_format, matrix, color_range
):
    path = coded(tmp_path / "in.mkv", codec, pixel_format, matrix, color_range)
    framing, generator = Framing(48, 80, 2), torch.Generator()
    video, clip = read_video(path)[0], read_clip(path, framing, generator)
    without_exact_flags()
    assert torch.equal(read_video(path)[0], video)
    assert torch.equal(read_clip(path, framing, generator), clip)
    assert torch.equal(clip, video[0])


@pytest.mark.parametrize(("matrix", "color_range"), [(1, 1), (1, 2), (5, 1), (5, 2), (9, 1)])
def test_matrix_and_range_are_minded_without_exact_flags(tmp_path, without_exact_flags, matrix, color_range):
    """A green whose luma and chroma are known by the standards' formulas."""
    red_weight, blue_weight = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    luma, chroma_blue, chroma_red = 120, 100, 90
    low, span, chroma_span = (16, 219, 224) if color_range == 1 else (0, 255, 255)
    y, u, v = (luma - low) / span, (chroma_blue - 128) / chroma_span, (chroma_red - 128) / chroma_span
    red, blue = y + 2 * (1 - red_weight) * v, y + 2 * (1 - blue_weight) * u
    green = (y - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        frame = av.VideoFrame(32, 32, "yuv420p")
        for plane, value in zip(frame.planes, (luma, chroma_blue, chroma_red), strict=True):
            plane.update(bytes([value]) * (plane.line_size * plane.height))
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux([*stream.encode(frame), *stream.encode()])
    without_exact_flags()
    pixel = read_video(path)[0][0, :, 0, 16, 16]
    assert (pixel - torch.tensor([red, green, blue])).abs().max() * 255 <= 1


def test_files_are_written_alike_without_exact_flags(tmp_path, without_exact_flags):
    video = moving_clip(3, 48, 64)
    lossy = h264_clip(video[0], 20), jpeg_frames(video[0].transpose(0, 1), 50)
    write_video(tmp_path / "new.mp4", video)
    write_image(tmp_path / "new.jpg", video[0, :, 0])
    without_exact_flags()
    assert write_video(tmp_path / "old.mp4", video).read_bytes() == (tmp_path / "new.mp4").read_bytes()
    assert write_image(tmp_path / "old.jpg", video[0, :, 0]).read_bytes() == (tmp_path / "new.jpg").read_bytes()
    assert torch.equal(h264_clip(video[0], 20), lossy[0])
    assert torch.equal(jpeg_frames(video[0].transpose(0, 1), 50), lossy[1])


def test_files_are_read_without_metadata_errors(tmp_path, without_metadata_errors):
    path = write_video(tmp_path / "in.mp4", moving_clip(3, 48, 64), metadata={"prompt": "é"})
    assert read_metadata(path) == {"prompt": "é"}
    assert read_video(path)[0].shape[2] == 3
    assert read_clip(path, Framing(48, 64, 3), torch.Generator()).shape[1] == 3


def test_a_tag_that_is_no_utf8_reads_alike(tmp_path, monkeypatch):
    path = write_video(tmp_path / "in.mp4", moving_clip(3, 48, 64), metadata={"note": "abcd"})
    path.write_bytes(path.read_bytes().replace(b"abcd", b"ab\xffd"))
    assert read_metadata(path) == {"note": "ab\ufffdd"}

    class Surrogates:  # what PyAV 19 makes of it
        metadata = {"note": "ab\udcffd"}  # noqa: RUF012

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(av, "open", lambda *_, **__: Surrogates())
    assert read_metadata(path) == {"note": "ab\ufffdd"}
