"""Attention Windows: a MODEL whose attention sees windows of the frame."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...flashvideo.method.checks import check_size
from ...flashvideo.models.windows import AttentionWindows
from ...flashvideo.runs.attention import QUARTER_FRAME, QUARTER_POOLED
from ...flashvideo.tensors.sizes import SPATIAL_FACTOR
from ..host.network import with_attention_windows
from ..shared.widgets import STAGE2, setting_input
from ..shared.wiring import require_any_stage


class AttentionWindowsNode(io.ComfyNode):
    """Windows for whatever samples with the MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoAttentionWindows",
            display_name="FlashVideo Attention Windows",
            category="FlashVideo",
            description="Confines attention to windows of the frame, in all frames: its cost then grows with the video "
            "instead of with its square. At 1080p attention is 90 % of Stage II's work.",
            search_aliases=["flashvideo", "window attention", "faster", "speed", "4k", "tiled", "sparse attention"],
            inputs=[
                io.Model.Input("model", tooltip="FlashVideo Load Stage II; Stage I can have windows too."),
                setting_input(
                    STAGE2["width"],
                    default=QUARTER_FRAME[1],
                    tooltip="Of a window, in pixels, a multiple of 16. A quarter of the frame takes a quarter of "
                    "attention's work; a window that covers the frame changes nothing.",
                ),
                setting_input(
                    STAGE2["height"], default=QUARTER_FRAME[0], tooltip="Of a window, in pixels, a multiple of 16."
                ),
                io.Int.Input(
                    "pooled",
                    default=QUARTER_POOLED,
                    min=0,
                    max=64,
                    tooltip="The whole frame is seen too, averaged over so many by so many patches (of 16 pixels): 4 "
                    "costs a sixteenth of full attention. 0 leaves it out: cheaper, and worse under guidance.",
                ),
                io.Boolean.Input(
                    "shift",
                    default=True,
                    tooltip="Moves the windows by half of their size in every other layer, so that no border stays "
                    "where it is.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with its windows.")],
        )

    @classmethod
    def validate_inputs(cls, width: Any = None, height: Any = None) -> bool:
        """Sizes in words; linked values are None here and are checked on execution."""
        if width is not None and height is not None:
            check_size(height, width)
        return True

    @classmethod
    def execute(cls, model: Any, width: int, height: int, pooled: int, shift: bool = True) -> io.NodeOutput:
        require_any_stage(model)
        check_size(height, width)
        windows = AttentionWindows(
            int(height) // SPATIAL_FACTOR, int(width) // SPATIAL_FACTOR, shift=bool(shift), pooled=int(pooled)
        )
        return io.NodeOutput(with_attention_windows(model, windows))


NODES = [AttentionWindowsNode]
