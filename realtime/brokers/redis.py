"""Redis as the broker, for an event loop.

Publishing has three outcomes, and the *stage* decides which, never the class of the exception: see
`realtime.brokers.road`. Where redis-py retried by itself, one lost reply was eleven copies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis import exceptions
from redis.asyncio.connection import Connection

from realtime.brokers import (
    Event,
    Message,
    Stats,
    Subscribed,
    Survey,
    Told,
    Unsubscribed,
)
from realtime.brokers.commands import (
    CANARY,
    LOOK_SECONDS,
    PUBLISH,
    READ_POSITION,
    SERVICE,
    SURVEY_SECONDS,
    TAKE,
    TELL,
    Commands,
    checked_version,
    position,
    queue_stats,
    receipt,
    told,
    transaction,
    unavailable,
    wait,
)
from realtime.brokers.line import abort, parser_of, writer_of
from realtime.brokers.presence_commands import refuse_errors
from realtime.brokers.queue_commands import QUEUE_BYTES, QUEUE_ITEMS, STATS
from realtime.brokers.redis_presence import RedisPresence
from realtime.brokers.road import Road
from realtime.brokers.script import Args, Script
from realtime.errors import BrokerError, RealtimeError
from realtime.gaps import Position
from realtime.node_messages import Moment
from realtime.publication import Publication, Receipt
from realtime.survey import Question

DEADLINE_SECONDS = 1.0


class RedisBroker:
    """A `realtime.brokers.Broker`; make it inside the loop that uses it."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "rt",
        deadline_seconds: float = DEADLINE_SECONDS,
        queue_items: int = QUEUE_ITEMS,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Connect lazily.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it.
            prefix: Starts every key and Redis channel.
            deadline_seconds: For one publish, over all its stages.
            queue_items: How many may be queued for fallbacks.
            queue_bytes: How many bytes these may have.
        """
        self._commands = Commands(prefix, queue_items=queue_items, queue_bytes=queue_bytes)
        self._deadline_seconds = deadline_seconds
        self._road = Road(url)
        self.presence = RedisPresence(prefix, self._run, self._exchange)
        """Members of channels."""

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

    async def announce(self) -> str:
        """See `realtime.brokers.Broker.announce`."""
        [reply] = await self._run(SERVICE, [self._commands.announce()])
        if isinstance(reply, exceptions.RedisError):
            raise unavailable(reply)
        return str(reply.decode("latin-1"))

    async def told_since(self, moment: Moment) -> tuple[Moment, list[Told]]:
        """See `realtime.brokers.Broker.told_since`."""
        commands = self._commands.told_since(moment)
        return told(await self._road.exchange(commands, self._deadline_seconds))

    async def survey(self, question: Question) -> Survey:
        """See `realtime.brokers.Broker.survey`."""
        [asked] = await self._run(CANARY, [self._commands.ask_nodes(question)])
        refuse_errors([asked])
        until = asyncio.get_running_loop().time() + SURVEY_SECONDS
        while True:
            [answers] = await self._exchange([self._commands.answers(question.id)])
            refuse_errors([answers])
            if len(answers) >= int(asked) or asyncio.get_running_loop().time() > until:
                return Survey(answers, max(0, int(asked) - len(answers)))
            await asyncio.sleep(LOOK_SECONDS)

    async def answer(self, question_id: str, answer: bytes) -> None:
        """See `realtime.brokers.Broker.answer`."""
        refuse_errors(await self._exchange(self._commands.answer(question_id, answer)))

    async def subscription(self) -> RedisSubscription:
        """See `realtime.brokers.Broker.subscription`."""
        connection = None
        try:
            async with asyncio.timeout(self._deadline_seconds):
                connection = await self._road.connected()
                await connection.send_command("INFO", "server")
                checked_version(await connection.read_response())
        except (exceptions.RedisError, OSError, TimeoutError, BrokerError) as error:
            if connection is not None:
                abort(connection)
            raise unavailable(error) from error
        # Or it might lead to another Redis than this one, for as long as that one lives.
        self._road.retire()
        return RedisSubscription(connection, self._commands)

    async def queue_stats(self) -> Stats:
        """See `realtime.brokers.Broker.queue_stats`."""
        [reply] = await self._run(STATS, [self._commands.queue.stats()])
        return queue_stats(reply)

    async def aclose(self) -> None:
        """Close all connections, and open no more."""
        await self._road.aclose()

    async def _exchange(self, commands: Sequence[Args]) -> list[Any]:
        return await self._road.exchange(commands, self._deadline_seconds)

    async def _run(self, script: Script, commands: Sequence[Args]) -> list[Any]:
        return await self._road.run(script, commands, self._deadline_seconds)


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
