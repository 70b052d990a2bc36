"""Schedules and samplers against the authors', step by step (golden README, sections 6 and 7)."""

from __future__ import annotations

import pytest
import torch

from flashvideo import degrade_latents, dynamic_guidance, flow_times, refine_latents, sample_stage1, zero_snr_table
from flashvideo.method.schedules import signal_and_noise, stage1_schedule
from flashvideo.method.stage2 import noise_step_for_transformer

STAGE1_SCALE, STAGE2_SCALE = 0.7, 1.15258426


class Recorder:
    """A transformer that remembers what it was given and what it answered."""

    def __init__(self, transformer):
        self.transformer = transformer
        self.inputs, self.timesteps, self.outputs, self.noise_steps = [], [], [], []

    def __call__(self, hidden_states, timestep, encoder_hidden_states, *, noise_step=None):
        extra = {} if noise_step is None else {"noise_step": noise_step}
        out = self.transformer(hidden_states, timestep, encoder_hidden_states, **extra)
        self.inputs.append(hidden_states.clone())
        self.timesteps.append(timestep.clone())
        self.outputs.append(out.clone())
        self.noise_steps.append(noise_step)
        return out


@pytest.mark.parametrize("shift", [1, 3])
def test_zero_snr_table(golden, within, shift):
    expected = torch.tensor(golden.json("schedules")[f"sqrt_alphas_cumprod_1000_shift{shift}"])
    table = zero_snr_table(float(shift))
    within(table, expected, 1e-6)
    assert table[-1] == 0


def test_sub_sampled_schedules(golden, within):
    for name, expected in golden.json("schedules")["sub_sampled"].items():
        steps, shift = name.removeprefix("steps").split("_shift")
        schedule = stage1_schedule(int(steps), float(shift))
        assert schedule.timesteps.tolist() == expected["timesteps_in_step_order"], name
        assert schedule.snapped_index.tolist() == expected["denoiser_nearest_idx_in_1000_table"], name
        within(schedule.alphas, torch.tensor(expected["sampler_sqrt_alphas_cumprod_with_trailing_1"]), 1e-6)
        within(schedule.snapped, torch.tensor(expected["denoiser_quantised_sqrt_alphas_cumprod"]), 1e-6)


def test_dynamic_guidance(golden):
    for name, rows in golden.json("schedules")["dynamic_cfg"].items():
        scale, exponent, steps = (float(part.strip("acelmnpstux")) for part in name.split("_"))
        for row in rows:
            value = dynamic_guidance(row["timestep"], int(steps), scale, exponent)
            assert value == pytest.approx(row["scale"], abs=1e-6), (name, row)
            assert int(steps) - row["timestep"] == row["step_index"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_flow_times(golden, dtype):
    for name, expected in golden.json("schedules")["stage2_t_grid"].items():
        steps, shift = name.removeprefix("steps").split("_shift")
        times = flow_times(int(steps), float(shift), getattr(torch, dtype))
        assert times.float().tolist() == expected[dtype]["t"], name
        assert (1000 - 1000 * times).float().tolist() == expected[dtype]["network_timestep"], name
        assert (times[1:] - times[:-1]).float().tolist() == expected[dtype]["dt"], name


def test_degradation_amplitudes(golden):
    for row in golden.json("schedules")["stage2_ref_noise"]:
        signal, noise = signal_and_noise(row["ref_noise_step"])
        assert signal.item() == pytest.approx(row["sqrt_alphas_cumprod"], abs=1e-6)
        assert noise.item() == pytest.approx(row["sqrt_one_minus"], abs=1e-6)


def test_noise_step_as_the_production_run_has_it(golden):
    for step, seen in golden.json("schedules")["stage2_bf16_ref_step_seen_by_network"].items():
        assert noise_step_for_transformer(int(step), "bf16") == seen
        assert noise_step_for_transformer(int(step), None) == float(step)


def solver_noise(file, prefix):
    """The draws that the authors' solver uses: the first, then the second of each pair."""
    draws = file.latents(f"{prefix}noise_draws")
    return [draws[0], *draws[2::2]]


@pytest.mark.parametrize("steps", [51, 8])
def test_stage1_trajectory(golden, tiny_stage1, within, steps):
    file, prefix = golden("sampler_stage1"), f"steps{steps}."
    recorder = Recorder(tiny_stage1)
    estimates = []
    final = sample_stage1(
        recorder,
        file.latents(f"{prefix}x_init"),
        file["context"],
        negative_prompt_embeds=file["uncond_context"],
        num_steps=steps,
        step_noise=solver_noise(file, prefix),
        callback=lambda _done, _total, estimate: estimates.append(estimate * STAGE1_SCALE),
    )
    within(final * STAGE1_SCALE, file.latents(f"{prefix}final"), 1e-4)
    states = file.latents(f"{prefix}x_before_step")
    denoised = file.latents(f"{prefix}denoised")
    for step in range(steps):
        within(recorder.inputs[step], states[step][None].expand(2, -1, -1, -1, -1), 1e-4)
        within(estimates[step], denoised[step][None], 1e-4)
    assert [int(t[0]) for t in recorder.timesteps] == file[f"{prefix}timesteps"].tolist()
    within(recorder.outputs[0], file.latents(f"{prefix}net_out_step0"), 2e-5)
    within(recorder.inputs[1], file.latents(f"{prefix}net_in_step1"), 2e-5)
    within(recorder.outputs[1], file.latents(f"{prefix}net_out_step1"), 2e-5)
    within(recorder.timesteps[1], file[f"{prefix}net_t_step1"], 0)


@pytest.mark.parametrize("steps", [51, 8])
def test_stage1_levels_and_guidance(golden, within, steps):
    file, prefix = golden("sampler_stage1"), f"steps{steps}."
    schedule = stage1_schedule(steps)
    within(schedule.alphas[:-1], file[f"{prefix}sqrt_alphas_cumprod"], 1e-6)
    within(schedule.alphas[1:], file[f"{prefix}next_sqrt_alphas_cumprod"], 1e-6)
    curve = torch.tensor([dynamic_guidance(t, steps) for t in schedule.timesteps.tolist()], dtype=torch.float64)
    within(curve, file[f"{prefix}cfg_scale"], 1e-6)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("run", [0, 1, 2])
def test_stage2_trajectory(golden, tiny_stage2, within, run, sequential):
    file, prefix = golden("sampler_stage2"), f"run{run}."
    steps, shift, noise_step, cfg = file[f"{prefix}params"].tolist()
    degraded = degrade_latents(
        file.latents("ref_latent") / STAGE2_SCALE, int(noise_step), noise=file.latents(f"{prefix}noise")
    )
    within(degraded * STAGE2_SCALE, file.latents(f"{prefix}degraded"), 2e-6)
    recorder = Recorder(tiny_stage2)
    final = refine_latents(
        recorder,
        degraded,
        file["context"],
        negative_prompt_embeds=file["uncond_context"],
        noise_step=int(noise_step),
        num_steps=int(steps),
        shift=shift,
        guidance_scale=cfg,
        sequential_guidance=sequential,
    )
    within(final * STAGE2_SCALE, file.latents(f"{prefix}final"), 2e-4)
    states = file.latents(f"{prefix}x_at_step")
    conditional, unconditional = (file.latents(f"{prefix}net_out_{name}") for name in ("cond", "uncond"))
    timesteps = file[f"{prefix}net_t"]
    for step in range(int(steps)):
        if sequential:
            state, positive, negative = recorder.inputs[2 * step], *recorder.outputs[2 * step : 2 * step + 2]
            timestep = recorder.timesteps[2 * step]
        else:
            state, (negative, positive) = recorder.inputs[step][:1], recorder.outputs[step].chunk(2)
            timestep = recorder.timesteps[step][:1]
        within(state, states[step][None], 2e-4)
        within(positive, conditional[step][None], 2e-4)
        within(negative, unconditional[step][None], 2e-4)
        assert timestep.item() == timesteps[step].item()
    assert set(recorder.noise_steps) == {noise_step}


@pytest.mark.parametrize("run", [0, 1])
def test_stage2_with_the_rounding_of_the_production_run(golden, tiny_stage2, run):
    file, prefix = golden("sampler_stage2_bf16"), f"run{run}."
    steps, shift, noise_step, cfg = file[f"{prefix}params"].tolist()
    noise = file.latents(f"{prefix}noise").float()
    degraded = degrade_latents(file.latents("ref_latent").float() / STAGE2_SCALE, int(noise_step), noise=noise)
    assert relative(degraded * STAGE2_SCALE, file.latents(f"{prefix}degraded")) < 0.01
    recorder = Recorder(tiny_stage2)
    keywords = {"noise_step": int(noise_step), "num_steps": int(steps), "shift": shift, "guidance_scale": cfg}
    context = file["context"].float()
    final = refine_latents(recorder, degraded, context, rounding="bf16", **keywords)
    expected = file.latents(f"{prefix}final")
    assert relative(final * STAGE2_SCALE, expected) < 0.05
    exact = refine_latents(tiny_stage2, degraded, context, **keywords)
    assert relative(exact * STAGE2_SCALE, expected) > 0.1, "without the rounding it must differ"
    assert [t[0].item() for t in recorder.timesteps] == file[f"{prefix}net_t"].float().tolist()
    for state, stored in zip(recorder.inputs, file.latents(f"{prefix}x_at_step"), strict=True):
        assert relative(state[:1], stored[None]) < 0.05
    assert recorder.noise_steps[0] == noise_step_for_transformer(int(noise_step), "bf16")


def relative(actual, expected):
    return ((actual - expected.float()).norm() / expected.float().norm()).item()
