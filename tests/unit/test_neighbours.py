"""Another service on the same channels is reported once; nodes of the same service never are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.brokers.neighbours import OTHERS_LIMIT, PROOFS, Neighbours


def test_another_service_is_reported_once_after_enough_evidence() -> None:
    neighbours, news = Neighbours(), []
    for _ in range(PROOFS + 3):
        neighbours.note_announcement("ours")
        news.append(neighbours.hear("theirs"))
    assert news == [False] * PROOFS + [True] + [False] * 2
    assert neighbours.others == {"theirs"}


@given(st.lists(st.sampled_from(["ours", "theirs"]), max_size=40))
def test_nodes_of_one_service_are_not_neighbours_after_flushall(order) -> None:
    """Announcements contain the new id in the database; this node reads its own as often."""
    neighbours, database, changes = Neighbours(), 0, 0
    for step in order:
        if step == "theirs" and changes < 1:  # FLUSHALL
            database, changes = database + 1, changes + 1
        heard = str(database)
        assert not neighbours.hear(heard)
        neighbours.note_announcement(str(database))
    assert not neighbours.others


def test_the_number_of_remembered_ids_is_bounded() -> None:
    neighbours = Neighbours()
    for _ in range(PROOFS + 1):
        neighbours.note_announcement("ours")
        for number in range(1000):
            neighbours.hear(f"{number}")
    assert len(neighbours.others) == OTHERS_LIMIT
