"""The template tags as functions, for templates of Jinja2 (docs/howto/jinja2.md).

Jinja2 itself is not imported: a function takes the request, which Django's backend for Jinja2 puts
into each context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.utils.safestring import SafeString

from realtime.host import page_tags


def realtime(
    request: HttpRequest | None, *, importmap: bool = False, shared: bool = False
) -> SafeString:
    """Return what ``{% realtime %}`` renders."""
    return page_tags.configuration_tag({"request": request}, importmap=importmap, shared=shared)


def realtime_client(
    request: HttpRequest | None, *channels: str, shared: bool = False
) -> SafeString:
    """Return what ``{% realtime_client %}`` renders.

    Raises:
        InvalidName: A channel name is invalid.
    """
    return page_tags.client_tag({"request": request}, channels, shared=shared)


def realtime_stream(request: HttpRequest | None, *channels: str) -> str:
    """Return what ``{% realtime_stream %}`` renders.

    Raises:
        InvalidName: A channel name is invalid.
    """
    return page_tags.stream({"request": request}, channels)


def realtime_bell(
    request: HttpRequest | None, *channels: str, shared: bool = False, **options: object
) -> SafeString:
    """Return what ``{% realtime_bell %}`` renders.

    Raises:
        InvalidName: A channel name is invalid.
        TypeError: An option is unknown.
    """
    return page_tags.bell_tag({"request": request}, channels, options, shared=shared)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "realtime": realtime,
    "realtime_bell": realtime_bell,
    "realtime_client": realtime_client,
    "realtime_stream": realtime_stream,
}
"""For ``environment.globals.update(FUNCTIONS)``."""
