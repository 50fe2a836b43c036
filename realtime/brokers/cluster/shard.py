"""The connection to one master of a cluster, on which a node has subscribed to its channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from realtime.brokers.connector import RedisProtocol, abort

if TYPE_CHECKING:
    from redis.asyncio.connection import Connection

    from realtime.brokers.cluster.placement import PlacementRequest
    from realtime.brokers.commands import Commands
    from realtime.core.redis_url import Address


class ShardConnection(RedisProtocol):
    """See the module. Takes over a ready connection; the creator must call `close`."""

    def __init__(
        self,
        connection: Connection,
        address: Address,
        take: Callable[[ShardConnection, Any], None],
        read: Callable[[ShardConnection, int], None],
        ended: Callable[[ShardConnection, Exception], None],
    ) -> None:
        """Take over the transport of a connection.

        Args:
            connection: The connection, without pending replies.
            address: The address of the master.
            take: Called with each reply; raises a RedisError if Redis should not have sent it.
            read: Called after each read, with the number of bytes.
            ended: Called once, in a later turn, when the connection has ended.
        """
        self.address = address
        self.reads = 0
        """As `realtime.brokers.Subscription.reads`."""
        self._on_reply = take
        self._on_read = read
        self._on_end = ended
        self._is_paused = False
        super().__init__(connection)

    def send(self, requests: Sequence[PlacementRequest], commands: Sequence[Commands]) -> None:
        """Send commands, each with a PING after it."""
        packed: list[Any] = []
        for request in requests:
            names = commands[request.partition].redis_channels(request.names)
            kind = "SSUBSCRIBE" if request.is_subscribe else "SUNSUBSCRIBE"
            packed += self._connection.pack_commands([(kind, *names), ("PING", request.number)])
        if packed and not self._has_ended:
            self._transport.write(b"".join(packed))

    def pause(self) -> None:
        """Read no more for now."""
        if not self._is_paused and not self._has_ended:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._is_paused and not self._has_ended:
            self._is_paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Close the connection."""
        abort(self._connection)

    def end(self, error: Exception) -> None:
        """End the connection for a reason."""
        self._fail(error)

    def data_received(self, data: bytes) -> None:
        """Take the replies that have arrived."""
        self.reads += 1
        super().data_received(data)
        self._on_read(self, len(data))

    def _take(self, reply: Any) -> None:
        self._on_reply(self, reply)

    def _fail(self, error: Exception) -> None:
        if not self._lost.done():
            self._loop.call_soon(self._on_end, self, error)
        super()._fail(error)
