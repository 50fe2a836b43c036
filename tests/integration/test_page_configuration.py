"""The template tag `{% realtime %}`, and the view that issues tokens to logged-in pages."""

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
from django.utils.functional import SimpleLazyObject, empty

from realtime import wiring
from realtime.contrib.jinja2 import FUNCTIONS
from realtime.endpoint import HttpEndpoint
from realtime.errors import ConfigurationError, InvalidName
from realtime.host.page_config import token

HERE = "tests.integration.test_page_configuration"
OTHER = override_settings(REALTIME_PUBLIC_URL="https://notify.example.com")


class User:
    """A user with the attributes that every user model of Django has."""

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
def test_the_session_suffices_on_the_host_of_the_service(user: Any) -> None:
    assert configured(page(user)) == {"url": "/connection/websocket"}


def test_the_page_tells_the_client_its_channels() -> None:
    tag = '{% realtime_client "public:news" channel %}'
    told = configured(page(), tag, channel="orders:7#42")
    assert told == {"url": "/connection/websocket", "channels": ["public:news", "orders:7#42"]}
    assert configured(page(), "{% realtime_client %}")["channels"] == []
    assert "nonce" not in rendered(page(), tag, channel="a")


def test_the_functions_for_other_template_engines_render_the_same() -> None:
    request = page(User())
    assert FUNCTIONS["realtime"](request) == rendered(request)
    tag = '{% realtime_client "public:news" %}'
    assert FUNCTIONS["realtime_client"](request, "public:news") == rendered(request, tag)
    stream = rendered(request, '{% realtime_stream "public:news" %}')
    assert FUNCTIONS["realtime_stream"](request, "public:news") == stream
    bell = '{% realtime_bell "public:news" rows="/rows/" text_label="Post" %}'
    made = FUNCTIONS["realtime_bell"](request, "public:news", rows="/rows/", text_label="Post")
    assert made == rendered(request, bell)
    assert FUNCTIONS["realtime"](None) == rendered(None)


class LazyNonce(SimpleLazyObject):
    """Like `django.utils.csp.LazyNonce` of Django 6: false until it is written."""

    def __bool__(self) -> bool:
        return self._wrapped is not empty


@pytest.mark.parametrize("by", ["Django 6", "Django 6 without its context processor", "django-csp"])
def test_all_that_loads_code_has_the_nonce_of_the_policy(by: str) -> None:
    """Nobody had written the nonce before us, so it was treated as missing."""
    request, context = page(), {}
    nonce = LazyNonce(lambda: 'n"1')
    if by == "Django 6":
        context["csp_nonce"] = nonce
    else:
        setattr(request, "csp_nonce" if by == "django-csp" else "_csp_nonce", nonce)
    text = rendered(request, "{% realtime_client %}", **context)
    assert re.search(r'<script type="module" src="[^"]+" nonce="n&quot;1"></script>', text)
    for tag in ("{% realtime %}", "{% realtime_client %}"):
        text = rendered(request, tag, **context)
        assert re.search(r'<link rel="modulepreload" href="[^"]+" nonce="n&quot;1">', text)


@pytest.mark.parametrize("tag", ["realtime_client", "realtime_stream"])
@pytest.mark.parametrize("channel", ["", "a b", "<script>", "x" * 256, None])
def test_an_invalid_channel_is_a_template_error(tag: str, channel: Any) -> None:
    with pytest.raises(InvalidName):
        rendered(page(), f"{{% {tag} channel %}}", channel=channel)


def test_the_page_has_the_address_of_the_stream() -> None:
    tag = '{% realtime_stream "public:news" "news#42" %}'
    assert rendered(page(), tag) == "/connection/sse?channel=public%3Anews&amp;channel=news%2342"
    for public, expected in (
        ("https://notify.example.com", "https://notify.example.com"),
        ("wss://notify.example.com/connection/websocket", "https://notify.example.com"),
        ("wss://n.example/app/live/connection/websocket", "https://n.example/app/live"),
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


def test_the_tags_write_the_prefix_of_the_host() -> None:
    with override_settings(REALTIME_PATH_PREFIX="/live/"):
        assert configured(page()) == {"url": "/live/connection/websocket"}
        stream = rendered(page(), '{% realtime_stream "a" %}')
        assert stream == "/live/connection/sse?channel=a"
        with OTHER:  # the prefix is that of this project, not of the service
            url = "https://notify.example.com/connection/websocket"
            assert configured(page()) == {"url": url}
    for wrong in ("live/", "/live", "//", "/../", "/a b/", "", "/a//b/"):
        with (
            override_settings(REALTIME_PATH_PREFIX=wrong),
            pytest.raises(ImproperlyConfigured, match="must begin and end with a slash"),
        ):
            rendered(page())


@pytest.mark.parametrize(
    "prefixes", [{"api": "live/api/"}, {"api": "/live/"}, {"api": "/api"}, {"probes": "/live"}]
)
def test_a_prefix_that_cannot_be_mounted_is_named(prefixes: dict[str, str]) -> None:
    [(name, value)] = prefixes.items()
    with pytest.raises(ConfigurationError, match=rf"{name}=.*must begin with / .* not '{value}'"):
        HttpEndpoint(page, **prefixes)


def test_a_bell_has_its_options_as_attributes() -> None:
    options = "rows=where spread=5 quiet=True waits=False text_gap_some=word"
    html = rendered(
        page(), f'{{% realtime_bell "a" "b" {options} %}}', where="/rows/", word='"><b onx="1">'
    )
    [bell] = re.findall(r"<realtime-bell .*", html)
    assert bell == (
        '<realtime-bell channels="a b" rows="/rows/" spread="5" quiet=""'
        ' text-gap-some="&quot;&gt;&lt;b onx=&quot;1&quot;&gt;"></realtime-bell>'
    )
    assert configured(page(), "{% realtime_bell %}") == {"url": "/connection/websocket"}


@pytest.mark.parametrize("option", ["onclick", "text_nothing", "style", "channels"])
def test_an_unknown_option_of_a_bell_is_named(option: str) -> None:
    with pytest.raises(TypeError, match=f"realtime_bell has no option '{option}'"):
        rendered(page(), f"{{% realtime_bell {option}='x' %}}")


def test_no_script_is_inline() -> None:
    """A Content-Security-Policy without `unsafe-inline` allows data and files."""
    html = rendered(page())
    assert re.findall(r"<script[^>]*>", html) == [
        '<script id="realtime-config" type="application/json">'
    ]
    assert '<link rel="modulepreload" href="/static/realtime/client.js">' in html


@OTHER
def test_a_page_on_another_host_has_the_address_for_tokens() -> None:
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
def test_a_missing_setting_is_named_when_the_page_is_rendered() -> None:
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


def test_a_user_gets_a_token_for_their_own_account() -> None:
    answer = token(page(User(42)))
    assert answer.status_code == 200
    found = body(answer)
    assert found.keys() == {"token", "expires_in"}
    assert found["expires_in"] == 600
    identity = wiring.tokens().verify_identity(found["token"], now=time.time())
    assert identity.user == "42"


def test_a_user_of_another_table_than_that_of_tokens_gets_none() -> None:
    with override_settings(REALTIME_SESSION_USER_PREFIX="service."):
        answer = token(page(User(42)))
    assert (answer.status_code, body(answer)["error"]["reason"]) == (403, "forbidden")


@pytest.mark.parametrize("user", [None, Nobody()])
def test_an_anonymous_page_gets_no_token_and_is_told_to_stop(user: Any) -> None:
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
def test_a_token_response_is_neither_cached_nor_readable_by_other_sites(user: Any) -> None:
    answer = token(page(user))
    assert answer["Cache-Control"] == "no-store"
    assert answer["Vary"] == "Cookie"
    assert answer["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Content-Type"] == "application/json"
    assert not any(name.startswith("Access-Control") for name in answer.headers)


@pytest.mark.parametrize("method", ["post", "put", "delete", "options"])
def test_a_token_is_available_by_get_only(method: str) -> None:
    request = getattr(RequestFactory(), method)("/connection/token")
    request.user = User()
    assert token(request).status_code == 405


def test_the_error_without_a_secret_names_the_setting(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "realtime.api.answers")  # a warning only if it is the first
    with override_settings(REALTIME_TOKEN_SECRET=""):
        answer = token(page(User()))
    assert answer.status_code == 503
    assert body(answer)["error"]["reason"] == "configuration"
    assert "REALTIME_TOKEN_SECRET" in caplog.text


# --- the user info that others see ---


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
    return wiring.tokens().verify_identity(found, now=time.time()).info


@pytest.mark.django_db(transaction=True)  # Channels manages the thread's database connections
@pytest.mark.parametrize("function", ["by_name", "by_name_async"])
def test_the_host_decides_what_other_users_see(function: str) -> None:
    with override_settings(REALTIME_USER_INFO=f"{HERE}.{function}"):
        assert info_in_a_token() == '{"name":"user 7 <b>"}'


def test_nothing_is_shown_by_default() -> None:
    assert info_in_a_token() == ""


@pytest.mark.parametrize("function", ["of_the_wrong_size", "of_the_wrong_kind", "broken"])
def test_a_failing_user_info_shows_nothing_and_is_logged_once(
    function: str, caplog: Any, monkeypatch: Any
) -> None:
    from realtime.auth import user_info
    from realtime.core.outage import Outage

    monkeypatch.setattr(user_info, "_outage", Outage())
    with override_settings(REALTIME_USER_INFO=f"{HERE}.{function}"):
        assert [info_in_a_token(), info_in_a_token()] == ["", ""]
    [line] = [r for r in caplog.records if r.name == "realtime.auth.user_info"]
    assert line.levelno == logging.ERROR
    assert line.exc_info


def test_a_function_that_cannot_be_imported_is_an_error_at_startup() -> None:
    with (
        override_settings(REALTIME_USER_INFO="nowhere.at_all"),
        pytest.raises(ImproperlyConfigured, match="REALTIME_USER_INFO: must be the dotted path"),
    ):
        wiring.settings()


class Session:
    accessed = False

    def __init__(self, session_key: str | None) -> None:
        self.session_key = session_key


SHARED = "{% realtime shared=True %}"


def session_name(key: str | None, user: Any = None) -> str:
    request = page(user)
    request.session = Session(key)  # type: ignore[assignment]
    name: str = configured(request, SHARED)["session"]
    assert request.session.accessed, "another session's page must not come from a cache"
    return name


def test_tabs_share_a_connection_only_with_pages_of_the_same_session() -> None:
    ada = User(1)
    names = [
        *(session_name("one", ada), session_name("one", User(2)), session_name("two", ada)),
        *(session_name("one"), session_name(None), session_name(None, ada)),
    ]
    assert len(set(names)) == len(names)
    assert session_name("one", User(1)) == names[0]
    assert session_name(None, Nobody()) == names[4]
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)


@pytest.mark.parametrize("tag", ["realtime", "realtime_client", "realtime_bell"])
def test_pages_share_a_connection_only_if_the_template_says_so(tag: str) -> None:
    assert "session" in configured(page(), f"{{% {tag} shared=True %}}")
    assert "session" not in configured(page(), f"{{% {tag} %}}")
    made = FUNCTIONS[tag](page(), shared=True)
    assert '"session": "' in made


def test_without_a_request_the_session_is_unknown() -> None:
    assert "session" not in configured(None, SHARED)
