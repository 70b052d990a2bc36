"""The draft decoder: the published layout, causal in time, flat in memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flashvideo.loading.draft import load_draft_decoder
from flashvideo.vae.draft import decode_draft
from tests.live_bytes import live_bytes
from tests.unit.vae.draft_files import random_decoder, save_decoder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return load_draft_decoder(save_decoder(tmp_path_factory.mktemp("draft") / "taecvx.safetensors"))


def latents_of(count, batch=1, height=2, width=4):
    return torch.randn(batch, 16, count, height, width, generator=torch.Generator().manual_seed(count))


def decoded(decoder, latents):
    return torch.cat(list(decode_draft(decoder, latents)), dim=2)


def all_at_once(latents):
    """The published decoder by hand, ``[1, 16, T, h, w]``: every layer on all frames."""
    state = random_decoder()

    def conv(x, name, **how):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **how)

    x = 3 * torch.tanh(latents[0].movedim(1, 0) / 3)
    x = F.relu(conv(x, "decoder.1", padding=1))
    for first, frames in ((3, 1), (9, 2), (15, 2)):
        for block in range(first, first + 3):
            y = torch.cat((x, F.pad(x, (0, 0, 0, 0, 0, 0, 1, -1))), dim=1)
            for layer in (0, 2):
                y = F.relu(conv(y, f"decoder.{block}.conv.{layer}", padding=1))
            x = F.relu(conv(y, f"decoder.{block}.conv.4", padding=1) + x)
        x = F.interpolate(x, scale_factor=2)
        x = conv(x, f"decoder.{first + 4}.conv")
        x = x.reshape(frames * len(x), -1, *x.shape[2:])
        x = conv(x, f"decoder.{first + 5}", padding=1)
    return conv(F.relu(x), "decoder.22", padding=1).clamp(0, 1)[3:].movedim(0, 1)[None]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_is_the_published_decoder(decoder, count):
    latents = latents_of(count)
    frames = decoded(decoder, latents)
    assert frames.shape == (1, 3, 4 * (count - 1) + 1, 16, 32)
    assert 0.05 < frames.std() < 0.45  # not all black or white
    torch.testing.assert_close(frames, all_at_once(latents), atol=1e-5, rtol=0)


def test_a_frame_knows_nothing_of_what_comes(decoder):
    latents = latents_of(4, batch=2)
    beginning = [frames.shape[2] for frames in decode_draft(decoder, latents)]
    assert beginning == [1, 4, 4, 4]
    assert torch.equal(decoded(decoder, latents)[:, :, :5], decoded(decoder, latents[:, :, :2]))
    torch.testing.assert_close(decoded(decoder, latents)[:1], decoded(decoder, latents[:1]), atol=1e-5, rtol=0)


def test_memory_does_not_grow_with_the_length(decoder):
    peaks = []
    for count in (3, 12):
        latents = latents_of(count, height=4, width=4)
        with live_bytes() as counted:
            for _frames in decode_draft(decoder, latents):
                pass
        peaks.append(counted.peak["computing"])
    assert peaks[0] == peaks[1]


def test_every_file_of_it_is_read(decoder, tmp_path):
    """Layers may have rows for more frames than they make: the last ones count."""
    name = "decoder.7.conv.weight"
    more = {name: torch.cat((torch.ones(256, 256, 1, 1), random_decoder()[name]))}
    latents = latents_of(2)
    for file, changes in (("taecvx.pth", {}), ("taecvx.safetensors", more)):
        other = load_draft_decoder(save_decoder(tmp_path / file, **changes))
        assert torch.equal(decoded(other, latents), decoded(decoder, latents))
    half = load_draft_decoder(tmp_path / "taecvx.pth", dtype=torch.bfloat16)
    torch.testing.assert_close(decoded(half, latents), decoded(decoder, latents), atol=0.1, rtol=0)


def test_other_files_are_refused(tmp_path):
    wrong = {"decoder.1.weight": torch.zeros(256, 32, 3, 3), "decoder.3.skip.weight": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"unexpected decoder\.3\.skip\.weight; wrong shape decoder\.1\.weight\. Give taecvx"
    ):
        load_draft_decoder(save_decoder(tmp_path / "taecvx.safetensors", **wrong))


def test_latents_are_checked_at_once(decoder):
    with pytest.raises(ValueError, match="latents"):
        decode_draft(decoder, torch.zeros(1, 4, 1, 2, 2))
