"""The VAE as streams: the bytes of the whole for any length, in a chunk's memory, from any place with its past."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from flashvideo.vae.codec import decode_latents, encode_moments, encode_video
from flashvideo.vae.limits import Limits
from flashvideo.vae.stream import decode_pieces, decoder_reach, encode_pieces, encoder_reach, posterior
from tests.live_bytes import live_bytes
from tests.unit.vae.test_exact import draw, small_vae

UNTILED = Limits(tile=False)


@pytest.fixture(scope="module")
def vae(tiny_vae):
    return tiny_vae


def pieces_of(video: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    start, turn = 0, 0
    while start < video.shape[2]:
        size = sizes[turn % len(sizes)]
        yield video[:, :, start : start + size]
        start, turn = start + size, turn + 1


@pytest.mark.parametrize("frames", [1, 5, 9, 17, 21, 33, 37, 49, 65])
@pytest.mark.parametrize("sizes", [[1], [8, 3, 20]])
def test_encoding_gives_the_bytes_of_the_whole(vae, frames, sizes):
    video = draw(frames, 2, 3, frames, 16, 24).sigmoid()
    noise = draw(1, 2, 16, (frames - 1) // 4 + 1, 2, 3)
    moments = torch.cat(list(encode_pieces(vae, pieces_of(video, sizes), UNTILED)), dim=2)
    assert torch.equal(posterior(moments, None), encode_video(vae, video, sample=False, tile=False))
    assert torch.equal(posterior(moments, noise), encode_video(vae, video, noise=noise, tile=False))


@pytest.mark.parametrize("count", [1, 3, 5, 9, 13])
@pytest.mark.parametrize("sizes", [[1], [2, 5]])
def test_decoding_gives_the_bytes_of_the_whole(vae, count, sizes):
    latents = draw(count, 2, 16, count, 2, 3)
    frames = torch.cat(list(decode_pieces(vae, pieces_of(latents, sizes), UNTILED)), dim=2)
    assert torch.equal(frames, decode_latents(vae, latents, tile=False))


@pytest.mark.parametrize("count", [2, 4, 8])
def test_an_even_number_of_latents_is_refused(vae, count):
    with pytest.raises(ValueError, match="even number of latents; expected an odd one"):
        list(decode_pieces(vae, [draw(0, 1, 16, count, 1, 1)]))


@pytest.mark.parametrize("count", [2, 16, 19, 34])
def test_frames_without_latents_are_refused(vae, count):
    with pytest.raises(ValueError, match=r"no whole number of latents; expected 4n \+ 1"):
        list(encode_pieces(vae, [torch.rand(1, 3, count, 8, 8)]))


def test_what_is_no_video_is_refused(vae):
    with pytest.raises(ValueError, match="change on the way"):
        list(encode_pieces(vae, [torch.rand(1, 3, 1, 8, 8), torch.rand(1, 3, 4, 8, 16)]))
    with pytest.raises(ValueError, match="multiples of 8"):
        list(encode_pieces(vae, [torch.rand(1, 3, 1, 8, 12)]))
    with pytest.raises(ValueError, match="expected"):
        list(decode_pieces(vae, [torch.rand(1, 4, 1, 8, 8)]))
    assert list(decode_pieces(vae, [])) == []


def test_a_stream_that_begins_a_reach_earlier_knows_all():
    vae, latents = small_vae(), draw(3, 1, 16, 101, 1, 1)
    reach = decoder_reach(vae)
    begin, chunk = 3 + 2 * 4, 8
    assert begin + 2 * reach < 101
    whole = decode_latents(vae, latents, tile=False)[:, :, 9 + 4 * chunk + 8 * reach :]
    later = torch.cat(list(decode_pieces(vae, [latents[:, :, begin:]], UNTILED, first=False)), dim=2)
    assert torch.equal(later[:, :, 8 * reach :], whole)
    assert not torch.equal(later[:, :, : 8 * 2], decode_latents(vae, latents, tile=False)[:, :, 41 : 41 + 16])


def test_an_encoder_likewise():
    vae = small_vae()
    reach = encoder_reach(vae)
    video = draw(4, 1, 3, 17 + 16 * (reach + 3), 8, 8).sigmoid()
    whole = encode_moments(vae, video, limits=UNTILED)
    later = torch.cat(list(encode_pieces(vae, [video[:, :, 33:]], UNTILED, first=False)), dim=2)
    assert torch.equal(later[:, :, 4 * reach :], whole[:, :, 9 + 4 * reach :])
    assert not torch.equal(later[:, :, :4], whole[:, :, 9:13])


def peak(vae, count: int, decoding: bool) -> int:
    def source() -> Iterator[Tensor]:
        for index in range(count):
            yield draw(index, 1, 16, 1, 2, 3) if decoding else torch.rand(1, 3, 1, 16, 24)

    with live_bytes() as counted:
        for _ in decode_pieces(vae, source(), UNTILED) if decoding else encode_pieces(vae, source(), UNTILED):
            pass
    return counted.peak["computing"] + counted.peak["stored"]


@pytest.mark.parametrize(("decoding", "short", "long"), [(True, 9, 45), (False, 49, 193)])
def test_memory_does_not_grow_with_the_length(vae, decoding, short, long):
    assert peak(vae, long, decoding) <= 1.01 * peak(vae, short, decoding)


def test_closing_frees_everything(vae):
    with live_bytes() as counted:
        stream = decode_pieces(vae, pieces_of(draw(0, 1, 16, 9, 2, 3), [1]), UNTILED)
        next(stream)
        assert counted.live["stored"]
        stream.close()
        assert not counted.live["stored"]
