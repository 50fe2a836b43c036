"""One parser reads all messages between nodes, and ignores unknown ones."""

from __future__ import annotations

import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.brokers.node_messages import (
    Announcement,
    CanaryMessage,
    Dispatcher,
    ForwardedFrame,
    Moment,
    UnknownMessage,
    UserCommand,
    encode_forwarded,
    parse,
)
from realtime.core import node_commands, survey
from realtime.core.members import Changes, Headcount
from realtime.core.node_commands import RefreshUser
from realtime.core.survey import Question

MEMBERS = b'members {"num_clients":2,"num_users":1,"joined":[],"left":[],"untold":1}'
COMMAND = msgspec.json.encode(node_commands.encode_command(RefreshUser("ada", expire_at=5)))
hexes = st.text("0123456789abcdef", min_size=16, max_size=16)
messages = st.one_of(
    st.integers(0, 10**15 - 1).map(CanaryMessage),
    st.builds(
        ForwardedFrame,
        st.text(string.hexdigits, min_size=1, max_size=40),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
    st.builds(
        UserCommand,
        st.builds(Moment, st.integers(0, 10**15), st.integers(0, 10**6)),
        st.just(COMMAND),
    ),
    st.builds(Question, hexes, st.sampled_from(["info", "channels"]), st.just("chat:*")),
    hexes.map(Announcement),
    st.just(Changes((), (), 1, Headcount(2, 1))),
)


def written(message: object) -> bytes:
    """Return a message as the nodes and scripts write it."""
    match message:
        case CanaryMessage(number):
            return b"%d" % number
        case ForwardedFrame(session, frame):
            return encode_forwarded(session, frame)
        case UserCommand(at, raw):
            return b"%d-%d %s" % (*at, raw)
        case Question():
            return survey.encode_question(message)
        case Announcement(service):
            return f"service {service}".encode()
    return MEMBERS


@given(messages)
def test_every_message_round_trips(message):
    assert parse(written(message)) == message


@given(
    st.one_of(st.binary(), messages.map(written).flatmap(lambda raw: st.binary().map(raw.__add__)))
)
def test_any_input_is_a_message_or_unknown(raw):
    """Hypothesis: anyone with access to Redis can publish on the channels of the nodes."""
    try:
        message = parse(raw)
    except UnknownMessage:
        return
    assert parse(written(message)) == message


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"2x",
        b"-1",
        b"1.0",
        b" 1",
        b"\xb2",
        b"9" * 5000,
        b"0" * 16 + b"1",
        b"service",
        b"service x",
        b"service " + b"a" * 17,
        b"? 0123456789abcdef traces *",
        b"? 0 channels *",
        b"members {}",
        b'members {"num_clients":2,"num_users":1,"joined":[],"left":[],"untold":1,"idle":3}',
        b"1-2-3 {}",
        b"-2 {}",
        b"1- {}",
        b"handover 0123456789abcdef",
        b"{}",
    ],
)
def test_a_message_of_another_version_is_unknown(raw):
    with pytest.raises(UnknownMessage):
        parse(raw)


def test_a_message_goes_only_to_the_handler_of_its_type():
    taken = []
    dispatcher = Dispatcher({CanaryMessage: taken.append})
    assert dispatcher.dispatch(b"12")
    assert not dispatcher.dispatch(b"service 0123456789abcdef")
    assert not dispatcher.dispatch(b"a newer version says this")
    assert taken == [CanaryMessage(12)]
