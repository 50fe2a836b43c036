"""System check of the project's URLs: whether pages can find those of the app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core import checks
from django.urls import URLResolver, get_resolver

APP_NAME = "realtime"  # as in `realtime.urls`, which loads all views


@checks.register("realtime", "urls")
def check_urls(**kwargs: Any) -> list[checks.CheckMessage]:
    """Report an ``include("realtime.urls")`` under a name that the app does not look for."""
    outer = _includes()
    if not outer or "" in outer:
        return []
    return [
        checks.Warning(
            f'include("realtime.urls") is in the namespace {outer[0]!r}, so pages of the service '
            f"on another host cannot find {APP_NAME}:token.",
            hint="Include it in the project's own urls.py, or in an include without app_name and "
            "namespace. Its path may be any.",
            id="realtime.W012",
        )
    ]


def is_included() -> bool:
    """Tell whether the project includes the URLs of the app."""
    return bool(_includes())


def _includes() -> list[str]:
    if not getattr(settings, "ROOT_URLCONF", None):
        return []
    return list(_namespaces_around(get_resolver()))


def _namespaces_around(resolver: URLResolver, outer: str = "") -> Iterator[str]:
    """Return the namespaces that each include of the app is in, joined; empty is none."""
    for each in resolver.url_patterns:
        if not isinstance(each, URLResolver):
            continue
        if each.app_name == APP_NAME:
            yield outer
        else:
            inner = ":".join(filter(None, (outer, each.namespace)))
            yield from _namespaces_around(each, inner)
