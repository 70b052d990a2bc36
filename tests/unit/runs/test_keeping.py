"""Masks from files, and what a run keeps of its preview by them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flashvideo import latent_mask
from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.runs import chain
from flashvideo.runs.keeping import identified, keep_mask
from flashvideo.runs.record import Record
from flashvideo.runs.settings import Stage1Settings, Stage2Settings
from flashvideo.video.files import write_image, write_video
from tests.conftest import TINY

STAGE2 = Stage2Settings(height=64, width=64, num_steps=2, guidance_scale=1.0, noise_step=500, seed=7)


def half(height: int = 32, width: int = 32) -> Tensor:
    """``[3, height, width]``, white on the left."""
    picture = torch.zeros(3, height, width)
    picture[..., : width // 2] = 1
    return picture


@pytest.fixture
def picture(tmp_path):
    return str(write_image(tmp_path / "mask.png", half()))


@pytest.fixture(scope="module")
def models():
    return ModelStore(find_models(str(TINY), {}, ("stage2", "vae")))


@pytest.fixture
def preview():
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 226, 32, generator=torch.Generator().manual_seed(1))
    return Record(latents, "a ball", text, text, Stage1Settings(height=32, width=32, num_frames=9), STAGE2)


class TestFiles:
    def test_a_picture_holds_for_all_frames(self, picture):
        mask = keep_mask(replace(STAGE2, keep=identified(picture)), 9)
        assert mask is not None
        assert mask.shape == (1, 1, 1, 8, 8)
        assert torch.allclose(mask, latent_mask(half(64, 64)[:1], 8, 8), atol=0.1)

    def test_a_video_goes_by_its_frames(self, tmp_path, caplog):
        frames = torch.zeros(1, 3, 9, 64, 64)
        frames[:, :, 6] = 1
        path = str(write_video(tmp_path / "mask.mp4", frames[0], 8))
        settings = replace(STAGE2, keep=identified(path))
        mask = keep_mask(settings, 9)
        assert mask is not None
        assert (mask > 0.5).amax(dim=(0, 1, 3, 4)).tolist() == [False, False, True]
        assert not caplog.text
        longer = keep_mask(settings, 17)
        assert longer is not None
        assert (longer > 0.5).amax(dim=(0, 1, 3, 4)).tolist() == [False, False, True, True, True]
        assert "ends earlier than the video" in caplog.text
        shorter = keep_mask(settings, 5)
        assert shorter is not None
        assert shorter.shape[2] == 2

    def test_it_is_brought_to_size_as_the_preview_is(self, tmp_path):
        path = str(write_image(tmp_path / "mask.png", half(32, 64)))  # of twice the width: crop shows its middle
        mask = keep_mask(replace(STAGE2, keep=identified(path), resize="crop"), 1)
        assert mask is not None
        assert mask[0, 0, 0, 4].tolist() == pytest.approx([1, 1, 1, 0.75, 0.25, 0, 0, 0], abs=0.1)

    def test_another_content_is_another_mask(self, picture):
        settings = replace(STAGE2, keep=identified(picture))
        assert identified(settings.keep) == settings.keep
        write_image(picture, 1 - half(), overwrite=True)
        with pytest.raises(ValueError, match=r"has changed since .* again to take it as it is now"):
            keep_mask(settings, 9)
        assert identified(picture) != settings.keep

    def test_what_is_no_mask(self, tmp_path):
        with pytest.raises(ValueError, match=r"There is no mask .*missing.png. Give a picture"):
            identified(str(tmp_path / "missing.png"))
        words = tmp_path / "words.png"
        words.write_text("no picture")
        with pytest.raises(ValueError, match=r"words\.png"):
            identified(str(words))
        assert identified("") == ""


class TestRuns:
    def test_all_kept_is_the_preview_enlarged(self, models, preview, tmp_path):
        path = str(write_image(tmp_path / "white.png", torch.ones(3, 8, 8)))
        settings = replace(STAGE2, keep=identified(path))
        kept = chain.refine_record(models, preview, settings)
        encoded = chain.encode_upscaled(models, chain.decode(models, preview.latents), STAGE2, [STAGE2.seed])
        assert torch.allclose(kept.latents, encoded, atol=1e-4)
        plain = chain.refine_record(models, preview, STAGE2)
        assert not torch.allclose(plain.latents, encoded, atol=0.1)

    @pytest.mark.parametrize("windows", ["0", "2,1"])
    def test_a_part_is_kept_from_previews_and_degraded_latents_alike(self, models, preview, picture, windows):
        settings = replace(STAGE2, keep=identified(picture), time_windows=windows)
        starts = list[Record]()
        kept = chain.refine_record(models, preview, settings, on_degraded=starts.append)
        again = chain.refine_record(models, starts[0], settings)
        assert torch.equal(kept.latents, again.latents)
        encoded = chain.undegrade(models, starts[0])
        plain = chain.refine_record(models, preview, replace(settings, keep=""))
        assert torch.allclose(kept.latents[..., :2], encoded[..., :2], atol=1e-4)
        assert not torch.allclose(kept.latents[..., 5:], encoded[..., 5:], atol=0.1)
        assert not torch.allclose(kept.latents[..., 5:], plain.latents[..., 5:], atol=1e-3)

    def test_a_mask_that_is_gone_is_missed_before_any_work(self, preview, picture):
        settings = replace(STAGE2, keep=f"{picture}.gone")
        with pytest.raises(ValueError, match="There is no mask"):
            chain.refine_record(None, preview, settings)

    def test_pure_noise_keeps_nothing(self, models, preview, picture):
        settings = replace(STAGE2, keep=identified(picture), noise_step=999)
        with pytest.raises(ValueError, match=r"Noise step 999 leaves nothing .* Use 998 or less"):
            chain.refine_record(models, preview, settings)
