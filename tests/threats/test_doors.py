"""What is not built cannot be attacked; these tests fail when somebody builds it."""

from __future__ import annotations

import httpx
import pytest

from tests.support.raw import asked, request, status_of
from tests.threats.conftest import Target

NO_STREAM = {"/connection/http_stream": 405, "/emulation": 405, "/connection/eventsource": 404}


@pytest.mark.parametrize("path", NO_STREAM)
def test_an_event_stream_is_asked_for_where_none_is_served(target: Target, path: str) -> None:
    answer = asked(
        target.port, request("GET", f"{path}?channel=public:news", "Accept: text/event-stream")
    )
    assert status_of(answer) == NO_STREAM[path], answer
    assert b"text/event-stream" not in answer


@pytest.mark.parametrize("name", ["a\r\ndata: forged", "a\nid: 1", "a\x00", "a: b", "message\r"])
def test_an_event_name_forges_a_field_of_an_event_stream(target: Target, name: str) -> None:
    """A name that could break a stream is refused when it is published."""
    answer = target.post("publish", {"channel": "public:news", "data": 1, "event": name})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "invalid_event")


def test_a_stranger_reads_the_metrics(target: Target) -> None:
    for path in ("/metrics", "/metrics/", "/api/metrics", "/stats"):
        assert httpx.get(target.http + path, follow_redirects=True).status_code in {401, 404, 405}
