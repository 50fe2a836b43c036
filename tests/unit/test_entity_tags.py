"""The entity tag of a page changes with each publication, and with all its other inputs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.core.entity_tags import entity_tag
from realtime.core.positions import Position

positions = st.dictionaries(
    st.sampled_from(["a", "b", "a:b"]),
    st.builds(Position, st.sampled_from(["e", "f"]), st.integers(0, 30)),
    max_size=3,
)
texts = st.lists(st.text(max_size=4), max_size=3)


@given(positions, texts, positions, texts)
def test_two_tags_are_equal_exactly_if_all_they_stand_for_is(first, vary, second, other):
    is_same = (first, vary) == (second, other)
    assert (entity_tag(first, vary) == entity_tag(second, other)) == is_same


@given(positions, texts)
def test_the_order_of_the_channels_is_no_difference(first, vary):
    reversed_order = dict(reversed(first.items()))
    assert entity_tag(first, vary) == entity_tag(reversed_order, vary)


@given(positions, texts)
def test_a_tag_is_one_word_of_a_header(first, vary):
    tag = entity_tag(first, vary)
    assert tag.startswith('W/"')
    assert len(tag) == 36
    assert tag.isascii()


def test_what_varies_is_not_read_from_the_tag():
    assert "ada" not in entity_tag({}, ["ada"])
