"""Redis as the broker, for an event loop.

Publishing has three outcomes, which depend on the *stage* of a failure and never on the class of
the exception (see `realtime.brokers.link`). With redis-py's own retries, one lost reply led to
eleven copies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from redis import exceptions
from redis.asyncio.connection import Connection

from realtime.brokers import Event, Message, SentCommand, Stats, Subscribed, Survey, Unsubscribed
from realtime.brokers.bounds import (
    DEADLINE_SECONDS,
    QUEUE_BYTES,
    QUEUE_ITEMS,
    READ_AHEAD_BYTES,
    SURVEY_POLL_SECONDS,
    SURVEY_SECONDS,
)
from realtime.brokers.commands import (
    Commands,
    check_version,
    parse_node_commands,
    parse_positions,
    parse_queue_stats,
    parse_receipts,
    parse_wait,
    unavailable,
)
from realtime.brokers.connector import RedisProtocol, abort
from realtime.brokers.link import Link
from realtime.brokers.presence_commands import refuse_errors
from realtime.brokers.redis_blocks import BlockCommands, RedisBlocks
from realtime.brokers.redis_presence import RedisPresence
from realtime.brokers.server_facts import read_facts
from realtime.errors import BrokerError, RealtimeError

if TYPE_CHECKING:
    from realtime.brokers import Receive
    from realtime.brokers.node_messages import Moment
    from realtime.brokers.script import Args, Script
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.core.redis_facts import RedisFacts
    from realtime.core.survey import Question


class RedisBroker:
    """A `realtime.brokers.Broker` on Redis; create it inside the loop that uses it."""

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
            url: As for `realtime.brokers.link.Link`.
            prefix: The prefix of every key and Redis channel.
            deadline_seconds: The timeout for one publish, over all its stages.
            queue_items: The maximum number of entries in the fallback queue.
            queue_bytes: The maximum size of these entries.
        """
        self._commands = Commands(prefix, queue_items=queue_items, queue_bytes=queue_bytes)
        self._scripts = self._commands.scripts
        self._deadline_seconds = deadline_seconds
        self._combine = self._commands.publish  # one object: compared for each publication
        self._link = Link(url)
        self.presence = RedisPresence(prefix, self._run_script, self._execute)
        """The members of channels."""
        blocking = BlockCommands(prefix, self._commands)
        self.blocks = RedisBlocks(blocking, self._run_script, self._execute)
        """The blocked users."""

    async def publish(self, publication: Publication) -> Receipt:
        """See `realtime.brokers.Broker.publish`."""
        [reply] = await self._link.publish(
            self._scripts.publish, publication, self._combine, self._deadline_seconds
        )
        [answer] = parse_receipts(reply)
        if isinstance(answer, RealtimeError):
            raise answer
        return answer

    async def publish_many(
        self, publications: Sequence[Publication]
    ) -> list[Receipt | RealtimeError]:
        """See `realtime.brokers.Broker.publish_many`."""
        [reply] = await self._run_script(
            self._scripts.publish, [self._commands.publish(*publications)]
        )
        return parse_receipts(reply)

    async def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """See `realtime.brokers.Broker.positions`."""
        commands = self._commands.read_positions(channels)
        replies = await self._run_script(self._scripts.read_position, commands)
        return parse_positions(replies, len(channels))

    async def take_from_rate(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take_from_rate`."""
        [reply] = await self._run_script(
            self._scripts.take_from_rate, [self._commands.take_from_rate(name, rate, count)]
        )
        return parse_wait(reply)

    async def send_raw(self, channel: str, raw: bytes) -> int:
        """See `realtime.brokers.Broker.send_raw`."""
        command = self._commands.send_raw(channel, raw)
        [reply] = await self._run_script(self._scripts.send_raw, [command])
        refuse_errors([reply])
        return int(reply)

    async def send_node_command(self, raw: bytes) -> None:
        """See `realtime.brokers.Broker.send_node_command`."""
        command = self._commands.send_node_command(raw)
        refuse_errors(await self._run_script(self._scripts.send_node_command, [command]))

    async def announce(self) -> str:
        """See `realtime.brokers.Broker.announce`."""
        [reply] = await self._run_script(self._scripts.service, [self._commands.announce()])
        refuse_errors([reply])
        return str(reply.decode("latin-1"))

    async def read_node_commands(self, moment: Moment) -> tuple[Moment, list[SentCommand]]:
        """See `realtime.brokers.Broker.read_node_commands`."""
        commands = self._commands.read_node_commands(moment)
        return parse_node_commands(await self._link.execute(commands, self._deadline_seconds))

    async def survey(self, question: Question) -> Survey:
        """See `realtime.brokers.Broker.survey`."""
        command = self._commands.ask_nodes(question)
        [asked] = await self._run_script(self._scripts.send_raw, [command])
        refuse_errors([asked])
        until = asyncio.get_running_loop().time() + SURVEY_SECONDS
        answers: list[bytes] = []
        while True:
            [more] = await self._execute([self._commands.answers(question.id, len(answers))])
            refuse_errors([more])
            answers += more
            if len(answers) >= int(asked) or asyncio.get_running_loop().time() > until:
                return Survey(answers, max(0, int(asked) - len(answers)))
            await asyncio.sleep(SURVEY_POLL_SECONDS)

    async def answer(self, question_id: str, answer: bytes) -> None:
        """See `realtime.brokers.Broker.answer`."""
        command = self._commands.answer(question_id, answer)
        refuse_errors(await self._run_script(self._scripts.answer, [command]))

    async def subscription(self) -> RedisSubscription:
        """See `realtime.brokers.Broker.subscription`."""
        connection = None
        until = asyncio.get_running_loop().time() + self._deadline_seconds
        try:
            async with asyncio.timeout_at(until):
                connection = await self._link.connect(until)
                await connection.send_command("INFO", "server")
                check_version(await connection.read_response())
        except BaseException as error:
            if connection is not None:
                abort(connection)
            if isinstance(error, exceptions.RedisError | OSError | TimeoutError | BrokerError):
                raise unavailable(error) from error
            raise
        # Retire the command connection, which may still lead to another Redis than this one.
        self._link.retire()
        return RedisSubscription(connection, self._commands, self._link.watch(connection))

    async def queue_stats(self) -> Stats:
        """See `realtime.brokers.Broker.queue_stats`."""
        queue = self._commands.queue
        [reply] = await self._run_script(queue.scripts.stats, [queue.stats()])
        return parse_queue_stats(reply)

    async def read_servers(self) -> list[RedisFacts]:
        """See `realtime.brokers.Broker.read_servers`."""
        return [await read_facts(self._execute, lambda: self._link.address)]

    async def aclose(self) -> None:
        """Close all connections, and open no more."""
        await self._link.aclose()

    def _execute(self, commands: Sequence[Args]) -> Coroutine[Any, Any, list[Any]]:
        return self._link.execute(commands, self._deadline_seconds)

    def _run_script(
        self, script: Script, commands: Sequence[Args]
    ) -> Coroutine[Any, Any, list[Any]]:
        return self._link.run_script(script, commands, self._deadline_seconds)


class RedisSubscription(RedisProtocol):
    """A `realtime.brokers.Subscription` on Redis.

    Uses redis-py's plain connection, not its ``PubSub``, which reconnects without notifying the
    reader (channels_redis#256).
    """

    lag_seconds = None

    def __init__(
        self,
        connection: Connection,
        commands: Commands,
        watch: Coroutine[None, None, None] | None = None,
    ) -> None:
        """Take over a connection; ``watch`` returns when the master is at another address."""
        self._receive: Receive | None = None
        self._space: asyncio.Future[None] | None = None
        """What the receiver of events waits for."""
        self._refused: Exception | None = None
        """What the receiver has raised."""
        self._events: list[Event] = []
        self._unread_bytes = 0
        self._is_paused = False  # reading from the socket
        self._sending: asyncio.Future[None] | None = None
        self._commands = commands
        self._strip = len(commands.channel_prefix)
        self.reads = 0
        """See `realtime.brokers.Subscription.reads`."""
        super().__init__(connection)
        self._watch = None if watch is None else self._loop.create_task(self._end_after(watch))

    async def listen(self, receive: Receive) -> NoReturn:
        """See `realtime.brokers.Subscription.listen`."""
        self._receive = receive
        try:
            self._pass_on()
            error = await self._end()
            while self._space is not None and self._events:  # they arrived before the end
                await asyncio.wait([self._space])
        finally:
            self._receive = None
        if self._refused is not None:
            raise self._refused
        raise unavailable(error) from error

    async def send(self, subscribe: Sequence[str], unsubscribe: Sequence[str]) -> None:
        """See `realtime.brokers.Subscription.send`."""
        commands = []
        if subscribe:
            commands.append(("SUBSCRIBE", *self._commands.redis_channels(subscribe)))
        if unsubscribe:
            commands.append(("UNSUBSCRIBE", *self._commands.redis_channels(unsubscribe)))
        if not self._has_ended:
            # Not `writelines`, which raises a TypeError if it is closed (Python 3.12.1).
            self._transport.write(b"".join(self._connection.pack_commands(commands)))
        while self._is_full and not self._lost.done():
            self._sending = self._loop.create_future()
            await self._sending
        if self._has_ended:
            error = await self._end()
            raise unavailable(error) from error

    async def aclose(self) -> None:
        """Close the connection."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        abort(self._connection)
        await self._end()  # asyncio closes the socket in the next turn

    async def _end_after(self, watch: Coroutine[None, None, None]) -> None:
        await watch
        self._fail(exceptions.ConnectionError("the sentinels name another master"))

    async def _end(self) -> Exception:
        """Wait for the end of the connection; return what ended it."""
        # Not by awaiting the future, which a cancelled task would cancel for all who wait.
        await asyncio.wait([self._lost])
        return self._lost.result()

    def data_received(self, data: bytes) -> None:
        """Pass on what has arrived; read no more while too much waits for the receiver."""
        self.reads += 1
        super().data_received(data)
        self._pass_on()
        if not self._events:  # none wait; a part of a large message may
            return
        self._unread_bytes += len(data)
        if self._unread_bytes >= READ_AHEAD_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

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
            self._fail(error)
            return
        if self._space is not None:
            self._space.add_done_callback(self._go_on)
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def _go_on(self, _space: asyncio.Future[None]) -> None:
        self._space = None
        self._pass_on()

    def resume_writing(self) -> None:
        """Let the sender go on."""
        super().resume_writing()
        _wake(self._sending)

    def _fail(self, error: Exception) -> None:
        super()._fail(error)
        _wake(self._sending)

    def _take(self, reply: Any) -> None:
        self._events.append(self._event(reply))

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
        raise exceptions.ConnectionError(f"Redis sent {reply!r:.100} to a subscriber")


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
