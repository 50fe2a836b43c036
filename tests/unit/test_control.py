"""Commands between nodes arrive as they were sent, and nothing else arrives."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.control import (
    Command,
    Disconnect,
    Recheck,
    Refresh,
    Subscribe,
    Unsubscribe,
    opened,
    sealed,
)

TEXTS = st.text(max_size=8)
COMMANDS = st.one_of(
    st.builds(Disconnect, TEXTS, TEXTS, TEXTS, st.integers(3000, 4999), TEXTS),
    st.builds(Subscribe, TEXTS, TEXTS, TEXTS),
    st.builds(Unsubscribe, TEXTS, TEXTS, TEXTS),
    st.builds(Refresh, TEXTS, TEXTS, st.booleans(), st.none() | st.integers(0, 2**40)),
    st.builds(Recheck, TEXTS),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


@given(COMMANDS)
def test_what_is_sealed_opens_again(command: Command) -> None:
    assert opened(json.loads(json.dumps(sealed(command)))) == command


@given(JSON)
def test_anything_else_is_nothing(value: object) -> None:
    assert opened(value) is None


@pytest.mark.parametrize(
    "message",
    [
        {"method": "recheck"},
        {"method": "recheck", "user": 4},
        {"method": "recheck", "user": "4", "client": "c"},
        {"method": "disconnect", "user": "4", "code": "3503"},
        {"method": "refresh", "user": "4", "expire_at": 1.5},
        {"method": ["recheck"], "user": "4"},
        {"user": "4"},
    ],
)
def test_of_the_wrong_shape_it_is_none(message: object) -> None:
    assert opened(message) is None
