"""The console of the staff: what goes over a connection, with a form to publish.

The page subscribes as its user, and publishes through the API with the user's session, so the rules
of the server decide what it shows and does.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from notifier.views import LIVE_CHANNEL


# Never cached: it shows who is logged in.
@never_cache
@require_safe
def console(request: HttpRequest) -> HttpResponse:
    """Show the page to members of the staff.

    Raises:
        PermissionDenied: The user is none.
    """
    user: Any = request.user
    if not user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    if not user.is_staff:
        raise PermissionDenied
    return render(request, "notifier/console.html", {"channel": LIVE_CHANNEL})
