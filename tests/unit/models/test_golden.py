"""The transformer against forward passes of the authors' networks (golden README, sections 3 to 5)."""

from __future__ import annotations

import pytest
import torch

LIMIT, LIMIT_CASE4 = 5e-6, 5e-5  # golden README, section 4
CASES = range(5)


def hidden_states_after_layers(model, *inputs, **keywords):
    states = []
    hooks = [layer.register_forward_hook(lambda _m, _i, out: states.append(out.clone())) for layer in model.layers]
    with torch.no_grad():
        out = model(*inputs, **keywords)
    for hook in hooks:
        hook.remove()
    return out, states


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_stage1_forward(golden, tiny_stage1, within, case, inplace):
    file = golden("forward_stage1")
    x, t, context = file.latents(f"case{case}.x"), file[f"case{case}.t"], file[f"case{case}.context"]
    out, states = hidden_states_after_layers(tiny_stage1, x, t, context, inplace=inplace)
    limit = LIMIT_CASE4 if case == 4 else LIMIT
    within(out, file.latents(f"case{case}.out"), limit)
    with torch.no_grad():
        within(tiny_stage1.embed_step(t, None, x.shape[2], torch.float32), file[f"case{case}.emb"], 1e-6)
    for layer, state in enumerate(states):
        name = f"case{case}.hidden_after_layer{layer}"
        if name in file:
            within(state, file[name], LIMIT)
    if case == 1:
        ignored = file.latents("case1.out_WRONG_lora_ignored")
        assert (out - ignored).abs().max() > 0.1, "the LoRA in the file was not merged"


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("noise_step", [675, 600])
@pytest.mark.parametrize("case", CASES)
def test_stage2_forward(golden, tiny_stage2, within, case, noise_step, inplace):
    file = golden("forward_stage2")
    x, t, context = file.latents(f"case{case}.x"), file[f"case{case}.t"], file[f"case{case}.context"]
    out, states = hidden_states_after_layers(tiny_stage2, x, t, context, noise_step=noise_step, inplace=inplace)
    within(out, file.latents(f"case{case}.out_ref{noise_step}"), LIMIT_CASE4 if case == 4 else LIMIT)
    with torch.no_grad():
        embedding = tiny_stage2.embed_step(t, torch.full_like(t, noise_step), x.shape[2], torch.float32)
    within(embedding, file[f"case{case}.emb_ref{noise_step}"], 1e-6)
    for layer, state in enumerate(states):
        name = f"case{case}.hidden_after_layer{layer}_ref{noise_step}"
        if name in file:
            within(state, file[name], LIMIT)


@pytest.mark.parametrize(("stage", "case"), [(1, 0), (1, 2), (2, 0), (2, 2)])
def test_rotary_tables(golden, within, stage, case):
    from flashvideo.models.rope import rotary_table

    file = golden(f"forward_stage{stage}")
    _, _, frames, height, width = file.latents(f"case{case}.x").shape
    cos, sin = rotary_table(frames, height // 2, width // 2, 64)
    within(cos.repeat_interleave(2, dim=-1)[None], file[f"case{case}.rope_cos"], 1e-6)
    within(sin.repeat_interleave(2, dim=-1)[None], file[f"case{case}.rope_sin"], 1e-6)


def test_changing_shape_after_a_run_is_right(golden, tiny_stage1, within):
    """Nothing of an earlier shape is kept (the authors cache rotary tables for ever)."""
    file = golden("forward_stage1")
    for case in (2, 0, 3, 0):
        with torch.no_grad():
            out = tiny_stage1(file.latents(f"case{case}.x"), file[f"case{case}.t"], file[f"case{case}.context"])
        within(out, file.latents(f"case{case}.out"), LIMIT)
