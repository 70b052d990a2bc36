"""Just enough of RFC 6455 to listen to ComfyUI: no package for it is among the library's requirements."""

from __future__ import annotations

import base64
import os
import socket
import struct

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class WebSocket:
    """A client connection that receives messages and answers pings."""

    def __init__(self, host: str, port: int, path: str, timeout: float = 60) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.stream = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        headers = {
            "Host": f"{host}:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        }
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        status = self.stream.readline()
        if b" 101 " not in status:
            raise ConnectionError(f"no websocket at {path}: {status!r}")
        while self.stream.readline() not in (b"\r\n", b""):
            pass

    def receive(self) -> tuple[int, bytes]:
        """The next whole message as (TEXT or BINARY, payload)."""
        kind, parts = 0, []
        while True:
            first, second = self._exactly(2)
            opcode, length = first & 15, second & 127
            if length > 125:
                (length,) = struct.unpack(">H" if length == 126 else ">Q", self._exactly(2 if length == 126 else 8))
            payload = self._exactly(length)
            if opcode == CLOSE:
                raise ConnectionError("the server closed the websocket")
            if opcode in (PING, PONG):
                if opcode == PING:
                    self._pong(payload)
                continue
            kind = opcode or kind
            parts.append(payload)
            if first & 128:
                return kind, b"".join(parts)

    def _pong(self, payload: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self.socket.sendall(bytes([128 | PONG, 128 | len(payload)]) + mask + masked)

    def _exactly(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) < count:
            raise ConnectionError("the websocket ended")
        return data

    def close(self) -> None:
        self.stream.close()
        self.socket.close()
