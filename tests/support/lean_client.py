"""A WebSocket client with minimal overhead: five hundred of them can share a test's event loop.

Implements as much of RFC 6455 as a client of an honest server needs. `websockets` costs eight times
as much per frame, and was the bottleneck of the load.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

from tests.support.machine import within

NO_CLOSE_FRAME = 1006
HANDSHAKE_SECONDS = 5.0
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Refused(ConnectionError):
    """The server did not accept the connection."""


class LeanClient(asyncio.Protocol):
    """One connection. `open` it; `closed` is its close code once it has ended."""

    def __init__(self, path: str, take: Callable[[str], None]) -> None:
        self._path = path
        self._take = take
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._is_open = False
        self._code = NO_CLOSE_FRAME
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[int] = loop.create_future()

    @classmethod
    async def open(cls, url: str, take: Callable[[str], None]) -> LeanClient:
        """Connect; each text frame is passed to ``take``.

        Raises:
            OSError: The port is closed, or the server rejected the connection (`Refused`).
            TimeoutError: The server did not respond.
        """
        where = urlsplit(url)
        loop = asyncio.get_running_loop()
        async with within(HANDSHAKE_SECONDS):
            _, client = await loop.create_connection(
                lambda: cls(where.path, take), where.hostname, where.port
            )
            try:
                await client._opened
            except asyncio.CancelledError:
                client.abort()
                raise
        return client

    def send(self, text: str) -> None:
        """Send a text frame."""
        self._send(TEXT, text.encode())

    def stall(self) -> None:
        """Stop reading, without notice to the server."""
        assert self._transport is not None
        self._transport.pause_reading()

    def abort(self) -> None:
        """Drop the connection without a closing handshake."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open and not self._upgraded():
            return
        at = 0
        while (frame := self._frame(at)) is not None:
            opcode, payload, at = frame
            self._read(opcode, payload)
        self._buffer = self._buffer[at:]

    def connection_lost(self, error: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(Refused("the connection ended in the handshake"))
        if not self.closed.done():
            self.closed.set_result(self._code)

    def _upgraded(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 101 "):
            if not self._opened.done():
                self._opened.set_exception(Refused(head.split(b"\r\n")[0].decode()))
            self.abort()
            return False
        self._buffer, self._is_open = rest, True
        if not self._opened.done():
            self._opened.set_result(None)
        return True

    def _frame(self, at: int) -> tuple[int, bytes, int] | None:
        """Return opcode and payload of the frame at an index, and the index of the next frame."""
        data = self._buffer
        if len(data) < at + 2:
            return None
        opcode, size, start = data[at] & 0x0F, data[at + 1], at + 2
        if size >= 126:
            start += 2 if size == 126 else 8
            if len(data) < start:
                return None
            size = int.from_bytes(data[at + 2 : start], "big")
        end = start + size
        return (opcode, data[start:end], end) if len(data) >= end else None

    def _read(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            self._take(payload.decode())
        elif opcode == PING:
            self._send(PONG, payload)
        elif opcode == CLOSE:
            self._code = int.from_bytes(payload[:2], "big") or NO_CLOSE_FRAME
            self._send(CLOSE, payload[:2])
            assert self._transport is not None
            self._transport.close()

    def _send(self, opcode: int, payload: bytes) -> None:
        """Send a frame, masked with zeros, which is still a mask (RFC 6455 §5.3)."""
        size = len(payload)
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | min(size, 126))
        if size >= 126:
            head += struct.pack("!H", size)
        assert self._transport is not None
        self._transport.write(head + b"\0\0\0\0" + payload)
