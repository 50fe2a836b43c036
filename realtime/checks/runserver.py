"""System check of ``manage.py runserver``: whether it speaks WebSocket."""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.management import get_commands

_WITHOUT = frozenset({"django.core", "django.contrib.staticfiles"})
"""The apps whose ``runserver`` serves HTTP alone."""


@checks.register("realtime")
def check_runserver(**kwargs: Any) -> list[checks.CheckMessage]:
    """Report a ``runserver`` that serves no WebSockets, when it starts and at no other time."""
    is_starting = sys.argv[1:2] == ["runserver"]
    is_elsewhere = bool(getattr(settings, "REALTIME_PUBLIC_URL", None))
    if not is_starting or is_elsewhere or not getattr(settings, "ASGI_APPLICATION", None):
        return []
    if get_commands().get("runserver") not in _WITHOUT:
        return []
    return [
        checks.Warning(
            "This runserver speaks no WebSocket, so pages of this project do not become live.",
            hint='Install daphne and put "daphne" first in INSTALLED_APPS, or use another server '
            "(docs/howto/servers.md of django-realtime-notifier).",
            id="realtime.W018",
        )
    ]
