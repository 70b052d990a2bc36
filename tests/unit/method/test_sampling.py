"""Properties of schedules, solvers and guidance that no golden tensor shows."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashvideo import degrade_latents, flow_times, refine_latents, sample_stage1, zero_snr_table
from flashvideo.method.guidance import dynamic_guidance
from flashvideo.method.stage1 import dpmpp_2m_sde_coefficients, stage1_guidance
from flashvideo.method.stage2 import SOLVERS

SHAPE = (1, 16, 2, 4, 4)
TEXT = torch.ones(1, 226, 8)


class Linear:
    """dx/dt = rate x in model space, whatever the prompt: the flow is known."""

    def __init__(self, rate=1.0):
        self.rate, self.calls = rate, 0

    def __call__(self, hidden_states, timestep, encoder_hidden_states, *, noise_step=None):
        self.calls += 1
        return self.rate * hidden_states


def faster_and_faster(x, timestep, text, *, noise_step=None):
    """dx/dt = 2 t x: x(1) = e x(0), and a solver that asks at the wrong time goes astray."""
    return 2 * (1 - timestep / 1000).view(-1, 1, 1, 1, 1) * x


@pytest.mark.parametrize("flow", [Linear(), faster_and_faster], ids=["without time", "with time"])
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_solvers_have_their_order(solver, order, flow):
    """Halving the steps divides the error by 2 to the order."""

    def error(steps):
        out = refine_latents(flow, torch.ones(SHAPE), TEXT, num_steps=steps, solver=solver, shift=1.0, guidance_scale=1)
        return (out.double() - math.e).abs().max().item()

    coarse, fine = (4, 8) if order < 4 else (2, 4)
    assert math.log2(error(coarse) / error(fine)) == pytest.approx(order, abs=0.45)


@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_are_what_the_solver_says(solver):
    model = Linear()
    refine_latents(model, torch.ones(SHAPE), TEXT, num_steps=3, solver=solver)
    assert model.calls == 3 * SOLVERS[solver].evaluations


def test_guidance_scale_1_leaves_a_branch_out():
    batches = []

    def model(x, t, text, *, noise_step=None):
        batches.append(x.shape[0])
        return text.mean() * torch.ones_like(x)

    refine_latents(model, torch.ones(SHAPE), TEXT, guidance_scale=1)
    refine_latents(model, torch.ones(SHAPE), TEXT, guidance_scale=2)
    assert batches == [1] * 4 + [2] * 4


@pytest.mark.parametrize("sequential", [False, True])
def test_guidance_branches_run_one_after_the_other_when_asked(sequential):
    """What it is for: a batch is never larger than the latents'. Each branch has its own text."""
    calls = []

    def model(x, t, text, *, noise_step=None):
        calls.append(text.amax(dim=(1, 2)).tolist())
        return torch.ones_like(x)

    refine_latents(model, torch.ones(SHAPE), TEXT, num_steps=2, sequential_guidance=sequential)
    noise = torch.ones(SHAPE)
    sample_stage1(model, noise, TEXT, num_steps=2, guidance_curve="constant", sequential_guidance=sequential)
    assert calls == ([[1.0], [0.0]] if sequential else [[0.0, 1.0]]) * 4


class Drifting:
    """Two branches, as far apart as the time says; knows how many of each were evaluated."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, timestep, text, *, noise_step=None):
        with_prompt = text.amax(dim=(1, 2)).view(-1, 1, 1, 1, 1)
        self.batches.append(len(x))
        return 0.1 * x + with_prompt * (timestep.view(-1, 1, 1, 1, 1) / 1000)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(("every", "evaluated"), [(1, [2] * 5), (2, [2, 1, 2, 1, 2]), (9, [2, 1, 1, 1, 1])])
def test_guidance_is_evaluated_now_and_then(every, evaluated, sequential):
    for sample in (refine_latents, sample_stage1):
        model = Drifting()
        constant = {"guidance_curve": "constant"} if sample is sample_stage1 else {}
        more = {"num_steps": 5, "sequential_guidance": sequential, **constant}
        sample(model, torch.ones(SHAPE), TEXT, guidance_every=every, **more)
        expected = [1 for batch in evaluated for _ in range(batch)] if sequential else evaluated
        assert model.batches == expected


def test_the_difference_of_the_last_guidance_is_reused():
    """By hand: two steps of one half each, at times 1000 and 500; c - u is 1, then 0.5, or 1 again if it is reused."""
    how = {"num_steps": 2, "shift": 1.0, "guidance_scale": 3.0, "latent_scale": 1.0}
    middle = 1 + 0.5 * (0.1 + 3 * 1.0)
    for every, guidance in ((1, 3 * 0.5), (2, 0.5 + 2 * 1.0)):
        out = refine_latents(Drifting(), torch.ones(SHAPE), TEXT, guidance_every=every, **how)
        assert torch.allclose(out, torch.full(SHAPE, middle + 0.5 * (0.1 * middle + guidance)))


def test_steps_of_scale_1_leave_the_rhythm_alone():
    """The smooth curve begins at 1: guidance is first evaluated at the second step, and reused at the third."""
    model = Drifting()
    sample_stage1(model, torch.ones(SHAPE), TEXT, num_steps=4, guidance_curve="smooth", guidance_every=2)
    assert model.batches == [1, 2, 1, 2]


def test_guidance_extrapolates_from_the_empty_prompt():
    """u is 0 (all-zero embeddings), c is 1: the guided velocity is the scale."""

    def model(x, t, text, *, noise_step=None):
        return text.mean(dim=(1, 2)).view(-1, 1, 1, 1, 1) * torch.ones_like(x)

    for sequential in (False, True):
        out = refine_latents(
            model, torch.zeros(SHAPE), TEXT, guidance_scale=5, latent_scale=1.0, sequential_guidance=sequential
        )
        assert torch.allclose(out, torch.full(SHAPE, 5.0), atol=1e-5)


def test_negative_embeddings_are_used():
    def model(x, t, text, *, noise_step=None):
        return text.mean(dim=(1, 2)).view(-1, 1, 1, 1, 1) * torch.ones_like(x)

    out = refine_latents(
        model, torch.zeros(SHAPE), TEXT, negative_prompt_embeds=-TEXT, guidance_scale=5, latent_scale=1.0
    )
    assert torch.allclose(out, torch.full(SHAPE, 9.0), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 60), scale=st.floats(0, 12))
def test_stage1_recovers_a_known_clean_latent_for_any_number_of_steps(steps, scale):
    """A network that always knows x0 leads there, whatever the number of steps (the authors' gives NaN off 51)."""
    clean = torch.linspace(-1, 1, math.prod(SHAPE)).view(SHAPE)
    table = zero_snr_table()

    def knows(x, t, text, *, noise_step=None):
        from flashvideo.method.schedules import stage1_schedule

        schedule = stage1_schedule(steps)
        alpha = float(schedule.snapped[schedule.timesteps.tolist().index(int(t[0]))])
        return (alpha * x - clean) / math.sqrt(1 - alpha**2)

    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    out = sample_stage1(
        knows,
        noise,
        TEXT,
        num_steps=steps,
        guidance_scale=scale,
        generator=torch.Generator().manual_seed(1),
        latent_scale=1.0,
    )
    assert table[-1] == 0
    assert torch.isfinite(out).all()
    assert torch.allclose(out, clean, atol=2e-4)


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(2, 80), data=st.data())
def test_solver_keeps_the_variance(steps, data):
    """For x0 = 0 and unit noise the next x has the next level's deviation: keep² sigma² + noise² = sigma'²."""
    from flashvideo.method.schedules import stage1_schedule

    alphas = stage1_schedule(steps).alphas.double().tolist()
    step = data.draw(st.integers(0, steps - 2))
    keep, _, _, noise = dpmpp_2m_sde_coefficients(alphas, step)
    sigma, after = math.sqrt(1 - alphas[step] ** 2), math.sqrt(1 - alphas[step + 1] ** 2)
    assert keep**2 * sigma**2 + noise**2 == pytest.approx(after**2, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 40), shift=st.floats(0.5, 8))
def test_flow_times_rise_from_0_to_1(steps, shift):
    times = flow_times(steps, shift)
    assert times[0] == 0
    assert times[-1] == 1
    assert (times[1:] > times[:-1]).all()


def test_degradation_keeps_unit_variance_in_model_space():
    latents = torch.randn(1, 16, 8, 32, 32, generator=torch.Generator().manual_seed(0)) / 1.15258426
    degraded = degrade_latents(latents, 675, generator=torch.Generator().manual_seed(1))
    assert (degraded * 1.15258426).std().item() == pytest.approx(1, abs=0.01)


def test_degradation_is_deterministic_by_generator_and_keeps_dtype():
    latents = torch.ones(SHAPE, dtype=torch.bfloat16)
    first, second = (degrade_latents(latents, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.bfloat16
    assert torch.equal(
        degrade_latents(latents.float(), 0, noise=torch.zeros(SHAPE)), latents.float() * zero_snr_table()[0]
    )


def test_guidance_curves():
    assert stage1_guidance("constant", 3, 900, 51, 8, 5) == 8
    assert stage1_guidance("smooth", 0, 999, 51, 8, 5) == 1
    assert stage1_guidance("smooth", 50, 19, 51, 8, 5) > 8.5
    assert stage1_guidance("authors", 0, 999, 51, 8, 5) == pytest.approx(8.28700278)
    with pytest.raises(ValueError, match="guidance_curve"):
        stage1_guidance("wavy", 0, 999, 51, 8, 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole"):
        dynamic_guidance(999, exponent=4.5)


def test_checkpoint_carries_its_own_latent_scale():
    class Config:
        latent_scale = 2.0

    class Model(Linear):
        config = Config()

    seen = []

    class Watching(Model):
        def __call__(self, x, *args, **kwargs):
            seen.append(x.mean().item())
            return torch.zeros_like(x)

    refine_latents(Watching(), torch.ones(SHAPE), TEXT, num_steps=1)
    refine_latents(Watching(), torch.ones(SHAPE), TEXT, num_steps=1, latent_scale=3.0)
    assert seen == [2.0, 3.0]


def test_nan_stops_the_run_with_a_reason():
    def broken(x, t, text, *, noise_step=None):
        return torch.full_like(x, float("nan"))

    with pytest.raises(ValueError, match="NaN"):
        refine_latents(broken, torch.ones(SHAPE), TEXT)


def test_callbacks_count_to_the_end():
    seen = []
    refine_latents(
        Linear(), torch.ones(SHAPE), TEXT, callback=lambda done, total, x: seen.append((done, total, x.shape))
    )
    assert [s[:2] for s in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(s[2] == SHAPE for s in seen)


def test_callbacks_see_latents_in_vae_space():
    seen = []
    start, noise = torch.ones(SHAPE), torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    settings = {"num_steps": 3, "latent_scale": 2.0, "callback": lambda _done, _total, x: seen.append(x.clone())}
    refined = refine_latents(Linear(), start, TEXT, **settings)
    torch.testing.assert_close(seen[-1], refined)
    painted = sample_stage1(Linear(), noise, TEXT, step_noise=[noise, noise], **settings)
    torch.testing.assert_close(seen[-1], painted)


def test_inputs_are_left_as_they_were():
    start, text = torch.ones(SHAPE), TEXT.clone()
    refine_latents(Linear(), start, text)
    noise = torch.ones(SHAPE)
    sample_stage1(Linear(0.1), noise, text, num_steps=3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(start, torch.ones(SHAPE))
    assert torch.equal(noise, torch.ones(SHAPE))
    assert torch.equal(text, TEXT)


def test_a_batch_of_prompts_is_its_prompts():
    def model(x, t, text, *, noise_step=None):
        return text.mean(dim=(1, 2)).view(-1, 1, 1, 1, 1) * x

    start = torch.randn(2, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    text = torch.stack((torch.ones(226, 8), torch.full((226, 8), 0.5)))
    both = refine_latents(model, start, text)
    for i in range(2):
        assert torch.allclose(both[i : i + 1], refine_latents(model, start[i : i + 1], text[i : i + 1]), atol=1e-6)
