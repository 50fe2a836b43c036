"""Another service on the same channels is noticed once, and nodes of one service never are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.neighbours import OTHERS_LIMIT, PROOFS, Neighbours


def test_another_service_is_told_once_and_after_proofs() -> None:
    neighbours, news = Neighbours(), []
    for _ in range(PROOFS + 3):
        neighbours.announced("ours")
        news.append(neighbours.hear("theirs"))
    assert news == [False] * PROOFS + [True] + [False] * 2
    assert neighbours.others == {"theirs"}


@given(st.lists(st.sampled_from(["ours", "theirs"]), max_size=40))
def test_nodes_of_one_service_are_no_neighbours_though_flushall_changes_the_id(order) -> None:
    """Announcements carry what the database says then; this node says its own as often."""
    neighbours, database, changes = Neighbours(), 0, 0
    for step in order:
        if step == "theirs" and changes < 1:  # FLUSHALL
            database, changes = database + 1, changes + 1
        heard = str(database)
        assert not neighbours.hear(heard)
        neighbours.announced(str(database))
    assert not neighbours.others


def test_ids_without_number_are_not_remembered() -> None:
    neighbours = Neighbours()
    for _ in range(PROOFS + 1):
        neighbours.announced("ours")
        for number in range(1000):
            neighbours.hear(f"{number}")
    assert len(neighbours.others) == OTHERS_LIMIT
