"""What jobs are called and what they take on the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flashvideo.runs.jobs import Job, Outputs, Wanted, prompt_jobs, seed_jobs
from flashvideo.runs.settings import Stage1Settings, Stage2Settings

STAGE1 = Stage1Settings(height=64, width=96, num_frames=9)
STAGE2 = Stage2Settings(height=128, width=192)
PROMPTS = ["A red ball!", "a red ball"]


def test_a_file_is_named_by_all_that_decides_what_is_in_it() -> None:
    def name(prompt: str = "a ball", stage1=STAGE1, stage2=STAGE2, stage2_file: str = "sha256 1") -> str:
        (job,) = prompt_jobs([prompt], stage1, stage2, Path("out"), 1, {"stage2": stage2_file})
        return job.outputs.video.name

    others = [
        name("A ball"),
        name(stage1=replace(STAGE1, num_steps=7)),
        name(stage2=replace(STAGE2, shift=1.0)),
        name(stage2_file="sha256 2"),
    ]
    assert name() == name()
    assert len({name(), *others}) == 5


def test_both_stages_of_a_job_have_its_seed() -> None:
    jobs = seed_jobs("a ball", replace(STAGE1, seed=5), replace(STAGE2, seed=5), Path("out.mp4"), 3)
    assert [(job.stage1.seed, job.stage2.seed) for job in jobs] == [(5, 5), (6, 6), (7, 7)]
    assert [job.outputs.video.name for job in jobs] == ["out.mp4", "out.seed6.mp4", "out.seed7.mp4"]


def test_every_file_that_is_wanted_is_counted() -> None:
    job = Job("a ball", STAGE1, STAGE2, Outputs(Path("out.mp4")))
    small, large = 16 * 3 * (64 // 8) * (96 // 8), 16 * 3 * (128 // 8) * (192 // 8)
    preview, video = 9 * 64 * 96, 9 * 128 * 192
    assert job.bytes_on_disk(Wanted(final=False)) == 4 * small + preview // 4
    assert job.bytes_on_disk(Wanted()) == 4 * (small + large) + (preview + video) // 4
    assert job.bytes_on_disk(Wanted(joint=True)) == 4 * (small + large) + (preview + 2 * video) // 4
    assert job.bytes_on_disk(Wanted(degraded=True)) == 4 * (small + 2 * large) + (preview + video) // 4
