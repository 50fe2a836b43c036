"""Parses requests for event streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeGuard
from urllib.parse import parse_qs

import msgspec

from realtime import wiring
from realtime.api.request import MethodNotAllowed, TokenInUrl
from realtime.core import paths
from realtime.core.names import checked_channel
from realtime.errors import InvalidData, InvalidName
from realtime.identity.url_secrets import IN_URL
from realtime.protocols.centrifugo_commands import SubFields, position_in
from realtime.transports.handshake import Scope, has_secret_in_url, header
from realtime.transports.sse_format import (
    LAST_ID_LIMIT,
    PLACE_CHARACTERS,
    PLACES_LIMIT,
    place_of,
    places_of,
)

if TYPE_CHECKING:
    from realtime.core.positions import Position

ALLOWED_METHODS = {paths.SSE: "GET", paths.UNI_SSE: "GET, POST"}
CONNECT = "cf_connect"
"""The query parameter with a connect command of Centrifugo's protocol."""


class StreamRequest(NamedTuple):
    """A parsed request."""

    channels: list[str]
    had: Mapping[str, Position]
    """The client's old positions: from its last id, or of the data that its page shows."""
    token: str = ""
    is_raw: bool = False
    """Whether the client wants unconverted pushes of the wire protocol."""


class _Wanted(msgspec.Struct):
    """A connect command of Centrifugo's protocol; other fields are ignored."""

    token: str = ""
    subs: dict[str, SubFields | None] = {}


async def parse_request(
    path: str, scope: Scope, read_body: Callable[[], Awaitable[bytes]]
) -> StreamRequest:
    """Parse a request.

    Args:
        path: One of `ALLOWED_METHODS`.
        scope: The ASGI scope.
        read_body: Reads the body of a POST, within limits; raises `RequestError`.

    Raises:
        RequestError: The request is invalid, regardless of its sender.
    """
    is_raw = path == paths.UNI_SSE
    if scope["method"] not in ALLOWED_METHODS[path].split(", "):
        raise MethodNotAllowed("use GET")
    refuse_secrets(scope)
    return await _raw(scope, read_body) if is_raw else _plain(scope)


def _plain(scope: Scope) -> StreamRequest:
    """Parse a request of a plain `EventSource`.

    Raises:
        InvalidName: It names no channel, or an invalid one.
        InvalidData: It names too many channels, their names are too long in total, or one of the
            positions is invalid.
    """
    query = query_of(scope)
    channels = _channels(query.get("channel", []))
    if not channels:
        raise InvalidName("channel", None, "is missing; add it to the query: ?channel=public:news")
    if sum(len(name) + PLACE_CHARACTERS for name in channels) > LAST_ID_LIMIT:
        # Otherwise gaps could not be reported: browsers would send an id that servers refuse.
        raise InvalidData("the names are too long in total for a Last-Event-ID", field="channel")
    most = max(PLACES_LIMIT, 2 * wiring.limits().channels_per_connection)
    since = _since(query.get("since", []), most)
    # A reconnect has the same URL; what the stream has sent in the meantime is in the id.
    had = places_of(header(scope, b"last-event-id"), most)
    for channel, position in since.items():
        if len(had) < most:
            had.setdefault(channel, position)
    return StreamRequest(channels, had)


async def _raw(scope: Scope, read_body: Callable[[], Awaitable[bytes]]) -> StreamRequest:
    """Parse a request for a unidirectional stream of Centrifugo's protocol.

    Raises:
        InvalidData: It does not contain a connect command, or one of the positions is invalid.
        InvalidName: It names an invalid channel.
        RequestError: Its body does not arrive in time, or is too large.
    """
    in_url = scope["method"] == "GET"
    text = (query_of(scope).get(CONNECT) or ["{}"])[0] if in_url else await read_body()
    try:
        wanted = msgspec.json.decode(text or "{}", type=_Wanted)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        field = CONNECT if in_url else "body"
        raise InvalidData(f"is not a connect command: {error}"[:200], field=field) from error
    channels = _channels(list(wanted.subs))
    had = {name: _position(name, sub) for name, sub in wanted.subs.items() if _recovers(sub)}
    return StreamRequest(channels, had, wanted.token, is_raw=True)


def _recovers(sub: SubFields | None) -> TypeGuard[SubFields]:
    """Tell whether a client names a position; with an empty epoch, it has none yet."""
    return sub is not None and sub.recover and bool(sub.epoch)


def _position(name: str, sub: SubFields) -> Position:
    if (position := position_in(sub)) is None:
        raise InvalidData("has no valid epoch and offset", field=f"subs.{name}")
    return position


def refuse_secrets(scope: Scope) -> None:
    """Refuse a request with a secret in its URL, and log that, without the secret.

    Raises:
        TokenInUrl: The URL contains a secret.
    """
    if has_secret_in_url(scope):
        raise TokenInUrl(IN_URL)


def query_of(scope: Scope) -> dict[str, list[str]]:
    """Return the query parameters of a request.

    Raises:
        InvalidData: There are too many parameters.
    """
    try:
        return parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=1024)
    except ValueError as error:
        raise InvalidData("has too many parameters", field="query") from error


def _since(texts: Sequence[str], most: int) -> dict[str, Position]:
    """Parse positions strictly: if one were ignored, publications would be missed in silence."""
    if len(texts) > most:
        raise InvalidData(f"use at most {most} positions", field="since")
    if sum(map(len, texts)) > LAST_ID_LIMIT:
        raise InvalidData("the positions are too long in total", field="since")
    return dict(map(place_of, texts))


def _channels(names: Sequence[str]) -> list[str]:
    channels: list[str] = list(dict.fromkeys(map(checked_channel, names)))
    most = wiring.limits().channels_per_connection
    if len(channels) > most:
        raise InvalidData(f"use at most {most} channels", field="channel")
    return channels
