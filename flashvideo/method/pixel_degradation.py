"""DEG_pixel: from a good clip to a poor one, which Stage II learns to undo (paper section 3.3).

The paper names a sequence of blur and resize with random strengths and publishes no ranges; the authors say that theirs
came from mmagic. The defaults here are therefore a stand-in: those of mmagic's RealBasicVSR configuration (Chan et al.
2022, which the paper cites) for the strong form, without its noise and compression, which the paper does not name and
which can be switched on. The weak form, half of the draws, is that of the authors' training branch: an antialiased
bilinear reduction by 4 to 8, and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..tensors.checks import check_video
from .pixel_steps import (
    CRFS,
    H264,
    INTERPOLATIONS,
    JPEG_QUALITIES,
    Blur,
    Codecs,
    Jpeg,
    Noise,
    Resize,
    Step,
)
from .seeds import mixed_seed

Range = tuple[float, float]
Steps = list[Step | Jpeg | H264]
Progress = Callable[[int, int], None]

_PIXELS_AT_ONCE = 2**22
_MAX_KERNEL = 101
_MAX_FACTOR = 64.0


@dataclass(frozen=True)
class DegradationRound:
    """One round of the strong form: blur, resize and, where they are switched on, noise and compression.

    Attributes:
        blur_probability: of any blur.
        blur_kernel: smallest and largest side of the kernel in pixels, odd.
        blur_sigma: of the Gaussian, in pixels; along both axes in turn where it is not isotropic.
        isotropic_share: probability that a blur is the same in all directions.
        resize_factor: smallest (below 1) and largest (above 1) factor of the sides.
        resize_shares: probabilities of enlarging and of reducing; the rest keeps the size.
        gaussian_sigma: of the noise, in levels of 255.
        poisson_scale: of the deviation of shot noise, in levels of 255.
        jpeg_quality: on libjpeg's scale, 1 to 100.
        h264_crf: 0 to 51. (RealBasicVSR draws bit rates for 64x64 pixels, which mean nothing at other sizes.)
    """

    blur_probability: float = 1.0
    blur_kernel: tuple[int, int] = (7, 21)
    blur_sigma: Range = (0.2, 3.0)
    isotropic_share: float = 0.64
    resize_factor: Range = (0.15, 1.5)
    resize_shares: Range = (0.2, 0.7)
    gaussian_sigma: Range = (1.0, 30.0)
    poisson_scale: Range = (0.05, 3.0)
    jpeg_quality: Range = (30.0, 95.0)
    h264_crf: Range = (20.0, 36.0)

    def check(self, where: str) -> None:
        """Raise ValueError for ranges that mean nothing."""
        _check_share(f"{where}.blur_probability", self.blur_probability)
        _check_share(f"{where}.isotropic_share", self.isotropic_share)
        _check_share(f"{where}.resize_shares", sum(self.resize_shares))
        for share in self.resize_shares:
            _check_share(f"{where}.resize_shares", share)
        _check_range(f"{where}.blur_kernel", self.blur_kernel, 1, _MAX_KERNEL)
        if any(side % 2 == 0 for side in self.blur_kernel):
            raise ValueError(f"{where}.blur_kernel is {self.blur_kernel}; expected odd sides, for example (7, 21).")
        _check_range(f"{where}.blur_sigma", self.blur_sigma, 0.01, _MAX_KERNEL)
        _check_range(f"{where}.resize_factor", self.resize_factor, 1 / _MAX_FACTOR, 4.0)
        _check_range(f"{where}.gaussian_sigma", self.gaussian_sigma, 0.0, 255.0)
        _check_range(f"{where}.poisson_scale", self.poisson_scale, 0.0, 255.0)
        _check_range(f"{where}.jpeg_quality", self.jpeg_quality, *JPEG_QUALITIES)
        _check_range(f"{where}.h264_crf", self.h264_crf, *CRFS)


# RealBasicVSR's second round is the milder one.
SECOND_ROUND = DegradationRound(
    blur_probability=0.8,
    blur_sigma=(0.2, 1.5),
    resize_factor=(0.3, 1.2),
    resize_shares=(0.3, 0.4),
    gaussian_sigma=(1.0, 25.0),
    poisson_scale=(0.05, 2.5),
)


@dataclass(frozen=True)
class PixelDegradation:
    """What DEG_pixel draws from; everything is drawn once a clip.

    Attributes:
        strong_share: probability of the strong form; 0.5 in the authors' training branch.
        weak_factor: by which the weak form divides the sides; 4 to 8 there.
        rounds: of the strong form, in order.
        strong_factor: by which the sides are divided when the strong form ends, 4 in RealBasicVSR.
        noise_probability: of noise in each round, Gaussian or Poisson noise in equal shares.
        grey_noise_share: probability that noise is the same in all colours.
        jpeg_probability: of JPEG in each round.
        h264_probability: of H.264 in each round.
    """

    strong_share: float = 0.5
    weak_factor: Range = (4.0, 8.0)
    rounds: tuple[DegradationRound, ...] = (DegradationRound(), SECOND_ROUND)
    strong_factor: Range = (4.0, 4.0)
    noise_probability: float = 0.0
    grey_noise_share: float = 0.4
    jpeg_probability: float = 0.0
    h264_probability: float = 0.0

    def check(self, where: str = "degradation") -> None:
        """Raise ValueError for ranges that mean nothing."""
        for name in ("strong_share", "noise_probability", "grey_noise_share", "jpeg_probability", "h264_probability"):
            _check_share(f"{where}.{name}", getattr(self, name))
        _check_range(f"{where}.weak_factor", self.weak_factor, 1.0, _MAX_FACTOR)
        _check_range(f"{where}.strong_factor", self.strong_factor, 1.0, _MAX_FACTOR)
        for number, one in enumerate(self.rounds):
            one.check(f"{where}.rounds[{number}]")


DEFAULT_DEGRADATION = PixelDegradation()


def degrade_pixels(
    video: Tensor,
    settings: PixelDegradation = DEFAULT_DEGRADATION,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    codecs: Codecs | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """DEG_pixel: :func:`shrink_pixels`, and bilinear back to the full size, as a small video reaches Stage II.

    Args:
        video: ``[B, 3, F, H, W]`` or ``[3, F, H, W]`` float in 0..1; any F, also 1.
        settings: what to draw from.
        generator: source of everything random, by default torch's.
        seed: in place of a generator.
        codecs: needed where compression is switched on; :data:`flashvideo.video.compression.CODECS` are FFmpeg's.
        progress: called with frames done and frames in all, now and then. May raise.

    Returns:
        The same shape, fp32 in 0..1 on the video's device. The same seed gives the same bytes on the same machine.

    Raises:
        ValueError: another shape, settings out of range, compression without codecs, or both a generator and a seed.
    """
    clips, dice = _clips_of(video, settings, generator, seed, codecs)
    meter = _Meter(progress, clips.shape[0] * clips.shape[2])
    result = torch.empty(clips.shape, dtype=torch.float32, device=clips.device)
    for clip, target in zip(clips, result, strict=True):
        small = _shrink(clip, _draw_steps(settings, _size(clip), dice), codecs, meter)
        enlarge = Resize(*_size(clip), "bilinear")
        for index in range(clip.shape[1]):
            target[:, index] = enlarge(small[None, :, index], index)[0]
    return result.view(video.shape)


def shrink_pixels(
    video: Tensor,
    settings: PixelDegradation = DEFAULT_DEGRADATION,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    codecs: Codecs | None = None,
) -> Tensor:
    """The small, poor video that :func:`degrade_pixels` enlarges again, at the size that was drawn.

    Args:
        video: ``[3, F, H, W]`` float in 0..1. The other arguments are those of :func:`degrade_pixels`.

    Returns:
        ``[3, F, h, w]`` fp32 in 0..1.
    """
    check_video("video", video, "[3, F, H, W]")
    clips, dice = _clips_of(video, settings, generator, seed, codecs)
    return _shrink(clips[0], _draw_steps(settings, _size(clips[0]), dice), codecs, _Meter(None, 0))


class _Meter:
    """Counts frames for a callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def advance(self, frames: int) -> None:
        self.done += frames
        if self.progress is not None:
            self.progress(self.done, self.total)


class _Dice:
    """Single random numbers from a generator, on whatever device it is."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.device = generator.device if generator is not None else torch.device("cpu")

    def uniform(self, limits: Range) -> float:
        share = float(torch.rand((), generator=self.generator, device=self.device, dtype=torch.float64))
        return limits[0] + (limits[1] - limits[0]) * share

    def chance(self, probability: float) -> bool:
        return self.uniform((0.0, 1.0)) < probability

    def below(self, limit: int) -> int:
        return int(torch.randint(limit, (), generator=self.generator, device=self.device))


def _draw_steps(settings: PixelDegradation, size: tuple[int, int], dice: _Dice) -> Steps:
    """Everything that happens to a clip of ``size``, from the full size to the small one."""
    if not dice.chance(settings.strong_share):
        return [Resize(*_divided(size, dice.uniform(settings.weak_factor)), "bilinear")]
    steps: Steps = []
    current = size
    for one in settings.rounds:
        steps += _draw_blur(one, dice)
        resize = _draw_resize(one, current, dice)
        if resize is not None:
            steps.append(resize)
            current = (resize.height, resize.width)
        steps += _draw_losses(settings, one, dice)
    end = _divided(size, dice.uniform(settings.strong_factor))
    steps.append(Resize(*end, INTERPOLATIONS[dice.below(len(INTERPOLATIONS))]))
    return steps


def _draw_blur(one: DegradationRound, dice: _Dice) -> Steps:
    if not dice.chance(one.blur_probability):
        return []
    low, high = one.blur_kernel
    side = low + 2 * dice.below((high - low) // 2 + 1)
    sigma = dice.uniform(one.blur_sigma)
    if dice.chance(one.isotropic_share):
        return [Blur(side, sigma, sigma, 0.0)]
    return [Blur(side, sigma, dice.uniform(one.blur_sigma), dice.uniform((-math.pi, math.pi)))]


def _draw_resize(one: DegradationRound, size: tuple[int, int], dice: _Dice) -> Resize | None:
    enlarge, reduce = one.resize_shares
    chosen = dice.uniform((0.0, 1.0))
    low, high = one.resize_factor
    if chosen < enlarge:
        factor = dice.uniform((max(1.0, low), max(1.0, high)))
    elif chosen < enlarge + reduce:
        factor = dice.uniform((min(1.0, low), min(1.0, high)))
    else:
        return None
    return Resize(*_divided(size, 1 / factor), INTERPOLATIONS[dice.below(len(INTERPOLATIONS))])


def _draw_losses(settings: PixelDegradation, one: DegradationRound, dice: _Dice) -> Steps:
    steps: Steps = []
    if dice.chance(settings.noise_probability):
        grey, seed = dice.chance(settings.grey_noise_share), dice.below(2**62)
        if dice.chance(0.5):
            steps.append(Noise("gaussian", dice.uniform(one.gaussian_sigma), grey, seed))
        else:
            steps.append(Noise("poisson", dice.uniform(one.poisson_scale), grey, seed))
    if dice.chance(settings.jpeg_probability):
        steps.append(Jpeg(dice.uniform(one.jpeg_quality)))
    if dice.chance(settings.h264_probability):
        steps.append(H264(dice.uniform(one.h264_crf)))
    return steps


def _shrink(clip: Tensor, steps: Steps, codecs: Codecs | None, meter: _Meter) -> Tensor:
    """``[3, F, H, W]`` through all steps; only between H.264 rounds is the whole clip held at a size of its own."""
    pending: list[Step] = []
    for step in steps:
        if isinstance(step, H264):
            assert codecs is not None
            clip = codecs.h264(_through(clip, pending, None), step.crf).to(clip.device)
            pending = []
        elif isinstance(step, Jpeg):
            assert codecs is not None
            pending.append(_jpeg(codecs, step.quality))
        else:
            pending.append(step)
    return _through(clip, pending, meter)


def _jpeg(codecs: Codecs, quality: float) -> Step:
    return lambda frames, first: codecs.jpeg(frames, quality)


def _through(clip: Tensor, steps: list[Step], meter: _Meter | None) -> Tensor:
    """All frames through steps that take them one by one, a few at a time."""
    frames, result = clip.shape[1], None
    at_once = max(1, _PIXELS_AT_ONCE // math.prod(_size(clip)))
    for first in range(0, frames, at_once):
        part = clip[:, first : first + at_once].detach().float().transpose(0, 1)
        for step in steps:
            part = step(part, first)
        if result is None:
            result = part.new_empty(3, frames, *part.shape[2:])
        result[:, first : first + len(part)] = part.transpose(0, 1)
        if meter is not None:
            meter.advance(len(part))
    assert result is not None
    return result.clamp_(0, 1)


def _clips_of(
    video: Tensor,
    settings: PixelDegradation,
    generator: torch.Generator | None,
    seed: int | None,
    codecs: Codecs | None,
) -> tuple[Tensor, _Dice]:
    """``[B, 3, F, H, W]`` and the source of its random numbers, checked."""
    settings.check()
    check_video("video", video, "[B, 3, F, H, W]", "[3, F, H, W]")
    clips = video[None] if video.ndim == 4 else video
    if codecs is None and max(settings.jpeg_probability, settings.h264_probability) > 0:
        raise ValueError(
            "compression is switched on, and there are no codecs; expected codecs=flashvideo.video.compression.CODECS."
        )
    if seed is not None and generator is not None:
        raise ValueError("both a generator and a seed were given; expected one of them.")
    if seed is not None:
        generator = torch.Generator().manual_seed(mixed_seed(seed, "pixel degradation"))
    return clips, _Dice(generator)


def _size(clip: Tensor) -> tuple[int, int]:
    return clip.shape[-2], clip.shape[-1]


def _divided(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] / factor)), max(1, round(size[1] / factor))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; expected a probability from 0 to 1.")


def _check_range(name: str, limits: Range, lowest: float, highest: float) -> None:
    if len(limits) != 2 or not lowest <= limits[0] <= limits[1] <= highest:
        raise ValueError(
            f"{name} is {limits}; expected a smaller and a larger number from {lowest:.4g} to {highest:.4g}."
        )
