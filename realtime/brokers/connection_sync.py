"""Connections to Redis for threads: their options and timeouts, and questions to several servers.

redis-py retries by default and has timeouts of its own. Both are disabled, as in
`realtime.brokers.connector`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool
from redis.retry import Retry

from realtime.brokers.asking import LATECOMER_SECONDS

if TYPE_CHECKING:
    from realtime.brokers.script import Args

A = TypeVar("A")
Q = TypeVar("Q")


def connection_options(seconds: float) -> dict[str, Any]:
    """Return the options of each connection; set them after parsing: URL options must not win.

    Args:
        seconds: The timeout for connecting, and for each reply until `allow` sets another one.
    """
    return {
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "protocol": 2,
    }


def allow(connection: Connection, seconds: float) -> None:
    """Limit the next read or write; before redis-py 8, `read_response` has no argument for it."""
    socket: Any = connection._sock
    if socket is not None:  # else the next call raises
        socket.settimeout(max(0.001, seconds))


def ask_server(url: str, commands: Sequence[Args], seconds: float) -> list[Any]:
    """Return a reply or an error reply for each command, on a connection of its own.

    Args:
        url: The URL of one server.
        commands: The commands.
        seconds: The timeout for connecting, and for each reply.

    Raises:
        RedisError: It does not answer.
        OSError: It does not answer.
    """
    with open_connection(url, seconds) as connection:
        return ask(connection, commands)


@contextmanager
def open_connection(url: str, seconds: float) -> Iterator[Connection]:
    """Connect to one server, and disconnect in the end; arguments and errors as `ask_server`."""
    pool = ConnectionPool.from_url(url)
    pool.connection_kwargs.update(connection_options(seconds))
    connection = cast("Connection", pool.make_connection())
    try:
        connection.connect()  # type: ignore[no-untyped-call]
        yield connection
    finally:
        connection.disconnect()  # type: ignore[no-untyped-call]


def ask(connection: Connection, commands: Sequence[Args]) -> list[Any]:
    """Return a reply or an error reply for each command."""
    packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
    connection.send_packed_command(packed, check_health=False)  # type: ignore[no-untyped-call]
    return [_reply(connection) for _ in commands]


def ask_several(
    asked: Sequence[Q], question: Callable[[Q], A], seconds: float
) -> tuple[list[A], list[Exception]]:
    """Ask several servers at once, and return the answers and errors that came in time.

    Args:
        asked: The servers.
        question: Asks one of them; it needs a timeout of its own, which ends its thread.
        seconds: How long to wait for all of them; for the minority, at most LATECOMER_SECONDS.

    Raises:
        RuntimeError: Python is shutting down, and starts no more threads.
    """
    answers: list[A] = []
    errors: list[Exception] = []
    until = time.monotonic() + seconds
    threads = ThreadPoolExecutor(len(asked), "realtime-question")
    try:
        asking = {threads.submit(question, each) for each in asked}
        while asking and (left := until - time.monotonic()) > 0:
            done, asking = wait(asking, left, FIRST_COMPLETED)
            for each in done:
                try:
                    answers.append(each.result())
                except (exceptions.RedisError, OSError) as error:
                    errors.append(error)
            if 2 * len(answers) > len(asked):
                until = min(until, time.monotonic() + LATECOMER_SECONDS)
    finally:
        threads.shutdown(wait=False)
    return answers, errors


def _reply(connection: Connection) -> Any:
    try:
        return connection.read_response()
    except exceptions.ResponseError as error:
        return error
