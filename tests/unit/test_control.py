"""Commands between nodes are received exactly as they were sent; everything else is ignored."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.node_commands import (
    BlockUser,
    DisconnectUser,
    NodeCommand,
    RecheckUser,
    RefreshUser,
    SubscribeUser,
    UnsubscribeUser,
    decode_command,
    encode_command,
)

TEXTS = st.text(max_size=8)
COMMANDS = st.one_of(
    st.builds(DisconnectUser, TEXTS, TEXTS, TEXTS, st.integers(3000, 4999), TEXTS),
    st.builds(SubscribeUser, TEXTS, TEXTS, TEXTS),
    st.builds(UnsubscribeUser, TEXTS, TEXTS, TEXTS),
    st.builds(RefreshUser, TEXTS, TEXTS, st.booleans(), st.none() | st.integers(0, 2**40)),
    st.builds(RecheckUser, TEXTS),
    st.builds(BlockUser, TEXTS, st.integers(0, 2**53)),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


@given(COMMANDS)
def test_an_encoded_command_decodes_again(command: NodeCommand) -> None:
    assert decode_command(json.loads(json.dumps(encode_command(command)))) == command


@given(JSON)
def test_other_values_are_not_decoded(value: object) -> None:
    assert decode_command(value) is None


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
def test_a_command_of_the_wrong_shape_is_not_decoded(message: object) -> None:
    assert decode_command(message) is None


@pytest.mark.parametrize(
    ("command", "ends"),
    [
        (DisconnectUser("ada", session="s"), True),
        (DisconnectUser("ada"), False),
        (DisconnectUser("ada", client="c"), False),
        (DisconnectUser("ada", client="c", session="s"), False),
    ],
)
def test_only_a_disconnect_of_a_whole_session_ends_the_session(
    command: DisconnectUser, ends: bool
) -> None:
    """As in Centrifugo: a client that the API disconnects may return with the same token."""
    assert command.ends_session is ends
