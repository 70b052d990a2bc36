"""Consoles that are not UTF-8 show what they can and escape the rest; no run ends because of them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from flashvideo.cli import main
from tests.conftest import TINY
from tests.unit.conftest import SMALL

NAME = "Boot-船-é"
C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SHOWN = {"cp1252": "Boot-\\u8239-é", "ascii": "Boot-\\u8239-\\xe9"}


@pytest.fixture
def console(monkeypatch):
    """``console("ascii", "inspect", path)``: exit code, standard output and error of a command on such a console."""

    def command(encoding, *arguments):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        shown = []
        for stream in streams:
            stream.flush()
            shown.append(stream.buffer.getvalue().decode(encoding))
        return code, *shown

    return command


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_run_ends_well_whatever_its_output_is_called(tmp_path, console, encoding):
    output = tmp_path / f"{NAME}.mp4"
    code, said, error = console(encoding, "-v", "generate", *SMALL, "a red boat", "-o", output)
    assert code == 0, error
    assert [line.split(":")[0] for line in said.splitlines()] == ["preview", "video"]
    assert SHOWN[encoding] in said
    assert output.is_file()


def test_a_run_ends_well_in_the_c_locale(tmp_path):
    """Where names of files are in its letters too: in a process of its own."""
    output = tmp_path / f"{NAME}.mp4"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONIOENCODING"}
    done = subprocess.run(
        [sys.executable, "-m", "flashvideo", "-v", "generate", *SMALL, "a red boat", "-o", str(output)],
        cwd=TINY.parents[1],
        env={**environment, "OMP_NUM_THREADS": "1", **C_LOCALE},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode("latin-1")
    said = done.stdout.decode("ascii")
    assert [line.split(":")[0] for line in said.splitlines()] == ["preview", "video"]
    assert "Boot-" in said
    assert output.is_file()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("command", ["generate", "refine", "decode", "convert", "inspect", "train", "report"])
def test_errors_of_every_command_are_shown(tmp_path, console, command, encoding):
    missing = tmp_path / NAME / f"{NAME}.safetensors"
    arguments = {
        "generate": [*SMALL, "a red boat", "-o", missing.with_suffix(".mp4")],
        "refine": [missing, "-o", tmp_path / "out.mp4"],
        "decode": [missing, "-o", tmp_path / "out.mp4"],
        "convert": [missing, tmp_path / "out.safetensors"],
        "inspect": [missing],
        "train": [missing.with_suffix(".toml"), "--output", tmp_path / "run"],
        "report": ["--models", missing, "-o", tmp_path / "report"],
    }[command]
    code, _, error = console(encoding, command, *arguments)
    assert code == 2
    assert SHOWN[encoding] in error


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_names_of_checkpoints_and_help_are_shown(tmp_path, console, encoding, made):
    preview = tmp_path / f"{NAME}.safetensors"
    preview.write_bytes((made / "out.preview.safetensors").read_bytes())
    code, out, _ = console(encoding, "inspect", preview)
    assert (code, SHOWN[encoding] in out) == (0, True)
    assert console(encoding, "generate", "--help")[0] == 0


def test_a_name_that_is_no_utf8_is_shown(tmp_path, console):
    code, _, error = console("utf-8", "inspect", os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors"))
    assert code == 2
    assert "\\udcff.safetensors" in error


def test_configurations_are_utf8_whatever_the_locale(tmp_path):
    """What lies beside weights: PEFT's configuration, diffusers' and the index of shards."""
    pair = {f"transformer.transformer_blocks.0.attn1.to_q.lora_{side}.weight": torch.zeros(4, 4) for side in "AB"}
    save_file(pair, tmp_path / "a.safetensors")
    shards = {"metadata": {"note": "é"}, "weight_map": dict.fromkeys(pair, "a.safetensors")}
    texts = {
        "config.json": {"note": "é"},
        "adapter_config.json": {"lora_alpha": 8, "note": "é"},
        "a.safetensors.index.json": shards,
    }
    for name, content in texts.items():
        (tmp_path / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    script = (
        f"from pathlib import Path; from flashvideo.loading.lora import read_lora; read_lora(Path({str(tmp_path)!r}))"
    )
    environment = {**os.environ, **C_LOCALE}
    done = subprocess.run([sys.executable, "-c", script], cwd=TINY.parents[1], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode("latin-1")
