"""A record of what was published and what was received, and the check that they agree.

This is the proof of "never silent". Publishers record each attempt with its outcome; each client
records, per channel, what it received and what it was told it had missed; a fault is recorded with
its times. `violations` then checks all of it against the promise (docs/semantics.md):

* received and announced together are everything since the start, disjoint, in order, nothing twice;
* nothing was received that was answered "certainly not published", or that nobody published;
* one publication has one position, one position one publication, and what was published with one
  idempotency key is one publication, unless Redis lost its memory meanwhile;
* a gap is announced only during a fault or within `ANNOUNCED_SECONDS` of its end;
* a gap has an open end only if a fault can end an epoch.

All times are of one monotonic clock, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from realtime.core.positions import Gap, Position

ANNOUNCED_SECONDS = 2.0


class Outcome(Enum):
    """The outcome that a publisher was told."""

    PUBLISHED = "published"
    NOT_PUBLISHED = "certainly not published"
    UNKNOWN = "perhaps published"


@dataclass(slots=True)
class Attempt:
    """One publish; ``number`` is in its data, and the same in all its retries.

    The negative number is different data under the same idempotency key.
    """

    number: int
    channel: str
    began: float
    ended: float
    outcome: Outcome
    position: Position | None = None
    key: object = None
    """Its idempotency key."""


@dataclass(slots=True, frozen=True)
class Heard:
    """A publication reached a client."""

    at: float
    position: Position
    number: int


@dataclass(slots=True, frozen=True)
class Told:
    """A client was told what it had missed."""

    at: float
    gap: Gap
    reason: str


@dataclass(slots=True)
class Journal:
    """One client on one channel, from its first position on, through all its reconnects."""

    client: str
    channel: str
    at: float
    start: Position
    entries: list[Heard | Told] = field(default_factory=list)


@dataclass(slots=True)
class Fault:
    """A fault from ``began`` until everything could work again at ``ended``."""

    name: str
    began: float
    ended: float
    ends_epochs: bool = False
    forgets: bool = False
    """Whether Redis may have lost its data, including idempotency keys."""


@dataclass(slots=True)
class Summary:
    """A line of the table in docs/semantics.md."""

    clients: int
    published: int
    received: int
    announced: int
    open_gaps: int
    violations: int


class Ledger:
    """All records of one run."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.journals: list[Journal] = []
        self.faults: list[Fault] = []

    def violations(self) -> list[str]:
        """Return violations of the promise, one sentence each; empty if there are none."""
        found = list(_publishing(self.attempts, self.journals, self._forgotten()))
        found += _once(self.attempts, self._forgotten())
        for journal in self.journals:
            found += _told_in_order(journal)
            found += _told_in_time(journal, self.faults)
            found += _silently_lost(journal, self.attempts)
        return found

    def _forgotten(self) -> set[int]:
        """Return the numbers that were being published while Redis lost its data."""
        spans: dict[int, tuple[float, float]] = {}
        for attempt in self.attempts:
            began, ended = spans.get(abs(attempt.number), (attempt.began, attempt.ended))
            spans[abs(attempt.number)] = min(began, attempt.began), max(ended, attempt.ended)
        faults = [fault for fault in self.faults if fault.forgets]
        return {
            number
            for number, (began, ended) in spans.items()
            if any(fault.began <= ended and began <= fault.ended for fault in faults)
        }

    def summary(self) -> Summary:
        """Count."""
        entries = [entry for journal in self.journals for entry in journal.entries]
        gaps = [entry.gap for entry in entries if isinstance(entry, Told)]
        return Summary(
            clients=len({journal.client for journal in self.journals}),
            published=len({each.position for each in self.attempts if each.position}),
            received=sum(isinstance(entry, Heard) for entry in entries),
            announced=sum(gap.missed or 0 for gap in gaps),
            open_gaps=sum(gap.missed is None for gap in gaps),
            violations=len(self.violations()),
        )


def _once(attempts: list[Attempt], forgotten: set[int]) -> Iterator[str]:
    """Check that each idempotency key is one publication, with one answer."""
    answers: dict[object, tuple[int, Position | None]] = {}
    for attempt in attempts:
        if attempt.key is None or attempt.outcome is not Outcome.PUBLISHED:
            continue
        answer = attempt.number, attempt.position
        first = answers.setdefault(attempt.key, answer)
        if first != answer and abs(attempt.number) not in forgotten:
            yield f"with the key {attempt.key} was published: {first}, and then: {answer}"


def _publishing(
    attempts: list[Attempt], journals: list[Journal], forgotten: set[int]
) -> Iterator[str]:
    """Compare the publishers' answers with each other and with what clients received."""
    places: dict[tuple[str, Position], int] = {}
    numbers: dict[int, Position] = {}
    outcomes: dict[int, set[Outcome]] = {}

    def meet(channel: str, position: Position, number: int, who: str) -> Iterator[str]:
        if places.setdefault((channel, position), number) != number:
            yield f"{who}: two publications at {position} of {channel}"
        if numbers.setdefault(number, position) != position and abs(number) not in forgotten:
            yield f"{who}: {number} is at {position} and at {numbers[number]}"

    for attempt in attempts:
        outcomes.setdefault(attempt.number, set()).add(attempt.outcome)
        if attempt.position is not None:
            yield from meet(attempt.channel, attempt.position, attempt.number, "a publisher")
    for journal in journals:
        for entry in journal.entries:
            if isinstance(entry, Heard):
                yield from meet(journal.channel, entry.position, entry.number, journal.client)
                told = outcomes.get(entry.number)
                if told is None:
                    yield f"{journal.client} heard {entry.number}, which nobody published"
                elif told == {Outcome.NOT_PUBLISHED}:  # UNKNOWN among them may have been it
                    yield f"{journal.client} heard {entry.number}, certainly not published"


def _told_in_order(journal: Journal) -> Iterator[str]:
    """Check what the client received and was told: no hole, nothing twice."""
    epoch, after = journal.start
    ended = False
    """Whether an open gap has announced the end of the epoch."""
    left: dict[str, int] = {}
    """How far the client had come in epochs that ended. A master that was never demoted may become
    the master again: its epoch continues, although another one was between."""
    for entry in journal.entries:
        first, last = _span(entry)
        of = entry.position.epoch if isinstance(entry, Heard) else entry.gap.epoch
        where = f"{journal.client} on {journal.channel} at {entry.at:.3f}"
        if of != epoch:
            if not ended:
                yield f"{where}: epoch {epoch} ended without a word"
            left[epoch] = after
            epoch, after, ended = of, left.get(of, 0), of in left
        if ended:  # the epoch continues after all; the open gap covers everything up to here
            after, ended = max(after, first - 1), False
        if first > after + 1:
            yield f"{where}: silence about {after + 1} to {first - 1} of {epoch}"
        elif first <= after:
            yield f"{where}: {first} of {epoch} again, after {after}"
        if last is None:
            ended = True
            after = max(after, first - 1)
        else:
            after = max(after, last)


def _span(entry: Heard | Told) -> tuple[int, int | None]:
    if isinstance(entry, Heard):
        return entry.position.offset, entry.position.offset
    return entry.gap.first, entry.gap.last


def _told_in_time(journal: Journal, faults: list[Fault]) -> Iterator[str]:
    for entry in journal.entries:
        if isinstance(entry, Heard):
            continue
        during = [
            fault for fault in faults if fault.began <= entry.at <= fault.ended + ANNOUNCED_SECONDS
        ]
        where = f"{journal.client} on {journal.channel} at {entry.at:.3f}"
        if not during:
            yield f"{where}: {entry.gap} ({entry.reason}) outside of any fault"
        elif entry.gap.last is None and not any(fault.ends_epochs for fault in during):
            yield f"{where}: {entry.gap.epoch} ended by {', '.join(f.name for f in during)}"


def _silently_lost(journal: Journal, attempts: list[Attempt]) -> Iterator[str]:
    """Check that a client received, or was told it missed, all that was certainly published."""
    heard = {entry.position for entry in journal.entries if isinstance(entry, Heard)}
    gaps = [entry.gap for entry in journal.entries if isinstance(entry, Told)]
    known = {journal.start.epoch} | {p.epoch for p in heard} | {gap.epoch for gap in gaps}
    for attempt in attempts:
        position = attempt.position
        if attempt.channel != journal.channel or position is None or position in heard:
            continue
        if position.epoch == journal.start.epoch and position.offset <= journal.start.offset:
            continue
        if position.epoch not in known:
            # An epoch that came and went unseen is covered by the open end of the previous one; one
            # that had ended before the client came does not concern it.
            if attempt.ended < journal.at or any(gap.last is None for gap in gaps):
                continue
        elif any(_covers(gap, position) for gap in gaps):
            continue
        yield f"{journal.client} never heard of {attempt.number} at {position} of {journal.channel}"


def _covers(gap: Gap, position: Position) -> bool:
    return (
        gap.epoch == position.epoch
        and gap.first <= position.offset
        and (gap.last is None or position.offset <= gap.last)
    )
