"""What a request for an event stream may claim that its page already has."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from realtime.core.paths import SSE, UNI_SSE
from realtime.core.positions import Position
from realtime.errors import RequestError
from realtime.transports.sse_format import LAST_ID_LIMIT, UNKNOWN_POSITION
from realtime.transports.stream_request import StreamRequest, parse_request


async def parsed(*since: str, last_id: str = "") -> StreamRequest:
    query = urlencode([("channel", "a"), *(("since", text) for text in since)])
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": f"/{SSE}",
        "query_string": query.encode(),
        "headers": [(b"last-event-id", last_id.encode())] if last_id else [],
    }

    async def no_body() -> bytes:
        raise AssertionError("a GET has no body")

    return await parse_request(SSE, scope, no_body)


async def test_a_page_names_the_positions_of_its_data() -> None:
    assert (await parsed()).had == {}
    request = await parsed("ab/7/a", "/0/user:#42")
    assert request.had == {"a": Position("ab", 7), "user:#42": UNKNOWN_POSITION}


async def parsed_raw(subs: object) -> StreamRequest:
    scope: dict[str, Any] = {"type": "http", "method": "POST", "query_string": b"", "headers": []}

    async def body() -> bytes:
        return json.dumps({"subs": subs}).encode()

    return await parse_request(UNI_SSE, scope, body)


async def test_a_unidirectional_client_names_positions_as_to_centrifugo() -> None:
    request = await parsed_raw(
        {
            "a": {"recover": True, "epoch": "ab", "offset": 7, "delta": "fossil"},
            "b": {"epoch": "ab", "offset": 7},
            "c": {"recover": True},
            "d": {"recover": True, "epoch": "", "offset": 3},
            "e": None,
        }
    )
    assert (request.channels, request.had) == (list("abcde"), {"a": Position("ab", 7)})


@pytest.mark.parametrize(
    "sub",
    [
        {"recover": True, "epoch": "AB", "offset": 7},
        {"recover": True, "epoch": "ab", "offset": -1},
        {"recover": True, "epoch": "ab", "offset": 2**53},
        {"recover": True, "epoch": "ab", "offset": "7"},
        {"recover": True, "epoch": 7, "offset": 7},
        {"recover": True, "epoch": "a" * 65},
        {"recover": "yes"},
    ],
)
async def test_a_position_of_another_form_is_refused_to_it(sub: object) -> None:
    """One that was ignored would be a silent loss."""
    with pytest.raises(RequestError):
        await parsed_raw({"a": sub})


async def test_after_a_reconnect_the_last_id_is_newer() -> None:
    request = await parsed("ab/7/a", "ab/1/user:#42", last_id="ab/9/a&ab/2/b")
    assert request.had == {
        "a": Position("ab", 9),
        "b": Position("ab", 2),
        "user:#42": Position("ab", 1),
    }


@pytest.mark.parametrize(
    "since",
    [
        ["ab/7"],
        ["ab//a"],
        ["/7/a"],
        ["AB/7/a"],
        ["ab/-7/a"],
        ["ab/7.5/a"],
        ["ab/\u0663/a"],
        ["ab/7/a b"],
        ["ab/7/a&ab/7/b"],
        ["ab/7/a", "x"],
        ["a" * 65 + "/7/a"],
        ["ab/" + "7" * 20 + "/a"],
        ["ab/7/" + "a" * 256],
        ["ab/7/" + "a" * LAST_ID_LIMIT],
        [f"ab/7/{n:04}" for n in range(LAST_ID_LIMIT // 9 + 1)],
    ],
    ids=lambda since: since[0][:20],
)
async def test_a_stranger_sends_positions_of_any_form_and_length(since: list[str]) -> None:
    """Ignoring an invalid position would be a silent loss."""
    with pytest.raises(RequestError):
        await parsed(*since)
