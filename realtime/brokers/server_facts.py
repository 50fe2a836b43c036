"""Asks a Redis about its own state, for operators, with commands that it may forbid."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from realtime.core.redis_facts import RedisFacts, has_policy, parse_facts

if TYPE_CHECKING:
    from realtime.brokers.script import Args

INFO = ("INFO", "memory", "persistence", "replication", "server")
CONFIG = ("CONFIG", "GET", "maxmemory-policy")


async def read_facts(
    execute: Callable[[Sequence[Args]], Awaitable[list[Any]]], address: Callable[[], str]
) -> RedisFacts:
    """Return the state of one server.

    Args:
        execute: Executes commands on its connection.
        address: Returns the address that the connection leads to, once it is there.

    Raises:
        BrokerError: It does not answer.
    """
    refused = []
    [info] = await execute([INFO])
    if isinstance(info, exceptions.RedisError):
        refused.append("INFO")
        info = b""
    policy = ""
    if not has_policy(info):
        # Only then: Redis logs each command that it forbids (ACL LOG).
        [config] = await execute([CONFIG])
        if isinstance(config, exceptions.RedisError):
            refused.append("CONFIG GET")
        elif len(config) == 2:
            policy = config[1].decode(errors="replace")
    return parse_facts(address(), bytes(info), policy, refused)
