"""One line in a template, and a view that gives a logged-in page its token."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine, RequestContext
from django.test import RequestFactory, override_settings
from django.urls import set_script_prefix

from realtime import wiring
from realtime.errors import InvalidName
from realtime.pages import token

HERE = "tests.integration.test_page_configuration"
OTHER = override_settings(REALTIME_PUBLIC_URL="https://notify.example.com")


class User:
    """What every user model of Django has."""

    is_authenticated = True

    def __init__(self, pk: int = 42) -> None:
        self.pk = pk


class Nobody:
    is_authenticated = False
    pk = None


def page(user: Any = None, path: str = "/") -> HttpRequest:
    request = RequestFactory().get(path)
    if user is not None:
        request.user = user
    return request


def rendered(request: HttpRequest | None, tag: str = "{% realtime %}", **context: Any) -> str:
    engine = Engine(libraries={"realtime": "realtime.templatetags.realtime"})
    template = engine.from_string("{% load realtime %}" + tag)
    return template.render(RequestContext(request, context) if request else Context(context))


def configured(
    request: HttpRequest | None, tag: str = "{% realtime %}", **context: Any
) -> dict[str, Any]:
    text = rendered(request, tag, **context)
    found = re.search(r'<script id="realtime-config" type="application/json">(.*?)</script>', text)
    assert found is not None
    return json.loads(found[1])


# --- the tag ---


@pytest.mark.parametrize("user", [None, Nobody(), User()])
def test_on_the_service_s_own_host_the_session_is_enough(user: Any) -> None:
    assert configured(page(user)) == {"url": "/connection/websocket"}


def test_the_client_is_told_which_channels() -> None:
    tag = '{% realtime_client "public:news" channel %}'
    told = configured(page(), tag, channel="orders:7#42")
    assert told == {"url": "/connection/websocket", "channels": ["public:news", "orders:7#42"]}
    assert configured(page(), "{% realtime_client %}")["channels"] == []
    assert "nonce" not in rendered(page(), tag, channel="a")


@pytest.mark.parametrize("by", ["Django 6", "django-csp"])
def test_the_client_has_the_nonce_of_the_policy(by: str) -> None:
    request, context = page(), {}
    if by == "Django 6":
        context["csp_nonce"] = 'n"1'
    else:
        request.csp_nonce = 'n"1'
    text = rendered(request, "{% realtime_client %}", **context)
    assert re.search(r'<script type="module" src="[^"]+" nonce="n&quot;1"></script>', text)


@pytest.mark.parametrize("tag", ["realtime_client", "realtime_stream"])
@pytest.mark.parametrize("channel", ["", "a b", "<script>", "x" * 256, None])
def test_what_cannot_be_a_channel_is_an_error_of_the_page(tag: str, channel: Any) -> None:
    with pytest.raises(InvalidName):
        rendered(page(), f"{{% {tag} channel %}}", channel=channel)


def test_a_stream_has_an_address() -> None:
    tag = '{% realtime_stream "public:news" "news#42" %}'
    assert rendered(page(), tag) == "/connection/sse?channel=public%3Anews&amp;channel=news%2342"
    for public, expected in (
        ("https://notify.example.com", "https://notify.example.com"),
        ("wss://notify.example.com/connection/websocket", "https://notify.example.com"),
    ):
        with override_settings(REALTIME_PUBLIC_URL=public):
            address = rendered(page(), '{% realtime_stream "a" %}')
        assert address == f"{expected}/connection/sse?channel=a"


def test_below_a_prefix_the_websocket_is_below_it_too() -> None:
    set_script_prefix("/site/")
    try:
        assert configured(page()) == {"url": "/site/connection/websocket"}
    finally:
        set_script_prefix("/")


def test_no_script_is_inline() -> None:
    """A Content-Security-Policy without `unsafe-inline` lets data pass, and files."""
    html = rendered(page())
    assert re.findall(r"<script[^>]*>", html) == [
        '<script id="realtime-config" type="application/json">'
    ]
    assert '<link rel="modulepreload" href="/static/realtime/client.js">' in html


@OTHER
def test_on_another_host_the_page_of_a_user_knows_where_tokens_are() -> None:
    url = "https://notify.example.com/connection/websocket"
    assert configured(page(User())) == {"url": url, "tokenUrl": "/connection/token"}
    for nobody in (None, Nobody()):
        assert configured(page(nobody)) == {"url": url}
    assert configured(None) == {"url": url}


@pytest.mark.parametrize(
    ("public", "url"),
    [
        ("https://n.example/", "https://n.example/connection/websocket"),
        ("wss://n.example:8443", "wss://n.example:8443/connection/websocket"),
        ("https://n.example/live/ws", "https://n.example/live/ws"),
    ],
)
def test_the_public_url_may_be_the_service_or_its_websocket(public: str, url: str) -> None:
    with override_settings(REALTIME_PUBLIC_URL=public):
        assert configured(page()) == {"url": url}


@OTHER
def test_what_the_operator_forgot_is_named_when_the_page_is_made() -> None:
    with (
        override_settings(REALTIME_TOKEN_SECRET=""),
        pytest.raises(ImproperlyConfigured, match="REALTIME_TOKEN_SECRET: is not set"),
    ):
        rendered(page(User()))
    with (
        override_settings(ROOT_URLCONF=HERE),
        pytest.raises(ImproperlyConfigured, match=r'include\("realtime\.urls"\)'),
    ):
        rendered(page(User()))


urlpatterns: list[Any] = []


# --- the view ---


def body(response: HttpResponse) -> dict[str, Any]:
    return json.loads(response.content)


def test_a_user_gets_a_token_of_his_own() -> None:
    answer = token(page(User(42)))
    assert answer.status_code == 200
    found = body(answer)
    assert found.keys() == {"token", "expires_in"}
    assert found["expires_in"] == 600
    identity = wiring.tokens().identity(found["token"], now=time.time())
    assert identity.user == "42"


@pytest.mark.parametrize("user", [None, Nobody()])
def test_nobody_gets_none_and_is_told_to_stop(user: Any) -> None:
    answer = token(page(user))
    assert answer.status_code == 403
    assert body(answer)["error"]["reason"] == "unauthorized"
    assert "WWW-Authenticate" not in answer


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_a_page_of_another_site_asks_for_the_token_of_a_user(headers: dict[str, str]) -> None:
    request = RequestFactory(headers=headers).get("/connection/token")
    request.user = User()
    answer = token(request)
    assert (answer.status_code, body(answer)["error"]["reason"]) == (403, "forbidden")


@pytest.mark.parametrize("user", [None, User()])
def test_an_answer_is_kept_nowhere_and_read_by_no_other_site(user: Any) -> None:
    answer = token(page(user))
    assert answer["Cache-Control"] == "no-store"
    assert answer["Vary"] == "Cookie"
    assert answer["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Content-Type"] == "application/json"
    assert not any(name.startswith("Access-Control") for name in answer.headers)


@pytest.mark.parametrize("method", ["post", "put", "delete", "options"])
def test_a_token_is_only_to_be_had_by_get(method: str) -> None:
    request = getattr(RequestFactory(), method)("/connection/token")
    request.user = User()
    assert token(request).status_code == 405


def test_without_a_secret_the_answer_names_the_setting(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "realtime.api.answers")  # a warning only where it is the first
    with override_settings(REALTIME_TOKEN_SECRET=""):
        answer = token(page(User()))
    assert answer.status_code == 503
    assert body(answer)["error"]["reason"] == "configuration"
    assert "REALTIME_TOKEN_SECRET" in caplog.text


# --- what others are shown ---


def by_name(user: User) -> object:
    return {"name": f"user {user.pk} <b>"}


async def by_name_async(user: User) -> object:
    return by_name(user)


def of_the_wrong_size(user: User) -> object:
    return "x" * 5000


def of_the_wrong_kind(user: User) -> object:
    return object()


def broken(user: User) -> object:
    raise LookupError("the host has a bug")


def info_in_a_token() -> str:
    found = body(token(page(User(7))))["token"]
    return wiring.tokens().identity(found, now=time.time()).info


@pytest.mark.django_db(transaction=True)  # Channels looks after the thread's connections
@pytest.mark.parametrize("function", ["by_name", "by_name_async"])
def test_the_host_says_what_others_are_shown(function: str) -> None:
    with override_settings(REALTIME_USER_INFO=f"{HERE}.{function}"):
        assert info_in_a_token() == '{"name":"user 7 <b>"}'


def test_without_a_word_of_the_host_nothing_is_shown() -> None:
    assert info_in_a_token() == ""


@pytest.mark.parametrize("function", ["of_the_wrong_size", "of_the_wrong_kind", "broken"])
def test_where_the_host_fails_nothing_is_shown_and_it_is_logged_once(
    function: str, caplog: Any, monkeypatch: Any
) -> None:
    from realtime import description
    from realtime.outage import Outage

    monkeypatch.setattr(description, "_outage", Outage())
    with override_settings(REALTIME_USER_INFO=f"{HERE}.{function}"):
        assert [info_in_a_token(), info_in_a_token()] == ["", ""]
    [line] = [r for r in caplog.records if r.name == "realtime.description"]
    assert line.levelno == logging.ERROR
    assert line.exc_info


def test_a_function_that_cannot_be_imported_is_a_mistake_at_the_start() -> None:
    with (
        override_settings(REALTIME_USER_INFO="nowhere.at_all"),
        pytest.raises(ImproperlyConfigured, match="REALTIME_USER_INFO: must be the dotted path"),
    ):
        wiring.settings()
