"""The ledger finds every fault that is planted in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.positions import Gap, Position
from tests.support.ledger import Attempt, Fault, Heard, Journal, Ledger, Outcome, Told

OLD, NEW = "0" * 16, "1" * 16
CHANNEL = "public:c"
LAST = 12
"""A marker is published on each channel at the end, and every client waits for it."""


def honest() -> Ledger:
    """Publications 1 to 12 at 12 moments; 5 to 7 were lost in a fault, and this was announced."""
    ledger = Ledger()
    ledger.faults = [Fault("redis was away", 5.0, 8.0)]
    for n in range(1, LAST + 1):
        attempt = Attempt(n, CHANNEL, n, n + 0.1, Outcome.PUBLISHED, Position(OLD, n))
        ledger.attempts.append(attempt)
    for client in ("a", "b"):
        journal = Journal(client, CHANNEL, 0.0, Position(OLD, 0))
        journal.entries = [Heard(n + 0.2, Position(OLD, n), n) for n in range(1, LAST + 1)]
        journal.entries[4:7] = [Told(8.5, Gap(OLD, 5, 7), "broker")]
        ledger.journals.append(journal)
    return ledger


def heard(offset: int, number: int | None = None, *, epoch: str = OLD, at: float = 9.0) -> Heard:
    return Heard(at, Position(epoch, offset), offset if number is None else number)


def test_an_honest_ledger_balances() -> None:
    ledger = honest()
    assert ledger.violations() == []
    summary = ledger.summary()
    assert (summary.clients, summary.published, summary.received) == (2, 12, 18)
    assert (summary.announced, summary.open_gaps, summary.violations) == (6, 0, 0)


def silent_drop(ledger: Ledger, journal: Journal) -> None:
    del journal.entries[1]


def duplicate(ledger: Ledger, journal: Journal) -> None:
    journal.entries.insert(2, journal.entries[1])


def swap(ledger: Ledger, journal: Journal) -> None:
    journal.entries[1], journal.entries[2] = journal.entries[2], journal.entries[1]


def forged_gap(ledger: Ledger, journal: Journal) -> None:
    """Reported as lost although nothing was broken: "announce everything" is not reliability."""
    journal.entries[1] = Told(2.2, Gap(OLD, 2, 2), "broker")


def lost_tail(ledger: Ledger, journal: Journal) -> None:
    journal.entries.pop()


def gap_too_short(ledger: Ledger, journal: Journal) -> None:
    journal.entries[4] = Told(8.5, Gap(OLD, 5, 6), "broker")


def gap_too_long(ledger: Ledger, journal: Journal) -> None:
    journal.entries[4] = Told(8.5, Gap(OLD, 5, 8), "broker")


def gap_too_late(ledger: Ledger, journal: Journal) -> None:
    journal.entries[4] = Told(10.5, Gap(OLD, 5, 7), "broker")


def gap_and_received(ledger: Ledger, journal: Journal) -> None:
    journal.entries.insert(5, heard(6))


def end_of_an_epoch_that_nothing_ended(ledger: Ledger, journal: Journal) -> None:
    journal.entries[4:] = [Told(8.5, Gap(OLD, 5, None), "broker"), heard(8, epoch=NEW)]


def epoch_used_again(ledger: Ledger, journal: Journal) -> None:
    """Redis returned with an older counter and the same epoch, so positions are ambiguous."""
    ledger.attempts.append(Attempt(99, CHANNEL, 13, 13.1, Outcome.PUBLISHED, Position(OLD, 6)))


def epoch_ends_without_a_word(ledger: Ledger, journal: Journal) -> None:
    ledger.attempts[-1].position = Position(NEW, 1)
    for each in ledger.journals:
        each.entries[-1] = heard(1, LAST, epoch=NEW)


def published_twice(ledger: Ledger, journal: Journal) -> None:
    """A retry with the same idempotency key was published again."""
    ledger.attempts[-1].number = LAST - 1


def other_data_with_a_used_key(ledger: Ledger, journal: Journal) -> None:
    """It was answered with 200 instead of 409."""
    ledger.attempts[-2].key = ledger.attempts[-1].key = "key"


def received_what_was_refused(ledger: Ledger, journal: Journal) -> None:
    ledger.attempts[1].outcome, ledger.attempts[1].position = Outcome.NOT_PUBLISHED, None


def received_what_nobody_published(ledger: Ledger, journal: Journal) -> None:
    del ledger.attempts[1]


def other_content_at_the_position(ledger: Ledger, journal: Journal) -> None:
    journal.entries[1] = heard(2, 3)


def never_heard_of_a_whole_epoch(ledger: Ledger, journal: Journal) -> None:
    ledger.attempts.append(Attempt(99, CHANNEL, 13, 13.1, Outcome.PUBLISHED, Position(NEW, 1)))


PLANTED = [
    silent_drop,
    duplicate,
    swap,
    forged_gap,
    lost_tail,
    gap_too_short,
    gap_too_long,
    gap_too_late,
    gap_and_received,
    end_of_an_epoch_that_nothing_ended,
    epoch_used_again,
    epoch_ends_without_a_word,
    published_twice,
    other_data_with_a_used_key,
    received_what_was_refused,
    received_what_nobody_published,
    other_content_at_the_position,
    never_heard_of_a_whole_epoch,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("victim", [0, 1])
def test_planted_faults_are_found(plant: Callable[[Ledger, Journal], None], victim: int) -> None:
    ledger = honest()
    plant(ledger, ledger.journals[victim])
    assert ledger.violations()


@given(st.integers(0, 1), st.data())
def test_every_publication_that_a_client_missed_is_found(victim: int, data: st.DataObject) -> None:
    ledger = honest()
    entries = ledger.journals[victim].entries
    gone = data.draw(st.sets(st.integers(0, len(entries) - 1), min_size=1))
    entries[:] = [entry for at, entry in enumerate(entries) if at not in gone]
    assert ledger.violations()


def test_publications_of_unknown_outcome_may_arrive_or_not() -> None:
    ledger = honest()
    for attempt in (ledger.attempts[1], ledger.attempts[5]):
        attempt.outcome, attempt.position = Outcome.UNKNOWN, None
    assert ledger.violations() == []


def test_a_retry_with_the_first_receipt_is_not_a_second_publication() -> None:
    ledger = honest()
    ledger.attempts.append(Attempt(12, CHANNEL, 14, 14.1, Outcome.PUBLISHED, Position(OLD, 12)))
    assert ledger.violations() == []


def test_a_fault_that_can_end_an_epoch_may_leave_its_end_open() -> None:
    ledger = honest()
    ledger.faults[0].ends_epochs = True
    for n, attempt in enumerate(ledger.attempts[7:], 1):
        attempt.position = Position(NEW, n)
    for journal in ledger.journals:
        after = [Told(8.5, Gap(OLD, 5, None), "broker"), Told(8.6, Gap(NEW, 1, 2), "broker")]
        journal.entries[4:] = [*after, *(heard(n, n + 7, epoch=NEW) for n in range(3, 6))]
    assert ledger.violations() == []


def test_an_unseen_epoch_is_covered_by_the_open_end_before_it() -> None:
    ledger = honest()
    ledger.faults[0].ends_epochs = True
    ledger.attempts[6].position = Position("2" * 16, 1)
    for n, attempt in enumerate(ledger.attempts[7:], 1):
        attempt.position = Position(NEW, n)
    for journal in ledger.journals:
        journal.entries[4:] = [
            Told(8.5, Gap(OLD, 5, None), "broker"),
            *(heard(n, n + 7, epoch=NEW) for n in range(1, 6)),
        ]
    assert ledger.violations() == []


@pytest.mark.parametrize("returns_at", [9, 4])
def test_an_epoch_may_continue_after_another_one_but_repeats_nothing(returns_at: int) -> None:
    """Sentinels return to a master that was never demoted."""
    ledger = honest()
    ledger.faults[0].ends_epochs = True
    ledger.attempts[7].position = Position(NEW, 1)
    for journal in ledger.journals:
        journal.entries[4:] = [
            Told(8.5, Gap(OLD, 5, None), "broker"),
            heard(1, 8, epoch=NEW),
            Told(8.7, Gap(NEW, 2, None), "broker"),
            *(heard(n) for n in range(returns_at, LAST + 1)),
        ]
    expected = [] if returns_at == 9 else ["4 of 0000000000000000 again, after 4"]
    found = [each.partition(": ")[2] for each in ledger.violations() if "again" in each]
    assert found == expected * 2
    assert bool(ledger.violations()) == bool(expected)


def test_publications_before_a_client_joined_do_not_count_for_it() -> None:
    ledger = honest()
    late = Journal("late", CHANNEL, 10.0, Position(OLD, 10))
    late.entries = [heard(11), heard(12)]
    ledger.journals.append(late)
    assert ledger.violations() == []


def twice_out(ledger: Ledger) -> None:
    """Publication 4 was sent, its reply was lost, and its retry during the fault was sent again."""
    fourth = ledger.attempts[3]
    fourth.outcome, fourth.position, fourth.key = Outcome.UNKNOWN, None, "key"
    retry = Attempt(4, CHANNEL, 7.0, 7.1, Outcome.PUBLISHED, Position(OLD, 8), "key")
    ledger.attempts[7] = retry
    for journal in ledger.journals:
        journal.entries[5] = heard(8, 4)


def test_a_retry_may_be_published_twice_only_after_redis_lost_its_data() -> None:
    ledger = honest()
    twice_out(ledger)
    assert ledger.violations()
    ledger.faults[0].forgets = True
    assert ledger.violations() == []
