"""What FSDP and DeepSpeed have to be told before accelerate prepares a model for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from .config import RunSettings

_SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


def forget_earlier_run() -> None:
    """Let accelerate take another precision than an earlier run of this process had; where it shards, it cannot."""
    from accelerate.state import AcceleratorState, is_initialized

    if is_initialized() and AcceleratorState().distributed_type not in _SHARDED:
        AcceleratorState._reset_state()


def set_up_sharding(state: Any, settings: RunSettings, batch_size: int) -> None:
    """Adjust their settings to the run's; where nothing is sharded, do nothing.

    Args:
        state: accelerate's ``AcceleratorState``.
        settings: of the run.
        batch_size: samples of a micro-batch on one device.

    Raises:
        ValueError: what cannot be had together with sharding.
    """
    kind = state.distributed_type
    if settings.ema and kind in _SHARDED:
        raise ValueError(
            "run.ema needs whole parameters on every device, which FSDP and DeepSpeed do not keep. Set it to 0."
        )
    flat = kind == "FSDP" and _version(state.fsdp_plugin) == 1
    if settings.optimizer == "muon" and (flat or kind == "DEEPSPEED"):
        raise ValueError(
            'run.optimizer = "muon" needs whole matrices, which DeepSpeed and FSDP 1 do not keep. Take "adamw", or '
            "FSDP 2 (accelerate 1.6 or newer)."
        )
    if kind == "FSDP":
        if flat:
            state.fsdp_plugin.use_orig_params = True  # or the optimiser, which was made before, goes on with stale ones
        _cast_parameters_only(state.fsdp_plugin)
    if kind == "DEEPSPEED":
        _tell_deepspeed(state.deepspeed_plugin.deepspeed_config, settings, batch_size)


def _version(plugin: Any) -> int:
    """Of FSDP; older versions of accelerate have the first alone."""
    return int(getattr(plugin, "fsdp_version", 1))


def _cast_parameters_only(plugin: Any) -> None:
    """Its mixed precision would round what goes into a module and what comes out, too: times, targets, the loss."""
    if plugin.mixed_precision_policy is None:
        return
    kept: dict[str, Any] = {"reduce_dtype": torch.float32, "cast_forward_inputs": False}
    if _version(plugin) == 1:
        kept.update(buffer_dtype=torch.float32, cast_root_forward_inputs=False)
    else:
        kept.update(output_dtype=None)
    plugin.mixed_precision_policy = dataclasses.replace(plugin.mixed_precision_policy, **kept)


def _tell_deepspeed(config: dict[str, Any], settings: RunSettings, batch_size: int) -> None:
    """DeepSpeed clips and accumulates itself, and would ask a data loader for the size of a batch."""
    config.update(
        train_micro_batch_size_per_gpu=batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        gradient_clipping=settings.max_grad_norm,
    )
    config.setdefault("zero_optimization", {})["stage3_gather_16bit_weights_on_model_save"] = True  # or no export
