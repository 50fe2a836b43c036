"""The console of the staff: what goes over a connection, with a form to publish.

The page subscribes as its user, and publishes through the API with the user's session, so the rules
of the server decide what it shows and does. Only the connections of users have views of their own:
the API lists and closes them for holders of a key alone.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from notifier.accounts import is_staff
from notifier.views import LIVE_CHANNEL
from realtime import disconnect_user
from realtime.errors import BrokerError, InvalidData, OutcomeUnknown, RealtimeError
from realtime.wiring.monitoring import survey_connections

logger = logging.getLogger("notifier.console")

_PROBLEMS = {
    503: "Not disconnected: Redis is unreachable. Try again when this page shows Live.",
    504: "Redis did not respond, so the user may or may not be disconnected. It is safe to try "
    "again.",
}
LOGGED_CHARACTERS = 128  # of an ID, which has no more
CONNECTIONS_SHOWN = 100
"""Connections of a user in one answer."""
NOT_STAFF = "Log in as a member of the staff."


# Never cached: it shows who is logged in.
@never_cache
@require_safe
def console(request: HttpRequest) -> HttpResponse:
    """Show the page to members of the staff.

    Raises:
        PermissionDenied: The user is none.
    """
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    if not is_staff(request.user):
        raise PermissionDenied
    return render(request, "notifier/console.html", {"channel": LIVE_CHANNEL})


# A POST, so that no proxy writes the ID of the user into its log.
@require_POST
async def connections(request: HttpRequest) -> HttpResponse:
    """Return connections of ``user`` behind the id ``after``, each with its channels.

    The body is ``{"connections": [{"client", "node_name", "channels", …}], "has_more",
    "silent_nodes"}``.
    """
    if not is_staff(await request.auser()):
        return _refuse(403, NOT_STAFF)
    user, after = request.POST.get("user", ""), request.POST.get("after", "")
    try:
        survey = await survey_connections(user, after=after, limit=CONNECTIONS_SHOWN)
    except BrokerError:
        return _refuse(503, "Redis is unreachable, so the connections are unknown.")
    except InvalidData as error:
        return _refuse(400, str(error))
    found = [
        {"node": uid, "node_name": name, **msgspec.structs.asdict(connection)}
        for uid, name, connection in survey.connections
    ]
    body = {"connections": found, "has_more": survey.has_more, "silent_nodes": survey.silent}
    return JsonResponse(body)


@require_POST
def disconnect(request: HttpRequest) -> HttpResponse:
    """Close all connections of ``user``, or its connection ``client``."""
    staff = request.user
    if not is_staff(staff):
        return _refuse(403, NOT_STAFF)
    user, client = request.POST.get("user", ""), request.POST.get("client", "")
    try:
        disconnect_user(user, client=client)
    except RealtimeError as error:
        _log(staff, user, client, error.code)
        status = _status_of(error)
        return _refuse(status, _PROBLEMS.get(status, str(error)))
    _log(staff, user, client, "sent")
    return JsonResponse({})


def _status_of(error: RealtimeError) -> int:
    if isinstance(error, OutcomeUnknown):
        return 504
    return 503 if isinstance(error, BrokerError) else 400


def _log(staff: Any, user: str, client: str, outcome: str) -> None:
    names = (staff.get_username(), user, client or "all")
    by, who, which = (ascii(name[:LOGGED_CHARACTERS])[1:-1] for name in names)
    logger.info("staff member %s: disconnect user %s, connection %s: %s", by, who, which, outcome)


def _refuse(status: int, message: str) -> HttpResponse:
    return JsonResponse({"error": {"message": message}}, status=status)
