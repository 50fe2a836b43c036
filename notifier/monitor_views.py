"""The page ``/monitor/`` for the staff: its numbers, and repairs of the fallback queue."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from notifier.accounts import is_staff
from notifier.monitor_news import channel_of, read_page
from realtime.contrib.admin.dead_letters import (
    PAGE_ROWS,
    Letter,
    MoveResult,
    move_letters,
    read_letters,
)
from realtime.errors import BrokerError

logger = logging.getLogger("notifier.monitor")

REFUSAL = "Only members of the staff may see this. Log in again if your session has ended."
NOT_ALL_MOVED = (
    "Redis is unreachable or refused it, so some entries may not have been moved. Look at the list "
    "before you try again."
)

_encode = msgspec.json.Encoder().encode


@never_cache
@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """Show the page to members of the staff."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    if not is_staff(request.user):
        return render(request, "notifier/monitor_off.html", status=403)
    return render(request, "notifier/monitor.html", {"channel": channel_of(request.user)})


@never_cache
@require_safe
async def state(request: HttpRequest) -> HttpResponse:
    """Return the numbers as JSON; with ``?past=1`` those of the last quarter of an hour, too."""
    if not is_staff(await request.auser()):
        return _refuse(403, REFUSAL)
    body = await read_page(with_past="past" in request.GET)
    return HttpResponse(body, content_type="application/json")


@never_cache
@require_safe
def letters(request: HttpRequest) -> HttpResponse:
    """Return the oldest dead letters: ``{"letters": [{"key", "id", "channel", …}]}``."""
    if not is_staff(request.user):
        return _refuse(403, REFUSAL)
    try:
        found = read_letters(0)
    except BrokerError as error:
        logger.warning("cannot read or move dead entries: %s", error)
        return _refuse(503, "Redis is unreachable, so the dead entries are unknown.")
    return _json({"letters": [_describe(letter) for letter in found]})


@require_POST
def move(request: HttpRequest, *, purging: bool) -> HttpResponse:
    """Queue the dead letters of the form again, or delete them: ``{"moved", "absent", …}``.

    The form names each by the ``key`` that `letters` gave it, so nothing is moved unseen.
    """
    if not is_staff(request.user):
        return _refuse(403, REFUSAL)
    keys = frozenset(request.POST.getlist("key")[:PAGE_ROWS])
    try:
        result = move_letters(keys, 0, purging=purging)
    except BrokerError as error:
        logger.warning("cannot read or move dead entries: %s", error)
        return _refuse(503, NOT_ALL_MOVED)
    _log(request, result, purging=purging)
    body = {"moved": len(result.done), "absent": result.absent, "unreadable": result.unreadable}
    return _json(body)


def _log(request: HttpRequest, result: MoveResult, *, purging: bool) -> None:
    if not result.done:
        return
    logger.info(
        "user %s %s dead entries of the fallback queue: %d",
        ascii(request.user.get_username())[1:-1],  # on one line (CWE-117)
        "purged" if purging else "retried",
        len(result.done),
        extra={"entries": result.done},
    )


def _describe(letter: Letter) -> dict[str, Any]:
    """Return what the page shows of a dead letter: no data, which may be personal."""
    entry = letter.entry
    return {
        "key": letter.key,
        "id": letter.id,
        "channel": letter.channel,
        "failed_at": letter.failed_at.timestamp() if letter.failed_at else None,
        "fallback": entry.fallback if entry else "",
        "attempts": entry.failures if entry else 0,
        "reason": entry.reason if entry else "This entry is unreadable. It can only be purged.",
        "is_readable": entry is not None,
    }


def _refuse(status: int, message: str) -> HttpResponse:
    return _json({"error": {"message": message}}, status)


def _json(body: object, status: int = 200) -> HttpResponse:
    return HttpResponse(_encode(body), status=status, content_type="application/json")
