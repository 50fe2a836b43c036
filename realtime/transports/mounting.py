"""Where a proxy mounts the project, for code that runs without Django's request.

``FORCE_SCRIPT_NAME`` takes precedence over the server's ``root_path``, as in Django's handlers.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from django.conf import settings

from realtime.core.paths import for_browsers, within_project


def script_name(scope: MutableMapping[str, Any]) -> str:
    """Return the prefix of the project's URLs; empty if it has none."""
    return settings.FORCE_SCRIPT_NAME or scope.get("root_path", "") or ""


def path_within_project(scope: MutableMapping[str, Any]) -> str:
    """Return the path of a request without that prefix."""
    return within_project(scope["path"], script_name(scope))


def with_prefix(scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return a scope whose path begins with its ``root_path``, as ASGI requires.

    If a proxy strips the prefix, Daphne, hypercorn and Granian do not add it back.
    """
    prefix = script_name(scope).rstrip("/")
    if not prefix or "path" not in scope:
        return scope
    return {**scope, "root_path": prefix, "path": for_browsers(scope["path"], prefix)}
