"""The link of one event loop to Redis: one multiplexed connection, replaced when it breaks.

A command has three outcomes, which depend on the *stage* at which it fails (ADR-0007). Before it is
written, it is certainly not executed. After its first byte, only a reply tells whether it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from realtime.brokers.commands import errors_of, is_of_no_master, lacks_script, unavailable
from realtime.brokers.connector import Connector
from realtime.brokers.pipeline import Pipeline

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
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py parses it.
        """
        self._connector = Connector(url)
        self._pipeline: Pipeline | None = None
        self._pipelines: set[Pipeline] = set()  # those that missed a deadline may still get replies
        self._connecting = asyncio.Lock()

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
        deadline = asyncio.get_running_loop().time() + seconds
        pipeline = self._pipeline
        if pipeline is None or not pipeline.is_open:
            pipeline = await self._new_pipeline(deadline)
        replies = await pipeline.publish(publication, combine, deadline)
        if errors := errors_of(replies):
            self._look_for_master(pipeline, errors)
            if lacks_script(errors):
                commands = [script.load, combine(publication)]
                _, *replies = await self._execute_until(commands, deadline)
        return replies

    async def execute(self, commands: Sequence[Args], seconds: float) -> list[Any]:
        """Return a reply or an error reply for each command; otherwise as `run_script`."""
        return await self._execute_until(commands, asyncio.get_running_loop().time() + seconds)

    async def connect(self) -> Connection:
        """Return a separate connection, which the caller must close.

        Raises:
            RedisError: Connecting failed.
            OSError: Connecting failed.
        """
        return await self._connector.connect()

    def retire(self) -> None:
        """Make the next command reconnect: the name may resolve to another Redis by now."""
        if self._pipeline is not None:
            self._pipeline.retire()

    async def aclose(self) -> None:
        """Close all connections, and open no more."""
        self._connector.close()
        await asyncio.gather(*[each.aclose() for each in self._pipelines])

    async def _execute_until(self, commands: Sequence[Args], deadline: float) -> list[Any]:
        pipeline = self._pipeline
        if pipeline is None or not pipeline.is_open:
            pipeline = await self._new_pipeline(deadline)
        replies = await pipeline.send(commands, deadline)
        self._look_for_master(pipeline, errors_of(replies))
        return replies

    def _look_for_master(self, pipeline: Pipeline, errors: Sequence[Exception]) -> None:
        if is_of_no_master(errors) and not pipeline.is_fresh:
            pipeline.retire()  # the name may resolve to the new master by now

    async def _new_pipeline(self, deadline: float) -> Pipeline:
        """Connect once for all concurrent callers; each waits until its own deadline.

        Raises:
            BrokerUnavailable: The connection was not ready in time.
        """
        try:
            async with asyncio.timeout_at(deadline), self._connecting:
                if self._pipeline is None or not self._pipeline.is_open:
                    self._pipeline = Pipeline(
                        await self._connector.connect(), self._pipelines.discard
                    )
                    self._pipelines.add(self._pipeline)
                return self._pipeline
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error
