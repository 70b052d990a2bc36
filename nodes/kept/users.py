"""Whose store it is: with ``--multi-user`` each of ComfyUI's users has one, else there is one for all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from comfy.cli_args import args
from server import PromptServer

from .store import KeptStore

EVERYONE = ""  # without --multi-user, and for programs that name no user
_KEY = "flashvideo_user"  # in the extra data of a queued prompt
_HEADER = "Comfy-User"  # the editor's; an address of a video, which a player asks for without headers, has ?user=
_asking: ContextVar[str] = ContextVar("flashvideo_user", default=EVERYONE)


@cache
def kept_store(user: str = EVERYONE) -> KeptStore:
    """A user's store in ComfyUI's user directory, which restarts leave alone and the userdata routes do not serve."""
    root = Path(folder_paths.get_system_user_directory("flashvideo"))
    return KeptStore((root / "users" / user if user else root) / "previews")


def prompt_server() -> Any:
    """ComfyUI's server; None where ComfyUI is used without one."""
    return getattr(PromptServer, "instance", None)


class UnknownUserError(ValueError):
    """A request in the name of someone whom ComfyUI does not know."""


def user_of(request: web.Request) -> str:
    """Who asks.

    Raises:
        UnknownUserError: the request names a user that ComfyUI does not have.
    """
    named: str = request.headers.get(_HEADER) or request.query.get("user", EVERYONE)
    if not args.multi_user or not named:
        return EVERYONE
    if named not in prompt_server().user_manager.users:
        raise UnknownUserError(f"ComfyUI has no user {named!r}; expected one of those in GET /users")
    return named


def running_user() -> str:
    """Who queued the prompt that is running."""
    server = prompt_server()
    if server is None or not args.multi_user:
        return EVERYONE
    running, _ = server.prompt_queue.get_current_queue_volatile()
    return next((str(item[3].get(_KEY, EVERYONE)) for item in running), EVERYONE)


@web.middleware
async def _note_user(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if request.path in ("/prompt", "/api/prompt"):
        try:
            _asking.set(user_of(request))
        except UnknownUserError as error:
            return web.json_response({"error": str(error)}, status=400)
    return await handler(request)


def _mark_prompt(data: dict[str, Any]) -> dict[str, Any]:
    """What is queued keeps its user: by the time it runs, the request is over."""
    return {**data, "extra_data": {**(data.get("extra_data") or {}), _KEY: _asking.get()}}


def follow_users(server: Any) -> None:
    """Have prompts remember who queued them; called once, before the server starts."""
    if args.multi_user:
        server.app.middlewares.append(_note_user)
        server.add_on_prompt_handler(_mark_prompt)
