"""The floor of publishing: what asyncio and Redis cost by themselves, in callbacks only.

A POST becomes a PUBLISH, its reply the response, and the message of the subscription a finished
frame for every client. Nothing is parsed that is not needed to find an end, nothing is checked.

    python -m bench.peers.relay PORT REDIS_URL
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

from bench.peers.floor import FRAME, Client, clients

MESSAGE = b"x" * 150
"""About the size of an envelope."""
PUBLISH = b"*3\r\n$7\r\nPUBLISH\r\n$5\r\nbench\r\n$%d\r\n%s\r\n" % (len(MESSAGE), MESSAGE)
RECEIVED = b"*3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n$%d\r\n%s\r\n" % (len(MESSAGE), MESSAGE)
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
waiting: deque[list[int | asyncio.Transport]] = deque()
"""For each request, how many replies of Redis are missing, and where its response goes."""


class Redis(asyncio.Protocol):
    """A connection to Redis: passes on what it reads."""

    def __init__(self, read: Callable[[bytes], None]) -> None:
        self.data_received = read  # type: ignore[method-assign]


def take_replies(data: bytes) -> None:
    """Answer requests whose last reply has come; a reply is a line (no reply is torn here)."""
    replies = data.count(b"\n")
    while replies:
        request = waiting[0]
        missing, transport = request
        assert isinstance(missing, int)
        assert isinstance(transport, asyncio.Transport)
        taken = min(missing, replies)
        replies -= taken
        request[0] = missing - taken
        if taken == missing:
            waiting.popleft()
            transport.write(RESPONSE)


class Subscription:
    """Counts whole messages in what is read, and sends a frame for each."""

    def __init__(self) -> None:
        self._bytes = -len(b"*3\r\n$9\r\nsubscribe\r\n$5\r\nbench\r\n:1\r\n")

    def take(self, data: bytes) -> None:
        self._bytes += len(data)
        count, self._bytes = divmod(self._bytes, len(RECEIVED))
        if count > 0:
            frames = FRAME * count
            for transport in clients:
                transport.write(frames)
        elif count < 0:
            self._bytes += count * len(RECEIVED)


class ClientOrPublisher(Client):
    """A socket: a client, or a publisher with HTTP requests."""

    redis: asyncio.Transport
    _head = b""

    def data_received(self, data: bytes) -> None:
        if self._is_client or data.startswith(b"GET"):
            super().data_received(data)
            return
        data = self._head + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            at = data.index(b"Content-Length: ") + 16
            whole = end + 4 + int(data[at : data.index(b"\r\n", at)])
            if len(data) < whole:
                break
            count = max(1, data.count(b'{"publish"', end, whole))
            waiting.append([count, self._transport])
            self.redis.write(PUBLISH * count)
            data = data[whole:]
        self._head = data


async def main(port: int, redis_url: str) -> None:
    loop = asyncio.get_running_loop()
    where = urlsplit(redis_url)

    async def connect(read: Callable[[bytes], None]) -> asyncio.Transport:
        if where.scheme == "unix":
            transport, _ = await loop.create_unix_connection(lambda: Redis(read), where.path)
        else:
            transport, _ = await loop.create_connection(
                lambda: Redis(read), where.hostname, where.port or 6379
            )
        return transport

    ClientOrPublisher.redis = await connect(take_replies)
    subscribed = await connect(Subscription().take)
    subscribed.write(b"*2\r\n$9\r\nSUBSCRIBE\r\n$5\r\nbench\r\n")
    server = await loop.create_server(ClientOrPublisher, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
