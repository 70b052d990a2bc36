"""Cached latents: those of encode_video, resumable to the same bytes, bad files left out, other caches refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flashvideo import encode_video, load_vae
from flashvideo.method.pixel_degradation import PixelDegradation, degrade_pixels
from flashvideo.training.data import (
    DatasetSettings,
    LatentCache,
    build_cache,
    latent_statistics,
    open_source,
)
from tests.conftest import TINY
from tests.unit.training.small_clips import folder_of, moving, write_media

SHAPES = DatasetSettings(source="shapes", height=16, width=32, frames=5, count=5, low=True)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "clips", ["b.mp4", "a.mkv", "more/c.mp4"])


@pytest.fixture(autouse=True)
def single_thread(one_thread: Callable[[], Any]):
    with one_thread():
        yield


def test_cached_latents_are_those_of_encode_video(tiny_vae: Any, tmp_path: Path) -> None:
    settings = replace(SHAPES, degraded_copies=2, precision="fp32", seed=4)
    seen: list[tuple[int, int]] = []
    cache = build_cache(settings, tiny_vae, tmp_path / "cache", progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (5, 5)
    assert len(cache) == 5
    entry, clip = cache[3], open_source(settings).load(3)
    assert (entry["name"], entry["caption"]) == (clip.name, clip.caption) == (cache.names[3], cache.captions[3])
    noise = torch.randn(1, 16, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    drawn = entry["mean"] + entry["std"] * noise[0]
    assert torch.allclose(drawn, encode_video(tiny_vae, clip.video[None], noise=noise)[0], atol=1e-5)
    low = entry["low_mean"]
    assert low.shape == entry["low_std"].shape == (2, 16, 2, 2, 4)
    assert not torch.equal(low[0], low[1])
    cached_again = build_cache(settings, tiny_vae, tmp_path / "cache")
    assert torch.equal(cached_again[3]["low_mean"], low)


def test_degraded_copies_are_draws_of_deg_pixel(tiny_vae: Any, tmp_path: Path) -> None:
    fixed = PixelDegradation(strong_share=0.0, weak_factor=(4.0, 4.0))
    settings = replace(SHAPES, count=1, degraded_copies=1, degradation=fixed, precision="fp32")
    entry = build_cache(settings, tiny_vae, tmp_path)[0]
    poor = degrade_pixels(open_source(settings).load(0).video, fixed, seed=0)  # nothing is random in it
    assert torch.allclose(entry["low_mean"][0], encode_video(tiny_vae, poor[None], sample=False)[0], atol=1e-5)


def test_what_is_kept_can_be_less(tiny_vae: Any, tmp_path: Path) -> None:
    entry = build_cache(replace(SHAPES, keep_std=False, precision="bf16"), tiny_vae, tmp_path)[0]
    assert set(entry) == {"mean", "caption", "name"}
    assert entry["mean"].dtype == torch.bfloat16


def test_captions_are_encoded_with_a_text_encoder(tiny_vae: Any, tiny_text: Any, clips: Path, tmp_path: Path) -> None:
    (clips / "a.txt").unlink()
    settings = DatasetSettings(path=str(clips), height=32, width=48, frames=5, captions="optional", precision="fp32")
    settings = replace(settings, caption_prefix="medium motion,")
    cache = build_cache(settings, tiny_vae, tmp_path / "cache", text_encoder=tiny_text)
    assert cache.captions == ["", "medium motion,clip number 0", "medium motion,clip number 2"]
    assert not cache[0]["embeds"].any()
    assert cache[0]["embeds"].shape == cache[1]["embeds"].shape
    assert torch.equal(cache[1]["embeds"], tiny_text.encode(cache.captions[1])[0])
    with pytest.raises(ValueError, match="text encoder weights"):
        build_cache(settings, tiny_vae, tmp_path / "cache")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashvideo.training.cache_building._SHARD_CLIPS", 2)


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_build_goes_on_and_ends_in_the_same_bytes(tiny_vae: Any, tmp_path: Path) -> None:
    settings = replace(SHAPES, degraded_copies=1)
    build_cache(settings, tiny_vae, tmp_path / "whole")

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cache(settings, tiny_vae, tmp_path / "parts", progress=interrupt)
    assert set(contents(tmp_path / "parts")) == {"cache.json", "shard-00000.safetensors"}
    with pytest.raises(ValueError, match="not finished"):
        LatentCache(tmp_path / "parts")
    kept = (tmp_path / "parts" / "shard-00000.safetensors").stat().st_mtime_ns
    build_cache(settings, tiny_vae, tmp_path / "parts")
    assert (tmp_path / "parts" / "shard-00000.safetensors").stat().st_mtime_ns == kept
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 3 + 2


@pytest.mark.usefixtures("small_shards")
def test_processes_and_threads_share_the_work(tiny_vae: Any, tmp_path: Path) -> None:
    settings = replace(SHAPES, degraded_copies=1)
    build_cache(settings, tiny_vae, tmp_path / "alone")
    with pytest.raises(ValueError, match="not finished"):  # this barrier waits for nobody
        build_cache(settings, tiny_vae, tmp_path / "shared", rank=0, world_size=2, wait=lambda: None)
    build_cache(settings, tiny_vae, tmp_path / "shared", rank=1, world_size=2, wait=lambda: None, workers=2)
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
    with pytest.raises(ValueError, match="barrier"):
        build_cache(settings, tiny_vae, tmp_path / "shared", rank=0, world_size=2)


def test_a_cache_of_something_else_is_refused(tiny_vae: Any, clips: Path, tmp_path: Path) -> None:
    settings = DatasetSettings(path=str(clips), height=32, width=48, frames=5)
    folder = tmp_path / "cache"
    build_cache(settings, tiny_vae, folder)
    moved = clips.rename(tmp_path / "moved")
    settings = replace(settings, path=str(moved))
    assert len(build_cache(settings, tiny_vae, folder)) == 3  # a data set may move
    with pytest.raises(ValueError, match=r"other frames \(5, now 1\)"):
        build_cache(replace(settings, frames=1), tiny_vae, folder)
    other = load_vae(TINY / "3d-vae.pt")
    with torch.no_grad():
        next(iter(other.parameters())).add_(1e-3)
    with pytest.raises(ValueError, match=r"other VAE weights.*delete"):
        build_cache(settings, other, folder)
    (moved / "a.txt").write_text("another caption")
    with pytest.raises(ValueError, match="other files or captions"):
        build_cache(settings, tiny_vae, folder)


def test_bad_files_are_reported_and_left_out(
    tiny_vae: Any, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (clips / "d.mp4").write_bytes(b"no video" * 50)
    write_media(clips / "e.mp4", moving(frames=3))
    write_media(clips / "f.mp4", moving(height=16))
    write_media(clips / "g.mp4", moving())
    write_media(clips / "h.mp4", moving())
    (clips / "i.mp4").symlink_to("nowhere.mp4")
    for name in "defi":
        (clips / f"{name}.txt").write_text("fine")
    (clips / "g.txt").write_text(" \n")
    (clips / "b.mp4").write_bytes((clips / "b.mp4").read_bytes()[:1500])
    settings = DatasetSettings(path=str(clips), height=32, width=48, frames=5)
    with caplog.at_level(logging.WARNING):
        cache = build_cache(settings, tiny_vae, tmp_path / "cache")
    assert cache.names == ["a.mkv", "more/c.mp4"]
    lines = (tmp_path / "cache" / "skipped.jsonl").read_text().splitlines()
    reasons = {entry["name"]: entry["reason"] for entry in map(json.loads, lines)}
    assert list(reasons) == ["b.mp4", "d.mp4", "e.mp4", "f.mp4", "g.mp4", "h.mp4", "i.mp4"]
    expected = [
        "",
        "cannot be read",
        "3 frames; 5 are needed",
        "16x72 pixels",
        "is empty",
        "no caption",
        "cannot be read",
    ]
    assert all(part in reason for part, reason in zip(expected, reasons.values(), strict=True)), reasons
    assert sum("is left out" in message for message in caplog.messages) == 7
    assert "7 of 9 clips were left out" in caplog.messages[-1]


def test_nothing_usable_is_an_error_that_can_be_put_right(tiny_vae: Any, clips: Path, tmp_path: Path) -> None:
    settings = DatasetSettings(path=str(clips), height=64, width=96, frames=5)
    with pytest.raises(ValueError, match=r"None of the 3 clips.*5 frames of at least 64x96.*a\.mkv: it is 40x72"):
        build_cache(settings, tiny_vae, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["skipped.jsonl"]
    assert len(build_cache(replace(settings, height=32, width=48), tiny_vae, tmp_path / "cache")) == 3


def test_a_cache_is_read_by_several_threads(tiny_vae: Any, tmp_path: Path) -> None:
    cache = build_cache(SHAPES, tiny_vae, tmp_path)
    expected = [cache[k]["mean"] for k in range(5)]
    fresh = LatentCache(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: fresh[k % 5]["mean"], range(200)))
    assert all(torch.equal(value, expected[k % 5]) for k, value in enumerate(found))


def test_no_cache_is_told_from_a_damaged_one(tiny_vae: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no cache of latents"):
        LatentCache(tmp_path)
    build_cache(SHAPES, tiny_vae, tmp_path)
    (tmp_path / "shard-00000.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"shard-00000.*truncated, damaged.*Building the cache again makes it anew"):
        LatentCache(tmp_path)
    (tmp_path / "cache.json").write_text("{}")
    with pytest.raises(ValueError, match="another version"):
        LatentCache(tmp_path)


def test_statistics_are_those_of_drawn_latents(tiny_vae: Any, tmp_path: Path) -> None:
    cache = build_cache(SHAPES, tiny_vae, tmp_path)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack(
        [
            entry["mean"].float() + entry["std"].float() * torch.randn(entry["mean"].shape, generator=generator)
            for entry in (cache[k] for k in range(5))
            for _ in range(20)
        ]
    )
    assert latent_statistics(cache) == pytest.approx((float(drawn.mean()), float(drawn.std())), rel=0.03, abs=0.01)


@pytest.mark.parametrize("length", [0, 7, -1])
@pytest.mark.parametrize("name", ["cache.json", "shard-00000.safetensors"])
def test_what_was_cut_short_is_made_again(tiny_vae: Any, tmp_path: Path, name: str, length: int) -> None:
    build_cache(SHAPES, tiny_vae, tmp_path)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / name).write_bytes(whole[name].rstrip()[:length])
    assert len(build_cache(SHAPES, tiny_vae, tmp_path)) == 5
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_a_clip_with_flipped_bits_is_refused(tiny_vae: Any, tmp_path: Path) -> None:
    build_cache(SHAPES, tiny_vae, tmp_path)
    shard = tmp_path / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    cache = LatentCache(tmp_path)
    assert torch.isfinite(cache[0]["mean"]).all()
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors is not as it was written: 00000004"):
        cache[len(cache) - 1]
