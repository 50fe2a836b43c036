"""The service accepts the tokens that a host's own code creates."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import RequestFactory, override_settings

from realtime import connection_token, personal_channel, subscription_token, wiring
from realtime.api.request import Request
from realtime.errors import ConfigurationError, InvalidData, InvalidName, TooLarge
from realtime.http.staff import key_of_session


@pytest.mark.parametrize(
    ("user", "known"),
    [("42", "42"), (SimpleNamespace(pk=42), "42"), (SimpleNamespace(pk=None), ""), ("", "")],
)
def test_a_token_names_its_user_and_its_expiry(user: Any, known: str) -> None:
    now = time.time()
    identity = wiring.tokens().verify_identity(connection_token(user, seconds=60), now)
    assert identity.user == known
    assert 58 <= (identity.ttl_seconds(now) or 0) <= 60
    grant = wiring.tokens().verify_grant(subscription_token(user, "closed"), now)
    assert (grant.user, grant.channel) == (known, "closed")
    assert 598 <= grant.ttl_seconds(now) <= 600


def test_a_token_carries_info_and_channels() -> None:
    shown = connection_token("42", info={"name": "Zoë"}, channels=["news", "talk#42"])
    identity = wiring.tokens().verify_identity(shown, time.time())
    assert (identity.info, identity.channels) == ('{"name":"Zoë"}', ("news", "talk#42"))


APART = override_settings(REALTIME_SESSION_USER_PREFIX="service.")


def test_users_of_this_project_have_other_ids_than_those_of_tokens() -> None:
    ada = SimpleNamespace(pk=1)
    assert personal_channel(ada) == personal_channel("1") == "user:#1"
    with APART:
        assert personal_channel(ada) == "user:#service.1"
        assert personal_channel("1") == "user:#1"
        assert personal_channel(SimpleNamespace(pk=0)) == "user:#service.0"
        wiring.tokens().verify_identity(connection_token("1"), time.time())
        for make in (connection_token, lambda user: subscription_token(user, "closed")):
            for user in (ada, "service.1"):
                with pytest.raises(ConfigurationError, match="they have a session"):
                    make(user)


def test_staff_of_two_tables_share_no_idempotency_keys() -> None:
    csrf = "a" * 32
    headers = {"Origin": "http://testserver", "X-CSRFToken": csrf}
    request = RequestFactory(headers=headers).post("/api/publish", {}, "application/json")
    request.COOKIES["csrftoken"] = csrf
    request.user = SimpleNamespace(pk=1, is_authenticated=True, is_active=True, is_staff=True)
    head = Request("POST", "publish", content_type="application/json")
    of_host = key_of_session(request, head)
    with APART:
        of_service = key_of_session(request, head)
    assert (of_host.name, of_service.name) == ("staff:1", "staff:service.1")
    assert of_host.holder != of_service.holder


@pytest.mark.parametrize("prefix", ["service", "a:", "a.b.", "#.", "a" * 32 + ".", ".", None])
def test_a_prefix_that_is_no_part_of_a_channel_is_refused(prefix: Any) -> None:
    with (
        override_settings(REALTIME_SESSION_USER_PREFIX=prefix),
        pytest.raises(ConfigurationError, match="REALTIME_SESSION_USER_PREFIX"),
    ):
        wiring.settings()


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
        ({"session": "a key", "seconds": 3001}, InvalidData),  # nodes forget ended sessions
    ],
)
def test_an_unacceptable_token_is_not_created(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        connection_token("42", **options)


def test_an_invalid_channel_gets_no_token() -> None:
    with pytest.raises(InvalidName):
        subscription_token("42", "no channel")


def test_without_a_secret_the_setting_is_named() -> None:
    with (
        override_settings(REALTIME_TOKEN_SECRET=""),
        pytest.raises(ConfigurationError, match="REALTIME_TOKEN_SECRET"),
    ):
        connection_token("42")


def test_a_token_has_the_audience_that_nodes_require() -> None:
    """Nodes refused the tokens of their own site as soon as the setting was set."""
    with override_settings(REALTIME_TOKEN_AUDIENCE="notifier"):
        identity = wiring.tokens().verify_identity(connection_token("42"), time.time())
        grant = wiring.tokens().verify_grant(subscription_token("42", "closed"), time.time())
    assert (identity.user, grant.channel) == ("42", "closed")
