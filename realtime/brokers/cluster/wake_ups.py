"""Listens for the wake-ups of the fallback queue, on one connection to each master.

A wake-up is an empty message on a channel of a partition that tells that entries wait there. One
that is missed delays an entry until the next look, at most by a second, so a connection that breaks
is simply replaced, and nothing is fenced.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Never

from redis import exceptions

from realtime.brokers.cluster.slots import ROLE
from realtime.brokers.connector import RedisProtocol, abort
from realtime.core.partitions import PARTITIONS
from realtime.errors import BrokerError

if TYPE_CHECKING:
    from redis.asyncio.connection import Connection

    from realtime.brokers.cluster.links import ClusterLinks
    from realtime.brokers.script import Args
    from realtime.core.redis_url import Address

RECONNECT_SECONDS = 1.0
"""The pause before a new connection to the same master; all partitions are looked at meanwhile."""
CONNECT_SECONDS = 2.0
QUIET_SECONDS = 10.0
"""A connection on which nothing has arrived is asked for a sign of life, and has as long again."""


class WakeUpListener:
    """See the module. Bound to one event loop."""

    def __init__(
        self, links: ClusterLinks, channels: Sequence[str], note: Callable[[int], None]
    ) -> None:
        """Listen to nothing yet.

        Args:
            links: The links to the masters; the caller closes them.
            channels: The name in Redis of the channel of each partition.
            note: Called with the number of a partition in which entries may wait.
        """
        self._links = links
        self._channels = channels
        self._note = note
        self._listening: dict[Address, tuple[frozenset[int], asyncio.Task[Never]]] = {}

    async def run(self) -> Never:
        """Listen at the masters of all partitions, and follow the partitions to new masters."""
        topology = self._links.topology
        try:
            while True:
                topology.changed.clear()
                await self._follow(self._numbers_by_owner())
                await topology.changed.wait()
        finally:
            await self._follow({})

    def _numbers_by_owner(self) -> dict[Address, frozenset[int]]:
        """Return the partitions of each known master; others follow when theirs is known."""
        owners = [self._links.topology.known_owner(each) for each in PARTITIONS]
        return {
            owner: frozenset(n for n, each in enumerate(owners) if each == owner)
            for owner in owners
            if owner is not None
        }

    async def _follow(self, wanted: dict[Address, frozenset[int]]) -> None:
        ended = []
        for address, (numbers, task) in list(self._listening.items()):
            if wanted.get(address) != numbers:
                task.cancel()
                ended.append(task)
                del self._listening[address]
        await asyncio.gather(*ended, return_exceptions=True)
        for address in wanted.keys() - self._listening.keys():
            task = asyncio.create_task(
                self._listen(address, wanted[address]),
                name=f"realtime fallback wake-ups of {address[0]}:{address[1]}",
            )
            self._listening[address] = (wanted[address], task)

    async def _listen(self, address: Address, numbers: Iterable[int]) -> Never:
        """Listen at one master, and connect again when the connection breaks."""
        while True:
            connection = None
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    connection = await self._links.connect(address)
                await _WakeUpConnection(self, connection, address).listen(numbers)
            except (exceptions.RedisError, OSError, TimeoutError, BrokerError):
                pass  # commands there fail, too, and then the nodes are asked for the slots
            finally:
                if connection is not None:
                    abort(connection)
            await asyncio.sleep(RECONNECT_SECONDS)


class _WakeUpConnection(RedisProtocol):
    """One connection to a master."""

    def __init__(self, owner: WakeUpListener, connection: Connection, address: Address) -> None:
        self._note = owner._note
        self._channels = owner._channels
        self._numbers = {name.encode(): n for n, name in enumerate(owner._channels)}
        self._topology = owner._links.topology
        self._address = address
        self._asked: deque[int] = deque()
        """The partitions whose SSUBSCRIBE has no reply yet."""
        self._has_heard = True
        super().__init__(connection)

    async def listen(self, numbers: Iterable[int]) -> None:
        """Subscribe to the channels of partitions, and return when the connection has ended."""
        self._send([ROLE])
        self._subscribe(numbers)
        while not self._lost.done() and self._has_heard:
            self._has_heard = False
            await asyncio.wait([self._lost], timeout=QUIET_SECONDS)
            if not self._has_heard and not self._lost.done():
                self._send([("PING",)])
                await asyncio.wait([self._lost], timeout=QUIET_SECONDS)

    def _subscribe(self, numbers: Iterable[int]) -> None:
        added = list(numbers)
        self._asked += added
        # One command for each: a command is for one slot.
        self._send([("SSUBSCRIBE", self._channels[number]) for number in added])

    def _send(self, commands: Sequence[Args]) -> None:
        if not self._has_ended:
            self._transport.write(b"".join(self._connection.pack_commands(commands)))

    def _take(self, reply: Any) -> None:
        self._has_heard = True
        if isinstance(reply, exceptions.RedisError):
            self._take_refusal(reply)
            return
        kind = reply[0]
        if kind == b"smessage":
            self._note(self._numbers[reply[1]])
        elif kind == b"ssubscribe":
            # What was queued before this was not announced here.
            self._note(self._asked.popleft())
        elif kind == b"sunsubscribe":
            # The slot has left this master. The refusal of a new attempt says where it is.
            self._subscribe([self._numbers[reply[1]]])
        elif kind not in (b"master", b"pong"):
            # A replica accepts subscriptions, but may lag behind.
            raise exceptions.ConnectionError(f"Redis sent {reply!r:.100}")

    def _take_refusal(self, error: exceptions.RedisError) -> None:
        """Note where the slot of the first open SSUBSCRIBE is; raise any other error."""
        if not self._asked or not isinstance(error, exceptions.MovedError):
            raise error
        partition = PARTITIONS[self._asked.popleft()]
        self._topology.note_moved(partition, (error.host or self._address[0], error.port))
