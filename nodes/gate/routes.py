"""What the editor asks the server about previews: entries, videos, size and emptying."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web

from .store import Entry, PreviewStore, is_hash

PREFIX = "/flashvideo/previews"
_MAX_MEGABYTES = 1 << 20


@cache
def preview_store() -> PreviewStore:
    """The store in ComfyUI's user directory, which restarts leave alone and the userdata routes do not serve."""
    return PreviewStore(Path(folder_paths.get_system_user_directory("flashvideo")) / "previews")


def described(entry: Entry) -> list[dict[str, Any]]:
    """The previews of an entry for the editor and for API users: hash, size, address of the video."""
    base = f"{PREFIX}/{entry.signature}"
    return [
        {
            "hash": preview.hash,
            "frames": preview.frames,
            "width": preview.width,
            "height": preview.height,
            "video": f"{base}/{preview.hash}-{entry.key}.mp4" if preview.frames else "",
        }
        for preview in entry.previews
    ]


async def get_entry(request: web.Request) -> web.Response:
    entry = preview_store().entry(request.match_info["signature"])
    if entry is None:
        return web.json_response({"error": "these previews are not in the store any more"}, status=404)
    return web.json_response({"signature": entry.signature, "fps": entry.fps, "previews": described(entry)})


async def get_video(request: web.Request) -> web.StreamResponse:
    signature, names = request.match_info["signature"], request.match_info["video"].split("-")
    if not all(map(is_hash, [signature, *names])) or len(names) != 2:
        return web.Response(status=404)
    path = preview_store().video(signature, *names)
    if not path.is_file():
        return web.Response(status=404)
    return web.FileResponse(path, headers={"Content-Type": "video/mp4", "Cache-Control": "private, max-age=86400"})


def _state() -> web.Response:
    store = preview_store()
    return web.json_response({"bytes": store.size(), "limit_megabytes": store.limit})


async def get_state(request: web.Request) -> web.Response:
    return _state()


async def post_empty(request: web.Request) -> web.Response:
    preview_store().empty()
    return _state()


async def post_limit(request: web.Request) -> web.Response:
    try:
        megabytes = int((await request.json())["megabytes"])
    except (ValueError, KeyError, TypeError):
        return web.json_response({"error": 'expected {"megabytes": number}'}, status=400)
    if not 1 <= megabytes <= _MAX_MEGABYTES:
        return web.json_response({"error": f"expected 1 to {_MAX_MEGABYTES} megabytes"}, status=400)
    preview_store().limit = megabytes
    return _state()


def add_routes(server: Any) -> None:
    """Add the routes to ComfyUI's server; called once, when the node is imported."""
    server.routes.get(PREFIX)(get_state)
    server.routes.post(f"{PREFIX}/empty")(post_empty)
    server.routes.post(f"{PREFIX}/limit")(post_limit)
    server.routes.get(PREFIX + "/{signature}")(get_entry)
    server.routes.get(PREFIX + "/{signature}/{video}.mp4")(get_video)
