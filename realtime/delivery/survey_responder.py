"""Answers surveys of all nodes on behalf of this node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from realtime._version import __version__
from realtime.core import survey
from realtime.core.connection_survey import decode_query
from realtime.core.names import INTERNAL_PREFIX
from realtime.core.node_report import NodeReport, encode_report, seconds_of
from realtime.core.survey import (
    NodeInfo,
    Question,
    channels_answer,
    matcher,
    node_answer,
)
from realtime.delivery.node_reporter import node_name
from realtime.errors import BrokerError

if TYPE_CHECKING:
    from realtime.brokers import Broker
    from realtime.delivery.connection_lister import ConnectionLister
    from realtime.delivery.listeners import Listener
    from realtime.delivery.registry import Channel, Registry

QUESTIONS_LIMIT = 8
"""Concurrent questions that are answered; further ones time out at the asking node."""


class SurveyResponder:
    """See the module. Belongs to one hub."""

    def __init__(
        self,
        broker: Broker,
        uid: str,
        registry: Registry[Listener],
        size: Callable[[], tuple[int, int]],
        lister: ConnectionLister,
        report: Callable[[int], NodeReport],
    ) -> None:
        """Start without questions.

        Args:
            broker: Receives the answers.
            uid: The name of the node.
            registry: The channels of the node.
            size: Returns the number of connections and the number of users.
            lister: Lists the connections of the node.
            report: Returns the report of the node, with so many seconds of its past.
        """
        self._broker = broker
        self._uid = uid
        self._registry = registry
        self._size = size
        self._lister = lister
        self._report = report
        self._began = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, question: Question) -> None:
        """Answer a question, unless too many are pending already."""
        if len(self._tasks) >= QUESTIONS_LIMIT:
            return
        task = asyncio.get_running_loop().create_task(self._answer(question))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Cancel all pending answers."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, question: Question) -> None:
        if question.kind == "info":
            answer = node_answer(await self._info())
        elif question.kind == "channels":
            answer = channels_answer(await self._channels(question.wanted))
        elif question.kind == "metrics":
            answer = encode_report(self._report(seconds_of(question.wanted)))
        elif (query := decode_query(question.wanted)) is not None:
            answer = await self._lister.answer(query, node_name())
        else:  # of a newer version: the node stays silent, and is counted as such
            return
        with suppress(BrokerError):
            await self._broker.answer(question.id, answer)

    async def _channels(self, pattern: str) -> dict[str, int]:
        """Return the number of listeners per matching channel; stop one channel above the limit."""
        fits = matcher(pattern)
        found: dict[str, int] = {}
        async for channel in self._each_channel():
            if fits(channel.name):
                found[channel.name] = len(channel.listeners)
                if len(found) > survey.CHANNELS_LIMIT:
                    break
        return found

    async def _info(self) -> NodeInfo:
        clients, users = self._size()
        heard = [len(channel.listeners) async for channel in self._each_channel()]
        return NodeInfo(
            uid=self._uid,
            name=node_name(),
            version=__version__,
            num_clients=clients,
            num_users=users,
            num_subs=sum(heard),
            num_channels=len(heard),
            uptime=int(time.monotonic() - self._began),
        )

    async def _each_channel(self) -> AsyncIterator[Channel[Listener]]:
        """Yield the channels with listeners, in slices.

        A node may have a hundred thousand channels, and listing them must not stall the event loop.
        """
        for number, channel in enumerate(list(self._registry), 1):
            if channel.listeners and not channel.name.startswith(INTERNAL_PREFIX):
                yield channel
            if number % survey.SLICE == 0:
                await asyncio.sleep(0)
