"""Answers what all nodes are asked, about this one."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from realtime import __version__, survey
from realtime.brokers import Broker
from realtime.errors import BrokerError
from realtime.fanout import Listener
from realtime.registry import Channel, Registry
from realtime.survey import (
    NodeInfo,
    Question,
    channels_answer,
    matcher,
    node_answer,
)

QUESTIONS_LIMIT = 8
"""That are answered at the same time; the asker of another one waits in vain, and says so."""
OWN = "!"
"""How the names of channels begin that nodes have for themselves."""


class Clerk:
    """See the module. Belongs to one hub."""

    def __init__(
        self,
        broker: Broker,
        uid: str,
        registry: Registry[Listener],
        size: Callable[[], tuple[int, int]],
    ) -> None:
        """Begin.

        Args:
            broker: Takes the answers.
            uid: The name of the node.
            registry: Its channels.
            size: Tells how many connections and how many users it has.
        """
        self._broker = broker
        self._uid = uid
        self._registry = registry
        self._size = size
        self._began = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, question: Question) -> None:
        """Answer a question, unless there are too many already."""
        if len(self._tasks) >= QUESTIONS_LIMIT:
            return
        task = asyncio.get_running_loop().create_task(self._answer(question))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Answer nothing more."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, question: Question) -> None:
        if question.kind == "info":
            answer = node_answer(await self._info())
        else:
            answer = channels_answer(await self._channels(question.pattern))
        with suppress(BrokerError):
            await self._broker.answer(question.id, answer)

    async def _channels(self, pattern: str) -> dict[str, int]:
        """Return how many listen to each channel that fits; one more than may be listed is all."""
        fits = matcher(pattern)
        found: dict[str, int] = {}
        async for channel in self._heard():
            if fits(channel.name):
                found[channel.name] = len(channel.listeners)
                if len(found) > survey.CHANNELS_LIMIT:
                    break
        return found

    async def _info(self) -> NodeInfo:
        clients, users = self._size()
        heard = [len(channel.listeners) async for channel in self._heard()]
        return NodeInfo(
            uid=self._uid,
            name=f"{socket.gethostname()}_{os.getpid()}",
            version=__version__,
            num_clients=clients,
            num_users=users,
            num_subs=sum(heard),
            num_channels=len(heard),
            uptime=int(time.monotonic() - self._began),
        )

    async def _heard(self) -> AsyncIterator[Channel[Listener]]:
        """Yield the channels that somebody listens to, in slices.

        A node may have a hundred thousand, and nobody who asks for them shall hold up the others.
        """
        for number, channel in enumerate(list(self._registry), 1):
            if channel.listeners and not channel.name.startswith(OWN):
                yield channel
            if number % survey.SLICE == 0:
                await asyncio.sleep(0)
