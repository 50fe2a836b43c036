"""The subscription of a node to a Redis Cluster: a connection to each master that it needs.

A master that is gone takes only its own channels with it, and they are subscribed to again at the
master that follows it. The subscription as a whole breaks if no master is left.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from redis import exceptions

from realtime.brokers import ChannelsLost, Message, Subscribed, Unsubscribed
from realtime.brokers.bounds import READ_AHEAD_BYTES
from realtime.brokers.cluster.placement import ShardPlacement
from realtime.brokers.cluster.shard import ShardConnection
from realtime.brokers.cluster.slots import ROLE
from realtime.brokers.cluster.watch import MasterWatch
from realtime.brokers.commands import check_version, unavailable
from realtime.brokers.connector import abort
from realtime.core.partitions import PARTITIONS
from realtime.errors import BrokerError

if TYPE_CHECKING:
    from redis.asyncio.connection import Connection

    from realtime.brokers import Event, Receive
    from realtime.brokers.cluster.links import ClusterLinks
    from realtime.brokers.cluster.placement import PlacementRequest
    from realtime.brokers.commands import Commands
    from realtime.core.redis_url import Address

NO_MASTER = "a slot has no master"
RETRY_SECONDS = 0.1
"""The pause after a master that could not be connected to."""


class ClusterSubscription:
    """A `realtime.brokers.Subscription` on Redis Cluster."""

    def __init__(
        self, links: ClusterLinks, commands: Sequence[Commands], deadline_seconds: float
    ) -> None:
        """Start without a connection; see `open`."""
        self._links = links
        self._commands = commands
        self._deadline_seconds = deadline_seconds
        self._loop = asyncio.get_running_loop()
        self._id = secrets.token_hex(8)
        self._placement = ShardPlacement()
        self._shards: dict[Address, ShardConnection] = {}
        self._connecting: dict[Address, asyncio.Task[None]] = {}
        self._unreachable: dict[Address, str] = {}
        """Why the last attempt to connect to a master has failed."""
        self._watches: dict[Address, MasterWatch] = {}
        self._own: dict[str, MasterWatch] = {}
        self._events: list[Event] = []
        self._unread_bytes = 0
        self._receive: Receive | None = None
        self._space: asyncio.Future[None] | None = None
        self._refused: Exception | None = None
        self._ended: asyncio.Future[Exception] = self._loop.create_future()
        self._wake = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._reads = 0  # of connections that have ended

    async def open(self, until: float) -> None:
        """Connect to the first master that can be connected to.

        Raises:
            BrokerUnavailable: There is none.
        """
        try:
            async with asyncio.timeout_at(until):
                await self._links.topology.refresh()
                masters = self._links.topology.masters()
                if not masters:
                    raise exceptions.ClusterDownError("no master has any slot")
                for address in masters:
                    self._connect_soon(address)
                while not self._shards:
                    self._wake.clear()
                    await self._wake.wait()
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            await self.aclose()
            raise unavailable(error) from error
        except BaseException:
            await self.aclose()
            raise
        self._owner = self._loop.create_task(self._own_shards(), name="realtime shards")

    @property
    def reads(self) -> int:
        """See `realtime.brokers.Subscription.reads`."""
        return self._reads + sum(shard.reads for shard in self._shards.values())

    @property
    def lag_seconds(self) -> float:
        """The longest round trip of the masters' last canaries."""
        return max((each.lag_seconds for each in self._watches.values()), default=0.0)

    async def listen(self, receive: Receive) -> NoReturn:
        """See `realtime.brokers.Subscription.listen`."""
        self._receive = receive
        try:
            self._pass_on()
            await asyncio.wait([self._ended])
            while self._space is not None and self._events:  # they arrived before the end
                await asyncio.wait([self._space])
        finally:
            self._receive = None
        if self._refused is not None:
            raise self._refused
        error = self._ended.result()
        raise unavailable(error) from error

    async def send(self, subscribe: Sequence[str], unsubscribe: Sequence[str]) -> None:
        """See `realtime.brokers.Subscription.send`."""
        if self._ended.done():
            error = self._ended.result()
            raise unavailable(error) from error
        self._send(self._placement.subscribe(subscribe))
        requests, events = self._placement.unsubscribe(unsubscribe)
        self._send(requests)
        self._note_beside_reading(events)
        if self._placement.unplaced:
            self._wake.set()

    async def aclose(self) -> None:
        """Close all connections."""
        if not self._ended.done():
            self._ended.set_result(exceptions.ConnectionError("closed"))
        tasks = [*self._connecting.values()]
        tasks += [each.stop() for each in self._watches.values()]
        if self._owner is not None:
            tasks.append(self._owner)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()

    # --------------------------------------------------------- masters come and go

    async def _own_shards(self) -> None:
        """Give each partition its master, whenever something has changed."""
        topology = self._links.topology
        while True:
            self._wake.clear()
            topology.changed.clear()
            for number, address in self._placement.moved:
                topology.note_moved(PARTITIONS[number], address)
            self._placement.moved.clear()
            has_owners = self._place_all()
            self._watch_all()
            if has_owners:
                await self._wake.wait()
            else:
                with suppress(exceptions.RedisError, OSError):
                    await topology.refresh()

    def _place_all(self) -> bool:
        """Place what can be placed, and report the rest as lost; tell whether all have owners."""
        for gone in self._unreachable.keys() - self._links.topology.masters():
            del self._unreachable[gone]
        away: dict[str, list[int]] = {}
        for number in self._placement.unplaced:
            owner = self._links.topology.known_owner(PARTITIONS[number])
            if owner is None:
                away.setdefault(NO_MASTER, []).append(number)
            elif (shard := self._shards.get(owner)) is not None:
                shard.send(self._placement.place(number, owner), self._commands)
            else:
                self._connect_soon(owner)
                if owner in self._unreachable:
                    away.setdefault(self._unreachable[owner], []).append(number)
        for reason, numbers in away.items():
            self._note_beside_reading(self._placement.report_lost(numbers, reason))
        return NO_MASTER not in away

    def _connect_soon(self, address: Address) -> None:
        if address not in self._connecting:
            self._connecting[address] = self._loop.create_task(
                self._connect(address), name="realtime connection to a master"
            )

    async def _connect(self, address: Address) -> None:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                connection = await self._master_at(address)
        except (exceptions.RedisError, OSError, TimeoutError, BrokerError) as error:
            self._unreachable[address] = f"{address[0]}:{address[1]}: {str(error) or 'no answer'}"
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(exceptions.RedisError, OSError):
                await self._links.topology.refresh()
        else:
            self._unreachable.pop(address, None)
            self._shards[address] = ShardConnection(
                connection, address, self._take, self._note_read, self._note_end
            )
        finally:
            del self._connecting[address]
            self._wake.set()

    async def _master_at(self, address: Address) -> Connection:
        connection = await self._links.connect(address)
        try:
            await connection.send_command("INFO", "server")
            check_version(await connection.read_response())
            # A replica accepts SSUBSCRIBE, and would deliver.
            await connection.send_command(*ROLE)
            role = await connection.read_response()
            if role[0] != b"master":
                raise exceptions.ConnectionError("the node is no master")
        except BaseException:
            abort(connection)
            raise
        return connection

    def _note_end(self, shard: ShardConnection, error: Exception) -> None:
        if self._shards.get(shard.address) is not shard:
            return
        del self._shards[shard.address]
        self._reads += shard.reads
        shard.close()
        self._end_watch(shard.address)
        self._note_beside_reading(self._placement.lose(shard.address, str(error)))
        self._links.refresh_soon()
        self._wake.set()
        if not self._shards and not self._ended.done():
            self._ended.set_result(error)

    # ------------------------------------------------------------------ canaries

    def _watch_all(self) -> None:
        """Start a watchdog for each master that has a partition and no watchdog."""
        for address, shard in self._shards.items():
            watch = self._watches.get(address)
            here = self._placement.partitions_at(address)
            if watch is not None and watch.partition.number not in here:
                self._end_watch(address)
                watch = None
            if watch is None and here:
                self._watch(shard, here[0])

    def _watch(self, shard: ShardConnection, number: int) -> None:
        watch = MasterWatch(
            f"!{self._id}-{secrets.token_hex(2)}.{number:02}",
            PARTITIONS[number],
            self._links,
            self._commands[number],
            self._deadline_seconds,
        )
        self._watches[shard.address] = self._own[watch.channel] = watch
        self._send(self._placement.subscribe([watch.channel]))
        watch.start(shard, is_behind=lambda: self._space is not None)

    def _end_watch(self, address: Address) -> None:
        watch = self._watches.pop(address, None)
        if watch is None:
            return
        watch.stop()
        requests, events = self._placement.unsubscribe([watch.channel])
        self._send(requests)
        self._note_beside_reading(events)

    # -------------------------------------------------------------------- events

    def _send(self, requests: Sequence[PlacementRequest]) -> None:
        for request in requests:
            if (shard := self._shards.get(request.master)) is not None:
                shard.send([request], self._commands)

    def _take(self, shard: ShardConnection, reply: Any) -> None:
        events = self._placement.take(shard.address, reply)
        if events:
            self._note(events)
            if self._placement.unplaced:
                self._wake.set()

    def _note(self, events: Sequence[Event]) -> None:
        """Keep the events for the receiver, except for those on the own channels."""
        for event in events:
            if isinstance(event, ChannelsLost):
                others = tuple(name for name in event.channels if name not in self._own)
                for name in set(event.channels).difference(others):
                    self._own[name].is_subscribed = False
                if others:
                    self._events.append(event._replace(channels=others))
            elif (watch := self._own.get(event.channel)) is None:
                self._events.append(event)
            elif isinstance(event, Message):
                if event.raw.isdigit():
                    watch.note_return(int(event.raw))
            elif isinstance(event, Subscribed):
                watch.is_subscribed = True
            elif isinstance(event, Unsubscribed):
                del self._own[event.channel]

    def _note_beside_reading(self, events: Sequence[Event]) -> None:
        if events:
            self._note(events)
            self._loop.call_soon(self._pass_on)

    def _note_read(self, shard: ShardConnection, size: int) -> None:
        self._pass_on()
        if self._events:
            self._unread_bytes += size
            if self._unread_bytes >= READ_AHEAD_BYTES:
                shard.pause()

    def _pass_on(self) -> None:
        """Pass on what has arrived, unless the receiver has no room for it."""
        if self._receive is None or self._space is not None or not self._events:
            return
        events, self._events = self._events, []
        self._unread_bytes = 0
        try:
            self._space = self._receive(events)
        except Exception as error:  # noqa: BLE001 - `listen` raises it again
            self._refused = error
            if not self._ended.done():
                self._ended.set_result(error)
            return
        if self._space is not None:
            self._space.add_done_callback(self._go_on)
        for shard in self._shards.values():
            shard.resume()

    def _go_on(self, _space: asyncio.Future[None]) -> None:
        self._space = None
        self._pass_on()
