"""`connections`: who is connected, on which node, and how well each connection is doing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from django.test import override_settings

from realtime.brokers import ALL_NODES
from realtime.connection.backlog import backlog_of
from realtime.core import connection_survey
from realtime.core.connection_survey import ConnectionQuery, page_of
from realtime.core.identity import Identity
from realtime.core.survey import Question
from realtime.delivery.connection_lister import ConnectionLister
from realtime.delivery.hub import Hub
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
def endpoint(hub: Hub) -> Rim:
    return Rim("endpoint")


@pytest.fixture
async def second() -> AsyncIterator[Hub]:
    """Another node of the same service."""
    node = Node()
    node.hub.start()
    await eventually(lambda: node.hub.live)
    yield node.hub
    await node.aclose()


@pytest.fixture
async def sit(hub: Hub) -> AsyncIterator[Join]:
    members: list[Member] = []

    async def open_member(user: str = "", *channels: str, at: Hub = hub) -> Member:
        member = Member(at, Identity(user))
        members.append(member)
        await eventually(lambda: member.conversation)
        commands = [{"id": n, "subscribe": {"channel": c}} for n, c in enumerate(channels, 2)]
        member.say({"id": 1, "connect": {}}, *commands)
        last = 1 + len(channels)
        await eventually(lambda: any(line.get("id") == last for line in member.lines))
        if user:
            await eventually(lambda: member.pushes("subscribe"))
        return member

    yield open_member
    for member in members:
        await member.leave()


def client_of(member: Member) -> str:
    assert member.conversation is not None
    return member.conversation.client


async def listed(rim: Rim, **fields: Any) -> dict[str, Any]:
    result: dict[str, Any] = (await rim.post("connections", fields)).result
    return result


async def clients(rim: Rim, **fields: Any) -> list[str]:
    found = (await listed(rim, **fields))["connections"]
    assert [each["client"] for each in found] == sorted(each["client"] for each in found)
    return [each["client"] for each in found]


async def test_connections_are_listed_with_their_state(
    rim: Rim, sit: Join, hub: Hub, second: Hub
) -> None:
    ada, guest = await sit("ada", ROOM), await sit("", ROOM, at=second)
    found = await listed(rim, channels=True)
    assert (found["has_more"], found["silent_nodes"]) == (False, 0)
    by_client = {each.pop("client"): each for each in found["connections"]}
    one, other = by_client[client_of(ada)], by_client[client_of(guest)]
    assert len(by_client) == 2
    assert 0 <= time.time() - one.pop("connected_at") < 60
    assert one.pop("node_name")
    assert one == {
        "user": "ada",
        "node": hub.uid,
        "transport": "websocket",
        "num_channels": 2,
        "channels": [ROOM, "user:#ada"],
        "outbox_bytes": 0,
        "congested": False,
    }
    assert (other["user"], other["node"], other["num_channels"]) == ("", second.uid, 1)


async def test_connections_are_filtered_by_user_and_channel(
    endpoint: Rim, sit: Join, second: Hub
) -> None:
    ada, too = await sit("ada", ROOM), await sit("ada", at=second)
    ben = await sit("ben", ROOM)
    of_ada = sorted(map(client_of, (ada, too)))
    assert await clients(endpoint, user="ada") == of_ada
    assert await clients(endpoint, channel=ROOM) == sorted(map(client_of, (ada, ben)))
    assert await clients(endpoint, channel=ROOM, user="ada", after=None) == [client_of(ada)]
    assert await clients(endpoint, user="nobody") == []
    assert await clients(endpoint, user=None, channel=None, limit=None) == sorted(
        map(client_of, (ada, too, ben))
    )
    assert "channels" not in (await listed(endpoint))["connections"][0]


async def test_a_client_that_has_not_connected_yet_is_not_listed(endpoint: Rim, hub: Hub) -> None:
    member = Member(hub)
    await eventually(lambda: member.conversation)
    assert await clients(endpoint) == []
    await member.leave()


async def test_pages_have_each_connection_once(endpoint: Rim, sit: Join, second: Hub) -> None:
    """Connections that come or go between two pages neither shift nor repeat the others."""
    members = [await sit("ada"), *[await sit("ada", at=second) for _ in range(4)]]
    members += [await sit("ada") for _ in range(4)]
    expected = sorted(map(client_of, members))
    first = await listed(endpoint, user="ada", limit=4)
    seen = [each["client"] for each in first["connections"]]
    assert (seen, first["has_more"]) == (expected[:4], True)
    [gone] = [each for each in members if client_of(each) == seen[0]]
    await gone.leave()
    while True:
        page = await listed(endpoint, user="ada", limit=4, after=seen[-1])
        seen += [each["client"] for each in page["connections"]]
        if not page["has_more"]:
            break
    assert seen == expected


async def test_an_answer_that_is_full_needs_more_pages(
    endpoint: Rim, sit: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [await sit("ada", ROOM) for _ in range(3)]
    monkeypatch.setattr(connection_survey, "ANSWER_BYTES", 1)
    seen: list[str] = []
    for number in range(3):
        page = await listed(endpoint, after=seen[-1] if seen else None, channels=True)
        seen += [each["client"] for each in page["connections"]]
        assert (len(seen), page["has_more"]) == (number + 1, number < 2)
    assert seen == sorted(map(client_of, members))


async def test_a_slow_client_is_seen(endpoint: Rim, sit: Join) -> None:
    member = await sit("ada")
    conversation = member.conversation
    assert conversation is not None
    conversation.writer.flow.written += 64 * 1024 * 1024  # more than a client may leave unread
    conversation.writer._look_at_flow()
    conversation.message('"waits"')
    [one] = (await listed(endpoint))["connections"]
    assert one["congested"]
    assert one["outbox_bytes"] == backlog_of(conversation.writer)[0] > 0


async def test_a_node_that_does_not_answer_is_counted(
    endpoint: Rim, sit: Join, hub: Hub, second: Hub
) -> None:
    """An older node does not know the question, and is silent, too."""
    here, _there = await sit("ada"), await sit("ada", at=second)
    second.receiver._between_nodes[ALL_NODES]._handlers = {}
    found = await listed(endpoint)
    assert [each["client"] for each in found["connections"]] == [client_of(here)]
    assert found["silent_nodes"] == 1


async def test_a_question_of_a_newer_version_is_not_answered(hub: Hub, node: Node) -> None:
    question = Question("0" * 16, "connections", '{"limit":5000}')
    assert await node.broker.survey(question) == ([], 1)


async def test_a_connection_that_ends_meanwhile_is_left_out(hub: Hub, sit: Join) -> None:
    member = await sit("ada")
    conversations = hub.connections.all_connected()
    await member.leave()
    lister = ConnectionLister("00", lambda: conversations, time.time)
    page = page_of([await lister.answer(ConnectionQuery(), "web-1")], 100)
    assert page == ([], False)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field": ({"users": ["ada"]}, "invalid_data"),
    "an empty user": ({"user": ""}, "invalid_data"),
    "a number for a user": ({"user": 7}, "invalid_data"),
    "a bad channel": ({"channel": "a b"}, "invalid_channel"),
    "no connection at all": ({"limit": 0}, "invalid_data"),
    "too many": ({"limit": 1001}, "invalid_data"),
    "a true limit": ({"limit": True}, "invalid_data"),
    "channels by name": ({"channels": ["a"]}, "invalid_data"),
    "a long cursor": ({"after": "c" * 65}, "invalid_data"),
    "a number for a cursor": ({"after": 1}, "invalid_data"),
}


@pytest.mark.parametrize(("fields", "reason"), WRONG.values(), ids=WRONG)
async def test_invalid_requests_are_refused(
    endpoint: Rim, fields: dict[str, Any], reason: str
) -> None:
    refused(await endpoint.post("connections", fields), reason)


async def test_a_key_without_the_method_lists_no_connections(endpoint: Rim) -> None:
    keys = [entry("shop"), entry("control", methods=["info", "channels", "disconnect"])]
    with override_settings(REALTIME_API_KEYS=keys):
        for name in ("shop", "control"):
            answer = await endpoint.post("connections", {}, x_api_key=secret_of(name))
            refused(answer, "forbidden")


async def test_a_key_with_channels_sees_only_those(endpoint: Rim, sit: Join) -> None:
    ada = await sit("ada", ROOM, "public:news")
    await sit("ben", "public:news")
    keys = [entry("chat", channels=["chat:*"], methods=["connections"])]
    with override_settings(REALTIME_API_KEYS=keys):

        async def ask(**fields: Any) -> Any:
            return await endpoint.post("connections", fields, x_api_key=secret_of("chat"))

        [one] = (await ask(channel=ROOM, channels=True)).result["connections"]
        assert (one["client"], one["channels"]) == (client_of(ada), [ROOM])
        assert "num_channels" not in one
        for fields in ({}, {"user": "ada"}, {"channel": "public:news"}):
            refused(await ask(**fields), "forbidden")
