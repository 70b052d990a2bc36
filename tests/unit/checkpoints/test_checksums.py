"""What changed in a file since it was written is found when it is read; files without checksums are read as ever."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flashvideo.checkpoints.checksums import KEY, DamagedFileError, compare
from flashvideo.checkpoints.files import open_weights
from flashvideo.checkpoints.writing import tensor_plan, write_safetensors

TENSORS = {
    "first": torch.arange(6.0).view(2, 3),
    "second": torch.arange(6.0, 12.0).view(2, 3),
    "scalar": torch.tensor(2.5),
    "none": torch.zeros(0, 4),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "fp8": torch.ones(4).to(torch.float8_e4m3fn),
    "whole": torch.arange(3),
    "flags": torch.tensor([True, False]),
}
METADATA = {"format": "pt", "flashvideo.kind": "lora", "flashvideo.preview": '{"prompt": "é"}'}


@pytest.fixture
def file(tmp_path):
    return write_safetensors(tmp_path / "a.safetensors", tensor_plan(TENSORS), METADATA)


def read_all(path):
    return {name: info.read() for name, info in open_weights(path).tensors.items()}


def with_header(path, change):
    """The same file with an altered header."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_what_was_written_is_read(file):
    for name, tensor in read_all(file).items():
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor.float(), TENSORS[name].float())
    assert open_weights(file).metadata.items() >= METADATA.items()
    assert load_file(file).keys() == TENSORS.keys(), "for others it is a file like any"


def test_every_flipped_byte_of_the_data_is_found(file):
    data = file.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    assert len(data) - start > 70
    for place in range(start, len(data)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with pytest.raises(DamagedFileError, match=r"is not as it was written: \w+ has changed since"):
            read_all(file)


def swap_tensors(header):
    header["first"], header["second"] = header["second"], header["first"]


def reshape(header):
    header["first"]["shape"] = [3, 2]


def retype(header):
    header["half"]["dtype"] = "F16"


def rename(header):
    header["third"] = header.pop("second")


def other_prompt(header):
    header["__metadata__"]["flashvideo.preview"] = '{"prompt": "e"}'


def other_kind(header):
    del header["__metadata__"]["flashvideo.kind"]


def other_sum(header):
    header["__metadata__"][KEY] = header["__metadata__"][KEY].replace("{", "[")


@pytest.mark.parametrize("change", [swap_tensors, reshape, retype, rename, other_prompt, other_kind, other_sum])
def test_an_altered_header_is_found(file, change):
    with_header(file, change)
    with pytest.raises(DamagedFileError, match=r"Copy, download or make it again\."):
        read_all(file)


def test_what_others_note_in_the_header_is_theirs(file):
    with_header(file, lambda header: header["__metadata__"].update({"modelspec.title": "mine", "format": "np"}))
    assert read_all(file).keys() == TENSORS.keys()


def test_files_without_checksums_are_read_as_they_are(file):
    with_header(file, lambda header: header["__metadata__"].pop(KEY))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert read_all(file).keys() == TENSORS.keys()


def test_saved_anew_by_another_program_that_keeps_the_header(file, tmp_path):
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(TENSORS, tmp_path / "same.safetensors", metadata)
    assert read_all(tmp_path / "same.safetensors").keys() == TENSORS.keys()
    save_file({**TENSORS, "first": TENSORS["first"] + 1}, tmp_path / "other.safetensors", metadata)
    with pytest.raises(DamagedFileError, match="or another program changed it and kept the checksums"):
        read_all(tmp_path / "other.safetensors")


def test_what_another_reader_read_is_compared(file):
    metadata = open_weights(file).metadata
    compare(file, load_file(file), metadata)
    with pytest.raises(DamagedFileError, match="first has changed"):
        compare(file, {**load_file(file), "first": TENSORS["second"]}, metadata)
    compare(file, {}, {"format": "pt"})
