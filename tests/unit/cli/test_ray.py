"""Videos refined by the workers of a real Ray cluster of this machine: the bytes are those of one process."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashvideo.checkpoints.locks import lock_of
from flashvideo.runs import cluster
from flashvideo.runs.refining import Refiner
from flashvideo.video.files import VideoWriter
from tests.unit.cli.test_refine_videos import FAST, PROMPT, scene

ROOT = Path(__file__).parents[3]
CLUSTER = """
import ray
print(ray.init("local", num_cpus=2, include_dashboard=False).address_info["gcs_address"], flush=True)
input()
"""
SCENES = (9, 57, 10, 9)


ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    **{"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    **{"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)},
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two workers with a CPU each."""
    pytest.importorskip("ray", reason="Ray is not installed")
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("there is no /proc to find workers in")
    command = [sys.executable, "-c", CLUSTER]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as head:
        assert head.stdin is not None
        assert head.stdout is not None
        yield head.stdout.readline().strip()
        head.communicate("\n")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, 24) as writer:
        for number, frames in enumerate(SCENES):
            writer.write(scene(frames, number))
    return path


@pytest.fixture(scope="module")
def refined(clip: Path, one_thread) -> bytes:
    """What one process makes of the clip."""
    from flashvideo.cli import main

    with one_thread():
        assert main(["refine", str(clip), *FAST, PROMPT, "-o", str(clip.with_name("out.mp4"))]) == 0
    return clip.with_name("out.mp4").read_bytes()


def worker_at(folder: Path, stretch: int) -> int:
    """The process that works at a stretch: it has its lock open."""
    lock = lock_of(folder / f"stretch-{stretch:05d}")
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # closed meanwhile
            if opened.readlink() == lock:
                return int(opened.parts[2])
    raise AssertionError(f"nobody has {lock}")


def wait_for(run: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    while run.poll() is None and not list(folder.glob(pattern)):
        time.sleep(0.002)


def begin(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flashvideo", "refine", *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_worker_changes_nothing(address, clip, refined, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(clip, source / "clip.mp4")
    (source / "damaged.mp4").write_bytes(b"no video")
    run = begin(source, *FAST, PROMPT, "--ray", address, "-o", out)
    wait_for(run, out / "clip.mp4.parts", "latents-00001/settled0-*")
    os.kill(worker_at(out / "clip.mp4.parts", 1), signal.SIGKILL)
    said, errors = run.communicate()
    assert f"A worker died at stretch 2 of {out / 'clip.mp4'}, which goes on with another" in errors
    assert "4 stretches" in said
    assert "1 of 2 videos were not refined: damaged.mp4. See above." in errors
    assert run.returncode == 2
    assert [path.name for path in out.iterdir()] == ["clip.mp4"]
    assert (out / "clip.mp4").read_bytes() == refined


def test_interrupted_another_run_goes_on(run, address, clip, refined, tmp_path):
    arguments = [clip, *FAST, PROMPT, "-o", tmp_path / "out.mp4"]
    spread = begin(*arguments, "--ray", address)
    wait_for(spread, tmp_path / "out.mp4.parts", "latents-00001/settled0-*")
    spread.send_signal(signal.SIGTERM)
    assert "interrupted: nothing half-written is left" in spread.communicate()[1]
    assert spread.returncode == 130
    assert not (tmp_path / "out.mp4").exists()
    run("refine", *arguments)
    assert (tmp_path / "out.mp4").read_bytes() == refined
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(
    ("address", "said"),
    [("nowhere", "Invalid address"), ("127.0.0.1:9", "refused"), ("ray://127.0.0.1:9", "refused")],
)
def test_no_cluster(run, no_work, clip, tmp_path, address, said):
    pytest.importorskip("ray", reason="Ray is not installed")
    words = run("refine", clip, *FAST, PROMPT, "--ray", address, "-o", tmp_path / "out.mp4", code=2).err
    assert f"--ray {address}: no cluster can be reached" in words
    assert said in words
    assert "Start one with `ray start --head`" in words


def test_ray_is_an_extra(run, no_work, clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    said = run("refine", clip, *FAST, PROMPT, "--ray=auto", "-o", tmp_path / "out.mp4", code=2)
    assert "--ray needs Ray, which is not installed: pip install 'flashvideo[ray]'." in said.err


def test_launchers_go_without_ray(run, no_work, clip, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = run("refine", clip, *FAST, PROMPT, "--ray=auto", "-o", tmp_path / "out.mp4", code=2)
    assert "--ray spreads the work itself" in said.err


def refuse() -> Refiner:
    raise ValueError("There is no folder models.")


def test_workers_say_what_they_do_not_see(clip, one_thread):
    pytest.importorskip("ray", reason="Ray is not installed")
    mark = clip.with_name("mark")
    with one_thread():
        for size, words in ((1, f"does not see {clip} as it is here"), (0, f"does not see {clip.parent} as it is")):
            seen = [(clip, clip.stat().st_size + size)]
            with pytest.raises(ValueError, match=words):
                cluster.Worker(refuse, ".", 1, seen, mark).meet()
        with pytest.raises(ValueError, match=r"The worker on .*: There is no folder models\."):
            cluster.Worker(refuse, ".", 1, [], clip).meet()


@pytest.mark.parametrize(
    ("resources", "device", "workers", "share"),
    [
        ({"CPU": 9.0}, "auto", 4, {"num_cpus": 2}),
        ({"CPU": 64.0, "GPU": 8.0}, "auto", 8, {"num_gpus": 1, "num_cpus": 2}),
        ({"CPU": 8.0, "GPU": 8.0}, "cuda", 8, {"num_gpus": 1, "num_cpus": 1}),
        ({"CPU": 8.0, "GPU": 8.0}, "cpu", 4, {"num_cpus": 2}),
    ],
)
def test_what_workers_take(monkeypatch, resources, device, workers, share):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert cluster._shares(resources, device) == (workers, share)


def test_a_cluster_that_is_too_small(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    with pytest.raises(ValueError, match="A worker takes 2 CPUs, as many as torch has"):
        cluster._shares({"CPU": 1.0}, "auto")
    with pytest.raises(ValueError, match="The Ray cluster has no GPU for --device cuda:1"):
        cluster._shares({"CPU": 4.0}, "cuda:1")
