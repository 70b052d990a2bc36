"""Around other packages' work."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Iterator
from typing import Any

_ALONE = threading.RLock()  # one thread at a time changes what all see


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """What is printed inside is dropped (standard output may be one JSON object), and in this thread no name of the
    network is found, as on a machine without one.
    """
    thread = threading.get_ident()

    def unknown(*arguments: Any, **more: Any) -> Any:
        if threading.get_ident() == thread:
            raise socket.gaierror(socket.EAI_NONAME, "FlashVideo downloads nothing")
        return known(*arguments, **more)

    with _ALONE, contextlib.redirect_stdout(io.StringIO()):
        known = socket.getaddrinfo
        socket.getaddrinfo = unknown
        try:
            yield
        finally:
            socket.getaddrinfo = known
