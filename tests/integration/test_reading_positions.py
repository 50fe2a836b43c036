"""Reading the positions of channels, from the host's code and over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.test import override_settings

import realtime
from realtime.core.positions import Position
from realtime.errors import BrokerUnavailable, InvalidName, TooLarge
from realtime.wiring import Node
from tests.support.keys import entry, secret_of
from tests.support.ports import free_port
from tests.support.rims import RIMS, Rim, refused

Read = Callable[..., Awaitable[dict[str, Position]]]


async def in_thread(*channels: Any) -> dict[str, Position]:
    return await asyncio.to_thread(realtime.position, *channels)


@pytest.fixture(params=[in_thread, realtime.aposition], ids=["position", "aposition"])
def read(request: pytest.FixtureRequest, node: Node) -> Read:
    found: Read = request.param
    return found


@pytest.fixture(params=RIMS)
def rim(request: pytest.FixtureRequest, node: Node) -> Rim:
    return Rim(request.param)


async def test_positions_are_those_of_the_last_publications(read: Read) -> None:
    before = await read("chat:a", "chat:b")
    receipt = await realtime.apublish("chat:a", 1)
    after = await read("chat:a", "chat:b", "chat:a")
    assert before["chat:a"] == Position(receipt.epoch, 0)
    assert after == {"chat:a": Position(receipt.epoch, 1), "chat:b": before["chat:b"]}


async def test_no_channel_needs_no_redis(read: Read) -> None:
    with override_settings(REALTIME_REDIS_URL=""):
        assert await read() == {}


@pytest.mark.parametrize("channel", ["a b", "", None, 7, "unknown:a"])
async def test_a_channel_that_cannot_exist_has_no_position(read: Read, channel: Any) -> None:
    with pytest.raises(InvalidName):
        await read("chat:a", channel)


async def test_a_hundred_channels_are_the_most(read: Read) -> None:
    names = [f"chat:{n}" for n in range(101)]
    assert len(await read(*names[:100])) == 100
    with pytest.raises(TooLarge, match="101 channels, the limit is 100"):
        await read(*names)


async def test_a_redis_that_is_away_is_an_error_as_for_publish(read: Read) -> None:
    with (
        override_settings(REALTIME_REDIS_URL=f"redis://127.0.0.1:{free_port()}"),
        pytest.raises(BrokerUnavailable),
    ):
        await read("chat:a")


async def test_position_does_not_block_an_event_loop() -> None:
    with pytest.raises(SynchronousOnlyOperation, match="await"):
        realtime.position("chat:a")


async def test_the_api_answers_with_each_position_once(rim: Rim) -> None:
    receipt = await realtime.apublish("chat:a", 1)
    body = {"channels": ["chat:a", "b", "chat:a"]}
    positions = (await rim.post("position", body)).result["positions"]
    assert positions["chat:a"] == {"epoch": receipt.epoch, "offset": 1}
    assert positions["b"]["offset"] == 0
    assert list(positions) == ["chat:a", "b"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "invalid_data"),
        ({"channels": []}, "invalid_data"),
        ({"channels": "chat:a"}, "invalid_data"),
        ({"channels": ["a"], "since": 1}, "invalid_data"),
        ({"channels": ["a b"]}, "invalid_channel"),
        ({"channels": [None]}, "invalid_channel"),
        ({"channels": ["unknown:a"]}, "invalid_channel"),
        ({"channels": ["a"] * 101}, "too_large"),
    ],
)
async def test_the_api_refuses_what_is_no_list_of_channels(
    rim: Rim, body: Any, reason: str
) -> None:
    refused(await rim.post("position", body), reason)


async def test_a_key_reads_the_positions_of_its_own_channels(rim: Rim) -> None:
    listed = entry("shop", channels=["chat:*"], methods=["publish"])
    watching = entry("watch", methods=["presence"])
    with override_settings(REALTIME_API_KEYS=[listed, watching]):
        shop = secret_of("shop")
        allowed = await rim.post("position", {"channels": ["chat:a"]}, x_api_key=shop)
        assert allowed.result["positions"]["chat:a"]["offset"] == 0
        for channel in ("a", "unknown:a"):  # the same answer whether it exists or not
            body = {"channels": ["chat:a", channel]}
            refused(await rim.post("position", body, x_api_key=shop), "forbidden")
        body = {"channels": ["chat:a"]}
        refused(await rim.post("position", body, x_api_key=secret_of("watch")), "forbidden")
