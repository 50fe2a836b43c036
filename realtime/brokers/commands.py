"""Builds commands for Redis and parses the replies, for both the sync and the async client.

All keys and the Redis channel of one publication are in one partition and carry its hash tag, so
that a single script can access them on Redis Cluster, too. Pub/sub ignores database numbers:
services that share a Redis must use different values of ``prefix``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis import exceptions

from realtime.brokers import ALL_NODES, NODE_COMMANDS_PAGE, SentCommand, Stats
from realtime.brokers.bounds import (
    ANSWERS_SECONDS,
    IDEMPOTENCY_SECONDS,
    NODE_COMMANDS_LIMIT,
    NODE_COMMANDS_SECONDS,
    POSITIONS_LOT,
    QUEUE_BYTES,
    QUEUE_ITEMS,
)
from realtime.brokers.node_messages import Moment, parse_moment
from realtime.brokers.queue_commands import QueueCommands, parse_stats
from realtime.brokers.script import Args, Script
from realtime.core.fallback_entry import entry_fields
from realtime.core.partitions import WHOLE
from realtime.core.positions import Position
from realtime.core.publication import Publication, Receipt, When
from realtime.core.survey import Question, encode_question
from realtime.errors import (
    BrokerError,
    BrokerUnavailable,
    IdempotencyConflict,
    OutcomeUnknown,
    QueueFull,
    RealtimeError,
)

if TYPE_CHECKING:
    from realtime.core.partitions import Partition

NEW_CONNECTION_SECONDS = 0.25
"""A connection younger than this is not replaced: a new one would lead to the same Redis."""
SLOW_SECONDS = 0.5
"""After a reply that has taken longer, it is checked that no other Redis is the master by now. One
that was frozen carries out what waits in its sockets when it wakes up, and what it writes then is
lost; a failover takes longer than this."""
OLDEST_REDIS = (7, 0)  # functions and ACL channels; Valkey 7.2 and later calls itself Redis 7.2

# Error *replies*, some of which redis-py derives from ConnectionError. After such a reply, nothing
# was done, although the class suggests a broken connection.
REPLY_ERRORS: Final = (
    exceptions.ResponseError,
    exceptions.BusyLoadingError,
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
)


class BrokerScripts(NamedTuple):
    """The scripts of the commands about publications and nodes."""

    publish: Script
    read_position: Script
    send_raw: Script
    take_from_rate: Script
    send_node_command: Script
    service: Script
    answer: Script


SCRIPTS = BrokerScripts(
    Script("position.lua", "publish.lua"),
    Script("position.lua", "read_position.lua"),
    Script("send_raw.lua", allow_oom=True),
    Script("take_from_rate.lua"),
    Script("node_command.lua"),
    Script("service.lua"),
    Script("answer.lua"),
)


class Commands:
    """Builds commands and reads replies for one partition of one prefix."""

    def __init__(
        self,
        prefix: str,
        partition: Partition = WHOLE,
        *,
        queue_items: int = QUEUE_ITEMS,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._keys = f"{prefix}:{{{partition.tag}}}:"
        self.scripts = BrokerScripts(*[script.of(partition) for script in SCRIPTS])
        """The scripts that the commands call."""
        self._base = f"{self._keys}base"
        self._queue_items = queue_items
        self._queue_bytes = queue_bytes
        self.queue = QueueCommands(prefix, partition)
        self.channel_prefix = f"{self._keys}ch:"

    def publish(self, *publications: Publication) -> Args:
        """Return the command that publishes; its reply has an item for each publication."""
        keys = [self._base]
        arguments: list[str | bytes | int] = [secrets.token_hex(8), len(publications)]
        has_key = has_fallback = False
        for publication in publications:
            channel, key, fallback = (
                publication.channel,
                publication.idempotency_key,
                publication.fallback,
            )
            keys.append(f"{self._keys}pos:{channel}")
            arguments += (self.channel_prefix + channel, publication.tail)
            if key is None:
                arguments.append("")
            else:
                has_key = True
                # Spaces separate scope, channel and key. Channel and key contain no spaces, so the
                # name can be parsed from the end and is unique, whatever the scope contains.
                keys.append(f"{self._keys}once:{publication.scope} {channel} {key}")
                arguments.append(publication.fingerprint)
            if fallback is None:
                arguments.append("")
            else:
                has_fallback = True
                when = When.ALWAYS if fallback.when is When.ALWAYS else When.NOBODY
                arguments += (when.value, entry_fields(publication))
        if has_fallback:
            queue = self.queue.keys
            keys += queue.waiting, queue.later, queue.dead, queue.counts
        if has_key or has_fallback:
            arguments += (IDEMPOTENCY_SECONDS, self._queue_items, self._queue_bytes)
        return ("EVALSHA", self.scripts.publish.digest, len(keys), *keys, *arguments)

    def read_positions(self, channels: Sequence[str]) -> list[Args]:
        """Return the commands that read positions; their replies have an item for each channel."""
        keys = [f"{self._keys}pos:{channel}" for channel in channels]
        lots = [keys[at : at + POSITIONS_LOT] for at in range(0, len(keys), POSITIONS_LOT)]
        call = ("EVALSHA", self.scripts.read_position.digest)
        return [(*call, 1 + len(lot), self._base, *lot, secrets.token_hex(8)) for lot in lots]

    def take_from_rate(self, name: str, rate: float, count: int) -> Args:
        """Return the command that takes publications from a rate limit."""
        key = f"{self._keys}rate:{name}"
        return ("EVALSHA", self.scripts.take_from_rate.digest, 1, key, repr(rate), count)

    def send_raw(self, channel: str, raw: bytes) -> Args:
        """Return the command that sends bytes to a node's own channel."""
        return ("EVALSHA", self.scripts.send_raw.digest, 1, self.channel_prefix + channel, raw)

    def send_node_command(self, raw: bytes) -> Args:
        """Return the command that sends a command to all nodes."""
        channel = self.channel_prefix + ALL_NODES
        key = f"{self._keys}told"
        kept = (NODE_COMMANDS_LIMIT, NODE_COMMANDS_SECONDS)
        return ("EVALSHA", self.scripts.send_node_command.digest, 1, key, channel, raw, *kept)

    def announce(self) -> Args:
        """Return the command that announces the service of this database to all nodes."""
        channel = self.channel_prefix + ALL_NODES
        key = f"{self._keys}service"
        return ("EVALSHA", self.scripts.service.digest, 1, key, secrets.token_hex(8), channel)

    def read_node_commands(self, moment: Moment) -> list[Args]:
        """Return the commands that read the time and the commands sent to all nodes since then."""
        after = f"({moment.milliseconds}-{moment.number}"
        return [("TIME",), ("XRANGE", f"{self._keys}told", after, "+", "COUNT", NODE_COMMANDS_PAGE)]

    def ask_nodes(self, question: Question) -> Args:
        """Return the command that asks all nodes; its reply is how many received it."""
        return self.send_raw(ALL_NODES, encode_question(question))

    def answers(self, question_id: str, start: int) -> Args:
        """Return the command that reads the nodes' answers, from this one on (the first is 0)."""
        return ("LRANGE", f"{self._keys}answers:{question_id}", start, -1)

    def answer(self, question_id: str, answer: bytes) -> Args:
        """Return the command that stores an answer."""
        key = f"{self._keys}answers:{question_id}"
        return ("EVALSHA", self.scripts.answer.digest, 1, key, answer, ANSWERS_SECONDS)

    def beside(self, kind: str, name: str) -> str:
        """Return the name of a key that belongs to no channel."""
        return f"{self._keys}{kind}{name}"

    def redis_channels(self, channels: Sequence[str]) -> list[str]:
        """Return the names of the channels in Redis."""
        return [self.channel_prefix + channel for channel in channels]


def parse_receipts(reply: Any) -> list[Receipt | RealtimeError]:
    """Parse the reply of ``publish.lua``: receipts, or errors why something was not published.

    Raises:
        BrokerUnavailable: Redis refused; nothing was published.
    """
    if isinstance(reply, exceptions.RedisError):
        raise unavailable(reply)
    return [_parse_receipt(each) for each in reply]


def _parse_receipt(reply: Any) -> Receipt | RealtimeError:
    if isinstance(reply, exceptions.RedisError):
        return unavailable(reply)
    if reply == b"full":
        return QueueFull()
    if reply == b"conflict":
        return IdempotencyConflict()
    epoch, offset, nodes, repeated, queued = reply.decode().split(" ")
    return Receipt(epoch, int(offset), int(nodes), repeated == "1", queued == "1")


def parse_positions(replies: Sequence[Any], count: int) -> list[Position | BrokerError]:
    """Parse the replies of ``read_position.lua``: positions, or why they are unknown.

    Args:
        replies: To `Commands.read_positions`.
        count: The number of channels.
    """
    items: list[Any] = []
    for reply in replies:
        missing = min(POSITIONS_LOT, count - len(items))
        items += [reply] * missing if isinstance(reply, exceptions.RedisError) else reply
    return [_parse_position(item) for item in items]


def _parse_position(item: Any) -> Position | BrokerError:
    if isinstance(item, exceptions.RedisError):
        return unavailable(item)
    epoch, offset = item.decode().split(" ")
    return Position(epoch, int(offset))


def parse_wait(reply: Any) -> float:
    """Parse the reply of ``take_from_rate.lua``: 0.0, or the seconds until a retry can succeed.

    Raises:
        BrokerUnavailable: Redis refused.
    """
    if isinstance(reply, exceptions.RedisError):
        raise unavailable(reply)
    return float(reply)


def parse_queue_stats(reply: Any) -> Stats:
    """Parse the reply about the state of the queue.

    Raises:
        BrokerUnavailable: Redis refused.
    """
    try:
        return parse_stats(reply)
    except exceptions.RedisError as error:
        raise unavailable(error) from error


def parse_node_commands(replies: Sequence[Any]) -> tuple[Moment, list[SentCommand]]:
    """Parse the replies to `Commands.read_node_commands`.

    Raises:
        BrokerUnavailable: Redis refused.
    """
    for reply in replies:
        if isinstance(reply, exceptions.RedisError):
            raise unavailable(reply)
    (seconds, microseconds), entries = replies
    now = Moment(int(seconds) * 1000 + int(microseconds) // 1000, 0)
    return now, [SentCommand(parse_moment(entry), fields[1]) for entry, fields in entries]


def errors_of(replies: Sequence[Any]) -> list[Exception]:
    """Return the error replies among replies, and among the items of a script's reply."""
    found: list[Exception] = []
    for reply in replies:
        # publish.lua returns an item for each publication.
        items = reply if type(reply) is list else (reply,)
        found += [item for item in items if isinstance(item, Exception)]
    return found


def lacks_script(errors: Sequence[Exception]) -> bool:
    """Tell whether Redis lacks a script (after a restart or SCRIPT FLUSH)."""
    return any(isinstance(error, exceptions.NoScriptError) for error in errors)


def is_of_no_master(errors: Sequence[Exception]) -> bool:
    """Tell whether Redis refuses because it is a replica, or a master without replicas.

    It may have been the master a moment ago. The connection would stay open, and commands refused.
    """
    for error in errors:
        if isinstance(error, exceptions.ResponseError) and (
            isinstance(error, (exceptions.ReadOnlyError, exceptions.MasterDownError))
            # redis-py has no class for the first, and redis-py 5.2 none for the second either.
            or str(error).startswith(("NOREPLICAS", "MASTERDOWN"))
        ):
            return True
    return False


NOBODY_THERE = "Is Redis running, and REALTIME_REDIS_URL (for the service: REDIS_URL) right?"


def is_error_reply(error: Exception) -> bool:
    """Tell whether an error is a reply that refuses the command, not a broken connection."""
    if isinstance(error, REPLY_ERRORS):
        return True
    return type(error) is exceptions.ConnectionError and "max number of clients" in str(error)


def unavailable(error: Exception) -> BrokerUnavailable:
    """Convert an error after which certainly nothing was published."""
    text = str(error) or type(error).__name__
    if " connecting to " in text:  # redis-py has no class of its own for it
        text = f"{text} {NOBODY_THERE}"
    return BrokerUnavailable(f"Redis: {text}")


def unknown(error: Exception) -> BrokerError:
    """Convert an error that occurred after the first byte of the command was sent."""
    return OutcomeUnknown(f"Redis did not respond ({type(error).__name__}): outcome unknown")


def stale() -> BrokerError:
    """Return the error for a reply of a Redis that had been replaced as the master by then."""
    return OutcomeUnknown("Redis responded when another one was the master: outcome unknown")


def check_version(info: bytes) -> None:
    """Refuse a server that is too old.

    Raises:
        BrokerUnavailable: The server is older than Redis 7.0.
    """
    for line in info.decode(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key == "redis_version":
            digits = re.match(r"(\d+)\.(\d+)", value)
            if digits is None or tuple(map(int, digits.groups())) < OLDEST_REDIS:
                raise BrokerUnavailable(
                    f"Redis {value} is too old: Redis 7.0 or Valkey 7.2 is required"
                )
