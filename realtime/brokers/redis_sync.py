"""Redis as the broker, for threads: the publishing half without an event loop.

The same rules as `realtime.brokers.redis`, on the sync client, which is safe to share between
threads and notices a fork. There is nothing to subscribe with: delivering is asyncio's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool, Connection
from redis.retry import Retry

from realtime.brokers import Stats, Survey
from realtime.brokers.commands import (
    CANARY,
    FRESH_SECONDS,
    LOOK_SECONDS,
    PUBLISH,
    SURVEY_SECONDS,
    TAKE,
    TELL,
    Commands,
    is_error_reply,
    is_of_no_master,
    lacks_script,
    queue_stats,
    receipt,
    transaction,
    unavailable,
    unknown,
    wait,
)
from realtime.brokers.presence_commands import (
    COUNT,
    READ,
    PresenceCommands,
    headcount,
    members,
    refuse_errors,
)
from realtime.brokers.queue_commands import QUEUE_BYTES, QUEUE_ITEMS, STATS
from realtime.brokers.redis import DEADLINE_SECONDS
from realtime.brokers.script import Args, Script
from realtime.errors import RealtimeError
from realtime.membership import MEMBERS_BYTES, Headcount
from realtime.publication import Publication, Receipt
from realtime.survey import Question

CONNECTIONS = 64
"""Of one process; a publish holds one for a round trip."""


class SyncRedisBroker:
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
        self._commands = Commands(prefix, queue_items=queue_items, queue_bytes=queue_bytes)
        self._presence = PresenceCommands(prefix)
        self._deadline_seconds = deadline_seconds
        self._pool = BlockingConnectionPool.from_url(
            url,
            timeout=deadline_seconds,  # more threads than connections wait for their turn
            max_connections=CONNECTIONS,
        )
        # After the URL: no option in it may undo these.
        self._pool.connection_kwargs.update(
            decode_responses=False,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=deadline_seconds,
            socket_connect_timeout=deadline_seconds,
            protocol=2,
        )
        self._renewed_at: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()

    def publish(self, publication: Publication) -> Receipt:
        """See `realtime.brokers.Broker.publish`."""
        [reply] = self._run(PUBLISH, [self._commands.publish(publication)])
        answer = receipt(reply)
        if isinstance(answer, RealtimeError):
            raise answer
        return answer

    def publish_many(self, publications: Sequence[Publication]) -> list[Receipt | RealtimeError]:
        """See `realtime.brokers.Broker.publish_many`."""
        commands = transaction(
            [self._commands.publish(publication) for publication in publications]
        )
        *_, executed = self._run(PUBLISH, commands)
        if isinstance(executed, exceptions.RedisError):
            raise unavailable(executed)
        return [receipt(reply) for reply in executed]

    def take(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take`."""
        [reply] = self._run(TAKE, [self._commands.take(name, rate, count)])
        return wait(reply)

    def tell(self, raw: bytes) -> None:
        """See `realtime.brokers.Broker.tell`."""
        [reply] = self._run(TELL, [self._commands.tell(raw)])
        if isinstance(reply, exceptions.RedisError):
            raise unavailable(reply)

    def members(self, channel: str) -> dict[str, str]:
        """See `realtime.brokers.Presence.members`."""
        [reply] = self._run(READ, [self._presence.read(channel, MEMBERS_BYTES)])
        return members(reply)

    def headcount(self, channel: str) -> Headcount:
        """See `realtime.brokers.Presence.headcounts`."""
        [reply] = self._run(COUNT, [self._presence.count(channel)])
        return headcount(reply)

    def survey(self, question: Question) -> Survey:
        """See `realtime.brokers.Broker.survey`."""
        [asked] = self._run(CANARY, [self._commands.ask_nodes(question)])
        refuse_errors([asked])
        until = time.monotonic() + SURVEY_SECONDS
        while True:
            [answers] = self.ask([self._commands.answers(question.id)])
            if len(answers) >= int(asked) or time.monotonic() > until:
                return Survey(answers, max(0, int(asked) - len(answers)))
            time.sleep(LOOK_SECONDS)

    def queue_stats(self) -> Stats:
        """See `realtime.brokers.Broker.queue_stats`."""
        [reply] = self._run(STATS, [self._commands.queue.stats()])
        return queue_stats(reply)

    def ask(self, commands: Sequence[Args]) -> list[Any]:
        """Return the replies to plain commands, about keys that are named by `beside`.

        Raises:
            BrokerUnavailable: Redis is away, or refuses one of them.
            OutcomeUnknown: Perhaps done.
        """
        replies = self._exchange(commands, time.monotonic() + self._deadline_seconds)
        for reply in replies:
            if isinstance(reply, exceptions.RedisError):
                raise unavailable(reply)
        return replies

    def beside(self, kind: str, name: str) -> str:
        """Return the name of a key for something that belongs to no channel."""
        return self._commands.beside(kind, name)

    def close(self) -> None:
        """Close all connections."""
        self._pool.disconnect()

    def _run(self, script: Script, commands: Sequence[Args]) -> list[Any]:
        deadline = time.monotonic() + self._deadline_seconds
        replies = self._exchange(commands, deadline)
        if any(map(lacks_script, replies)):
            replies = self._exchange([script.load, *commands], deadline)
            del replies[0]
        return replies

    def _exchange(self, commands: Sequence[Args], deadline: float) -> list[Any]:
        connection = self._ready_connection()
        try:
            packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
            connection.send_packed_command(packed, check_health=False)  # type: ignore[no-untyped-call]
            replies = [_reply(connection, deadline) for _ in commands]
            if any(map(is_of_no_master, replies)):
                self._renew(connection)
            return replies
        except (exceptions.RedisError, OSError) as error:
            raise unavailable(error) if is_error_reply(error) else unknown(error) from error
        finally:
            self._pool.release(connection)  # type: ignore[no-untyped-call]

    def _renew(self, connection: Connection) -> None:
        """Let its next user connect again: the name may lead to the new master by then."""
        now = time.monotonic()
        if now - self._renewed_at.get(connection, -FRESH_SECONDS) >= FRESH_SECONDS:
            self._renewed_at[connection] = now
            connection.disconnect()  # type: ignore[no-untyped-call]

    def _ready_connection(self) -> Connection:
        try:
            connection: Connection = self._pool.get_connection()  # type: ignore[no-untyped-call]
            return connection
        except (exceptions.RedisError, OSError) as error:
            raise unavailable(error) from error


def _reply(connection: Connection, deadline: float) -> Any:
    try:
        return connection.read_response(timeout=max(0.001, deadline - time.monotonic()))
    except exceptions.ResponseError as error:
        return error
