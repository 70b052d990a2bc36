"""Words on a node while it runs."""

from __future__ import annotations

from comfy_execution.utils import get_executing_context
from server import PromptServer


def show_on_node(text: str) -> None:
    """Show a line on the node that is running."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
