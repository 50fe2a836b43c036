"""Decorators that read the positions of channels before a view reads its data (ADR-0032).

A view's data is older than the page's subscription, so publications in between would be lost
silently. The template tags write the positions into the page, and its client subscribes *since*
them. The decorators work on sync and async functions, and through Django's ``method_decorator`` on
the ``dispatch`` of class-based views.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import wraps
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response, patch_cache_control, patch_vary_headers
from django.utils.translation import get_language

from realtime import wiring
from realtime.api.backend import run_blocking
from realtime.core.breaker import Breaker
from realtime.core.entity_tags import entity_tag
from realtime.core.outage import Outage
from realtime.core.positions import Position, by_channel
from realtime.errors import BrokerError
from realtime.host.page_positions import note_positions
from realtime.host.positions import readable_channels

if TYPE_CHECKING:
    from realtime.host.page_positions import Known

logger = logging.getLogger(__name__)

Channels = str | Callable[..., str | Iterable[str]]
"""A channel, or a function of the view's arguments that returns one or several."""
View = TypeVar("View", bound=Callable[..., Any])

_breaker = Breaker()
"""Otherwise each page would wait for a frozen Redis to time out."""
_outage = Outage()  # for logging
_noting = threading.Lock()  # guards these two


def with_position(*channels: Channels) -> Callable[[View], View]:
    """Read the positions of channels before the view runs, for its page.

    ``{% realtime_client %}``, ``{% realtime %}`` and ``{% realtime_stream %}`` write them into the
    page, whose client then receives or detects everything that is published after them. If Redis
    cannot be reached, the view still runs, and the client reports a gap of unknown size.

    Args:
        *channels: Names, or functions that are called with the arguments of the view (the request
            first) and return one or several names. At most 100 in total.
    """
    _refuse_nothing(channels)

    async def before(call: _Call) -> None:
        await _read_for_page(call, channels)

    return _decorator(before, _change_nothing)


def live_etag(
    *channels: Channels, vary: Callable[..., Iterable[object]] | None = None
) -> Callable[[View], View]:
    """Answer 304 if nothing has been published on the channels; includes `with_position`.

    The positions are read before the view runs and become the entity tag of its response, so an
    unchanged page costs a round trip to Redis instead of the view. The tag also depends on the
    user, the session and the active language. Changes that are not published go unnoticed: publish
    after the commit, and let ``vary`` return everything else that the response depends on. Check
    permissions in decorators above this one, since the view does not run for a 304.

    Args:
        *channels: As for `with_position`.
        vary: Called with the arguments of the view; returns further values that the response
            depends on, compared as text: a page number, the release, permissions.
    """
    _refuse_nothing(channels)

    async def before(call: _Call) -> HttpResponseBase | None:
        positions = await _read_for_page(call, channels)
        if call.request.method not in ("GET", "HEAD"):
            return None
        call.etag = await _etag(call, positions, vary)
        response = _add_headers(HttpResponse(), call.etag)
        answer = get_conditional_response(call.request, etag=call.etag or None, response=response)
        return answer if answer is not None and answer.status_code == 304 else None

    def after(call: _Call, response: Any) -> Any:
        is_page = call.request.method in ("GET", "HEAD") and response.status_code == 200
        return _add_headers(response, call.etag) if is_page else response

    return _decorator(before, after)


class _Doors(NamedTuple):
    """Access to Redis and the user, for a thread (where nothing suspends) or an event loop."""

    positions: Callable[[list[str]], Awaitable[Mapping[str, Position]]]
    user: Callable[[HttpRequest], Awaitable[Any]]


class _Call:
    """One call of a decorated view."""

    __slots__ = ("args", "doors", "etag", "kwargs", "request")

    def __init__(
        self, request: HttpRequest, args: tuple[Any, ...], kwargs: dict[str, Any], doors: _Doors
    ) -> None:
        self.request = request
        self.args = args
        self.kwargs = kwargs
        self.doors = doors
        self.etag = ""

    def ask(self, function: Callable[..., Any]) -> Any:
        return function(self.request, *self.args, **self.kwargs)


_Before = Callable[[_Call], Coroutine[Any, Any, HttpResponseBase | None]]
_After = Callable[[_Call, Any], Any]


def _decorator(before: _Before, after: _After) -> Callable[[View], View]:
    """Return a decorator that calls ``before``, which may answer, then the view, then ``after``."""

    def decorate(view: View) -> View:
        @wraps(view)
        async def in_loop(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            call = _Call(request, args, kwargs, _IN_LOOP)
            if (answer := await before(call)) is not None:
                return answer
            response = view(request, *args, **kwargs)
            return after(call, await response if isawaitable(response) else response)

        @wraps(view)
        def in_thread(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            if _has_loop():  # the `dispatch` of an async class-based view returns an awaitable
                return in_loop(request, *args, **kwargs)
            call = _Call(request, args, kwargs, _IN_THREAD)
            if (answer := run_blocking(before(call))) is not None:
                return answer
            return after(call, view(request, *args, **kwargs))

        return cast(View, in_loop if iscoroutinefunction(view) else in_thread)

    return decorate


def _change_nothing(_: _Call, response: Any) -> Any:
    return response


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _refuse_nothing(channels: tuple[Channels, ...]) -> None:
    for each in channels:
        if not isinstance(each, str) and not callable(each):
            raise TypeError(
                f"a channel is a str or a function of the view's arguments, not {each!r}"
            )
    if not channels:
        raise TypeError("name at least one channel")


# ------------------------------------------------------------------------------- positions


async def _read_for_page(call: _Call, channels: tuple[Channels, ...]) -> Known:
    """Read the positions, and keep them for the page."""
    names = readable_channels(name for each in channels for name in _names(each, call))
    read = await _read(names, call.doors)
    note_positions(call.request, read)
    return read


def _names(each: Channels, call: _Call) -> Iterable[str]:
    found = each if isinstance(each, str) else call.ask(each)
    return (found,) if isinstance(found, str) else found


async def _read(names: list[str], doors: _Doors) -> Known:
    """Return the positions, or None for each if Redis is unreachable; skip a frozen one."""
    if not names:
        return {}
    began = time.monotonic()
    with _noting:
        if not _breaker.admits(began):
            _outage.note_failure(began)
            return dict.fromkeys(names)
    try:
        positions = await doors.positions(names)
    except BrokerError as error:
        _note_failure(began, error)
        return dict.fromkeys(names)
    _note_success()
    return positions


def _note_failure(began: float, error: BrokerError) -> None:
    with _noting:
        now = time.monotonic()
        _breaker.note_failure(began, now)
        is_news = _outage.note_failure(now)
    if is_news:
        logger.warning(
            "cannot read positions: pages are rendered without them and report an open gap: %s",
            error,
        )


def _note_success() -> None:
    with _noting:
        _breaker.note_success()
        over = _outage.note_success(time.monotonic())
    if over is not None:
        logger.info(
            "reading positions works again: %d pages were rendered without them within %.1f s",
            over.failures,
            over.seconds,
        )


# ------------------------------------------------------------------------------ entity tags


async def _etag(call: _Call, positions: Known, vary: Callable[..., Iterable[object]] | None) -> str:
    """Return the entity tag of the response; empty if a position is unknown, or there is none."""
    known = {channel: at for channel, at in positions.items() if at is not None}
    if not known or len(known) < len(positions):
        return ""  # without channels, the tag would never change
    user = await call.doors.user(call.request)
    session = getattr(call.request, "session", None)
    parts: list[object] = [
        user.pk if user is not None and user.is_authenticated else None,
        getattr(session, "session_key", None),
        get_language(),
        *(call.ask(vary) if vary is not None else ()),
    ]
    return entity_tag(known, map(str, parts))


def _add_headers(response: Any, etag: str) -> Any:
    """Add headers that let the browser store the response, but revalidate it each time."""
    if etag and not response.has_header("ETag"):
        response["ETag"] = etag
    patch_cache_control(response, private=True, no_cache=True)
    patch_vary_headers(response, ["Cookie"])
    return response


async def _read_in_loop(names: list[str]) -> Mapping[str, Position]:
    return by_channel(names, await wiring.read_positions(names))


async def _read_in_thread(names: list[str]) -> Mapping[str, Position]:
    return by_channel(names, wiring.read_positions_sync(names))


async def _user_in_loop(request: HttpRequest) -> Any:
    load = getattr(request, "auser", None)  # set by AuthenticationMiddleware
    return getattr(request, "user", None) if load is None else await load()


async def _user_in_thread(request: HttpRequest) -> Any:
    return getattr(request, "user", None)


_IN_LOOP = _Doors(_read_in_loop, _user_in_loop)
_IN_THREAD = _Doors(_read_in_thread, _user_in_thread)
