"""Thousands of clients in one process that is not the bottleneck: raw sockets, epoll, no JSON.

Counts pushes inside frames, answers pings, and keeps the order of arrival. Speaks just enough of RFC 6455 and of the
wire protocol to be a client, and trusts the server.
"""

from __future__ import annotations

import base64
import os
import select
import socket
import struct
import time
from collections.abc import Callable

MASKED_PONG = b"\x81\x82\x00\x00\x00\x00{}"  # a zero mask is a mask


def masked_text(text: bytes) -> bytes:
    """Return a client's text frame (RFC 6455 §5.2), masked with zeros."""
    size = len(text)
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    else:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
    return head + b"\0\0\0\0" + text


class Member:
    """One client."""

    __slots__ = ("buffer", "name", "pushes", "socket")

    def __init__(self, name: int, sock: socket.socket) -> None:
        self.name = name
        self.socket = sock
        self.buffer = b""
        self.pushes = 0

    def frames(self) -> list[bytes]:
        """Read what is there and return the payloads of all whole frames."""
        data = self.buffer + self.socket.recv(1 << 20)
        frames = []
        at = 0
        while len(data) - at >= 2:
            size = data[at + 1]
            head = 2
            if size == 126:
                head, size = 4, int.from_bytes(data[at + 2 : at + 4], "big")
            elif size == 127:
                head, size = 10, int.from_bytes(data[at + 2 : at + 10], "big")
            if len(data) - at < head + size:
                break
            if data[at] & 0x0F == 8:
                raise ConnectionError(f"closed: {data[at + head : at + head + size]!r}")
            frames.append(data[at + head : at + head + size])
            at += head + size
        self.buffer = data[at:]
        return frames


class Crowd:
    """All clients, subscribed to their channels."""

    def __init__(
        self, host: str, port: int, path: str, count: int, channel: Callable[[int], str]
    ) -> None:
        self._epoll = select.epoll()
        self._members: dict[int, Member] = {}
        self.pushes = 0
        self.bytes = 0
        for number in range(count):
            self._join(number, host, port, path, channel(number))

    def __len__(self) -> int:
        return len(self._members)

    def _join(self, number: int, host: str, port: int, path: str, channel: str) -> None:
        # Loopback addresses differ, so that no address runs out of ports.
        source = (f"127.0.0.{1 + number // 20000}", 0)
        sock = socket.create_connection((host, port), source_address=source)
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        if b" 101 " not in head:
            raise ConnectionError(head.decode())
        member = Member(number, sock)
        member.buffer = head.partition(b"\r\n\r\n")[2]
        sock.sendall(
            masked_text(
                b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"%s"}}' % channel.encode()
            )
        )
        seen = b""
        while b'"id":2' not in seen:
            seen += b"".join(member.frames())
        if b'"error"' in seen:
            raise ConnectionError(seen.decode())
        sock.setblocking(False)
        self._members[sock.fileno()] = member
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def read(self, seconds: float) -> None:
        """Read what comes within a time, or the next of it."""
        for descriptor, _ in self._epoll.poll(seconds):
            member = self._members[descriptor]
            for frame in member.frames():
                self._frame(member, frame)

    def _frame(self, member: Member, frame: bytes) -> None:
        if frame == b"{}":
            member.socket.sendall(MASKED_PONG)
            return
        self.bytes += len(frame)
        pushes = frame.count(b'"pub":{')
        if frame.endswith(b"\n{}"):
            member.socket.sendall(MASKED_PONG)
        if b'"gap":{' in frame:
            raise AssertionError(f"a gap without a fault: {frame[:300]!r}")
        member.pushes += pushes
        self.pushes += pushes

    def read_until(self, pushes: int, seconds: float = 30.0) -> None:
        """Read until so many pushes have come in all."""
        deadline = time.monotonic() + seconds
        while self.pushes < pushes:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.pushes} of {pushes} pushes")
            self.read(1.0)

    def close(self) -> None:
        for member in self._members.values():
            member.socket.close()
        self._epoll.close()
