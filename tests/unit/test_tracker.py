"""The invariant of a client's positions: received ∪ gaps = everything, disjoint, in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.client.tracker import EPOCHS_LIMIT, MissedPublications, Tracker
from realtime.core.positions import Gap, Position

A, B = "a" * 16, "b" * 16


def subscribed(epoch: str, offset: int) -> Tracker:
    tracker = Tracker()
    assert tracker.position is None
    assert tracker.note_subscribed(Position(epoch, offset)) == []
    return tracker


def missed(epoch: str, first: int, last: int | None, reason: str) -> MissedPublications:
    return MissedPublications(Gap(epoch, first, last), reason)


def test_the_next_offset_is_new_and_reveals_no_gap() -> None:
    tracker = subscribed(A, 7)
    assert tracker.note_publication(8, None) == (True, [])
    assert tracker.position == Position(A, 8)


def test_publications_that_the_start_position_includes_are_not_new() -> None:
    assert subscribed(A, 7).note_publication(7, None) == (False, [])


def test_an_unannounced_gap_is_reported_once() -> None:
    tracker = subscribed(A, 7)
    assert tracker.note_publication(10, None) == (True, [missed(A, 8, 9, "unknown")])
    assert tracker.note_publication(11, None) == (True, [])


def test_an_unannounced_epoch_leaves_the_end_of_the_old_one_open() -> None:
    tracker = subscribed(A, 7)
    expected = [missed(A, 8, None, "unknown"), missed(B, 1, 2, "unknown")]
    assert tracker.note_publication(3, B) == (True, expected)


def test_a_publication_before_the_first_reply_is_new() -> None:
    assert Tracker().note_publication(5, None) == (True, [])


def test_a_reconnect_in_the_same_epoch_reports_the_exact_gap() -> None:
    tracker = subscribed(A, 7)
    assert tracker.note_subscribed(Position(A, 9)) == [missed(A, 8, 9, "reconnect")]
    assert tracker.note_publication(10, None) == (True, [])


def test_a_reconnect_in_another_epoch_reports_the_open_end_and_the_new_start() -> None:
    tracker = subscribed(A, 7)
    expected = [missed(A, 8, None, "reconnect"), missed(B, 1, 2, "reconnect")]
    assert tracker.note_subscribed(Position(B, 2)) == expected


def test_a_reconnect_to_a_node_that_is_behind_reports_no_backward_gap() -> None:
    tracker = subscribed(A, 7)
    assert tracker.note_subscribed(Position(A, 5)) == []
    assert tracker.note_publication(6, None) == (False, [])
    assert tracker.note_publication(7, None) == (False, [])
    assert tracker.note_publication(8, None) == (True, [])


def test_a_reconnect_to_a_node_in_an_older_epoch_is_not_a_new_epoch() -> None:
    tracker = subscribed(A, 7)
    tracker.note_publication(1, B)
    assert tracker.note_subscribed(Position(A, 7)) == []
    assert tracker.note_publication(2, B) == (True, [])


def test_an_epoch_wrongly_reported_as_ended_is_counted_from_its_current_offset() -> None:
    """Two nodes disagreed for a moment; the open gap has already covered everything up to 20."""
    tracker = subscribed(A, 7)
    tracker.note_publication(1, B)
    assert tracker.note_subscribed(Position(A, 20)) == []
    assert tracker.note_publication(22, None) == (True, [missed(A, 21, 21, "unknown")])


def test_an_announced_gap_is_reported_without_known_offsets() -> None:
    tracker = subscribed(A, 7)
    assert tracker.note_gap(Gap(A, 6, 9), "slow") == [missed(A, 8, 9, "slow")]
    assert tracker.note_gap(Gap(A, 6, 9), "slow") == []
    assert tracker.note_publication(10, None) == (True, [])


def test_an_unannounced_gap_before_an_announced_one_is_reported_too() -> None:
    tracker = subscribed(A, 7)
    expected = [missed(A, 8, 9, "unknown"), missed(A, 10, 11, "slow")]
    assert tracker.note_gap(Gap(A, 10, 11), "slow") == expected


def test_an_announced_end_of_an_epoch_is_reported_once() -> None:
    tracker = subscribed(A, 7)
    assert tracker.note_gap(Gap(A, 8, None), "broker") == [missed(A, 8, None, "broker")]
    assert tracker.note_gap(Gap(A, 8, None), "broker") == []
    assert tracker.note_publication(1, B) == (True, [])


def test_after_an_open_gap_the_counter_of_the_same_epoch_may_go_back() -> None:
    tracker = subscribed(A, 7)
    tracker.note_gap(Gap(A, 8, None), "broker")
    assert tracker.note_publication(3, None) == (True, [])
    assert tracker.note_publication(4, None) == (True, [])


def test_the_number_of_remembered_epochs_is_bounded() -> None:
    tracker = subscribed("0", 0)
    for n in range(1, 3 * EPOCHS_LIMIT):
        tracker.note_publication(1, str(n))
    assert len(tracker._epochs) == EPOCHS_LIMIT


class World:
    """A channel whose counter restarts, a server that loses publications, a client that returns."""

    def __init__(self) -> None:
        self.epoch, self.offset = 0, 0
        self.tracker = Tracker()
        self.published: dict[int, int] = {}
        self.covered: dict[int, list[tuple[int, int | None]]] = {}
        self.last_sent = (-1, 0)
        self.tracker.note_subscribed(Position("0", 0))

    def publish(self) -> None:
        self.offset += 1
        self.published[self.epoch] = self.offset

    def send(self) -> None:
        named = None if self.last_sent[0] == self.epoch else str(self.epoch)
        self.last_sent = (self.epoch, self.offset)
        new, gaps = self.tracker.note_publication(self.offset, named)
        self.cover(gaps)
        if new:
            self.covered.setdefault(self.epoch, []).append((self.offset, self.offset))

    def restart(self) -> None:
        self.epoch, self.offset = self.epoch + 1, 0

    def come_back(self) -> None:
        self.last_sent = (self.epoch, self.offset)
        self.cover(self.tracker.note_subscribed(Position(str(self.epoch), self.offset)))

    def announce(self) -> None:
        """Report what was missed since the last push, as for a slow connection."""
        position = self.tracker.position
        assert position is not None
        if position.epoch == str(self.epoch) and position.offset < self.offset:
            gap = Gap(position.epoch, position.offset + 1, self.offset)
            self.cover(self.tracker.note_gap(gap, "slow"))

    def cover(self, gaps: list[MissedPublications]) -> None:
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
