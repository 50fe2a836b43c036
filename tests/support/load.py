"""Clients and publishers that keep working during faults, and record everything.

Anything that they must never see (an unexpected status, an answer that took too long, a publication
twice on one connection) is a complaint.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.support.eventually import eventually
from tests.support.ledger import Fault, Ledger, Outcome
from tests.support.listener import Listener
from tests.support.posting import Publisher
from tests.support.service import Service

STATE_SECONDS = 2.0  # within which a change of state must be pushed
INSIST_EACH = 5  # every fifth publication has an idempotency key, and is retried until published


async def at_rate(per_second: int) -> AsyncIterator[int]:
    """Yield this many numbers a second; a delay is not caught up with a burst."""
    begin, done = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - begin) * per_second)
        if due - done > per_second:
            done = due - per_second // 10
        while done < due:
            yield done
            done += 1
        await asyncio.sleep(0.01)


class Load:
    """Clients, publications at a rate, and the ledger of both."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        posted_to: Sequence[Service],
        clients: int,
        per_second: int,
        channels: int,
        publishers: int = 64,
    ) -> None:
        self.name = secrets.token_hex(4)
        self.services = list(services)
        self._posted_to = list(posted_to)
        self.ledger = Ledger()
        self.complaints: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.unanswered: list[float] = []
        """When a connection ended with a publish in flight."""
        self.channels = [f"public:load{number}" for number in range(channels)]
        self.listeners = [
            Listener(f"client {number}", self.channels[number % channels], self)
            for number in range(clients)
        ]
        self._per_second = per_second
        self._publishers = [Publisher(self) for _ in range(publishers)]
        self._free: asyncio.Queue[Publisher] = asyncio.Queue()
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._publishing: asyncio.Task[None] | None = None
        self._asks = 0

    def complain(self, sentence: str) -> None:
        """Record something that must never happen."""
        self.complaints[sentence] += 1

    def addresses(self) -> list[str]:
        """Return the URLs for a client, starting with the next node in turn."""
        return [node.ws for node in self._in_turn(self.services)]

    def apis(self) -> list[tuple[str, int]]:
        """Return the addresses for a publisher, starting with the next node in turn."""
        return [("127.0.0.1", node.port) for node in self._in_turn(self._posted_to)]

    def _in_turn(self, nodes: list[Service]) -> list[Service]:
        """Return the nodes, starting with a different one each time."""
        self._asks += 1
        first = self._asks % len(nodes)
        return nodes[first:] + nodes[:first]

    async def __aenter__(self) -> Load:
        for publisher in self._publishers:
            self._free.put_nowait(publisher)
        for listener in self.listeners:
            self._start(listener.run())
        await self.recovered(30)
        self._publishing = self._start(self._publish())
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for publisher in self._publishers:
            publisher.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.complain(f"the load itself failed: {error!r}")

    async def run(self, seconds: float) -> None:
        """Let the load run for a while."""
        await asyncio.sleep(seconds)  # no condition to wait for: the load is what happens meanwhile

    @asynccontextmanager
    async def fault(
        self, name: str, *, ends_epochs: bool = False, forgets: bool = False
    ) -> AsyncIterator[Fault]:
        """Record a fault around the block; at its end everything could work again.

        Args:
            name: For messages.
            ends_epochs: Whether it may end epochs.
            forgets: Whether Redis may lose its data, including idempotency keys.
        """
        fault = Fault(name, time.monotonic(), float("inf"), ends_epochs or forgets, forgets)
        self.ledger.faults.append(fault)
        yield fault
        fault.ended = time.monotonic()

    async def recovered(self, seconds: float = STATE_SECONDS) -> float:
        """Wait until every client is live again; return how long that took."""
        start = time.monotonic()
        await eventually(lambda: all(each.is_live for each in self.listeners), seconds=seconds)
        return time.monotonic() - start

    async def told(
        self, seconds: float = STATE_SECONDS, of: Sequence[Listener] | None = None
    ) -> float:
        """Wait until the last fault has reached every client (or those given) as "not live".

        A client that is live again by now was told as well. Returns the seconds that it waited.
        """
        start, began = time.monotonic(), self.ledger.faults[-1].began
        clients = self.listeners if of is None else of
        await eventually(
            lambda: all(each.was_away_since(began) for each in clients), seconds=seconds
        )
        return time.monotonic() - start

    async def balance(self) -> None:
        """Stop publishing, then publish once on each channel, and wait until all received it."""
        assert self._publishing is not None
        self._publishing.cancel()
        await asyncio.gather(self._publishing, return_exceptions=True)
        await eventually(lambda: self._free.qsize() == len(self._publishers), seconds=20)
        markers = {channel: await self._marker(channel) for channel in self.channels}
        await eventually(
            lambda: all(markers[each.channel] in each.heard for each in self.listeners),
            seconds=10,
        )

    async def _marker(self, channel: str) -> int:
        number = self._next_number()
        attempt = await self._publishers[0].publish(number, channel)
        assert attempt.outcome is Outcome.PUBLISHED, (
            "the last publication of each channel must succeed"
        )
        return number

    async def burst(self, padding: str) -> None:
        """Publish once to each channel, all of it in one transaction."""
        publisher = await self._free.get()
        try:
            await publisher.batch({self._next_number(): each for each in self.channels}, padding)
        finally:
            self._free.put_nowait(publisher)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    async def _publish(self) -> None:
        """Publish at the rate, whatever the answers are; waits while all publishers are busy."""
        async for _ in at_rate(self._per_second):
            publisher = await self._free.get()
            self._start(self._one(publisher, self._next_number()))

    async def _one(self, publisher: Publisher, number: int) -> None:
        channel = self.channels[number % len(self.channels)]
        try:
            if number % INSIST_EACH:
                await publisher.publish(number, channel)
            else:
                await publisher.insist(number, channel)
        finally:
            self._free.put_nowait(publisher)

    def verdict(self) -> list[str]:
        """Return every violation and every complaint; empty if the promise was kept."""
        complaints = [f"{count} × {said}" for said, count in self.complaints.items()]
        return [*self.ledger.violations(), *complaints]
