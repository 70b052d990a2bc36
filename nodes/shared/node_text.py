"""Words on a node while it runs, and after."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer


def show_on_node(text: str) -> None:
    """Show a line on the node that is running."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)


def told(*outputs: Any, remarks: Iterable[str], ui: dict[str, Any] | None = None) -> io.NodeOutput:
    """A node's outputs, with remarks that are shown on it and kept in the history (``flashvideo_told``)."""
    lines, shown = list(remarks), dict(ui or {})
    if lines:
        show_on_node("\n".join(lines))
        shown["flashvideo_told"] = lines
    return io.NodeOutput(*outputs, ui=shown) if shown else io.NodeOutput(*outputs)
