"""What the editor asks the server about previews: batches of them, videos, size and emptying."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web

from .store import Batch, GateStore, checked_limit, is_hash

PREFIX = "/flashvideo/previews"


@cache
def gate_store() -> GateStore:
    """The store in ComfyUI's user directory, which restarts leave alone and the userdata routes do not serve."""
    return GateStore(Path(folder_paths.get_system_user_directory("flashvideo")) / "previews")


def described(batch: Batch) -> list[dict[str, Any]]:
    """A batch's previews for the editor and for API users: hash of the sample, size, address of the video."""
    base = f"{PREFIX}/{batch.signature}"
    return [
        {
            "hash": sample.hash,
            "frames": sample.frames,
            "width": sample.width,
            "height": sample.height,
            "video": f"{base}/{sample.hash}-{batch.key}.mp4" if sample.frames else "",
        }
        for sample in batch.samples
    ]


async def get_batch(request: web.Request) -> web.Response:
    batch = gate_store().batch(request.match_info["signature"])
    if batch is None:
        return web.json_response({"error": "these previews are not in the store any more"}, status=404)
    return web.json_response({"signature": batch.signature, "fps": batch.fps, "previews": described(batch)})


async def get_video(request: web.Request) -> web.StreamResponse:
    signature, names = request.match_info["signature"], request.match_info["video"].split("-")
    if not all(map(is_hash, [signature, *names])) or len(names) != 2:
        return web.Response(status=404)
    path = gate_store().preview(signature, *names)
    if not path.is_file():
        return web.Response(status=404)
    return web.FileResponse(path, headers={"Content-Type": "video/mp4", "Cache-Control": "private, max-age=86400"})


def _state() -> web.Response:
    store = gate_store()
    return web.json_response({"bytes": store.size(), "limit_megabytes": store.limit})


async def get_state(request: web.Request) -> web.Response:
    return _state()


async def post_empty(request: web.Request) -> web.Response:
    gate_store().empty()
    return _state()


async def post_limit(request: web.Request) -> web.Response:
    try:
        given = (await request.json())["megabytes"]
    except (ValueError, TypeError, LookupError, RecursionError):  # also no such charset, arrays in arrays in arrays
        return web.json_response({"error": 'expected {"megabytes": number}'}, status=400)
    try:
        gate_store().limit = checked_limit(given)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    return _state()


def add_routes(server: Any) -> None:
    """Add the routes to ComfyUI's server; called once, when it loads the pack."""
    server.routes.get(PREFIX)(get_state)
    server.routes.post(f"{PREFIX}/empty")(post_empty)
    server.routes.post(f"{PREFIX}/limit")(post_limit)
    server.routes.get(PREFIX + "/{signature}")(get_batch)
    server.routes.get(PREFIX + "/{signature}/{video}.mp4")(get_video)
