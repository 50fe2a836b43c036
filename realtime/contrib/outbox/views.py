"""What a page has missed, from the rows of the outbox that were published and kept.

The service itself stores nothing: this is the host's own view on the host's own table. It lets a
client read exactly what it may subscribe to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import NamedTuple

from asgiref.sync import async_to_sync
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from realtime import wiring
from realtime.connection.hostcode import of_host
from realtime.contrib.outbox.models import OutboxRow
from realtime.contrib.outbox.relay import WAITING, rows_of
from realtime.core.codes import INTERNAL_ERROR, PERMISSION_DENIED, Refusal
from realtime.core.identity import ANONYMOUS, Grant, Identity
from realtime.core.names import checked_channel, users_of
from realtime.delivery.joining import why_not
from realtime.errors import InvalidData, RequestError, Unauthorized

ROWS = 100
"""Publications in one answer."""
ANSWER_BYTES = 1024 * 1024
"""The size of their bodies; one that is larger alone is sent alone."""
AUTHORIZE_SECONDS = 5.0
"""The timeout for the host's decision, as for a subscription."""
MARGIN_SECONDS = 5
"""For the request, and for clocks that run at different speeds."""
LARGEST = 2**63 - 1
"""Offsets and ids: what the columns of the table hold."""
EPOCH_CHARACTERS = 64


class Missed(NamedTuple):
    """The publications that a page asks for."""

    channel: str
    epoch: str
    first: int
    """The first offset."""
    last: int | None
    """The last offset; None if it is unknown."""
    waiting: int | None
    """The id of the last row that waited when the page first asked; None at first."""
    age_seconds: int | None = None
    """How long ago the page was complete, by its own clock; None if it does not say."""


# Never cached: another user may be logged in next.
@login_not_required
@never_cache
@require_safe
def missed_publications(
    request: HttpRequest, *, is_only_publisher: bool = False, using: str | None = None
) -> HttpResponse:
    """Return publications that were kept, in their order, to a client that may subscribe.

    For ``client.js``, whose ``subscribe(channel, {fill: url})`` asks for what is in a gap. The
    query has ``channel``, ``epoch``, ``from``, ``to`` unless the end of the gap is unknown, and
    ``age``: how many seconds ago the page was complete. The user is that of the session; a channel
    that needs a subscription token gets it in the header ``Authorization: Bearer TOKEN``.

    The answer is ``{"publications": [{"offset": 5, "data": …, "tags": {…}}], "more": false,
    "complete": false, "waiting": null}``. ``more``: ask again from the next offset. ``complete``:
    there is nothing else after ``from`` in this epoch, although the gap has no end. ``waiting``:
    rows of the channel up to this id are not published yet, or not recorded; ask again, with it, if
    something is missing. Errors are ``{"error": {"code", "message"}}`` with 400, 401, 403 or 503.

    Args:
        request: The page's request.
        is_only_publisher: Whether nothing but the outbox publishes on these channels, so that the
            end of an epoch is known.
        using: The database of the outbox; by default, where Django's routers write the rows. Not a
            replica of it: what has not arrived there would count as not published.

    Raises:
        ImproperlyConfigured: Rows are not kept.
    """
    if not wiring.settings().outbox_keep_seconds:
        raise ImproperlyConfigured(
            "missed_publications has nothing to return: published rows are deleted at once. Set "
            "REALTIME_OUTBOX_KEEP_SECONDS, for example to 3600."
        )
    try:
        missed = _parse(request)
        refusal = _why_not(request, missed.channel)
    except Unauthorized as error:  # its text is for the log alone
        return _refuse(401, error.code, "the subscription token is invalid or has expired")
    except RequestError as error:
        return _refuse(400, error.code, str(error))
    if refusal is not None:
        is_denied = refusal is not INTERNAL_ERROR
        status, code = (403, "forbidden") if is_denied else (503, "internal")
        return _refuse(status, code, refusal.message)
    return _answer(missed, using or router.db_for_write(OutboxRow), is_only_publisher)


def _refuse(status: int, code: str, message: str) -> HttpResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)


def _parse(request: HttpRequest) -> Missed:
    """Parse the query.

    Raises:
        RequestError: Something is missing or invalid.
    """
    query = request.GET
    epoch = query.get("epoch", "")
    if not epoch or len(epoch) > EPOCH_CHARACTERS or not epoch.isascii() or not epoch.isalnum():
        raise InvalidData("is not an epoch", field="epoch")
    first = _whole(query.get("from"), "from")
    if first is None:
        raise InvalidData("is missing", field="from")
    return Missed(
        checked_channel(query.get("channel")),
        epoch,
        first,
        _whole(query.get("to"), "to"),
        _whole(query.get("waiting"), "waiting"),
        _whole(query.get("age"), "age"),
    )


def _whole(text: str | None, field: str) -> int | None:
    if text is None:
        return None
    if len(text) > 19 or not text.isascii() or not text.isdecimal() or int(text) > LARGEST:
        raise InvalidData("is not a whole number", field=field)
    return int(text)


def _why_not(request: HttpRequest, channel: str) -> Refusal | None:
    """Apply the rules of a subscription; return None if the client may subscribe.

    Raises:
        Unauthorized: Its token is invalid or has expired.
    """
    namespaces, identity, grant = wiring.namespaces(), _identity(request), _grant(request)
    allowed = namespaces.may_subscribe(channel, identity, grant)
    # As in `ClientChannels`: the time of a refusal must not tell which namespaces exist.
    is_unknown = namespaces.get(channel) is None and users_of(channel) is None
    authorize = wiring.authorizer()
    if authorize is not None and (allowed is None or (is_unknown and grant is None)):
        refusal = async_to_sync(_ask)(authorize(identity, channel, "subscribe"))
        return PERMISSION_DENIED if is_unknown else refusal
    return None if allowed else PERMISSION_DENIED


async def _ask(answer: Awaitable[bool]) -> Refusal | None:
    async def decide() -> bool:
        async with asyncio.timeout(AUTHORIZE_SECONDS):
            return bool(await of_host(answer))

    task = asyncio.ensure_future(decide())
    await asyncio.wait([task])
    return why_not(task)


def _identity(request: HttpRequest) -> Identity:
    user = getattr(request, "user", None)  # absent without Django's middleware
    if user is None or not user.is_authenticated:
        return ANONYMOUS
    return Identity(wiring.user_table().id_of(str(user.pk)))


def _grant(request: HttpRequest) -> Grant | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        return None
    return wiring.tokens().verify_grant(token.strip(), time.time())


def _answer(missed: Missed, alias: str, is_only_publisher: bool) -> HttpResponse:
    # First what waits: a row that is recorded in between is then in both.
    waiting = _read_waiting(missed, alias)
    published, has_more = _read_published(missed, alias)
    is_all_kept = _is_all_kept(missed.age_seconds)
    complete = is_only_publisher and is_all_kept and not has_more and waiting is None
    texts = [f'{{"offset":{offset},{body[1:]}' for offset, body in published]
    flags = f'"more":{_json(has_more)},"complete":{_json(complete)}'
    waits = "null" if waiting is None else str(waiting)
    text = f'{{"publications":[{",".join(texts)}],{flags},"waiting":{waits}}}'
    return HttpResponse(text, content_type="application/json")


def _is_all_kept(age_seconds: int | None) -> bool:
    """Tell whether no row of the gap can have been deleted yet.

    An age and not a time: the clocks of browsers are wrong, but they run.
    """
    kept_seconds = wiring.settings().outbox_keep_seconds
    return age_seconds is not None and age_seconds + MARGIN_SECONDS <= kept_seconds


def _json(value: bool) -> str:
    return "true" if value else "false"


def _read_published(missed: Missed, alias: str) -> tuple[list[tuple[int, str]], bool]:
    """Return offsets and bodies, and whether there are more."""
    found = rows_of(alias).filter(
        channel=missed.channel, epoch=missed.epoch, offset__gte=missed.first
    )
    if missed.last is not None:
        found = found.filter(offset__lte=missed.last)
    rows = list(found.order_by("offset").values_list("offset", "body")[: ROWS + 1])
    chosen: list[tuple[int, str]] = []
    size = 0
    for offset, body in rows[:ROWS]:
        size += len(body.encode())
        if offset is None or (chosen and size > ANSWER_BYTES):
            break  # the first is for mypy: the query excludes it
        chosen.append((offset, body))
    return chosen, len(chosen) < len(rows)


def _read_waiting(missed: Missed, alias: str) -> int | None:
    """Return the id of the last row of the channel that waits, of those that waited at first."""
    found = newest_first(missed.channel, alias)
    if missed.waiting is not None:
        found = found.filter(pk__lte=missed.waiting)
    return found.values_list("pk", flat=True).first()


def newest_first(channel: str, alias: str) -> QuerySet[OutboxRow]:
    """Return the rows of a channel that wait; by the columns of an index, as in `oldest_first`."""
    return rows_of(alias).filter(WAITING, channel=channel, epoch="").order_by("-offset", "-pk")
