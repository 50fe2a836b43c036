"""Reads what has been published on Redis so far, however slow the machine is."""

from __future__ import annotations

from collections.abc import Iterator
from secrets import token_hex
from typing import Any

from redis.client import PubSub


def published_so_far(listener: PubSub) -> Iterator[dict[str, Any]]:
    """Yield the messages for a listener that were published before this call.

    Redis answers a PING behind them. To wait until nothing has come for some time would take that
    time, and could end too early.
    """
    mark = token_hex(8)
    listener.ping(mark)
    while (message := listener.get_message(timeout=60))["data"] != mark.encode():
        yield message
