"""The link of one event loop to Redis: one multiplexed connection, replaced when it breaks.

A command has three outcomes, which depend on the *stage* at which it fails (ADR-0007). Before it is
written, it is certainly not executed. After its first byte, only a reply tells whether it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from realtime.brokers.commands import (
    SLOW_SECONDS,
    errors_of,
    is_of_no_master,
    lacks_script,
    stale,
    unavailable,
)
from realtime.brokers.connector import Connector
from realtime.brokers.pipeline import Pipeline
from realtime.brokers.sentinel import SentinelConnector
from realtime.core.redis_address import host_part
from realtime.core.redis_url import is_sentinel_url

if TYPE_CHECKING:
    from redis.asyncio.connection import Connection

    from realtime.brokers.calls import Combine
    from realtime.brokers.script import Args, Script
    from realtime.core.publication import Publication


class Link:
    """The link to Redis. Bound to one event loop; create it inside that loop."""

    def __init__(self, url: str) -> None:
        """Connect lazily.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py parses it; or
                ``redis+sentinel://`` or ``rediss+sentinel://``.
        """
        self._connector = SentinelConnector(url) if is_sentinel_url(url) else Connector(url)
        self._pipeline: Pipeline | None = None
        self._trusted_until = 0.0
        """Until then, the pipeline is assumed to lead to the master."""
        self._pipelines: set[Pipeline] = set()  # those that missed a deadline may still get replies
        self._connecting = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._last_look: tuple[Pipeline | None, float, bool] = (None, 0.0, False)
        """Whether the master was then another one than that of the pipeline, see `_distrust`."""

    async def run_script(
        self, script: Script, commands: Sequence[Args], seconds: float
    ) -> list[Any]:
        """Return a reply or an error reply for each command; load the script if Redis lacks it.

        Args:
            script: The script that every command calls.
            commands: The commands to execute.
            seconds: The timeout for all replies.

        Raises:
            BrokerUnavailable: Certainly not done.
            OutcomeUnknown: Perhaps done.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        replies = await self._execute_until(commands, deadline)
        if lacks_script(errors_of(replies)):
            # Every command calls the same script, so none was executed.
            replies = await self._execute_until([script.load, *commands], deadline)
            del replies[0]
        return replies

    async def publish(
        self, script: Script, publication: Publication, combine: Combine, seconds: float
    ) -> list[Any]:
        """Like `run_script` for one publication, batched with others that wait."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = now + seconds
        pipeline = self._pipeline
        if pipeline is None or not pipeline.is_open or now >= self._trusted_until:
            pipeline = await self._master_pipeline(deadline)
        sent_at = loop.time()
        replies = await pipeline.publish(publication, combine, deadline)
        if (arrived := loop.time()) - sent_at > SLOW_SECONDS and not self._connector.is_fixed:
            await self._distrust(pipeline, arrived)
        if errors := errors_of(replies):
            self._look_for_master(pipeline, errors)
            if lacks_script(errors):
                commands = [script.load, combine(publication)]
                _, *replies = await self._execute_until(commands, deadline)
        return replies

    async def execute(self, commands: Sequence[Args], seconds: float) -> list[Any]:
        """Return a reply or an error reply for each command; otherwise as `run_script`."""
        return await self._execute_until(commands, asyncio.get_running_loop().time() + seconds)

    async def connect(self, until: float) -> Connection:
        """Return a separate connection, which the caller must close.

        Args:
            until: How long to wait for a master, in seconds of the event loop.

        Raises:
            RedisError: Connecting failed.
            OSError: Connecting failed.
        """
        return await self._connector.connect(until)

    def watch(self, connection: Connection) -> Coroutine[None, None, None] | None:
        """Return a coroutine that ends when the master has moved; None for a fixed address."""
        return None if self._connector.is_fixed else self._watch(connection)

    @property
    def is_idle(self) -> bool:
        """Whether it has no connection."""
        return not self._pipelines

    @property
    def address(self) -> str:
        """Where the latest connection leads: ``host:port`` or ``unix socket``; empty without."""
        if self._pipeline is None:
            return ""
        connection = self._pipeline.connection
        host, port = getattr(connection, "host", ""), getattr(connection, "port", 0)
        return host_part((host, port)) if host else "unix socket"

    def retire(self) -> None:
        """Make the next command reconnect: the name may resolve to another Redis by now."""
        if self._pipeline is not None:
            self._pipeline.retire()

    async def aclose(self) -> None:
        """Close all connections, and open no more."""
        self._connector.close()
        await asyncio.gather(*[each.aclose() for each in self._pipelines])

    async def _execute_until(self, commands: Sequence[Args], deadline: float) -> list[Any]:
        loop = asyncio.get_running_loop()
        now = loop.time()
        pipeline = self._pipeline
        if pipeline is None or not pipeline.is_open or now >= self._trusted_until:
            pipeline = await self._master_pipeline(deadline)
        sent_at = loop.time()
        replies = await pipeline.send(commands, deadline)
        if (arrived := loop.time()) - sent_at > SLOW_SECONDS and not self._connector.is_fixed:
            await self._distrust(pipeline, arrived)
        self._look_for_master(pipeline, errors_of(replies))
        return replies

    def _look_for_master(self, pipeline: Pipeline, errors: Sequence[Exception]) -> None:
        if is_of_no_master(errors) and not pipeline.is_fresh:
            pipeline.retire()  # the name may resolve to the new master by now

    async def _watch(self, connection: Connection) -> None:
        """Return when the master has moved; until then, publishers need not ask for it."""

        def trust() -> None:
            pipeline = self._pipeline
            if pipeline is not None and _lead_to_same(pipeline.connection, connection):
                self._trust()

        await self._connector.watch(connection, trust)
        self.retire()

    def _trust(self) -> None:
        now = asyncio.get_running_loop().time()
        self._trusted_until = now + self._connector.trusted_seconds

    async def _master_pipeline(self, deadline: float) -> Pipeline:
        """Connect or look for the master once for all concurrent callers, until their deadlines.

        Raises:
            BrokerUnavailable: The connection was not ready in time.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline), self._connecting:
                pipeline = self._pipeline
                if pipeline is not None and pipeline.is_open:
                    if loop.time() < self._trusted_until:
                        return pipeline
                    await self._retire_if_moved(pipeline, (loop.time() + deadline) / 2)
                if pipeline is None or not pipeline.is_open:
                    pipeline = self._pipeline = Pipeline(
                        await self._connector.connect(), self._pipelines.discard
                    )
                    self._pipelines.add(pipeline)
                self._trust()
                return pipeline
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error

    async def _distrust(self, pipeline: Pipeline, arrived: float) -> None:
        """Look for the master after a late reply, once for all that have arrived by then.

        That may take half a second more than the deadline of a call.

        Raises:
            OutcomeUnknown: The reply comes from a former master.
        """
        async with self._looking:
            seen, looked_at, has_moved = self._last_look
            if seen is not pipeline or (looked_at < arrived and not has_moved):
                looked_at = asyncio.get_running_loop().time()
                has_moved = await self._connector.has_moved(pipeline.connection)
                self._last_look = pipeline, looked_at, has_moved
        if has_moved:
            pipeline.retire()
            raise stale()

    async def _retire_if_moved(self, pipeline: Pipeline, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                if await self._connector.has_moved(pipeline.connection):
                    pipeline.retire()
        except TimeoutError:
            return  # a connection that works is better than none


def _lead_to_same(one: Connection, other: Connection) -> bool:
    return (one.host, one.port) == (other.host, other.port)
