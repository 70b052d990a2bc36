"""What the editor asks the server: batches of previews and their videos, the store's size, limit and emptying."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache, wraps
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from ..kept.store import KeptStore, checked_limit, is_hash
from ..kept.users import EVERYONE, UnknownUserError, follow_users, kept_store, prompt_server, user_of
from .store import Batch, GateStore

PREFIX = "/flashvideo/previews"
CHANGED = "flashvideo.previews"  # the event
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@cache
def gate_store(user: str = EVERYONE) -> GateStore:
    """The batches in a user's store."""
    return GateStore(kept_store(user))


def described(batch: Batch, user: str = EVERYONE) -> list[dict[str, Any]]:
    """A batch's previews for the editor and for API users: hash of the sample, size, address of the video."""
    base, whose = f"{PREFIX}/{batch.signature}", f"?{urlencode({'user': user})}" if user else ""
    return [
        {
            "hash": sample.hash,
            "frames": sample.frames,
            "width": sample.width,
            "height": sample.height,
            "video": f"{base}/{sample.hash}-{batch.key}.mp4{whose}" if sample.frames else "",
        }
        for sample in batch.samples
    ]


def tell_editors() -> None:
    """Have all open editors look at their stores again: something came or went."""
    if (server := prompt_server()) is not None:
        server.send_sync(CHANGED, {})


async def get_batch(request: web.Request) -> web.Response:
    user = user_of(request)
    batch = gate_store(user).batch(request.match_info["signature"])
    if batch is None:
        return web.json_response({"error": "these previews are not in the store any more"}, status=404)
    return web.json_response({"signature": batch.signature, "fps": batch.fps, "previews": described(batch, user)})


async def get_video(request: web.Request) -> web.StreamResponse:
    signature, names = request.match_info["signature"], request.match_info["video"].split("-")
    if not all(map(is_hash, [signature, *names])) or len(names) != 2:
        return web.Response(status=404)
    path = gate_store(user_of(request)).preview(signature, *names)
    if not path.is_file():
        return web.Response(status=404)
    return web.FileResponse(path, headers={"Content-Type": "video/mp4", "Cache-Control": "private, max-age=86400"})


async def _state(store: KeptStore) -> web.Response:
    """What the store takes and may take; its folders are looked at beside the server's loop."""
    size, limit = await asyncio.to_thread(lambda: (store.size(), store.limit))
    return web.json_response({"bytes": size, "limit_megabytes": limit})


async def get_state(request: web.Request) -> web.Response:
    return await _state(kept_store(user_of(request)))


async def post_empty(request: web.Request) -> web.Response:
    store = kept_store(user_of(request))
    await asyncio.to_thread(store.empty)
    tell_editors()
    return await _state(store)


async def post_limit(request: web.Request) -> web.Response:
    try:
        given = (await request.json())["megabytes"]
    except (ValueError, TypeError, LookupError, RecursionError):  # also no such charset, arrays in arrays in arrays
        return web.json_response({"error": 'expected {"megabytes": number}'}, status=400)
    store = kept_store(user_of(request))
    try:
        limit = checked_limit(given)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    try:
        await asyncio.to_thread(setattr, store, "limit", limit)
    except (OSError, ValueError) as error:  # a disk that is full or closed
        return web.json_response({"error": str(error)}, status=507)
    tell_editors()
    return await _state(store)


def _in_words(handler: Handler) -> Handler:
    """A request in an unknown user's name is the asker's mistake."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except UnknownUserError as error:
            return web.json_response({"error": str(error)}, status=400)

    return answer


def add_routes(server: Any) -> None:
    """Add the routes to ComfyUI's server; called once, when it loads the pack."""
    follow_users(server)
    server.routes.get(PREFIX)(_in_words(get_state))
    server.routes.post(f"{PREFIX}/empty")(_in_words(post_empty))
    server.routes.post(f"{PREFIX}/limit")(_in_words(post_limit))
    server.routes.get(PREFIX + "/{signature}")(_in_words(get_batch))
    server.routes.get(PREFIX + "/{signature}/{video}.mp4")(_in_words(get_video))
