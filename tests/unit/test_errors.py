"""Errors carry facts for code and a text for people."""

from __future__ import annotations

import pytest

from realtime import errors
from realtime.errors import (
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    EnvelopeError,
    Forbidden,
    GiveUp,
    IdempotencyConflict,
    InvalidData,
    InvalidName,
    InvalidToken,
    LimitExceeded,
    OutcomeUnknown,
    PartlyDone,
    QueueFull,
    RealtimeError,
    RequestError,
    TokenExpired,
    TooLarge,
    Unauthorized,
)

EXAMPLES = [
    InvalidName("channel", "a b", "no spaces"),
    InvalidData("not JSON"),
    TooLarge("data", 2, 1),
    Unauthorized("who?"),
    Forbidden("no"),
    LimitExceeded("publishes", 100, retry_seconds=1.5),
    IdempotencyConflict(),
    BrokerUnavailable("away"),
    OutcomeUnknown("silent"),
    EnvelopeError("not ours"),
    ConfigurationError("REALTIME_X", "is not a number"),
    InvalidToken("no signature"),
    TokenExpired(),
    QueueFull(),
    GiveUp("no such mailbox"),
    PartlyDone("one is left", {"to": ["ada@example.com"]}),
]


def every_class() -> set[type[RealtimeError]]:
    return {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, RealtimeError)
    }


def test_the_examples_cover_every_error():
    parents = {RealtimeError, RequestError, BrokerError}
    assert {type(error) for error in EXAMPLES} == every_class() - parents


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_error_has_its_own_slug(error):
    assert [other.code for other in EXAMPLES].count(error.code) == 1
    assert error.code.replace("_", "").isalpha()


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_the_tree_in_the_docstring_names_every_error(error):
    assert f"`{type(error).__name__}`" in errors.__doc__


def test_temporary_errors_say_so():
    temporary = {type(error) for error in EXAMPLES if error.temporary}
    assert temporary == {LimitExceeded, BrokerUnavailable, OutcomeUnknown, QueueFull}


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (EXAMPLES[0], {"field": "channel", "value": "'a b'", "rule": "no spaces"}),
        (EXAMPLES[1], {"reason": "not JSON", "field": "data"}),
        (EXAMPLES[2], {"what": "data", "size": 2, "limit": 1}),
        (EXAMPLES[5], {"limit": 100, "retry_seconds": 1.5}),
        (EXAMPLES[10], {"setting": "REALTIME_X", "problem": "is not a number"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_carries_its_facts(error, facts):
    assert {name: getattr(error, name) for name in facts} == facts


def test_the_slug_of_an_invalid_name_says_which_name():
    assert InvalidName("event", "", "rule").code == "invalid_event"


def test_a_foreign_value_cannot_forge_a_log_line():
    """CWE-117: anyone may choose the value of an `InvalidName`."""
    error = InvalidName("channel", "a\nERROR all is lost\x1b[31m\u202e", "rule")
    assert str(error).isprintable()
    assert str(error).isascii()


def test_a_long_foreign_value_is_shortened():
    assert len(InvalidName("channel", "x" * 10_000, "rule").value) == 81


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [10**5000, nested(5000)], ids=["huge number", "deep list"])
def test_a_value_that_cannot_be_shown_is_still_an_invalid_name(value):
    """`ascii` raises ValueError for 5,000 digits, and RecursionError for a list before Python 3.13.

    The caller's mistake would have become a 500.
    """
    try:
        shown = ascii(value)[:20]
    except (ValueError, RecursionError):
        shown = type(value).__name__
    assert shown in str(InvalidName("channel", value, "rule"))
