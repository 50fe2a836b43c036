"""REALTIME_AUTHORIZER decides where no namespace rule does: in order and in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.test import override_settings

from realtime import wiring
from realtime.core.identity import Identity
from realtime.core.tally import Tally
from realtime.delivery import joining
from realtime.delivery.hub import Hub
from tests.support.eventually import eventually
from tests.support.member import Member
from tests.support.tokens import token

HERE = "tests.integration.test_authorizer"
asked: list[tuple[str, str, str]] = []
gates: dict[str, asyncio.Event] = {}


async def decide(identity: Identity, channel: str, action: str) -> bool:
    """Allow the members of a team on the channel of that name."""
    asked.append((identity.user, channel, action))
    if channel in gates:
        await gates[channel].wait()
    if channel == "broken":
        raise LookupError("the host has a bug")
    return channel.startswith("team-") and not identity.is_anonymous


def decide_slowly(identity: Identity, channel: str, action: str) -> bool:
    """The same as a sync function, as most hosts will write it."""
    time.sleep(0.05)  # a query
    return identity.user == "42"


@pytest.fixture(params=["decide"])
async def hub(request: pytest.FixtureRequest, wired: str) -> AsyncIterator[Hub]:
    asked.clear()
    gates.clear()
    with override_settings(
        REALTIME_AUTHORIZER=f"{HERE}.{request.param}", REALTIME_PERSONAL_CHANNEL=""
    ):
        hub = wiring.node().hub
        hub.start()
        await eventually(lambda: hub.live)
        yield hub
        await wiring.aclose()


@pytest.fixture
async def member(hub: Hub) -> AsyncIterator[Member]:
    member = Member(hub)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {"token": token("42")}})
    await member.until(2)
    yield member
    await member.leave()


def answer(member: Member, number: int) -> dict[str, Any]:
    [line] = [line for line in member.lines if line.get("id") == number]
    return line


async def answered(member: Member, number: int) -> dict[str, Any]:
    await eventually(lambda: any(line.get("id") == number for line in member.lines))
    return answer(member, number)


async def test_the_host_decides_whether_a_client_may_subscribe(member: Member) -> None:
    member.say({"id": 2, "subscribe": {"channel": "team-a"}})
    assert "subscribe" in await answered(member, 2)
    member.say({"id": 3, "subscribe": {"channel": "secret"}})
    assert (await answered(member, 3))["error"]["code"] == 103
    assert asked == [("42", "team-a", "subscribe"), ("42", "secret", "subscribe")]


async def test_the_host_decides_whether_a_client_may_publish(member: Member) -> None:
    member.say({"id": 2, "publish": {"channel": "team-a", "data": 1}})
    assert "publish" in await answered(member, 2)
    member.say({"id": 3, "publish": {"channel": "secret", "data": 1}})
    assert (await answered(member, 3))["error"]["code"] == 103


@pytest.mark.parametrize(
    "channel", ["public:news", "public:news#42", "news#43", "absent:a#43", "public:news#43"]
)
async def test_the_host_is_not_asked_where_a_rule_decides(member: Member, channel: str) -> None:
    member.say({"id": 2, "subscribe": {"channel": channel}})
    await answered(member, 2)
    assert asked == []


@pytest.mark.parametrize("kind", ["subscribe", "publish"])
async def test_the_timing_of_a_refusal_does_not_reveal_namespaces(
    member: Member, kind: str
) -> None:
    """The host is also asked about namespaces that do not exist, but its answer is ignored."""
    data = {"data": 1} if kind == "publish" else {}
    for number, channel in enumerate(("secret", "absent:a", "team-x:a"), 2):
        member.say({"id": number, kind: {"channel": channel, **data}})
    refusals = [(await answered(member, number))["error"] for number in (2, 3, 4)]
    assert refusals == [{"code": 103, "message": "permission denied"}] * 3
    assert asked == [("42", channel, kind) for channel in ("secret", "absent:a", "team-x:a")]
    member.say({"id": 5, kind: {"channel": "team-x:a", **data}})
    assert (await answered(member, 5))["error"]["code"] == 103, "it may be asked for again"


async def test_the_channels_of_a_frame_are_authorized_concurrently_and_answered_in_order(
    member: Member,
) -> None:
    gates.update({f"team-{n}": asyncio.Event() for n in range(3)})
    subscribes = [{"id": n + 2, "subscribe": {"channel": f"team-{n}"}} for n in range(3)]
    member.say(*subscribes, {"id": 9, "ping": {}})
    await eventually(lambda: len(asked) == 3)
    for n in (2, 1):
        gates[f"team-{n}"].set()
    assert len(member.lines) == 2, "the first one is still undecided"
    gates["team-0"].set()
    await answered(member, 9)
    assert [line["id"] for line in member.lines if "id" in line] == [1, 2, 3, 4, 9]


async def test_a_failing_host_function_causes_a_temporary_refusal(
    member: Member, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        joining, "_failures", Tally()
    )  # as in a process that has logged nothing yet
    member.say({"id": 2, "subscribe": {"channel": "broken"}})
    member.say({"id": 3, "publish": {"channel": "broken", "data": 1}})
    for number in (2, 3):
        error = (await answered(member, number))["error"]
        assert (error["code"], error["temporary"]) == (100, True)
    member.say({"id": 4, "subscribe": {"channel": "team-a"}})
    assert "subscribe" in await answered(member, 4)
    assert "the host has a bug" in caplog.text
    assert caplog.text.count("REALTIME_AUTHORIZER failed") == 1, (
        "once a minute, whatever clients do"
    )


async def test_an_undecided_host_function_causes_a_temporary_refusal(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.delivery.node_services.AUTHORIZE_SECONDS", 0.05)
    gates["team-a"] = asyncio.Event()
    member.say({"id": 2, "subscribe": {"channel": "team-a"}})
    assert (await answered(member, 2))["error"]["temporary"] is True
    gates["team-a"].set()
    member.say({"id": 3, "subscribe": {"channel": "team-a"}})
    assert "subscribe" in await answered(member, 3)


async def test_a_client_that_leaves_during_authorization_leaves_nothing_behind(
    hub: Hub, member: Member
) -> None:
    gates["team-a"] = asyncio.Event()
    member.say({"id": 2, "subscribe": {"channel": "team-a"}})
    await eventually(lambda: asked)
    before = len(asyncio.all_tasks())
    await member.leave()
    await eventually(lambda: len(asyncio.all_tasks()) <= before - 2)  # its own, and the question
    assert hub.registry.get("team-a") is None


@pytest.mark.django_db(transaction=True)  # Channels manages the thread's database connections
@pytest.mark.parametrize("hub", ["decide_slowly"], indirect=True)
async def test_a_synchronous_function_is_called_in_a_thread(hub: Hub, member: Member) -> None:
    loop = asyncio.get_running_loop()
    began, turns = loop.time(), 0
    member.say({"id": 2, "subscribe": {"channel": "anything"}})
    while not any(line.get("id") == 2 for line in member.lines):
        await asyncio.sleep(0.001)
        turns += 1
    assert "subscribe" in answer(member, 2)
    assert loop.time() - began >= 0.05
    assert turns > 5, "the loop was not blocked"


async def test_a_channel_of_connect_that_the_host_could_not_judge_may_be_asked_for_again(
    hub: Hub,
) -> None:
    """It was refused for good, where a subscribe command gets a temporary error."""
    member = Member(hub)
    await eventually(lambda: member.conversation)
    subs = {"broken": {}, "closed": {}}
    member.say({"id": 1, "connect": {"token": token("42"), "subs": subs}})
    await eventually(lambda: len(member.pushes("unsubscribe")) == 2)
    codes = {push["channel"]: push["code"] for push in member.pushes("unsubscribe")}
    assert codes == {"broken": 2500, "closed": 2001}
    await member.leave()
