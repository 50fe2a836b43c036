"""`POST /api/events`: CloudEvents through each rim, up to Redis."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings

from tests.integration.test_api import heard
from tests.support.keys import entry, secret_of
from tests.support.redis_server import RedisServer
from tests.support.rims import RIMS, Answer, Rim, checked_error, refused

EVENT = {
    "specversion": "1.0",
    "id": "1",
    "source": "/shop",
    "type": "order.shipped",
    "channel": "public:orders",
    "data": {"n": 1},
}
STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


@pytest.fixture(params=RIMS)
def rim(request: pytest.FixtureRequest, wired: str) -> Rim:
    return Rim(request.param)


async def post(rim: Rim, body: Any, content_type: str = STRUCTURED, **headers: Any) -> Answer:
    return await rim.post("events", body, content_type=content_type, **headers)


def as_headers(**changed: Any) -> dict[str, Any]:
    attributes = {name: text for name, text in EVENT.items() if name != "data"}
    return {f"ce_{name}": text for name, text in {**attributes, **changed}.items()}


async def test_an_event_is_published(rim: Rim, wired: str, redis_server: RedisServer) -> None:
    messages = heard(redis_server, wired)
    first = await post(rim, EVENT)
    assert first.result == {
        "offset": 1, "epoch": first.result["epoch"], "nodes": 0, "queued": False,
    }  # fmt: skip
    tags = {"ce-id": "1", "ce-source": "/shop", "event": "order.shipped"}
    assert messages() == [("public:orders", {"data": {"n": 1}, "tags": tags})]
    assert (await post(rim, EVENT)).result == first.result | {"repeated": True}
    assert messages() == [], "a sender that is not sure sends it again"
    refused(await post(rim, {**EVENT, "data": {"n": 2}}), "idempotency_conflict")


async def test_an_event_in_binary_mode_is_published(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    messages = heard(redis_server, wired)
    structured = await post(rim, EVENT)
    binary = await post(rim, b'{"n":1}', "application/json", **as_headers())
    assert binary.result == structured.result | {"repeated": True}, "it is the same event"
    answer = await post(rim, b"<b>", "text/html; charset=utf-8", **as_headers(id="%E2%82%AC"))
    assert answer.result["offset"] == 2
    assert messages()[1][1]["data"] == "<b>"
    nothing = await post(rim, b"", None, **as_headers(id="3"))
    assert nothing.result["offset"] == 3


async def test_each_event_of_a_batch_has_its_own_result(rim: Rim) -> None:
    events: list[Any] = [
        EVENT,
        {**EVENT, "id": None},
        "no event",
        {**EVENT, "channel": "nowhere:x"},
        {**EVENT, "id": "2"},
    ]
    answer = await post(rim, events, BATCH)
    first, second, third, fourth, last = answer.result["responses"]
    assert (first["result"]["offset"], last["result"]["offset"]) == (1, 2)
    assert checked_error(second, "invalid_attribute")["attribute"] == "id"
    checked_error(third, "invalid_data")
    checked_error(fourth, "invalid_channel")
    assert (await post(rim, [], BATCH)).result == {"responses": []}


async def test_an_invalid_event_is_reported_by_attribute(rim: Rim) -> None:
    error = refused(await post(rim, {**EVENT, "specversion": "0.3"}), "invalid_attribute")
    assert (error["attribute"], error["message"]) == ("specversion", "specversion: must be 1.0")
    error = refused(await post(rim, b"{}", "application/json", **as_headers(time="now")),
                    "invalid_attribute")  # fmt: skip
    assert error["attribute"] == "time"
    error = refused(await post(rim, b"{", "application/json", **as_headers()), "invalid_attribute")
    assert error["attribute"] == "data"


async def test_invalid_events_are_refused(rim: Rim) -> None:
    refused(await post(rim, EVENT, "application/json"), "unsupported_media_type")
    refused(await post(rim, EVENT, "application/cloudevents+xml"), "unsupported_media_type")
    refused(
        await post(rim, EVENT, "application/cloudevents+xml", **as_headers()),
        "unsupported_media_type",
    )
    refused(await post(rim, b"{", STRUCTURED), "invalid_json")
    refused(await post(rim, b"[]", STRUCTURED), "invalid_data")
    refused(await post(rim, b"{}", BATCH), "invalid_json")
    refused(await post(rim, [EVENT] * 101, BATCH), "too_large")
    refused(await post(rim, {**EVENT, "data": "x" * 65_536}), "too_large")
    refused(await post(rim, b" " * (1024 * 1024 + 1)), "too_large")
    refused(await post(rim, EVENT, idempotency_key="x"), "invalid_idempotency_key")
    refused(await post(rim, EVENT, x_api_key=None), "unauthorized")
    refused(await post(rim, {**EVENT, "fallback": "nobody"}), "invalid_fallback")


async def test_key_permissions_apply_to_events(rim: Rim) -> None:
    keys = [
        entry("shop", channels=["public:orders"], methods=["events"]),
        entry("old", methods=["publish"]),
    ]
    with override_settings(REALTIME_API_KEYS=keys):
        assert (await post(rim, EVENT, x_api_key=secret_of("shop"))).result["offset"] == 1
        other = {**EVENT, "channel": "public:news"}
        refused(await post(rim, other, x_api_key=secret_of("shop")), "forbidden")
        refused(await post(rim, EVENT, x_api_key=secret_of("old")), "forbidden")


async def test_a_rule_names_the_channel(rim: Rim, wired: str, redis_server: RedisServer) -> None:
    messages = heard(redis_server, wired)
    rules = [{"type": "order.*", "channel": "public:order-{subject}"}]
    event = {name: value for name, value in EVENT.items() if name != "channel"}
    with override_settings(REALTIME_CLOUDEVENTS=rules):
        assert (await post(rim, {**event, "subject": "7"})).status == 200
        error = refused(await post(rim, event), "invalid_attribute")
    assert error["attribute"] == "subject"
    assert [channel for channel, _ in messages()] == ["public:order-7"]
