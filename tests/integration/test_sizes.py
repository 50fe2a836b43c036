"""A site's limit on the size of data applies to every way to publish."""

from __future__ import annotations

from typing import Any

import pytest

from realtime import apublish
from realtime.errors import InvalidName, TooLarge
from tests.support.rims import RIMS, Rim, headers, refused

SMALL = {
    "DATA_BYTES": 1024,
    "DATA_DEPTH": 2,
    "TAGS": 1,
    "CHANNEL_CHARACTERS": 16,
    "FRAME_BYTES": 4096,
}


@pytest.fixture(autouse=True)
def small(settings: Any) -> None:
    for name, value in SMALL.items():
        setattr(settings, f"REALTIME_{name}", value)


@pytest.mark.parametrize("kind", RIMS)
async def test_the_data_limit_applies_over_http(kind: str, node: Any) -> None:
    rim = Rim(kind)
    for body, reason in (
        ({"channel": "a", "data": "x" * 1023}, "too_large"),
        ({"channel": "a", "data": [[[1]]]}, "invalid_data"),
        ({"channel": "a", "data": 1, "tags": {"a": "", "b": ""}}, "too_large"),
        ({"channel": "a" * 17, "data": 1}, "invalid_channel"),
    ):
        refused(await rim.post("publish", body), reason)
    fits = {"channel": "a" * 16, "data": "x" * 1022, "tags": {"a": ""}}
    assert (await rim.post("publish", fits)).status == 200


async def test_the_data_limit_applies_to_clients(join: Any) -> None:
    member = await join("chat:room")
    member.say({"id": 3, "publish": {"channel": "chat:room", "data": "x" * 1023}})
    member.say({"id": 4, "publish": {"channel": "chat:room", "data": "x" * 1022}})
    member.say({"id": 5, "subscribe": {"channel": "public:" + "x" * 10}})
    lines = {line["id"]: line for line in await member.until(7) if "id" in line}
    assert lines[3]["error"]["code"] == 107
    assert "the limit is 1024" in lines[3]["error"]["message"]
    assert "publish" in lines[4]
    assert lines[5]["error"]["code"] == 103


async def test_the_data_limit_applies_in_python(node: Any) -> None:
    with pytest.raises(TooLarge):
        await apublish("a", "x" * 1023)
    with pytest.raises(InvalidName):
        await apublish("a" * 17, 1)
    await apublish("a", "x" * 1022)


async def test_headers_are_counted(settings: Any, node: Any) -> None:
    settings.REALTIME_HEADERS = 16
    rim, body = Rim("endpoint"), {"channel": "a", "data": 1}
    assert (await rim.post("publish", body)).status == 200
    many = [*headers(), *((f"X-{number}", "1") for number in range(16))]
    answer = await rim.send("POST", "/api/publish", b"{}", many)
    assert answer.status == 431
    assert answer.json["error"]["message"] == "more than 16 headers"


@pytest.mark.parametrize("kind", RIMS)
async def test_request_bodies_have_their_own_limits(kind: str, settings: Any, node: Any) -> None:
    settings.REALTIME_BODY_BYTES = 1024
    settings.REALTIME_BATCH_BYTES = 2048
    rim = Rim(kind)
    tags = {"a": "x" * 256}
    one = {"channel": "a", "data": "x" * 700, "tags": tags}
    refused(await rim.post("publish", {**one, "event": "e" * 64}), "too_large")
    assert (await rim.post("publish", {**one, "tags": {}})).status == 200
    several = {"commands": [{"publish": one}]}
    assert (await rim.post("batch", several)).status == 200
    refused(await rim.post("batch", {"commands": several["commands"] * 3}), "too_large")


async def test_oversized_client_frames_are_refused_and_counted(hub: Any, join: Any) -> None:
    member = await join()
    member.say({"id": 2, "ping": {"x": "y" * 24_500}})
    member.say({"id": 3, "ping": {"x": "y" * 24_576}})
    lines = await member.until(4)
    assert {"id": 2, "ping": {}} in lines
    assert "the frame has more than 24576 bytes" in lines[-1]["error"]["message"]
    assert hub.reached.counts["frame_bytes"] == 1
