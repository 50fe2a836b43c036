"""Redis as the broker, for threads: the publishing half without an event loop.

Follows the same rules as `realtime.brokers.redis` with the sync client, which is thread-safe and
detects forks. It cannot subscribe, because delivery needs asyncio.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import redis
from redis import exceptions
from redis.connection import BlockingConnectionPool, Connection

from realtime.brokers.bounds import DEADLINE_SECONDS, QUEUE_BYTES, QUEUE_ITEMS
from realtime.brokers.commands import (
    NEW_CONNECTION_SECONDS,
    SLOW_SECONDS,
    errors_of,
    is_error_reply,
    is_of_no_master,
    lacks_script,
    stale,
    unavailable,
    unknown,
)
from realtime.brokers.connection_sync import allow, connection_options
from realtime.brokers.partition_sync import SyncPartition
from realtime.brokers.sentinel_sync import MasterPool
from realtime.core.redis_url import is_sentinel_url

if TYPE_CHECKING:
    from realtime.brokers.script import Args, Script

# An argument of `get_connection` that redis-py requires before 5.3, and deprecates since.
_COMMAND_NAME = ("_",) if redis.VERSION[:2] < (5, 3) else ()
CONNECTIONS = 64
"""Connections per process; a publish holds one for a round trip."""


class SyncRedisBroker(SyncPartition):
    """The publishing half of `realtime.brokers.Broker`, without async."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "rt",
        deadline_seconds: float = DEADLINE_SECONDS,
        queue_items: int = QUEUE_ITEMS,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Connect lazily; arguments as for `realtime.brokers.redis.RedisBroker`."""
        super().__init__(prefix, queue_items=queue_items, queue_bytes=queue_bytes)
        self._deadline_seconds = deadline_seconds
        self._pool = _pool_of(url, deadline_seconds)
        self._pool.connection_kwargs.update(connection_options(deadline_seconds))
        self._renewed_at: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()

    def close(self) -> None:
        """Close all connections."""
        self._pool.disconnect()

    def _run_script(self, script: Script, commands: Sequence[Args]) -> list[Any]:
        deadline = time.monotonic() + self._deadline_seconds
        replies = self._execute_until(commands, deadline)
        if lacks_script(errors_of(replies)):
            replies = self._execute_until([script.load, *commands], deadline)
            del replies[0]
        return replies

    def _execute(self, commands: Sequence[Args]) -> list[Any]:
        return self._execute_until(commands, time.monotonic() + self._deadline_seconds)

    def _execute_until(self, commands: Sequence[Args], deadline: float) -> list[Any]:
        connection = self._ready_connection(deadline)
        try:
            began = time.monotonic()
            allow(connection, deadline - began)
            packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
            connection.send_packed_command(packed, check_health=False)  # type: ignore[no-untyped-call]
            replies = [_reply(connection, deadline) for _ in commands]
            if is_of_no_master(errors_of(replies)):
                self._renew(connection)
            if (arrived := time.monotonic()) - began > SLOW_SECONDS:
                self._distrust(connection, arrived)
            return replies
        except (exceptions.RedisError, OSError) as error:
            raise unavailable(error) if is_error_reply(error) else unknown(error) from error
        except BaseException:  # such as a time limit of Celery, which a signal raises anywhere
            connection.disconnect()  # type: ignore[no-untyped-call]  # a reply is on its way
            raise
        finally:
            self._pool.release(connection)  # type: ignore[no-untyped-call]

    def _distrust(self, connection: Connection, arrived: float) -> None:
        """Look for the master after a late reply.

        Raises:
            OutcomeUnknown: The reply comes from a former master.
        """
        if isinstance(self._pool, MasterPool) and self._pool.has_moved(connection, arrived):
            raise stale()

    def _renew(self, connection: Connection) -> None:
        """Make the next user of a connection reconnect: the name may resolve to the new master."""
        now = time.monotonic()
        if (
            now - self._renewed_at.get(connection, -NEW_CONNECTION_SECONDS)
            >= NEW_CONNECTION_SECONDS
        ):
            self._renewed_at[connection] = now
            connection.disconnect()  # type: ignore[no-untyped-call]

    def _ready_connection(self, deadline: float) -> Connection:
        try:
            connection: Connection = self._pool.get_connection(*_COMMAND_NAME)  # type: ignore[no-untyped-call]
        except (exceptions.RedisError, OSError) as error:
            raise unavailable(error) from error
        if time.monotonic() < deadline:
            return connection
        # Waiting for one and connecting may each take as long. Nothing is sent yet: better to say
        # so than to send it and not to wait for the reply.
        self._pool.release(connection)  # type: ignore[no-untyped-call]
        raise unavailable(TimeoutError("no connection was ready in time"))


def _pool_of(url: str, seconds: float) -> BlockingConnectionPool:
    # Threads wait for a connection if all are in use.
    limits = {"timeout": seconds, "max_connections": CONNECTIONS}
    if is_sentinel_url(url):
        return MasterPool.of(url, seconds, **limits)
    return BlockingConnectionPool.from_url(url, **limits)


def _reply(connection: Connection, deadline: float) -> Any:
    allow(connection, deadline - time.monotonic())
    try:
        return connection.read_response()
    except exceptions.ResponseError as error:
        return error
