"""What core's nodes can do to a stage's sampling that would go wrong without a word: refused before it starts."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ..shared.wiring import require_undegraded_samples
from .sampling import Stage1Sampling, Stage2Sampling

_OWN_SAMPLING = {
    "stage1": (
        Stage1Sampling,
        "A node has replaced Stage I's sampling (ModelSamplingDiscrete and its like do). Stage I would be told other "
        "noise levels than it gets: take that node out, and use Stage I Sigmas.",
    ),
    "stage2": (
        Stage2Sampling,
        "A node has replaced Stage II's sampling (ModelSamplingSD3 and its like do). Stage II would start from "
        "pure noise: take that node out, and set the shift on Stage II Sigmas or Stage II Refiner.",
    ),
}
# They take a noise sampler too, but draw nothing from it; and one that draws without it.
_CALM = {"sample_res_multistep", "sample_res_multistep_cfg_pp"}
_NOISY = {"sample_lcm_upscale"}


def require_own_sampling(stage: str, sampling: Any) -> None:
    """Raise ValueError if a node has replaced a stage's ``model_sampling``."""
    kind, message = _OWN_SAMPLING[stage]
    if not isinstance(sampling, kind):
        raise ValueError(message)


def adds_noise(sampler: Any) -> bool:
    """Whether one of core's SAMPLERs draws noise on its way."""
    function = getattr(sampler, "sampler_function", None)
    if function is None:
        return False
    name, parameters = getattr(function, "__name__", ""), inspect.signature(function).parameters
    if name in _NOISY:
        return True
    if "noise_sampler" not in parameters or name in _CALM:
        return False
    amounts = [
        sampler.extra_options.get(key, parameters[key].default) for key in ("eta", "s_noise") if key in parameters
    ]
    return all(float(amount) != 0 for amount in amounts)


def refuse_misfits(executor: Any, noise: Tensor, latent_image: Tensor, sampler: Any, *args: Any, **kwargs: Any) -> Any:
    """Around sampling, where a LATENT's samples are still those that a node gave.

    Raises:
        ValueError: they are degraded, and the sampler would degrade them again; a sampler that adds noise to Stage II's
            flow, which has none; one that scales noise as only its own model has it.
    """
    model = executor.class_obj.model_patcher
    stage = model.model.flashvideo_stage
    require_own_sampling(stage, model.get_model_object("model_sampling"))
    if type(sampler).__name__ == "VOID_DDIM":
        raise ValueError("VOID's sampler scales noise as VOID's model has it. Connect another sampler.")
    if stage == "stage2":
        if torch.count_nonzero(noise):
            require_undegraded_samples(latent_image)
        if adds_noise(sampler):
            raise ValueError(
                "The sampler adds noise in its steps (ancestral and SDE samplers do). Stage II's flow has none on its "
                "way, and would not remove it: use one without, such as euler, or set its eta to 0."
            )
    return executor(noise, latent_image, sampler, *args, **kwargs)
