"""Pickled checkpoints with classes that nobody knows here: read, and nothing of them is called."""

from __future__ import annotations

import argparse
import builtins
import importlib
import logging
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import zipfile
from functools import partial

import pytest
import torch

from flashvideo import load_stage1, load_stage2, load_vae
from flashvideo.checkpoints.files import open_weights
from flashvideo.loading.lora import read_lora
from flashvideo.loading.text import load_text_encoder
from flashvideo.runs.inspect import inspect_checkpoint
from tests.conftest import TINY


class Payload:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [logging.FileHandler, builtins.open])
def test_unknown_callables_are_not_called(tmp_path, function):
    mark = tmp_path / "executed"
    tree = torch.load(TINY / "stage2.pt", weights_only=True)
    tree["log"] = Payload(function, str(mark), "w")
    pickle.loads(pickle.dumps(tree["log"])).close()
    assert mark.exists()
    mark.unlink()
    torch.save(tree, tmp_path / "stage2.pt")
    load_stage2(tmp_path / "stage2.pt")
    assert not mark.exists()


def test_honest_pickle_with_unknown_classes_loads(tmp_path, monkeypatch):
    module = importlib.import_module("types").ModuleType("megatron_like")
    module.Config = type("Config", (dict,), {"__module__": "megatron_like"})
    module.Flags = type("Flags", (set,), {"__module__": "megatron_like"})
    monkeypatch.setitem(__import__("sys").modules, "megatron_like", module)
    tree = torch.load(TINY / "stage1.pt", weights_only=True)
    tree["args"] = argparse.Namespace(lr=1e-4, nested=module.Config(a=[1, 2]), flags=module.Flags("ab"))
    tree["rng"] = (torch.get_rng_state(), torch.float16, torch.Size((2, 3)))
    torch.save(tree, tmp_path / "stage1.pt")
    monkeypatch.delitem(__import__("sys").modules, "megatron_like")
    ours, theirs = (load_stage1(path).state_dict() for path in (tmp_path / "stage1.pt", TINY / "stage1.pt"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    from flashvideo.checkpoints.pickles import PickledFile
    from flashvideo.checkpoints.unpickling import InertPlaceholder

    args = PickledFile(tmp_path / "stage1.pt").tree["args"]
    assert isinstance(args, InertPlaceholder)
    assert type(args).__module__ == "placeholder.argparse"


def archive(path, data, *, compress=zipfile.ZIP_STORED, storage=bytes(16), twice=False):
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr("x/data.pkl", data)
        for _ in range(1 + twice):
            file.writestr("x/data/0", storage)
    return path


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(shape, stride, count=4):
    sizes = [b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (shape, stride)]
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(count)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQK\0" + b"".join(sizes) + b"\x89NtR"


def tree(value):
    return b"\x80\x02}(" + text("weight") + value + b"u."


def legacy(path, count, claimed):
    front = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    head = b"".join(pickle.dumps(value, protocol=2) for value in front)
    keys = pickle.dumps(["0"], protocol=2)
    body = tree(tensor((count,), (1,), count).replace(b"tQ", b"NtQ"))
    path.write_bytes(head + body + keys + struct.pack("<q", claimed) + bytes(16))
    return path


HOLLOW = {  # small files that ask for gigabytes or for years
    "memo": b"\x80\x02}r" + struct.pack("<I", 250_000_000) + b".",
    "bytes": tree(b"c__builtin__\nbytes\n" + number(1 << 32) + b"\x85R"),
    "expanded": tree(tensor((1 << 15, 1 << 15), (0, 0))),
    "copies": tree(
        b"(" + b"]q\0(" + b"N" * 20_000 + b"e" + b"c__builtin__\nlist\nq\1" + b"h\1h\0\x85R" * 20_000 + b"t"
    ),
    "hashes": tree(b"}(" + b")" + b"q\2h\2\x86" * 60 + b"Nu"),
    "sets": tree(b"c__builtin__\nset\n](" + b")" + b"q\2h\2\x86" * 60 + b"e\x85R"),
    "frozen": b"\x80\x04}(" + text("a") + b"()" + b"q\2h\2\x86" * 60 + b"\x91u.",
    "words": tree(b"c__builtin__\nstr\n" + b"]q\2" + b"](h\2h\2eq\2" * 60 + b"\x85R"),
    "keys": tree(
        b"((" + text("storage") + b"ctorch\nFloatStorage\n" + b"]q\2" + b"](h\2h\2eq\2" * 60 + text("cpu") + b"K\1tQt"
    ),
    "classes": tree(b"(" + b"".join(b"ca%d\nb\n" % k for k in range(9000)) + b"t"),
    "nested": tree(
        b"}q\2" + b"}(" * 0 + b"".join(b"}(" + text("a") + b"h\2" + text("b") + b"h\2uq\2" for _ in range(60))
    ),
}
WATCHED = """
import resource, sys, time
from pathlib import Path
from flashvideo.runs.inspect import inspect_checkpoint
import flashvideo.models.network
for path in sorted(Path(sys.argv[1]).iterdir()):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        print(inspect_checkpoint(path).kind, end=" ")
    except ValueError:
        print("refused", end=" ")
    print(path.name, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes there")
def test_small_files_take_little_memory_and_time(tmp_path):
    for name, data in HOLLOW.items():
        archive(tmp_path / f"{name}.pt", data)
        assert (tmp_path / f"{name}.pt").stat().st_size < 200_000
    legacy(tmp_path / "legacy.pt", 1 << 30, 1 << 30)
    legacy(tmp_path / "negative.pt", 4, -1)
    archive(
        tmp_path / "packed.pt",
        b"\x80\x02X" + struct.pack("<I", 1 << 27) + bytes(1 << 27) + b".",
        compress=zipfile.ZIP_DEFLATED,
    )
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(HOLLOW) + 3
    assert not [
        line for line in lines if line[0] not in ("refused", "unknown") or int(line[2]) > 64_000 or float(line[3]) > 20
    ]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: archive(path, tree(tensor((4,), (1,))), twice=True), "two records have one name"),
        (lambda path: archive(path, tree(tensor((5,), (1,)))), "lies outside of its storage"),
        (lambda path: archive(path, tree(tensor((4,), (-1,)))), "lies outside of its storage"),
        (lambda path: archive(path, tree(tensor((4, 1), (1,)))), "lies outside of its storage"),
        (lambda path: legacy(path, 4, 3), "lies outside of its storage"),
        (lambda path: archive(path, tree(tensor((4,), (1,))), compress=zipfile.ZIP_DEFLATED), "compressed"),
        (
            lambda path: archive(
                path, tree(b"ctorch._utils\n_rebuild_tensor_v2\n(ctorch\nFloatStorage\nK\0K\1\x85K\1\x85tR")
            ),
            "without a storage",
        ),
        (lambda path: archive(path, b"\x80\x02K\1."), "holds no dictionary of tensors"),
        (lambda path: archive(path, b""), "cannot be read as a checkpoint"),
    ],
)
def test_damaged_archives_are_refused_in_words(tmp_path, make, words):
    with pytest.raises(ValueError, match=words):
        open_weights(make(tmp_path / "x.pt"))


def test_what_torch_writes_is_read_in_both_forms(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    state = {"view": base[1:3, ::2], "whole": base, "half": torch.ones(5).half(), "scalar": torch.tensor(3.0)}
    state |= {"other": torch.arange(3), "parameter": torch.nn.Parameter(torch.ones(2))}
    for zipped in (True, False):
        torch.save({"module": state}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        tensors = open_weights(tmp_path / "x.pt").tensors
        assert {name: info.read().tolist() for name, info in tensors.items()} == {
            n: t.tolist() for n, t in state.items()
        }


ODD = [None, True, 3, "x", b"x", (), [], {}, [[]], {"a": {}}, torch.float16, torch.Size([2]), torch.device("cpu")]
ODD += [{1: torch.ones(2)}, [torch.ones(2)], {"a": None, "b": torch.ones(())}, {"module": []}, {"state_dict": 3}]
ODD += [
    {"module": {"text_embed.weight": odd}} for odd in (torch.ones(()), torch.ones(3), torch.ones(2, 2).bool(), 3, None)
]
ODD += [
    {"text_embed.weight": torch.ones(2, 2), name: odd}
    for name in ("patch_embed.weight", "layers.0.q_norm.weight", "layers.x.weight")
    for odd in (
        torch.ones(()),
        torch.ones(0),
        torch.ones(2, 2, dtype=torch.complex64),
        torch.ones(1, 1, 1, 1, 1),
        "text",
    )
]
ODD += [
    {name: odd}
    for name in (
        "a.lora_A.weight",
        "encoder.final_layer_norm.weight",
        "shared.weight",
        "decoder.mid.block_1.norm1.norm_layer.weight",
    )
    for odd in (torch.ones(()), torch.ones(3), torch.ones(2, 2).int(), torch.ones(0, 3))
]


def refusal(load, path):
    """What is said of a file, "" if it is taken."""
    try:
        load(path)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("number", range(len(ODD)))
def test_odd_objects_end_in_words(tmp_path, number):
    for zipped in (True, False):
        torch.save(ODD[number], tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        for load in (
            load_stage1,
            load_stage2,
            load_vae,
            read_lora,
            partial(load_text_encoder, tokenizer=TINY / "text"),
        ):
            assert "x.pt" in refusal(load, tmp_path / "x.pt")
        assert refusal(inspect_checkpoint, tmp_path / "x.pt") or not inspect_checkpoint(tmp_path / "x.pt").sound


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_of_a_tree_end_in_words(tmp_path, seed):
    """Every opcode of an honest tree replaced by every other kind, in places of the seed's choosing."""
    torch.save(
        {"module": {"a": torch.ones(2), "b": [1, (2.0, "x")]}, "args": argparse.Namespace(x=1)}, tmp_path / "x.pt"
    )
    with zipfile.ZipFile(tmp_path / "x.pt") as file:
        name = next(name for name in file.namelist() if name.endswith("data.pkl"))
        data = file.read(name)
    chance, codes = random.Random(seed), [ord(opcode.code) for opcode in pickletools.opcodes]
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(len(changed))] = chance.choice(codes)
        archive(tmp_path / "y.pt", bytes(changed), storage=bytes(8))
        assert "y.pt" in (refusal(open_weights, tmp_path / "y.pt") or "y.pt")
