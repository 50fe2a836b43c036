"""Answers what all nodes are asked, about this one."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from realtime import __version__
from realtime.brokers import Broker
from realtime.errors import BrokerError
from realtime.fanout import Listener
from realtime.registry import Registry
from realtime.survey import (
    NodeInfo,
    Question,
    channels_answer,
    matcher,
    node_answer,
    opened,
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

    def hear(self, raw: bytes) -> None:
        """Take what came on the channel of all nodes; what is no question is passed over."""
        question = opened(raw)
        if question is None or len(self._tasks) >= QUESTIONS_LIMIT:
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
            answer = node_answer(self._info())
        else:
            answer = channels_answer(self._channels(question.pattern))
        with suppress(BrokerError):
            await self._broker.answer(question.id, answer)

    def _channels(self, pattern: str) -> Iterator[tuple[str, int]]:
        fits = matcher(pattern)
        for channel in self._registry:
            if channel.listeners and not channel.name.startswith(OWN) and fits(channel.name):
                yield channel.name, len(channel.listeners)

    def _info(self) -> NodeInfo:
        clients, users = self._size()
        own = [channel for channel in self._registry if not channel.name.startswith(OWN)]
        return NodeInfo(
            uid=self._uid,
            name=f"{socket.gethostname()}_{os.getpid()}",
            version=__version__,
            num_clients=clients,
            num_users=users,
            num_subs=sum(len(channel.listeners) for channel in own),
            num_channels=sum(bool(channel.listeners) for channel in own),
            uptime=int(time.monotonic() - self._began),
        )
