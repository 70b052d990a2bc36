"""Regions that are kept: where they go, what is painted beside them, and masks of pixels as masks of latents."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flashvideo import TimeWindows, degrade_latents, latent_mask, refine_latents, refine_stream
from flashvideo.method.degradation import STAGE2_LATENT_SCALE
from flashvideo.method.stage2 import SOLVERS
from tests.unit.method.test_time_windows import text_of

OPTIONS = {"num_steps": 3, "guidance_scale": 2.0, "noise_step": 500}


def latents_of(count: int, batch: int) -> Tensor:
    return torch.randn(batch, 16, count, 6, 10, generator=torch.Generator().manual_seed(0))


def blurring(x: Tensor, timestep: Tensor, text: Tensor, *, noise_step: float) -> Tensor:
    """A network that looks around in time and space."""
    time = 1 - timestep.view(-1, 1, 1, 1, 1) / 1000
    prompt = text.mean(dim=(1, 2)).view(-1, 1, 1, 1, 1)
    return time * (x.roll(1, 2) - x) + x.roll(1, 4).tanh() + prompt * x.mean(dim=2, keepdim=True)


def source_and_start(count: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    source = latents_of(count, batch=batch)
    return source, degrade_latents(source, 500, generator=torch.Generator().manual_seed(3))


def half(frames: int = 1) -> Tensor:
    """The left half is kept, softly."""
    mask = torch.zeros(1, 1, frames, 6, 10)
    mask[..., :4], mask[..., 4] = 1, 0.5
    return mask


@pytest.mark.parametrize("solver", SOLVERS)
def test_nothing_kept_gives_the_bytes_of_no_mask(tiny_stage2, solver):
    source, start = source_and_start(5)
    plain = refine_latents(tiny_stage2, start, text_of(), **OPTIONS, solver=solver)
    masked = refine_latents(
        tiny_stage2, start, text_of(), **OPTIONS, solver=solver, keep=torch.zeros(1, 1, 5, 6, 10), source=source
    )
    assert plain.numpy().tobytes() == masked.numpy().tobytes()


@pytest.mark.parametrize("options", [{}, {"rounding": "bf16"}, {"solver": "heun"}, {"time_windows": TimeWindows(4, 2)}])
def test_all_kept_gives_the_source(tiny_stage2, options):
    source, start = source_and_start(7, batch=2)
    kept = refine_latents(
        tiny_stage2, start, text_of(), **OPTIONS, **options, keep=torch.ones(1, 1, 1, 6, 10), source=source
    )
    assert torch.allclose(kept, source, atol=1e-6)
    assert (start - source).std() > 0.5, "which it did not begin with"


def test_what_is_kept_goes_straight_and_the_rest_is_painted_beside_it():
    source, start = source_and_start(3)
    seen: list[tuple[float, Tensor]] = []

    def network(x: Tensor, timestep: Tensor, text: Tensor, *, noise_step: float) -> Tensor:
        seen.append((1 - float(timestep[0]) / 1000, x[:1].clone()))
        return blurring(x, timestep, text, noise_step=noise_step)

    kept = refine_latents(network, start, text_of(), **OPTIONS, keep=half(), source=source)
    scale = STAGE2_LATENT_SCALE
    assert len(seen) == 3
    for time, x in seen:  # before every evaluation it is where a straight flow is at that time
        straight = (1 - time) * start + time * source
        assert torch.allclose(x[..., :4] / scale, straight[..., :4], atol=1e-5)
    assert torch.allclose(kept[..., :4], source[..., :4], atol=1e-6)
    plain = refine_latents(blurring, start, text_of(), **OPTIONS)
    assert (kept[..., 5:] - plain[..., 5:]).abs().max() > 1e-3, "what is painted has seen what is kept"


def test_a_part_of_a_share_is_between_both():
    source, start = source_and_start(3)

    def still(x: Tensor, timestep: Tensor, text: Tensor, *, noise_step: float) -> Tensor:
        return torch.zeros_like(x)

    options = {"num_steps": 1, "guidance_scale": 1.0, "noise_step": 500}
    kept = refine_latents(still, start, text_of(), **options, keep=torch.full((1, 1, 1, 6, 10), 0.25), source=source)
    assert torch.allclose(kept, 0.75 * start + 0.25 * source, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 11])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_stream_keeps_the_same(frames, solver):
    source, start = source_and_start(11, batch=2)
    keep = half(frames)
    if frames > 1:
        keep[:, :, 3:6] = 0
        keep[:, :, 8] = 1
    windows = {"time_windows": TimeWindows(4, 2), "solver": solver}
    whole = refine_latents(blurring, start, text_of(), **OPTIONS, **windows, keep=keep, source=source)
    masks = keep if frames == 1 else iter(keep.split(2, dim=2))
    stream = refine_stream(
        blurring, start.split(3, dim=2), text_of(), **OPTIONS, **windows, keep=masks, source=source.split(4, dim=2)
    )
    assert torch.equal(torch.cat(list(stream), dim=2), whole)
    assert not torch.equal(whole, refine_latents(blurring, start, text_of(), **OPTIONS, **windows))
    if frames > 1:
        again = refine_stream(blurring, [start], text_of(), **OPTIONS, **windows, keep=keep, source=[source])
        assert torch.equal(torch.cat(list(again), dim=2), whole)


def test_streams_of_other_lengths_are_refused():
    source, start = source_and_start(8)
    options = {**OPTIONS, "time_windows": TimeWindows(4, 2)}
    for keep, clean in ((half(8), source[:, :, :6]), (half(5), source), (half(12), source)):
        with pytest.raises(ValueError, match="different lengths; expected as many latent frames"):
            list(refine_stream(blurring, [start], text_of(), **options, keep=keep, source=[clean]))
    with pytest.raises(ValueError, match="source's latents come as"):
        list(refine_stream(blurring, [start], text_of(), **options, keep=half(), source=[source.double()]))
    with pytest.raises(ValueError, match="belong together"):
        refine_stream(blurring, [start], text_of(), **options, keep=half())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": None}, "keep is given without source"),
        ({"keep": None}, "source is given without keep"),
        ({"source": torch.zeros(1, 16, 2, 6, 10)}, "before it was degraded"),
        ({"keep": torch.zeros(1, 1, 2, 6, 10)}, "or one frame for all. latent_mask makes it"),
        ({"keep": torch.zeros(1, 3, 3, 6, 10)}, "expected floating point [1, 1, 3, 6, 10]"),
        ({"keep": torch.zeros(1, 1, 3, 6, 10, dtype=torch.uint8)}, "torch.uint8"),
        ({"keep": torch.full((1, 1, 1, 6, 10), 1.5)}, "outside of 0..1"),
        ({"keep": torch.full((1, 1, 1, 6, 10), float("nan"))}, "or NaN"),
    ],
)
def test_bad_masks(change, said):
    source, start = source_and_start(3)
    with pytest.raises(ValueError, match=r"expected|Give both") as error:
        refine_latents(None, start, text_of(), **{**OPTIONS, "keep": half(), "source": source, **change})
    assert said in str(error.value)


class TestLatentMask:
    def test_whole_masks_stay_whole(self):
        for value in (0.0, 1.0):
            mask = latent_mask(torch.full((17, 48, 80), value), 6, 10)
            assert torch.equal(mask, torch.full((1, 1, 5, 6, 10), value))

    def test_a_latent_is_kept_if_one_of_its_frames_is(self):
        for frame, latent in ((0, 0), (1, 1), (4, 1), (5, 2), (8, 2)):
            mask = torch.zeros(9, 48, 80)
            mask[frame] = 1
            assert [bool(one) for one in latent_mask(mask, 6, 10).amax(dim=(0, 1, 3, 4))] == [
                index == latent for index in range(3)
            ]

    def test_frames_that_fill_no_latent_belong_to_the_last_one(self):
        mask = torch.zeros(7, 16, 16)
        mask[6] = 1
        assert latent_mask(mask, 2, 2)[0, 0, :, 0, 0].tolist() == [0, 0, 1]

    def test_one_picture_is_for_all_and_its_border_is_soft(self):
        mask = torch.zeros(1, 96, 160)
        mask[:, :, 80:] = 1
        row = latent_mask(mask, 12, 20)[0, 0, 0, 6]
        assert row[:9].max() == 0
        assert row[11:].min() == 1
        assert row[9:11].tolist() == pytest.approx([0.25, 0.75])

    @pytest.mark.parametrize(
        ("mask", "said"),
        [
            (torch.zeros(3, 8, 8, dtype=torch.uint8), "expected floating point [F, H, W]"),
            (torch.zeros(8, 8), "[8, 8]"),
            (torch.zeros(0, 8, 8), "[0, 8, 8]"),
            (torch.full((1, 8, 8), 2.0), "Divide 8-bit values by 255"),
        ],
    )
    def test_bad_masks(self, mask, said):
        with pytest.raises(ValueError, match="mask") as error:
            latent_mask(mask, 2, 2)
        assert said in str(error.value)
