"""Reads the source of ``ASGI_APPLICATION`` for system checks.

They import nothing, because checks run before almost every command, and `asgi.py` loads the
middleware, and whatever else the project starts there. They report only what the source leaves no
doubt about.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from sys import modules

_Import = (ast.Import, ast.ImportFrom)


def source_of(module: str) -> str:
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


def parse_without(source: str, unless: str) -> ast.Module | None:
    """Return a module; None if it is none, or a word stands in it outside imports and comments.

    Args:
        source: The source of the module.
        unless: The word, in lower case.
    """
    try:
        tree = ast.parse(source)
        statements = [each for each in tree.body if not isinstance(each, _Import)]
        if any(unless in ast.dump(each).lower() for each in statements):
            return None
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: too deep
        return None
    return tree


def imports(tree: ast.Module) -> Iterator[str]:
    """Return the full names that a module imports."""
    for each in ast.walk(tree):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            yield from (f"{each.module}.{alias.name}" for alias in each.names)


def names_of(tree: ast.Module, is_such: Callable[[ast.expr, set[str]], bool]) -> set[str]:
    """Return the names that stand for such a value in the end.

    Args:
        tree: The module.
        is_such: Tells that of a value, given the names that stand for one so far.
    """
    found: set[str] = set()
    for statement in tree.body:
        names = {
            each.id
            for each in ast.walk(statement)
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        }
        if isinstance(statement, ast.Assign) and is_such(statement.value, found):
            found |= names
        else:
            found -= names
    return found


def name_called(value: ast.Call) -> str:
    """Return the name of what is called, without its module."""
    return str(getattr(value.func, "attr", getattr(value.func, "id", "")))
