"""The commands that Redis receives during a block."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.redis_server import RedisServer


@contextmanager
def overheard(server: RedisServer) -> Iterator[list[str]]:
    """Record all commands that reach a Redis (MONITOR); the list is complete after the block."""
    heard: list[str] = []
    marker = secrets.token_hex(8)
    with server.client() as client, client.monitor() as monitor:
        yield heard
        with server.client() as other:
            other.echo(marker)
        while marker not in (command := monitor.next_command()["command"]):
            heard.append(command)
