"""A subscription under way: what has been prepared for it, and nothing that it permits.

Whoever holds one judges it when its turn comes, as often as something has moved it on, and drops it
in the end. Until `realtime.connection.Connection.joined` was called, it is nothing to anybody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from realtime.codes import INTERNAL_ERROR, PERMISSION_DENIED, Refusal
from realtime.connection import Join
from realtime.fanout import Listener
from realtime.hostcode import failure_of
from realtime.identity import Grant
from realtime.protocols import Subscribe
from realtime.registry import Channel
from realtime.tally import Tally

logger = logging.getLogger(__name__)
_failures = Tally()

YES_SECONDS = 10.0
"""For how long the host's yes counts; a subscribe that has waited longer is asked about again.

More than the host may take to decide and Redis to answer, together (5 s and 2 s): so the answer to
the step whose turn it is always counts.
"""
LIVE_SECONDS = 2.0
"""How long a subscribe waits for the broker; then it is refused as temporary: SDKs come again."""


class Joining:
    """One subscription that a client asks for, or is to be served."""

    __slots__ = (
        "_answer",
        "_asked_at",
        "_timer",
        "channel",
        "command",
        "join",
        "name",
        "refusal",
        "shown",
    )

    def __init__(
        self, name: str, command: Subscribe | None = None, join: Join | None = None
    ) -> None:
        """Prepare nothing yet.

        Args:
            name: Of the channel.
            command: What the client asked for; None where it is served, and no reply waits.
            join: As it was judged, if it was.
        """
        self.name = name
        self.command = command
        self.join = join
        """As it was judged last."""
        self.shown: Grant | Refusal | None = None
        """What its token was found to be; a token is verified once."""
        self.channel: Channel[Listener] | None = None
        """At the registry, as soon as the client may listen to it."""
        self.refusal: Refusal | None = None
        """Why it is refused when its turn comes, once it is given up."""
        self._answer: asyncio.Task[bool] | None = None
        self._asked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, answer: Coroutine[None, None, bool], then: Callable[[Joining], None]) -> None:
        """Let the host decide, and call ``then`` when it has; an earlier answer counts no more."""
        loop = asyncio.get_running_loop()
        self._asked_at = loop.time()
        self._answer = loop.create_task(answer)

        def came(task: asyncio.Task[bool]) -> None:
            failure_of(task)  # asyncio logs an error that nobody has looked at
            if task is self._answer:  # else it was dropped meanwhile
                then(self)

        self._answer.add_done_callback(came)

    @property
    def must_ask(self) -> bool:
        """Whether the host has to be asked, for the first time or again."""
        if self._answer is None:
            return True
        age = asyncio.get_running_loop().time() - self._asked_at
        return self._answer.done() and age > YES_SECONDS

    @property
    def is_answered(self) -> bool:
        """Whether the host has decided."""
        return self._answer is not None and self._answer.done()

    @property
    def is_allowed(self) -> bool:
        """Whether the host has said yes to something that exists."""
        assert self.join is not None  # noqa: S101 - it was judged before it was asked about
        is_yes = (
            self._answer is not None
            and self._answer.done()
            and failure_of(self._answer) is None
            and self._answer.result()
        )
        return is_yes and not self.join.is_void

    def why_not(self) -> Refusal | None:
        """Return the host's no, when it has decided or failed to."""
        assert self._answer is not None  # noqa: S101 - whoever calls this has seen the answer
        if (refusal := why_not(self._answer)) is not None:
            return refusal
        return None if self.is_allowed else PERMISSION_DENIED

    def be_patient(self, seconds: float, then: Callable[[Joining], None]) -> None:
        """Call ``then`` if it still waits for the broker after so long."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._ran_out, then)

    def _ran_out(self, then: Callable[[Joining], None]) -> None:
        self._timer = None
        if self.channel is None or not self.channel.is_live:
            then(self)  # else the broker is here, and what was said before takes so long

    def drop(self, release: Callable[[Channel[Listener]], None]) -> None:
        """Give back all that is prepared; doing it again does nothing."""
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
    """Return why not, when the host has decided or failed to."""
    if (error := failure_of(task)) is None:
        return None if task.result() else PERMISSION_DENIED
    count = _failures.add("authorizer", asyncio.get_running_loop().time())
    if count is not None:  # any client can ask again and again
        logger.error(
            "the authorizer failed: the client is refused for now (%d so far)",
            count,
            exc_info=error,
        )
    return INTERNAL_ERROR
