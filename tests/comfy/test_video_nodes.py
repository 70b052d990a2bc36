"""Decode to Video: lazy, trimmed lazily, written by core's Save Video in the memory of a chunk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from torch import Tensor

from flashvideo import decode_latents, load_vae
from tests.comfy.conftest import Bench, saved
from tests.comfy.server import Run
from tests.comfy.test_vae_nodes import VAE, close, image_of
from tests.conftest import TINY

AUTO = {"format": "mp4", "format.codec": "auto"}


def lazy(bench: Bench, given: Tensor, frames: int | None = None, **more: Any) -> list[Any]:
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    extra = {"flashvideo_frames": frames} if frames else {}
    return bench.add("FlashVideoDecodeVideo", vae=vae, latent=bench.latent(given, **extra), **more)


def expected_images(given: Tensor) -> Tensor:
    return image_of(decode_latents(load_vae(TINY / "3d-vae.pt"), given))


def saved_file(bench: Bench, run: Run, node: list[Any]) -> Path:
    entry = run.outputs[node[0]]["images"][0]
    return bench.server.base / "output" / entry["subfolder"] / entry["filename"]


def decodes(run: Run) -> int:
    """How often a VAE was set to work: the estimate is shown each time."""
    return sum("Tiles of" in text for texts in run.texts.values() for text in texts)


def trim(bench: Bench, video: list[Any], start: float, duration: float) -> list[Any]:
    widgets = {"start_time": start, "duration": duration, "strict_duration": True}
    return [bench.graph.add("Video Slice", video=video, **widgets), 0]


def facts(run: Run) -> dict[str, Any]:
    (shown,) = (output["facts"][0] for output in run.outputs.values() if "facts" in (output or {}))
    return dict(json.loads(shown))


def file_frames(path: Path) -> Tensor:
    with av.open(str(path)) as container:
        return torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)])


def test_it_tells_everything_without_decoding(bench: Bench, latents: Any) -> None:
    video = lazy(bench, latents(1, 16, 3, 4, 6), frames=7, fps=12.5, bit_depth=10)
    bench.add("ProbeVideo", video=video)
    run = bench.run()
    assert facts(run) == {
        **{"size": [48, 32], "frames": 7, "duration": 0.56, "rate": "25/2", "depth": 10},
        **{"space": "sRGB", "format": "mp4"},
    }
    assert decodes(run) == 0


def test_save_video_writes_what_whole_frames_would_give(bench: Bench, latents: Any) -> None:
    given = latents(1, 16, 4, 6, 8)
    vae, latent = bench.add("FlashVideoLoadVAE", vae_name=VAE), bench.latent(given, flashvideo_frames=11)
    video = bench.add("FlashVideoDecodeVideo", vae=vae, latent=latent)
    images = bench.add("FlashVideoTiledDecode", vae=vae, latent=latent)
    whole = bench.add("CreateVideo", images=images, fps=8.0)
    nodes = [bench.add("SaveVideo", video=v, filename_prefix=f"same/{n}", **AUTO) for n, v in enumerate((video, whole))]
    run = bench.run()
    streamed, other = (file_frames(saved_file(bench, run, node)) for node in nodes)
    assert streamed.shape == (11, 48, 64, 3)
    assert torch.equal(streamed, other)
    assert not list((bench.server.base / "output" / "same").glob(".flashvideo*"))


def test_colours_are_matched_as_frames_come(bench: Bench, latents: Any, tmp_path: Path) -> None:
    given, small, out = latents(1, 16, 4, 4, 6), torch.rand(11, 8, 12, 3), tmp_path / "matched.safetensors"
    vae, latent = bench.add("FlashVideoLoadVAE", vae_name=VAE), bench.latent(given, flashvideo_frames=11)
    inputs = {"vae": vae, "latent": latent, "colors_of": bench.tensor("ProbeImage", small), "match_colors": 3.0}
    whole = bench.save(bench.add("FlashVideoTiledDecode", **inputs), "ProbeSaveImage", "image")
    bench.add("ProbeVideo", video=bench.add("FlashVideoDecodeVideo", **inputs), path=str(out))
    bench.run()
    assert saved(out, "images").shape == (11, 32, 48, 3)
    assert close(saved(out, "images"), saved(whole, "image"))
    assert not close(saved(out, "images"), expected_images(given)[:11])


def test_components_are_the_decoded_frames(bench: Bench, latents: Any, tmp_path: Path) -> None:
    given, out = latents(1, 16, 2, 4, 6), tmp_path / "components.safetensors"
    bench.add("ProbeVideo", video=lazy(bench, given), path=str(out))
    bench.run()
    assert close(saved(out, "images"), expected_images(given))


def test_a_trim_stays_lazy_and_cuts_frames_and_audio(bench: Bench, latents: Any, tmp_path: Path) -> None:
    given, out = latents(1, 16, 5, 4, 6), tmp_path / "trimmed.safetensors"
    sound = torch.arange(3000.0).view(1, 1, -1) / 3000
    audio = bench.tensor("ProbeAudio", sound, rate=800)
    trimmed = trim(bench, lazy(bench, given, audio=audio), 0.5, 1.0)
    bench.add("ProbeVideo", video=trimmed)
    run = bench.run()
    assert (facts(run)["frames"], facts(run)["duration"], decodes(run)) == (8, 1.0, 0)
    bench.add("ProbeVideo", video=trimmed, path=str(out))
    bench.graph.nodes.pop(str(len(bench.graph.nodes) - 1))
    bench.run()
    assert close(saved(out, "images"), expected_images(given)[4:12])
    assert torch.equal(saved(out, "audio"), sound[..., 400:1200])


def test_two_consumers_decode_once(bench: Bench, latents: Any) -> None:
    given = latents(1, 16, 3, 4, 6)
    video = lazy(bench, given)
    save = bench.add("SaveVideo", video=video, filename_prefix="twice", **AUTO)
    images = bench.save(bench.add("GetVideoComponents", video=video), "ProbeSaveImage", "image")
    run = bench.run()
    assert decodes(run) == 1
    assert close(saved(images, "image"), expected_images(given))
    assert len(file_frames(saved_file(bench, run, save))) == 9


def test_saving_again_does_not_decode_again(bench: Bench, latents: Any) -> None:
    save = bench.add("SaveVideo", video=lazy(bench, latents(1, 16, 3, 4, 6)), filename_prefix="first", **AUTO)
    first = bench.run()
    bench.graph.nodes[save[0]]["inputs"]["filename_prefix"] = "second"
    second = bench.run()
    assert (decodes(first), decodes(second)) == (1, 0)
    assert torch.equal(*(file_frames(saved_file(bench, run, save)) for run in (first, second)))


def test_ten_bits_and_audio_reach_the_file(bench: Bench, latents: Any) -> None:
    audio = bench.tensor("ProbeAudio", torch.rand(1, 2, 16000), rate=16000)
    video = lazy(bench, latents(1, 16, 2, 4, 6), bit_depth=10, audio=audio)
    save = bench.add("SaveVideo", video=video, filename_prefix="ten", **AUTO)
    run = bench.run()
    with av.open(str(saved_file(bench, run, save))) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p10le"
        assert container.streams.video[0].frames == 5
        (sound,) = container.streams.audio
        assert float(sound.duration * sound.time_base) == pytest.approx(5 / 8, abs=0.07)


@pytest.fixture
def source_video(bench: Bench, latents: Any) -> str:
    """A video with audio in the server's input folder."""
    audio = bench.tensor("ProbeAudio", torch.sin(torch.arange(32000.0) / 9).view(1, 1, -1), rate=16000)
    save = bench.add(
        "SaveVideo", video=lazy(bench, latents(1, 16, 4, 4, 6), fps=10.0, audio=audio), filename_prefix="source", **AUTO
    )
    path = saved_file(bench, bench.run(), save)
    bench.graph.nodes.clear()
    return shutil.copy(path, bench.server.base / "input" / "source.mp4").name


def test_rate_and_audio_come_from_the_source(bench: Bench, latents: Any, source_video: str, tmp_path: Path) -> None:
    source = bench.add("LoadVideo", file=source_video)
    trimmed = trim(bench, source, 0.3, 0.8)
    outs = []
    for video in (trimmed, lazy(bench, latents(1, 16, 3, 4, 6), source=trimmed)):
        outs.append(tmp_path / f"{len(outs)}.safetensors")
        bench.add("ProbeVideo", video=video, path=str(outs[-1]))
    run = bench.run()
    videos = [json.loads(output["facts"][0]) for output in run.outputs.values() if "facts" in output]
    assert [video["rate"] for video in videos] == ["10", "10"]
    original, ours = (saved(out, "audio") for out in outs)
    assert abs(original.shape[-1] - ours.shape[-1]) <= 1024
    count = min(original.shape[-1], ours.shape[-1]) - 1
    shifts = ((original[..., :count], ours[..., 1 : count + 1]), (original[..., 1 : count + 1], ours[..., :count]))
    shifts += ((original[..., :count], ours[..., :count]),)
    assert min(float((a - b).abs().max()) for a, b in shifts) < 1e-3  # core rounds the start to a sample otherwise


def test_an_interrupted_save_leaves_no_file(bench: Bench, latents: Any) -> None:
    video = lazy(bench, latents(1, 16, 9, 12, 12), tile_size=48)
    node = bench.add("SaveVideo", video=video, filename_prefix="interrupted/video", **AUTO)

    def interrupt(name: str, data: dict[str, Any]) -> None:
        if name == "progress" and data["value"] > 0.3 * data["max"]:
            bench.server.post("/interrupt", {})

    run = bench.server.run(bench.graph, on_event=interrupt)
    assert run.interrupted
    folder = bench.server.base / "output" / "interrupted"
    assert not list(folder.iterdir())
    bench.graph.nodes[bench.graph.nodes[node[0]]["inputs"]["video"][0]]["inputs"]["tile_size"] = 64
    run = bench.run()
    assert len(file_frames(saved_file(bench, run, node))) == 33


@pytest.fixture
def narrow_vae(bench: Bench, tmp_path: Path) -> str:
    """A VAE with as little work a pixel as there can be, in the server's model folder."""
    from diffusers import AutoencoderKLCogVideoX

    AutoencoderKLCogVideoX(
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        latent_channels=16,
    ).save_pretrained(tmp_path)
    return bench.server.add_model("vae", tmp_path / "diffusion_pytorch_model.safetensors", "narrow.safetensors")


def test_saving_takes_the_memory_of_a_chunk(bench: Bench, latents: Any, narrow_vae: str) -> None:
    grown, clip = [], (4 * 64 + 1) * 96 * 96 * 12
    for number, count in enumerate((17, 17, 65)):  # the first warms up; even 17 latents fill the encoder's buffers
        bench.graph.nodes.clear()
        vae, latent = bench.add("FlashVideoLoadVAE", vae_name=narrow_vae), bench.latent(latents(1, 16, count, 12, 12))
        video = bench.add("FlashVideoDecodeVideo", vae=vae, latent=latent)
        bench.add("ProbeSaveMemory", video=video, path=str(bench.folder / f"{number}.mp4"))
        run = bench.run(timeout=300)
        grown += [output["grown"][0] for output in run.outputs.values()]
    assert grown[2] - grown[1] < 0.4 * clip, (grown, clip)


def test_cores_vae_is_decoded_with_its_own_weights(bench: Bench, latents: Any, narrow_vae: str) -> None:
    core = bench.add("ProbeCoreVae", vae=bench.add("FlashVideoLoadVAE", vae_name=narrow_vae))
    probe = bench.add("ProbeDecodeWeights", vae=core, latent=bench.latent(latents(1, 16, 2, 4, 4)))
    assert bench.run().outputs[probe[0]]["grown"] == [0]


def test_a_batch_is_refused(bench: Bench, latents: Any) -> None:
    bench.add("ProbeVideo", video=lazy(bench, latents(2, 16, 2, 4, 4)))
    assert "batch of 2 videos" in bench.fails()
