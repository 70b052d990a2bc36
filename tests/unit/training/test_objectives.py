"""What the stages are trained on, against its formulas."""

from __future__ import annotations

import pytest
import torch

from flashvideo import degrade_latents, load_stage1, refine_latents
from flashvideo.method.schedules import zero_snr_table
from flashvideo.training.models import (
    LoraSettings,
    TransformerModel,
    add_trainable_lora,
    new_transformer,
    save_transformer,
    stage2_from,
)
from flashvideo.training.objectives import Stage1Objective, Stage2Objective, TextSide, flow_pair, v_prediction_pair

SMALL = TransformerModel(
    num_layers=2, num_attention_heads=1, time_embed_dim=16, text_embed_dim=8, max_text_seq_length=4
)
SHAPE = (2, 16, 2, 4, 6)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stage2_batch(seed: int = 0) -> dict[str, torch.Tensor]:
    return {
        "latents": draw(*SHAPE, seed=seed),
        "low_latents": draw(*SHAPE, seed=seed + 1),
        "noise": draw(*SHAPE, seed=seed + 2),
        "time": torch.tensor([0.25, 0.75]),
        "noise_step": torch.tensor([650, 700]),
        "embeds": draw(2, 4, 8, seed=seed + 3),
        "drop_text": torch.tensor([False, True]),
    }


@pytest.mark.parametrize("timestep", [0, 500, 999])
def test_v_and_the_noisy_latents_give_the_clean_ones_back(timestep):
    clean, noise = draw(*SHAPE), draw(*SHAPE, seed=1)
    noisy, v = v_prediction_pair(clean, noise, torch.full((2,), timestep))
    signal = zero_snr_table()[timestep]
    torch.testing.assert_close(signal * noisy - (1 - signal**2).sqrt() * v, clean, atol=1e-5, rtol=0)


def test_at_the_last_timestep_nothing_of_the_clip_is_left():
    clean, noise = draw(*SHAPE), draw(*SHAPE, seed=1)
    noisy, v = v_prediction_pair(clean, noise, torch.tensor([999, 999]))
    assert torch.equal(noisy, noise)
    torch.testing.assert_close(v, -clean)


def test_the_flow_starts_at_the_librarys_degradation_and_ends_at_the_clean_latents():
    high, low, noise = draw(*SHAPE), draw(*SHAPE, seed=1), draw(*SHAPE, seed=2)
    steps = torch.tensor([650, 650])
    start, velocity = flow_pair(high, low, noise, torch.zeros(2), steps)
    torch.testing.assert_close(start, degrade_latents(low, 650, noise=noise, latent_scale=1.0), atol=1e-6, rtol=0)
    end, same = flow_pair(high, low, noise, torch.ones(2), steps)
    torch.testing.assert_close(end, high)
    torch.testing.assert_close(velocity, same)
    torch.testing.assert_close(start + velocity, high, atol=1e-6, rtol=0)


def test_without_latent_degradation_the_flow_starts_at_the_low_resolution():
    high, low = draw(*SHAPE), draw(*SHAPE, seed=1)
    start, _ = flow_pair(high, low, draw(*SHAPE, seed=2), torch.zeros(2), torch.tensor([-1, -1]))
    assert torch.equal(start, low)


class TrueVelocity(torch.nn.Module):
    """Knows where the flow goes, as a perfect model would."""

    def __init__(self, batch):
        super().__init__()
        self.velocity = flow_pair(*(batch[n] for n in ("latents", "low_latents", "noise", "time", "noise_step")))[1]

    def forward(self, hidden_states, timestep, encoder_hidden_states, *, noise_step):
        assert timestep.tolist() == [750.0, 250.0]  # 1000 (1 - t)
        assert noise_step.tolist() == [650.0, 700.0]
        assert not encoder_hidden_states[1].any()
        assert encoder_hidden_states[0].any()
        return self.velocity


def test_stage2_loss_is_zero_at_the_true_velocity():
    batch = stage2_batch()
    assert float(Stage2Objective(TrueVelocity(batch), TextSide())(batch)[0]) == 0


def test_sampling_with_the_true_velocity_ends_at_the_clean_latents():
    high, low, noise = draw(*SHAPE), draw(*SHAPE, seed=1), draw(*SHAPE, seed=2)
    start, velocity = flow_pair(high, low, noise, torch.zeros(2), torch.tensor([675, 675]))

    def perfect(hidden_states, timestep, encoder_hidden_states, *, noise_step):
        return velocity[: len(hidden_states)]

    embeds = torch.zeros(2, 4, 8)
    refined = refine_latents(perfect, start, embeds, guidance_scale=1.0, latent_scale=1.0)
    torch.testing.assert_close(refined, high, atol=1e-5, rtol=0)


def test_gradients_reach_the_embeddings_that_start_at_zero():
    model = new_transformer(SMALL, 0, stage2=True, latent_scale=1.0)
    torch.nn.init.normal_(model.out_proj.weight)  # a model that is past its first step
    for layer in model.layers:
        torch.nn.init.normal_(layer.modulation.weight, std=0.1)
    Stage2Objective(model, TextSide())(stage2_batch())[0].backward()
    for extra in (model.noise_step_embedding, model.frame_count_embedding):
        assert not extra.linear_2.weight.any()
        assert extra.linear_2.weight.grad.abs().max() > 0
        assert extra.linear_2.bias.grad.abs().max() > 0


def test_stage2_starts_as_the_text_to_video_transformer_that_it_came_from():
    first = new_transformer(SMALL, 0, stage2=False, latent_scale=1.0)
    torch.nn.init.normal_(first.out_proj.weight)
    second = stage2_from(first, 1.5)
    x, text, t = draw(*SHAPE), draw(2, 4, 8), torch.tensor([300.0, 700.0])
    expected = first(x, t, text)
    assert expected.abs().max() > 0.1
    for noise_step in (600, 900):
        torch.testing.assert_close(second(x, t, text, noise_step=noise_step), expected)
    assert second.config.latent_scale == 1.5
    assert torch.equal(second.noise_step_embedding.linear_1.weight, first.time_embedding.linear_1.weight)


def test_a_text_encoder_that_is_trained_along_gets_gradients_and_a_frozen_one_none():
    from transformers import T5Config, T5EncoderModel

    encoder = T5EncoderModel(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    batch = {
        **stage2_batch(),
        "input_ids": torch.tensor([[3, 4, 1, 0], [5, 6, 1, 0]]),
        "timestep": torch.tensor([9, 99]),
    }
    model = new_transformer(SMALL, 0, stage2=False, latent_scale=1.0)
    torch.nn.init.normal_(model.out_proj.weight)
    for layer in model.layers:
        torch.nn.init.normal_(layer.modulation.weight, std=0.1)
    Stage1Objective(model, TextSide(encoder))(batch)[0].backward()
    gradient = encoder.shared.weight.grad
    assert gradient[3].abs().max() > 0  # of the first sample's prompt
    assert gradient[5].abs().max() == 0  # the second sample's was dropped
    encoder.requires_grad_(False)
    encoder.zero_grad()
    Stage1Objective(model, TextSide(encoder))(batch)[0].backward()
    assert encoder.shared.weight.grad is None


def test_lora_of_all_three_parts_trains_nothing_else():
    model = new_transformer(SMALL, 0, stage2=False, latent_scale=1.0)
    add_trainable_lora(model, LoraSettings(rank=2, alpha=2), 0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    leaves = {name.split(".")[2] for name in trained}
    assert leaves == {"qkv", "attn_out", "modulation", "mlp_up", "mlp_down"}
    assert all("lora_" in name for name in trained)


def test_a_saved_transformer_loads_as_it_was(tmp_path):
    model = new_transformer(SMALL, 3, stage2=False, latent_scale=0.9)
    loaded = load_stage1(save_transformer(model, tmp_path / "stage1.safetensors", "stage1"))
    assert loaded.config.latent_scale == 0.9
    assert loaded.config.max_text_seq_length == 4
    for (name, value), (_, expected) in zip(
        sorted(loaded.state_dict().items()), sorted(model.state_dict().items()), strict=True
    ):
        assert torch.equal(value, expected), name
