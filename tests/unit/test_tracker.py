"""The law of a client's positions: received ∪ gaps = everything, disjoint, in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.gaps import Gap, Position
from realtime.tracker import EPOCHS_LIMIT, Missed, Tracker

A, B = "a" * 16, "b" * 16


def subscribed(epoch: str, offset: int) -> Tracker:
    tracker = Tracker()
    assert tracker.position is None
    assert tracker.subscribed(Position(epoch, offset)) == []
    return tracker


def missed(epoch: str, first: int, last: int | None, reason: str) -> Missed:
    return Missed(Gap(epoch, first, last), reason)


def test_the_next_offset_is_new_and_misses_nothing() -> None:
    tracker = subscribed(A, 7)
    assert tracker.publication(8, None) == (True, [])
    assert tracker.position == Position(A, 8)


def test_what_the_start_position_counts_is_not_new() -> None:
    assert subscribed(A, 7).publication(7, None) == (False, [])


def test_a_hole_that_nobody_announced_is_reported_once() -> None:
    tracker = subscribed(A, 7)
    assert tracker.publication(10, None) == (True, [missed(A, 8, 9, "unknown")])
    assert tracker.publication(11, None) == (True, [])


def test_a_new_epoch_that_nobody_announced_ends_the_old_one_openly() -> None:
    tracker = subscribed(A, 7)
    expected = [missed(A, 8, None, "unknown"), missed(B, 1, 2, "unknown")]
    assert tracker.publication(3, B) == (True, expected)


def test_before_the_first_reply_a_publication_is_just_new() -> None:
    assert Tracker().publication(5, None) == (True, [])


def test_a_return_in_the_same_epoch_reports_exactly_what_was_missed() -> None:
    tracker = subscribed(A, 7)
    assert tracker.subscribed(Position(A, 9)) == [missed(A, 8, 9, "reconnect")]
    assert tracker.publication(10, None) == (True, [])


def test_a_return_in_another_epoch_reports_the_open_end_and_the_new_beginning() -> None:
    tracker = subscribed(A, 7)
    expected = [missed(A, 8, None, "reconnect"), missed(B, 1, 2, "reconnect")]
    assert tracker.subscribed(Position(B, 2)) == expected


def test_a_return_through_a_node_that_is_behind_computes_no_gap_backwards() -> None:
    tracker = subscribed(A, 7)
    assert tracker.subscribed(Position(A, 5)) == []
    assert tracker.publication(6, None) == (False, [])
    assert tracker.publication(7, None) == (False, [])
    assert tracker.publication(8, None) == (True, [])


def test_a_return_through_a_node_in_an_older_epoch_is_no_new_epoch() -> None:
    tracker = subscribed(A, 7)
    tracker.publication(1, B)
    assert tracker.subscribed(Position(A, 7)) == []
    assert tracker.publication(2, B) == (True, [])


def test_an_epoch_that_was_reported_as_ended_and_lives_is_counted_from_where_it_is_now() -> None:
    """Two nodes disagreed for a moment; up to 20 its open gap has told already."""
    tracker = subscribed(A, 7)
    tracker.publication(1, B)
    assert tracker.subscribed(Position(A, 20)) == []
    assert tracker.publication(22, None) == (True, [missed(A, 21, 21, "unknown")])


def test_an_announced_gap_is_passed_on_without_what_is_known() -> None:
    tracker = subscribed(A, 7)
    assert tracker.gap(Gap(A, 6, 9), "slow") == [missed(A, 8, 9, "slow")]
    assert tracker.gap(Gap(A, 6, 9), "slow") == []
    assert tracker.publication(10, None) == (True, [])


def test_an_announced_gap_that_leaves_a_hole_before_it_reports_both() -> None:
    tracker = subscribed(A, 7)
    expected = [missed(A, 8, 9, "unknown"), missed(A, 10, 11, "slow")]
    assert tracker.gap(Gap(A, 10, 11), "slow") == expected


def test_an_announced_end_of_an_epoch_is_reported_once() -> None:
    tracker = subscribed(A, 7)
    assert tracker.gap(Gap(A, 8, None), "broker") == [missed(A, 8, None, "broker")]
    assert tracker.gap(Gap(A, 8, None), "broker") == []
    assert tracker.publication(1, B) == (True, [])


def test_after_an_open_gap_the_counter_of_the_same_epoch_may_go_back() -> None:
    tracker = subscribed(A, 7)
    tracker.gap(Gap(A, 8, None), "broker")
    assert tracker.publication(3, None) == (True, [])
    assert tracker.publication(4, None) == (True, [])


def test_it_remembers_a_bounded_number_of_epochs() -> None:
    tracker = subscribed("0", 0)
    for n in range(1, 3 * EPOCHS_LIMIT):
        tracker.publication(1, str(n))
    assert len(tracker._epochs) == EPOCHS_LIMIT


class World:
    """A channel whose counter restarts, a server that loses and tells, a client that comes back."""

    def __init__(self) -> None:
        self.epoch, self.offset = 0, 0
        self.tracker = Tracker()
        self.published: dict[int, int] = {}
        self.covered: dict[int, list[tuple[int, int | None]]] = {}
        self.last_sent = (-1, 0)
        self.tracker.subscribed(Position("0", 0))

    def publish(self) -> None:
        self.offset += 1
        self.published[self.epoch] = self.offset

    def send(self) -> None:
        named = None if self.last_sent[0] == self.epoch else str(self.epoch)
        self.last_sent = (self.epoch, self.offset)
        new, gaps = self.tracker.publication(self.offset, named)
        self.cover(gaps)
        if new:
            self.covered.setdefault(self.epoch, []).append((self.offset, self.offset))

    def restart(self) -> None:
        self.epoch, self.offset = self.epoch + 1, 0

    def come_back(self) -> None:
        self.last_sent = (self.epoch, self.offset)
        self.cover(self.tracker.subscribed(Position(str(self.epoch), self.offset)))

    def announce(self) -> None:
        """Say what was missed since the last push, as a slow connection is told."""
        position = self.tracker.position
        assert position is not None
        if position.epoch == str(self.epoch) and position.offset < self.offset:
            gap = Gap(position.epoch, position.offset + 1, self.offset)
            self.cover(self.tracker.gap(gap, "slow"))

    def cover(self, gaps: list[Missed]) -> None:
        for gap, _ in gaps:
            self.covered.setdefault(int(gap.epoch), []).append((gap.first, gap.last))


@given(st.lists(st.sampled_from(["publish", "lose", "restart", "come_back", "announce"])))
def test_received_and_gaps_are_everything_disjoint_and_in_order(steps: list[str]) -> None:
    world = World()
    for step in steps:
        if step in ("publish", "lose"):
            world.publish()
        if step == "publish":
            world.send()
        elif step != "lose":
            getattr(world, step)()
    world.publish()
    world.send()
    for epoch, spans in world.covered.items():
        expected = 1
        for first, last in spans:
            assert first == expected
            expected = world.published.get(epoch, 0) + 1 if last is None else last + 1
        assert expected == world.published.get(epoch, 0) + 1
