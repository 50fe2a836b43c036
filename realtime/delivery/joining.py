"""A pending subscription and its stages. It grants no permission yet.

The owner of a `Joining` validates it when its turn comes and again after each step, and finally
drops it. It takes effect only with
`realtime.connection.client_channels.ClientChannels.start_subscription`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import TYPE_CHECKING

from realtime.connection.hostcode import failure_of
from realtime.core.codes import INTERNAL_ERROR, PERMISSION_DENIED, Refusal
from realtime.core.namespaces import BY_AUTHORIZER, UNKNOWN_NAMESPACE
from realtime.core.tally import Tally

if TYPE_CHECKING:
    from realtime.connection.decisions import Join
    from realtime.core.identity import Grant
    from realtime.delivery.listeners import Listener
    from realtime.delivery.registry import Channel
    from realtime.protocols import Subscribe

logger = logging.getLogger(__name__)
_failures = Tally()

YES_SECONDS = 10.0
"""How long the host's permission is valid; after a longer wait, the host is asked again.

More than the timeouts of the host and of Redis together (5 s and 2 s), so the permission of the
step at the head of the queue is always valid.
"""
LIVE_SECONDS = 2.0
"""How long a subscribe waits for the broker; then it is refused temporarily, and SDKs retry."""


class Stage(Enum):
    """The next step of a pending subscription, or its result."""

    ASK_HOST = auto()
    """The host must be asked, for the first time or again."""
    WAIT_FOR_HOST = auto()
    """The host has not answered yet."""
    REFUSED = auto()
    """The host has refused, or an earlier step has failed: see `Joining.refusal`."""
    JOIN_CHANNEL = auto()
    """The node must subscribe to the channel."""
    WAIT_FOR_BROKER = auto()
    """The channel is not live yet, or no longer."""
    READY = auto()
    """The subscription can start."""


class Joining:
    """One pending subscription, requested by the client or by the server."""

    __slots__ = (
        "_answer",
        "_asked_at",
        "_timer",
        "channel",
        "command",
        "join",
        "name",
        "refusal",
        "token_grant",
    )

    def __init__(
        self, name: str, command: Subscribe | None = None, join: Join | None = None
    ) -> None:
        """Start with nothing prepared.

        Args:
            name: The name of the channel.
            command: The client's command; None for a server-side subscription without a reply.
            join: The result of its validation, if it was validated.
        """
        self.name = name
        self.command = command
        self.join = join
        """The result of the latest validation."""
        self.token_grant: Grant | Refusal | None = None
        """The result of verifying its token; a token is verified once."""
        self.channel: Channel[Listener] | None = None
        """The registry's channel, once the client is allowed to subscribe to it."""
        self.refusal: Refusal | None = None
        """The refusal to send when its turn comes, once it has failed."""
        self._answer: asyncio.Task[bool] | None = None
        self._asked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, answer: Coroutine[None, None, bool], then: Callable[[Joining], None]) -> None:
        """Ask the host, and call ``then`` with its decision; replaces an earlier answer."""
        loop = asyncio.get_running_loop()
        self._asked_at = loop.time()
        self._answer = loop.create_task(answer)

        def use_answer(task: asyncio.Task[bool]) -> None:
            failure_of(task)  # asyncio logs an exception that was never retrieved
            if task is self._answer:  # else it was dropped or replaced
                then(self)

        self._answer.add_done_callback(use_answer)

    def next_stage(self) -> Stage:
        """Return the stage of the subscription; record the host's refusal, if there is one."""
        assert self.join is not None  # noqa: S101 - callers have validated it
        if self.refusal is not None:
            return Stage.REFUSED
        if self.join.must_ask:
            if self._answer is None:
                return Stage.ASK_HOST
            if not self._answer.done():
                return Stage.WAIT_FOR_HOST
            if asyncio.get_running_loop().time() - self._asked_at > YES_SECONDS:
                return Stage.ASK_HOST
            self.refusal = self._why_not(self._answer)
            if self.refusal is not None:
                return Stage.REFUSED
        if self.channel is None:
            return Stage.JOIN_CHANNEL
        return Stage.READY if self.channel.is_live else Stage.WAIT_FOR_BROKER

    @property
    def is_allowed(self) -> bool:
        """Whether the host has allowed a channel that exists."""
        assert self.join is not None  # noqa: S101 - it was validated before the host was asked
        is_yes = (
            self._answer is not None
            and self._answer.done()
            and failure_of(self._answer) is None
            and self._answer.result()
        )
        return is_yes and not self.join.is_refused_anyway

    def _why_not(self, answer: asyncio.Task[bool]) -> Refusal | None:
        """Return the host's refusal, once it has decided or failed."""
        assert self.join is not None  # noqa: S101 - see `next_stage`
        refusal = why_not(answer)
        if refusal is None and self.is_allowed:
            return None
        if refusal is INTERNAL_ERROR:
            return refusal
        return PERMISSION_DENIED._replace(
            because=UNKNOWN_NAMESPACE if self.join.is_refused_anyway else BY_AUTHORIZER
        )

    def start_timer(self, seconds: float, then: Callable[[Joining], None]) -> None:
        """Call ``then`` if the subscription still waits for the broker after this time."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._run_out, then)

    def _run_out(self, then: Callable[[Joining], None]) -> None:
        self._timer = None
        if self.channel is None or not self.channel.is_live:
            then(self)  # else the broker is reachable, and earlier commands are slow

    def drop(self, release: Callable[[Channel[Listener]], None]) -> None:
        """Release everything that is prepared; idempotent."""
        if self._answer is not None:
            self._answer.cancel()
            self._answer = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.channel is not None:
            channel, self.channel = self.channel, None
            del channel.waiting[self]
            release(channel)


def why_not(task: asyncio.Task[bool]) -> Refusal | None:
    """Return the refusal, once the host has decided or failed; None if it allowed."""
    if (error := failure_of(task)) is None:
        return None if task.result() else PERMISSION_DENIED
    count = _failures.add("authorizer", asyncio.get_running_loop().time())
    if count is not None:  # any client can repeat it
        logger.error(
            "REALTIME_AUTHORIZER failed: the client is refused for now (%d so far)",
            count,
            exc_info=error,
        )
    return INTERNAL_ERROR
