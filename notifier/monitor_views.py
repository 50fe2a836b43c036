"""The page ``/monitor/`` for the staff: its numbers, and repairs of the fallback queue."""

from __future__ import annotations

import msgspec
from asgiref.sync import sync_to_async
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from notifier.job_views import count_jobs
from notifier.monitor import read_state

REFUSAL = "Only members of the staff may see this. Log in again if your session has ended."

_encode = msgspec.json.Encoder().encode


@never_cache
@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """Show the page to members of the staff."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    if not _is_staff(request.user):
        return render(request, "notifier/monitor_off.html", status=403)
    return render(request, "notifier/monitor.html")


@never_cache
@require_safe
async def state(request: HttpRequest) -> HttpResponse:
    """Return the numbers as JSON; with ``?past=1`` those of the last quarter of an hour, too."""
    if not _is_staff(await request.auser()):
        return _json({"error": {"message": REFUSAL}}, 403)
    found = await read_state(with_past="past" in request.GET)
    jobs = await sync_to_async(count_jobs)()
    return _json({**found, "jobs": jobs})


def _is_staff(user: AbstractBaseUser | AnonymousUser) -> bool:
    return isinstance(user, User) and user.is_staff


def _json(body: object, status: int = 200) -> HttpResponse:
    return HttpResponse(_encode(body), status=status, content_type="application/json")
