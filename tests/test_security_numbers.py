"""The numeric bounds in docs/security.md match the code.

A number on that page is either here, beside the constants that it comes from, or it is a figure of
a measurement, which its section gives with its date and machine.
"""

from __future__ import annotations

import asyncio.selector_events
import re
from dataclasses import fields

import pytest
import uvicorn

from notifier import counting, http, http_lane, http_refusals, http_repeats, login_limit
from notifier.bodies import FORM_BYTES
from notifier.fair_turns import TURN_SECONDS
from notifier.http_unread import UNREAD_SECONDS
from notifier.message_flow import SLICE_SECONDS
from notifier.server import WEBSOCKET_SLACK_BYTES
from realtime import endpoint
from realtime.brokers import bounds
from realtime.conf.limits import NumericSettings
from realtime.core.limits import (
    BYTES_PER_COMMAND,
    MANY_BYTES,
    PUBLISH_BYTES,
    REMEMBERED_HOST_CHARACTERS,
    REMEMBERED_HOSTS,
    Limits,
)
from realtime.core.members import ANSWER_BYTES
from realtime.core.survey import SLICE
from realtime.core.traceparent import TRACEPARENT_CHARACTERS
from realtime.delivery.inbox import WAITING_COMMANDS_BYTES
from realtime.identity.tokens import INFO_BYTES
from realtime.protocols.centrifugo_commands import CLIENT_FRAME_BYTES
from realtime.transports.callers import REMEMBERED_BYTES, REMEMBERED_CALLERS
from realtime.transports.sse_format import CACHED_LINES, LAST_ID_LIMIT, PLACES_LIMIT
from tests.support import prose
from tests.support.service import ROOT

SETTINGS = NumericSettings()
ESCAPED_FRAME_BYTES = {each.name: each for each in fields(Limits)}["escaped_frame_bytes"].default
KIB, MIB = 1024, 1024**2
PAGE = prose.read(ROOT / "docs/security.md")
READ_BYTES: int = asyncio.selector_events._SelectorSocketTransport.max_size
AHEAD_BYTES = READ_BYTES + http.AHEAD_BYTES
KEEP_ALIVE_SECONDS = uvicorn.Config("").timeout_keep_alive
LATER_FRAME_BYTES = ESCAPED_FRAME_BYTES + WEBSOCKET_SLACK_BYTES
STREAM_BYTES = 2 * CLIENT_FRAME_BYTES + 1024
WAITING_BYTES = WAITING_COMMANDS_BYTES - 1

NUMBERS: dict[str, list[float]] = {
    # the words, with # for each number: their values in the code
    # --- the matrix ---
    "A first message over # KiB closes": [CLIENT_FRAME_BYTES / KIB],
    "a later one over # KiB is an error": [ESCAPED_FRAME_BYTES / KIB],
    "and # KiB more closes with 1009": [WEBSOCKET_SLACK_BYTES / KIB],
    "a connection may have # channels, then": [SETTINGS.channels_per_connection],
    "it may send # commands at once and # a second": [
        SETTINGS.commands_burst,
        SETTINGS.commands_per_second,
    ],
    "each # KiB of the members of a channel; no more than # KiB": [
        BYTES_PER_COMMAND / KIB,
        ANSWER_BYTES / KIB,
    ],
    "in slices of # channels": [SLICE],
    "A client that sends no `connect` within # s": [SETTINGS.connect_seconds],
    "the server reads at most # bytes of it plus one read, and # requests": [
        http.AHEAD_BYTES,
        http.PIPELINE_LIMIT,
    ],
    "# s for the whole head and # s for the whole body (at the API # s, then 408)": [
        http.HEAD_SECONDS,
        http.BODY_SECONDS,
        endpoint.BODY_SECONDS,
    ],
    "The messages of one read get # ms; what is left of all clients shares # ms of each": [
        1000 * SLICE_SECONDS,
        1000 * TURN_SECONDS,
    ],
    "Each further # KiB of data counts as one more": [BYTES_PER_COMMAND / KIB],
    "makes an id longer than # KiB": [LAST_ID_LIMIT / KIB],
    "reads none of a response for # s, its": [UNREAD_SECONDS],
    "published once in # s": [bounds.IDEMPOTENCY_SECONDS],
    "use up the # attempts that a name has in # minutes": [
        login_limit.NAME,
        login_limit.WINDOW_SECONDS / 60,
    ],
    # --- memory ---
    "one read of the socket (#) come on top": [READ_BYTES],
    "`REALTIME_CONNECTIONS` and # more": [counting.SPARE_CONNECTIONS],
    "flow control may bring: # + #": [READ_BYTES, http.AHEAD_BYTES],
    "| silent, or with an incomplete head | # | # s |": [
        http.HEAD_BYTES + http.PIECE_BYTES,
        http.HEAD_SECONDS,
    ],
    "| between two requests | # of the last body": [AHEAD_BYTES],
    "# of a known head, and # of one that is held for its body (# ms) | # s |": [
        http_repeats.KEPT_BYTES,
        http_repeats.KEPT_BYTES,
        1000 * http_lane.HOLD_SECONDS,
        KEEP_ALIVE_SECONDS,
    ],
    "| up to # requests sent ahead of their responses | # (read-ahead)": [
        http.PIPELINE_LIMIT,
        AHEAD_BYTES,
    ],
    "a 404 (`FORM_BYTES`) | #, and read-ahead | # s |": [FORM_BYTES, http.BODY_SECONDS],
    "who may not publish | # (read-ahead) |": [AHEAD_BYTES],
    "further input is discarded, for # s at most": [http.BODY_SECONDS],
    "over HTTP streaming or `uni_sse` | # or #, and read-ahead | # s |": [
        STREAM_BYTES,
        CLIENT_FRAME_BYTES,
        endpoint.BODY_SECONDS,
    ],
    "(`/emulation`) | # (# KiB within JSON), and read-ahead | # s |": [
        STREAM_BYTES,
        CLIENT_FRAME_BYTES / KIB,
        endpoint.BODY_SECONDS,
    ],
    "| an open stream | # of its head, and # positions of at most # characters": [
        http.HEAD_BYTES,
        PLACES_LIMIT,
        LAST_ID_LIMIT,
    ],
    "| a WebSocket before `connect` | # for its message, and one read, # | # s |": [
        CLIENT_FRAME_BYTES + WEBSOCKET_SLACK_BYTES,
        READ_BYTES,
        SETTINGS.connect_seconds,
    ],
    "| refused, and still sending | # | # s, or # bytes |": [
        0,
        http_refusals.LINGER_SECONDS,
        http_refusals.LINGER_BYTES,
    ],
    "a body may have # bytes (`publish`) or # (`broadcast`": [PUBLISH_BYTES, MANY_BYTES],
    "a message may have # bytes, and": [LATER_FRAME_BYTES],
    "or for Redis hold up to # bytes and one command more (#; over `/emulation` #": [
        WAITING_BYTES,
        ESCAPED_FRAME_BYTES,
        CLIENT_FRAME_BYTES,
    ],
    "A WebSocket holds # bytes in all": [
        WAITING_BYTES + ESCAPED_FRAME_BYTES + 2 * LATER_FRAME_BYTES + AHEAD_BYTES
    ],
    "is no reason to hold # KiB before": [ESCAPED_FRAME_BYTES / KIB],
    "whose requests the last # sets of headers are that name a page (at most # bytes": [
        REMEMBERED_CALLERS,
        REMEMBERED_BYTES,
    ],
    "the keys of the last # addresses (at most # characters": [
        REMEMBERED_HOSTS,
        REMEMBERED_HOST_CHARACTERS,
    ],
    "the events of the last # lines": [CACHED_LINES],
    "used if it has # characters, as in": [TRACEPARENT_CHARACTERS],
    # --- what others can put into Redis ---
    "`REALTIME_FALLBACK_BYTES` (# MiB)": [bounds.QUEUE_BYTES / MIB],
    "(two `info` values of # KiB": [INFO_BYTES / KIB],
    "connections × # channels of such": [SETTINGS.channels_per_connection],
    "With anonymous clients, # × # ×": [SETTINGS.connections, SETTINGS.channels_per_connection],
    "# entries: # MB": [
        bounds.NODE_COMMANDS_LIMIT,
        bounds.NODE_COMMANDS_LIMIT * bounds.NODE_COMMAND_BYTES // 10**6,
    ],
    "the first # attempts of an IPv4 address": [login_limit.ADDRESS],
}

REASONS = {"3": "KiB of a connection, and of a request sent ahead: measured", "3013": "a code"}


def pattern(words: str) -> str:
    """Return a regular expression for the words, in which # is a number."""
    return r"(?<![\d,])" + r"([\d,.]+(?<![,.]))".join(map(re.escape, words.split("#")))


def shown(number: float) -> str:
    return f"{number:,g}" if number < 10**6 else f"{int(number):,}"


@pytest.mark.parametrize("words", NUMBERS)
def test_a_number_is_that_of_the_code(words: str) -> None:
    [found] = re.findall(pattern(words), PAGE)
    said = [found] if isinstance(found, str) else list(found)
    assert said == [shown(number) for number in NUMBERS[words]]


def test_each_number_about_memory_is_compared_with_the_code() -> None:
    [memory] = re.findall(r"^## Memory$(.*?)^## ", PAGE, re.M | re.S)
    for words in NUMBERS:
        memory = re.sub(pattern(words), "", memory)
    memory = re.sub(r"`[^`]*`|\[[^\]]*\]\([^)]*\)|PEP 393", "", memory)
    assert set(re.findall(r"\d[\d,]*", memory)) <= set(REASONS)
