"""Redis as the broker, for an event loop.

Publishing has three outcomes, and the *stage* decides which, never the class of the exception:
until a ready connection is in hand, certainly not published; from the first byte of the command on,
only a reply tells. redis-py retries ten times by default, and one lost reply is then eleven copies,
so it must not retry at all (ADR-0007).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis import exceptions
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from realtime.brokers import Event, Message, Moment, Subscribed, Told, Unsubscribed
from realtime.brokers.commands import (
    CANARY,
    PUBLISH,
    READ_POSITION,
    TAKE,
    TELL,
    Args,
    Commands,
    Script,
    checked_version,
    is_of_no_master,
    lacks_script,
    position,
    receipt,
    told,
    transaction,
    unavailable,
    wait,
)
from realtime.brokers.line import Line, Parser, abort, parser_of, writer_of
from realtime.errors import BrokerError, RealtimeError
from realtime.gaps import Position
from realtime.publication import Publication, Receipt

DEADLINE_SECONDS = 1.0


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
        # Only to read the URL and to make connections; none of them goes back into it.
        self._pool = ConnectionPool.from_url(url)
        # After the URL: no option in it (`decode_responses`, `socket_timeout`) may undo these.
        self._pool.connection_kwargs.update(
            parser_class=Parser,
            decode_responses=False,
            retry=Retry(NoBackoff(), 0),
            # Ours is the deadline. One of redis-py's would cost a task per command, and a shorter
            # one for connecting would fail a burst of first publishes on a busy machine.
            socket_timeout=None,
            socket_connect_timeout=None,
            protocol=2,
        )
        self._line: Line | None = None
        self._lines: set[Line] = set()  # one that let a deadline pass still answers what it can
        self._connecting = asyncio.Lock()
        self._is_closed = False

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

    async def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """See `realtime.brokers.Broker.positions`."""
        commands = [self._commands.read_position(channel) for channel in channels]
        return [position(reply) for reply in await self._run(READ_POSITION, commands)]

    async def take(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take`."""
        [reply] = await self._run(TAKE, [self._commands.take(name, rate, count)])
        return wait(reply)

    async def send_raw(self, channel: str, raw: bytes) -> int:
        """See `realtime.brokers.Broker.send_raw`."""
        [reply] = await self._run(CANARY, [self._commands.canary(channel, raw)])
        if isinstance(reply, exceptions.RedisError):
            raise unavailable(reply)
        return int(reply)

    async def tell(self, raw: bytes) -> None:
        """See `realtime.brokers.Broker.tell`."""
        [reply] = await self._run(TELL, [self._commands.tell(raw)])
        if isinstance(reply, exceptions.RedisError):
            raise unavailable(reply)

    async def told_since(self, moment: Moment) -> tuple[Moment, list[Told]]:
        """See `realtime.brokers.Broker.told_since`."""
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        return told(await self._exchange(self._commands.told_since(moment), deadline))

    async def subscription(self) -> RedisSubscription:
        """See `realtime.brokers.Broker.subscription`."""
        connection = None
        try:
            async with asyncio.timeout(self._deadline_seconds):
                connection = await self._connected()
                await connection.send_command("INFO", "server")
                checked_version(await connection.read_response())
        except (exceptions.RedisError, OSError, TimeoutError, BrokerError) as error:
            if connection is not None:
                abort(connection)
            raise unavailable(error) from error
        if self._line is not None:
            # Or it might lead to another Redis than this one, for as long as that one lives.
            self._line.retire()
        return RedisSubscription(connection, self._commands)

    async def aclose(self) -> None:
        """Close all connections, and open no more."""
        self._is_closed = True
        await asyncio.gather(*[line.aclose() for line in self._lines])

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
        line = self._line
        if line is None or not line.is_open:
            line = await self._new_line(deadline)
        replies = await line.exchange(commands, deadline)
        if any(map(is_of_no_master, replies)) and not line.is_fresh:
            line.retire()  # the name may lead to the new master by now
        return replies

    async def _new_line(self, deadline: float) -> Line:
        """Connect, once for all who need it; each of them waits until its own deadline.

        Raises:
            BrokerUnavailable: It cannot be had in time.
        """
        try:
            async with asyncio.timeout_at(deadline), self._connecting:
                if self._line is None or not self._line.is_open:
                    self._line = Line(await self._connected(), self._lines.discard)
                    self._lines.add(self._line)
                return self._line
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error

    async def _connected(self) -> Connection:
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            if self._is_closed:  # meanwhile: nobody would ever close this one
                raise exceptions.ConnectionError("the broker was closed")
        except BaseException:
            abort(connection)
            raise
        return connection


class RedisSubscription:
    """A `realtime.brokers.Subscription`.

    On redis-py's bare connection, not on its `PubSub`: that one reconnects by itself, and whoever
    reads it cannot tell (channels_redis#256).
    """

    def __init__(self, connection: Connection, commands: Commands) -> None:
        self._connection = connection
        self._parser = parser_of(connection)
        self._writer = writer_of(connection)
        self._commands = commands
        self._strip = len(commands.channel_prefix)

    @property
    def reads(self) -> int:
        """See `realtime.brokers.Subscription.reads`."""
        return self._parser.reads

    async def read(self) -> list[Event]:
        """See `realtime.brokers.Subscription.read`."""
        try:
            return [self._event(reply) for reply in await self._parser.replies()]
        except (exceptions.RedisError, OSError, UnicodeDecodeError) as error:
            raise unavailable(error) from error

    def _event(self, reply: Any) -> Event:
        try:
            kind, name, payload = reply
            channel = name[self._strip :].decode()
        except (TypeError, ValueError, AttributeError):
            kind = payload = channel = None
        if kind == b"message" and type(payload) is bytes:
            return Message(channel, payload)
        if kind == b"subscribe":
            return Subscribed(channel)
        if kind == b"unsubscribe":
            return Unsubscribed(channel)
        raise exceptions.ConnectionError(f"said {reply!r:.100} to a subscriber")

    async def send(self, subscribe: Sequence[str], unsubscribe: Sequence[str]) -> None:
        """See `realtime.brokers.Subscription.send`."""
        commands = []
        if subscribe:
            commands.append(("SUBSCRIBE", *self._commands.redis_channels(subscribe)))
        if unsubscribe:
            commands.append(("UNSUBSCRIBE", *self._commands.redis_channels(unsubscribe)))
        try:
            self._writer.writelines(self._connection.pack_commands(commands))
            await self._writer.drain()
        except (exceptions.RedisError, OSError) as error:
            raise unavailable(error) from error

    async def aclose(self) -> None:
        """Close the connection."""
        abort(self._connection)
