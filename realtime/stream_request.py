"""What a request for an event stream asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from realtime import wiring
from realtime.api.head import MethodNotAllowed, TokenInUrl
from realtime.errors import InvalidData, InvalidName, InvalidToken
from realtime.events import LAST_ID_LIMIT, PLACE_CHARACTERS
from realtime.names import checked_channel
from realtime.query import IN_URL, has_secret
from realtime.refusals import told
from realtime.streams import header

PATH, RAW_PATH = "/connection/sse", "/connection/uni_sse"
PATHS = (PATH, RAW_PATH)
METHODS = {PATH: "GET", RAW_PATH: "GET, POST"}
CONNECT = "cf_connect"
"""The parameter that has a connect command of Centrifugo's."""

Scope = MutableMapping[str, Any]


class Asked(NamedTuple):
    """What a request asks for."""

    channels: list[str]
    last_id: str
    token: str = ""
    is_raw: bool = False
    """Whether it wants the pushes of the wire protocol as they are."""


class _Wanted(msgspec.Struct):
    """A connect command of Centrifugo's; it may have more fields, which mean nothing here."""

    token: str = ""
    subs: dict[str, Any] = {}


async def asked(scope: Scope, read_body: Callable[[], Awaitable[bytes]]) -> Asked:
    """Read a request.

    Args:
        scope: ASGI's.
        read_body: Reads the body of a POST, within limits; raises `RequestError`.

    Raises:
        RequestError: It cannot be had, whoever asks.
    """
    is_raw = scope["path"] == RAW_PATH
    if scope["method"] not in METHODS[scope["path"]].split(", "):
        raise MethodNotAllowed("send a GET")
    refuse_secrets(scope)
    return await _raw(scope, read_body) if is_raw else _plain(scope)


def _plain(scope: Scope) -> Asked:
    """Read the request.

    Raises:
        InvalidName: It names no channel, or one that cannot be.
        InvalidData: It names too many, or names that are too long together.
    """
    channels = _channels(query_of(scope).get("channel", []))
    if not channels:
        raise InvalidName("channel", None, "name it in the query: ?channel=public:news")
    if sum(len(name) + PLACE_CHARACTERS for name in channels) > LAST_ID_LIMIT:
        # Or nobody could be told what was missed: browsers would send an id that servers refuse.
        raise InvalidData("so many, with such names, fit in no Last-Event-ID", field="channel")
    return Asked(channels, header(scope, b"last-event-id"))


async def _raw(scope: Scope, read_body: Callable[[], Awaitable[bytes]]) -> Asked:
    """Read the request for an unidirectional stream of Centrifugo's.

    Raises:
        InvalidData: That is no connect command.
        InvalidName: It names a channel that cannot be.
        RequestError: Its body does not come, or is too large.
    """
    in_url = scope["method"] == "GET"
    text = (query_of(scope).get(CONNECT) or ["{}"])[0] if in_url else await read_body()
    try:
        wanted = msgspec.json.decode(text or "{}", type=_Wanted)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        field = CONNECT if in_url else "body"
        raise InvalidData(f"is no connect command: {error}"[:200], field=field) from error
    channels = _channels(list(wanted.subs))
    return Asked(channels, "", wanted.token, is_raw=True)


def refuse_secrets(scope: Scope) -> None:
    """Refuse a request with a secret in its URL, and tell the log, without the secret.

    Raises:
        TokenInUrl: It has one.
    """
    if has_secret(scope["query_string"].decode("latin-1")):
        told(InvalidToken("it was in the URL, which others log"))
        raise TokenInUrl(IN_URL)


def query_of(scope: Scope) -> dict[str, list[str]]:
    """Return the parameters of a request.

    Raises:
        InvalidData: They are too many.
    """
    try:
        return parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=1024)
    except ValueError as error:
        raise InvalidData("has too many fields", field="query") from error


def _channels(names: Sequence[str]) -> list[str]:
    channels = list(dict.fromkeys(map(checked_channel, names)))
    most = wiring.limits().channels_per_connection
    if len(channels) > most:
        raise InvalidData(f"at most {most} channels", field="channel")
    return channels
