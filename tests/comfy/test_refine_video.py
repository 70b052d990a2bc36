"""Refine Video: the library's stream of a VIDEO, by ComfyUI's guider, while Save Video writes it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from flashvideo import AttentionWindows
from flashvideo.runs.attention import attention_windows
from flashvideo.runs.keeping import identified
from flashvideo.runs.settings import Stage2Settings
from flashvideo.runs.stream import refine_frames
from flashvideo.runs.stretches import stretches_between
from flashvideo.video.files import write_image
from tests.comfy.conftest import Bench, saved
from tests.comfy.golden_models import STAGE1, STAGE2, TEXT, VAE
from tests.comfy.server import RejectedError
from tests.comfy.test_vae_nodes import a_video, image_of
from tests.comfy.test_video_nodes import AUTO, facts, file_frames, saved_file, trim
from tests.comfy.test_video_sources import put, told
from tests.unit.runs.test_stream import Models
from tests.unit.video.odd_videos import HEIGHT, RATE, WIDTH, grey, make, sound

NODE = "FlashVideoRefineVideo"
SIZE = {"size": "custom", "width": 48, "height": 32}
WIDGETS = {**SIZE, "steps": 2, "cfg": 3.0, "seed": 5, "window": 4, "overlap": 2, "match_colors": 2.0}
SETTINGS = Stage2Settings(
    height=32, width=48, num_steps=2, guidance_scale=3.0, time_windows="4,2", seed=5, match_colors=2.0
)
CHOSEN = {"match_colors": -1.0}


@pytest.fixture
def context(golden: Any) -> Tensor:
    embeds: Tensor = golden("sampler_stage2")["context"]
    return embeds


@pytest.fixture
def refined(bench: Bench, context: Tensor) -> Any:
    """The node with golden models."""
    model = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    sockets = {"vae": bench.add("FlashVideoLoadVAE", vae_name=VAE), "model": model}

    def add(video: Any, **more: Any) -> Any:
        positive = bench.tensor("ProbeConditioning", context)
        return bench.add(NODE, video=video, **{**sockets, "positive": positive, **WIDGETS, **more})

    add.model = model  # type: ignore[attr-defined]
    return add


@pytest.fixture
def by_library(tiny_stage2: Any, tiny_vae: Any, context: Tensor) -> Any:
    """IMAGE that the library makes of one."""

    def refine(images: Tensor, stage2: Any = tiny_stage2, cuts: tuple[int, ...] = (), **changes: Any) -> Tensor:
        settings, models = Stage2Settings(**{**SETTINGS.to_dict(), **changes}), Models(stage2, tiny_vae)
        video = images.movedim(-1, 0)[None]
        frames: list[Tensor] = []
        for one in stretches_between(cuts, len(images)):
            scene = [video[:, :, one.first : one.last]]
            frames += refine_frames(models, scene, context, settings, first_latent=one.latent)
        return image_of(torch.cat(frames, dim=2))

    return refine


def confined(transformer: Any, windows: AttentionWindows | None) -> Any:
    """Stage II whose attention has windows."""

    def evaluate(*inputs: Any, **more: Any) -> Tensor:
        out: Tensor = transformer(*inputs, **{**more, "attention_windows": windows})
        return out

    return evaluate


def made(bench: Bench, images: Tensor, fps: float = 8.0, **more: Any) -> Any:
    return bench.add("CreateVideo", images=bench.tensor("ProbeImage", images), fps=fps, **more)


@pytest.mark.parametrize(
    "changes",
    [{}, {"solver": "heun", "cfg": 1.0}, {"posterior": "mean", "match_colors": 0.0}, CHOSEN, {"guidance_every": 2}],
)
def test_it_is_the_librarys_stream(
    bench: Bench, refined: Any, by_library: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    given, out = image_of(a_video(18, 16, 24)), tmp_path / "out.safetensors"
    bench.add("ProbeVideo", video=refined(made(bench, given), **changes), path=str(out))
    run = bench.run()
    names = {"cfg": "guidance_scale", "posterior": "sample_posterior"}
    values = {"mean": False, -1.0: 4.0}  # 8 of the result's pixels are 4, enlarged twice
    expected = by_library(given, **{names.get(k, k): values.get(v, v) for k, v in changes.items()})
    assert saved(out, "images").shape == (18, 32, 48, 3)
    torch.testing.assert_close(saved(out, "images"), expected, atol=2e-4, rtol=0)
    assert facts(run) | {"frames": 18, "size": [48, 32], "rate": "8"} == facts(run)


def test_files_keep_their_rate_their_sound_and_what_a_player_shows(
    bench: Bench, refined: Any, by_library: Any, tmp_path: Path
) -> None:
    source, out = put(bench, sound, "talk.mkv", [220.0], default=0, film=10), tmp_path / "out.safetensors"
    frames = bench.save(bench.add("FlashVideoVideoFrames", video=source), "ProbeSaveImage", "image")
    node = refined(source)
    save = bench.add("SaveVideo", video=node, filename_prefix="refined/talk", **AUTO)
    probe = bench.add("ProbeVideo", video=node, path=str(out))
    run = bench.run()
    torch.testing.assert_close(saved(out, "images"), by_library(saved(frames, "image")), atol=2e-4, rtol=0)
    assert saved(out, "audio").shape[-1] >= 8000 * 10 / RATE
    file = saved_file(bench, run, save)
    assert len(file_frames(file)) == 10
    with av.open(str(file)) as container:
        assert container.streams.video[0].average_rate == RATE
        assert len(container.streams.audio) == 1
    assert f"{WIDTH}x{HEIGHT}" in told(run, node)
    steps = [step for node in (save, probe) for step in run.progress.get(node[0], [])]
    assert steps.count((10, 10)) == 1, "refined once for two readers, and counted: 5 latents of 2 steps"


def test_held_frames_and_trims(bench: Bench, refined: Any, by_library: Any, tmp_path: Path) -> None:
    times, out, cut = [0, 40, 80, 400, 440, 480], tmp_path / "out.safetensors", tmp_path / "cut.safetensors"
    source = put(bench, make, "uneven.mp4", [grey(n) for n in range(6)], times=times, tick=Fraction(1, 1000))
    frames = bench.save(bench.add("FlashVideoVideoFrames", video=source), "ProbeSaveImage", "image")
    node = refined(source)
    bench.add("ProbeVideo", video=node, path=str(out))
    bench.add("ProbeVideo", video=trim(bench, node, 0.0, 0.12), path=str(cut))
    run = bench.run()
    images, expected = saved(out, "images"), by_library(saved(frames, "image"))
    assert len(images) > 6
    distances = [[float((image - other).abs().max()) for other in expected] for image in images]
    assert set(np.argmin(distances, axis=1)) == set(range(6))
    assert max(map(min, distances)) < 2e-4
    assert torch.equal(saved(cut, "images"), images[: len(saved(cut, "images"))])
    assert "rate varies" in told(run, node)


def test_lazy_videos_go_through_too(bench: Bench, refined: Any, latents: Any, tmp_path: Path) -> None:
    """Of another node of ours, trimmed: nothing is decoded before it is needed."""
    out = tmp_path / "out.safetensors"
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    video = bench.add("FlashVideoDecodeVideo", vae=vae, latent=bench.latent(latents(1, 16, 3, 4, 6)), fps=8.0)
    node = refined(trim(bench, video, 0.25, 0.5), **{"size": "x2", "resize": "crop"})
    bench.add("ProbeVideo", video=node, path=str(out))
    bench.run()
    assert saved(out, "images").shape == (4, 64, 96, 3)


def test_a_models_patches_are_followed(
    bench: Bench, refined: Any, by_library: Any, tiny_stage2: Any, tmp_path: Path
) -> None:
    """Attention Windows in space; core's Context Windows, of which one covers the stretch, change nothing."""
    given, paths = image_of(a_video(9, 16, 24)), [tmp_path / f"{n}.safetensors" for n in range(3)]
    half = bench.add("FlashVideoAttentionWindows", model=refined.model, width=32, height=16, pooled=0)
    core = bench.add("ContextWindowsManual", model=refined.model, dim=2, context_length=4, context_overlap=1)
    video = made(bench, given)
    for path, model in zip(paths, (refined.model, half, core), strict=True):
        bench.add("ProbeVideo", video=refined(video, model=model), path=str(path))
    bench.run()
    plain, windowed, covered = (saved(path, "images") for path in paths)

    stage2 = confined(tiny_stage2, AttentionWindows(2, 4))
    torch.testing.assert_close(windowed, by_library(given, stage2=stage2), atol=2e-4, rtol=0)
    assert (windowed - plain).abs().max() > 1e-3
    assert torch.equal(covered, plain)


def two_scenes() -> Tensor:
    """18 frames, of which the tenth begins another scene."""
    first = image_of(a_video(9, 16, 24)) * 0.2
    return torch.cat((first, 1 - first))


def many(bench: Bench, tmp_path: Path, *videos: Any) -> list[Tensor]:
    """The frames of VIDEOs, all of one run."""
    paths = [tmp_path / f"{n}.safetensors" for n in range(len(videos))]
    for path, video in zip(paths, videos, strict=True):
        bench.add("ProbeVideo", video=video, path=str(path))
    bench.run()
    return [saved(path, "images") for path in paths]


def test_scenes_are_refined_each_for_itself(bench: Bench, refined: Any, by_library: Any, tmp_path: Path) -> None:
    given = two_scenes()
    path = bench.server.base / "input" / "scenes.mp4"
    make(path, [(frame * 255).byte().numpy() for frame in given])
    file, video = bench.add("LoadVideo", file=path.name), made(bench, given)
    read = bench.save(bench.add("FlashVideoVideoFrames", video=file), "ProbeSaveImage", "image")
    found, of_file, off = refined(video), refined(file), refined(video, cuts="off")
    images = many(bench, tmp_path, found, of_file, off, refined(video, cuts="5,9"))
    expected = [by_library(given, cuts=(9,)), by_library(saved(read, "image"), cuts=(9,))]
    expected += [by_library(given), by_library(given, cuts=(5, 9))]
    for each, other in zip(images, expected, strict=True):
        torch.testing.assert_close(each, other, atol=2e-4, rtol=0)
    assert (images[0] - images[2]).abs().max() > 1e-3


def test_a_prompt_for_each_scene(bench: Bench, refined: Any, tmp_path: Path) -> None:
    video, clip = made(bench, two_scenes()), bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)

    def encoded(prompt: str) -> Any:
        return bench.add("FlashVideoTextEncode", clip=clip, prompt=prompt, stage="Stage II", motion="high motion")

    words = {"clip": clip, "motion": "high motion"}
    both, one, boat, bird = many(
        bench,
        tmp_path,
        refined(video, prompts="# scenes\na red boat\n\na bird\n", **words),
        refined(video, prompts="a red boat", **words),
        refined(video, positive=encoded("a red boat")),
        refined(video, positive=encoded("a bird")),
    )
    assert torch.equal(one, boat)
    assert torch.equal(both, torch.cat((boat[:9], bird[9:])))
    assert not torch.equal(boat[9:], bird[9:])


def test_what_a_mask_keeps(bench: Bench, refined: Any, by_library: Any, tmp_path: Path) -> None:
    given = two_scenes()
    left = torch.zeros(1, 16, 24, 3)
    left[:, :, :12] = 1
    picture = write_image(tmp_path / "mask.png", left[0].movedim(-1, 0))
    video = made(bench, given)

    def mask(frames: Tensor) -> Any:
        return bench.add("ImageToMask", image=bench.tensor("ProbeImage", frames), channel="red")

    moving = torch.cat((left.expand(9, -1, -1, -1), torch.zeros(9, 16, 24, 3)))
    kept, moved, plain = many(
        bench, tmp_path, refined(video, keep=mask(left)), refined(video, keep=mask(moving)), refined(video)
    )
    expected = by_library(given, cuts=(9,), keep=identified(str(picture)))
    torch.testing.assert_close(kept, expected, atol=2e-4, rtol=0)
    assert torch.equal(moved, torch.cat((kept[:9], plain[9:])))
    assert (kept - plain).abs().max() > 1e-3


def test_beyond_the_trained_size_attention_has_windows(
    bench: Bench, refined: Any, by_library: Any, tiny_stage2: Any, tmp_path: Path
) -> None:
    given, size = image_of(a_video(1, 16, 968)), {"width": 1936, "height": 16}
    video, quick = made(bench, given), {"steps": 1, "cfg": 1.0, "match_colors": 0.0}
    model = bench.add("FlashVideoAttentionWindows", model=refined.model, width=480, height=16, pooled=0)
    images = many(
        bench,
        tmp_path,
        refined(video, **size, **quick),
        refined(video, **size, **quick, model=model),
        refined(video, **size, **quick, attention="full"),
    )
    expected = []
    for windows in (attention_windows("auto", 16, 1936), AttentionWindows(2, 60), None):
        changes = {"num_steps": 1, "guidance_scale": 1.0, "match_colors": 0.0, "attention": "full"}
        expected.append(by_library(given, stage2=confined(tiny_stage2, windows), **size, **changes))
    for each, other in zip(images, expected, strict=True):
        torch.testing.assert_close(each, other, atol=2e-4, rtol=0)
    assert min((images[k] - images[k - 1]).abs().max() for k in range(3)) > 1e-3


def test_memory_does_not_grow_with_length(bench: Bench, refined: Any, tmp_path: Path) -> None:
    """It is looked at five times a second, which may miss the most: short videos are saved until one reaches it."""

    def peak(seed: int, frames: int) -> int:
        path, out = bench.server.base / "input" / f"long{frames}.mp4", tmp_path / f"{seed}.mp4"
        make(path, [grey(number % 12) for number in range(frames)])
        node = refined(bench.add("LoadVideo", file=path.name), steps=1, cfg=1.0, match_colors=0.0, seed=seed)
        probe = bench.add("ProbeSaveMemory", video=node, path=str(out))
        grown: int = bench.run().outputs[probe[0]]["grown"][0]
        assert len(file_frames(out)) == frames
        return grown

    longest, more = peak(0, 257), (257 - 65) * 32 * 48 * 3 * 4
    assert any(longest - peak(seed, 65) < more for seed in range(1, 11)), "at least the refined frames more"


def test_what_does_not_fit_is_refused_before_anything_is_read(bench: Bench, refined: Any) -> None:
    video = made(bench, torch.rand(5, 16, 24, 3))
    masks = bench.add("ImageToMask", image=bench.tensor("ProbeImage", torch.rand(2, 16, 24, 3)), channel="red")
    clip = bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)
    for more, words in (
        ({"keep": masks}, "The mask has 2 frames, the video 5."),
        ({"prompts": "a\nb"}, "prompts has 2 prompts, and clip is not connected"),
        ({"prompts": "a\nb", "clip": clip, "cuts": "off"}, "there are 2 prompts for 1 stretches"),
        ({"cuts": "5"}, "cuts before the frames 5; expected rising numbers from 1 to 4"),
        ({"model": bench.add("FlashVideoLoadStage1", model_name=STAGE1)}, "needs Stage II"),
        ({"overlap": 4}, "overlap"),
        ({"steps": 65}, "at most 64"),
        ({"model": bench.add("FlashVideoStage2NoiseStep", model=refined.model, noise_step=700)}, "disagree"),
    ):
        node = refined(video, **more)
        save = bench.add("SaveVideo", video=node, filename_prefix="refused", **AUTO)
        assert words in bench.fails()
        bench.graph.nodes.pop(save[0])


def test_cuts_that_are_none_are_refused_at_once(bench: Bench, refined: Any) -> None:
    bench.add(
        "SaveVideo", video=refined(bench.add("LoadVideo", file="any.mp4"), cuts="often"), filename_prefix="no", **AUTO
    )
    with pytest.raises(RejectedError) as error:
        bench.server.queue(bench.graph)
    assert "cuts are 'often'; expected auto, off, or numbers of frames" in error.value.details


def test_a_file_that_changes_meanwhile_is_told(bench: Bench, refined: Any) -> None:
    """ComfyUI keeps the node's output, and would show old frames for new ones."""
    path = bench.server.base / "input" / "changing.mp4"
    make(path, [grey(number) for number in range(9)])
    node = refined(bench.add("LoadVideo", file=path.name))
    other = make(bench.folder / "short.mp4", [grey(number) for number in range(5)])
    change = bench.add("ProbeReplace", video=node, path=str(path), other=str(other))
    bench.add("SaveVideo", video=change, filename_prefix="changed", **AUTO)
    assert "5 of 9 frames" in bench.fails()
