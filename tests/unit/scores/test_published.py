"""PSNR, SSIM and PIQE are those of published packages, on the same pictures: made of whole numbers alone, so that they
are the same everywhere. The numbers were made by scikit-image 0.26.0 (``peak_signal_noise_ratio``; of luma
``structural_similarity`` with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255``) and by
pypiqe 1.2 (``piqe``, of the picture in BGR).
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvideo.scores.frames import Frame
from flashvideo.scores.piqe import PiqeMeasure, piqe
from flashvideo.scores.reference import ReferenceMeasure

HEIGHT, WIDTH = 150, 202  # no whole blocks
GOLDEN = {  # picture -> PSNR and SSIM to the plain one, PIQE
    "plain": (None, 1.000000, 41.9978),
    "noise": (28.78637, 0.761272, 41.4356),
    "soft": (32.79986, 0.871482, 70.3037),
    "blocks": (27.65771, 0.698438, 80.9786),
    "dark": (8.54287, 0.353946, 16.3345),
}


def scattered(step: int, seed: int) -> Tensor:
    """``[3, H, W]``: whole numbers from 0 to 255, constant in squares of ``step`` pixels."""
    plane, row, column = torch.meshgrid(torch.arange(3), torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    number = (row // step) * 7919 + (column // step) * 104729 + plane * 1299709 + seed * 15485863 + step * 32452843
    for _ in range(3):
        number = (number * 1103515245 + 12345) % 2**31
        number = number ^ (number >> 13)
    return number % 256


def smooth(picture: Tensor, side: int) -> Tensor:
    half = side // 2
    wide = F.pad(picture.double()[None], (half,) * 4, mode="replicate")
    return F.avg_pool2d(wide, side, 1)[0].floor()


def pictures() -> dict[str, Tensor]:
    """Name -> ``[3, H, W]`` uint8."""
    plain = (sum(smooth(scattered(step, 1), step | 1) for step in (3, 6, 12, 24, 48)) / 5).floor()
    squares = F.avg_pool2d(plain[None], 8, ceil_mode=True, count_include_pad=False).floor()
    blocks = squares.repeat_interleave(8, 2).repeat_interleave(8, 3)[0, :, :HEIGHT, :WIDTH]
    drawn = {
        "plain": plain,
        "noise": plain + (scattered(1, 2) / 8).floor() - 16,
        "soft": smooth(plain, 5),
        "blocks": ((plain + 7 * blocks) / 8).floor(),
        "dark": (plain / 4).floor(),
    }
    return {name: picture.clamp(0, 255).to(torch.uint8) for name, picture in drawn.items()}


@pytest.mark.parametrize("name", GOLDEN)
def test_scores_are_the_published_ones(name: str) -> None:
    drawn, (psnr, ssim, perceived) = pictures(), GOLDEN[name]
    measure, frame = ReferenceMeasure(), Frame(0, 0, drawn[name], true=drawn["plain"])
    assert frame.true is not None
    assert frame.true_luma is not None
    found = measure.add(frame.video, frame.true, frame.luma, frame.true_luma)
    assert found == pytest.approx((psnr or 100, ssim), rel=2e-5)
    assert piqe(drawn[name]) == pytest.approx(perceived, abs=0.001)


def test_where_there_is_nothing_piqe_says_nothing() -> None:
    flat = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    assert piqe(flat) is None
    assert piqe(torch.zeros_like(flat)) is None
    measure = PiqeMeasure(3)
    plain = pictures()["plain"]
    for index, picture in enumerate((flat, plain, flat)):
        measure.add(Frame(index, index / 8, picture[:, :64, :64]))
    assert measure.result() == piqe(plain[:, :64, :64])
