"""The load of the fault tests on the Channels tutorial's chat, and a count of what it loses.

Clients, channels, rate and faults are those for our own service. Publishing works as in a view
there: `group_send` in another process, through the same Redis; it returns, or it raises. There are
no positions, so only this module, which sees both ends, can know what is missing.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer

from tests.support.eventually import eventually
from tests.support.fault_proxy import FaultProxy
from tests.support.lean_client import LeanClient
from tests.support.load import at_rate
from tests.support.redis_server import RedisServer
from tests.support.scene import FULL, PAUSE_SECONDS, SIZE, Break, Scene
from tests.support.service import Service

PER_SECOND = SIZE["per_second"]
AT_ONCE = 64  # views that publish concurrently
HEARS_SECONDS = 10.0 if FULL else 2.0
"""Within which a client must receive again; a client that does not is deaf."""
PROBE_SECONDS = 0.5
ANSWERED_SECONDS = 20.0  # the channel layer waits for Redis for 5 s, one publication at a time


class TutorialServer(Service):
    """The tutorial's chat, served as our own fault tests serve a host project."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url, app="bench.peers.tutorial:application")
        self.rooms = f"ws://127.0.0.1:{self.port}/ws/chat"

    def is_live(self) -> bool:
        """Whether it accepts connections; it knows no more about its own state."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


@dataclass(slots=True)
class Sent:
    """One `group_send`: when it began, and its outcome."""

    channel: str
    began: float
    failed: bool = False


@dataclass(slots=True)
class Tally:
    """The outcomes of the publications of a run."""

    clients: int
    published: int
    """`group_send` returned."""
    failed: int
    """It raised, so the publisher knows."""
    received: int
    """Over all clients, of what was published."""
    lost: int
    """Likewise: published in the client's room, but never received."""
    disconnected: int
    """Clients whose connection ended, which at least is a sign."""
    deaf: int
    """Clients that never again receive what a new process publishes (`HEARS_SECONDS`)."""


class Visitor:
    """A browser in one room; when its connection ends, it reconnects by back-off with jitter."""

    def __init__(self, url: str, channel: str) -> None:
        self.channel = channel
        self._url = f"{url}/{channel}/"
        self._client: LeanClient | None = None
        self.heard: set[int] = set()
        self.newest = 0
        self.ended: list[int] = []
        """Close codes."""

    async def run(self) -> None:
        """Listen until cancelled."""
        attempt = 0
        try:
            while True:
                try:
                    self._client = await LeanClient.open(self._url, self._frame)
                except (OSError, TimeoutError):
                    attempt += 1
                else:
                    attempt = 1
                    self.ended.append(await asyncio.shield(self._client.closed))
                await asyncio.sleep(random.uniform(0, min(5.0, 0.2 * 2**attempt)))
        finally:
            if self._client is not None:
                self._client.abort()

    def _frame(self, frame: str) -> None:
        number = json.loads(frame)["message"]["n"]
        self.heard.add(number)
        self.newest = max(self.newest, number)


class TutorialLoad:
    """Visitors, and publications at a rate: the counterpart of `Load`."""

    def __init__(
        self,
        server: TutorialServer,
        redis_url: str,
        *,
        clients: int,
        per_second: int,
        channels: int,
    ) -> None:
        self.channels = [f"load{number}" for number in range(channels)]
        self.visitors = [
            Visitor(server.rooms, self.channels[number % channels]) for number in range(clients)
        ]
        self._redis_url = redis_url
        self._per_second = per_second
        self._layer = RedisPubSubChannelLayer(hosts=[redis_url])
        self._views = asyncio.Semaphore(AT_ONCE)
        self._sent: dict[int, Sent] = {}
        self._number = 0
        self._since = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._publishing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> TutorialLoad:
        for visitor in self.visitors:
            self._start(visitor.run())
        self._publishing = self._start(self._publish())
        await self.recovered(30)
        self._since = time.monotonic()
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._layer.flush()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self, seconds: float) -> None:
        """Let the load run for a while."""
        await asyncio.sleep(
            seconds
        )  # there is no condition to wait for: the load runs in the meantime

    @asynccontextmanager
    async def fault(self, name: str, **ends: bool) -> AsyncIterator[None]:
        """Break something in the block. There are no epochs here that could end."""
        yield

    async def told(self) -> float:
        """Return at once: the tutorial tells no client that publications are missing."""
        return 0.0

    async def recovered(self, seconds: float = HEARS_SECONDS) -> float:
        """Wait until all clients receive publications again; return how long that took."""
        start, first = time.monotonic(), self._number + 1
        await eventually(lambda: not self._deaf_since(first), seconds=seconds)
        return time.monotonic() - start

    def _deaf_since(self, first: int) -> int:
        """Count the clients that have received nothing from this number on."""
        return sum(visitor.newest < first for visitor in self.visitors)

    async def burst(self, padding: str) -> None:
        """Publish once to each channel."""
        await asyncio.gather(
            *[await self._start_one(channel, pad=padding) for channel in self.channels]
        )

    async def _start_one(self, channel: str, **fields: object) -> asyncio.Task[None]:
        await self._views.acquire()
        return self._start(self._one(channel, **fields))

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    async def _publish(self) -> None:
        """Publish at the rate, whatever the outcome; waits while all views are busy."""
        async for number in at_rate(self._per_second):
            await self._start_one(self.channels[number % len(self.channels)])

    async def _one(self, channel: str, **fields: object) -> None:
        number = self._next_number()
        self._sent[number] = sent = Sent(channel, time.monotonic())
        try:
            sent.failed = await send(self._layer, channel, {"n": number, **fields})
        finally:
            self._views.release()

    async def _deaf(self) -> int:
        """Publish from new processes; count the clients that receive nothing.

        That is the everyday case: in a synchronous view, `async_to_sync(group_send)` reconnects
        each time.
        """
        deadline, first = time.monotonic() + HEARS_SECONDS, self._number + 1
        while (deaf := self._deaf_since(first)) and time.monotonic() < deadline:
            await self._last_words()
            with suppress(AssertionError):
                await eventually(lambda: not self._deaf_since(first), seconds=PROBE_SECONDS)
        return deaf

    async def _last_words(self) -> None:
        layer = RedisPubSubChannelLayer(hosts=[self._redis_url])
        for channel in self.channels:
            failed = await send(layer, channel, {"n": self._next_number()})
            assert not failed, "the last message of each room must be sent"
        await layer.flush()

    async def tally(self) -> Tally:
        """Stop publishing, wait until all received a last publication or are deaf, and count."""
        assert self._publishing is not None
        self._publishing.cancel()
        await asyncio.gather(self._publishing, return_exceptions=True)
        visits = len(self.visitors)
        await eventually(lambda: len(self._tasks) == visits, seconds=ANSWERED_SECONDS)
        deaf = await self._deaf()
        rooms: dict[str, set[int]] = {channel: set() for channel in self.channels}
        failed = 0
        for number, sent in self._sent.items():
            if sent.began < self._since:
                continue
            if sent.failed:
                failed += 1
            else:
                rooms[sent.channel].add(number)
        return Tally(
            clients=visits,
            published=sum(map(len, rooms.values())),
            failed=failed,
            received=sum(len(rooms[each.channel] & each.heard) for each in self.visitors),
            lost=sum(len(rooms[each.channel] - each.heard) for each in self.visitors),
            disconnected=sum(bool(each.ended) for each in self.visitors),
            deaf=deaf,
        )


async def send(layer: RedisPubSubChannelLayer, channel: str, message: object) -> bool:
    """Publish as a view does; return whether it raised."""
    try:
        await layer.group_send(channel, {"type": "chat.message", "message": message})
    except Exception:  # noqa: BLE001 - whatever it is, a view would answer 500
        return True
    return False


@asynccontextmanager
async def chat(redis: RedisServer) -> AsyncIterator[Scene]:
    """Put load on the tutorial's chat; the faults of our own service's scene apply to it."""
    async with FaultProxy(redis.socket) as road:
        url = f"redis://127.0.0.1:{road.port}"
        server = TutorialServer(url)
        try:
            await asyncio.to_thread(server.start)
            async with TutorialLoad(server, url, **{**SIZE, "per_second": PER_SECOND}) as load:
                await load.run(PAUSE_SECONDS)
                yield Scene(redis, road, [server], load)  # type: ignore[arg-type]
        finally:
            await asyncio.to_thread(server.stop)


async def broken(redis: RedisServer, break_it: Break) -> Tally:
    """Break something once under a load of its own, let it run for a moment, and count."""
    async with chat(redis) as scene:
        load: Any = scene.load
        await break_it(scene)
        with suppress(AssertionError):  # deaf clients are counted at the end
            await load.recovered()
        await load.run(PAUSE_SECONDS)
        tally: Tally = await load.tally()
        return tally
