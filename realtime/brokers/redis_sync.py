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
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool, Connection
from redis.retry import Retry

from realtime.brokers import Stats, Survey
from realtime.brokers.bounds import (
    DEADLINE_SECONDS,
    QUEUE_BYTES,
    QUEUE_ITEMS,
    SURVEY_POLL_SECONDS,
    SURVEY_SECONDS,
)
from realtime.brokers.commands import (
    NEW_CONNECTION_SECONDS,
    Commands,
    errors_of,
    is_error_reply,
    is_of_no_master,
    lacks_script,
    parse_positions,
    parse_queue_stats,
    parse_receipts,
    parse_wait,
    unavailable,
    unknown,
)
from realtime.brokers.presence_commands import (
    PresenceCommands,
    parse_headcount,
    parse_members,
    refuse_errors,
)
from realtime.brokers.sentinel_sync import MasterPool
from realtime.core.members import MEMBERS_BYTES, Headcount
from realtime.core.redis_url import is_sentinel_url
from realtime.errors import BrokerError, RealtimeError

if TYPE_CHECKING:
    from realtime.brokers.script import Args, Script
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.core.survey import Question

# An argument of `get_connection` that redis-py requires before 5.3, and deprecates since.
_COMMAND_NAME = ("_",) if redis.VERSION[:2] < (5, 3) else ()
CONNECTIONS = 64
"""Connections per process; a publish holds one for a round trip."""


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
        self._scripts = self._commands.scripts
        self._deadline_seconds = deadline_seconds
        self._pool = _pool_of(url, deadline_seconds)
        # Set after parsing: URL options must not win.
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
        [reply] = self._run_script(self._scripts.publish, [self._commands.publish(publication)])
        [answer] = parse_receipts(reply)
        if isinstance(answer, RealtimeError):
            raise answer
        return answer

    def publish_many(self, publications: Sequence[Publication]) -> list[Receipt | RealtimeError]:
        """See `realtime.brokers.Broker.publish_many`."""
        [reply] = self._run_script(self._scripts.publish, [self._commands.publish(*publications)])
        return parse_receipts(reply)

    def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """See `realtime.brokers.Broker.positions`."""
        commands = self._commands.read_positions(channels)
        replies = self._run_script(self._scripts.read_position, commands)
        return parse_positions(replies, len(channels))

    def take_from_rate(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take_from_rate`."""
        [reply] = self._run_script(
            self._scripts.take_from_rate, [self._commands.take_from_rate(name, rate, count)]
        )
        return parse_wait(reply)

    def send_node_command(self, raw: bytes) -> None:
        """See `realtime.brokers.Broker.send_node_command`."""
        command = self._commands.send_node_command(raw)
        [reply] = self._run_script(self._scripts.send_node_command, [command])
        if isinstance(reply, exceptions.RedisError):
            raise unavailable(reply)

    def members(self, channel: str) -> dict[str, str]:
        """See `realtime.brokers.PresenceStore.members`."""
        command = self._presence.read(channel, MEMBERS_BYTES)
        [reply] = self._run_script(self._presence.scripts.read, [command])
        return parse_members(reply)

    def headcount(self, channel: str) -> Headcount:
        """See `realtime.brokers.PresenceStore.headcounts`."""
        command = self._presence.count(channel)
        [reply] = self._run_script(self._presence.scripts.headcount, [command])
        return parse_headcount(reply)

    def survey(self, question: Question) -> Survey:
        """See `realtime.brokers.Broker.survey`."""
        command = self._commands.ask_nodes(question)
        [asked] = self._run_script(self._scripts.send_raw, [command])
        refuse_errors([asked])
        until = time.monotonic() + SURVEY_SECONDS
        answers: list[bytes] = []
        while True:
            [more] = self.ask([self._commands.answers(question.id, len(answers))])
            answers += more
            if len(answers) >= int(asked) or time.monotonic() > until:
                return Survey(answers, max(0, int(asked) - len(answers)))
            time.sleep(SURVEY_POLL_SECONDS)

    def queue_stats(self) -> Stats:
        """See `realtime.brokers.Broker.queue_stats`."""
        queue = self._commands.queue
        [reply] = self._run_script(queue.scripts.stats, [queue.stats()])
        return parse_queue_stats(reply)

    def queue_page(self, place: str, start: int, count: int) -> list[bytes]:
        """See `realtime.brokers.SyncBroker.queue_page`."""
        [entries] = self.ask([self._commands.queue.page(place, start, count)])
        return list(entries)

    def move_entry(self, place: str, raw: bytes, written: bytes = b"") -> bool:
        """See `realtime.brokers.fallback_queue.FallbackQueue.move`."""
        queue = self._commands.queue
        replies = self._run_script(queue.scripts.move, [queue.move(place, raw, written)])
        refuse_errors(replies)
        return bool(replies[0])

    def ask(self, commands: Sequence[Args]) -> list[Any]:
        """Return the replies to plain commands.

        Raises:
            BrokerUnavailable: Redis is unreachable, or refused one of the commands.
            OutcomeUnknown: The commands may have been executed.
        """
        replies = self._execute_until(commands, time.monotonic() + self._deadline_seconds)
        for reply in replies:
            if isinstance(reply, exceptions.RedisError):
                raise unavailable(reply)
        return replies

    def beside(self, kind: str, name: str) -> str:
        """Return the name of a key that belongs to no channel."""
        return self._commands.beside(kind, name)

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

    def _execute_until(self, commands: Sequence[Args], deadline: float) -> list[Any]:
        connection = self._ready_connection(deadline)
        try:
            _allow(connection, deadline - time.monotonic())
            packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
            connection.send_packed_command(packed, check_health=False)  # type: ignore[no-untyped-call]
            replies = [_reply(connection, deadline) for _ in commands]
            if is_of_no_master(errors_of(replies)):
                self._renew(connection)
            return replies
        except (exceptions.RedisError, OSError) as error:
            raise unavailable(error) if is_error_reply(error) else unknown(error) from error
        except BaseException:  # such as a time limit of Celery, which a signal raises anywhere
            connection.disconnect()  # type: ignore[no-untyped-call]  # a reply is on its way
            raise
        finally:
            self._pool.release(connection)  # type: ignore[no-untyped-call]

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


def _allow(connection: Connection, seconds: float) -> None:
    """Limit the next read or write; before redis-py 8, `read_response` has no argument for it."""
    socket: Any = connection._sock
    if socket is not None:  # else the next call raises
        socket.settimeout(max(0.001, seconds))


def _reply(connection: Connection, deadline: float) -> Any:
    _allow(connection, deadline - time.monotonic())
    try:
        return connection.read_response()
    except exceptions.ResponseError as error:
        return error
