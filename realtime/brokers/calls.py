"""The calls on one connection to Redis: how they are packed, and how replies are matched to them.

A publication shares its command with those that wait beside it: Redis then takes a third of the
time for each (ADR-0036).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hiredis import pack_command
from redis import exceptions

if TYPE_CHECKING:
    from asyncio import Future

    from realtime.brokers.script import Args
    from realtime.core.publication import Publication

Combine = Callable[..., "Args"]
"""Returns the command that publishes its arguments; the reply has an item for each."""
Outcome = Callable[[Exception], Exception]
"""Returns what to raise for an error, see `unavailable` and `unknown`."""
FINGERPRINT_BYTES = 64
OTHER_BYTES = 112
"""Bytes that a publication adds to a command besides its names and contents."""


class PendingReplies(Protocol):
    """What was sent: the call of one caller, or the shared command of several."""

    count: int
    """The number of replies."""
    replies: list[Any]
    """Those that have arrived."""

    @property
    def is_done(self) -> bool:
        """Whether nobody waits for it any more."""

    def answer(self) -> None:
        """Give the replies to those who wait; all of them have arrived."""

    def fail(self, outcome: Outcome, error: Exception) -> None:
        """Raise an error for each of those who wait."""

    def fail_overdue(self, now: float, outcome: Outcome) -> bool:
        """Fail what is overdue; return whether anything is."""


class RedisCall:
    """The commands of one caller, or the publication, until a connection has packed them."""

    __slots__ = (
        "combine",
        "count",
        "deadline",
        "future",
        "packed",
        "publication",
        "replies",
        "size",
    )

    def __init__(self, deadline: float, future: Future[list[Any]]) -> None:
        self.deadline = deadline
        self.future = future
        self.replies: list[Any] = []
        self.count = 1
        self.packed = b""
        self.size = 0
        self.publication: Publication | None = None
        self.combine: Combine | None = None

    @classmethod
    def of_commands(
        cls, commands: Sequence[Args], deadline: float, future: Future[list[Any]]
    ) -> RedisCall:
        """Return a call that needs a reply for each command."""
        call = cls(deadline, future)
        packed = [pack_command(command) for command in commands]  # type: ignore[arg-type]
        call.packed = packed[0] if len(packed) == 1 else b"".join(packed)
        call.count, call.size = len(packed), len(call.packed)
        return call

    @classmethod
    def of_publication(
        cls, publication: Publication, combine: Combine, deadline: float, future: Future[list[Any]]
    ) -> RedisCall:
        """Return a call that gets the reply that a command of its own would have."""
        call = cls(deadline, future)
        call.publication, call.combine = publication, combine
        call.size = _size_of(publication)
        return call

    @property
    def is_done(self) -> bool:
        """See `PendingReplies`."""
        return self.future.done()

    def answer(self) -> None:
        """See `PendingReplies`."""
        if not self.future.done():
            self.future.set_result(self.replies)

    def fail(self, outcome: Outcome, error: Exception) -> None:
        """See `PendingReplies`."""
        if not self.future.done():
            self.future.set_exception(outcome(error))

    def fail_overdue(self, now: float, outcome: Outcome) -> bool:
        """See `PendingReplies`."""
        if now > self.deadline:
            self.fail(outcome, TimeoutError())
            return True
        return False


class SharedCommand:
    """The publications of several callers in one command."""

    __slots__ = ("_calls", "count", "replies")

    def __init__(self, calls: Sequence[RedisCall]) -> None:
        self._calls = calls
        self.count = 1
        self.replies: list[Any] = []

    @property
    def is_done(self) -> bool:
        """See `PendingReplies`."""
        return all(call.is_done for call in self._calls)

    def answer(self) -> None:
        """See `PendingReplies`.

        Raises:
            ConnectionError: The reply is not one to this command.
        """
        [reply] = self.replies
        refused = isinstance(reply, Exception)
        if not refused and (type(reply) is not list or len(reply) != len(self._calls)):
            raise exceptions.ConnectionError("Redis sent an unexpected reply")
        for number, call in enumerate(self._calls):
            call.replies.append(reply if refused else [reply[number]])
            call.answer()

    def fail(self, outcome: Outcome, error: Exception) -> None:
        """See `PendingReplies`."""
        for call in self._calls:
            call.fail(outcome, error)

    def fail_overdue(self, now: float, outcome: Outcome) -> bool:
        """See `PendingReplies`."""
        overdue = [call.fail_overdue(now, outcome) for call in self._calls]
        return any(overdue)


def pack_calls(calls: Sequence[RedisCall]) -> tuple[bytes, list[PendingReplies]]:
    """Return the bytes of calls in their order, and how the replies are matched to them.

    A publication that cannot be packed fails, and nobody else.
    """
    parts: list[bytes] = []
    sent: list[PendingReplies] = []
    start = 0
    while start < len(calls):
        call, combine = calls[start], calls[start].combine
        end = start + 1
        if combine is None:
            parts.append(call.packed)
            call.packed = b""
            sent.append(call)
        else:
            while end < len(calls) and calls[end].combine is combine:
                end += 1
            _pack_together(calls[start:end], combine, parts, sent)
        start = end
    return b"".join(parts), sent


def _pack_together(
    calls: Sequence[RedisCall], combine: Combine, parts: list[bytes], sent: list[PendingReplies]
) -> None:
    try:
        command = combine(*[each.publication for each in calls])
        packed = bytes(pack_command(command))  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - a bug would leave all of them without an answer
        if len(calls) == 1:
            calls[0].fail(lambda cause: cause, error)
            return
        for call in calls:
            _pack_together([call], combine, parts, sent)
    else:
        parts.append(packed)
        sent.append(calls[0] if len(calls) == 1 else SharedCommand(calls))


def _size_of(publication: Publication) -> int:
    """Return the approximate size of a publication in a command."""
    size = len(publication.body) + 2 * len(publication.channel) + OTHER_BYTES
    size += len(publication.trace)
    if publication.idempotency_key is not None:
        size += len(publication.scope) + len(publication.channel)
        size += len(publication.idempotency_key) + FINGERPRINT_BYTES
    if publication.fallback is not None:
        size += len(publication.fallback.options) + len(publication.channel) + OTHER_BYTES
        size += len(publication.trace)
    return size
