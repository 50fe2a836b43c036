"""Commands about users are executed on every node, including nodes that missed them at first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from redis.asyncio import Redis

from realtime import apublish, personal_channel, wiring
from realtime.brokers import ALL_NODES, SentCommand
from realtime.brokers.node_messages import Moment, UserCommand
from realtime.core.identity import Identity
from realtime.core.node_commands import (
    DisconnectUser,
    NodeCommand,
    RecheckUser,
    RefreshUser,
    SendToUser,
    SubscribeUser,
    UnsubscribeUser,
    encode_command,
)
from realtime.delivery.hub import Hub
from realtime.identity.ended_sessions import EndedSessions
from realtime.wiring import Node, send_node_command, send_node_command_sync
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


async def test_a_user_is_subscribed_to_their_own_channel(join: Join) -> None:
    member = await join("42")
    [served] = member.pushes("subscribe")
    assert served["channel"] == "user:#42"
    assert (served["positioned"], served["recoverable"], served["offset"]) == (True, False, 0)
    await apublish("user:#42", "for you")
    await eventually(lambda: member.pushes("pub"))
    assert member.pushes("pub")[0]["data"] == "for you"
    assert member.offsets() == [1]


async def test_the_node_stays_subscribed_to_a_channel_it_serves(
    join: Join, redis_server: RedisServer
) -> None:
    """The prepared channel was released before the client listened, so nobody needed the channel.

    The node left it for a moment, and publications at that moment were lost silently.
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
    """The hub is not started, so nothing can be subscribed, but the client still gets its reply."""
    member = Member(node.hub)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {"token": token("42")}}, {"id": 2, "ping": {}})
    assert "ping" in await answer(member, 2)
    assert member.pushes("subscribe") == []
    node.hub.start()
    await eventually(lambda: member.pushes("subscribe"))
    await member.leave()


async def test_subscribing_to_a_served_channel_is_allowed(join: Join) -> None:
    member = await join("42")
    await apublish("user:#42", 1)
    await eventually(lambda: member.offsets() == [1])
    member.say({"id": 2, "subscribe": {"channel": "user:#42"}})
    assert (await answer(member, 2))["subscribe"] == {}, "the subscription continues"
    await apublish("user:#42", 2)
    await eventually(lambda: member.offsets() == [1, 2])
    member.say({"id": 3, "subscribe": {"channel": "user:#42"}})
    assert (await answer(member, 3))["error"]["code"] == 105


async def test_subscribing_in_the_connect_frame_subscribes_once(hub: Hub) -> None:
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


async def test_a_client_may_unsubscribe_from_a_served_channel(join: Join, hub: Hub) -> None:
    member = await join("42")
    member.say({"id": 2, "unsubscribe": {"channel": "user:#42"}})
    await answer(member, 2)
    await eventually(lambda: hub.registry.get("user:#42") is None)


async def test_a_user_whose_channel_would_be_too_long_has_none(hub: Hub) -> None:
    member = Member(hub)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {"token": token("é" * 128)}}, {"id": 2, "ping": {}})
    await answer(member, 2)
    assert not [channel.name for channel in hub.registry if channel.name.startswith("user:")]
    await member.leave()


# --------------------------------------------------------------------------------------- control


@pytest.fixture(params=["async", "sync"])
def tell(request: pytest.FixtureRequest, wired: str) -> Callable[[NodeCommand], Awaitable[None]]:
    if request.param == "async":
        return send_node_command

    async def in_a_thread(command: NodeCommand) -> None:
        await asyncio.to_thread(send_node_command_sync, command)

    return in_a_thread


async def test_only_the_named_user_is_disconnected(join: Join, tell: Any) -> None:
    ada, again, ben = await join("ada"), await join("ada"), await join("ben")
    await tell(DisconnectUser("ada"))
    await eventually(lambda: ada.ended and again.ended)
    assert ada.closed == (3503, "force disconnect")
    assert not ben.ended


async def test_one_client_of_a_user_is_disconnected(join: Join, tell: Any) -> None:
    one, other = await join("ada"), await join("ada")
    client = one.lines[0]["connect"]["client"]
    await tell(DisconnectUser("ada", client=client, code=4501, reason="moved"))
    await eventually(lambda: one.ended)
    assert one.closed == (4501, "moved")
    assert not other.ended


async def test_a_user_is_subscribed_and_unsubscribed(join: Join, hub: Hub, tell: Any) -> None:
    member = await join("ada")
    await tell(SubscribeUser("ada", "team:red"))
    await tell(SubscribeUser("ada", "news:of-the-team"))
    await tell(SubscribeUser("ada", "public:team"))
    await eventually(lambda: len(member.pushes("subscribe")) == 2)
    assert member.pushes("subscribe")[1]["channel"] == "public:team", "the others do not exist"
    await tell(UnsubscribeUser("ada", "public:team"))
    await eventually(lambda: member.pushes("unsubscribe"))
    assert member.pushes("unsubscribe") == [
        {"channel": "public:team", "code": 2000, "reason": "server unsubscribe"}
    ]
    await eventually(lambda: hub.registry.get("public:team") is None)
    member.say({"id": 5, "subscribe": {"channel": "public:team"}})
    assert "subscribe" in await answer(member, 5), "it may ask again"
    await tell(UnsubscribeUser("ada"))
    await eventually(lambda: len(member.pushes("unsubscribe")) == 3)
    assert not member.ended


async def test_a_pending_subscribe_is_authorized_again_after_an_unsubscribe(node: Node) -> None:
    """Otherwise a permission given a moment before the revocation would last forever."""
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


async def test_a_refresh_command_extends_a_connection(join: Join, tell: Any) -> None:
    one, other = await join("ada"), await join("ben")
    await tell(RefreshUser("ada", expired=True))
    await eventually(lambda: one.ended)
    assert one.closed == (3005, "connection expired")
    await tell(RefreshUser("ben", expire_at=int(time.time()) + 3600))
    await eventually(lambda: other.conversation.identity.expires_at > time.time() + 3000)
    await tell(RefreshUser("ben"))
    await eventually(lambda: other.conversation.identity.expires_at is None)


# ---------------------------------------------------------------------- commands that were missed


async def test_a_missed_command_is_executed_at_the_next_poll(join: Join, hub: Hub) -> None:
    one = await join("ada")
    await lose(hub, DisconnectUser("ada"))
    assert not one.ended
    hub.users.look_again()
    await eventually(lambda: one.ended)


async def test_connections_made_after_a_command_are_not_affected(
    join: Join, hub: Hub, redis: Redis
) -> None:
    before = await join("ada")
    await lose(hub, DisconnectUser("ada"))
    told_at = await seconds(redis)

    async def is_later() -> bool:  # than the milliseconds that the two clocks are compared in
        return await seconds(redis) > told_at + 0.1

    await eventually(is_later)
    after = await join("ada")
    hub.users.look_again()
    await eventually(lambda: before.ended)
    assert not after.ended


async def test_a_received_command_is_not_executed_twice(join: Join, hub: Hub) -> None:
    one = await join("ada")
    await send_node_command(DisconnectUser("ada"))
    await eventually(lambda: one.ended)
    again = await join("ada")
    hub.users.look_again()
    await send_node_command(DisconnectUser("ben"))
    await settled(hub)
    assert not again.ended


async def test_a_poll_requested_during_another_poll_is_not_lost(
    join: Join, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await join("ada")
    broker = hub.users._broker
    read_node_commands = broker.read_node_commands
    has_read, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow(moment: Any) -> Any:
        answer = await read_node_commands(moment)
        has_read.set()
        await may_go_on.wait()
        return answer

    monkeypatch.setattr(broker, "read_node_commands", slow)
    hub.users.look_again()
    await has_read.wait()
    await lose(hub, DisconnectUser("ada"))
    hub.users.look_again()
    may_go_on.set()
    await eventually(lambda: one.ended)


async def test_a_node_polls_for_missed_commands_after_an_outage(
    join: Join, hub: Hub, redis: Redis
) -> None:
    one = await join("ada")
    await lose(hub, DisconnectUser("ada"))
    await redis.client_kill_filter(_type="pubsub")
    await eventually(lambda: one.ended)


async def test_an_unreadable_command_is_ignored(
    join: Join, hub: Hub, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    one = await join("ada")
    channel = f"{wiring.settings().redis_prefix}:{{0}}:ch:!nodes"
    until = hub.users._until.milliseconds + 10**6
    newer = (b"", b"\xff", b"1", b"x-1 {}", b"handover 0123", b"? 0123456789abcdef traces *")
    for garbage in (*newer, b"%d-0 nonsense", b"%d-1 []", b"%d-2 \xff"):
        await redis.publish(channel, garbage % until if b"%d" in garbage else garbage)
    await send_node_command(DisconnectUser("ben"))
    await settled(hub)
    assert not one.ended
    assert caplog.text.count("unreadable node command") == 1, "once a minute"
    assert caplog.text.count("that this version does not know (1 so far)") == 1
    assert hub.receiver.passed_over == len(newer)


# ------------------------------------------------------------------- sessions that have ended


async def refused(member: Member) -> int:
    """Return the error with which its first command was answered."""
    code: int = (await answer(member, 1))["error"]["code"]
    return code


@pytest.fixture
async def show(hub: Hub) -> AsyncIterator[Callable[..., Awaitable[Member]]]:
    """Connect with a token that may be refused."""
    members: list[Member] = []

    async def show_token(shown: str, at: Hub = hub) -> Member:
        member = Member(at)
        members.append(member)
        await eventually(lambda: member.conversation)
        member.say({"id": 1, "connect": {"token": shown}})
        return member

    yield show_token
    for member in members:
        await member.leave()


async def test_a_token_is_replayed_after_its_session_logged_out(
    show: Any, join: Join, tell: Any
) -> None:
    """The token used to stay valid until its `exp`; only the existing connections were closed."""
    shown = token("ada", session="s1")
    here, other = await show(shown), await show(token("ada", session="s2"))
    await eventually(lambda: here.lines and other.lines)
    await tell(DisconnectUser("ada", session="s1"))
    await eventually(lambda: here.ended)
    assert here.closed == (3503, "force disconnect")
    again = await show(shown)
    assert await refused(again) == 109
    other.say({"id": 2, "refresh": {"token": shown}})
    await eventually(lambda: other.ended)
    assert other.closed == (3005, "connection expired")
    assert "connect" in await answer(await show(token("ada", session="s3")), 1)


async def test_a_user_disconnected_by_the_api_may_return_with_the_same_token(
    show: Any, tell: Any
) -> None:
    """As in Centrifugo: this ends connections, but not the login or the tokens behind them."""
    shown = token("ada", session="s1")
    here = await show(shown)
    await eventually(lambda: here.lines)
    await tell(DisconnectUser("ada"))
    await eventually(lambda: here.ended)
    assert "connect" in await answer(await show(shown), 1)


@pytest.mark.parametrize("is_living", [False, True])
async def test_a_logout_happens_between_handshake_and_connect(hub: Hub, is_living: bool) -> None:
    """The session was read for the handshake, and the command found no connection yet.

    The site is asked again, because some packages send `user_logged_out` for their own tokens, and
    the session lives on.
    """
    asked: list[str] = []

    async def entitled(identities: Sequence[Identity]) -> list[bool]:
        asked.extend(identity.session for identity in identities)
        return [is_living] * len(identities)

    hub.users._entitled = entitled
    member = Member(hub, Identity("ada", session="s1", proof="s1"))
    await eventually(lambda: member.conversation)
    await send_node_command(DisconnectUser("ada", session="s1"))
    await settled(hub)
    assert asked == []
    member.say({"id": 1, "connect": {}})
    await eventually(lambda: asked == ["s1"])
    if is_living:
        member.say({"id": 2, "ping": {}})
        assert "ping" in await answer(member, 2)
    else:
        await eventually(lambda: member.ended)
        assert member.closed == (3503, "force disconnect")
    await member.leave()


async def test_a_token_is_shown_to_a_node_that_missed_the_logout(show: Any, hub: Hub) -> None:
    """The client connected after the logout, and is closed when the node learns of it."""
    await lose(hub, DisconnectUser("ada", session="s1"))
    member = await show(token("ada", session="s1"))
    await answer(member, 1)
    hub.users.look_again()
    await eventually(lambda: member.ended)
    assert member.closed == (3503, "force disconnect")
    assert await refused(await show(token("ada", session="s1"))) == 109


async def test_an_earlier_logout_does_not_close_a_live_session(
    join: Join, hub: Hub, redis: Redis
) -> None:
    asked: list[str] = []

    async def entitled(identities: Sequence[Identity]) -> list[bool]:
        asked.extend(identity.session for identity in identities)
        return [True] * len(identities)

    await lose(hub, DisconnectUser("ada", session="s1"))
    told_at = await seconds(redis)

    async def is_later() -> bool:  # than the milliseconds that the two clocks are compared in
        return await seconds(redis) > told_at + 0.1

    await eventually(is_later)
    member = await join(identity=Identity("ada", session="s1", proof="s1"))
    hub.users._entitled = entitled
    hub.users.look_again()
    await eventually(lambda: asked)
    assert "s1" in hub.users.ended_sessions
    assert not member.ended


async def test_a_token_is_shown_to_a_node_that_started_after_the_logout(
    show: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node reads earlier commands page by page, only to find the ended sessions."""
    monkeypatch.setattr("realtime.brokers.commands.NODE_COMMANDS_PAGE", 2)
    monkeypatch.setattr("realtime.delivery.users.NODE_COMMANDS_PAGE", 2)
    for number in range(5):
        await send_node_command(DisconnectUser("ada", session=f"s{number}"))
        await send_node_command(DisconnectUser("ben"))
    node = Node()
    node.hub.start()
    try:
        await eventually(lambda: len(node.hub.users.ended_sessions) == 5)
        assert await refused(await show(token("ada", session="s0"), node.hub)) == 109
        assert await refused(await show(token("ada", session="s4"), node.hub)) == 109
        ben = await show(token("ben", session="s9"), node.hub)
        assert "connect" in await answer(ben, 1)
        await send_node_command(DisconnectUser("ben"))
        await eventually(lambda: ben.ended)
        await ben.leave()
    finally:
        await node.aclose()


async def test_remembered_logouts_are_bounded_and_counted(
    show: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.users, "ended_sessions", EndedSessions(limit=3))
    for number in range(5):
        await send_node_command(DisconnectUser("ada", session=f"s{number}"))
    await settled(hub)
    assert len(hub.users.ended_sessions) == 3
    assert hub.reached.counts["ended_sessions"] == 2
    assert await refused(await show(token("ada", session="s4"))) == 109


async def test_commands_read_in_pages_are_each_executed_once(
    join: Join, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.brokers.commands.NODE_COMMANDS_PAGE", 2)
    monkeypatch.setattr("realtime.delivery.users.NODE_COMMANDS_PAGE", 2)
    member = await join("ada")
    for number in range(6):
        command = SendToUser("ada", str(number))
        await (lose(hub, command) if number % 2 else send_node_command(command))
    await settled(hub)
    hub.users.look_again()
    await eventually(lambda: len(member.pushes("message")) >= 6)
    hub.users.look_again()
    await send_node_command(SendToUser("ada", "6"))
    await eventually(lambda: len(member.pushes("message")) >= 7)
    assert sorted(push["data"] for push in member.pushes("message")) == list(range(7))


async def test_commands_written_in_the_millisecond_of_the_poll_are_executed(
    join: Join, hub: Hub, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node took it for another Redis whose clock is behind, and executed none of them."""
    broker = hub.users._broker
    read_node_commands = broker.read_node_commands

    async def in_one_millisecond(moment: Moment) -> tuple[Moment, list[SentCommand]]:
        now, entries = await read_node_commands(moment)
        return Moment(entries[-1].at.milliseconds, 0) if entries else now, entries

    monkeypatch.setattr(broker, "read_node_commands", in_one_millisecond)
    monkeypatch.setattr("realtime.brokers.commands.NODE_COMMANDS_PAGE", 2)
    monkeypatch.setattr("realtime.delivery.users.NODE_COMMANDS_PAGE", 2)
    member = await join("ada")
    assert hub.users._until is not None
    at = hub.users._until.milliseconds + 10
    for number in range(6):
        raw = msgspec.json.encode(encode_command(SendToUser("ada", str(number))))
        key = f"{wiring.settings().redis_prefix}:{{0}}:told"
        await redis.xadd(key, {"told": raw}, id=f"{at}-{number}")
    hub.users.look_again()
    await eventually(lambda: len(member.pushes("message")) >= 6)


async def test_commands_are_executed_once_although_the_clock_of_redis_was_set_back(
    join: Join, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each second poll executed all of them again, until the clock had caught up."""
    broker = hub.users._broker
    read_node_commands = broker.read_node_commands
    polls = 0

    async def a_minute_ago(moment: Moment) -> tuple[Moment, list[SentCommand]]:
        nonlocal polls
        polls += 1
        now, entries = await read_node_commands(moment)
        return Moment(now.milliseconds - 60_000, 0), entries

    member = await join("ada")
    await send_node_command(SendToUser("ada", "1"))
    await settled(hub)
    monkeypatch.setattr(broker, "read_node_commands", a_minute_ago)
    await send_node_command(SendToUser("ada", "2"))
    await eventually(lambda: len(member.pushes("message")) == 2)
    await lose(hub, SendToUser("ada", "3"))
    for _ in range(4):
        before = polls
        hub.users.look_again()
        await eventually(lambda: polls > before)  # noqa: B023
    await eventually(lambda: len(member.pushes("message")) >= 3)
    assert [push["data"] for push in member.pushes("message")] == [1, 2, 3]


async def test_a_command_before_the_first_poll_is_executed_once(join: Join, hub: Hub) -> None:
    """Clients connect while Redis is away, and a command may come before the node has polled."""
    member = await join("ada")
    hub.users._until = None
    await send_node_command(SendToUser("ada", "1"))
    await eventually(lambda: member.pushes("message"))
    hub.users._until = None
    hub.users.look_again()
    await settled(hub)
    await eventually(lambda: hub.users._until is not None)
    assert len(member.pushes("message")) == 1


async def lose(hub: Hub, command: NodeCommand) -> None:
    """Send a command that this node misses."""
    handlers, lost = hub.receiver._between_nodes[ALL_NODES]._handlers, asyncio.Event()
    hub.receiver._between_nodes[ALL_NODES]._handlers = {UserCommand: lambda _: lost.set()}
    await send_node_command(command)
    await lost.wait()
    hub.receiver._between_nodes[ALL_NODES]._handlers = handlers


async def seconds(redis: Redis) -> float:
    whole, microseconds = await redis.time()
    return float(whole) + microseconds / 1e6


async def settled(hub: Hub) -> None:
    """Wait until the node has received all earlier commands."""
    heard = asyncio.Event()
    handlers = hub.receiver._between_nodes[ALL_NODES]._handlers

    def hear_and_tell(command: UserCommand) -> None:
        hub.users.hear(command)
        if b'"marker"' in command.raw:
            heard.set()

    hub.receiver._between_nodes[ALL_NODES]._handlers = {**handlers, UserCommand: hear_and_tell}
    await send_node_command(RecheckUser("marker"))
    await heard.wait()
    hub.receiver._between_nodes[ALL_NODES]._handlers = handlers


# ---------------------------------------------------------------------------------- still entitled


async def test_a_user_that_the_site_no_longer_knows_is_disconnected(join: Join, hub: Hub) -> None:
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
    assert asked[0] == ["ada", "ben"], "a client with another site's token cannot be looked up"
    gone.add("ada")
    asked.clear()
    await send_node_command(RecheckUser("ada"))
    await eventually(lambda: ada.ended)
    assert ada.closed == (3503, "force disconnect")
    assert asked == [["ada"]]
    assert not ben.ended
    assert not foreign.ended


@pytest.mark.parametrize(
    "error", [LookupError("a bug of the site"), asyncio.CancelledError(), SystemExit(1)], ids=repr
)
async def test_a_failing_site_is_asked_again(
    join: Join,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    monkeypatch.setattr("realtime.delivery.users.RECHECK_SECONDS", 0.05)
    answers = iter([error])

    async def entitled(identities: Sequence[Identity]) -> list[bool]:
        for error in answers:
            raise error
        return [False] * len(identities)

    ada = await join(identity=Identity("ada", stamp="s"))
    hub.users._entitled = entitled
    hub.users.look_again()
    await eventually(lambda: ada.ended)
    assert "checking the connected users failed" in caplog.text


async def test_a_hub_that_a_request_has_started_asks_the_site_after_that_request(
    node: Node,
) -> None:
    """Its tasks inherited the thread of a sync middleware: nobody was checked any more."""

    async def view() -> None:
        node.hub.start()

    async def entitled(identities: Sequence[Identity]) -> list[bool]:
        return await sync_to_async(lambda: [may_stay] * len(identities))()

    may_stay = True  # at first: the hub also asks as soon as it is subscribed
    node.hub.users._entitled = entitled
    middleware = async_to_sync(view)
    await sync_to_async(middleware)()  # as Django calls it
    ada = Member(node.hub, Identity("ada", stamp="s"))
    await eventually(lambda: ada.conversation)
    ada.say({"id": 1, "connect": {}})
    await eventually(lambda: ada.pushes("subscribe"))
    may_stay = False
    node.hub.users.look_again()
    await eventually(lambda: ada.ended)
    assert ada.closed == (3503, "force disconnect")
    await ada.leave()


async def test_a_client_that_stops_reading_while_being_served_is_closed(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Its replies reach their limit in the same step in which it would start to listen."""
    member = Member(node.hub, Identity("slow"))
    await eventually(lambda: member.conversation)
    never = asyncio.Event()

    async def stuck(message: dict[str, Any]) -> None:
        await never.wait()

    member.conversation.writer._sink._send = stuck
    member.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "public:slow"}})
    await eventually(lambda: member.conversation.writer._finisher is not None)
    writer = member.conversation.writer
    writer.send(" " * (64 * 1024 - 20))
    node.hub.start()
    await eventually(lambda: member.ended)
    await eventually(lambda: node.hub.live)
    assert node.hub.registry.get("user:#slow") is None
    assert "failed" not in caplog.text
    await member.leave()


async def test_a_user_with_any_id_hears_their_own_channel(join: Join) -> None:
    member = await join("auth0|Zoë+1")
    await apublish(personal_channel("auth0|Zoë+1"), "for Zoë")
    [heard] = await eventually(lambda: member.pushes("pub"))
    assert heard["data"] == "for Zoë"
