"""Examines each Redis that a URL leads to, for a person who sets up or repairs a deployment.

It tells which commands a node may use without executing any of them: it queues them in a
transaction, where Redis already checks permissions (``ACL SETUSER``), and the transaction is never
executed. Redis records what it refuses in ``ACL LOG``. ``ACL DRYRUN`` would not, but a restricted
user may not call it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from realtime.brokers.asking import ANSWER_SECONDS
from realtime.brokers.cluster.blocking_topology import SyncClusterTopology
from realtime.brokers.connection_sync import ask, ask_server, open_connection
from realtime.brokers.sentinel_commands import ask_for_master, parse_answer
from realtime.brokers.sentinel_sync import MasterFinder
from realtime.brokers.server_facts import INFO
from realtime.core.partitions import PARTITIONS, WHOLE
from realtime.core.redis_address import host_part, master_url, sentinel_urls
from realtime.core.redis_facts import RedisFacts, ServerDiagnosis, parse_facts
from realtime.core.redis_url import read_redis_url

if TYPE_CHECKING:
    from redis.connection import Connection

    from realtime.brokers.script import Args
    from realtime.core.partitions import Partition
    from realtime.core.redis_url import Address, RedisUrl

NO_SCRIPT = "0" * 40
"""The SHA-1 of no script."""


def diagnose_servers(
    url: str, prefix: str, *, tries_commands: bool = True, seconds: float = ANSWER_SECONDS
) -> list[ServerDiagnosis]:
    """Examine the Redis of a URL: the master that sentinels name, or all masters of a cluster.

    Args:
        url: As `read_redis_url` takes it.
        prefix: The prefix of our keys and channels.
        tries_commands: Whether to find out which commands of a node are permitted.
        seconds: The timeout for connecting, and for each reply.

    Raises:
        ConfigurationError: The URL is invalid.
    """
    parsed = read_redis_url(url)
    trial = _Trial(prefix if tries_commands else "", seconds)
    if parsed.sentinels is not None:
        silent = _find_silent_sentinels(parsed, seconds)
        try:
            address = MasterFinder(url, 2 * seconds).find()
        except exceptions.RedisError as error:
            name = f"the master {parsed.sentinels.master_name}"
            return [*silent, _away(name, error)]
        found = trial.examine(master_url(parsed, address), host_part(address))
        return [*silent, found]
    if parsed.cluster:
        return _diagnose_cluster(parsed, trial, seconds)
    where = "unix socket" if parsed.scheme == "unix" else host_part((parsed.host, parsed.port))
    return [trial.examine(url, where)]


def commands_of_node(prefix: str, partition: Partition = WHOLE) -> list[Args]:
    """Return a call of each command that a node uses, with a key or channel of ours.

    They are the commands of the ACL in docs/deploy.md#redis, which a test compares.
    """
    name = f"{prefix}:{{{partition.tag}}}:check"
    own: list[Args] = [
        *(("EVALSHA", NO_SCRIPT, "0"), ("SCRIPT", "LOAD", "return 0"), ("INFO",), ("ROLE",)),
        *(("HMGET", name, "f"), ("HSET", name, "f", "v"), ("HEXISTS", name, "f")),
        *(("HGET", name, "f"), ("HGETALL", name), ("HSCAN", name, "0"), ("HVALS", name)),
        *(("HLEN", name), ("HDEL", name, "f"), ("HINCRBY", name, "f", "1")),
        *(("LLEN", name), ("LINDEX", name, "0"), ("LRANGE", name, "0", "0")),
        *(("LREM", name, "0", "v"), ("RPUSH", name, "v"), ("LPUSH", name, "v")),
        *(("ZCARD", name), ("ZRANGE", name, "0", "0"), ("ZRANGEBYSCORE", name, "0", "0")),
        *(("ZCOUNT", name, "0", "0"), ("ZSCORE", name, "m"), ("ZREM", name, "m")),
        *(("ZADD", name, "0", "m"), ("ZREMRANGEBYSCORE", name, "0", "0")),
        *(("SADD", name, "m"), ("SREM", name, "m"), ("SCARD", name), ("SRANDMEMBER", name)),
        *(("PING",), ("XADD", name, "*", "f", "v"), ("XRANGE", name, "-", "+")),
        *(("INCRBY", name, "1"), ("DECRBY", name, "1"), ("UNLINK", name)),
        *(("MEMORY", "USAGE", name), ("EXPIRE", name, "1"), ("TTL", name)),
        *(("GET", name), ("SET", name, "v"), ("TIME",), ("PUBLISH", name, "")),
        *(("PUBSUB", "NUMSUB", name), ("SUBSCRIBE", name), ("UNSUBSCRIBE", name)),
    ]
    if not partition.is_sharded:
        return own
    return [
        *own,
        *(("SSUBSCRIBE", name), ("SUNSUBSCRIBE", name), ("SPUBLISH", name, "")),
        *(("PUBSUB", "SHARDNUMSUB", name), ("CLUSTER", "SLOTS"), ("CLUSTER", "INFO")),
        ("ASKING",),
    ]


CONTAINERS = ("SCRIPT", "MEMORY", "PUBSUB", "CLUSTER")
"""Commands whose first argument is part of their name."""


def name_in_acl(command: Args) -> str:
    """Return the name of a command as an ACL writes it."""
    words = command[:2] if command[0] in CONTAINERS else command[:1]
    return "|".join(map(str, words)).lower()


class _Trial:
    """Examines servers, all in the same way."""

    def __init__(self, prefix: str, seconds: float) -> None:
        self._prefix = prefix
        """Empty if no commands are tried."""
        self._seconds = seconds

    def examine(self, url: str, where: str, partition: Partition = WHOLE) -> ServerDiagnosis:
        """Return what is found at one server.

        Args:
            url: Its URL.
            where: What to call it.
            partition: One of its partitions.
        """
        try:
            with open_connection(url, self._seconds) as connection:
                return self._examine(connection, where, partition)
        except (exceptions.RedisError, OSError) as error:
            return _away(where, error)

    def _examine(self, connection: Connection, where: str, partition: Partition) -> ServerDiagnosis:
        began, asked_at = time.monotonic(), time.time()
        [now] = ask(connection, [("TIME",)])
        seconds = time.monotonic() - began
        offset = None
        if not isinstance(now, exceptions.RedisError):
            offset = int(now[0]) + int(now[1]) / 1e6 - (asked_at + seconds / 2)
        [info] = ask(connection, [INFO])
        if isinstance(info, exceptions.ResponseError) and not _is_refusal(info):
            [info] = ask(connection, [("INFO",)])  # before Redis 7.0, it takes one section
        is_told = not isinstance(info, exceptions.RedisError)
        facts = parse_facts(where, bytes(info) if is_told else b"", "", [] if is_told else ["INFO"])
        refused, failure = self._try_commands(connection, partition)
        return ServerDiagnosis(
            facts=facts,
            failure=failure,
            seconds=seconds,
            clock_offset_seconds=offset,
            has_tried_commands=bool(self._prefix),
            refused_commands=tuple(name for name in refused if name not in ("key", "channel")),
            refuses_keys="key" in refused,
            refuses_channels="channel" in refused,
        )

    def _try_commands(
        self, connection: Connection, partition: Partition
    ) -> tuple[Sequence[str], str]:
        """Return what is refused, and why anything else is: Redis is loading, for example."""
        if not self._prefix:
            return (), ""
        [begun] = ask(connection, [("MULTI",)])
        if isinstance(begun, exceptions.RedisError):
            # Without a transaction, the commands would be executed.
            return (("multi",), "") if _is_refusal(begun) else ((), str(begun))
        commands = commands_of_node(self._prefix, partition)
        replies = ask(connection, commands)
        # GET without a key is an error that makes EXEC fail, so that nothing is executed.
        [error] = ask(connection, [("GET",)])
        if isinstance(error, exceptions.RedisError):
            replies += ask(connection, [("EXEC",)])
            commands.append(("EXEC",))
        refused = dict.fromkeys(
            _what_is_refused(command, reply)
            for command, reply in zip(commands, replies, strict=True)
            if _is_refusal(reply)
        )
        return list(refused), _other_failure(replies)


def _is_refusal(reply: Any) -> bool:
    return isinstance(reply, exceptions.NoPermissionError)


def _what_is_refused(command: Args, refusal: Exception) -> str:
    """Return ``key`` or ``channel`` if the command is permitted, but not for this name."""
    text = str(refusal)
    return next(
        (what for what in ("key", "channel") if f"access a {what}" in text), name_in_acl(command)
    )


def _other_failure(replies: Sequence[Any]) -> str:
    """Return the first error that is neither a refusal nor the end of the transaction."""
    expected = (exceptions.NoPermissionError, exceptions.ExecAbortError)
    others = [
        reply
        for reply in replies
        if isinstance(reply, exceptions.RedisError) and not isinstance(reply, expected)
    ]
    return str(others[0]) if others else ""


def _find_silent_sentinels(url: RedisUrl, seconds: float) -> list[ServerDiagnosis]:
    assert url.sentinels is not None  # noqa: S101 - the caller has looked
    found = []
    addresses = url.sentinels.addresses
    for address, sentinel in zip(addresses, sentinel_urls(url, url.sentinels), strict=True):
        commands = ask_for_master(url.sentinels.master_name)
        try:
            parse_answer(ask_server(sentinel, commands, seconds))
        except (exceptions.RedisError, OSError) as error:
            found.append(_away(host_part(address), error, is_sentinel=True))
    return found


def _diagnose_cluster(url: RedisUrl, trial: _Trial, seconds: float) -> list[ServerDiagnosis]:
    topology = SyncClusterTopology(url, 2 * seconds)
    topology.refresh_since(time.monotonic(), time.monotonic() + 2 * seconds)
    owned: dict[Address, Partition] = {}
    homeless = []
    for partition in PARTITIONS:
        owner = topology.known_owner(partition)
        if owner is None:
            homeless.append(partition)
        else:
            owned.setdefault(owner, partition)
    found = [
        trial.examine(master_url(url, address), host_part(address), partition)
        for address, partition in sorted(owned.items())
    ]
    if homeless:
        found.append(_away("the cluster", topology.missing(homeless[0])))
    return found


def _away(where: str, error: Exception, *, is_sentinel: bool = False) -> ServerDiagnosis:
    facts = RedisFacts(address=where, is_away=True)
    return ServerDiagnosis(facts=facts, is_sentinel=is_sentinel, failure=str(error))
