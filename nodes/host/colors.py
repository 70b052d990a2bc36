"""The small video's colours for decoded frames: widgets of the nodes that decode, and their work."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...flashvideo.video.color_match import match_colors
from ...flashvideo.video.resize import RESIZE_MODES
from ..shared.widgets import STAGE2, setting_input
from ..shared.wiring import RESIZE_KEY
from .codec import Finish

MATCH_COLORS = 8.0  # not the setting's default, which is off: colors_of connected or not says whether


def color_inputs() -> list[io.Input]:
    """An optional IMAGE and how closely to follow it."""
    return [
        io.Image.Input(
            "colors_of",
            optional=True,
            tooltip="The small video that was refined: its colours and light are kept, Stage II's detail stays.",
        ),
        setting_input(
            STAGE2["match_colors"],
            default=MATCH_COLORS,
            tooltip="With colors_of: the size, in its pixels, from which on colours are kept. 1 keeps all that it "
            "shows, 8 the colours of larger areas.",
            advanced=True,
            optional=True,
        ),
    ]


def color_finish(latent: dict[str, Any], images: Tensor | None, coarseness: float, frames: int) -> list[Finish]:
    """What brings each of a batch's decoded videos to the colours of the small ones; nothing without images.

    Args:
        images: ``[frames, h, w, C]``, or as many for each video of the batch.
        frames: of one video.

    Raises:
        ValueError: another number of images.
    """
    if images is None:
        return []
    batch = latent["samples"].shape[0]
    if len(images) not in (frames, batch * frames):
        each = f" for each of {batch} videos" if batch > 1 else ""
        raise ValueError(
            f"colors_of has {len(images)} frames, the latent {frames}{each}. Connect the small video that was upscaled "
            "and encoded."
        )
    carried = latent.get(RESIZE_KEY)
    resize = carried if carried in RESIZE_MODES else RESIZE_MODES[0]
    videos = images[..., :3].movedim(-1, 0)[None].split(frames, dim=2)

    def finish(small: Tensor) -> Finish:
        def matched(chunk: Tensor, first: int) -> Tensor:
            known = min(chunk.shape[2], frames - first)  # the rest is padding, which nobody keeps
            chunk = chunk[:, :, :known]
            return match_colors(chunk, small[:, :, first : first + known], coarseness, resize=resize)

        return matched

    return [finish(small) for small in (videos if len(videos) == batch else videos * batch)]
