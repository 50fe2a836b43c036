"""The rule of `identity.origins`, applied to ASGI scopes and Django's requests."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import RequestFactory, override_settings

from realtime.errors import Forbidden
from realtime.transports import callers
from realtime.transports.callers import caller_of, is_own_page, may_have_token

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
    """Tell whether the session counts; None if the request is refused."""
    try:
        return caller_of(scope(scheme, origin=origin, **headers)).is_own_page
    except Forbidden:
        return None


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_an_http_page_of_an_https_host_counts_as_cross_site(scheme: str) -> None:
    """The page used to count as our own, although anyone on the network can forge it."""
    assert has_session(scheme, BY_HTTPS) is True
    assert has_session(scheme, BY_HTTP) is None


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_an_https_page_keeps_its_session_behind_a_silent_proxy(scheme: str) -> None:
    assert has_session(scheme, BY_HTTPS) is True
    assert has_session(scheme, BY_HTTP) is True, "it may really be HTTP"


@pytest.mark.parametrize("settings", [SECURE, PREFIXED])
@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_secure_cookie_is_ignored_for_an_http_page_behind_a_silent_proxy(
    scheme: str, settings: dict[str, Any]
) -> None:
    with override_settings(**settings):
        assert has_session(scheme, BY_HTTPS) is True
        assert has_session(scheme, BY_HTTP) is False


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_trusted_proxy_determines_the_scheme(scheme: str) -> None:
    with override_settings(**PROXY):
        assert has_session(scheme, BY_HTTP, x_forwarded_proto="https") is None
        assert has_session(scheme, BY_HTTPS, x_forwarded_proto="https, http") is True
        assert has_session(scheme, BY_HTTP, x_forwarded_proto="http") is True
        assert has_session(scheme, BY_HTTP) is True
    assert has_session(scheme, BY_HTTP, x_forwarded_proto="https") is True, "nobody trusts it"


def test_a_repeated_browser_header_is_ignored() -> None:
    twice = scope("https", sec_fetch_mode="cors")
    twice["headers"] += [(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")]
    assert caller_of(twice).is_own_page is False


# --- CORS ---


def cors(origin: str) -> dict[str, str]:
    return caller_of(scope("https", origin=origin, sec_fetch_site="cross-site")).cors


def test_a_listed_origin_may_read_with_credentials() -> None:
    with override_settings(REALTIME_ALLOWED_ORIGINS=["https://*.example.com"]):
        headers = cors("https://app.example.com")
        assert headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        assert headers["Access-Control-Allow-Credentials"] == "true"
        assert headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://app.example.com", "null"])
def test_a_star_allows_no_credentialed_reads(origin: str) -> None:
    with override_settings(REALTIME_ALLOWED_ORIGINS=["*"]):
        headers = cors(origin)
    assert headers["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Credentials" not in headers


def test_a_request_without_an_origin_gets_no_cors_headers() -> None:
    assert caller_of(scope("https")).cors == {}


# --- Django's requests ---


def request(*, secure: bool = True, **headers: str) -> Any:
    return RequestFactory(headers=headers).get("/connection/token", secure=secure)


def test_staff_may_publish_only_from_pages_of_the_same_scheme() -> None:
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
def test_our_own_and_trusted_pages_may_get_a_token(headers: dict[str, str]) -> None:
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


def test_an_http_page_gets_no_token_behind_a_silent_proxy() -> None:
    with override_settings(**SECURE):
        assert not may_have_token(request(secure=False, origin=BY_HTTP))
        assert may_have_token(request(secure=False, origin=BY_HTTPS))


def test_the_host_is_what_the_proxy_says_if_the_project_trusts_it() -> None:
    """As in `HttpRequest.get_host`; other entry points refused every page behind such a proxy."""
    said = {"host": "10.0.0.7:8000", "x_forwarded_host": HOST}
    assert has_session("https", BY_HTTPS, **said) is None
    with override_settings(USE_X_FORWARDED_HOST=True, ALLOWED_HOSTS=[HOST, "10.0.0.7"]):
        assert has_session("https", BY_HTTPS, **said) is True
        assert (
            has_session("https", BY_HTTPS, **{**said, "x_forwarded_host": "evil.example"}) is None
        )
        assert has_session("https", BY_HTTPS) is True, "a request that came without the proxy"


def test_what_strangers_send_is_remembered_within_bounds() -> None:
    """Each set of headers is judged once, but any number of different ones may come."""
    memory: Any = callers._judge_and_remember
    memory.cache_clear()
    for number in range(callers.REMEMBERED_CALLERS + 50):
        assert not caller_of(scope("https", sec_purpose=f"p{number}")).is_own_page
    assert memory.cache_info().currsize == callers.REMEMBERED_CALLERS
    memory.cache_clear()
    long = "x" * callers.REMEMBERED_BYTES
    assert has_session("https", BY_HTTPS, sec_purpose=long) is False
    assert has_session("https", "https://evil.example") is None
    assert memory.cache_info().currsize == 0
    for number in range(50):
        headers = {"cookie": f"c{number}", "user-agent": f"u{number}"}
        assert has_session("https", BY_HTTPS, **headers) is True
    assert memory.cache_info().currsize == 1


def test_a_remembered_judgment_ends_with_the_settings_it_was_made_of() -> None:
    given = scope("http", origin=BY_HTTP, x_forwarded_proto="https")
    for _ in range(2):
        assert caller_of(given).is_own_page
        with override_settings(**PROXY):
            with pytest.raises(Forbidden):
                caller_of(given)
            with override_settings(ALLOWED_HOSTS=["elsewhere"]), pytest.raises(Forbidden):
                caller_of(given)


def test_hosts_that_a_project_changes_at_run_time_count_at_once(settings: Any) -> None:
    """Some projects keep a list that they change in place, or an object that asks a database."""
    settings.ALLOWED_HOSTS = [HOST]
    assert has_session("https", BY_HTTPS) is True
    settings.ALLOWED_HOSTS[:] = ["elsewhere"]
    assert has_session("https", BY_HTTPS) is None
    settings.ALLOWED_HOSTS[:] = [HOST]
    assert has_session("https", BY_HTTPS) is True


def test_headers_may_be_lists() -> None:
    """ASGI says *iterable* of two bytes each; a middleware may append a list."""
    given = scope("https", origin=BY_HTTPS)
    given["headers"] = [list(pair) for pair in given["headers"]]
    assert caller_of(given).is_own_page
