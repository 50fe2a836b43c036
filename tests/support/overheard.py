"""What Redis is told meanwhile."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.redis_server import RedisServer


@contextmanager
def overheard(server: RedisServer) -> Iterator[list[str]]:
    """Take down all commands that reach a Redis; the list is full at the end (MONITOR)."""
    heard: list[str] = []
    marker = secrets.token_hex(8)
    with server.client() as client, client.monitor() as monitor:
        yield heard
        with server.client() as other:
            other.echo(marker)
        while marker not in (command := monitor.next_command()["command"]):
            heard.append(command)
