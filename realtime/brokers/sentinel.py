"""Connections to the master that sentinels name, for an event loop.

redis-py's own client asks one sentinel after the other, and recognizes a demoted master by READONLY
only. The master of yesterday accepts writes for ten seconds after `SENTINEL FAILOVER`, until a
sentinel makes it a replica, so the sentinels are asked again (ADR-0039).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from realtime.brokers.asking import ANSWER_SECONDS, ask_several
from realtime.brokers.connector import Connector, RedisServer, abort
from realtime.brokers.sentinel_commands import (
    POLL_SECONDS,
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
    from types import TracebackType

    from redis.asyncio.connection import Connection

    from realtime.brokers.script import Args
    from realtime.core.redis_url import Address


class SentinelConnector(Connector):
    """The factory of connections to the master that sentinels name."""

    trusted_seconds = TRUSTED_SECONDS
    is_fixed = False

    def __init__(self, url: str) -> None:
        """Parse the URL, without connecting yet.

        Args:
            url: ``redis+sentinel://`` or ``rediss+sentinel://``.

        Raises:
            ConfigurationError: The URL is invalid.
        """
        self._url = read_redis_url(url)
        assert self._url.sentinels is not None  # noqa: S101 - see `is_sentinel_url`
        self._sentinels = self._url.sentinels
        self._choice = MasterChoice(self._sentinels.master_name)
        self._is_closed = False
        self._failed_at = -RETRY_SECONDS
        self._failure = ""

    async def connect(self, until: float = 0.0) -> Connection:
        """See `Connector.connect`."""
        loop = asyncio.get_running_loop()
        while True:
            error: Exception
            if (pause := self._failed_at + RETRY_SECONDS - loop.time()) > 0:
                # Many publishers try at the same time, and there is no master for any of them.
                error = exceptions.ConnectionError(self._failure)
            else:
                try:
                    return self._unless_closed(await self._connect_to_master())
                except (exceptions.RedisError, OSError) as failed:
                    error, pause = failed, RETRY_SECONDS
                    self._failure, self._failed_at = str(failed), loop.time()
            if self._is_closed or loop.time() + pause >= until:
                raise error
            await asyncio.sleep(pause)

    async def has_moved(self, connection: Connection) -> bool:
        """See `Connector.has_moved`; False if no sentinel answers."""
        with self._client() as sentinels:
            return await self._has_moved(connection, sentinels)

    async def watch(self, connection: Connection, unmoved: Callable[[], None]) -> None:
        """See `Connector.watch`."""
        with self._client() as sentinels:
            while True:
                if await self._has_moved(connection, sentinels):
                    return
                unmoved()
                await asyncio.sleep(POLL_SECONDS)

    def _client(self) -> SentinelClient:
        return SentinelClient(
            sentinel_urls(self._url, self._sentinels), self._sentinels.master_name, self._choice
        )

    async def _has_moved(self, connection: Connection, sentinels: SentinelClient) -> bool:
        try:
            address = await sentinels.find_master()
            if address == (connection.host, connection.port):
                return False
            # A sentinel that was cut off may name a former master, which is a replica by now.
            async with asyncio.timeout(ANSWER_SECONDS):
                abort(await self._connect_to(address))
        except (exceptions.RedisError, OSError, TimeoutError):
            return False
        return True

    async def _connect_to_master(self) -> Connection:
        with self._client() as sentinels:
            while True:
                address = await sentinels.find_master()
                try:
                    async with asyncio.timeout(None) as limit:
                        return await self._connect_while_named(address, sentinels, limit)
                except TimeoutError:
                    continue  # a frozen master never answers; the sentinels name another one

    async def _connect_while_named(
        self, address: Address, sentinels: SentinelClient, limit: asyncio.Timeout
    ) -> Connection:
        """Return a connection; reach the limit as soon as the sentinels name another address."""

        async def watch() -> None:
            named = address
            while named == address:
                await asyncio.sleep(POLL_SECONDS)
                try:
                    named = await sentinels.find_master()
                except (exceptions.RedisError, OSError):
                    continue
            limit.reschedule(asyncio.get_running_loop().time())

        watching = asyncio.create_task(watch(), name="realtime watch of a connecting master")
        connection = None
        try:
            connection = await self._connect_to(address)
            return connection
        finally:
            watching.cancel()
            try:
                await asyncio.gather(watching, return_exceptions=True)
            except BaseException:  # the limit, or the deadline of the caller
                if connection is not None:
                    abort(connection)
                raise

    async def _connect_to(self, address: Address) -> Connection:
        connection = await RedisServer(master_url(self._url, address)).connect()
        try:
            [role] = await _ask(connection, [ROLE])
            refuse_replica(role, address)
        except BaseException:
            abort(connection)
            raise
        return connection


class SentinelClient:
    """Asks the sentinels of one master, and keeps a connection to each until it is closed.

    One task at a time may use it.
    """

    def __init__(self, urls: Sequence[str], name: str, choice: MasterChoice) -> None:
        self._name = name
        self._choice = choice
        self._servers = [RedisServer(each) for each in urls]
        self._open: dict[RedisServer, Connection] = {}

    def __enter__(self) -> SentinelClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for connection in self._open.values():
            abort(connection)

    async def find_master(self) -> Address:
        """Return the address of the master, of which nobody knows whether it works.

        Raises:
            RedisError: No sentinel names one.
        """
        answers, errors = await ask_several([self._answer_of(each) for each in self._servers])
        now = asyncio.get_running_loop().time()
        return self._choice.choose(answers, errors, now)

    async def _answer_of(self, server: RedisServer) -> MasterAnswer | Exception:
        connection = self._open.pop(server, None)
        try:
            if connection is None:
                connection = await server.connect()
            replies = await _ask(connection, ask_for_master(self._name))
            self._open[server] = connection
            return parse_answer(replies)
        except (exceptions.RedisError, OSError) as error:
            return error
        finally:
            if connection is not None and server not in self._open:
                abort(connection)


async def _ask(connection: Connection, commands: Sequence[Args]) -> list[Any]:
    """Return a reply or an error reply for each command."""
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    return [await _reply(connection) for _ in commands]


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except exceptions.ResponseError as error:
        return error
