"""Thousands of clients in one process that is not the bottleneck: raw sockets, epoll, no JSON.

Counts pushes inside frames, answers pings, and fails at the first gap. Speaks just enough of RFC
6455 to be a client, and trusts the server.
"""

from __future__ import annotations

import base64
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

PORTS_OF_AN_ADDRESS = 20_000  # loopback addresses differ, so that none runs out of ports


HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass(frozen=True)
class Dialect:
    """What a server must be told to subscribe, and how its publications are recognised."""

    path: str  # with {channel} in it where the path names the channel
    marker: bytes  # once in every publication
    hello: str = ""  # the first text frame, with {channel} in it
    joined: bytes = b""  # comes once when the client is subscribed
    ping: bytes = b""  # a text frame that must be answered …
    pong: bytes = b""  # … with this one


OURS = Dialect(
    path="/connection/websocket",
    marker=b'"pub":{',
    hello='{{"id":1,"connect":{{}}}}\n{{"id":2,"subscribe":{{"channel":"{channel}"}}}}',
    joined=b'"id":2',
    ping=b"{}",
    pong=b"{}",
)
"""Ours and Centrifugo's: the same protocol."""


def text_frame(text: bytes) -> bytes:
    """Return a client's text frame (RFC 6455 §5.2); a mask of zeros is a mask."""
    size = len(text)
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    else:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
    return head + b"\0\0\0\0" + text


class Member:
    """One client."""

    __slots__ = ("buffer", "pushes", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.buffer = b""
        self.pushes = 0

    def frames(self) -> list[bytes]:
        """Read what is there and return the payloads of all whole frames."""
        received = self.socket.recv(1 << 20)
        if not received:
            raise ConnectionError("the server went away")
        data = self.buffer + received if self.buffer else received
        frames = []
        at, end = 0, len(data)
        while end - at >= 2:
            size, head = data[at + 1], 2
            if size == 126:
                head, size = 4, int.from_bytes(data[at + 2 : at + 4], "big")
            elif size == 127:
                head, size = 10, int.from_bytes(data[at + 2 : at + 10], "big")
            if end - at < head + size:
                break
            payload = data[at + head : at + head + size]
            if data[at] & 0x0F == 8:
                raise ConnectionError(f"closed: {payload!r}")
            if data[at] & 0x0F == 9:
                self.socket.sendall(b"\x8a\x80\0\0\0\0")
            else:
                frames.append(payload)
            at += head + size
        self.buffer = data[at:]
        return frames


class Crowd:
    """All clients of one server, subscribed."""

    def __init__(
        self, port: int, dialect: Dialect, count: int, channel: Callable[[int], str]
    ) -> None:
        self._port = port
        self._dialect = dialect
        self._pong = text_frame(dialect.pong)
        self._epoll = select.epoll()
        self.members: dict[int, Member] = {}
        self.pushes = 0
        for number in range(count):
            self._join(number, channel(number))

    def _join(self, number: int, channel: str) -> None:
        source = (f"127.0.0.{1 + number // PORTS_OF_AN_ADDRESS}", 0)
        sock = socket.create_connection(
            ("127.0.0.1", self._port), source_address=source, timeout=30
        )
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            HANDSHAKE.format(path=self._dialect.path.format(channel=channel), key=key).encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        if b" 101 " not in head:
            raise ConnectionError(head.decode(errors="replace"))
        member = Member(sock)
        member.buffer = head.partition(b"\r\n\r\n")[2]
        if self._dialect.hello:
            sock.sendall(text_frame(self._dialect.hello.format(channel=channel).encode()))
        seen = b""
        while self._dialect.joined not in seen:
            seen += b"".join(member.frames())
        if b'"error"' in seen:
            raise ConnectionError(seen.decode())
        sock.setblocking(False)
        self.members[sock.fileno()] = member
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def read(self, seconds: float) -> None:
        """Read what is there; wait for it at most so long."""
        dialect = self._dialect
        for descriptor, _ in self._epoll.poll(seconds):
            member = self.members[descriptor]
            for frame in member.frames():
                pushes = frame.count(dialect.marker)
                member.pushes += pushes
                self.pushes += pushes
                if dialect.ping and (frame == dialect.ping or frame.endswith(b"\n" + dialect.ping)):
                    member.socket.sendall(self._pong)
                if b'"gap":{' in frame:
                    raise AssertionError(f"a gap without a fault: {frame[:300]!r}")

    def read_until(self, pushes: int, seconds: float = 60.0) -> None:
        """Read until so many pushes have come in all."""
        deadline = time.monotonic() + seconds
        while self.pushes < pushes:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.pushes} of {pushes} pushes")
            self.read(1.0)

    def close(self) -> None:
        """Leave without a word."""
        for member in self.members.values():
            member.socket.close()
        self._epoll.close()
