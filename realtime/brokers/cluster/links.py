"""The links of one event loop to the masters of a Redis Cluster: one for each.

A command goes to the master of its partition. What a master has refused because another one has the
slot, or because the cluster changes just now, is certainly not executed, and sent again until the
deadline. What was written and not answered is unknown, as with one Redis (ADR-0007).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis import exceptions

from realtime.brokers.cluster.slots import ASKING, RefusalKind, refusal_of
from realtime.brokers.cluster.topology import ClusterTopology
from realtime.brokers.commands import SLOW_SECONDS, errors_of, stale, unavailable
from realtime.brokers.link import Link
from realtime.core.redis_address import host_part, master_url
from realtime.core.redis_url import read_redis_url
from realtime.errors import BrokerUnavailable, OutcomeUnknown

if TYPE_CHECKING:
    from redis.asyncio.connection import Connection

    from realtime.brokers.calls import Combine
    from realtime.brokers.script import Args, Script
    from realtime.core.partitions import Partition
    from realtime.core.publication import Publication
    from realtime.core.redis_url import Address

BACKOFF_SECONDS = (0.01, 0.1)
"""The shortest and the longest pause before a refused command is sent again."""

Send = Callable[[Link, Sequence[int], float], Awaitable[list[Any]]]
"""Sends the commands with these numbers on a link within seconds; errors as for `Link.execute`."""


class ClusterLinks:
    """See the module. Bound to one event loop; create it inside that loop."""

    def __init__(self, url: str) -> None:
        """Connect lazily.

        Args:
            url: ``redis+cluster://`` or ``rediss+cluster://``.
        """
        self._url = read_redis_url(url)
        self.topology = ClusterTopology(self._url)
        """Which master has which partition."""
        self._links: dict[Address, Link] = {}
        # At most one, which is ended with the links.
        self._refreshing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def run_script(
        self, partition: Partition, script: Script, commands: Sequence[Args], seconds: float
    ) -> Coroutine[Any, Any, list[Any]]:
        """Like `realtime.brokers.link.Link.run_script`, at the master of a partition."""
        return self._send(
            partition,
            lambda link, chosen, left: link.run_script(script, _of(commands, chosen), left),
            lambda link, chosen, left: link.execute(
                _asking([script.load, *_of(commands, chosen)]), left
            ),
            len(commands),
            seconds,
        )

    def publish(
        self,
        partition: Partition,
        script: Script,
        publication: Publication,
        combine: Combine,
        seconds: float,
    ) -> Coroutine[Any, Any, list[Any]]:
        """Like `realtime.brokers.link.Link.publish`, at the master of a partition."""
        return self._send(
            partition,
            lambda link, _, left: link.publish(script, publication, combine, left),
            lambda link, _, left: link.execute(_asking([script.load, combine(publication)]), left),
            1,
            seconds,
        )

    def execute(
        self, partition: Partition, commands: Sequence[Args], seconds: float
    ) -> Coroutine[Any, Any, list[Any]]:
        """Like `realtime.brokers.link.Link.execute`, at the master of a partition."""
        return self._send(
            partition,
            lambda link, chosen, left: link.execute(_of(commands, chosen), left),
            lambda link, chosen, left: link.execute(
                _asking([("PING",), *_of(commands, chosen)]), left
            ),
            len(commands),
            seconds,
        )

    async def link_each(self, seconds: float) -> dict[str, Link]:
        """Return the links to all masters by their addresses.

        Raises:
            BrokerUnavailable: No node of the cluster answers.
        """
        try:
            async with asyncio.timeout(seconds):
                await self.topology.refresh()
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error
        return {host_part(each): self._link(each) for each in sorted(self.topology.masters())}

    async def connect(self, address: Address) -> Connection:
        """Return a separate connection to a node, which the caller must close; errors of redis."""
        return await self._link(address).connect(0.0)

    async def aclose(self) -> None:
        """Close all connections, and open no more."""
        self._is_closed = True
        for task in self._refreshing:
            task.cancel()
        await self.topology.aclose()
        await asyncio.gather(*[link.aclose() for link in self._links.values()])
        await asyncio.gather(*self._refreshing, return_exceptions=True)

    async def _send(
        self, partition: Partition, send: Send, ask: Send, count: int, seconds: float
    ) -> list[Any]:
        """Send to the master of a partition until nothing is refused, or the deadline.

        Only what was refused is sent again: the rest is done.

        Args:
            partition: The partition.
            send: Sends commands as usual.
            ask: Sends them to a master that imports the slot, after another command and with ASKING
                before each; so every other reply counts, from the fourth on.
            count: The number of commands.
            seconds: The timeout.

        Raises:
            BrokerUnavailable: Certainly nothing is done.
            OutcomeUnknown: Perhaps some of it is done.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause, longest = BACKOFF_SECONDS
        answers: list[Any] = [None] * count
        due = list(range(count))
        asks: list[int] = []  # those of the due ones that the importing master must be asked
        importer: Address | None = None
        while True:
            chosen, asked = list(asks or due), importer
            asks, importer, failure = [], None, None
            try:
                address = asked or await self._owner(partition, deadline)
                link, sent_at = self._link(address), loop.time()
                left = deadline - sent_at
                if asked is None:
                    replies = await send(link, chosen, left)
                else:
                    replies = (await ask(link, chosen, left))[3::2]
                if (arrived := loop.time()) - sent_at > SLOW_SECONDS:
                    await self._distrust(address, arrived)
            except BrokerUnavailable as error:  # certainly not done: another one may do it
                failure = error
            except OutcomeUnknown:
                self.refresh_soon()  # the next one need not wait for a frozen master
                raise
            else:
                for number, reply in zip(chosen, replies, strict=True):
                    answers[number] = reply
                    refusal = refusal_of(errors_of([reply]), address)
                    if refusal is None:
                        due.remove(number)
                    elif refusal.kind is RefusalKind.ASK:
                        importer = refusal.address
                        asks.append(number)
                    elif refusal.kind is RefusalKind.MOVED and refusal.address is not None:
                        self.topology.note_moved(partition, refusal.address)
                if not due:
                    return answers
                if importer is not None and asked is None:
                    continue  # without a pause, unless two masters send it to each other
            self.refresh_soon()
            if loop.time() + pause >= deadline:
                if failure is not None and None in answers:
                    raise failure
                return answers
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _owner(self, partition: Partition, deadline: float) -> Address:
        if (address := self.topology.known_owner(partition)) is not None:
            return address
        try:
            async with asyncio.timeout_at(deadline):
                return await self.topology.owner(partition)
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error

    async def _distrust(self, address: Address, arrived: float) -> None:
        """Ask for the masters after a late reply.

        That may take some more than the deadline of a call.

        Raises:
            OutcomeUnknown: The reply comes from a former master.
        """
        with suppress(exceptions.RedisError, OSError):
            while self.topology.asked_at < arrived:
                await self.topology.refresh()
        if address not in self.topology.masters():
            raise stale()

    def refresh_soon(self) -> None:
        """Ask for the masters, beside the caller, who meanwhile waits anyway."""

        async def refresh() -> None:
            await self.topology.refresh()
            self._close_unused()

        if not self._is_closed and not self._refreshing:
            task = asyncio.create_task(refresh(), name="realtime look at a cluster")
            self._refreshing.add(task)
            task.add_done_callback(self._forget)

    def _close_unused(self) -> None:
        """Retire the links to former masters, and drop those that have ended."""
        if masters := self.topology.masters():
            for address in self._links.keys() - masters:
                self._links[address].retire()
                if self._links[address].is_idle:
                    del self._links[address]

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._refreshing.discard(task)
        if not task.cancelled():
            task.exception()  # no node answers: the next command tries again

    def _link(self, address: Address) -> Link:
        link = self._links.get(address)
        if link is None:
            if self._is_closed:
                raise BrokerUnavailable("Redis: the broker was closed")
            link = self._links[address] = Link(master_url(self._url, address))
        return link


def _asking(commands: Sequence[Args]) -> list[Args]:
    """Return commands each of which a node executes that imports its slot."""
    return [each for command in commands for each in (ASKING, command)]


def _of(commands: Sequence[Args], chosen: Sequence[int]) -> list[Args]:
    return [commands[number] for number in chosen]
