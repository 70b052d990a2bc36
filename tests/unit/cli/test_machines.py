"""What other machines do to the same commands: Windows' open files, `python -O`, line ends, odd paths, few handles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flashvideo.checkpoints.files import open_weights
from flashvideo.runs.record import load_record
from flashvideo.video.files import read_metadata
from tests.conftest import ODD_NAME as ODD
from tests.conftest import TINY
from tests.unit.conftest import SMALL
from tests.unit.training.small_runs import write_config
from tests.unit.windows import windows_rule

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestWhatWindowsCannotDo:
    def test_the_rule_is_kept(self, tmp_path, monkeypatch):
        path, other = tmp_path / "a", tmp_path / "b"
        path.write_bytes(bytes(8))
        with windows_rule(monkeypatch) as broken:
            with path.open("rb"):
                for call in (path.unlink, lambda: path.replace(other), lambda: tmp_path.rename(tmp_path.parent / "c")):
                    with pytest.raises(PermissionError):
                        call()
            path.replace(other)
            weights = open_weights(TINY / "stage2.pt")
            other.unlink()
        assert len(broken) == 3
        assert weights

    def test_no_command_replaces_or_removes_what_is_open(self, run, generate, tmp_path, monkeypatch, names):
        out, model = tmp_path / "out", tmp_path / "model.safetensors"
        out.mkdir()
        kept = ["--joint", "--keep-degraded", "--keep-latents", "--overwrite"]
        (tmp_path / "prompts.txt").write_text("a red ball rolls\na blue cube falls\n", encoding="utf-8")
        config = write_config(tmp_path)
        with windows_rule(monkeypatch) as broken:
            for _ in range(2):  # what is there is replaced
                generate("a red ball", "-o", out / "a.mp4", *kept)
                run(
                    "refine",
                    out / "a.preview.safetensors",
                    "-o",
                    out / "b.mp4",
                    "--models",
                    TINY,
                    "--steps",
                    1,
                    *kept[3:],
                )
                run("decode", out / "a.refined.safetensors", "-o", out / "c.mp4", "--models", TINY, "--overwrite")
                run("convert", TINY / "stage2.pt", model, "--overwrite")
                run("inspect", model)
                generate("--prompts", tmp_path / "prompts.txt", "-o", tmp_path / "many")
            run("train", config, "-o", tmp_path / "run", "--stop-after", 2)
            run("train", config, "-o", tmp_path / "run", "--resume", "--stop-after", 4)
            run("train", config, "-o", tmp_path / "run", "--resume")
        assert broken == []
        assert not [name for folder in (out, tmp_path / "many") for name in names(folder) if ".part" in name]


WITHOUT_ASSERTS = """
from importlib.machinery import SourceFileLoader
whole = SourceFileLoader.get_code
def get_code(self, name):
    if not name.startswith("flashvideo"):
        return whole(self, name)
    return compile(self.get_data(self.path), self.path, "exec", optimize=1)
SourceFileLoader.get_code = get_code
"""
FEW_HANDLES = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))"


def after(lines: str, *commands: list[str], code: int = 0) -> str:
    """What command lines say in one new process, after lines of Python; ``code`` is the last one's."""
    lines = f"{lines}\nimport json, sys\nfrom flashvideo.cli import main\n"
    lines += "sys.exit([main(words) for words in json.loads(sys.argv[1])][-1])"
    command = [sys.executable, "-c", lines, json.dumps(commands)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=one_thread, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr


def test_nothing_rests_on_asserts(generate, tmp_path):
    """``python -O`` leaves them out: the same bytes, and the same words for what is wrong."""
    run = ["a red ball", "--keep-latents", "-o"]
    generate(*run, tmp_path / "a.mp4")
    sound, wrong = (["generate", *SMALL, *run, str(tmp_path / name)] for name in ("b.mp4", "c.mp4"))
    said = after(WITHOUT_ASSERTS, sound, [*wrong, "--size", "30x30"], code=2)
    for file in ("preview.mp4", "preview.safetensors", "refined.safetensors", "mp4"):
        assert (tmp_path / f"a.{file}").read_bytes() == (tmp_path / f"b.{file}").read_bytes()
    assert "multiples of 16" in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_texts_with_the_line_ends_of_windows(run, generate, tmp_path, encoding):
    """Prompts, settings and a training run's configuration, written by an editor there."""

    def write(name, text):
        (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode(encoding))
        return tmp_path / name

    prompts = write("prompts.txt", "a red ball rolls\n\n# not this one\na blue cube falls\n")
    generate("--prompts", prompts, "-o", tmp_path / "many")
    videos = sorted((tmp_path / "many").glob("*.preview.mp4"))
    assert [read_metadata(video)["comment"] for video in videos] == ["a red ball rolls", "a blue cube falls"]
    config = write("run.toml", write_config(tmp_path).read_text(encoding="utf-8"))
    assert "6 of 6 steps" in run("train", config, "-o", tmp_path / "run").out


def test_spaces_and_unicode_in_every_path(run, tmp_path):
    odd = tmp_path / ODD
    models = shutil.copytree(TINY, odd / "models")
    (odd / "prompts.txt").write_text("a red ball rolls\n", encoding="utf-8")
    (models / "settings.json").write_text(json.dumps({"cfg": 2.5}), encoding="utf-8")
    small = ["--models", models, *SMALL[2:]]
    run("generate", *small, "a red ball", "--joint", "--keep-latents", "-o", odd / f"{ODD}.mp4")
    assert len(list(odd.glob("*.mp4"))) == 3
    assert load_record(odd / f"{ODD}.preview.safetensors").stage2.guidance_scale == 2.5
    run("generate", *small, "--prompts", odd / "prompts.txt", "-o", odd / "many")
    run("refine", odd / f"{ODD}.preview.safetensors", "--models", models, "--steps", 1, "-o", odd / "refined.mp4")
    run("convert", models / "stage2.pt", odd / "stage 2.safetensors")
    assert str(odd / "stage 2.safetensors") in run("inspect", odd / "stage 2.safetensors").out
    run("train", write_config(odd), "-o", odd / "run", "--stop-after", 3)
    assert "6 of 6 steps" in run("train", write_config(odd), "-o", odd / "run", "--resume").out


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are Unix's")
@pytest.mark.parametrize(("handles", "code"), [(4, 2), (6, 1)])
def test_few_file_handles(names, tmp_path, handles, code):
    """It is said what ran out, before work or in it (libraries are imported late), and nothing is half-written."""
    command = ["generate", *SMALL, "a red ball", "-o", str(tmp_path / "a.mp4")]
    said = after(FEW_HANDLES.format(handles), command, code=code)
    assert "This process may open no more files: raise the limit (ulimit -n)" in said
    assert [name for name in names(tmp_path) if not name.startswith("a.preview.")] == []
