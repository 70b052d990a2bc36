"""Training runs of the stages and the VAE: what they train on, and what they write."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flashvideo import load_stage1, load_stage2
from flashvideo.loading.load import load_vae
from flashvideo.loading.text import load_text_encoder, token_ids
from flashvideo.method.stage2 import refine_latents
from flashvideo.report.models import _BesideLow
from flashvideo.runs.settings import Stage2Settings
from flashvideo.training.data import LatentCache
from flashvideo.training.loop import train
from flashvideo.training.runs import open_run
from tests.conftest import TINY
from tests.lora_files import add_adapter
from tests.unit.training.small_runs import STAGE1, changed

FROM_TINY = f'start = "{TINY / "stage1.pt"}"\ntext_encoder = "{TINY / "text"}"'
STAGE2 = STAGE1.replace('kind = "stage1"', 'kind = "stage2"').replace("low = true", "degraded_copies = 2")
SMALL = """
[model]
num_layers = 1
num_attention_heads = 1
time_embed_dim = 8
text_embed_dim = 32
"""


def first_batch(run, size=2):
    return run.make_batch(run.phases[0], torch.Generator().manual_seed(0), size)


def test_what_a_run_writes_loads_in_our_loaders(write, tmp_path):
    train(open_run(write(), tmp_path / "out"))
    model, text = load_stage1(tmp_path / "out/stage1.safetensors"), load_text_encoder(tmp_path / "out/text")
    embeds = text.encode("a small red star rests", warn=False)
    assert embeds.shape == (1, 32, 16), "a small tokenizer tells the length"
    assert model.config.max_text_seq_length == 32
    x = torch.zeros(1, 16, 2, 4, 6)
    assert model(x, torch.tensor([5.0]), embeds).shape == x.shape
    assert model.config.latent_scale > 0


def test_stage1_learns_one_clip_by_heart(write, tmp_path):
    text = STAGE1.replace("count = 2", "count = 1").replace("steps = 4\nbatch_size = 2", "steps = 150\nbatch_size = 4")
    text = text.replace("log_every = 1", "log_every = 10").replace("save_every = 3", "save_every = 1000")
    run = open_run(write(text.replace("2e-3", "5e-3")), tmp_path / "out")
    train(run)
    first, last = run.history[0]["loss"], run.history[-2]["loss"]
    assert last < 0.55 * first, (first, last)


PARTS = ("text.", "transformer.")


def test_the_text_encoder_can_learn_more_slowly(write, tmp_path):
    moved = []
    for scale in (1.0, 0.01):
        config = write(name=f"at-{scale}")
        run = open_run(
            changed(config, "d_ff = 16\n", f"d_ff = 16\nlearning_rate_scale = {scale}\n"), tmp_path / str(scale)
        )
        before = {name: value.clone() for name, value in run.objective.state_dict().items()}
        train(run, stop_after=2)
        after = run.objective.state_dict()
        moved.append([float(sum((after[n] - before[n]).norm() for n in after if n.startswith(p))) for p in PARTS])
    assert moved[1][0] < 0.05 * moved[0][0]
    assert moved[1][1] == pytest.approx(moved[0][1], rel=0.1)


def test_stage2_starts_from_stage1_and_trains_on_degraded_copies(write, tmp_path, tiny_text):
    text = STAGE1.replace('kind = "stage1"', 'kind = "stage2"').replace("low = true", "degraded_copies = 2")
    start = f'start = "{TINY / "stage1.pt"}"\ntext_encoder = "{TINY / "text"}"'
    run = open_run(write(text, start=start, tables=""), tmp_path / "out")
    train(run)
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in run.history)
    refined = load_stage2(tmp_path / "out/stage2.safetensors")
    assert refined.noise_step_embedding.linear_2.weight.any()
    assert refined.config.latent_scale == pytest.approx(1.15258426)


def test_a_trained_lora_merged_equals_unmerged(write, tmp_path):
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
    adapted = load_stage1(TINY / "stage1.pt")
    add_adapter(adapted, tmp_path / "out/stage1_lora.safetensors")
    with torch.no_grad():
        unmerged = adapted(x, torch.tensor([500.0]), text)
    torch.testing.assert_close(unmerged, outputs[1], atol=2e-5, rtol=1e-4)


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


def test_stage2_captions_carry_their_prefix_once(write, tmp_path):
    """In the tokens that a live encoder gets, and in the embeddings that a cache keeps."""
    live = open_run(write(STAGE2, start=FROM_TINY + "\ncache_text = false", tables="", name="live"), tmp_path / "live")
    encoder = load_text_encoder(TINY / "text")
    captions = ["medium motion," + live.make_batch.caches["clips"][row]["caption"] for row in (0, 1)]
    assert all(caption.startswith("medium motion,a ") for caption in captions)
    expected = torch.cat([token_ids(encoder.tokenizer, caption, 226) for caption in captions])
    tokens = first_batch(live, 16)["input_ids"]
    assert {tuple(row) for row in tokens.tolist()} == {tuple(row) for row in expected.tolist()}
    cached = open_run(write(STAGE2, start=FROM_TINY, tables="", name="cached"), tmp_path / "cached")
    embeds = cached.make_batch.caches["clips"][0]["embeds"].float()
    torch.testing.assert_close(embeds, encoder.encode(captions[0], warn=False)[0].float(), atol=2e-3, rtol=2e-3)
    assert first_batch(cached)["embeds"].shape == (2, 226, 32)


def test_datasets_are_encoded_without_a_run(run, write, tmp_path):
    """And without a text encoder that is not there yet, where it is not needed."""
    start = f'start = "{TINY / "stage1.pt"}"\ntext_encoder = "{tmp_path / "later"}"\ncache_text = false'
    config = write(STAGE2, start=start, tables="")
    run("train", config, "--encode-only")
    assert len(LatentCache(tmp_path / "cache-run")) == 2
    assert "--output" in run("train", config, code=2).err
    config.write_text('kind = "vae"')
    assert "only 'stage1', 'stage2', 'stage2_student'" in run("train", config, "--encode-only", code=2).err


def test_clips_without_a_caption_are_trained_as_without_a_prompt(write, tmp_path):
    batches = open_run(write(start="text_dropout = 0.0"), tmp_path / "out").make_batch
    phase = batches.config.phases[0]
    assert not batches(phase, torch.Generator().manual_seed(0), 4)["drop_text"].any()
    cache = batches.caches["clips"]
    batches.caches = {"clips": [{**cache[row], "caption": "" if row else "a star"} for row in range(2)]}
    batch = batches(phase, torch.Generator().manual_seed(0), 8)
    shorter = (batch["input_ids"] != 0).sum(dim=1) < 3
    assert torch.equal(batch["drop_text"], shorter)
    assert 0 < int(shorter.sum()) < 8


def test_prompts_have_the_length_of_the_transformer_that_is_trained(write, tmp_path):
    """A small transformer takes 32 tokens, whether it is new or started from."""
    train(open_run(write(name="first"), tmp_path / "first"), stop_after=1)
    start = f'start = "{tmp_path / "first/stage1.safetensors"}"\ntext_encoder = "{tmp_path / "first/text"}"'
    for name, more in (("cached", ""), ("live", "\ncache_text = false")):
        run = open_run(write(STAGE2, start=start + more, tables="", name=name), tmp_path / name)
        train(run, stop_after=1)
        batch = first_batch(run)
        assert (batch["embeds"] if name == "cached" else batch["input_ids"]).shape[1] == 32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("dtype", "computed_in"), [("bf16", torch.bfloat16), ("fp16", torch.float32)])
def test_a_lora_trains_in_fp32_on_a_half_precision_base(write, tmp_path, dtype, computed_in, precision):
    from flashvideo import convert_checkpoint

    convert_checkpoint(TINY / "stage1.pt", tmp_path / "half.safetensors", dtype=dtype)
    start = f'start = "{tmp_path / "half.safetensors"}"\ntext_encoder = "{TINY / "text"}"'
    config = write(start=start, tables="\n[lora]\nrank = 2\nalpha = 2.0\n")
    run = open_run(changed(config, "[run]", f'[run]\nprecision = "{precision}"'), tmp_path / "out")
    trained = [parameter for parameter in run.objective.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert run.objective.transformer.patch_embed.weight.dtype == computed_in
    train(run)
    assert run.history[-1]["grad_norm"] > 0
    load_stage1(tmp_path / "half.safetensors", lora=tmp_path / "out/stage1_lora.safetensors")


def test_a_vanilla_cascade_sees_the_low_resolution_beside_noise(write, tmp_path):
    start = f'source = "noise"\ntext_encoder = "{TINY / "text"}"'
    run = open_run(write(STAGE2, start=start, tables=SMALL + "max_text_seq_length = 226\n"), tmp_path / "out")
    train(run)
    model = load_stage2(tmp_path / "out/stage2.safetensors")
    assert (model.in_channels, model.out_channels) == (32, 16)
    low, embeds = torch.randn(2, 16, 2, 4, 6), torch.randn(2, 226, 32)
    settings = {"num_steps": 2, "guidance_scale": 3.0, "noise_step": 999, "latent_scale": 1.0}
    noise = torch.randn(2, 16, 2, 4, 6)
    refined = refine_latents(_BesideLow(model, low), noise, embeds, **settings)
    other = refine_latents(_BesideLow(model, low + 1), noise, embeds, **settings)
    assert refined.shape == low.shape
    assert not torch.equal(refined, other), "the low resolution is seen"
    alone = refine_latents(_BesideLow(model, low[1:]), noise[1:], embeds[1:], **settings)
    torch.testing.assert_close(alone, refined[1:], atol=1e-4, rtol=1e-4)
    assert replace(Stage2Settings(), noise_step=999).noise_step == 999


def test_sinusoidal_positions_are_trained_and_kept(write, tmp_path):
    tables = SMALL + 'max_text_seq_length = 226\nposition_encoding = "sinusoidal"\n'
    train(open_run(write(STAGE2, start=f'text_encoder = "{TINY / "text"}"', tables=tables), tmp_path / "out"))
    assert load_stage2(tmp_path / "out/stage2.safetensors").position_encoding == "sinusoidal"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "crop = [2, 4]",
            "crop = [2, 8]",
            r"crop is \(2, 8\); the latents of datasets\.clips are only \(4, 6\)",
        ),
        ("degraded_copies = 2", "degraded_copies = 0", r"datasets\.clips\.degraded_copies is 0; Stage II needs"),
        ("[run]", 'source = "noise"\n[run]', r"is for a new Stage II"),
        ("[run]", 'vae_precision = "fp8"\n[run]', r"vae_precision is 'fp8'; expected one of 'fp32', 'bf16'"),
    ],
)
def test_what_stage2_cannot_train_on_is_refused_before_any_work(write, tmp_path, old, new, message):
    config = write(STAGE2, start=FROM_TINY, tables="")
    with pytest.raises(ValueError, match=message):
        open_run(changed(config, old, new), tmp_path / "out")
    assert not (tmp_path / "cache-run").exists()


def test_latents_encoded_in_bf16_are_almost_the_same(write, tmp_path):
    exact = open_run(write(name="exact"), tmp_path / "exact").make_batch.caches["clips"][0]
    fast = open_run(write(start='vae_precision = "bf16"', name="fast"), tmp_path / "fast").make_batch.caches["clips"][0]
    difference = (exact["mean"].float() - fast["mean"].float()).abs()
    assert 0 < difference.mean() < 0.02 * exact["mean"].float().std()


def test_only_the_decoder_can_be_trained_further(tmp_path):
    path = tmp_path / "vae.toml"
    text = (
        'kind = "vae"\n[model]\nblock_out_channels = [8, 8, 8, 16]\nnorm_num_groups = 4\n[run]\noptimizer = "muon"\n'
        "learning_rate = 1e-2\n[[phases]]\nsteps = 2\nbatch_size = 1\ncrop = [16, 16]\nframes = 1\n"
    )
    path.write_text(text)
    train(open_run(path, tmp_path / "whole"))
    first = tmp_path / "whole/vae.safetensors"
    path.write_text(f'train = "decoder"\nstart = "{first}"\n' + text)
    train(open_run(path, tmp_path / "decoder"))
    before, after = (
        load_vae(folder / "vae.safetensors").state_dict() for folder in (first.parent, tmp_path / "decoder")
    )
    same = {name: torch.equal(before[name], after[name]) for name in before}
    assert all(same[name] for name in same if name.startswith("encoder."))
    assert not any(same[name] for name in same if name.startswith("decoder.") and name.endswith("conv1.conv.weight"))
