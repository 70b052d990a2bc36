"""Stage II of a video of any length: the bytes of its parts one after the other, in flat memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from flashvideo import decode_latents, degrade_latents, encode_video, match_colors, refine_latents
from flashvideo.method.degradation import STAGE2_LATENT_SCALE
from flashvideo.runs.keeping import identified, keep_mask
from flashvideo.runs.seeds import frame_noise
from flashvideo.runs.settings import Stage2Settings
from flashvideo.runs.stream import padded_frames, refine_frames
from flashvideo.video.files import write_video
from flashvideo.video.resize import resize_video
from tests.live_bytes import live_bytes

SETTINGS = Stage2Settings(height=32, width=48, num_steps=2, guidance_scale=3.0, time_windows="4,2", seed=5)


class Models:
    """Stage II and the VAE; ``at_work`` is what was entered and not left."""

    def __init__(self, stage2: Any, vae: Any) -> None:
        self.parts, self.at_work, self.most = {"stage2": stage2, "vae": vae}, list[str](), 0

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        self.at_work.append(name)
        self.most = max(self.most, len(self.at_work))
        try:
            yield self.parts[name]
        finally:
            self.at_work.remove(name)

    def latent_scale(self, name: str) -> float | None:
        return None

    def describe(self) -> dict[str, str]:
        return {}


@pytest.fixture
def models(tiny_stage2, tiny_vae):
    return Models(tiny_stage2, tiny_vae)


@pytest.fixture(scope="module")
def text():
    return torch.randn(1, 226, 32, generator=torch.Generator().manual_seed(1))


def moving(frames: int, height: int = 16, width: int = 24) -> Tensor:
    draw = torch.rand(1, 3, 1, height, width, generator=torch.Generator().manual_seed(2))
    return torch.cat([draw.roll(index, 4) for index in range(frames)], dim=2)


def at_once(models: Models, video: Tensor, text: Tensor, settings: Stage2Settings) -> Tensor:
    """The same by the functions on whole videos."""
    frames = video.shape[2]
    padded = torch.cat((video, video[:, :, -1:].expand(-1, -1, padded_frames(frames) - frames, -1, -1)), dim=2)
    count = (padded.shape[2] - 1) // 4 + 1
    posterior, degradation = (
        torch.cat(
            [
                frame_noise(settings.seed, purpose, index, (1, 16, 1, settings.height // 8, settings.width // 8))
                for index in range(count)
            ],
            dim=2,
        )
        for purpose in ("posterior", "degradation")
    )
    large = resize_video(padded, settings.height, settings.width, mode=settings.resize)
    vae, keep = models.parts["vae"], keep_mask(settings, padded.shape[2])
    latents = encode_video(vae, large, sample=settings.sample_posterior, noise=posterior)
    start = degrade_latents(latents, settings.noise_step, noise=degradation, latent_scale=STAGE2_LATENT_SCALE)
    refined = refine_latents(
        models.parts["stage2"],
        start,
        text,
        noise_step=settings.noise_step,
        num_steps=settings.num_steps,
        shift=settings.shift,
        guidance_scale=settings.guidance_scale,
        solver=settings.solver,
        time_windows=settings.windows_in_time,
        keep=keep,
        source=None if keep is None else latents,
    )
    decoded = decode_latents(vae, refined)
    if settings.match_colors:
        decoded = match_colors(decoded, padded, settings.match_colors, resize=settings.resize)
    return decoded[:, :, :frames]


def streamed(
    models: Models, video: Tensor, text: Tensor, settings: Stage2Settings, size: int = 3, **more: Any
) -> Tensor:
    return torch.cat(list(refine_frames(models, video.split(3, dim=2), text, settings, **more)), dim=2)


@pytest.mark.parametrize("frames", [1, 2, 8, 9, 10, 17, 26, 49])
@pytest.mark.parametrize("colors", [0.0, 2.0])
def test_a_stream_gives_the_bytes_of_the_whole(models, text, frames, colors):
    settings = Stage2Settings(**{**SETTINGS.to_dict(), "match_colors": colors})
    video = moving(frames)
    result = streamed(models, video, text, settings)
    assert result.shape == (1, 3, frames, 32, 48)
    assert torch.equal(result, at_once(models, video, text, settings))


@pytest.mark.parametrize(
    "changes",
    [
        {"solver": "heun", "guidance_scale": 1.0},
        {"sample_posterior": False, "resize": "crop"},
        {"time_windows": "0"},
    ],
)
def test_with_other_settings(models, text, changes):
    settings = Stage2Settings(**{**SETTINGS.to_dict(), **changes})
    video = moving(21)
    expected = at_once(models, video, text, settings)
    torch.testing.assert_close(streamed(models, video, text, settings), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [1, 9])
def test_what_a_mask_keeps(models, text, tmp_path, frames):
    mask = torch.zeros(3, frames, 32, 48)
    mask[:, :, :, :24] = 1
    mask[:, 5:9] = 1
    path = write_video(tmp_path / "mask.mp4", mask, 8)
    settings = Stage2Settings(**{**SETTINGS.to_dict(), "keep": identified(str(path))})
    video = moving(14)
    result = streamed(models, video, text, settings)
    torch.testing.assert_close(result, at_once(models, video, text, settings), atol=1e-4, rtol=0)
    assert not torch.allclose(result, at_once(models, video, text, SETTINGS), atol=1e-2)
    path.unlink()
    with pytest.raises(ValueError, match="There is no mask"):
        refine_frames(models, [video], text, settings)


@pytest.mark.parametrize("frames", range(1, 20))
def test_what_is_added_makes_an_odd_number_of_latents(frames):
    padded = padded_frames(frames)
    assert 0 <= padded - frames < 8
    assert ((padded - 1) // 4 + 1) % 2 == 1


def test_a_beginning_does_not_depend_on_what_follows(models, text):
    video = moving(57)
    short, long = (streamed(models, video[:, :, :frames], text, SETTINGS) for frames in (41, 57))
    assert torch.equal(short[:, :, :9], long[:, :, :9])
    assert not torch.equal(short, long[:, :, :41])


def test_draws_belong_to_places(models, text):
    video = moving(9)
    first = streamed(models, video, text, SETTINGS)
    assert not torch.equal(first, streamed(models, video, text, SETTINGS, first_latent=1))
    assert not torch.equal(first, streamed(models, video, text, SETTINGS.with_seed(6)))


def test_one_model_at_a_time_gives_the_same(models, text):
    video = moving(25)
    both = streamed(models, video, text, SETTINGS)
    assert models.most == 2
    models.most = 0
    assert torch.equal(streamed(models, video, text, SETTINGS, swap=True), both)
    assert models.most == 1


def test_frames_are_read_as_they_are_needed(models, text):
    read = 0

    def source() -> Iterator[Tensor]:
        nonlocal read
        for frame in moving(65).split(1, dim=2):
            read += 1
            yield frame

    stream = refine_frames(models, source(), text, SETTINGS)
    assert read == 0
    assert next(stream).shape[2] == 9
    assert read < 65
    stream.close()


def test_progress_ends_with_all_steps_and_may_end_the_stream(models, text):
    told: list[tuple[str, int, int]] = []
    streamed(models, moving(25), text, SETTINGS, progress=lambda *what: told.append(what), total=25)
    assert told == [("Stage II", done + 1, 14) for done in range(14)]

    def stop(_what: str, done: int, _total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with live_bytes() as counted:
        with pytest.raises(KeyboardInterrupt):
            streamed(models, moving(25), text, SETTINGS, progress=stop)
        gc.collect()
        assert sum(counted.live.values()) < 20_000
    assert not models.at_work


def test_closing_frees_everything(models, text):
    with live_bytes() as counted:
        stream = refine_frames(models, moving(65).split(1, dim=2), text, SETTINGS)
        next(stream)
        assert models.at_work
        stream.close()
        gc.collect()
        assert sum(counted.live.values()) < 20_000
    assert not models.at_work


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "there are no frames"),
        ([torch.rand(1, 3, 2, 16, 16), torch.rand(1, 3, 1, 16, 24)], "frame 2 has shape .*expected frames of one size"),
        ([torch.rand(2, 3, 1, 16, 16)], r"expected floating point \[1, 3, F, H, W\]"),
    ],
)
def test_what_is_no_video_is_refused(models, text, frames, said):
    with pytest.raises(ValueError, match=said):
        list(refine_frames(models, frames, text, SETTINGS))
    assert not models.at_work


def test_settings_are_refused_at_once(models, text):
    with pytest.raises(ValueError, match="time windows of 5 latents that overlap by 5"):
        refine_frames(models, [], text, Stage2Settings(time_windows="5,5"))
    with pytest.raises(ValueError, match="evaluations; with windows in time there are at most"):
        refine_frames(models, [], text, Stage2Settings(num_steps=100, time_windows="5,2"))


def peak(models: Models, text: Tensor, frames: int) -> int:
    def source() -> Iterator[Tensor]:
        for index in range(frames):
            yield torch.rand(1, 3, 1, 16, 24, generator=torch.Generator().manual_seed(index))

    settings = Stage2Settings(**{**SETTINGS.to_dict(), "match_colors": 1.0, "guidance_scale": 1.0, "num_steps": 1})
    with live_bytes() as counted:
        for _ in refine_frames(models, source(), text, settings):
            pass
    return counted.peak["computing"] + counted.peak["stored"]


def test_memory_does_not_grow_with_the_length(models, text):
    assert peak(models, text, 209) <= 1.01 * peak(models, text, 73)
