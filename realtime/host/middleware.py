"""Middleware for a host project."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.utils.decorators import sync_and_async_middleware

from realtime.host.own_publications import collect_positions

HEADER = "Realtime-Position"
"""``channel epoch offset``, several of them separated by a comma and a space."""


@sync_and_async_middleware
def published_positions(get_response: Callable[[HttpRequest], Any]) -> Callable[..., Any]:
    """Tell the page the positions of what its request has published.

    By `realtime.publish`, `realtime.apublish`, or `realtime.publish_on_commit` if the transaction
    ends before the response. In ``client.js``, ``subscription.positionOf(response)`` reads one, and
    ``subscription.reached(position)`` waits for it. Its place in ``MIDDLEWARE`` does not matter.
    """
    if iscoroutinefunction(get_response):

        async def in_loop(request: HttpRequest) -> Any:
            with collect_positions() as positions:
                response = await get_response(request)
            return _add_header(response, positions)

        return in_loop

    def in_thread(request: HttpRequest) -> Any:
        with collect_positions() as positions:
            response = get_response(request)
        return _add_header(response, positions)

    return in_thread


def _add_header(response: Any, positions: dict[str, str]) -> Any:
    if positions:
        response[HEADER] = ", ".join(f"{channel} {at}" for channel, at in positions.items())
    return response
