"""The probe's rules: each publication is received, told as missed, or silently lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.client.probe_ledger import DEADLINE_SECONDS, DUE_LIMIT, ProbeLedger
from realtime.client.tracker import Tracker
from realtime.core import metrics
from realtime.core.meters import NOT_PUBLISHED, PUBLISHED, UNKNOWN
from realtime.core.positions import Gap, Position


def ledger() -> ProbeLedger:
    found = ProbeLedger(["a"])
    found.listeners["a"].note_live(Position("e", 0), 0.0)
    return found


@given(st.lists(st.sampled_from(["received", "told", "silent"]), max_size=30))
def test_exactly_what_was_neither_received_nor_told_is_silent(fates):
    """The tracker, between the wire and the ledger, finds the holes that nobody tells."""
    probe, tracker = ledger(), Tracker()
    tracker.note_subscribed(Position("e", 0))

    def note(missed):
        for each in missed:
            probe.note_gap("a", each.gap, each.reason)

    for offset, fate in enumerate(fates, 1):
        probe.note_published(PUBLISHED, Position("e", offset), 1.0)
        if fate == "told":
            note(tracker.note_gap(Gap("e", offset, offset), "broker"))
        elif fate == "received":
            _, missed = tracker.note_publication(offset, None)
            note(missed)
            probe.note_received("a", Position("e", offset), 0.01)
    probe.look(1.0 + DEADLINE_SECONDS)
    shown = probe.read()
    assert shown[metrics.PROBE_RECEIVED.name][()] == fates.count("received")
    assert shown[metrics.PROBE_MISSED.name]["broker",] == fates.count("told")
    assert probe.silent == fates.count("silent")


def test_what_a_live_listener_does_not_get_in_time_is_lost_silently_once():
    probe = ledger()
    probe.note_published(PUBLISHED, Position("e", 1), 5.0)
    assert probe.look(5.0 + DEADLINE_SECONDS - 0.1) == []
    [loss] = probe.look(5.0 + DEADLINE_SECONDS)
    assert loss == ("a", Position("e", 1))
    assert probe.look(100.0) == []
    assert probe.silent == 1


def test_the_reply_to_a_publish_may_come_after_the_publication():
    probe = ledger()
    probe.note_received("a", Position("e", 1), 0.01)
    probe.note_published(PUBLISHED, Position("e", 1), 1.0)
    assert probe.look(100.0) == []


@pytest.mark.parametrize("last", [2, None])
def test_the_reply_to_a_publish_may_come_after_the_gap_that_covers_it(last):
    """Otherwise a restart of Redis between a publication and its answer would be a silent loss."""
    probe = ledger()
    probe.note_gap("a", Gap("e", 1, last), "broker")
    if last is None:
        probe.note_received("a", Position("f", 1), 0.01)
    probe.note_published(PUBLISHED, Position("e", 2), 1.0)
    assert not probe.listeners["a"].is_owed
    assert probe.look(100.0) == []


def test_a_hole_that_the_listener_finds_itself_is_silent_and_not_counted_again():
    probe = ledger()
    for offset in (1, 2, 3):
        probe.note_published(PUBLISHED, Position("e", offset), 1.0)
    losses = probe.note_gap("a", Gap("e", 1, 2), "unknown")
    assert [loss.position.offset for loss in losses] == [1, 2]
    probe.note_received("a", Position("e", 3), 0.01)
    assert probe.look(100.0) == []
    assert probe.silent == 2


@pytest.mark.parametrize("last", [1, None])
def test_a_gap_that_is_told_is_no_silent_loss(last):
    probe = ledger()
    probe.note_published(PUBLISHED, Position("e", 1), 1.0)
    assert probe.note_gap("a", Gap("e", 1, last), "broker") == []
    assert probe.look(100.0) == []
    assert probe.silent == 0


def test_a_listener_that_was_away_has_the_whole_time_once_it_is_live():
    probe = ledger()
    probe.listeners["a"].note_away()
    probe.note_published(PUBLISHED, Position("e", 1), 1.0)
    assert probe.look(50.0) == []
    probe.listeners["a"].note_live(Position("e", 0), 60.0)
    assert probe.look(60.0 + DEADLINE_SECONDS - 0.1) == []
    assert len(probe.look(60.0 + DEADLINE_SECONDS)) == 1


def test_what_was_published_before_a_listener_came_is_not_for_it():
    probe = ProbeLedger(["a"])
    probe.note_published(PUBLISHED, Position("e", 1), 1.0)
    probe.listeners["a"].note_live(Position("e", 1), 2.0)
    assert probe.look(100.0) == []


def test_what_was_not_published_is_owed_to_nobody():
    probe = ledger()
    probe.note_published(NOT_PUBLISHED, None, 1.0)
    probe.note_published(UNKNOWN, None, 1.0)
    assert probe.look(100.0) == []
    assert probe.read()[metrics.PROBE_PUBLISHES.name] == {
        (PUBLISHED,): 0,
        (NOT_PUBLISHED,): 1,
        (UNKNOWN,): 1,
    }


def test_a_listener_that_is_away_for_days_owes_a_bounded_number():
    probe = ledger()
    probe.listeners["a"].note_away()
    for offset in range(1, DUE_LIMIT + 10):
        probe.note_published(PUBLISHED, Position("e", offset), 1.0)
    probe.listeners["a"].note_live(Position("e", 0), 2.0)
    assert len(probe.look(100.0)) == DUE_LIMIT
