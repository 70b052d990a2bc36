"""A stream that keeps what it finished: after any end the same call gives the same bytes, and makes nothing twice."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flashvideo.runs import store as stores
from flashvideo.runs.keeping import identified
from flashvideo.runs.settings import Stage2Settings
from flashvideo.runs.stream import go_on_refining, refine_frames
from flashvideo.vae.stream import decoder_reach
from flashvideo.video.files import write_image
from tests.unit.runs.test_stream import Models, moving
from tests.unit.vae.test_exact import small_vae

SETTINGS = Stage2Settings(
    height=16, width=16, num_steps=2, guidance_scale=1.0, time_windows="4,2", seed=5, match_colors=1.0
)
FRAMES = 8 * 26 + 3  # more than the reach of the decoder


class StoppedError(Exception):
    pass


class Counting:
    """Stage II; counts its evaluations."""

    def __init__(self, transformer: Any) -> None:
        self._transformer, self.evaluations = transformer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transformer, name)

    def __call__(self, *inputs: Any, **more: Any) -> Tensor:
        self.evaluations += 1
        result: Tensor = self._transformer(*inputs, **more)
        return result


class Attempts:
    """One call after the other on a store; frames count as safe by so many."""

    def __init__(self, models: Models, text: Tensor, video: Tensor, folder: Path, part: int = 24) -> None:
        self.models, self.text, self.video, self.folder, self.part = models, text, video, folder, part
        self.frames: list[Tensor] = []  # safe ones, in parts

    @property
    def safe(self) -> int:
        return sum(part.shape[2] for part in self.frames)

    def source(self, start: int) -> Iterator[Tensor]:
        return iter(self.video[:, :, start:].split(1, dim=2))

    def go_on(self, progress: Callable[[str, int, int], None], settings: Stage2Settings = SETTINGS) -> None:
        stream = go_on_refining(
            self.models, self.source, self.text, settings, self.folder, lambda: self.safe, progress, first_latent=3
        )
        waiting: list[Tensor] = []
        for frames in stream:
            waiting.append(frames)
            size = sum(part.shape[2] for part in waiting)
            if size >= self.part + (0 if self.frames else 1):
                self.frames.append(torch.cat(waiting, dim=2))
                waiting = []
        self.frames += [torch.cat(waiting, dim=2)] if waiting else []


@pytest.fixture(scope="module")
def text():
    return torch.randn(1, 226, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def models(tiny_stage2):
    return Models(Counting(tiny_stage2), small_vae(widths=(32, 32, 32, 32)))


@pytest.fixture(scope="module")
def video():
    return moving(FRAMES, 8, 8)


def test_reused_guidance_goes_on(models, text, video, tmp_path):
    settings = dataclasses.replace(SETTINGS, guidance_scale=3.0, guidance_every=2)
    video, counting = video[:, :, :90], models.parts["stage2"]
    counting.evaluations = 0
    expected = torch.cat(list(refine_frames(models, [video], text, settings, first_latent=3)), dim=2)
    evaluations, counting.evaluations = counting.evaluations, 0
    attempts = Attempts(models, text, video, tmp_path / "latents")
    for after in (20, 12):
        with pytest.raises(StoppedError):
            attempts.go_on(stopping(after), settings)
    attempts.go_on(lambda *_: None, settings)
    assert torch.equal(torch.cat(attempts.frames, dim=2), expected)
    assert counting.evaluations == evaluations


@pytest.fixture(scope="module")
def whole(models, video, text):
    models.parts["stage2"].evaluations = 0
    stream = refine_frames(models, video.split(5, dim=2), text, SETTINGS, first_latent=3)
    return torch.cat(list(stream), dim=2), models.parts["stage2"].evaluations


def stopping(after: int) -> Callable[[str, int, int], None]:
    """Progress that ends a stream after so many calls, but for those that tell what is kept: so it does get on."""
    left = [after]

    def told(what: str, _done: int, _total: int) -> None:
        left[0] -= what != "Kept latents"
        if left[0] < 0:
            raise StoppedError

    return told


def test_the_video_is_longer_than_the_reach(models):
    assert 8 * decoder_reach(models.parts["vae"]) + 24 < FRAMES


@pytest.mark.parametrize("part", [24, 10 * FRAMES])
def test_interrupted_anywhere_the_bytes_are_the_same(models, text, video, whole, tmp_path, part):
    """Frames are safe in parts, or none before all are."""
    draw, stops = random.Random(0), 0
    models.parts["stage2"].evaluations = 0
    attempts = Attempts(models, text, video, tmp_path / "latents", part)
    while True:
        try:
            attempts.go_on(stopping(draw.randrange(20, 80)))
            break
        except StoppedError:
            stops += 1
    assert stops > 1
    assert torch.equal(torch.cat(attempts.frames, dim=2), whole[0])
    assert models.parts["stage2"].evaluations == whole[1]  # a window's step is kept before anything goes on


def test_the_vae_goes_on_in_its_tiles(tmp_path):
    file = tmp_path / "latents" / "budgets.json"
    assert stores.same_budgets(file, 7, 8) == (7, 8)
    assert stores.same_budgets(file, 1, 2) == (7, 8)
    file.write_text("[0, 1")
    assert stores.same_budgets(file, 1, 2) == (1, 2)


def test_what_is_kept_of_the_source_stays_so(models, text, video, tmp_path):
    write_image(tmp_path / "mask.png", torch.ones(3, 16, 16).triu())
    settings = dataclasses.replace(SETTINGS, keep=identified(str(tmp_path / "mask.png")))
    video = video[:, :, :90]
    expected = torch.cat(list(refine_frames(models, [video], text, settings, first_latent=3)), dim=2)
    attempts = Attempts(models, text, video, tmp_path / "latents")
    with pytest.raises(StoppedError):
        attempts.go_on(stopping(30), settings)
    attempts.go_on(lambda *_: None, settings)
    assert torch.equal(torch.cat(attempts.frames, dim=2), expected)


def test_a_disk_that_fails_anywhere_changes_nothing(models, text, video, whole, tmp_path, monkeypatch):
    draw = random.Random(0)
    attempts = Attempts(models, text, video, tmp_path / "latents")
    write, unlink, left = stores.write_safetensors, Path.unlink, [0]

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            return function(*given, **more)

        return called

    monkeypatch.setattr(stores, "write_safetensors", failing(write))
    monkeypatch.setattr(Path, "unlink", failing(unlink))
    for _ in range(200):
        left[0] = draw.randrange(50, 200)
        try:
            attempts.go_on(lambda *_: None)
            break
        except OSError:
            continue
    assert torch.equal(torch.cat(attempts.frames, dim=2), whole[0])


def test_what_lies_there_does_not_grow(models, text, video, tmp_path):
    folder, most = tmp_path / "latents", dict[str, int]()

    def look(_what: str, _done: int, _total: int) -> None:
        for kind in ("start", "settled0", "settled1", "refined"):
            most[kind] = max(most.get(kind, 0), len(list(folder.glob(f"{kind}-*"))))

    Attempts(models, text, video, folder).go_on(look)
    assert max(most["settled0"], most["settled1"], most["start"]) <= 6
    assert sorted(folder.glob("refined-*"))[0].name > "refined-000000004"


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        *(("flipped", "start"), ("gone", "refined"), ("empty", "settled1"), ("parts gone", "start")),
    ],
)
def test_damage_is_found_and_made_again(models, text, video, whole, tmp_path, harm, kind):
    attempts = Attempts(models, text, video, tmp_path / "latents")
    with pytest.raises(StoppedError):
        attempts.go_on(stopping(90))
    files = sorted(attempts.folder.glob(f"{kind}-*"))
    damaged = files[len(files) // 2]
    if harm == "flipped":
        data = bytearray(damaged.read_bytes())
        data[-5] ^= 4
        damaged.write_bytes(data)
    elif harm == "empty":
        damaged.write_bytes(b"")
    elif harm == "gone":
        damaged.unlink()
    else:
        attempts.frames = []
    attempts.go_on(lambda *_: None)
    assert torch.equal(torch.cat(attempts.frames, dim=2), whole[0])


def test_frames_that_end_no_chunk_are_refused(models, text, video, tmp_path):
    with pytest.raises(ValueError, match="10 frames are done; expected 0, 9, 17"):
        list(go_on_refining(models, lambda _: iter([]), text, SETTINGS, tmp_path, lambda: 10))
