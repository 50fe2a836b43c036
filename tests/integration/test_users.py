"""What nodes are told about users happens on each, also when it was not heard at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from realtime import apublish, wiring
from realtime.control import Command, Disconnect, Recheck, Refresh, Subscribe, Unsubscribe
from realtime.hub import Hub
from realtime.identity import Identity
from realtime.node_messages import UserCommand
from realtime.wiring import Node, tell_nodes, tell_nodes_sync
from tests.support.eventually import eventually
from tests.support.member import Member
from tests.support.overheard import overheard
from tests.support.redis_server import RedisServer
from tests.support.tokens import token


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url) as client:
        yield client


Join = Callable[..., Awaitable[Member]]


@pytest.fixture
def join(join_user: Join) -> Join:
    return join_user


async def answer(member: Member, number: int) -> dict[str, Any]:
    await eventually(lambda: any(line.get("id") == number for line in member.lines))
    return next(line for line in member.lines if line.get("id") == number)


# ------------------------------------------------------------------------------- served channels


async def test_a_user_listens_to_its_own_channel_without_asking(join: Join) -> None:
    member = await join("42")
    [served] = member.pushes("subscribe")
    assert served["channel"] == "user:#42"
    assert (served["positioned"], served["recoverable"], served["offset"]) == (True, False, 0)
    await apublish("user:#42", "for you")
    await eventually(lambda: member.pushes("pub"))
    assert member.pushes("pub")[0]["data"] == "for you"
    assert member.offsets() == [1]


async def test_a_channel_that_somebody_is_served_is_not_left_by_the_node(
    join: Join, redis_server: RedisServer
) -> None:
    """What was prepared was given back before the client listened, so nobody wanted the channel.

    The node left it for a moment, and what was published then was lost in silence.
    """
    with overheard(redis_server) as told:
        member = await join("42")
        assert member.conversation is not None
        member.conversation.serve("closed")
        await eventually(lambda: len(member.pushes("subscribe")) == 2)
        assert (await apublish("closed", 1)).nodes == 1
        await eventually(lambda: member.pushes("pub"))
    assert not [command for command in told if command.upper().startswith("UNSUBSCRIBE")]


async def test_the_connect_reply_does_not_wait_for_redis(node: Node) -> None:
    """The hub is not started: nothing can be subscribed, and the client is greeted all the same."""
    member = Member(node.hub)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {"token": token("42")}}, {"id": 2, "ping": {}})
    assert "ping" in await answer(member, 2)
    assert member.pushes("subscribe") == []
    node.hub.start()
    await eventually(lambda: member.pushes("subscribe"))
    await member.leave()


async def test_to_ask_for_a_served_channel_is_no_mistake(join: Join) -> None:
    member = await join("42")
    await apublish("user:#42", 1)
    await eventually(lambda: member.offsets() == [1])
    member.say({"id": 2, "subscribe": {"channel": "user:#42"}})
    assert (await answer(member, 2))["subscribe"] == {}, "it goes on where it is"
    await apublish("user:#42", 2)
    await eventually(lambda: member.offsets() == [1, 2])
    member.say({"id": 3, "subscribe": {"channel": "user:#42"}})
    assert (await answer(member, 3))["error"]["code"] == 105


async def test_to_ask_in_the_frame_of_the_connect_subscribes_once(hub: Hub) -> None:
    member = Member(hub)
    await eventually(lambda: member.conversation)
    member.say(
        {"id": 1, "connect": {"token": token("42")}},
        {"id": 2, "subscribe": {"channel": "user:#42"}},
    )
    assert "subscribe" in await answer(member, 2)
    await apublish("user:#42", 1)
    await eventually(lambda: member.offsets() == [1])
    await member.leave()


async def test_a_client_may_have_enough_of_what_it_is_served(join: Join, hub: Hub) -> None:
    member = await join("42")
    member.say({"id": 2, "unsubscribe": {"channel": "user:#42"}})
    await answer(member, 2)
    await eventually(lambda: hub.registry.get("user:#42") is None)


@pytest.mark.parametrize("user", ["a b", "a,b", "é" * 3, "auth0|5"])
async def test_an_id_that_cannot_stand_in_a_name_has_no_channel_of_its_own(
    hub: Hub, user: str
) -> None:
    member = Member(hub)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {"token": token(user)}}, {"id": 2, "ping": {}})
    await answer(member, 2)
    assert not [channel.name for channel in hub.registry if channel.name.startswith("user:")]
    await member.leave()


# --------------------------------------------------------------------------------------- control


@pytest.fixture(params=["async", "sync"])
def tell(request: pytest.FixtureRequest, wired: str) -> Callable[[Command], Awaitable[None]]:
    if request.param == "async":
        return tell_nodes

    async def in_a_thread(command: Command) -> None:
        await asyncio.to_thread(tell_nodes_sync, command)

    return in_a_thread


async def test_a_user_is_disconnected_and_no_other(join: Join, tell: Any) -> None:
    ada, again, ben = await join("ada"), await join("ada"), await join("ben")
    await tell(Disconnect("ada"))
    await eventually(lambda: ada.ended and again.ended)
    assert ada.closed == (3503, "force disconnect")
    assert not ben.ended


async def test_one_client_of_a_user_is_disconnected(join: Join, tell: Any) -> None:
    one, other = await join("ada"), await join("ada")
    client = one.lines[0]["connect"]["client"]
    await tell(Disconnect("ada", client=client, code=4501, reason="moved"))
    await eventually(lambda: one.ended)
    assert one.closed == (4501, "moved")
    assert not other.ended


async def test_a_user_is_subscribed_and_unsubscribed(join: Join, hub: Hub, tell: Any) -> None:
    member = await join("ada")
    await tell(Subscribe("ada", "team:red"))
    await tell(Subscribe("ada", "news:of-the-team"))
    await tell(Subscribe("ada", "public:team"))
    await eventually(lambda: len(member.pushes("subscribe")) == 2)
    assert member.pushes("subscribe")[1]["channel"] == "public:team", "the others do not exist"
    await tell(Unsubscribe("ada", "public:team"))
    await eventually(lambda: member.pushes("unsubscribe"))
    assert member.pushes("unsubscribe") == [
        {"channel": "public:team", "code": 2000, "reason": "server unsubscribe"}
    ]
    await eventually(lambda: hub.registry.get("public:team") is None)
    member.say({"id": 5, "subscribe": {"channel": "public:team"}})
    assert "subscribe" in await answer(member, 5), "it may ask again"
    await tell(Unsubscribe("ada"))
    await eventually(lambda: len(member.pushes("unsubscribe")) == 3)
    assert not member.ended


async def test_a_subscribe_on_its_way_is_judged_anew_after_an_unsubscribe(node: Node) -> None:
    """Otherwise what was allowed a moment before the revocation would last for ever."""
    member = Member(node.hub)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {"token": token("ada")}})
    member.say({"id": 2, "subscribe": {"channel": "public:late"}})  # the hub does not listen yet
    member.conversation.unserve("public:late")
    error = (await answer(member, 2))["error"]
    assert error == {"code": 103, "message": "unsubscribed by the server"}
    node.hub.start()
    await eventually(lambda: node.hub.live)
    assert node.hub.registry.get("public:late") is None
    member.say({"id": 3, "subscribe": {"channel": "public:late"}})
    assert "subscribe" in await answer(member, 3)
    await member.leave()


async def test_a_connection_is_told_anew_until_when_it_is_good(join: Join, tell: Any) -> None:
    one, other = await join("ada"), await join("ben")
    await tell(Refresh("ada", expired=True))
    await eventually(lambda: one.ended)
    assert one.closed == (3005, "connection expired")
    await tell(Refresh("ben", expire_at=int(time.time()) + 3600))
    await eventually(lambda: other.conversation.identity.expires_at > time.time() + 3000)
    await tell(Refresh("ben"))
    await eventually(lambda: other.conversation.identity.expires_at is None)


# ---------------------------------------------------------------------- what was not heard at once


async def test_what_a_node_did_not_hear_it_does_at_its_next_look(join: Join, hub: Hub) -> None:
    one = await join("ada")
    await lose(hub, Disconnect("ada"))
    assert not one.ended
    hub.users.look_again()
    await eventually(lambda: one.ended)


async def test_what_came_after_the_command_is_not_touched_by_it(
    join: Join, hub: Hub, redis: Redis
) -> None:
    before = await join("ada")
    await lose(hub, Disconnect("ada"))
    told_at = await seconds(redis)

    async def is_later() -> bool:  # than the milliseconds that the two clocks are compared in
        return await seconds(redis) > told_at + 0.1

    await eventually(is_later)
    after = await join("ada")
    hub.users.look_again()
    await eventually(lambda: before.ended)
    assert not after.ended


async def test_what_was_heard_is_not_done_again(join: Join, hub: Hub) -> None:
    one = await join("ada")
    await tell_nodes(Disconnect("ada"))
    await eventually(lambda: one.ended)
    again = await join("ada")
    hub.users.look_again()
    await tell_nodes(Disconnect("ben"))
    await settled(hub)
    assert not again.ended


async def test_a_look_that_is_asked_for_during_another_one_is_not_forgotten(
    join: Join, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await join("ada")
    broker = hub.users._broker
    told_since, has_read, may_go_on = broker.told_since, asyncio.Event(), asyncio.Event()

    async def slow(moment: Any) -> Any:
        answer = await told_since(moment)
        has_read.set()
        await may_go_on.wait()
        return answer

    monkeypatch.setattr(broker, "told_since", slow)
    hub.users.look_again()
    await has_read.wait()
    await lose(hub, Disconnect("ada"))
    hub.users.look_again()
    may_go_on.set()
    await eventually(lambda: one.ended)


async def test_after_a_break_a_node_asks_what_it_was_told_meanwhile(
    join: Join, hub: Hub, redis: Redis
) -> None:
    one = await join("ada")
    await lose(hub, Disconnect("ada"))
    await redis.client_kill_filter(_type="pubsub")
    await eventually(lambda: one.ended)


async def test_what_is_no_command_is_passed_over(
    join: Join, hub: Hub, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    one = await join("ada")
    channel = f"{wiring.settings().redis_prefix}:{{0}}:ch:!nodes"
    until = hub.users._until.milliseconds + 10**6
    newer = (b"", b"\xff", b"1", b"x-1 {}", b"handover 0123", b"? 0123456789abcdef traces *")
    for garbage in (*newer, b"%d-0 nonsense", b"%d-1 []", b"%d-2 \xff"):
        await redis.publish(channel, garbage % until if b"%d" in garbage else garbage)
    await tell_nodes(Disconnect("ben"))
    await settled(hub)
    assert not one.ended
    assert caplog.text.count("none of ours") == 1, "once a minute"
    assert caplog.text.count("that this version does not know (1 so far)") == 1
    assert hub.passed_over == len(newer)


async def lose(hub: Hub, command: Command) -> None:
    """Tell it, and let this node hear nothing of it."""
    handlers, lost = hub._for_all_nodes._handlers, asyncio.Event()
    hub._for_all_nodes._handlers = {UserCommand: lambda _: lost.set()}
    await tell_nodes(command)
    await lost.wait()
    hub._for_all_nodes._handlers = handlers


async def seconds(redis: Redis) -> float:
    whole, microseconds = await redis.time()
    return float(whole) + microseconds / 1e6


async def settled(hub: Hub) -> None:
    """Wait until the node has heard what was told before."""
    heard = asyncio.Event()
    handlers = hub._for_all_nodes._handlers

    def hear_and_tell(command: UserCommand) -> None:
        hub.users.hear(command)
        if b'"marker"' in command.raw:
            heard.set()

    hub._for_all_nodes._handlers = {**handlers, UserCommand: hear_and_tell}
    await tell_nodes(Recheck("marker"))
    await heard.wait()
    hub._for_all_nodes._handlers = handlers


# ---------------------------------------------------------------------------------- still entitled


async def test_whom_the_site_knows_no_more_is_disconnected(join: Join, hub: Hub) -> None:
    gone: set[str] = set()
    asked: list[list[str]] = []

    async def entitled(identities: Sequence[Identity]) -> list[bool]:
        asked.append(sorted(identity.user for identity in identities))
        return [identity.user not in gone for identity in identities]

    hub.users._entitled = entitled
    ada = await join(identity=Identity("ada", stamp="s"))
    ben = await join(identity=Identity("ben", stamp="s"))
    foreign = await join("ada")
    asked.clear()
    hub.users.look_again()
    await eventually(lambda: asked)
    assert asked[0] == ["ada", "ben"], "who came by a token of somebody else cannot be looked up"
    gone.add("ada")
    asked.clear()
    await tell_nodes(Recheck("ada"))
    await eventually(lambda: ada.ended)
    assert ada.closed == (3503, "force disconnect")
    assert asked == [["ada"]]
    assert not ben.ended
    assert not foreign.ended


@pytest.mark.parametrize(
    "error", [LookupError("a bug of the site"), asyncio.CancelledError(), SystemExit(1)], ids=repr
)
async def test_a_site_that_fails_is_asked_again(
    join: Join,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    monkeypatch.setattr("realtime.users.LOOK_SECONDS", 0.05)
    answers = iter([error])

    async def entitled(identities: Sequence[Identity]) -> list[bool]:
        for error in answers:
            raise error
        return [False] * len(identities)

    ada = await join(identity=Identity("ada", stamp="s"))
    hub.users._entitled = entitled
    hub.users.look_again()
    await eventually(lambda: ada.ended)
    assert "looking at the users failed" in caplog.text


async def test_a_client_that_does_not_read_ends_while_it_is_served_and_harms_nobody(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Its replies reach their bound in the very step in which it would begin to listen."""
    member = Member(node.hub, Identity("slow"))
    await eventually(lambda: member.conversation)
    never = asyncio.Event()

    async def stuck(message: dict[str, Any]) -> None:
        await never.wait()

    member.conversation.driver._send = stuck
    member.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "public:slow"}})
    await eventually(lambda: member.conversation.driver._finisher is not None)
    driver = member.conversation.driver
    driver.say(" " * (64 * 1024 - 20))
    node.hub.start()
    await eventually(lambda: member.ended)
    await eventually(lambda: node.hub.live)
    assert node.hub.registry.get("user:#slow") is None
    assert "failed" not in caplog.text
    await member.leave()
