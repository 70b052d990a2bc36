"""Load VAE, Upscale and Encode and Tiled VAE Decode against the library, through our nodes and core's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flashvideo import decode_latents, encode_video, load_vae, match_colors
from flashvideo.runs.seeds import generator_for
from flashvideo.video.resize import resize_video
from tests.comfy.conftest import Bench, saved, saved_keys
from tests.comfy.golden_models import VAE
from tests.comfy.server import RejectedError
from tests.conftest import TINY


@pytest.fixture(scope="module")
def library_vae() -> Any:
    return load_vae(TINY / "3d-vae.pt")


def image_of(video: Tensor) -> Tensor:
    """Library video to IMAGE."""
    return video.movedim(1, -1).flatten(0, 1).contiguous()


def a_video(frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth moving video, ``[1, 3, F, H, W]``."""
    cells = torch.rand(1, 3, 4, 6, 9, generator=torch.Generator().manual_seed(seed))
    video = torch.nn.functional.interpolate(cells, size=(frames, height, width), mode="trilinear")
    return video.clamp(0, 1)


def close(actual: Tensor, expected: Tensor) -> bool:
    return actual.shape == expected.shape and float((actual - expected).abs().max()) < 2e-5


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_every_decode_node_is_exact(bench: Bench, library_vae: Any, latents: Any, count: int) -> None:
    given = latents(1, 16, count, 6, 10)
    vae, latent = bench.add("FlashVideoLoadVAE", vae_name=VAE), bench.latent(given)
    outs = [
        bench.save(bench.add(kind, vae=vae, **{socket: latent}, **more), "ProbeSaveImage", "image")
        for kind, socket, more in (
            ("VAEDecode", "samples", {}),
            ("VAEDecodeTiled", "samples", {"tile_size": 64, "overlap": 0}),
            ("FlashVideoTiledDecode", "latent", {}),
            ("FlashVideoTiledDecode", "latent", {"tile_size": 32}),
            ("FlashVideoTiledDecode", "latent", {"memory_gb": 0.1}),
        )
    ]
    run = bench.run()
    expected = image_of(decode_latents(library_vae, given))
    assert len(expected) == 4 * (count - 1) + 1
    for out in outs:
        assert close(saved(out, "image"), expected), out
    assert any("Tiles of 32x32 pixels" in text for texts in run.texts.values() for text in texts)


@pytest.mark.parametrize("frames", [1, 5, 6, 9, 13, 33])
def test_core_encode_nodes_give_the_mean(bench: Bench, library_vae: Any, frames: int) -> None:
    """For odd and even numbers of latent frames; what is not 4n + 1 is padded with its last frame."""
    video = a_video(frames, 48, 64)
    vae, pixels = bench.add("FlashVideoLoadVAE", vae_name=VAE), bench.tensor("ProbeImage", image_of(video))
    plain = bench.save(bench.add("VAEEncode", vae=vae, pixels=pixels))
    tiled = bench.save(bench.add("VAEEncodeTiled", vae=vae, pixels=pixels, tile_size=64, overlap=0))
    bench.run()
    padded = torch.cat((video, video[:, :, -1:].expand(-1, -1, (1 - frames) % 4, -1, -1)), dim=2)
    expected = encode_video(library_vae, padded, sample=False)
    assert close(saved(plain), expected)
    assert close(saved(tiled), expected)


def test_a_batch_of_videos_is_decoded_one_after_another(bench: Bench, library_vae: Any, latents: Any) -> None:
    given = latents(2, 16, 2, 4, 6)
    vae, latent = bench.add("FlashVideoLoadVAE", vae_name=VAE), bench.latent(given)
    ours = bench.save(bench.add("FlashVideoTiledDecode", vae=vae, latent=latent), "ProbeSaveImage", "image")
    core = bench.save(bench.add("VAEDecode", vae=vae, samples=latent), "ProbeSaveImage", "image")
    bench.run()
    expected = torch.cat([image_of(decode_latents(library_vae, given[k : k + 1])) for k in (0, 1)])
    assert close(saved(ours, "image"), expected)
    assert close(saved(core, "image"), expected)


DECODERS = {"FlashVideoTiledDecode": "latent", "VAEDecode": "samples", "VAEDecodeTiled": "samples"}
ENCODERS = {"FlashVideoUpscaleEncode": "image", "VAEEncode": "pixels", "VAEEncodeTiled": "pixels"}


def through(bench: Bench, latent: Any, decoder: str, encoder: str) -> Path:
    """A latent that is decoded and encoded again at the same size."""
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    image = bench.add(decoder, vae=vae, **{DECODERS[decoder]: bench.latent(latent)})
    more = {"size": "custom", "width": 48, "height": 32} if encoder == "FlashVideoUpscaleEncode" else {}
    return bench.save(bench.add(encoder, vae=vae, **{ENCODERS[encoder]: image}, **more))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_batch_of_videos_is_no_clip(bench: Bench, latents: Any, decoder: str, encoder: str) -> None:
    """Without a gate two seeds would become one video, which Stage II refines without a word."""
    through(bench, latents(2, 16, 2, 4, 6), decoder, encoder)
    assert "a batch of 2 videos of 5 frames" in bench.fails()


@pytest.mark.parametrize("shape", [(1, 16, 2, 4, 6), (3, 16, 1, 4, 6)], ids=["a video", "pictures"])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_one_video_and_a_batch_of_pictures_go_on(
    bench: Bench, latents: Any, decoder: str, encoder: str, shape: tuple[int, ...]
) -> None:
    out = through(bench, latents(*shape), decoder, encoder)
    bench.run()
    assert saved(out).shape == (1, 16, 2, 4, 6)


def test_pixels_of_a_batch_of_videos_are_not_degraded_as_one(bench: Bench, latents: Any) -> None:
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    image = bench.add("VAEDecode", vae=vae, samples=bench.latent(latents(2, 16, 2, 4, 6)))
    bench.save(bench.add("FlashVideoDegradePixels", image=image), "ProbeSaveImage", "image")
    assert "a batch of 2 videos of 5 frames" in bench.fails()


def test_cores_own_vae_is_decoded_exactly(bench: Bench, library_vae: Any, latents: Any) -> None:
    given = latents(1, 16, 4, 4, 6)
    core = bench.add("ProbeCoreVae", vae=bench.add("FlashVideoLoadVAE", vae_name=VAE))
    node = bench.add("FlashVideoTiledDecode", vae=core, latent=bench.latent(given))
    out = bench.save(node, "ProbeSaveImage", "image")
    bench.run()
    assert close(saved(out, "image"), image_of(decode_latents(library_vae, given)))


def test_the_loader_takes_diffusers_layout(bench: Bench, library_vae: Any, latents: Any, tmp_path: Path) -> None:
    library_vae.save_pretrained(tmp_path)
    name = bench.server.add_model(
        "vae", tmp_path / "diffusion_pytorch_model.safetensors", "small-diffusers.safetensors"
    )
    given = latents(1, 16, 3, 4, 4)
    vae = bench.add("FlashVideoLoadVAE", vae_name=name)
    out = bench.save(bench.add("VAEDecode", vae=vae, samples=bench.latent(given)), "ProbeSaveImage", "image")
    bench.run()
    assert close(saved(out, "image"), image_of(decode_latents(library_vae, given)))


def upscaled(bench: Bench, image: Tensor, **more: Any) -> list[Any]:
    sizes = {"size": "custom", "width": 96, "height": 64}
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    return bench.add("FlashVideoUpscaleEncode", vae=vae, image=bench.tensor("ProbeImage", image), **{**sizes, **more})


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_upscale_and_encode_is_the_library(bench: Bench, library_vae: Any, resize: str) -> None:
    video = a_video(5, 24, 32)
    sampled = bench.save(upscaled(bench, image_of(video), resize=resize, seed=7))
    mean = bench.save(upscaled(bench, image_of(video), resize=resize, posterior="mean"))
    bench.run()
    large = resize_video(video, 64, 96, mode=resize)
    drawn = encode_video(library_vae, large, generator=generator_for(7, "posterior"))
    assert close(saved(sampled), drawn)
    assert close(saved(mean), encode_video(library_vae, large, sample=False))


@pytest.mark.parametrize("frames", [1, 3, 6])
def test_the_frame_count_survives_the_padding(bench: Bench, library_vae: Any, frames: int) -> None:
    video = a_video(frames, 24, 32)
    latent = upscaled(bench, image_of(video), posterior="mean", tile_size=32)
    kept = bench.save(latent)
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    out = bench.save(bench.add("FlashVideoTiledDecode", vae=vae, latent=latent), "ProbeSaveImage", "image")
    bench.run()
    padded = torch.cat((video, video[:, :, -1:].expand(-1, -1, (1 - frames) % 4, -1, -1)), dim=2)
    expected = encode_video(library_vae, resize_video(padded, 64, 96), sample=False)
    assert close(saved(kept), expected)
    assert saved_keys(kept) == {"flashvideo_frames": str(frames), "flashvideo_resize": repr("stretch")}
    assert close(saved(out, "image"), image_of(decode_latents(library_vae, expected))[:frames])


@pytest.mark.parametrize(("batch", "resize", "cell"), [(1, "crop", 2.0), (2, "stretch", 8.0)])
def test_colours_come_from_the_small_video(
    bench: Bench, library_vae: Any, latents: Any, batch: int, resize: str, cell: float
) -> None:
    given, small = latents(batch, 16, 2, 8, 12), a_video(4, 16, 24)
    extra = {"flashvideo_frames": 4, "flashvideo_resize": resize}
    vae, latent = bench.add("FlashVideoLoadVAE", vae_name=VAE), bench.latent(given, **extra)
    image = bench.tensor("ProbeImage", image_of(small))
    more = {} if cell == 8.0 else {"match_colors": cell}
    node = bench.add("FlashVideoTiledDecode", vae=vae, latent=latent, colors_of=image, **more)
    out = bench.save(node, "ProbeSaveImage", "image")
    bench.run()
    decoded = [decode_latents(library_vae, given[k : k + 1])[:, :, :4] for k in range(batch)]
    expected = torch.cat([image_of(match_colors(video, small, cell, resize=resize)) for video in decoded])
    assert close(saved(out, "image"), expected)


def test_a_small_video_of_other_length_is_refused(bench: Bench, latents: Any) -> None:
    vae, latent = bench.add("FlashVideoLoadVAE", vae_name=VAE), bench.latent(latents(1, 16, 2, 4, 6))
    image = bench.tensor("ProbeImage", torch.rand(3, 16, 24, 3))
    node = bench.add("FlashVideoTiledDecode", vae=vae, latent=latent, colors_of=image)
    bench.save(node, "ProbeSaveImage", "image")
    assert "colors_of has 3 frames, the latent 5" in bench.fails()


def test_the_vae_needs_no_diffusers(bench: Bench, latents: Any) -> None:
    latent = upscaled(bench, torch.rand(1, 16, 16, 3), size="custom", width=32, height=32)
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    bench.save(bench.add("FlashVideoTiledDecode", vae=vae, latent=latent), "ProbeSaveImage", "image")
    bench.run()
    probe = bench.add("ProbeModules", names="diffusers peft flashvideo", nonce=1)
    assert bench.run().outputs[probe[0]]["modules"] == []


def test_wrong_wiring_is_refused_in_words(bench: Bench, latents: Any) -> None:
    pixel_space = bench.add("VAELoader", vae_name="pixel_space")
    node = bench.add("FlashVideoTiledDecode", vae=pixel_space, latent=bench.latent(latents()))
    bench.save(node, "ProbeSaveImage", "image")
    assert "another kind of VAE" in bench.fails()


@pytest.mark.parametrize("kind", ["FlashVideoTiledDecode", "VAEDecode"])
def test_an_image_latent_is_refused_in_words(bench: Bench, kind: str) -> None:
    vae, latent = bench.add("FlashVideoLoadVAE", vae_name=VAE), bench.latent(torch.randn(1, 4, 8, 8))
    socket = "samples" if kind == "VAEDecode" else "latent"
    bench.save(bench.add(kind, vae=vae, **{socket: latent}), "ProbeSaveImage", "image")
    assert "expected floating point [B, 16, T, h, w]" in bench.fails()


def test_a_size_that_cannot_be_is_refused_before_work(bench: Bench) -> None:
    bench.save(upscaled(bench, torch.rand(1, 16, 16, 3), width=1081))
    with pytest.raises(RejectedError) as refused:
        bench.run()
    assert "width 1081" in refused.value.details
