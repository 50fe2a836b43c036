"""Views whose pages are live from the moment at which their data is read."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.template import Engine, RequestContext
from django.test import RequestFactory, override_settings
from django.utils.decorators import method_decorator
from django.utils.translation import override as language
from django.views import View

import realtime
from realtime import live_etag, with_position
from realtime.core import breaker
from realtime.errors import InvalidName
from realtime.host.page_config import configuration
from realtime.host.page_positions import positions_of
from realtime.wiring import Node
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

Call = Callable[..., Awaitable[HttpResponse]]
Kind = Callable[..., Call]
ORDERS = "chat:orders"


class User:
    """A user with the attributes that every user model of Django has."""

    is_authenticated = True

    def __init__(self, pk: int) -> None:
        self.pk = pk


class Session:
    """A session whose key is known without a query."""

    def __init__(self, key: str) -> None:
        self.session_key = key


def answer_with_positions(request: HttpRequest, *_: Any, **__: Any) -> HttpResponse:
    return HttpResponse(repr(dict(positions_of(request))))


# --- each kind of view, as a coroutine function ---


def of_function(decorator: Any, body: Any = answer_with_positions) -> Call:
    view = decorator(body)

    async def call(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        in_thread = sync_to_async(view, thread_sensitive=False)  # keeps the active language
        response: HttpResponse = await in_thread(request, *args, **kwargs)
        return response

    return call


def of_async_function(decorator: Any, body: Any = answer_with_positions) -> Call:
    @decorator
    async def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = body(request, *args, **kwargs)
        return response

    return view


def of_class(decorator: Any, body: Any = answer_with_positions) -> Call:
    @method_decorator(decorator, name="dispatch")
    class Page(View):
        def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            response: HttpResponse = body(request, *args, **kwargs)
            return response

        post = get

    return of_function(lambda view: view, Page.as_view())


def of_async_class(decorator: Any, body: Any = answer_with_positions) -> Call:
    @method_decorator(decorator, name="dispatch")
    class Page(View):
        async def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            response: HttpResponse = body(request, *args, **kwargs)
            return response

        post = get

    view: Call = Page.as_view()
    return view


@pytest.fixture(params=[of_function, of_async_function, of_class, of_async_class])
def kind(request: pytest.FixtureRequest, node: Node) -> Kind:
    found: Kind = request.param
    return found


def get(path: str = "/", *, user: Any = None, session: str = "", **headers: str) -> HttpRequest:
    request = RequestFactory().get(path, headers=headers)
    if user is not None:
        request.user = user
    request.session = Session(session)  # type: ignore[assignment]
    return request


# --- positions ---


async def test_a_position_is_read_before_the_view_runs(kind: Kind) -> None:
    await realtime.apublish(ORDERS, 1)

    def publish_after_reading(request: HttpRequest) -> HttpResponse:
        return HttpResponse(positions_of(request)[ORDERS].offset)

    view = kind(with_position(ORDERS), publish_after_reading)
    assert (await view(get())).content == b"1"
    await realtime.apublish(ORDERS, 2)
    assert (await view(get())).content == b"2"


async def test_a_channel_may_depend_on_the_arguments_of_the_view(kind: Kind) -> None:
    def own(request: HttpRequest, number: int) -> Iterable[str]:
        return f"chat:{number}", f"chat:{request.user.pk}"

    seen: dict[str, Any] = {}

    def body(request: HttpRequest, number: int) -> HttpResponse:
        seen.update(positions_of(request))
        return HttpResponse()

    view = kind(with_position(ORDERS, own, lambda request, number: "chat:other"), body)
    await view(get(user=User(42)), number=7)
    assert list(seen) == [ORDERS, "chat:7", "chat:42", "chat:other"]


async def test_the_earlier_position_of_a_channel_stays(kind: Kind) -> None:
    request = get()
    first = await kind(with_position(ORDERS))(request)
    await realtime.apublish(ORDERS, 1)
    assert (await kind(with_position(ORDERS))(request)).content == first.content


async def test_an_invalid_channel_is_an_error_of_the_view(kind: Kind) -> None:
    with pytest.raises(InvalidName):
        await kind(with_position(lambda request: "a b"))(get())


@pytest.mark.parametrize("decorator", [with_position, live_etag])
@pytest.mark.parametrize("channels", [(), (7,), (answer_with_positions, None)])
def test_a_decorator_without_channels_is_a_mistake(decorator: Any, channels: Any) -> None:
    """For example, a decorator without parentheses."""
    with pytest.raises(TypeError):
        decorator(*channels)


def test_the_view_keeps_its_name_and_attributes() -> None:
    def view(request: HttpRequest) -> HttpResponse:
        """Show orders."""
        return HttpResponse()

    view.csrf_exempt = True  # type: ignore[attr-defined]
    decorated = live_etag(ORDERS)(with_position(ORDERS)(view))
    assert (decorated.__name__, decorated.__doc__) == ("view", "Show orders.")
    assert decorated.csrf_exempt  # type: ignore[attr-defined]


# --- the page ---


def rendered(request: HttpRequest, tag: str) -> str:
    engine = Engine(libraries={"realtime": "realtime.templatetags.realtime"})
    template = engine.from_string("{% load realtime %}{% autoescape off %}" + tag)
    return template.render(RequestContext(request))


async def test_the_template_tags_write_the_positions(node: Node) -> None:
    receipt = await realtime.apublish(ORDERS, 1)
    request = get()
    await of_async_function(with_position(ORDERS, "chat:b", "news#42"))(request)
    written = configuration(request)["positions"]
    assert written[ORDERS] == {"epoch": receipt.epoch, "offset": 1}
    assert list(written) == [ORDERS, "chat:b", "news#42"]
    for tag in ("{% realtime %}", "{% realtime_client 'chat:orders' %}"):
        assert '"offset": 1' in rendered(request, tag + "{% endautoescape %}")
    url = rendered(request, "{% realtime_stream 'chat:orders' %}{% endautoescape %}")
    personal = written["news#42"]
    assert parse_qs(urlsplit(url).query) == {
        "channel": [ORDERS],
        "since": [
            f"{receipt.epoch}/1/{ORDERS}",
            f"{personal['epoch']}/0/news#42",  # the server may begin it
        ],
    }


@pytest.fixture
async def no_redis() -> AsyncIterator[None]:
    with override_settings(REALTIME_REDIS_URL=f"redis://127.0.0.1:{free_port()}"):
        yield


async def test_without_redis_the_page_is_rendered_and_says_so(
    kind: Kind, no_redis: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "realtime.host.live_views")
    requests = get(), get()
    for request in requests:
        response = await kind(live_etag(ORDERS))(request)
        assert (response.status_code, response.get("ETag")) == (200, None)
        assert configuration(request)["positions"] == {ORDERS: None}
        url = rendered(request, "{% realtime_stream 'chat:orders' %}{% endautoescape %}")
        assert parse_qs(urlsplit(url).query)["since"] == [f"/0/{ORDERS}"]
    [line] = caplog.records
    assert "cannot read positions" in line.message


async def test_a_frozen_redis_is_waited_for_once(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "BREAKER_SECONDS", 3600.0)
    with override_settings(REALTIME_REDIS_URL=own_redis.url, REALTIME_PUBLISH_SECONDS=0.3):
        view = of_function(with_position(ORDERS))
        await view(get())
        own_redis.freeze()
        assert (await view(get())).content == b"{'chat:orders': None}"
        own_redis.thaw()
        assert (await view(get())).content == b"{'chat:orders': None}", "it did not try"


# --- entity tags ---


async def test_a_view_answers_304_while_its_positions_stand(kind: Kind) -> None:
    ran = 0

    def body(request: HttpRequest) -> HttpResponse:
        nonlocal ran
        ran += 1
        return HttpResponse("orders")

    view = kind(live_etag(ORDERS, "chat:b"), body)
    first = await view(get())
    etag = first["ETag"]
    assert first["Cache-Control"] == "private, no-cache"
    assert first["Vary"] == "Cookie"
    assert etag.startswith('W/"')
    again = await view(get(if_none_match=etag))
    assert (again.status_code, again.content, ran) == (304, b"", 1)
    assert (again["ETag"], again["Cache-Control"]) == (etag, first["Cache-Control"])
    await realtime.apublish("chat:b", 1)
    changed = await view(get(if_none_match=etag))
    assert (changed.status_code, ran) == (200, 2)
    assert changed["ETag"] != etag


async def etag_of(view: Call, request: HttpRequest, **kwargs: Any) -> str:
    found: str = (await view(request, **kwargs))["ETag"]
    return found


async def test_each_user_session_and_language_has_a_tag_of_its_own(kind: Kind) -> None:
    view = kind(live_etag(ORDERS))
    asked = [get(), get(user=User(1)), get(user=User(2)), get(session="a"), get(session="b")]
    tags = [await etag_of(view, request) for request in asked]
    with language("de"):
        tags.append(await etag_of(view, get()))
    assert len(set(tags)) == 6
    assert tags[0] == await etag_of(view, get())


async def test_an_async_view_loads_the_user_without_blocking(node: Node) -> None:
    async def auser() -> User:
        return User(1)

    request = get()
    request.auser = auser  # type: ignore[method-assign, assignment]
    view = of_async_function(live_etag(ORDERS))
    assert await etag_of(view, request) == await etag_of(view, get(user=User(1)))


async def test_what_else_a_view_shows_is_part_of_its_tag(kind: Kind) -> None:
    def vary(request: HttpRequest, page: int) -> Iterable[object]:
        return page, request.headers.get("HX-Request")

    view = kind(live_etag(ORDERS, vary=vary))
    asked = [(get(), 1), (get(), 2), (get(hx_request="true"), 1)]
    tags = {await etag_of(view, request, page=page) for request, page in asked}
    assert len(tags) == 3
    assert await etag_of(view, get(), page=1) in tags


async def test_only_a_page_has_a_tag(kind: Kind) -> None:
    view = kind(live_etag(ORDERS), lambda request: HttpResponse(status=404))
    assert "ETag" not in await view(get())
    shown = kind(live_etag(ORDERS))
    etag = await etag_of(shown, get())
    posted = RequestFactory().post("/", headers={"If-None-Match": etag})
    response = await shown(posted)
    assert (response.status_code, response.get("ETag")) == (200, None)


async def test_a_page_without_channels_has_no_tag(kind: Kind) -> None:
    """Such a tag would never change."""
    view = kind(live_etag(lambda request: []))
    assert "ETag" not in await view(get())


async def test_a_tag_of_the_view_itself_stays(kind: Kind) -> None:
    view = kind(live_etag(ORDERS), lambda _: HttpResponse(headers={"ETag": '"mine"'}))
    assert await etag_of(view, get()) == '"mine"'
