"""The whole path against the authors': each leg from the stored input of that leg, then all of them chained."""

from __future__ import annotations

import pytest
import torch

from flashvideo import decode_latents, degrade_latents, encode_video, refine_latents, sample_stage1
from flashvideo.video.resize import resize_video

SCALE1, SCALE2 = 0.7, 1.15258426


def video_of(frames_255):
    """``[F, H, W, 3]`` 0..255 -> ``[1, 3, F, H, W]`` 0..1."""
    return (frames_255 / 255).permute(3, 0, 1, 2)[None].contiguous()


def frames_of(video):
    return video[0].permute(1, 2, 3, 0) * 255


@pytest.fixture(scope="module")
def file(golden):
    return golden("pipeline")


def stage1(model, file):
    draws = file.latents("stage1.noise_draws")
    noise = [draws[0], *draws[2::2]]
    return sample_stage1(model, file.latents("stage1.x_init"), file["stage1.context"], step_noise=noise)


def refine(model, degraded, file):
    return refine_latents(model, degraded, file["stage2.context"], noise_step=675, num_steps=5)


def test_stage1(file, tiny_stage1, within):
    latents = stage1(tiny_stage1, file)
    within(latents * SCALE1, file.latents("stage1.latent"), 1e-4)
    within(latents, file["stage1.latent_unscaled_bcthw"], 2e-4)


def test_preview_decode(file, tiny_vae, within):
    video = decode_latents(tiny_vae, file["stage1.latent_unscaled_bcthw"])
    within(frames_of(video), file["stage1.video_255"], 2e-3)


def test_resize(file, within):
    large = resize_video(video_of(file["stage1.video_255"]), 48, 256) * 2 - 1
    kept = file["resized_keep_frames"].tolist()
    within(large[0, :, kept].transpose(0, 1), file["stage2.resized_keep_frames"], 1e-5)
    within(large[0].mean(dim=(0, 2, 3)), file["stage2.resized_frame_mean"], 1e-5)


def test_encode(file, tiny_vae, within):
    large = resize_video(video_of(file["stage1.video_255"]), 48, 256)
    latents = encode_video(tiny_vae, large, noise=file["stage2.vae_noise"])
    within(latents * SCALE2, file.latents("stage2.ref_latent_btchw"), 2e-5)


def test_degrade_and_refine(file, tiny_stage2, within):
    degraded = degrade_latents(file.latents("stage2.ref_latent_btchw") / SCALE2, noise=file.latents("stage2.ref_noise"))
    latents = refine(tiny_stage2, degraded, file)
    within(latents * SCALE2, file.latents("stage2.latent"), 2e-4)
    within(latents, file["stage2.latent_unscaled_bcthw"], 2e-4)


def check_final(frames, file, within, limit):
    kept = file["keep_frames"].tolist()
    within(frames[kept], file["stage2.video_255_keep_frames"], limit)
    within(frames.mean(dim=(1, 2, 3)), file["stage2.video_255_frame_mean"], limit)
    within(frames.std(dim=(1, 2, 3)), file["stage2.video_255_frame_std"], limit)


def test_final_decode(file, tiny_vae, within):
    video = decode_latents(tiny_vae, file["stage2.latent_unscaled_bcthw"], method="authors")
    check_final(frames_of(video), file, within, 2e-3)


def test_chained_from_end_to_end(file, tiny_stage1, tiny_stage2, tiny_vae, within):
    small = decode_latents(tiny_vae, stage1(tiny_stage1, file))
    latents = encode_video(tiny_vae, resize_video(small, 48, 256), noise=file["stage2.vae_noise"])
    degraded = degrade_latents(latents, noise=file.latents("stage2.ref_noise"))
    refined = refine(tiny_stage2, degraded, file)
    within(refined * SCALE2, file.latents("stage2.latent"), 3e-4)
    check_final(frames_of(decode_latents(tiny_vae, refined, method="authors")), file, within, 1e-2)


def test_contexts_of_both_stages_differ(file):
    """Stage II's prompt has its motion prefix, so two encodings are needed."""
    assert not torch.equal(file["stage1.context"], file["stage2.context"])
