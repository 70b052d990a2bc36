"""Training whose parameters are shared out over processes: FSDP, and DeepSpeed where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin

from flashvideo.training.config import RunSettings
from flashvideo.training.sharding import set_up_sharding
from tests.unit.training.small_runs import changed, read_log, weights

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENTS = {
    "plain": {},
    "fsdp": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "FlashVideoLayer",
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    },
    **{
        f"zero{stage}": {
            "DS_ACCELERATOR": "cpu",
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
        }
        for stage in (2, 3)
    },
}
KNOWS_FSDP_2 = hasattr(FullyShardedDataParallelPlugin(), "fsdp_version")  # accelerate before 1.6 knows the first only
DEEPSPEED = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


@pytest.fixture
def config(write) -> Path:
    sharded = changed(write(), "ema = 0.9", "ema = 0.0")
    return changed(sharded, "[run]", '[run]\nprecision = "bf16"\ngradient_accumulation = 2')


def run_in_two_processes(kind: str, config: Path, folder: Path) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.unit.training.sharded_run", kind, str(config), str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **ENVIRONMENTS[kind]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("fsdp", "FSDP DTensor" if KNOWS_FSDP_2 else "FSDP Parameter"),
        pytest.param("zero2", "DEEPSPEED Parameter", marks=DEEPSPEED),
        pytest.param("zero3", "DEEPSPEED Parameter", marks=DEEPSPEED),
    ],
)
def test_sharded_runs_learn_the_same_and_resume_to_the_same_bytes(config, tmp_path, kind, told):
    out = run_in_two_processes(kind, config, tmp_path / kind)
    assert out.splitlines().count(told) == 3, out
    run_in_two_processes("plain", config, tmp_path / "plain")
    assert weights(tmp_path / kind / "parts") == weights(tmp_path / kind / "whole")
    losses, plain = ([entry["loss"] for entry in read_log(tmp_path / name / "whole")] for name in (kind, "plain"))
    # bf16 rounds otherwise where gradients are shared otherwise; rounded targets or times would be off by 2e-3.
    assert losses == pytest.approx(plain, rel=5e-4)
    assert len(losses) == 6


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        (RunSettings(ema=0.9), "FSDP", "run.ema needs whole parameters"),
        (RunSettings(ema=0.9), "DEEPSPEED", "run.ema needs whole parameters"),
        (RunSettings(optimizer="muon"), "DEEPSPEED", "needs whole matrices"),
    ],
)
def test_what_needs_whole_parameters_is_refused(settings, kind, message):
    with pytest.raises(ValueError, match=message):
        set_up_sharding(SimpleNamespace(distributed_type=kind), settings, 1)


@pytest.mark.parametrize("version", [1, 2])
def test_muon_needs_the_second_fsdp(version):
    plugin = SimpleNamespace(fsdp_version=version, mixed_precision_policy=None)
    state = SimpleNamespace(distributed_type="FSDP", fsdp_plugin=plugin)
    with pytest.raises(ValueError, match="FSDP 1") if version == 1 else contextlib.nullcontext():
        set_up_sharding(state, RunSettings(optimizer="muon"), 1)


@pytest.mark.parametrize("known", [{"fsdp_version": 1}, {"fsdp_version": 2}] if KNOWS_FSDP_2 else [{}])
def test_fsdp_rounds_parameters_only(known):
    plugin = FullyShardedDataParallelPlugin(**known)
    plugin.set_mixed_precision("bf16")
    set_up_sharding(SimpleNamespace(distributed_type="FSDP", fsdp_plugin=plugin), RunSettings(), 1)
    policy = plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype) == (torch.bfloat16, torch.float32)
    assert not policy.cast_forward_inputs
