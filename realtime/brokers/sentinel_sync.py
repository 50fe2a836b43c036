"""Connections to the master that sentinels name, for threads; `sentinel` explains the rules.

The sentinels are asked by the thread that publishes, at most once a second; all others wait for it.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

from redis import exceptions
from redis.connection import BlockingConnectionPool, Connection, ConnectionPool, SSLConnection

from realtime.brokers.asking import ANSWER_SECONDS
from realtime.brokers.connection_sync import ask, ask_server, ask_several
from realtime.brokers.sentinel_commands import (
    RETRY_SECONDS,
    ROLE,
    TRUSTED_SECONDS,
    MasterAnswer,
    MasterChoice,
    ask_for_master,
    parse_answer,
    refuse_replica,
)
from realtime.core.redis_address import master_url, sentinel_urls
from realtime.core.redis_url import read_redis_url

if TYPE_CHECKING:
    from realtime.core.redis_url import Address

_ANYWHERE = ("localhost", 6379)  # each connection gets its address when it connects


class MasterFinder:
    """The address of the master, as all threads of a process know it."""

    def __init__(self, url: str, seconds: float) -> None:
        """Parse the URL, without connecting yet.

        Args:
            url: ``redis+sentinel://`` or ``rediss+sentinel://``.
            seconds: How long a lookup may take, at most.

        Raises:
            ConfigurationError: The URL is invalid.
        """
        self.url = read_redis_url(url)
        assert self.url.sentinels is not None  # noqa: S101 - see `is_sentinel_url`
        self._name = self.url.sentinels.master_name
        self._sentinels = sentinel_urls(self.url, self.url.sentinels)
        self._choice = MasterChoice(self._name)
        self._seconds = seconds
        self._answer_seconds = min(ANSWER_SECONDS, seconds / 2)
        self._lock = threading.Lock()
        self._known: Address | None = None
        self._failure = ""
        self._asked_at = self._looked_at = self._look_at = -TRUSTED_SECONDS

    def find(self, since: float = -math.inf) -> Address:
        """Return the address of the master; ask the sentinels if that is due.

        Args:
            since: An answer to an earlier question does not count, in seconds of `time.monotonic`.

        Raises:
            RedisError: No sentinel names one.
        """
        if not self._lock.acquire(timeout=self._seconds):
            raise exceptions.TimeoutError("the sentinels did not answer in time")
        try:
            if time.monotonic() >= self._look_at or self._asked_at < since:
                self._look()
            if self._known is None:
                raise exceptions.ConnectionError(self._failure)
            return self._known
        finally:
            self._lock.release()

    def forget_lock(self) -> None:
        """Let a forked process begin, whatever a thread of its parent was doing."""
        self._lock = threading.Lock()

    def doubt(self) -> None:
        """Ask again soon: a connection to the master has ended, or could not be opened."""
        self._look_at = min(self._look_at, self._looked_at + RETRY_SECONDS)

    def _look(self) -> None:
        self._asked_at = time.monotonic()
        try:
            named = self._ask_sentinels()
            if self._known not in (None, named):
                # A sentinel that was cut off may name a former master, a replica by now.
                self._check_role(named)
            self._known = named
        # While Python shuts down, threads cannot be started any more.
        except (exceptions.RedisError, RuntimeError) as error:
            self._failure = str(error)
        self._looked_at = time.monotonic()
        trusted = RETRY_SECONDS if self._known is None else TRUSTED_SECONDS
        self._look_at = self._looked_at + trusted

    def _ask_sentinels(self) -> Address:
        answers, errors = ask_several(self._sentinels, self._answer_of, self._answer_seconds)
        return self._choice.choose(answers, errors, time.monotonic())

    def _answer_of(self, sentinel: str) -> MasterAnswer:
        commands = ask_for_master(self._name)
        return parse_answer(ask_server(sentinel, commands, self._answer_seconds))

    def _check_role(self, address: Address) -> None:
        [role] = ask_server(master_url(self.url, address), [ROLE], self._answer_seconds)
        refuse_replica(role, address)


class _ToMaster(Connection):
    """A connection that leads to wherever the master is when it connects."""

    def __init__(self, *, finder: MasterFinder, **options: Any) -> None:
        self._finder = finder
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def connect(self) -> None:
        """Connect, and check the role of the server."""
        socket: Any = self._sock
        if socket is not None:
            return
        self.host, self.port = address = self._finder.find()
        super().connect()  # type: ignore[no-untyped-call]
        try:
            [role] = ask(self, [ROLE])
            refuse_replica(role, address)
        except BaseException:
            self.disconnect()
            raise

    def disconnect(self, *arguments: Any, **options: Any) -> None:
        """Disconnect, also after an error or if the server refuses as a replica."""
        self._finder.doubt()
        super().disconnect(*arguments, **options)  # type: ignore[no-untyped-call]


class _ToMasterByTls(_ToMaster, SSLConnection):
    pass


class MasterPool(BlockingConnectionPool):
    """A pool of connections to the master."""

    def __init__(self, finder: MasterFinder, **options: Any) -> None:
        self._finder = finder
        super().__init__(finder=finder, **options)  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, url: str, seconds: float, **options: Any) -> MasterPool:
        """Return a pool that connects lazily; arguments as for `MasterFinder`."""
        finder = MasterFinder(url, seconds)
        given = ConnectionPool.from_url(master_url(finder.url, _ANYWHERE)).connection_kwargs
        kind = _ToMasterByTls if finder.url.scheme == "rediss" else _ToMaster
        return cls(finder, connection_class=kind, **given, **options)

    def reset(self) -> None:
        """Begin anew, also in a forked process."""
        self._finder.forget_lock()
        super().reset()  # type: ignore[no-untyped-call]

    def has_moved(self, connection: Connection, since: float) -> bool:
        """Tell whether a connection leads to a former master; False if no sentinel answers.

        Args:
            connection: A connection of this pool.
            since: The sentinels are asked unless they were since then.
        """
        try:
            return (connection.host, connection.port) != self._finder.find(since)
        except exceptions.RedisError:
            return False

    def get_connection(self, *arguments: Any, **options: Any) -> Connection:
        """Return a connection to the master of now."""
        connection: Connection = super().get_connection(*arguments, **options)  # type: ignore[no-untyped-call]
        try:
            if (connection.host, connection.port) != self._finder.find():
                connection.disconnect()  # type: ignore[no-untyped-call]
                connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            self.release(connection)  # type: ignore[no-untyped-call]
            raise
        return connection
