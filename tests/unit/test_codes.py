"""The numbers on which clients act."""

from __future__ import annotations

import pytest

from realtime.core import codes
from realtime.core.codes import (
    CLOSES,
    REFUSALS,
    Close,
    Refusal,
)


def constants(kind: type) -> tuple[object, ...]:
    return tuple(value for value in vars(codes).values() if isinstance(value, kind))


def test_the_lists_are_complete():
    assert constants(Close) == CLOSES
    assert constants(Refusal) == REFUSALS


@pytest.mark.parametrize("close", CLOSES, ids=lambda close: close.reason)
def test_a_close_fits_into_its_frame(close):
    """RFC 6455 §5.5: 125 bytes for the code and the reason; §7.4.2: 3000 to 3999 for us."""
    assert len(close.reason.encode()) <= 123
    assert 3000 <= close.code <= 3999


def test_each_close_code_means_one_thing():
    assert len({close.code for close in CLOSES}) == len(CLOSES)


@pytest.mark.parametrize(
    ("name", "code", "comes_back"),
    [
        ("SHUTDOWN", 3001, True),
        ("SERVER_ERROR", 3004, True),
        ("EXPIRED", 3005, True),
        ("SLOW", 3008, True),
        ("NO_PONG", 3012, True),
        ("TOO_MANY_REQUESTS", 3013, True),
        ("INVALID_TOKEN", 3500, False),
        ("BAD_REQUEST", 3501, False),
        ("STALE", 3502, False),
        ("CONNECTION_LIMIT", 3504, False),
    ],
)
def test_close_codes_match_those_of_centrifugo(name, code, comes_back):
    close = getattr(codes, name)
    assert (close.code, close.reconnect) == (code, comes_back)


@pytest.mark.parametrize(
    ("code", "comes_back"),
    [
        *[(3000, True), (3499, True), (3500, False), (3999, False)],
        *[(4000, True), (4499, True), (4500, False), (4999, False)],
    ],
)
def test_the_range_of_a_close_code_decides_whether_a_client_reconnects(code, comes_back):
    """Including codes that only an operator sends, with `disconnect` of the API."""
    assert Close(code, "").reconnect == comes_back


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("INTERNAL_ERROR", 100),
        ("NOT_LIVE", 100),
        ("NOT_PUBLISHED", 1001),
        ("UNKNOWN_OUTCOME", 1002),
        ("UNAUTHORIZED", 101),
        ("PERMISSION_DENIED", 103),
        ("ENDED_BY_SERVER", 103),
        ("METHOD_NOT_FOUND", 104),
        ("ALREADY_SUBSCRIBED", 105),
        ("LIMIT_EXCEEDED", 106),
        ("BAD_COMMAND", 107),
        ("NOT_AVAILABLE", 108),
        ("TOKEN_EXPIRED", 109),
        ("TOO_MANY_COMMANDS", 111),
    ],
)
def test_error_codes_match_centrifugo_and_broker_errors_are_temporary(name, code):
    refusal = getattr(codes, name)
    assert (refusal.code, refusal.temporary) == (code, code in (100, 111, 1001, 1002))
