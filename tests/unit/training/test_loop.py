"""The training loop: it learns, goes on where it stopped, ends in the same bytes."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch

from flashvideo import load_stage1
from flashvideo.training.config import Phase, RunSettings
from flashvideo.training.loop import Run, learning_rate_factor, train
from flashvideo.training.runs import open_run
from tests.unit.training.small_runs import read_log, weights


def test_a_resumed_run_ends_in_the_bytes_of_an_uninterrupted_one(write, tmp_path):
    config = write()
    assert train(open_run(config, tmp_path / "whole")) == 6
    assert train(open_run(config, tmp_path / "parts"), stop_after=2) == 2
    assert train(open_run(config, tmp_path / "parts"), resume=True, stop_after=5) == 5
    assert weights(tmp_path / "parts") != weights(tmp_path / "whole")
    assert train(open_run(config, tmp_path / "parts"), resume=True) == 6
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert (tmp_path / "parts/text/model.safetensors").read_bytes() == (
        tmp_path / "whole/text/model.safetensors"
    ).read_bytes()
    losses = [[entry["loss"] for entry in read_log(tmp_path / name)] for name in ("parts", "whole")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def test_overfitting_one_batch(tmp_path):
    torch.manual_seed(0)
    objective = Linear()
    settings = RunSettings(learning_rate=0.05, max_grad_norm=10, log_every=10, save_every=1000)
    run = Run(objective, one_batch, [Phase(steps=200, batch_size=4)], settings, tmp_path, lambda folder, state: None)
    train(run)
    assert run.history[0]["loss"] > 0.3
    assert run.history[-1]["loss"] < 1e-3


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)

    def forward(self, batch):
        return (self.layer(batch["x"]) - batch["y"]).square().mean(), {}


def one_batch(phase, generator, size):
    fixed = torch.Generator().manual_seed(1)
    return {"x": torch.randn(size, 8, generator=fixed), "y": torch.randn(size, 2, generator=fixed)}


def test_the_averaged_weights_are_exported(write, tmp_path):
    train(open_run(write(), tmp_path / "averaged"))
    config = write()
    config.write_text(config.read_text().replace("ema = 0.9", "ema = 0.0"))
    train(open_run(config, tmp_path / "last"))
    assert weights(tmp_path / "averaged") != weights(tmp_path / "last")


def test_accumulated_gradients_are_the_mean_of_the_micro_batches(tmp_path):
    seen = []

    def make_batch(_phase, generator, size):
        seen.append({"x": torch.randn(size, 8, generator=generator), "y": torch.randn(size, 2, generator=generator)})
        return seen[-1]

    torch.manual_seed(0)
    objective = Linear()
    expected = copy.deepcopy(objective)
    settings = RunSettings(gradient_accumulation=3, max_grad_norm=1e6, log_every=1, learning_rate=0.01)
    run = Run(objective, make_batch, [Phase(steps=1, batch_size=2)], settings, tmp_path, lambda folder, state: None)
    train(run)
    assert len(seen) == 3
    losses = [expected(batch)[0] for batch in seen]
    mean = sum(losses) / 3
    mean.backward()
    assert run.history[0]["loss"] == pytest.approx(mean.item(), rel=1e-6)
    norm = torch.cat([p.grad.flatten() for p in expected.parameters()]).norm().item()
    assert run.history[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    torch.optim.AdamW(expected.parameters(), lr=0.01, betas=settings.betas, weight_decay=settings.weight_decay).step()
    for ours, theirs in zip(objective.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_gradients_are_clipped(tmp_path):
    """Clipped to next to nothing they are far below AdamW's epsilon, and the weights stay."""
    torch.manual_seed(0)
    batch, moved = {"x": torch.randn(2, 8), "y": torch.randn(2, 2)}, []
    for norm in (1e6, 1e-14):
        objective = Linear()
        before = [p.detach().clone() for p in objective.parameters()]
        settings = RunSettings(max_grad_norm=norm, learning_rate=0.01, weight_decay=0.0)
        phases, folder = [Phase(steps=1, batch_size=2)], tmp_path / str(norm)
        train(Run(objective, lambda *_: batch, phases, settings, folder, lambda folder, state: None))
        moved.append(
            max(float((a - b).detach().abs().max()) for a, b in zip(objective.parameters(), before, strict=True))
        )
    assert moved[0] > 5e-3
    assert moved[1] < 1e-6


def test_gradient_checkpointing_changes_memory_only(write, tmp_path):
    more = "gradient_checkpointing = true\n"
    config = write()
    train(open_run(config, tmp_path / "plain"))
    config.write_text(config.read_text().replace("[run]\n", "[run]\n" + more))
    train(open_run(config, tmp_path / "checkpointed"))
    plain, checkpointed = (load_stage1(tmp_path / n / "stage1.safetensors") for n in ("plain", "checkpointed"))
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_in_words(tmp_path):
    class Broken(Linear):
        def forward(self, batch):
            return super().forward(batch)[0] * float("nan"), {}

    run = Run(Broken(), one_batch, [Phase(steps=2, batch_size=1)], RunSettings(), tmp_path, lambda folder, state: None)
    with pytest.raises(ValueError, match=r"The loss is nan at step 1\. Lower run\.learning_rate"):
        train(run)


def test_resuming_with_another_model_is_refused(write, tmp_path):
    config = write()
    train(open_run(config, tmp_path / "out"), stop_after=1)
    config.write_text(
        config.read_text().replace("num_layers = 1\nnum_attention_heads", "num_layers = 2\nnum_attention_heads")
    )
    with pytest.raises(ValueError, match="is of another model or other settings"):
        train(open_run(config, tmp_path / "out"), resume=True)


def test_learning_rates():
    settings = RunSettings(warmup_steps=10, decay="cosine")
    factors = [learning_rate_factor(step, 110, settings) for step in (0, 9, 10, 60, 109)]
    assert factors == pytest.approx([0.1, 1.0, 1.0, 0.505, 0.0102], abs=1e-3)
    assert learning_rate_factor(5000, 10_000, RunSettings()) == 1.0


def test_losses_go_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = RunSettings(log_every=2)
    train(Run(Linear(), one_batch, [Phase(steps=6, batch_size=1)], settings, tmp_path, lambda folder, state: None))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6]


def test_two_processes_train_together(write, tmp_path):
    """Each draws its own batches from one cache that both have made; gradients are averaged."""
    config = write()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "flashvideo"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "train", str(config), "-o", str(tmp_path / "two")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6 of 6 steps are done") == 1
    train(open_run(config, tmp_path / "one"))
    logs = [read_log(tmp_path / name) for name in ("two", "one")]
    assert [entry["step"] for entry in logs[0]] == [1, 2, 3, 4, 5, 6]
    assert logs[0][0]["loss"] == pytest.approx(logs[1][0]["loss"], rel=1e-4)  # the first process's own first batch
    assert logs[0][0]["grad_norm"] != pytest.approx(logs[1][0]["grad_norm"], rel=1e-3)
    assert weights(tmp_path / "two") != weights(tmp_path / "one")


def test_eight_bit_adamw_without_bitsandbytes_is_refused_in_words(monkeypatch, tmp_path):
    for name in ("bitsandbytes", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    settings = RunSettings(optimizer="adamw8bit")
    with pytest.raises(ValueError, match="needs bitsandbytes"):
        train(Run(Linear(), one_batch, [Phase()], settings, tmp_path, lambda folder, state: None))


def test_eight_bit_adamw_resumes_to_the_same_bytes(tmp_path):
    pytest.importorskip("bitsandbytes")
    settings, states = RunSettings(optimizer="adamw8bit", learning_rate=0.01, max_grad_norm=10), {}

    def run(name: str) -> Run:
        torch.manual_seed(0)
        objective = Linear()
        objective.layer = torch.nn.Linear(8, 1024)  # smaller matrices are not worth eight bits
        return Run(
            objective,
            lambda _phase, generator, size: {
                "x": torch.randn(size, 8, generator=generator),
                "y": torch.ones(size, 1024),
            },
            [Phase(steps=6, batch_size=4)],
            settings,
            tmp_path / name,
            lambda folder, state: states.update({folder.name: {k: v.clone() for k, v in state.items()}}),
        )

    train(run("whole"))
    train(run("parts"), stop_after=3)
    parts = run("parts")
    train(parts, resume=True)
    for name, value in states["whole"].items():
        assert torch.equal(value, states["parts"][name])
    assert states["whole"]["layer.bias"].abs().min() > 0


def test_batches_prepared_ahead_are_the_same(write, tmp_path):
    config = write()
    train(open_run(config, tmp_path / "inline"))
    config.write_text(config.read_text().replace("[run]\n", "[run]\nworkers = 3\n"))
    train(open_run(config, tmp_path / "threads"))
    assert weights(tmp_path / "threads") == weights(tmp_path / "inline")
