"""HTTP and WebSocket as bytes on a socket, for what no honest client would send."""

from __future__ import annotations

import base64
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
NO_CLOSE_FRAME = 1006
PATH = "/connection/websocket"


class Frame(NamedTuple):
    """A frame from the server."""

    opcode: int
    payload: bytes
    first: int
    """The first byte: FIN, the reserved bits and the opcode."""

    @property
    def close_code(self) -> int:
        return int.from_bytes(self.payload[:2], "big") or 1005


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\1\2\3\4",
    size: int | None = None,
    wide: int = 0,
) -> bytes:
    """Return a frame; by default a valid one (RFC 6455 §5.2).

    Args:
        opcode: 0 to 15.
        payload: Of any length.
        fin: Whether it is the last of its message.
        rsv: The three reserved bits.
        mask: None sends it unmasked, which clients must not do.
        size: The length in the header, if it differs from the real one.
        wide: Bits of the length field, if longer than necessary (16, 64).
    """
    size = len(payload) if size is None else size
    first = (0x80 if fin else 0) | (rsv << 4) | opcode
    masked = 0 if mask is None else 0x80
    if wide == 64 or size > 0xFFFF:
        head = struct.pack("!BBQ", first, masked | 127, size)
    elif wide == 16 or size > 125:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BB", first, masked | size)
    return head + payload if mask is None else head + mask + masked_with(mask, payload)


def masked_with(mask: bytes, payload: bytes) -> bytes:
    key = int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)], "big")
    return (int.from_bytes(payload, "big") ^ key).to_bytes(len(payload), "big")


def handshake(*headers: str, path: str = PATH, host: str = "127.0.0.1") -> bytes:
    """Return a handshake with additional headers."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"


def request(verb: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """Return a request that closes its connection."""
    lines = [f"{verb} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


class Raw:
    """A socket to a server. If the server hangs up, sending is not an error and reading ends."""

    def __init__(self, port: int, *, seconds: float = 30.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""
        self.reset = False
        """Whether it was closed by a reset."""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> Raw:
        with suppress(ConnectionError):
            for part in parts:
                self.socket.sendall(part)
        return self

    def head(self) -> bytes:
        """Return the response up to the empty line."""
        while b"\r\n\r\n" not in self._unread and (part := self._receive()):
            self._unread += part
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        return head

    def rest(self) -> bytes:
        """Return everything until the server hangs up."""
        while part := self._receive():
            self._unread += part
        rest, self._unread = self._unread, b""
        return rest

    def upgraded(self, *headers: str) -> Raw:
        """Become a WebSocket; fails if the handshake does."""
        assert b"101" in self.send(handshake(*headers)).head()
        return self

    def frames(self) -> Iterator[Frame]:
        """Yield frames as they arrive, until the server hangs up."""
        while (found := self._frame()) is not None:
            yield found

    def closed(self) -> int:
        """Return the close code; 1006 if the connection just ends."""
        return next(
            (found.close_code for found in self.frames() if found.opcode == CLOSE), NO_CLOSE_FRAME
        )

    def _frame(self) -> Frame | None:
        head = self._exactly(2)
        if head is None:
            return None
        size = head[1] & 0x7F
        if size > 125:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8) or b"", "big")
        payload = self._exactly(size)
        return None if payload is None else Frame(head[0] & 0x0F, payload, head[0])

    def _exactly(self, size: int) -> bytes | None:
        while len(self._unread) < size:
            if not (part := self._receive()):
                return None
            self._unread += part
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65_536)
        except ConnectionError:
            self.reset = True
            return b""


def status_of(answer: bytes) -> int:
    """Return the status of a response; 0 if there was none."""
    found = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
    return int(found[1]) if found else 0


def asked(port: int, *parts: bytes, seconds: float = 30.0) -> bytes:
    """Send bytes on a new socket; return everything until the server hangs up."""
    with Raw(port, seconds=seconds) as peer:
        return peer.send(*parts).rest()
