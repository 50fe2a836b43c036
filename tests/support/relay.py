"""A TCP proxy in front of Valkey in the test's own event loop, so that a test sees what happens."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from tests.support.fault_proxy import finish_accepting
from tests.support.redis_server import RedisServer

RESET = struct.pack("ii", 1, 0)  # linger 0: closing sends RST instead of FIN


class Relay:
    """Forwards replies unchanged, until a test changes, holds or adds some."""

    def __init__(self, server: RedisServer) -> None:
        self._redis = str(server.socket)
        self.clients: list[asyncio.StreamWriter] = []
        self._passing = asyncio.Event()
        self.heal()
        self.asked: list[bytes] = []
        """What clients have sent, in the chunks that were read."""

    async def open(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def hold(self) -> None:
        """Hold replies from now on, until `heal`."""
        self._passing.clear()

    def change(self, change: Callable[[bytes], bytes]) -> None:
        """Forward the result of this function instead of each reply from now on."""
        self._change = change

    def heal(self) -> None:
        """Forward replies unchanged from now on, starting with those that were held."""
        self._change: Callable[[bytes], bytes] = bytes
        self._passing.set()

    def say(self, data: bytes) -> None:
        """Send all clients data that did not come from Redis."""
        for client in self.clients:
            client.write(data)

    def end(self) -> None:
        """Close all connections cleanly."""
        for client in self.clients:
            client.close()

    def reset(self) -> None:
        """Reset all connections, in the next iteration of the event loop."""
        for client in self.clients:
            peer = client.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.transport.abort()

    async def close(self) -> None:
        self._server.close()
        await finish_accepting()
        self.heal()
        self.end()
        await self._server.wait_closed()

    async def _serve(self, asks: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.clients.append(client)
        replies, redis = await asyncio.open_unix_connection(self._redis)
        passing = asyncio.create_task(self._pass_replies(replies, client))
        with suppress(OSError):
            while data := await asks.read(1 << 20):
                self.asked.append(data)
                redis.write(data)
        redis.close()
        await passing
        self.clients.remove(client)

    async def _pass_replies(
        self, replies: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await replies.read(1 << 20):
                await self._passing.wait()
                client.write(self._change(data))
        client.close()
