"""Channels, members and nodes, as the HTTP API and Python report them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.test import override_settings

import realtime
from realtime import wiring
from realtime.brokers import ALL_NODES
from realtime.core import members, survey
from realtime.core.identity import Identity
from realtime.core.survey import Question
from realtime.delivery.hub import Hub
from realtime.errors import InvalidData, InvalidName, TooLarge
from realtime.wiring import Node
from tests.support.eventually import eventually
from tests.support.keys import entry, secret_of
from tests.support.member import Member
from tests.support.rims import RIMS, Rim, refused

Join = Callable[..., Awaitable[Member]]
ROOM = "chat:room"


@pytest.fixture(params=RIMS)
def rim(request: pytest.FixtureRequest, hub: Hub) -> Rim:
    return Rim(request.param)


@pytest.fixture
async def sit(hub: Hub) -> AsyncIterator[Join]:
    """Return connections on a channel, once every node can know about them."""
    members: list[Member] = []

    async def open_member(user: str, channel: str = ROOM) -> Member:
        member = Member(hub, Identity(user, info='{"name":"N"}' if user else ""))
        members.append(member)
        await eventually(lambda: member.conversation)
        member.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": channel}})
        await eventually(lambda: any(line.get("id") == 2 for line in member.lines))
        await hub.presence._writer.wait_until_written(channel)
        return member

    yield open_member
    for member in members:
        await member.leave()


def client_of(member: Member) -> str:
    assert member.conversation is not None
    return member.conversation.client


async def test_presence_returns_the_members(rim: Rim, sit: Join) -> None:
    ada, guest = await sit("ada"), await sit("")
    await sit("ada")
    members = (await rim.post("presence", {"channel": ROOM})).result["presence"]
    assert len(members) == 3
    assert members[client_of(ada)] == {
        "user": "ada",
        "client": client_of(ada),
        "conn_info": {"name": "N"},
    }
    assert members[client_of(guest)] == {"user": "", "client": client_of(guest)}
    stats = (await rim.post("presence_stats", {"channel": ROOM})).result
    assert stats == {"num_clients": 3, "num_users": 2}


@pytest.mark.parametrize("method", ["presence", "presence_stats"])
async def test_invalid_presence_requests_are_refused(rim: Rim, method: str) -> None:
    refused(await rim.post(method, {}), "invalid_channel")
    refused(await rim.post(method, {"channel": "nowhere:room"}), "invalid_channel")
    refused(await rim.post(method, {"channel": "public:news"}), "invalid_data")
    refused(await rim.post(method, {"channel": ROOM, "more": 1}), "invalid_data")


async def test_channels_are_counted_across_all_nodes(rim: Rim, sit: Join, hub: Hub) -> None:
    await sit("ada")
    await sit("ben")
    await sit("eve", "public:news")
    second = Node()
    second.hub.start()
    await eventually(lambda: second.hub.live)
    there = Member(second.hub)
    try:
        await eventually(lambda: there.conversation)
        there.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": ROOM}})
        await eventually(lambda: any(line.get("id") == 2 for line in there.lines))
        own = {f"user:#{user}": {"num_clients": 1} for user in ("ada", "ben", "eve")}
        assert (await rim.post("channels", {})).result == {
            "channels": {ROOM: {"num_clients": 3}, "public:news": {"num_clients": 1}, **own},
            "silent_nodes": 0,
        }
        some = (await rim.post("channels", {"pattern": "chat:r??m*"})).result
        assert list(some["channels"]) == [ROOM]
        nodes = (await rim.post("info", {})).result["nodes"]
        assert sorted((n["num_clients"], n["num_users"], n["num_subs"]) for n in nodes) == [
            (1, 0, 1),
            (3, 3, 6),  # with each user's own channel
        ]
        assert all(re.fullmatch(r"[0-9a-f]{16}", node["uid"]) for node in nodes)
    finally:
        await there.leave()
        await second.aclose()


@pytest.mark.parametrize("pattern", [7, "a b", "\n", "x" * 256, ["a"]])
async def test_a_pattern_must_be_text(rim: Rim, pattern: Any) -> None:
    refused(await rim.post("channels", {"pattern": pattern}), "invalid_data")


async def test_a_key_sees_only_the_channels_it_may_name(rim: Rim, sit: Join) -> None:
    await sit("ada")
    await sit("ada", "public:news")
    with override_settings(
        REALTIME_API_KEYS=[entry("chat", channels=["chat:*"], methods=["channels", "presence"])]
    ):
        key = secret_of("chat")
        found = (await rim.post("channels", {}, x_api_key=key)).result["channels"]
        assert list(found) == [ROOM]
        assert len((await rim.post("presence", {"channel": ROOM}, x_api_key=key)).result) == 1
        refused(await rim.post("presence", {"channel": "public:news"}, x_api_key=key), "forbidden")


async def test_a_node_that_does_not_answer_is_counted(rim: Rim, hub: Hub, node: Node) -> None:
    hub.receiver._between_nodes[ALL_NODES]._handlers = {}
    result = (await rim.post("info", {})).result
    assert (result["nodes"], result["silent_nodes"]) == ([], 1)


async def test_too_many_channels_are_refused(
    rim: Rim, sit: Join, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sit("ada")
    await sit("ben", "public:news")
    monkeypatch.setattr(survey, "CHANNELS_LIMIT", 1)
    refused(await rim.post("channels", {}), "too_many_channels")


async def test_surveys_over_the_limit_are_not_answered(hub: Hub, node: Node) -> None:
    """Only our own nodes can send surveys; even if others could, they would gain nothing."""
    questions = [Question(f"{n:016x}", "channels") for n in range(100)]
    answers = await asyncio.gather(*(node.broker.survey(question) for question in questions))
    assert all(answer.silent + len(answer.answers) == 1 for answer in answers)
    assert any(answer.answers for answer in answers)
    assert len(hub._survey_responder._tasks) == 0


async def test_presence_is_available_in_python(sit: Join, hub: Hub) -> None:
    ada, guest = await sit("ada"), await sit("")
    for found in (
        await realtime.apresence(ROOM),
        await asyncio.to_thread(realtime.presence, ROOM),
    ):
        assert {one.user: one.info for one in found} == {"": None, "ada": {"name": "N"}}
        assert {one.client for one in found} == {client_of(ada), client_of(guest)}
    expected = members.Headcount(clients=2, users=2)
    assert await realtime.apresence_stats(ROOM) == expected
    assert await asyncio.to_thread(realtime.presence_stats, ROOM) == expected
    with pytest.raises(SynchronousOnlyOperation):
        realtime.presence(ROOM)
    with pytest.raises(InvalidData, match="presence"):
        await realtime.apresence("public:news")
    with pytest.raises(InvalidName):
        await realtime.apresence("no such channel")


async def test_a_message_is_sent_to_a_user_without_a_channel(sit: Join, hub: Hub) -> None:
    one, other, stranger = await sit("ada"), await sit("ada"), await sit("ben")
    await realtime.amessage_user("ada", {"text": "for you – alone"})
    for member in (one, other):
        [push] = await eventually(lambda member=member: member.pushes("message"))
        assert push == {"channel": None, "data": {"text": "for you – alone"}}
    await asyncio.to_thread(realtime.message_user, "ada", [1], client=client_of(one))
    await eventually(lambda: len(one.pushes("message")) == 2)
    assert (len(other.pushes("message")), stranger.pushes("message")) == (1, [])
    with pytest.raises(InvalidData):
        await realtime.amessage_user("ada", object())
    with pytest.raises(TooLarge):
        await realtime.amessage_user("ada", "x" * (wiring.settings().data_bytes + 1))
