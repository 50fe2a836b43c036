"""Sends commands to the masters of a Redis Cluster, for threads.

Follows the rules of `links`: what a master has refused is certainly not executed, and sent again
until the deadline; what was written and not answered is unknown. Commands for several masters are
written to all of them before the first reply is read.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from redis import exceptions

from realtime.brokers.asking import ANSWER_SECONDS
from realtime.brokers.cluster.blocking_pool import NodePool
from realtime.brokers.cluster.blocking_topology import SyncClusterTopology
from realtime.brokers.cluster.links import BACKOFF_SECONDS
from realtime.brokers.cluster.partition_calls import PartitionCall
from realtime.brokers.commands import (
    REPLY_ERRORS,
    SLOW_SECONDS,
    is_error_reply,
    stale,
    unavailable,
    unknown,
)
from realtime.brokers.connection_sync import allow
from realtime.core.redis_address import master_url
from realtime.core.redis_url import read_redis_url

if TYPE_CHECKING:
    from redis.connection import Connection

    from realtime.brokers.script import Args, Script
    from realtime.core.partitions import Partition
    from realtime.core.redis_url import Address
    from realtime.errors import BrokerError

CONNECTIONS = 64
"""Connections per process, shared by the masters; a publish holds one for a round trip."""
LEAST_CONNECTIONS = 16
"""Connections to each master, however many there are: all threads may publish to the same one."""


class SyncClusterLinks:
    """See the module. Used by any thread."""

    def __init__(self, url: str, seconds: float) -> None:
        """Connect lazily.

        Args:
            url: ``redis+cluster://`` or ``rediss+cluster://``.
            seconds: The timeout of one `run`.
        """
        self._url = read_redis_url(url)
        self._seconds = seconds
        self._topology = SyncClusterTopology(self._url, seconds)
        self._pools: dict[Address, NodePool] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()

    def run(self, calls: Sequence[PartitionCall]) -> None:
        """Send calls to the masters of their partitions, until none is refused, or the deadline."""
        self._notice_fork()
        deadline = time.monotonic() + self._seconds
        pause, longest = BACKOFF_SECONDS
        waiting = [call for call in calls if not call.is_done]
        while True:
            self._send(waiting, deadline)
            waiting = [call for call in waiting if not call.is_done]
            now = time.monotonic()
            if not waiting or now + pause >= deadline:
                return
            if not all(call.can_continue for call in waiting):
                if self._topology.refresh(deadline):
                    self._close_unused()
                time.sleep(max(0.0, now + pause - time.monotonic()))
                pause = min(2 * pause, longest)

    def run_script(
        self, partition: Partition, script: Script, commands: Sequence[Args]
    ) -> list[Any]:
        """Like `realtime.brokers.link.Link.run_script`, at the master of a partition."""
        return self._result_of(PartitionCall(partition, commands, script))

    def execute(self, partition: Partition, commands: Sequence[Args]) -> list[Any]:
        """Like `realtime.brokers.link.Link.execute`, at the master of a partition."""
        return self._result_of(PartitionCall(partition, commands))

    def close(self) -> None:
        """Close all connections; later calls open others."""
        self._notice_fork()
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close()

    def _result_of(self, call: PartitionCall) -> list[Any]:
        self.run([call])
        return call.result()

    def _notice_fork(self) -> None:
        """Begin anew in a forked process, which must not use the connections of its parent.

        A thread of the parent may hold a lock, which nobody would release.
        """
        if os.getpid() != self._process:
            self._topology.forget_lock()
            self._pools, self._lock = {}, threading.Lock()
            self._process = os.getpid()  # last: until then, other threads begin anew, too

    def _send(self, calls: Sequence[PartitionCall], deadline: float) -> None:
        """Send calls once, to one master each."""
        if self._topology.find_owners([call.partition for call in calls], deadline):
            self._close_unused()
        groups: dict[Address, list[PartitionCall]] = {}
        for call in calls:
            address = call.target or self._topology.known_owner(call.partition)
            if address is None:
                missing = self._topology.missing(call.partition)
                call.fail(unavailable(missing))
            else:
                groups.setdefault(address, []).append(call)
        while groups:
            self._exchange(groups, deadline)

    def _exchange(self, groups: dict[Address, list[PartitionCall]], deadline: float) -> None:
        """Send the calls of some groups, which are removed, and read the replies.

        All those for whose masters a connection is free; a thread that waits for one holds no
        other. It waits only if none is free at all.
        """
        pools = {address: self._pool(address) for address in groups}
        lanes: list[_Lane] = []

        def start(address: Address, take: Callable[[], Connection | None]) -> None:
            try:
                connection = take()
            except (exceptions.RedisError, OSError) as error:
                self._topology.doubt(address)
                for call in groups.pop(address):
                    call.fail(unavailable(error))
                return
            if connection is not None:
                calls = groups.pop(address)
                lanes.append(_Lane(self._topology, address, pools[address], connection, calls))
                lanes[-1].write(deadline)

        def until() -> float:
            """Return when to give up connecting: a host may be gone, and the others need time."""
            now = time.monotonic()
            return now + (deadline - now) / (len(groups) + bool(lanes))

        try:
            for address in [*groups]:
                start(address, pools[address].take_open)
            for address in [*groups]:
                start(address, partial(pools[address].take, until(), must_wait=False))
            if groups and not lanes:
                address = next(iter(groups))
                start(address, partial(pools[address].take, until(), must_wait=True))
            for lane in _in_order_of_arrival(lanes, deadline):
                lane.read(deadline)
        finally:
            for lane in lanes:
                lane.end()

    def _pool(self, address: Address) -> NodePool:
        with self._lock:
            pool = self._pools.get(address)
            if pool is None:
                size = max(LEAST_CONNECTIONS, CONNECTIONS // max(1, len(self._topology.masters())))
                pool = self._pools[address] = NodePool(
                    master_url(self._url, address), size, self._seconds
                )
            return pool

    def _close_unused(self) -> None:
        """Close the connections to former masters."""
        if masters := self._topology.masters():
            with self._lock:
                former = [self._pools.pop(each) for each in self._pools.keys() - masters]
            for pool in former:
                pool.close()


class _Lane:
    """A connection to a master, and the calls that use it."""

    def __init__(
        self,
        topology: SyncClusterTopology,
        address: Address,
        pool: NodePool,
        connection: Connection,
        calls: Sequence[PartitionCall],
    ) -> None:
        self.connection = connection
        self.is_waiting = False
        """Whether replies are on their way."""
        self._topology = topology
        self._address = address
        self._pool = pool
        self._calls = calls
        self._counts: list[int] = []
        self._written_at = 0.0

    def write(self, deadline: float) -> None:
        """Write the commands of all calls."""
        self._written_at = time.monotonic()
        left = deadline - self._written_at
        if left <= 0:  # better to say so than to send it and not to wait for the reply
            self._fail(0, unavailable(TimeoutError("no connection was ready in time")))
            return
        commands: list[Args] = []
        for call in self._calls:
            outgoing = call.outgoing()
            self._counts.append(len(outgoing))
            commands += outgoing
        packed = self.connection.pack_commands(commands)  # type: ignore[no-untyped-call]
        self.is_waiting = True
        try:
            allow(self.connection, left)
            self.connection.send_packed_command(packed, check_health=False)  # type: ignore[no-untyped-call]
        except (exceptions.RedisError, OSError) as error:
            self._break(0, error)

    def read(self, deadline: float) -> None:
        """Read the replies to all calls."""
        arrived: list[list[Any]] = []
        failure: Exception | None = None
        try:
            for count in self._counts:
                replies = [self._reply(deadline) for _ in range(count)]
                arrived.append(replies)
        except (exceptions.RedisError, OSError) as error:
            failure = error
        if arrived and self._is_stale(deadline):
            self._give_up(0, stale())
            return
        for call, replies in zip(self._calls, arrived, strict=False):
            moved = call.receive(replies, self._address)
            if moved is not None and moved.address is not None:
                self._topology.note_moved(call.partition, moved.address)
        self.is_waiting = False
        if failure is not None:
            self._break(len(arrived), failure)

    def _is_stale(self, deadline: float) -> bool:
        """Tell whether a reply was late, and comes from a former master."""
        now = time.monotonic()
        if now - self._written_at <= SLOW_SECONDS:
            return False
        # That may take half a second more than the deadline.
        self._topology.refresh_since(now, max(deadline, now + ANSWER_SECONDS))
        return self._address not in self._topology.masters()

    def end(self) -> None:
        """Let others use the connection, unless a reply to us may arrive on it."""
        if self.is_waiting:
            self._pool.discard(self.connection)
        else:
            self._pool.release(self.connection)

    def _reply(self, deadline: float) -> Any:
        allow(self.connection, deadline - time.monotonic())
        try:
            return self.connection.read_response(disconnect_on_error=False)
        except REPLY_ERRORS as error:
            return error

    def _break(self, first: int, error: Exception) -> None:
        self._topology.doubt(self._address)
        self._give_up(first, unavailable(error) if is_error_reply(error) else unknown(error))

    def _give_up(self, first: int, error: BrokerError) -> None:
        self.connection.disconnect()  # type: ignore[no-untyped-call]
        self.is_waiting = False
        self._fail(first, error)

    def _fail(self, first: int, error: BrokerError) -> None:
        for call in self._calls[first:]:
            call.fail(error)


def _in_order_of_arrival(lanes: Sequence[_Lane], deadline: float) -> Iterator[_Lane]:
    """Yield the lanes to be read, as soon as something has arrived on one, or at the deadline."""
    waiting = [lane for lane in lanes if lane.is_waiting]
    if len(waiting) <= 1:
        yield from waiting
        return
    with selectors.DefaultSelector() as selector:
        for lane in waiting:
            socket: Any = lane.connection._sock
            selector.register(socket, selectors.EVENT_READ, lane)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready or [(key, 0) for key in selector.get_map().values()]:
                selector.unregister(key.fileobj)
                yield key.data
