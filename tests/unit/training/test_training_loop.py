"""The training loop: it learns, goes on where it stopped, reads its configuration strictly."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import flashvideo
from flashvideo import load_stage1
from flashvideo.loading.text import token_ids
from flashvideo.training.config import Phase, RunSettings, from_table, read_toml, to_toml
from flashvideo.training.loop import Run, checkpoints_in, learning_rate_factor, train
from flashvideo.training.runs import open_run
from flashvideo.training.stages import StageConfig
from flashvideo.training.text import TextModel, build_tokenizer, new_text_encoder
from flashvideo.training.vae import VaeConfig
from tests.unit.training.training_runs import changed, read_log, weights


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


def test_an_interrupted_run_keeps_what_it_did(write, tmp_path):
    run = open_run(write(), tmp_path / "out")
    make = run.make_batch
    calls = []

    def stop_in_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return make(*arguments)

    run.make_batch = stop_in_the_third
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert [path.name for path in checkpoints_in(tmp_path / "out")] == ["step-00000002"]
    assert train(open_run(write(), tmp_path / "out"), resume=True) == 6


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


def test_gradient_checkpointing_changes_memory_only(write, tmp_path):
    more = "gradient_checkpointing = true\n"
    config = write()
    train(open_run(config, tmp_path / "plain"))
    config.write_text(config.read_text().replace("[run]\n", "[run]\n" + more))
    train(open_run(config, tmp_path / "checkpointed"))
    plain, checkpointed = (load_stage1(tmp_path / n / "stage1.safetensors") for n in ("plain", "checkpointed"))
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "stage1"', 'kind = "stage3"', "expected 'stage1', 'stage2' or 'vae'"),
        ("ema = 0.9", "emma = 0.9", r"config\.run: unknown emma\. Known: .*ema"),
        ("ema = 0.9", 'ema = "much"', r"config\.run\.ema is 'much'; expected float"),
        ("ema = 0.9", "ema = 1.5", r"run\.ema is 1\.5"),
        ("steps = 4", "steps = 0", r"phases\[0\]\.steps is 0"),
        ("crop = [2, 4]", "crop = [3, 4]", r"phases\[1\]\.crop is \(3, 4\)"),
        ("crop = [2, 4]", "crop = [2]", "expected 2"),
        ("batch_size = 1\n", "batch_size = 1\ndatasets = {other = 1}\n", r"names the datasets \['other'\]"),
        ("[train_text]", "text_dropout = 0.1\n[train_text_]", "unknown train_text_"),
        ('source = "shapes"', 'source = "folder"', r"path is missing"),
        ("num_layers = 1\n", "num_layers = 1\nlearning_rate_scale = 0.0\n", r"train_text\.learning_rate_scale is 0"),
        ("learning_rate = 2e-3", "learning_rate = 0.0", "expected a positive number"),
    ],
)
def test_bad_configurations_are_refused_in_words_before_any_work(write, tmp_path, old, new, message):
    config = write()
    with pytest.raises(ValueError, match=message):
        open_run(changed(config, old, new), tmp_path / "out")
    assert not (tmp_path / "cache-run").exists()


def test_a_configuration_extends_another(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "base.toml").write_text('kind = "vae"\n[run]\nseed = 3\nema = 0.5\n[[phases]]\nsteps = 7\n[[phases]]\n')
    path = tmp_path / "more/above.toml"
    path.write_text('extends = "../base.toml"\n[run]\nema = 0.9\nbetas = [0.5, 0.6]\n[[phases]]\nsteps = 2\n')
    expected = {"kind": "vae", "run": {"seed": 3, "ema": 0.9, "betas": [0.5, 0.6]}, "phases": [{"steps": 2}]}
    assert read_toml(path) == expected
    path.write_text(to_toml(expected))
    assert read_toml(path) == expected
    path.write_text('extends = "above.toml"\n')
    with pytest.raises(ValueError, match=r"extends itself: above.toml -> above.toml"):
        read_toml(path)


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


def test_the_command_line_trains_and_does_not_overwrite(run, write, tmp_path):
    config = write()
    said = run("train", config, "-o", tmp_path / "out", "--stop-after", 1)
    assert "1 of 6 steps are done" in said.out
    assert "--resume" in run("train", config, "-o", tmp_path / "out", code=2).err
    assert "6 of 6 steps" in run("train", config, "-o", tmp_path / "out", "--resume").out
    assert "There is no configuration" in run("train", tmp_path / "nothing.toml", "-o", tmp_path / "x", code=2).err


def test_learning_rates():
    settings = RunSettings(warmup_steps=10, decay="cosine")
    factors = [learning_rate_factor(step, 110, settings) for step in (0, 9, 10, 60, 109)]
    assert factors == pytest.approx([0.1, 1.0, 1.0, 0.505, 0.0102], abs=1e-3)
    assert learning_rate_factor(5000, 10_000, RunSettings()) == 1.0


def test_known_words_are_one_token_and_others_are_spelt():
    tokenizer = build_tokenizer(["red", "star", "moves"])
    assert tokenizer.encode("A red Star, moves!").tokens == ["▁a", "▁red", "▁star", "▁moves", "</s>"]
    assert tokenizer.encode("medium motion,a red").tokens[-3:] == ["▁a", "▁red", "</s>"]
    assert "<unk>" not in tokenizer.encode("an unheard-of zebra, 42 times").tokens
    assert from_table(Phase, {"steps": 3}, "x").steps == 3


def test_a_new_text_encoder_knows_what_belongs_together(tmp_path):
    """At first already, each noun sees its own phrase far better than another one's."""
    colours, forms = ("red", "blue", "green", "pink"), ("star", "circle", "cross", "square")
    encoder = new_text_encoder(TextModel(), ["a", "and", "moves", *colours, *forms], tmp_path, 0, 32)

    def nouns(first: str, second: str) -> tuple[Tensor, Tensor]:
        ids = token_ids(encoder.tokenizer, f"a {first} star moves and a {second} circle moves", encoder.max_length)
        states = encoder.model(ids).last_hidden_state[0]
        return states[2], states[7]

    with torch.no_grad():
        usual = nouns("red", "blue")
        own, other = nouns("green", "blue"), nouns("red", "pink")
    for index, (mine, foreign) in enumerate(((own, other), (other, own))):
        seen, unseen = ((usual[index] - changed[index]).norm() / usual[index].norm() for changed in (mine, foreign))
        assert seen > 0.3
        assert unseen < 0.4 * seen


@pytest.mark.parametrize("path", sorted((Path(flashvideo.__file__).parent / "configs").rglob("*.toml")), ids=str)
def test_bundled_configurations_are_valid(path, tmp_path):
    table = read_toml(path)
    config = from_table({"vae": VaeConfig}.get(table["kind"], StageConfig), table, path.name)
    (tmp_path / "again.toml").write_text(to_toml(table))
    assert read_toml(tmp_path / "again.toml") == table
    config.check()


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
