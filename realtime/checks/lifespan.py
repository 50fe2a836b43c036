"""System check of ``ASGI_APPLICATION``: whether its module routes the ASGI lifespan.

It reads the source and imports nothing, because checks run before almost every command, and
`asgi.py` loads the middleware, and whatever else the project starts there. It reports only what the
source leaves no doubt about.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from sys import modules
from typing import Any

from django.conf import settings
from django.core import checks

SERVERS = ("uvicorn", "hypercorn", "granian")
"""Those that send lifespan events. Daphne does not, so a project without these needs no line."""
_PASSING = frozenset({"ProtocolTypeRouter", "HttpEndpoint", "require_upgrade", "with_root_path"})
"""What passes the lifespan to its first argument; a router finds it there, or does not."""
_Import = (ast.Import, ast.ImportFrom)


@checks.register("realtime")
def check_lifespan(**kwargs: Any) -> list[checks.CheckMessage]:
    """Report an application that serves clients and has no lifespan."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not isinstance(path, str) or not any(map(_is_found, SERVERS)):
        return []
    module, _, name = path.rpartition(".")
    if not is_without_lifespan(_source_of(module), name):
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
    try:
        tree = ast.parse(source)
        statements = [each for each in tree.body if not isinstance(each, _Import)]
        if any("lifespan" in ast.dump(each) for each in statements):  # comments are not there
            return False
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: too deep
        return False
    if not any(map(_serves_clients, _imports(tree))):
        return False
    found: set[str] = set()
    for statement in tree.body:
        names = {
            each.id
            for each in ast.walk(statement)
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        }
        if isinstance(statement, ast.Assign) and _is_bare(statement.value, found):
            found |= names
        else:
            found -= names
    return name in found


def _imports(tree: ast.Module) -> Iterator[str]:
    """Return the full names that a module imports."""
    for each in ast.walk(tree):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            yield from (f"{each.module}.{alias.name}" for alias in each.names)


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
    called = getattr(value.func, "attr", getattr(value.func, "id", ""))
    if called in _PASSING:
        return bool(value.args) and _is_bare(value.args[0], found)
    return called == "get_asgi_application"


def _source_of(module: str) -> str:
    """Return the source of a module that need not be imported; empty if it cannot be read."""
    package = module.rpartition(".")[0]
    if package and package not in modules:
        return ""  # looking for it would import the package
    try:
        spec = find_spec(module)
        # A loader for other files (bytecode, an archive) may lack the method, or return None.
        read = getattr(spec and spec.loader, "get_source", None)
        return (read and read(module)) or ""
    except (ImportError, SyntaxError, ValueError, OSError):
        return ""


def _is_found(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
