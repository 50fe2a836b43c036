"""Who sends a request: the rule of `realtime.origins` on ASGI scopes and on Django's requests."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import RequestFactory, override_settings

from realtime.callers import caller_of, is_own_page, may_have_token
from realtime.errors import Forbidden

HOST = "testserver"
BY_HTTP, BY_HTTPS = f"http://{HOST}", f"https://{HOST}"
PROXY = {"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}
SECURE = {"SESSION_COOKIE_SECURE": True}
PREFIXED = {"SESSION_COOKIE_NAME": "__Host-sessionid"}


def scope(scheme: str, **headers: str) -> dict[str, Any]:
    given = {"host": HOST, **{name.replace("_", "-"): text for name, text in headers.items()}}
    return {
        "type": "websocket" if scheme.startswith("ws") else "http",
        "scheme": scheme,
        "headers": [(name.lower().encode(), text.encode()) for name, text in given.items()],
    }


def has_session(scheme: str, origin: str, **headers: str) -> bool | None:
    """Tell whether the session counts; None where the request is refused."""
    try:
        return caller_of(scope(scheme, origin=origin, **headers)).is_own_page
    except Forbidden:
        return None


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_page_by_http_of_a_host_that_has_https_is_of_another_site(scheme: str) -> None:
    """It was taken for our own, and whoever is on the network can forge it."""
    assert has_session(scheme, BY_HTTPS) is True
    assert has_session(scheme, BY_HTTP) is None


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_behind_a_proxy_that_says_nothing_a_page_by_https_keeps_its_session(scheme: str) -> None:
    assert has_session(scheme, BY_HTTPS) is True
    assert has_session(scheme, BY_HTTP) is True, "it may really be HTTP"


@pytest.mark.parametrize("settings", [SECURE, PREFIXED])
@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_behind_such_a_proxy_a_secure_cookie_counts_for_no_page_by_http(
    scheme: str, settings: dict[str, Any]
) -> None:
    with override_settings(**settings):
        assert has_session(scheme, BY_HTTPS) is True
        assert has_session(scheme, BY_HTTP) is False


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_proxy_that_django_trusts_says_which_scheme_it_is(scheme: str) -> None:
    with override_settings(**PROXY):
        assert has_session(scheme, BY_HTTP, x_forwarded_proto="https") is None
        assert has_session(scheme, BY_HTTPS, x_forwarded_proto="https, http") is True
        assert has_session(scheme, BY_HTTP, x_forwarded_proto="http") is True
        assert has_session(scheme, BY_HTTP) is True
    assert has_session(scheme, BY_HTTP, x_forwarded_proto="https") is True, "nobody trusts it"


def test_a_header_of_the_browser_that_comes_twice_counts_for_nothing() -> None:
    twice = scope("https", sec_fetch_mode="cors")
    twice["headers"] += [(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")]
    assert caller_of(twice).is_own_page is False


# --- CORS ---


def cors(origin: str) -> dict[str, str]:
    return caller_of(scope("https", origin=origin, sec_fetch_site="cross-site")).cors


def test_a_page_that_is_named_may_read_with_credentials() -> None:
    with override_settings(REALTIME_ALLOWED_ORIGINS=["https://*.example.com"]):
        headers = cors("https://app.example.com")
        assert headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        assert headers["Access-Control-Allow-Credentials"] == "true"
        assert headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://app.example.com", "null"])
def test_a_star_lets_nobody_read_with_credentials(origin: str) -> None:
    with override_settings(REALTIME_ALLOWED_ORIGINS=["*"]):
        headers = cors(origin)
    assert headers["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Credentials" not in headers


def test_who_names_no_origin_is_told_nothing_of_cors() -> None:
    assert caller_of(scope("https")).cors == {}


# --- Django's requests ---


def request(*, secure: bool = True, **headers: str) -> Any:
    return RequestFactory(headers=headers).get("/connection/token", secure=secure)


def test_staff_publish_from_pages_of_the_same_scheme_alone() -> None:
    assert is_own_page(request(origin=BY_HTTPS))
    assert not is_own_page(request(origin=BY_HTTP))
    assert not is_own_page(request())
    assert is_own_page(request(secure=False, origin=BY_HTTP))
    assert is_own_page(request(secure=False, origin=BY_HTTPS))
    with override_settings(**SECURE):
        assert not is_own_page(request(secure=False, origin=BY_HTTP))
    foreign = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}
    assert not is_own_page(request(origin=BY_HTTPS, **foreign))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": BY_HTTPS},
        {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
        {"origin": "https://app.example.com"},
        {"origin": "https://spa.example.net", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_page_of_ours_or_one_that_is_trusted_may_have_a_token(headers: dict[str, str]) -> None:
    with override_settings(
        REALTIME_ALLOWED_ORIGINS=["https://app.example.com"],
        CSRF_TRUSTED_ORIGINS=["https://spa.example.net", "https://*"],
    ):
        assert may_have_token(request(**headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": BY_HTTP},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"origin": BY_HTTPS, "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_a_page_of_another_site_or_scheme_asks_for_a_token(headers: dict[str, str]) -> None:
    with override_settings(REALTIME_ALLOWED_ORIGINS=["*"]):
        assert not may_have_token(request(**headers))


def test_behind_a_proxy_that_says_nothing_a_page_by_http_gets_no_token() -> None:
    with override_settings(**SECURE):
        assert not may_have_token(request(secure=False, origin=BY_HTTP))
        assert may_have_token(request(secure=False, origin=BY_HTTPS))
