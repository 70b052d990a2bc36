"""A file that is something else is called what it is, wherever weights, latents or a video are expected."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from flashvideo import convert_checkpoint, load_stage1, load_vae
from flashvideo.checkpoints.file_kinds import file_kind
from flashvideo.cli import main
from flashvideo.loading.text import load_text_encoder
from flashvideo.runs.inspect import inspect_checkpoint
from flashvideo.video.files import read_video, write_video
from tests.conftest import TINY


def _packed(pack):
    buffer = io.BytesIO()
    pack(buffer)
    return buffer.getvalue()


def _zip(buffer):
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")


def _tar(buffer):
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a"))


def _picture(kind):
    return _packed(lambda buffer: Image.new("RGB", (32, 32)).save(buffer, kind))


FILES = {  # what is said of a file -> its content
    "a video (MP4)": None,
    "a video (MKV or WebM)": None,
    "a picture (PNG)": _picture("png"),
    "a picture (JPEG)": _picture("jpeg"),
    "a picture (GIF)": _picture("gif"),
    "a picture (WebP)": _picture("webp"),
    "a GGUF file": b"GGUF\x03\0\0\0" + bytes(64),  # without tensors
    "a web page": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "JSON": json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}, indent=1).encode(),
    "a text file": "# T5, größer\nA model.\n".encode(),
    "empty": b"",
    "zeros at its beginning": bytes(8192),
    "a zip archive": _packed(_zip),
    "an empty zip archive": _packed(lambda buffer: zipfile.ZipFile(buffer, "w").close()),
    "an archive (tar)": _packed(_tar),
    "an archive (gzip)": gzip.compress(b"x" * 99),
    "weights of TensorFlow (HDF5)": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "a pickle, but not as torch writes checkpoints": b"\x80\x04K\x01.\x80\x04K\x01.\x80\x04K\x01.",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each kind in a file whose name says that it is weights."""
    folder = tmp_path_factory.mktemp("kinds")
    for number, (kind, content) in enumerate(FILES.items()):
        path = folder / f"{number}.safetensors"
        if content is None:
            video = folder / ("video.mp4" if "MP4" in kind else "video.mkv")
            write_video(video, torch.rand(1, 3, 4, 32, 32))
            shutil.move(video, path)
        else:
            path.write_bytes(content)
    return {kind: folder / f"{number}.safetensors" for number, kind in enumerate(FILES)}


@pytest.mark.parametrize("kind", FILES)
def test_given_as_weights(made, tmp_path, kind):
    loads = (load_stage1, load_vae, load_text_encoder, inspect_checkpoint)
    for load in (*loads, lambda path: convert_checkpoint(path, tmp_path / "new.safetensors")):
        with pytest.raises(ValueError, match=r"\.safetensors is ") as error:
            load(made[kind])
        assert f"is {kind}" in str(error.value)


@pytest.mark.parametrize("kind", FILES)
def test_given_as_latents(made, tmp_path, capsys, kind):
    known = file_kind(made[kind])
    wanted = "weights" if known.advice else "latents of FlashVideo"
    for command in ("refine", "decode"):
        assert main([command, str(made[kind]), "-o", str(tmp_path / "a.mp4"), "--models", "tiny"]) != 0
        said = capsys.readouterr().err
        assert f"is {kind}" in said
        assert f", not {wanted}" in said or known.name == "a pickle"


@pytest.mark.parametrize("kind", [kind for kind in FILES if not kind.startswith(("a video", "a picture", "a text"))])
def test_given_as_a_video(made, kind):
    with pytest.raises(ValueError, match=f"is {file_kind(made[kind]).name}".replace("(", r"\(").replace(")", r"\)")):
        read_video(made[kind])


def test_weights_given_as_a_video(tmp_path):
    save_file({"a": torch.zeros(9)}, tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="is safetensors, not a video"):
        read_video(tmp_path / "a.mp4")
    shutil.copy(TINY / "stage1.pt", tmp_path / "b.mp4")
    with pytest.raises(ValueError, match="is a torch file, not a video"):
        read_video(tmp_path / "b.mp4")


def test_a_damaged_video_is_no_other_kind(tmp_path):
    write_video(tmp_path / "a.mp4", torch.rand(1, 3, 4, 32, 32))
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:20])
    (tmp_path / "b.mp4").write_text("not a list\nof files\n")
    for name in "ab":
        with pytest.raises(ValueError, match="cannot be read as a video"):
            read_video(tmp_path / f"{name}.mp4")


def test_an_index_of_shards_leads_to_its_folder(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_bytes(FILES["JSON"])
    with pytest.raises(ValueError, match=r"index of shards \(JSON\), not weights\. Give the folder"):
        load_stage1(tmp_path / "model.safetensors.index.json")


def test_lengths_that_look_like_other_kinds(tmp_path):
    """A safetensors header of 0x80 bytes begins as a pickle does, one of 0x4d 0x5a as a program does."""
    for length in (0x80, 0x5A4D):
        header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
        (tmp_path / "x.safetensors").write_bytes(length.to_bytes(8, "little") + header + bytes(4))
        assert file_kind(tmp_path / "x.safetensors").name == "safetensors"
        assert "a (1 tensors" not in inspect_checkpoint(tmp_path / "x.safetensors").problems[0]
