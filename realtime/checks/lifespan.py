"""System check of ``ASGI_APPLICATION``: whether its module routes the ASGI lifespan."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from typing import Any

from django.conf import settings
from django.core import checks

from realtime.checks.asgi_source import imports, name_called, names_of, parse_without, source_of

SERVERS = ("uvicorn", "hypercorn", "granian")
"""Those that send lifespan events. Daphne does not, so a project without these needs no line."""
_PASSING = frozenset({"ProtocolTypeRouter", "HttpEndpoint", "require_upgrade", "with_root_path"})
"""What passes the lifespan to its first argument; a router finds it there, or does not."""


@checks.register("realtime")
def check_lifespan(**kwargs: Any) -> list[checks.CheckMessage]:
    """Report an application that serves clients and has no lifespan."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not isinstance(path, str) or not any(map(_is_found, SERVERS)):
        return []
    module, _, name = path.rpartition(".")
    if not is_without_lifespan(source_of(module), name):
        return []
    return [
        checks.Warning(
            f"{path} serves clients and does not route the ASGI lifespan. So each node starts with "
            "its first client or probe, and cannot say goodbye to clients when the server stops.",
            hint=f'Add "lifespan": realtime.routing.lifespan to the ProtocolTypeRouter of {module} '
            "(docs/howto/servers.md). Daphne has no lifespan; if it is your server in production, "
            "the line changes nothing, and you can silence this check.",
            id="realtime.W014",
        )
    ]


def is_without_lifespan(source: str, name: str) -> bool:
    """Tell whether an application certainly serves clients of the app and has no lifespan.

    Args:
        source: The source of its module.
        name: The variable of the application.
    """
    tree = parse_without(source, unless="lifespan")
    if tree is None or not any(map(_serves_clients, imports(tree))):
        return False
    return name in names_of(tree, _is_bare)


def _serves_clients(imported: str) -> bool:
    return imported.startswith(("realtime.routing", "realtime.endpoint"))


def _is_bare(value: ast.expr, found: set[str]) -> bool:
    """Tell whether a value is an application, or the routes of one, that has no lifespan."""
    if isinstance(value, ast.Name):
        return value.id in found
    if isinstance(value, ast.Dict):
        return None not in value.keys  # it stands for ``**others``
    if not isinstance(value, ast.Call):
        return False
    if name_called(value) in _PASSING:
        return bool(value.args) and _is_bare(value.args[0], found)
    return name_called(value) == "get_asgi_application"


def _is_found(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
