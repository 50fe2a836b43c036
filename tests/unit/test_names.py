"""Legal names are accepted as they are, all others are refused by our own error."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.errors import InvalidName
from realtime.names import (
    checked_channel,
    checked_event,
    checked_idempotency_key,
    is_namespace,
    namespace_of,
    personal_channel,
    users_of,
)

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
def test_legal_and_accepted_are_the_same(field, value):
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
def test_the_limit_itself_is_legal(field):
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
def test_the_namespace_is_what_stands_before_the_first_colon(channel):
    assert namespace_of(channel) == (channel.split(":")[0] if ":" in channel else "")


@pytest.mark.parametrize(
    ("channel", "namespace"),
    [("news", ""), ("chat:lobby", "chat"), ("a:b:c", "a"), (":news", ""), ("news#1:2", "news#1")],
)
def test_namespace_of(channel, namespace):
    assert namespace_of(channel) == namespace


@given(st.text("az09_-A:#.é\n", max_size=5))
def test_a_namespace_has_small_letters_digits_and_two_signs(name):
    assert is_namespace(name) == (set(name) <= set(string.ascii_lowercase + string.digits + "_-"))


def test_a_channel_with_a_hash_is_for_users():
    assert users_of("news#42") == {"42"}
    assert users_of("talk#42,43") == {"42", "43"}
    assert users_of("#") == users_of("#,") == set()
    assert users_of("news") is None


@given(st.text(max_size=12) | st.text("ab1:#,.@", max_size=6))
def test_a_personal_channel_is_for_its_user_alone(user: str) -> None:
    channel = personal_channel("user:#", user)
    if channel is not None:
        assert users_of(checked_channel(channel)) == {user}
        assert namespace_of(channel) == "user"


def test_personal_channels_may_be_in_the_default_namespace() -> None:
    assert personal_channel("#", "42") == "#42"
    assert personal_channel("user:#", "42") == "user:#42"
    assert personal_channel("user:#", "") is None
    assert personal_channel("user:#", "4,2") is None
    assert personal_channel("user:#", "x" * 255) is None
