"""What a site allows a publication to hold counts on every way in."""

from __future__ import annotations

from typing import Any

import pytest

from realtime import apublish
from realtime.errors import InvalidName, TooLarge
from tests.support.rims import RIMS, Rim, refused

SMALL = {"DATA_BYTES": 1024, "DATA_DEPTH": 2, "TAGS": 1, "CHANNEL_CHARACTERS": 16}


@pytest.fixture(autouse=True)
def small(settings: Any) -> None:
    for name, value in SMALL.items():
        setattr(settings, f"REALTIME_{name}", value)


@pytest.mark.parametrize("kind", RIMS)
async def test_over_http(kind: str, node: Any) -> None:
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


async def test_from_a_client(join: Any) -> None:
    member = await join("chat:room")
    member.say({"id": 3, "publish": {"channel": "chat:room", "data": "x" * 1023}})
    member.say({"id": 4, "publish": {"channel": "chat:room", "data": "x" * 1022}})
    member.say({"id": 5, "subscribe": {"channel": "public:" + "x" * 10}})
    lines = {line["id"]: line for line in await member.until(7) if "id" in line}
    assert lines[3]["error"]["code"] == 107
    assert "the limit is 1024" in lines[3]["error"]["message"]
    assert "publish" in lines[4]
    assert lines[5]["error"]["code"] == 103


async def test_from_python(node: Any) -> None:
    with pytest.raises(TooLarge):
        await apublish("a", "x" * 1023)
    with pytest.raises(InvalidName):
        await apublish("a" * 17, 1)
    await apublish("a", "x" * 1022)
