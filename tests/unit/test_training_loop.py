"""Training runs: they learn, they go on where they stopped, and what they write loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flashvideo
from flashvideo import load_stage1, load_stage2
from flashvideo.checkpoints.load import load_vae
from flashvideo.models.text import load_text_encoder
from flashvideo.training.config import Phase, RunSettings, from_table, read_toml
from flashvideo.training.loop import Run, checkpoints_in, learning_rate_factor, train
from flashvideo.training.runs import open_run
from flashvideo.training.stages import StageConfig
from flashvideo.training.text import build_tokenizer
from flashvideo.training.vae import VaeConfig

STAGE1 = """
kind = "stage1"
vae = "{vae}"
{start}

[run]
seed = 5
learning_rate = 2e-3
max_grad_norm = 1.0
ema = 0.9
log_every = 1
save_every = 3

[datasets.clips]
source = "shapes"
height = 32
width = 48
frames = 5
count = 2
low = true
cache = "{cache}"
{more}

[[phases]]
steps = 4
batch_size = 2

[[phases]]
steps = 2
batch_size = 1
crop = [2, 4]
"""
NEW = """
[train_text]
d_model = 16
d_kv = 8
num_heads = 2
d_ff = 16
num_layers = 1

[model]
num_layers = 1
num_attention_heads = 1
time_embed_dim = 8
text_embed_dim = 16
"""


@pytest.fixture
def write(tmp_path):
    """``write(text, **changes)``: a configuration of Stage I with small new models, on the tiny VAE."""

    def configuration(
        text: str = STAGE1, more: str = "", start: str = "", tables: str = NEW, name: str = "run"
    ) -> Path:
        from tests.conftest import TINY

        path = tmp_path / f"{name}.toml"
        body = text.format(vae=TINY / "3d-vae.pt", cache=tmp_path / f"cache-{name}", more=more, start=start)
        path.write_text(body + tables)
        return path

    return configuration


def weights(folder: Path) -> bytes:
    return (folder / "stage1.safetensors").read_bytes()


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


def test_what_a_run_writes_loads_in_our_loaders(write, tmp_path):
    train(open_run(write(), tmp_path / "out"))
    model, text = load_stage1(tmp_path / "out/stage1.safetensors"), load_text_encoder(tmp_path / "out/text")
    embeds = text.encode("a small red star rests", warn=False)
    assert embeds.shape == (1, 226, 16)
    assert model.config.max_text_seq_length == 32
    x = torch.zeros(1, 16, 2, 4, 6)
    assert model(x, torch.tensor([5.0]), embeds[:, :32]).shape == x.shape
    assert model.config.latent_scale > 0


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


def test_stage1_learns_one_clip_by_heart(write, tmp_path):
    text = STAGE1.replace("count = 2", "count = 1").replace("steps = 4\nbatch_size = 2", "steps = 150\nbatch_size = 4")
    text = text.replace("log_every = 1", "log_every = 10").replace("save_every = 3", "save_every = 1000")
    run = open_run(write(text.replace("2e-3", "5e-3")), tmp_path / "out")
    train(run)
    first, last = run.history[0]["loss"], run.history[-2]["loss"]
    assert last < 0.55 * first, (first, last)


def test_stage2_starts_from_stage1_and_trains_on_degraded_copies(write, tmp_path, tiny_text):
    from tests.conftest import TINY

    text = STAGE1.replace('kind = "stage1"', 'kind = "stage2"').replace("low = true", "degraded_copies = 2")
    start = f'start = "{TINY / "stage1.pt"}"\ntext_encoder = "{TINY / "text"}"'
    run = open_run(write(text, start=start, tables=""), tmp_path / "out")
    train(run)
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in run.history)
    refined = load_stage2(tmp_path / "out/stage2.safetensors")
    assert refined.noise_step_embedding.linear_2.weight.any()
    assert refined.config.latent_scale == pytest.approx(1.15258426)


def test_a_trained_lora_merged_equals_unmerged(write, tmp_path):
    from tests.conftest import TINY

    start = f'start = "{TINY / "stage1.pt"}"\ntext_encoder = "{TINY / "text"}"'
    tables = "\n[lora]\nrank = 4\nalpha = 4.0\n"
    run = open_run(write(start=start, tables=tables), tmp_path / "out")
    train(run)
    live = run.objective.transformer.eval()
    merged = load_stage1(TINY / "stage1.pt", lora=tmp_path / "out/stage1_lora.safetensors")
    plain = load_stage1(TINY / "stage1.pt")
    x, text = torch.randn(1, 16, 2, 4, 6), torch.randn(1, 226, 32)
    with torch.no_grad():
        outputs = [model(x, torch.tensor([500.0]), text) for model in (live, merged, plain)]
    assert (outputs[1] - outputs[2]).abs().max() > 1e-4
    # the exported LoRA is the average over steps, the live one its last step: compare after loading the average
    from flashvideo.checkpoints.lora import add_lora

    adapted = load_stage1(TINY / "stage1.pt")
    add_lora(adapted, tmp_path / "out/stage1_lora.safetensors")
    with torch.no_grad():
        unmerged = adapted(x, torch.tensor([500.0]), text)
    torch.testing.assert_close(unmerged, outputs[1], atol=2e-5, rtol=1e-4)


def test_the_averaged_weights_are_exported(write, tmp_path):
    train(open_run(write(), tmp_path / "averaged"))
    config = write()
    config.write_text(config.read_text().replace("ema = 0.9", "ema = 0.0"))
    train(open_run(config, tmp_path / "last"))
    assert weights(tmp_path / "averaged") != weights(tmp_path / "last")


def test_gradient_accumulation_and_checkpointing_change_memory_only(write, tmp_path):
    more = "gradient_checkpointing = true\n"
    config = write()
    train(open_run(config, tmp_path / "plain"))
    config.write_text(config.read_text().replace("[run]\n", "[run]\n" + more))
    train(open_run(config, tmp_path / "checkpointed"))
    plain, checkpointed = (load_stage1(tmp_path / n / "stage1.safetensors") for n in ("plain", "checkpointed"))
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_vae_can_be_trained(tmp_path):
    path = tmp_path / "vae.toml"
    path.write_text(
        'kind = "vae"\n[model]\nblock_out_channels = [8, 8, 8, 16]\nnorm_num_groups = 4\n[run]\nlog_every = 1\n'
        "learning_rate = 1e-3\n[[phases]]\nsteps = 2\nbatch_size = 1\ncrop = [16, 16]\nframes = 1\n"
        "[[phases]]\nsteps = 1\nbatch_size = 1\ncrop = [16, 24]\nframes = 17\n"
    )
    train(open_run(path, tmp_path / "out"))
    vae = load_vae(tmp_path / "out/vae.safetensors")
    assert tuple(vae.config.block_out_channels) == (8, 8, 8, 16)
    assert vae.config.norm_num_groups == 4


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
        ("learning_rate = 2e-3", "learning_rate = 0.0", "expected a positive number"),
    ],
)
def test_bad_configurations_are_refused_in_words_before_any_work(write, tmp_path, old, new, message):
    config = write()
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        open_run(config, tmp_path / "out")
    assert not (tmp_path / "cache-run").exists()


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


@pytest.mark.parametrize("path", sorted((Path(flashvideo.__file__).parent / "configs").rglob("*.toml")), ids=str)
def test_bundled_configurations_are_valid(path):
    table = read_toml(path)
    config = from_table({"vae": VaeConfig}.get(table["kind"], StageConfig), table, path.name)
    config.run.check()
    for number, phase in enumerate(config.phases):
        phase.check(f"phases[{number}]")
    if isinstance(config, StageConfig):
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


def read_log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_eight_bit_adamw_without_bitsandbytes_is_refused_in_words(monkeypatch, tmp_path):
    for name in ("bitsandbytes", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    settings = RunSettings(optimizer="adamw8bit")
    with pytest.raises(ValueError, match="needs bitsandbytes"):
        train(Run(Linear(), one_batch, [Phase()], settings, tmp_path, lambda folder, state: None))


def test_batches_prepared_ahead_are_the_same(write, tmp_path):
    config = write()
    train(open_run(config, tmp_path / "inline"))
    config.write_text(config.read_text().replace("[run]\n", "[run]\nworkers = 3\n"))
    train(open_run(config, tmp_path / "threads"))
    assert weights(tmp_path / "threads") == weights(tmp_path / "inline")
