"""Students: what they learn from their teacher, what is written, and what the rest then knows of them."""

from __future__ import annotations

import hashlib

import pytest
import torch

from flashvideo import load_stage2, refine_latents
from flashvideo.loading.convert import convert_checkpoint
from flashvideo.method.student import Student
from flashvideo.runs.inspect import inspect_checkpoint
from flashvideo.training.loop import train
from flashvideo.training.models import LoraSettings, add_trainable_lora, new_transformer
from flashvideo.training.objectives import TextSide, flow_pair
from flashvideo.training.runs import open_run
from flashvideo.training.student import StudentObjective, Teacher, TeacherSettings
from tests.conftest import TINY
from tests.unit.training.small_runs import STAGE1, changed
from tests.unit.training.test_objectives import SMALL, stage2_batch

TEACHER = TINY / "stage2.pt"
STUDENT = STAGE1.replace('kind = "stage1"', 'kind = "stage2_student"').replace("low = true", "degraded_copies = 1")
START = f'start = "{TEACHER}"\ntext_encoder = "{TINY / "text"}"\nstudent_steps = 1'
TABLES = f'\n[teacher]\ncheckpoint = "{TEACHER}"\nguidance_scale = 4.0\nnum_steps = 2\n'


def stage2_model():
    """A small one that is past its first step."""
    model = new_transformer(SMALL, 0, stage2=True, latent_scale=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return model


def objective_of(student_steps: int | None, **teacher: float) -> StudentObjective:
    settings = TeacherSettings("", **teacher)
    return StudentObjective(stage2_model(), TextSide(), Teacher(stage2_model(), settings), student_steps)


@pytest.mark.parametrize("student_steps", [None, 2])
def test_a_student_that_is_its_unguided_teacher_has_nothing_to_learn(student_steps):
    same, _ = objective_of(student_steps, guidance_scale=1.0, num_steps=2)(stage2_batch())
    guided, _ = objective_of(student_steps, guidance_scale=4.0, num_steps=2)(stage2_batch())
    assert float(same.detach()) < 1e-10
    assert float(guided.detach()) > 1e-4


def test_guidance_and_steps_are_those_of_sampling():
    """The targets against the sampler itself, sample by sample."""
    teacher, batch = objective_of(1, guidance_scale=4.0, num_steps=3, shift=2.0).teacher, stage2_batch()
    start, _ = flow_pair(*(batch[n] for n in ("latents", "low_latents", "noise")), torch.zeros(2), batch["noise_step"])
    ends = teacher.end(start, batch["embeds"], batch["noise_step"])
    for k, step in enumerate((650, 700)):
        one, text = start[k : k + 1], batch["embeds"][k : k + 1]
        how = {"noise_step": step, "num_steps": 3, "shift": 2.0, "guidance_scale": 4.0, "latent_scale": 1.0}
        torch.testing.assert_close(ends[k : k + 1], refine_latents(teacher.transformer, one, text, **how))
        with torch.no_grad():
            u, c = (teacher.transformer(one, torch.tensor([750.0]), t, noise_step=step) for t in (0 * text, text))
        velocity = teacher.velocity(start, torch.tensor([0.25, 0.25]), batch["embeds"], batch["noise_step"])
        torch.testing.assert_close(velocity[k : k + 1], u + 4.0 * (c - u), atol=1e-4, rtol=0)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("student_steps", [None, 2])
def test_gradients_reach_the_student_and_not_the_teacher(student_steps, lora):
    objective = objective_of(student_steps, guidance_scale=4.0, num_steps=2)
    if lora:
        add_trainable_lora(objective.transformer, LoraSettings(rank=2, alpha=2.0), 0)
    objective(stage2_batch())[0].backward()
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    without = [name for name, p in trained.items() if p.grad is None or not p.grad.any()]
    assert not [name for name in without if "lora_A" not in name], "a LoRA's A gets none while its B is zero"
    assert all(("lora_" in name) == lora for name in trained)
    assert not any(name.startswith("teacher") for name in objective.state_dict())
    assert all(p.grad is None for p in objective.teacher.transformer.parameters())


def test_a_student_run_resumes_to_the_same_bytes_and_says_what_it_is_for(write, tmp_path, tiny_text):
    config = write(STUDENT, start=START, tables=TABLES)
    train(open_run(config, tmp_path / "whole"))
    train(open_run(config, tmp_path / "parts"), stop_after=2)
    train(open_run(config, tmp_path / "parts"), resume=True)
    digests = [
        hashlib.sha256((tmp_path / run / "stage2_student.safetensors").read_bytes()).hexdigest()
        for run in ("whole", "parts")
    ]
    assert digests[0] == digests[1]
    path, expected = tmp_path / "whole/stage2_student.safetensors", Student(1, 2.5, 4.0)
    assert Student.from_table(load_stage2(path).config.student, "") == expected
    converted = convert_checkpoint(path, tmp_path / "converted.safetensors", dtype="bf16")
    assert [inspect_checkpoint(file).student for file in (path, converted, TEACHER)] == [expected, expected, None]


def test_a_lora_student_merged_equals_unmerged_and_carries_the_same(write, tmp_path, tiny_text):
    run = open_run(
        write(STUDENT.replace("ema = 0.9\n", ""), start=START, tables=TABLES + "\n[lora]\nrank = 4\nalpha = 4.0\n"),
        tmp_path / "out",
    )
    train(run)
    path = tmp_path / "out/stage2_student_lora.safetensors"
    assert inspect_checkpoint(path).student == Student(1, 2.5, 4.0)
    merged, x, text = load_stage2(TEACHER, lora=path), torch.randn(1, 16, 2, 4, 6), torch.randn(1, 226, 32)
    unmerged = run.objective.transformer.eval()
    with torch.no_grad():
        first, second, plain = (
            model(x, torch.tensor([1000.0]), text, noise_step=675) for model in (merged, unmerged, load_stage2(TEACHER))
        )
    torch.testing.assert_close(first, second, atol=2e-5, rtol=1e-4)
    assert (first - plain).abs().max() > 1e-4
    assert merged.config.student == {"num_steps": 1, "shift": 2.5, "guidance_scale": 4.0}


def test_what_is_trained_on_from_a_student_is_none(write, tmp_path):
    run = open_run(write(STUDENT, start=START, tables=TABLES), tmp_path / "student")
    assert run.objective.transformer.config.student is not None
    train(run, stop_after=1)
    start = START.replace(str(TEACHER), str(tmp_path / "student/stage2_student.safetensors"), 1)
    text = STUDENT.replace("stage2_student", "stage2", 1)
    further = open_run(write(text, start=start.replace("\nstudent_steps = 1", ""), tables=""), tmp_path / "further")
    assert further.objective.transformer.config.student is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "stage2_student"', 'kind = "stage2"', r"\[teacher\] and kind = .* belong together"),
        ("student_steps = 1", "student_steps = 0", r"student_steps is 0; expected a whole number: 1 or more"),
        ("guidance_scale = 4.0", "guidance_scale = -1.0", r"teacher\.guidance_scale is -1\.0"),
        ("num_steps = 2", "num_stepz = 2", r"config\.teacher: unknown num_stepz"),
    ],
)
def test_students_that_cannot_be_are_refused_before_any_work(write, tmp_path, old, new, message):
    config = changed(write(STUDENT, start=START, tables=TABLES), old, new)
    with pytest.raises(ValueError, match=message):
        open_run(config, tmp_path / "out")
    assert not (tmp_path / "cache-run").exists()
