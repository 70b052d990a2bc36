"""Clean videos, and faults of a chosen size planted into them: what the scores' tests and plots are made with.

Videos are ``[3, F, H, W]`` fp32 in 0..1; sizes are in levels of 255 unless they say otherwise; 0 changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 16  # pixels, of the planted grid
BEAT = 4  # frames, of the planted pulse
_KERNEL = 12  # pixels that a blur reaches


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """``[3, height, width]``: noise with as much amplitude in every octave, as natural pictures have."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = torch.fft.rfft2(torch.randn(3, height, width, generator=generator)) / frequency
    spectrum[:, 0, 0] = 0
    picture = torch.fft.irfft2(spectrum, s=(height, width))
    return (picture / picture.std() * 0.15 + 0.5).clamp(0, 1)


def moving_texture(frames: int, height: int, width: int, *, step: int = 2, seed: int = 0) -> Tensor:
    """A texture that moves ``step`` pixels a frame to the left."""
    wide = texture(height, width + step * frames, seed)
    return torch.stack([wide[:, :, step * number : step * number + width] for number in range(frames)], dim=1)


def cartoon(frames: int, height: int, width: int) -> Tensor:
    """Flat discs that move before flat ground and sky."""
    down, across = torch.arange(height)[:, None] / height, torch.arange(width)[None] / height
    pictures = []
    for number in range(frames):
        picture = (
            torch.where(down < 0.7, torch.tensor([0.3, 0.5, 0.9])[:, None, None], 0.4).expand(3, -1, width).clone()
        )
        for x, y, radius, colour in ((0.3, 0.35, 0.12, (0.9, 0.2, 0.2)), (0.9, 0.6, 0.2, (0.95, 0.85, 0.3))):
            disc = (across - x - 0.008 * number).square() + (down - y).square() < radius**2
            picture = torch.where(disc, torch.tensor(colour)[:, None, None], picture)
        pictures.append(picture)
    return torch.stack(pictures, dim=1)


def halved(video: Tensor) -> Tensor:
    """At half the size, by means of 2x2 pixels: a source of it."""
    return F.avg_pool2d(video.transpose(0, 1), 2).transpose(0, 1)


def blur(video: Tensor, size: float) -> Tensor:
    """Gaussian; ``size`` is its deviation in pixels."""
    if not size:
        return video
    places = torch.arange(-_KERNEL, _KERNEL + 1.0)
    kernel = torch.exp(-places.square() / (2 * size**2))
    kernel /= kernel.sum()
    frames = F.pad(video.flatten(0, 1)[:, None], (_KERNEL,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(frames, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1)).view_as(video)


def enlargement(video: Tensor, size: float) -> Tensor:
    """Made smaller by 1 + ``size`` and brought back, bicubic."""
    if not size:
        return video
    height, width = video.shape[2:]
    small = F.interpolate(
        video.transpose(0, 1),
        size=(round(height / (1 + size)), round(width / (1 + size))),
        mode="bicubic",
        antialias=True,
    )
    return F.interpolate(small, size=(height, width), mode="bicubic").transpose(0, 1).clamp(0, 1)


def repainting(video: Tensor, size: float) -> Tensor:
    """Other large forms: slow noise of this deviation, which stands."""
    coarse = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    noise = F.interpolate(coarse, size=video.shape[2:], mode="bicubic")[0]
    return (video + size / 255 * noise[:, None] / noise.std()).clamp(0, 1)


def drift(video: Tensor, size: float) -> Tensor:
    """Red rises by so many levels from the first frame to the last."""
    ramp = torch.linspace(0, size / 255, video.shape[1])
    return (video + ramp[None, :, None, None] * torch.tensor([1.0, 0, 0])[:, None, None, None]).clamp(0, 1)


def flashes(video: Tensor, size: float) -> Tensor:
    """Every frame is brighter or darker at random, with this deviation."""
    steps = torch.randn(video.shape[1], generator=torch.Generator().manual_seed(2))
    return (video + size / 255 * steps[None, :, None, None]).clamp(0, 1)


def boiling(video: Tensor, size: float) -> Tensor:
    """Fine detail that is new in every frame, with this deviation."""
    noise = torch.randn(video.shape[1:], generator=torch.Generator().manual_seed(3))
    noise = F.avg_pool2d(noise[:, None], 3, stride=1, padding=1)[:, 0] * 3  # as wide as an octave, as painted detail is
    return (video + size / 255 * noise).clamp(0, 1)


def seam(video: Tensor, size: float) -> Tensor:
    """The right part is brighter."""
    right = (torch.arange(video.shape[3]) >= video.shape[3] * 5 // 8).float()
    return (video + size / 255 * right).clamp(0, 1)


def grid(video: Tensor, size: float) -> Tensor:
    """Every other column of patches is brighter."""
    bright = (torch.arange(video.shape[3]) // PATCH % 2).float()
    return (video + size / 255 * bright).clamp(0, 1)


def beat_of_brightness(video: Tensor, size: float) -> Tensor:
    """Every fourth frame is brighter."""
    beat = (torch.arange(video.shape[1]) % BEAT == 0).float()
    return (video + size / 255 * beat[None, :, None, None]).clamp(0, 1)


def beat_of_detail(video: Tensor, size: float) -> Tensor:
    """Every fourth frame is blurred; ``size`` is the share of its detail that is gone."""
    beat = (torch.arange(video.shape[1]) % BEAT == 0).float()[None, :, None, None]
    return video + size * beat * (blur(video, 2.0) - video)


@dataclass(frozen=True)
class Planted:
    """A fault and the sizes to try.

    Attributes:
        index: the score that must tell it.
        rises: whether the score rises with the fault; else it falls.
        plant: ``(video, size)`` -> video.
        unit: of the sizes.
        needs_source: whether the score is none without a source.
    """

    index: str
    plant: Callable[[Tensor, float], Tensor]
    sizes: tuple[float, ...]
    unit: str = "levels"
    rises: bool = True
    needs_source: bool = False


FAULTS = {
    "blur": Planted("sharpness", blur, (0, 0.4, 0.6, 0.9, 1.3, 2), "pixels", rises=False),
    "enlargement": Planted("sharpness", enlargement, (0, 0.25, 0.5, 1, 2, 3), "factor - 1", rises=False),
    "repainting": Planted("likeness", repainting, (0, 1, 2, 4, 8, 16), rises=False, needs_source=True),
    "drift": Planted("drift", drift, (0, 1, 2, 4, 8, 16)),
    "flashes": Planted("flicker", flashes, (0, 0.5, 1, 2, 4, 8)),
    "boiling": Planted("flicker", boiling, (0, 1, 2, 4, 8, 16)),
    "seam": Planted("seam", seam, (0, 1, 2, 4, 8, 16)),
    "grid": Planted("seam", grid, (0, 0.5, 1, 2, 4, 8)),
    "beat of brightness": Planted("pulse", beat_of_brightness, (0, 0.5, 1, 2, 4, 8)),
    "beat of detail": Planted("pulse", beat_of_detail, (0, 0.1, 0.2, 0.4, 0.6, 0.9), "share"),
}
