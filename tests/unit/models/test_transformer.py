"""The transformer's machinery: diffusers parity, saving, adapters, checkpointing, injected layers and attention."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flashvideo import FlashVideoTransformer3DModel
from flashvideo.method.guidance import GuidedTransformer
from flashvideo.models import layer, network, rope
from flashvideo.models.network import FlashVideoNetwork, sdpa_attention
from tests.live_bytes import live_bytes

SMALL = {"num_layers": 2, "num_attention_heads": 2, "text_embed_dim": 32, "time_embed_dim": 64}
STAGE2 = {"use_noise_step_embedding": True, "use_frame_count_embedding": True}


def inputs(batch=2, frames=3, height=4, width=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 16, frames, height, width, generator=generator)
    text = torch.randn(batch, 226, 32, generator=generator)
    return x.to(dtype), torch.linspace(500, 900, batch), text.to(dtype)


def randomised(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1 + (parameter.ndim == 1) * 0.5)
    return model


@pytest.fixture(scope="module")
def model():
    return randomised(FlashVideoTransformer3DModel(**SMALL, **STAGE2)).eval()


@pytest.fixture(scope="module")
def stage1_model():
    return randomised(FlashVideoTransformer3DModel(**SMALL)).eval()


@pytest.fixture(scope="module")
def diffusers_twin(stage1_model, tmp_path_factory):
    """diffusers' CogVideoX with random weights, and ours loaded from its folder."""
    from diffusers import CogVideoXTransformer3DModel

    from flashvideo import load_stage1

    twin = CogVideoXTransformer3DModel(**SMALL, use_rotary_positional_embeddings=True)
    randomised(twin)
    twin.norm_out.norm.eps = 1e-6  # the authors' value
    folder = tmp_path_factory.mktemp("twin")
    twin.save_pretrained(folder)
    return twin.eval(), load_stage1(folder)


def diffusers_rotary(frames, height, width):
    from flashvideo.models.rope import rotary_table

    cos, sin = rotary_table(frames, height // 2, width // 2, 64)
    return cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1)


@pytest.mark.parametrize("shape", [(1, 1, 4, 6), (2, 3, 6, 4), (1, 5, 8, 12)])
def test_agrees_with_diffusers_cogvideox(diffusers_twin, within, shape):
    twin, ours = diffusers_twin
    x, t, text = inputs(*shape)
    with torch.no_grad():
        theirs = twin(x.transpose(1, 2), text, t, image_rotary_emb=diffusers_rotary(*shape[1:])).sample.transpose(1, 2)
        within(ours(x, t, text), theirs, 5e-6 * theirs.abs().max().item())


def test_rotary_table_is_diffusers_own():
    """The table handed to diffusers above is what diffusers makes itself for a grid without cropping."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    cos, sin = get_3d_rotary_pos_embed(64, None, grid_size=(2, 3), temporal_size=3, grid_type="slice", max_size=(2, 3))
    ours = diffusers_rotary(3, 4, 6)
    assert torch.allclose(cos, ours[0], atol=1e-6)
    assert torch.allclose(sin, ours[1], atol=1e-6)


def test_sinusoidal_positions_are_cogvideox_2bs(tmp_path):
    from diffusers import CogVideoXTransformer3DModel

    from flashvideo import load_stage1

    size = {"sample_height": 4, "sample_width": 6, "sample_frames": 9}
    scales = {"spatial_interpolation_scale": 1.0, "temporal_interpolation_scale": 1.0}
    twin = randomised(CogVideoXTransformer3DModel(**SMALL, **size, **scales, use_rotary_positional_embeddings=False))
    twin.norm_out.norm.eps = 1e-6
    twin.save_pretrained(tmp_path)
    weights = load_stage1(tmp_path).state_dict()
    ours = FlashVideoTransformer3DModel(**SMALL, position_encoding="sinusoidal")
    ours.load_state_dict(weights)
    x, t, text = inputs()
    with torch.no_grad():
        theirs = twin.eval()(x.transpose(1, 2), text, t).sample.transpose(1, 2)
        torch.testing.assert_close(ours(x, t, text), theirs, atol=2e-5, rtol=1e-4)


def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = FlashVideoTransformer3DModel.from_pretrained(tmp_path)
    x, t, text = inputs()
    with torch.no_grad():
        assert torch.equal(model(x, t, text, noise_step=675), again(x, t, text, noise_step=675))
    assert again.config.use_noise_step_embedding
    assert "operations" not in again.config
    assert "attention" not in again.config


def test_sharded_save_and_load(model, tmp_path):
    from flashvideo import load_stage2

    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    for again in (FlashVideoTransformer3DModel.from_pretrained(tmp_path), load_stage2(tmp_path)):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_gradient_checkpointing_gives_the_same_gradients(model):
    grads = []
    for on in (False, True):
        model.enable_gradient_checkpointing() if on else model.disable_gradient_checkpointing()
        model.zero_grad()
        x, t, text = inputs()
        model(x, t, text, noise_step=675).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    model.disable_gradient_checkpointing()
    model.zero_grad()
    assert all(g.abs().sum() > 0 for g in grads[0]), "a parameter has no part in the result"
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6 * a.abs().max()) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("pieces", ["of a CPU's cache", "of a device", "of a device's kernels"])
def test_in_place_and_not_agree(monkeypatch, model, within, pieces, batch):
    """In place, a layer works on some tokens at a time, and norms one sample with modulated weights."""
    x, t, text = inputs(batch=batch, frames=5, height=24, width=30)
    before = x.clone()
    monkeypatch.setattr(layer, "TOKENS_ON_CPU", 500)
    monkeypatch.setattr(layer, "FEW_TOKENS", 500)
    if pieces != "of a CPU's cache":
        cut = layer.cut
        for module in (layer, network):
            monkeypatch.setattr(module, "cut", lambda x, *given, **more: cut(x.to("meta"), *given, **more))
        monkeypatch.setattr(rope, "_turn_complex", rope._turn)
    if pieces == "of a device's kernels":
        monkeypatch.setattr(layer, "LARGEST_BYTES", 1 << 10)
    graded = model(x, t, text, noise_step=675)
    with torch.no_grad():
        plain = model(x, t, text, noise_step=675, inplace=True)
    within(plain, graded.detach(), 1e-5 * graded.abs().max().item())
    assert torch.equal(x, before), "the input was changed"


@pytest.mark.parametrize("kernel", [rope._turn, rope._turn_complex])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-7), (torch.bfloat16, 3e-3)])
def test_rotations_are_right(kernel, dtype, error):
    """Against double precision, into parts of a larger tensor."""
    table = rope.rotary_table(3, 5, 7, 32)
    x = torch.randn(2, 105, 3, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = torch.empty(2, 105, 2, 3, 32, dtype=dtype)[:, :, 1]
    kernel(x.unflatten(-1, (-1, 2)), table, out.unflatten(-1, (-1, 2)))
    turned = torch.view_as_complex(x.double().unflatten(-1, (-1, 2))) * torch.complex(*table.double())[:, None]
    right = torch.view_as_real(turned).flatten(-2)
    assert (out - right).norm() <= error * right.norm()
    assert (rope.rotate(x, table) - right).norm() <= error * right.norm()


def test_in_place_takes_less_memory(model):
    x, t, text = inputs(batch=1, frames=5, height=32, width=60)
    peaks = []
    for inplace in (True, False):
        with torch.no_grad(), live_bytes() as counted:
            model(x, t, text, noise_step=675, inplace=inplace)
        peaks.append(counted.peak["computing"])
    assert peaks[0] < 0.75 * peaks[1]


def test_samplers_work_in_place(model):
    options = []

    class Recorder:
        prepare = staticmethod(model.prepare)

        def __call__(self, x, timestep, text, **more):
            options.append(more)
            return x

    x, _, text = inputs(batch=1)
    guided = GuidedTransformer(Recorder(), x.shape, text, None, noise_step=675)
    guided(x, 500.0, 2.0)
    assert [call["inplace"] for call in options] == [True]


def test_prepared_inputs_give_the_same(model):
    x, t, text = inputs()
    with torch.no_grad():
        prepared = model.prepare(text, x.shape)
        first = model(x, t, None, noise_step=675, prepared=prepared)
        second = model(x, t, None, noise_step=675, prepared=prepared)
        assert torch.equal(first, model(x, t, text, noise_step=675))
        assert torch.equal(first, second), "the prepared inputs were changed"


def test_a_batch_is_its_samples(model, within):
    x, t, text = inputs()
    with torch.no_grad():
        both = model(x, t, text, noise_step=torch.tensor([600.0, 700.0]))
        for i, step in enumerate((600, 700)):
            within(both[i : i + 1], model(x[i : i + 1], t[i : i + 1], text[i : i + 1], noise_step=step), 1e-5)


def test_noise_step_and_frame_count_matter(model):
    x, t, text = inputs(batch=1)
    with torch.no_grad():
        out = model(x, t, text, noise_step=675)
        assert (out - model(x, t, text, noise_step=600)).abs().max() > 1e-3
        embed = [model.embed_step(t, torch.tensor([675.0]), frames, torch.float32) for frames in (3, 9)]
    assert (embed[0] - embed[1]).abs().max() > 1e-3


def test_injected_operations_and_attention(model):
    calls = []

    class CountedLinear(nn.Linear):
        def forward(self, x):
            calls.append("linear")
            return super().forward(x)

    def attention(q, k, v, heads, **options):
        calls.append(("attention", tuple(q.shape), heads, options))
        return sdpa_attention(q, k, v, heads)

    operations = SimpleNamespace(Linear=CountedLinear, LayerNorm=nn.LayerNorm)
    injected = FlashVideoNetwork(**SMALL, **STAGE2, operations=operations, attention=attention)
    injected.load_state_dict(model.state_dict())
    x, t, text = inputs()
    with torch.no_grad():
        out = injected(x, t, text, noise_step=675, attention_options={"marker": 1})
        assert torch.equal(out, model(x, t, text, noise_step=675))
    seen = [call for call in calls if call[0] == "attention"]
    assert seen == [("attention", (2, 2, 226 + 18, 64), 2, {"marker": 1})] * 2
    leaves = [m for m in injected.modules() if list(m.parameters(recurse=False))]
    assert all(isinstance(m, (CountedLinear, nn.LayerNorm)) for m in leaves), "a parameter outside of injected layers"


def test_one_qkv_product_a_layer(model):
    products = []
    hooks = [
        m.register_forward_hook(lambda m, _i, _o: products.append(m.out_features))
        for m in model.modules()
        if isinstance(m, nn.Linear)
    ]
    x, t, text = inputs()
    with torch.no_grad():
        model(x, t, text, noise_step=675)
    for hook in hooks:
        hook.remove()
    assert products.count(3 * 128) == 2
    assert 128 * 2 not in products[3:-2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(model, dtype):
    import copy

    x, t, text = inputs()
    half = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        exact, rough = model(x, t, text, noise_step=675), half(x, t, text, noise_step=675)
    assert rough.dtype == x.dtype
    assert ((rough - exact).norm() / exact.norm()) < (0.03 if dtype == torch.bfloat16 else 0.005)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 4, 3, 4, 6)}, "hidden_states has shape"),
        ({"x": torch.zeros(2, 16, 3, 5, 6)}, "multiples of 2"),
        ({"t": torch.zeros(3)}, "timestep has shape"),
        ({"text": torch.zeros(2, 100, 32)}, "226"),
        ({"text": torch.zeros(2, 226, 16)}, "text encoder of this model"),
        ({"noise_step": None}, "pass noise_step"),
    ],
)
def test_wrong_inputs_are_refused(model, change, message):
    x, t, text = inputs()
    given = {"x": x, "t": t, "text": text, "noise_step": 675, **change}
    with pytest.raises(ValueError, match=message):
        model(given["x"], given["t"], given["text"], noise_step=given["noise_step"])


def test_stage1_refuses_a_noise_step(stage1_model):
    with pytest.raises(ValueError, match="no noise-step embedding"):
        stage1_model(*inputs(), noise_step=675)


def test_settings_that_flashvideo_does_not_have_are_refused():
    with pytest.raises(ValueError, match="patch_size_t"):
        FlashVideoTransformer3DModel(**SMALL, patch_size_t=2)
    with pytest.raises(ValueError, match="use_rotary_positional_embeddings"):
        FlashVideoTransformer3DModel(**SMALL, use_rotary_positional_embeddings=False)
    with pytest.raises(ValueError, match="expected 'rope' or 'sinusoidal'"):
        FlashVideoTransformer3DModel(**SMALL, position_encoding="learned")
    with pytest.raises(ValueError, match="multiple of 16"):
        FlashVideoTransformer3DModel(**SMALL, attention_head_dim=40)


def test_importing_the_network_loads_neither_diffusers_nor_peft():
    code = (
        "import sys; import flashvideo; from flashvideo.models.network import FlashVideoNetwork; "
        "from flashvideo import sample_stage1, refine_latents, degrade_latents, decode_latents, encode_video; "
        "from flashvideo.loading.source import open_transformer; "
        "FlashVideoNetwork(num_layers=1, num_attention_heads=1, text_embed_dim=8, time_embed_dim=8); "
        "bad = {'diffusers', 'peft', 'transformers', 'accelerate', 'av'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_of_the_package_loads_no_torch():
    code = "import sys, flashvideo; assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
