"""Redis as the broker, for an event loop.

Publishing has three outcomes, and the *stage* decides which, never the class of the exception:
until a ready connection is in hand, certainly not published; from the first byte of the command on,
only a reply tells. redis-py retries ten times by default, and one lost reply is then eleven copies,
so it must not retry at all (ADR-0007).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from redis import exceptions
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from realtime.brokers import Event, Message, Subscribed, Unsubscribed
from realtime.brokers.commands import (
    PUBLISH,
    READ_POSITION,
    Args,
    Commands,
    Script,
    checked_version,
    is_error_reply,
    lacks_script,
    position,
    receipt,
    transaction,
    unavailable,
    unknown,
)
from realtime.errors import BrokerError, RealtimeError
from realtime.gaps import Position
from realtime.publication import Publication, Receipt

DEADLINE_SECONDS = 1.0
CONNECTIONS = 64
"""Of one node for commands; a publish holds one for a round trip."""


class RedisBroker:
    """A `realtime.brokers.Broker`; make it inside the loop that uses it."""

    def __init__(
        self, url: str, *, prefix: str = "rt", deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        """Connect lazily.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it.
            prefix: Starts every key and Redis channel.
            deadline_seconds: For one publish, over all its stages.
        """
        self._commands = Commands(prefix)
        self._deadline_seconds = deadline_seconds
        self._pool = ConnectionPool.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            # Ours is the deadline. One of redis-py's would cost a task per command, and a shorter
            # one for connecting would fail a burst of first publishes on a busy machine.
            socket_timeout=None,
            socket_connect_timeout=None,
            protocol=2,
            max_connections=CONNECTIONS,
        )
        # redis-py's pool fails when it is empty; its blocking twin makes each publish 20 % slower.
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def publish(self, publication: Publication) -> Receipt:
        """See `realtime.brokers.Broker.publish`."""
        [reply] = await self._run(PUBLISH, [self._commands.publish(publication)])
        answer = receipt(reply)
        if isinstance(answer, RealtimeError):
            raise answer
        return answer

    async def publish_many(
        self, publications: Sequence[Publication]
    ) -> list[Receipt | RealtimeError]:
        """See `realtime.brokers.Broker.publish_many`."""
        commands = transaction(
            [self._commands.publish(publication) for publication in publications]
        )
        *_, executed = await self._run(PUBLISH, commands)
        if isinstance(executed, exceptions.RedisError):
            raise unavailable(executed)
        return [receipt(reply) for reply in executed]

    async def positions(self, channels: Sequence[str]) -> list[Position]:
        """See `realtime.brokers.Broker.positions`."""
        commands = [self._commands.read_position(channel) for channel in channels]
        return [position(reply) for reply in await self._run(READ_POSITION, commands)]

    async def send_raw(self, channel: str, raw: bytes) -> None:
        """See `realtime.brokers.Broker.send_raw`."""
        [name] = self._commands.redis_channels([channel])
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        [reply] = await self._exchange([("PUBLISH", name, raw)], deadline)
        if isinstance(reply, exceptions.RedisError):
            raise unavailable(reply)

    async def subscription(self) -> RedisSubscription:
        """See `realtime.brokers.Broker.subscription`."""
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("INFO", "server")
                checked_version(await connection.read_response())
        except (exceptions.RedisError, OSError, TimeoutError, BrokerError) as error:
            await connection.disconnect(nowait=True)
            raise unavailable(error) from error
        return RedisSubscription(connection, self._commands)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.disconnect()

    async def _run(self, script: Script, commands: Sequence[Args]) -> list[Any]:
        """Return a reply or an error reply for each command; load the script if Redis lacks it."""
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        replies = await self._exchange(commands, deadline)
        if any(map(lacks_script, replies)):
            # Every command names the same script, so none of them was done.
            replies = await self._exchange([script.load, *commands], deadline)
            del replies[0]
        return replies

    async def _exchange(self, commands: Sequence[Args], deadline: float) -> list[Any]:
        await self._turn(deadline)
        try:
            return await self._exchanged(commands, deadline)
        finally:
            self._turns.release()

    async def _turn(self, deadline: float) -> None:
        """Wait until a connection is free; usually one is."""
        if not self._turns.locked():
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout_at(deadline):
                await self._turns.acquire()
        except TimeoutError as error:
            raise unavailable(error) from error

    async def _exchanged(self, commands: Sequence[Args], deadline: float) -> list[Any]:
        connection = await self._ready_connection(deadline)
        try:
            async with asyncio.timeout_at(deadline):
                packed = connection.pack_commands(commands)
                await connection.send_packed_command(packed, check_health=False)
                return [await _reply(connection) for _ in commands]
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            # redis-py has closed the connection, as it also does when this task is cancelled here:
            # what is still to come on it would be read as the answer to somebody else's command.
            raise unavailable(error) if is_error_reply(error) else unknown(error) from error
        finally:
            await self._pool.release(connection)

    async def _ready_connection(self, deadline: float) -> Connection:
        try:
            async with asyncio.timeout_at(deadline):
                connection: Connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
                return connection
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response(timeout=math.inf)
    except exceptions.ResponseError as error:
        return error


class RedisSubscription:
    """A `realtime.brokers.Subscription`.

    On redis-py's bare connection, not on its `PubSub`: that one reconnects by itself, and whoever
    reads it cannot tell (channels_redis#256).
    """

    def __init__(self, connection: Connection, commands: Commands) -> None:
        self._connection = connection
        self._commands = commands
        self._strip = len(commands.channel_prefix)

    async def read(self) -> Event:
        """See `realtime.brokers.Subscription.read`."""
        try:
            kind, name, payload = await self._connection.read_response(timeout=math.inf)
        except (exceptions.RedisError, OSError, ValueError) as error:
            raise unavailable(error) from error
        channel = name.decode()[self._strip :]
        if kind == b"message":
            return Message(channel, payload)
        if kind == b"subscribe":
            return Subscribed(channel)
        return Unsubscribed(channel)

    async def send(self, subscribe: Sequence[str], unsubscribe: Sequence[str]) -> None:
        """See `realtime.brokers.Subscription.send`."""
        commands = []
        if subscribe:
            commands.append(("SUBSCRIBE", *self._commands.redis_channels(subscribe)))
        if unsubscribe:
            commands.append(("UNSUBSCRIBE", *self._commands.redis_channels(unsubscribe)))
        try:
            packed = self._connection.pack_commands(commands)
            await self._connection.send_packed_command(packed, check_health=False)
        except (exceptions.RedisError, OSError) as error:
            raise unavailable(error) from error

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)
