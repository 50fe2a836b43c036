"""Tokens that a host's own code makes are the ones that the service takes."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import override_settings

from realtime import connection_token, subscription_token, wiring
from realtime.errors import ConfigurationError, InvalidData, InvalidName, TooLarge


@pytest.mark.parametrize(
    ("user", "known"),
    [("42", "42"), (SimpleNamespace(pk=42), "42"), (SimpleNamespace(pk=None), ""), ("", "")],
)
def test_a_token_is_of_its_user_and_holds_as_long_as_said(user: Any, known: str) -> None:
    now = time.time()
    identity = wiring.tokens().identity(connection_token(user, seconds=60), now)
    assert identity.user == known
    assert 58 <= (identity.ttl_seconds(now) or 0) <= 60
    grant = wiring.tokens().grant(subscription_token(user, "closed"), now)
    assert (grant.user, grant.channel) == (known, "closed")
    assert 598 <= grant.ttl_seconds(now) <= 600


def test_a_token_says_what_others_see_and_what_it_hears_by_itself() -> None:
    shown = connection_token("42", info={"name": "Zoë"}, channels=["news", "talk#42"])
    identity = wiring.tokens().identity(shown, time.time())
    assert (identity.info, identity.channels) == ('{"name":"Zoë"}', ("news", "talk#42"))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"info": {1, 2}.__iter__()}, InvalidData),
        ({"info": float("inf")}, InvalidData),
        ({"info": "x" * 5000}, TooLarge),
        ({"info": "é" * 2000}, TooLarge),
        ({"channels": ["a b"]}, InvalidName),
        ({"channels": "news"}, InvalidName),
        ({"channels": ["c" * 200 + str(n) for n in range(32)]}, TooLarge),
    ],
)
def test_a_token_that_would_be_refused_is_not_made(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        connection_token("42", **options)


def test_what_is_no_channel_gets_no_token() -> None:
    with pytest.raises(InvalidName):
        subscription_token("42", "no channel")


def test_without_a_secret_the_setting_is_named() -> None:
    with (
        override_settings(REALTIME_TOKEN_SECRET=""),
        pytest.raises(ConfigurationError, match="REALTIME_TOKEN_SECRET"),
    ):
        connection_token("42")
