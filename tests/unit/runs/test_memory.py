"""What a run takes decides before anything is loaded; what fits is not refused, on small machines either."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch

from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.runs import memory as runs_memory
from flashvideo.runs.memory import Load, check_host_memory, check_memory
from flashvideo.runs.settings import SIZES
from flashvideo.vae.tiling import memory
from tests.conftest import TINY

GIB = 1 << 30


@pytest.fixture
def free(monkeypatch):
    """``free(bytes)``: so much host memory is free, swap included, and more room on disk than anything here takes."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000 * GIB))

    def have(size):
        monkeypatch.setattr(memory, "free_on_host", lambda: max(0, size - memory.MARGIN))
        monkeypatch.setattr(runs_memory, "_free_on_host", lambda: size)

    return have


@pytest.fixture(scope="module")
def models():
    return ModelStore(find_models(str(TINY), {}, ("stage1", "stage2", "vae", "text")))


def whole(frames, size):
    return Load(frames, SIZES["270p"], size, encodes=True)


def test_the_estimate_is_told(free, no_work, models):
    free(21_000_000_000)
    expected = "401 frames of 3840x2160 need 4[01] GB of host memory, 21 GB are free. Choose a smaller size or fewer"
    for check in (check_host_memory, lambda load: check_memory(models, load)):
        with pytest.raises(ValueError, match=expected):
            check(whole(401, SIZES["4k"]))


@pytest.mark.parametrize(("size", "gigabytes"), [("270p", 1), ("540p", 1), ("720p", 1), ("1080p", 2), ("4k", 6)])
def test_what_small_machines_can_do_is_not_refused(free, no_work, models, size, gigabytes):
    free(gigabytes * GIB)
    check_memory(models, whole(49, SIZES[size]))


def test_a_long_video_that_is_only_decoded_streams(free, no_work, models):
    free(GIB)
    check_memory(ModelStore(find_models(str(TINY), {}, ("vae",))), Load(4001, refined=SIZES["1080p"]))
    with pytest.raises(ValueError, match=r"4001 frames of 1920x1072 need 105 GB of host memory, 1.1 GB are free"):
        check_memory(models, whole(4001, SIZES["1080p"]))


def test_what_the_vae_and_the_transformer_take_counts(free, no_work, models):
    load = whole(49, SIZES["1080p"])
    free(load.host_bytes + 1_000)
    check_host_memory(load)
    with pytest.raises(ValueError, match=r"49 frames of 1920x1072 need 1.* GB of host memory"):
        check_memory(models, load)
    free(8 * GIB)
    device = SimpleNamespace(paths=models.paths, source=models.source, vae_dtype=None, device=torch.device("cuda", 0))
    assert runs_memory._transformer_bytes(device, "stage2", 49, SIZES["1080p"]) == 4 * 13 * 67 * 120 * 128 * 2


def test_the_room_of_what_waits_on_disk_counts(free, no_work, models, monkeypatch):
    load = whole(49, SIZES["4k"])
    free(load.host_bytes + GIB // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(ValueError, match=r"need .* GB of room in .*, 0.0 GB are free"):
        check_memory(models, load)


@pytest.mark.parametrize(
    "options",
    [
        ("--size", "100000x100000"),
        ("--preview-size", "100000x100000"),
        ("--frames", "400000001"),
        ("--size", f"{16 * 10**300}x{16 * 10**300}"),
    ],
    ids=["size", "preview", "frames", "boundless"],
)
@pytest.mark.parametrize("many", [False, True])
def test_what_nothing_holds_is_refused_by_the_command_line(generate, no_work, names, tmp_path, options, many):
    (tmp_path / "p.txt").write_text("a ball")
    prompt = ("--prompts", tmp_path / "p.txt", "-o", tmp_path / "out") if many else ("a", "-o", tmp_path / "out.mp4")
    said = generate(*options, *prompt, code=2)
    assert "GB of host memory" in said.err
    assert names(tmp_path) == ["p.txt"]


def test_refining_and_decoding_are_estimated_too(run, free, no_work, made, names, tmp_path):
    source = made / "out.preview.safetensors"
    command = ("refine", source, "--models", TINY, "-o", tmp_path / "out.mp4")
    assert "GB of host memory" in run(*command, "--size", "100000x100000", code=2).err
    free(1_000)
    for kind in ("preview", "refined"):
        said = run("decode", made / f"out.{kind}.safetensors", "--models", TINY, "-o", tmp_path / "out.mp4", code=2)
        assert "GB of host memory, 0.0 GB are free" in said.err
    assert names(tmp_path) == []


def test_files_that_a_container_has_read_are_no_use_of_its_memory(monkeypatch, tmp_path):
    for name, text in (
        ("max", "4000000000"),
        ("current", "3900000000"),
        ("stat", "anon 1\ninactive_file 3000000000\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_available", lambda: 64 * GIB)
    assert memory.free_on_host() == 3_100_000_000 - memory.MARGIN
    assert memory.free_swap() == 0
