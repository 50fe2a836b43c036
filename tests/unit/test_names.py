"""Valid names are accepted unchanged; all others are refused with our own error."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.names import (
    checked_channel,
    checked_event,
    checked_idempotency_key,
    is_namespace,
    namespace_of,
    personal_channel,
    users_of,
)
from realtime.errors import InvalidName

ALNUM = string.ascii_letters + string.digits
RULES = {
    "channel": (checked_channel, set(ALNUM + "_-=@,.;:#"), 255),
    "event": (checked_event, set(ALNUM + "_-.:"), 64),
    "idempotency_key": (checked_idempotency_key, {chr(c) for c in range(33, 127)}, 64),
}
rules = pytest.mark.parametrize("field", RULES)


def anything() -> st.SearchStrategy[object]:
    odd = st.sampled_from(["", "a\n", "a ", "é", "a\x00", "{0}", "*", "\ud800", b"a", 1, None, []])
    ascii_text = st.text(st.characters(max_codepoint=127), max_size=70)
    long = st.integers(60, 260).map(lambda n: "x" * n)
    return odd | ascii_text | long | st.text()


@rules
@given(value=anything())
def test_exactly_the_legal_names_are_accepted(field, value):
    check, alphabet, limit = RULES[field]
    legal = isinstance(value, str) and 0 < len(value) <= limit and set(value) <= alphabet
    if legal:
        assert check(value) is value
    else:
        with pytest.raises(InvalidName) as caught:
            check(value)
        assert caught.value.code == f"invalid_{field}"


@rules
def test_every_character_of_the_alphabet_is_legal_in_every_place(field):
    check, alphabet, _ = RULES[field]
    for character in alphabet:
        assert check(character * 3) == character * 3


@rules
def test_a_name_of_exactly_the_limit_is_legal(field):
    check, _, limit = RULES[field]
    assert check("x" * limit)
    with pytest.raises(InvalidName):
        check("x" * (limit + 1))


@pytest.mark.parametrize(
    "value", ["news\n", "a b", "a{0}", "a*", "a?", "[a]", "!node", "a\r\nSET x"]
)
def test_no_channel_can_move_a_hash_tag_be_a_pattern_or_split_a_line(value):
    with pytest.raises(InvalidName):
        checked_channel(value)


@given(st.text("abc:#", max_size=8))
def test_the_namespace_is_the_part_before_the_first_colon(channel):
    assert namespace_of(channel) == (channel.split(":")[0] if ":" in channel else "")


@pytest.mark.parametrize(
    ("channel", "namespace"),
    [("news", ""), ("chat:lobby", "chat"), ("a:b:c", "a"), (":news", ""), ("news#1:2", "news#1")],
)
def test_namespace_of(channel, namespace):
    assert namespace_of(channel) == namespace


@given(st.text("az09_-A:#.é\n", max_size=5))
def test_a_namespace_has_lower_case_letters_digits_and_two_signs(name):
    assert is_namespace(name) == (set(name) <= set(string.ascii_lowercase + string.digits + "_-"))


def test_a_channel_with_a_hash_is_for_users():
    assert users_of("news#42") == {"42"}
    assert users_of("talk#42,43") == {"42", "43"}
    assert users_of("#") == users_of("#,") == set()
    assert users_of("news") is None


IDS = (
    st.text(max_size=12) | st.text("ab1=AF:#,.@+2B", max_size=8) | st.emails() | st.uuids().map(str)
)


@given(IDS.filter(bool))
def test_the_channel_of_a_user_is_valid_and_for_that_user_only(user: str) -> None:
    """An email address as a primary key raised in a signal, in the middle of the host's save."""
    channel = personal_channel("user:#", user)
    assert channel is not None
    assert users_of(checked_channel(channel)) == {user}
    assert namespace_of(channel) == "user"


@given(IDS, IDS)
def test_two_users_never_have_the_same_channel(one: str, other: str) -> None:
    channels = {personal_channel("user:#", user) for user in (one, other)}
    assert len(channels) == len({one, other})


@given(st.text(ALNUM + "_-=@.;:#", min_size=1, max_size=12))
def test_an_id_that_needs_no_escape_stands_as_it_is(user: str) -> None:
    assert personal_channel("user:#", user) == f"user:#{user}"


@given(st.text("ab=2BF,", max_size=10))
def test_every_user_after_the_boundary_is_one_of_those_that_are_written(text: str) -> None:
    """Text that is not an escaped id is an id itself, so that no part is lost."""
    users = users_of(f"talk#{text}")
    assert users is not None
    assert len(users) <= len([part for part in text.split(",") if part])
    plain = {part for part in text.split(",") if part and "=" not in part}
    assert plain <= users


@pytest.mark.parametrize(
    ("user", "channel"),
    [
        ("a+b@example.com", "user:#,a=2Bb@example.com"),
        ("auth0|123", "user:#,auth0=7C123"),
        ("4,2", "user:#,4=2C2"),
        ("a=b", "user:#a=b"),
        ("a=b+", "user:#,a=3Db=2B"),
        ("Zoë", "user:#,Zo=C3=AB"),
        ("\ud800", "user:#,=ED=A0=80"),
    ],
)
def test_how_an_id_is_escaped(user: str, channel: str) -> None:
    assert personal_channel("user:#", user) == channel
    assert users_of(f"talk#7,{channel.removeprefix('user:#')}") == {"7", user}


def test_a_channel_may_be_for_a_user_whose_id_is_escaped_and_for_others() -> None:
    assert users_of("talk#42,,a=2Bb,43") == {"42", "a+b", "43"}
    assert users_of("talk#a=2Bb") == {"a=2Bb"}, "without the comma it is an id"
    assert users_of("talk#,a=2bb") == {"a=2bb"}, "an escape has one spelling"
    assert users_of("talk#,=FF") == {"=FF"}, "it is not UTF-8"


def test_personal_channels_may_be_in_the_default_namespace() -> None:
    """Centrifugo, server-side subscriptions: user 87334 is subscribed to #87334."""
    assert personal_channel("#", "42") == "#42"
    assert personal_channel("user:#", "42") == "user:#42"
    assert personal_channel("user:#", "") is None
    assert personal_channel("user:#", "x" * 255) is None
    assert personal_channel("user:#", "ф" * 42) is None
