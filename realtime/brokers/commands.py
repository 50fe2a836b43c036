"""What is said to Redis and what its answers mean, for the sync and the async client alike.

All keys and the Redis channel of one publication carry the same hash tag, so that one script can
touch them on Redis Cluster too (one slot per publication). Pub/sub ignores database numbers:
services that share a Redis must differ in ``prefix``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any, Final

from redis import exceptions

from realtime.brokers import ALL_NODES, Stats, Told
from realtime.brokers.queue_commands import QUEUE_BYTES, QUEUE_ITEMS, QueueCommands, stats
from realtime.brokers.script import Args, Script
from realtime.errors import (
    BrokerError,
    BrokerUnavailable,
    IdempotencyConflict,
    OutcomeUnknown,
    QueueFull,
    RealtimeError,
)
from realtime.gaps import Position
from realtime.node_messages import Moment, moment_of
from realtime.publication import Publication, Receipt, When
from realtime.queued import head_of
from realtime.survey import Question, sealed

IDEMPOTENCY_SECONDS = 300
TOLD_LIMIT = 10_000
"""Commands to nodes that are kept, for nodes that did not hear them."""
TOLD_SECONDS = 3600
ANSWERS_SECONDS = 10
"""How long answers of nodes are kept."""
SURVEY_SECONDS = 1.0
"""How long nodes may take to answer."""
LOOK_SECONDS = 0.01
"""Between two looks at their answers."""
FRESH_SECONDS = 0.25
"""Another connection than one that is younger would lead to the same Redis, under any name."""
OLDEST_REDIS = (7, 0)  # functions and ACL channels; Valkey 7.2 and later calls itself Redis 7.2

# Error *replies* among the classes that redis-py derives from ConnectionError. The reply says that
# nothing was done; the class alone would say that the connection broke.
REPLY_ERRORS: Final = (
    exceptions.ResponseError,
    exceptions.BusyLoadingError,
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
)


PUBLISH = Script("position.lua", "publish.lua")
READ_POSITION = Script("position.lua", "read_position.lua")
CANARY = Script("canary.lua")
TAKE = Script("take.lua")
TELL = Script("tell.lua")
SERVICE = Script("service.lua")


class Commands:
    """Builds commands and reads replies for one prefix."""

    def __init__(
        self, prefix: str, *, queue_items: int = QUEUE_ITEMS, queue_bytes: int = QUEUE_BYTES
    ) -> None:
        self._keys = f"{prefix}:{{0}}:"
        self._base = f"{self._keys}base"
        self._queue_items = queue_items
        self._queue_bytes = queue_bytes
        self.queue = QueueCommands(prefix)
        self.channel_prefix = f"{self._keys}ch:"

    def publish(self, publication: Publication) -> Args:
        """Return the command that publishes."""
        channel, key = publication.channel, publication.idempotency_key
        position = f"{self._keys}pos:{channel}"
        keys = [position, self._base]
        if key is not None:
            # Spaces part scope, channel and key. Channel and key can hold none, so read from the
            # end no two of them meet in one name, whatever a scope has in it.
            keys.append(f"{self._keys}once:{publication.scope} {channel} {key}")
        fingerprint = "" if key is None else publication.fingerprint
        queued: Args = ()
        if publication.fallback is not None:
            queue = self.queue.keys
            keys += queue.waiting, queue.later, queue.dead, queue.counts
            always = "1" if publication.fallback.when is When.ALWAYS else "0"
            queued = (head_of(publication), always, self._queue_items, self._queue_bytes)
        call: Args = ("EVALSHA", PUBLISH.digest, len(keys), *keys)
        return (
            *call,
            *(secrets.token_hex(8), self.channel_prefix + channel),
            *(publication.body, fingerprint, IDEMPOTENCY_SECONDS),
            *queued,
        )

    def read_position(self, channel: str) -> Args:
        """Return the command that reads where a channel stands."""
        key = f"{self._keys}pos:{channel}"
        return ("EVALSHA", READ_POSITION.digest, 2, key, self._base, secrets.token_hex(8))

    def take(self, name: str, rate: float, count: int) -> Args:
        """Return the command that asks whether so many publications are within a rate."""
        return ("EVALSHA", TAKE.digest, 1, f"{self._keys}rate:{name}", repr(rate), count)

    def canary(self, channel: str, raw: bytes) -> Args:
        """Return the command that sends something to a node's own channel."""
        return ("EVALSHA", CANARY.digest, 0, self.channel_prefix + channel, raw)

    def tell(self, raw: bytes) -> Args:
        """Return the command that tells all nodes something."""
        told_to = self.channel_prefix + ALL_NODES
        key = f"{self._keys}told"
        return ("EVALSHA", TELL.digest, 1, key, told_to, raw, TOLD_LIMIT, TOLD_SECONDS)

    def announce(self) -> Args:
        """Return the command that tells all nodes which service this database belongs to."""
        told_to = self.channel_prefix + ALL_NODES
        key = f"{self._keys}service"
        return ("EVALSHA", SERVICE.digest, 1, key, secrets.token_hex(8), told_to)

    def told_since(self, moment: Moment) -> list[Args]:
        """Return the commands that read what time it is and what nodes were told since."""
        after = f"({moment.milliseconds}-{moment.number}"
        return [("TIME",), ("XRANGE", f"{self._keys}told", after, "+", "COUNT", TOLD_LIMIT)]

    def ask_nodes(self, question: Question) -> Args:
        """Return the command that asks all nodes, and tells how many heard it."""
        return self.canary(ALL_NODES, sealed(question))

    def answers(self, question_id: str) -> Args:
        """Return the command that reads what nodes have answered so far."""
        return ("LRANGE", f"{self._keys}answers:{question_id}", 0, -1)

    def answer(self, question_id: str, answer: bytes) -> list[Args]:
        """Return the commands that answer."""
        key = f"{self._keys}answers:{question_id}"
        return [("RPUSH", key, answer), ("EXPIRE", key, ANSWERS_SECONDS)]

    def beside(self, kind: str, name: str) -> str:
        """Return the name of a key for something that belongs to no channel."""
        return f"{self._keys}{kind}{name}"

    def redis_channels(self, channels: Sequence[str]) -> list[str]:
        """Return the names of the channels in Redis."""
        return [self.channel_prefix + channel for channel in channels]


def transaction(commands: Sequence[Args]) -> list[Args]:
    """Return the commands as one MULTI … EXEC."""
    return [("MULTI",), *commands, ("EXEC",)]


def receipt(reply: Any) -> Receipt | RealtimeError:
    """Read the answer of `publish.lua`: a receipt, or why this publication was not published."""
    if isinstance(reply, exceptions.RedisError):
        return unavailable(reply)
    if len(reply) == 1:
        return QueueFull() if reply[0] == b"full" else IdempotencyConflict()
    epoch, offset, nodes, repeated, queued = reply
    return Receipt(
        epoch.decode(), int(offset), int(nodes), repeated=repeated == b"1", queued=queued == b"1"
    )


def position(reply: Any) -> Position | BrokerError:
    """Read the answer of `read_position.lua`: where the channel stands, or why nobody knows now."""
    if isinstance(reply, exceptions.RedisError):
        return unavailable(reply)
    return Position(reply[0].decode(), int(reply[1]))


def wait(reply: Any) -> float:
    """Read the answer of `take.lua`: seconds until it is worth asking again, 0.0 for yes.

    Raises:
        BrokerUnavailable: Nobody knows.
    """
    if isinstance(reply, exceptions.RedisError):
        raise unavailable(reply)
    return float(reply)


def queue_stats(reply: Any) -> Stats:
    """Read how the queue stands.

    Raises:
        BrokerUnavailable: Redis refused.
    """
    try:
        return stats(reply)
    except exceptions.RedisError as error:
        raise unavailable(error) from error


def told(replies: Sequence[Any]) -> tuple[Moment, list[Told]]:
    """Read the answers to `Commands.told_since`.

    Raises:
        BrokerUnavailable: Redis refused.
    """
    for reply in replies:
        if isinstance(reply, exceptions.RedisError):
            raise unavailable(reply)
    (seconds, microseconds), entries = replies
    now = Moment(int(seconds) * 1000 + int(microseconds) // 1000, 0)
    return now, [Told(moment_of(entry), fields[1]) for entry, fields in entries]


def lacks_script(reply: Any) -> bool:
    """Tell whether Redis does not know the script (it was restarted, or the script flushed)."""
    if isinstance(reply, list):
        return any(isinstance(item, exceptions.NoScriptError) for item in reply)
    return isinstance(reply, exceptions.NoScriptError)


def is_of_no_master(reply: Any) -> bool:
    """Tell whether Redis refuses because it is a replica, or a master whom no replica follows.

    Perhaps it was the master a moment ago. The connection would last, and the refusals with it.
    """
    errors = reply if isinstance(reply, list) else (reply,)  # of EXEC: one level, a hundred answers
    for error in errors:
        if isinstance(error, exceptions.ResponseError) and (
            isinstance(error, (exceptions.ReadOnlyError, exceptions.MasterDownError))
            or str(error).startswith("NOREPLICAS")
        ):
            return True
    return False


def is_error_reply(error: Exception) -> bool:
    """Tell a reply that refuses the command from a connection that broke before there was one."""
    if isinstance(error, REPLY_ERRORS):
        return True
    return type(error) is exceptions.ConnectionError and "max number of clients" in str(error)


def unavailable(error: Exception) -> BrokerUnavailable:
    """Return our error for one that says that certainly nothing was published."""
    return BrokerUnavailable(f"Redis: {error}" if str(error) else f"Redis: {type(error).__name__}")


def unknown(error: Exception) -> BrokerError:
    """Return our error for one that came after the first byte of the command was on its way."""
    return OutcomeUnknown(f"Redis did not answer ({type(error).__name__}): perhaps published")


def checked_version(info: bytes) -> None:
    """Refuse a server that is too old.

    Raises:
        BrokerUnavailable: It is older than Redis 7.0.
    """
    for line in info.decode(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key == "redis_version":
            digits = re.match(r"(\d+)\.(\d+)", value)
            if digits is None or tuple(map(int, digits.groups())) < OLDEST_REDIS:
                raise BrokerUnavailable(
                    f"Redis {value} is too old: 7.0 or later, or Valkey 7.2 or later, is needed"
                )
