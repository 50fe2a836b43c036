"""Thousands of clients in one process that is not the bottleneck: raw sockets, one epoll, no JSON.

Counts pushes within frames, answers pings, and records every gap. Implements just enough of
RFC 6455 to be a client, and trusts the server.
"""

from __future__ import annotations

import base64
import errno
import heapq
import os
import random
import re
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

PORTS_OF_AN_ADDRESS = 20_000  # several loopback addresses, so that none runs out of ports
AT_ONCE = 1000  # concurrent handshakes
RECEIVE_BYTES = 64 * 1024  # above malloc's mmap threshold (128 KiB), each read would map memory
IP_BIND_ADDRESS_NO_PORT = 24  # ip(7); Python 3.11 has no constant for it
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no TIME_WAIT, which would use up the ports
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
)
LENGTH = re.compile(rb"content-length: *(\d+)", re.I)
SENT_AT = re.compile(rb'"t":(\d+)')
GAP = re.compile(rb'"gap":\{"epoch":"\w+","from":(\d+),"to":(\d+),"reason":"(\w+)"')


@dataclass(frozen=True)
class Dialect:
    """How to subscribe at a server, and how to recognise its publications."""

    path: str  # contains {channel} if the path names the channel
    marker: bytes  # once in every publication
    hello: str = ""  # the first text frame; may contain {channel} and {secret}
    headers: str = ""  # further lines of the handshake; may contain {secret}
    joined: bytes = b""  # sent once when the client is subscribed
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
"""For our service and Centrifugo: the protocol is the same."""


def text_frame(text: bytes) -> bytes:
    """Return a client's text frame (RFC 6455 §5.2); an all-zero mask is valid."""
    size = len(text)
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    else:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
    return head + b"\0\0\0\0" + text


def framed_size(payload: bytes) -> int:
    """Return the size of a payload as a server's frame (RFC 6455 §5.2)."""
    size = len(payload)
    return size + (2 if size < 126 else 4 if size < 65536 else 10)


@dataclass(slots=True, eq=False)
class Member:
    """One client."""

    number: int
    socket: socket.socket
    stage: str = "connecting"  # connecting, upgrading, joining, joined
    buffer: bytes = b""
    pushes: int = 0
    timed: bool = False
    gaps: list[tuple[int, int, str]] = field(default_factory=list)

    def receive(self) -> bytes:
        """Read the available bytes."""
        received = self.socket.recv(RECEIVE_BYTES)
        if not received:
            raise ConnectionError("the server went away")
        return received

    def frames(self, received: bytes) -> list[bytes]:
        """Return the payloads of all complete frames."""
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
                self.socket.sendall(b"\x8a%c\0\0\0\0%b" % (0x80 | len(payload), payload))
            else:
                frames.append(payload)
            at += head + size
        self.buffer = data[at:]
        return frames


class Crowd:
    """All clients of one server."""

    def __init__(
        self,
        port: int,
        dialect: Dialect,
        channel: Callable[[int], str],
        secrets: Sequence[str] = (),
    ) -> None:
        self._port = port
        self._dialect = dialect
        self._channel = channel
        self._secrets = secrets  # what each client shows, by its number
        self._pong = text_frame(dialect.pong)
        self.epoll = select.epoll()
        self.others: dict[int, Callable[[], None]] = {}  # other users' sockets on this epoll
        self.members: dict[int, Member] = {}
        self.joined = 0
        self.pushes = 0
        self.lost: list[int] = []  # numbers of the members that the server disconnected
        self.reasons: Counter[str] = Counter()
        self.latencies: list[float] = []  # seconds, of members that are `timed`
        self._waiting: list[tuple[float, int]] = []  # (earliest start, number)
        self._under_way = 0
        self._last = b""  # the previous read, if it was complete publications and nothing else …
        self._last_pushes = 0  # … and their number

    def invite(self, count: int) -> None:
        """Let this many more clients join as fast as possible, and wait for them."""
        before = self.joined
        for number in range(before, before + count):
            self.invite_later(number, 0.0)
        self.read_until(lambda: self.joined >= before + count)

    def invite_later(self, number: int, moment: float) -> None:
        """Let one client join, not before a moment of the monotonic clock."""
        heapq.heappush(self._waiting, (moment, number))

    def back_off(self, number: int, attempt: int) -> None:
        """Let one client reconnect as client.js does: with full jitter."""
        self.invite_later(number, time.monotonic() + random.uniform(0, min(20.0, 0.5 * 2**attempt)))

    def read(self, seconds: float) -> None:
        """Handle all events; wait for one at most this long."""
        self._open_more()
        for descriptor, _ in self.epoll.poll(min(seconds, 0.01) if self._waiting else seconds):
            other = self.others.get(descriptor)
            if other is not None:
                other()
            elif (member := self.members.get(descriptor)) is not None:
                try:
                    self._advance(member)
                except OSError as error:
                    self._lose(member, error)

    def read_until(self, true: Callable[[], bool], seconds: float = 60.0) -> None:
        """Read until the condition is true."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self.joined} joined, {self.pushes} pushes, {dict(self.reasons)}"
                )
            self.read(1.0)

    def read_for(self, seconds: float) -> None:
        """Read for this long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.read(left)

    def sleep(self, members: list[Member]) -> None:
        """Make members stop reading."""
        for member in members:
            self.epoll.unregister(member.socket.fileno())

    def wake(self, members: list[Member]) -> None:
        """Make members resume reading."""
        for member in members:
            self.epoll.register(member.socket.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Close all sockets without a closing handshake."""
        for member in self.members.values():
            member.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            member.socket.close()
        self.epoll.close()

    def _open_more(self) -> None:
        now = time.monotonic()
        while self._waiting and self._under_way < AT_ONCE and self._waiting[0][0] <= now:
            self._open(heapq.heappop(self._waiting)[1])

    def _open(self, number: int) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        # The port is chosen on connect: bind() would search for one that no address uses, which
        # takes milliseconds once thousands are taken.
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{1 + number // PORTS_OF_AN_ADDRESS}", 0))
        error = sock.connect_ex(("127.0.0.1", self._port))
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
        member = Member(number, sock)
        self.members[sock.fileno()] = member
        self.epoll.register(sock.fileno(), select.EPOLLOUT)
        self._under_way += 1

    def _advance(self, member: Member) -> None:
        if member.stage == "joined":
            self._received(member, member.receive())
        elif member.stage == "connecting":
            self._connected(member)
        elif member.stage == "upgrading":
            self._upgraded(member)
        else:
            self._joining(member, member.frames(member.receive()))

    def _connected(self, member: Member) -> None:
        error = member.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        key = base64.b64encode(os.urandom(16)).decode()
        path = self._dialect.path.format(channel=self._channel(member.number))
        headers = self._dialect.headers.format(secret=self._secret(member.number))
        member.socket.sendall(HANDSHAKE.format(path=path, key=key, headers=headers).encode())
        member.stage = "upgrading"
        self.epoll.modify(member.socket.fileno(), select.EPOLLIN)

    def _secret(self, number: int) -> str:
        return self._secrets[number] if self._secrets else ""

    def _upgraded(self, member: Member) -> None:
        received = member.socket.recv(65536)
        if not received:
            raise ConnectionError("refused")
        member.buffer += received
        head, end, rest = member.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        if b" 101 " not in head:
            raise ConnectionError(head.decode(errors="replace"))
        member.buffer = rest
        hello = self._dialect.hello
        if hello:
            channel, secret = self._channel(member.number), self._secret(member.number)
            text = hello.format(channel=channel, secret=secret).encode()
            member.socket.sendall(text_frame(text))
            member.stage = "joining"
        else:
            self._has_joined(member)

    def _joining(self, member: Member, frames: list[bytes]) -> None:
        for frame in frames:
            if member.stage == "joined":
                self._frame(member, frame)
            elif self._dialect.joined in frame:
                if b'"error"' in frame:
                    raise ConnectionError(frame.decode(errors="replace"))
                self._has_joined(member)

    def _has_joined(self, member: Member) -> None:
        member.stage = "joined"
        self.joined += 1
        self._under_way -= 1

    def _received(self, member: Member, received: bytes) -> None:
        """Count pushes; bytes identical to the previous read need not be parsed again."""
        if received == self._last and not member.buffer and not member.timed:
            member.pushes += self._last_pushes
            self.pushes += self._last_pushes
            return
        before, whole = member.pushes, not member.buffer
        frames = member.frames(received)
        plain = [self._frame(member, frame) for frame in frames]
        # A ping by the server, whether a control frame or a text, must be answered by each client.
        only_frames = sum(map(framed_size, frames)) == len(received)
        if whole and only_frames and all(plain):
            self._last, self._last_pushes = received, member.pushes - before

    def _frame(self, member: Member, frame: bytes) -> bool:
        """Count and answer; return whether there was nothing to do but to count."""
        dialect = self._dialect
        pushes = frame.count(dialect.marker)
        member.pushes += pushes
        self.pushes += pushes
        if member.timed and pushes:
            now = time.monotonic_ns()
            self.latencies.extend((now - int(sent)) / 1e9 for sent in SENT_AT.findall(frame))
        ping = dialect.ping and (frame == dialect.ping or frame.endswith(b"\n" + dialect.ping))
        if ping:
            member.socket.sendall(self._pong)
        gap = b'"gap":{' in frame
        if gap:
            member.gaps.extend((int(a), int(b), r.decode()) for a, b, r in GAP.findall(frame))
        return not ping and not gap

    def _lose(self, member: Member, error: OSError) -> None:
        self.reasons[str(error)] += 1
        if member.stage == "joined":
            self.joined -= 1
        else:
            self._under_way -= 1
        del self.members[member.socket.fileno()]
        member.socket.close()
        self.lost.append(member.number)


class HttpPublishers:
    """Connections that post one request after the other, on the epoll of a crowd."""

    def __init__(self, crowd: Crowd, port: int, request: bytes, count: int) -> None:
        self._crowd = crowd
        self._request = request
        self._left = 0
        self.answered = 0
        self._sockets: list[socket.socket] = []
        self._begun: dict[socket.socket, bytes] = {}
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(sock)
            crowd.others[sock.fileno()] = lambda sock=sock: self._answer(sock)  # type: ignore[misc]
            crowd.epoll.register(sock.fileno(), select.EPOLLIN)

    def post(self, count: int) -> None:
        """Start posting this many, one at a time per connection."""
        self._left += count
        for sock in self._sockets[: self._left]:
            self._left -= 1
            sock.sendall(self._request)

    def _answer(self, sock: socket.socket) -> None:
        answer = self._begun.pop(sock, b"") + sock.recv(65536)
        head, end, body = answer.partition(b"\r\n\r\n")
        length = int(LENGTH.search(head)[1]) if end else 0  # type: ignore[index]
        if not end or len(body) < length:
            self._begun[sock] = answer  # head and body may arrive separately
            return
        if not answer.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(answer.decode(errors="replace")[:500])
        self.answered += 1
        if self._left:
            self._left -= 1
            sock.sendall(self._request)

    def close(self) -> None:
        """Close the connections."""
        for sock in self._sockets:
            del self._crowd.others[sock.fileno()]
            sock.close()
