"""System check of ``ASGI_APPLICATION``: whether its module routes WebSockets."""

from __future__ import annotations

import ast
from typing import Any

from django.conf import settings
from django.core import checks

from realtime.checks.asgi_source import name_called, names_of, parse_without, source_of
from realtime.checks.urls import is_included

_PASSING = frozenset({"HttpEndpoint", "require_upgrade", "with_root_path"})
"""What passes WebSockets to its first argument."""


@checks.register("realtime", "urls")
def check_websocket_route(**kwargs: Any) -> list[checks.CheckMessage]:
    """Report an application whose pages look for WebSockets that it does not route."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not isinstance(path, str) or getattr(settings, "REALTIME_PUBLIC_URL", None):
        return []
    module, _, name = path.rpartition(".")
    if not is_without_websockets(source_of(module), name) or not is_included():
        return []
    return [
        checks.Warning(
            f"{path} routes no WebSockets, so pages of this project do not become live.",
            hint='Add "websocket": URLRouter([*websocket_urlpatterns, otherwise]) to a '
            f"ProtocolTypeRouter in {module}; both names are of realtime.routing. If a service "
            "elsewhere serves the pages, set REALTIME_PUBLIC_URL.",
            id="realtime.W015",
        )
    ]


def is_without_websockets(source: str, name: str) -> bool:
    """Tell whether an application certainly routes no WebSockets.

    Args:
        source: The source of its module.
        name: The variable of the application.
    """
    tree = parse_without(source, unless="websocket")
    return tree is not None and name in names_of(tree, _takes_http_alone)


def _takes_http_alone(value: ast.expr, found: set[str]) -> bool:
    if isinstance(value, ast.Name):
        return value.id in found
    if isinstance(value, ast.Dict):  # of a router
        return all(isinstance(key, ast.Constant) for key in value.keys)
    if not isinstance(value, ast.Call):
        return False
    if name_called(value) in {"ProtocolTypeRouter", *_PASSING}:
        return bool(value.args) and _takes_http_alone(value.args[0], found)
    return name_called(value) == "get_asgi_application"
