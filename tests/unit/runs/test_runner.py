"""A job's files: resuming looks at every file that is wanted."""

from __future__ import annotations

import pytest

from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.runs.jobs import Job, Outputs, Wanted
from flashvideo.runs.record import load_record
from flashvideo.runs.runner import Runner
from flashvideo.runs.settings import Stage1Settings, Stage2Settings
from tests.conftest import TINY

STAGE1 = Stage1Settings(height=32, width=32, num_frames=5, num_steps=2)
STAGE2 = Stage2Settings(height=64, width=64, num_steps=2)


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    with one_thread():
        yield


@pytest.fixture(scope="module")
def models():
    return ModelStore(find_models(str(TINY), {}, ("stage1", "stage2", "vae", "text")))


@pytest.fixture
def job(tmp_path):
    return Job("a red ball rolls", STAGE1, STAGE2, Outputs(tmp_path / "out.mp4"))


@pytest.fixture
def resumed(models, job, count):
    """``resumed(wanted)``: calls of Stage I and Stage II in a run that goes on from what is there."""

    def run(wanted):
        calls = [count(name) for name in ("sample_stage1", "refine_latents")]
        Runner(models, wanted, overwrite=True, resume=True).run([job], 8)
        return [len(made) for made in calls]

    return run


def test_what_is_there_is_not_made_again(resumed, job, names, tmp_path):
    everything = Wanted(joint=True, degraded=True, refined=True)
    assert not job.finished(everything)
    assert resumed(everything) == [1, 1]
    assert job.finished(everything)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    job.outputs.video.unlink()
    assert resumed(everything) == [0, 0], "the refined latents are there to be decoded"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_degraded_latents_that_are_missing_are_made(resumed, job):
    """Refined latents were left by a run that did not keep Stage II's start: it has to be made for one that does."""
    assert resumed(Wanted(refined=True)) == [1, 1]
    assert not job.outputs.degraded.exists()
    wanted = Wanted(degraded=True, refined=True)
    assert not job.finished(wanted)
    assert resumed(wanted) == [0, 1]
    assert load_record(job.outputs.degraded).content == "degraded"
    assert job.finished(wanted)


@pytest.mark.parametrize("kind", ["joint", "degraded", "refined"])
def test_a_job_without_one_of_its_files_is_not_finished(job, made, kind):
    wanted, source = Wanted(**{kind: True}), Outputs(made / "out.mp4")
    for name in ("video", kind):
        assert not job.finished(wanted)
        data = getattr(source, name).read_bytes()
        file = getattr(job.outputs, name)
        for length in (0, len(data) - 1):
            file.write_bytes(data[:length])
            assert not job.finished(wanted), "a file that is cut short is none"
        file.write_bytes(data)
        assert job.finished(Wanted())
    assert job.finished(wanted)


def test_files_are_told_once_they_are_whole(models, job):
    files = []

    def keep(what, path):
        files.append((what, path, path.exists()))

    Runner(models, Wanted(degraded=True), written=keep).run([job], 8)
    outputs = job.outputs
    paths = {"preview": outputs.preview_video, "Stage II's start": outputs.degraded, "video": outputs.video}
    assert files == [(what, path, True) for what, path in paths.items()]
