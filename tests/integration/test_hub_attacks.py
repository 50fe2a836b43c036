"""Attacks on the hub in this loop: regression tests for past failures."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest

from realtime.brokers import Broker
from realtime.brokers.commands import SCRIPTS, Commands
from realtime.brokers.redis import RedisBroker
from realtime.core.positions import Position
from realtime.core.publication import Publication, Receipt
from realtime.delivery.conversation import Conversation
from realtime.delivery.fanout import CHUNK_LISTENERS, Listener
from realtime.delivery.hub import Hub
from realtime.delivery.inbox import WAITING_COMMANDS, WAITING_COMMANDS_BYTES
from realtime.delivery.joining import Joining
from realtime.errors import BrokerUnavailable
from tests.support.eventually import eventually
from tests.support.losing import publish_while_cut
from tests.support.machine import in_time
from tests.support.member import Member
from tests.support.redis_server import RedisServer


@pytest.fixture
def wired(own_redis: RedisServer, settings: Any) -> str:
    """Attacks break what they use, so each has its own Valkey."""
    settings.REALTIME_REDIS_URL = own_redis.url
    settings.REALTIME_COMMANDS_BURST = settings.REALTIME_PUBLICATIONS_BURST = 10_000
    return "rt"


@pytest.fixture
async def complaints() -> AsyncIterator[list[dict[str, Any]]]:
    """Exceptions in callbacks of the loop, which nobody awaits."""
    loop = asyncio.get_running_loop()
    heard: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: heard.append(context))
    yield heard
    loop.set_exception_handler(None)


def states(member: Member) -> list[bool]:
    return [
        line["push"]["state"]["live"] for line in member.lines if "state" in line.get("push", {})
    ]


async def test_a_reader_cancelled_while_waiting_for_room_leaves_nothing_behind(
    hub: Hub, join: Any, own_redis: RedisServer
) -> None:
    """Daphne cancels a consumer 10 s after its client has disconnected.

    The future of `room` was cancelled with it, and completing it then raised in the middle of
    `release`: the hub did not learn that the connection had ended, and kept it forever.
    """
    member = await join("chat:full")
    own_redis.freeze()
    commands = [
        {"id": 3 + n, "publish": {"channel": "chat:full", "data": n}}
        for n in range(WAITING_COMMANDS)
    ]
    reader = asyncio.create_task(_read(member, commands))
    await asyncio.sleep(0)
    conversation: Conversation = member.conversation
    assert not reader.done()
    reader.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reader
    conversation.end(None)
    assert len(hub.connections) == 0
    own_redis.thaw()


async def test_large_waiting_publications_are_counted_in_bytes(
    hub: Hub, join: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client had 33 MiB waiting here, where only the number of commands was limited."""
    member = await join("chat:large")
    slowly = asyncio.Event()
    monkeypatch.setattr(hub, "publish", partial(_published, hub.subscriber._broker, slowly))
    conversation: Conversation = member.conversation
    for number in range(WAITING_COMMANDS_BYTES // 60_000):
        member.say(_large(3 + number))
        assert conversation.space() is None
    reader = asyncio.create_task(_read(member, [_large(99)]))
    await asyncio.sleep(0)
    assert not reader.done()
    slowly.set()
    await in_time(reader, 5)
    await eventually(lambda: _reply(member, 99))
    assert conversation._queue is None


def _large(command_id: int) -> dict[str, Any]:
    return {"id": command_id, "publish": {"channel": "chat:large", "data": "x" * 60_000}}


async def _read(member: Member, commands: Sequence[dict[str, Any]]) -> None:
    member.say(*commands)
    assert member.conversation is not None
    if (space := member.conversation.space()) is not None:
        await space


async def test_a_subscription_that_breaks_while_the_reader_waits_does_no_harm(
    hub: Hub,
    join: Any,
    own_redis: RedisServer,
    complaints: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The future of a cancelled reader stayed, and each turn of the fan-out raised on it."""
    member = await join("public:flood")
    channel = hub.registry.get("public:flood")
    assert channel is not None
    assert member.conversation is not None
    monkeypatch.setattr("realtime.delivery.fanout.BACKLOG_BYTES", 100_000)
    monkeypatch.setattr("realtime.delivery.fanout.SLICE_LISTENERS", 1)
    extra = [Listener(member.conversation.writer) for _ in range(50_000)]
    channel.listeners.update(dict.fromkeys(extra))
    for listener in extra:
        listener.active = False  # cheap to pass, but the delivery takes its turns
    await asyncio.to_thread(_flood, own_redis, "public:flood", 50)
    await eventually(lambda: hub.fanout._space is not None)
    waiting = hub.fanout.space()
    assert waiting is not None
    waiting.cancel()  # as memory:// does, whose listener awaits it
    new = hub.fanout.space()
    assert new is None or not new.done()
    assert hub.subscriber._owner is not None
    hub.subscriber._owner.cancel()  # as a broken subscription cancels its listener
    await asyncio.gather(hub.subscriber._owner, return_exceptions=True)
    await eventually(lambda: hub.fanout._backlog == 0)
    for listener in extra:
        del channel.listeners[listener]
    assert complaints == []


def _flood(server: RedisServer, channel: str, count: int) -> None:
    with server.client() as client:
        client.script_load(SCRIPTS.publish.text)
        for _ in range(count):
            client.execute_command(*Commands("rt").publish(Publication.of(channel, "x" * 60_000)))


async def test_a_queued_subscribe_is_refused_in_time_when_the_broker_is_down(
    hub: Hub, join: Any, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its channel was live when the command arrived, so no timer of 2 s was set."""
    await join("public:alive")
    member = await join("chat:slow")
    slowly = asyncio.Event()
    monkeypatch.setattr(hub, "publish", partial(_published, hub.subscriber._broker, slowly))
    member.say(
        {"id": 3, "publish": {"channel": "chat:slow", "data": 1}},
        {"id": 4, "subscribe": {"channel": "public:alive"}},
    )
    own_redis.kill()
    await eventually(lambda: not hub.live)
    slowly.set()
    reply = await eventually(lambda: _reply(member, 4), seconds=4)
    assert reply["error"] == {
        "code": 100,
        "message": "the broker is unavailable",
        "temporary": True,
    }


async def _published(broker: Broker, slowly: asyncio.Event, publication: Publication) -> Receipt:
    await slowly.wait()
    return await broker.publish(publication)


def _reply(member: Member, command_id: int) -> dict[str, Any] | None:
    return next((line for line in member.lines if line.get("id") == command_id), None)


async def test_a_queued_subscribe_to_a_live_channel_is_not_refused(
    hub: Hub, join: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier publications may take a second each, while the channel is already live."""
    member = await join("chat:slow")
    slowly = asyncio.Event()
    monkeypatch.setattr("realtime.delivery.client_subscriptions.LIVE_SECONDS", 0.05)
    monkeypatch.setattr(hub, "publish", partial(_published, hub.subscriber._broker, slowly))
    member.say(
        {"id": 3, "publish": {"channel": "chat:slow", "data": 1}},
        {"id": 4, "subscribe": {"channel": "public:patient"}},
    )
    assert member.conversation is not None
    _, joining = member.conversation._queue or ()
    assert isinstance(joining, Joining)
    await eventually(lambda: joining.channel and joining.channel.is_live and not joining._timer)
    slowly.set()
    reply = await eventually(lambda: _reply(member, 4))
    assert "subscribe" in reply


async def test_a_node_without_a_broker_does_not_become_live_when_channels_are_left(
    hub: Hub, join: Any, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set of channels still to be compared outlived the subscription.

    When the last of them was left, the node considered itself live, without a broker.
    """
    member = await join("public:slowly")
    positions = RedisBroker.positions

    async def some(self: RedisBroker, channels: Sequence[str]) -> list[Position]:
        if "public:slowly" in channels:
            await asyncio.Event().wait()
        return await positions(self, channels)

    monkeypatch.setattr("realtime.delivery.subscriber.WISHES_LIMIT", 1)
    monkeypatch.setattr("realtime.delivery.settling.POSITIONS_LIMIT", 1)
    monkeypatch.setattr(RedisBroker, "positions", some)
    own_redis.cut_subscribers()
    await eventually(lambda: hub._liveness._to_compare == {"public:slowly"})
    own_redis.kill()
    await eventually(lambda: hub.registry.has_wishes)  # nobody is there to carry them out
    member.say({"id": 9, "unsubscribe": {"channel": "public:slowly"}})
    hub._tick(asyncio.get_running_loop().time())
    assert not hub.live
    assert True not in states(member)[1:]


async def test_a_client_that_connects_between_two_changes_sees_only_the_last(
    hub: Hub, join: Any
) -> None:
    """A client received an older announcement after it had been told the current state."""
    member = await join()
    hub._liveness.lose("a test")
    late = Member(hub)
    await eventually(lambda: late.conversation)
    hub._liveness.note_subscribed([])
    hub._liveness.look()
    hub._liveness.lose("a test")
    late.say({"id": 1, "connect": {}})
    hub._liveness.note_subscribed([])
    hub._liveness.look()
    await eventually(lambda: states(member)[-1])
    await eventually(lambda: states(late)[-1])
    assert states(late) == [False, True]
    await late.leave()


async def test_the_live_state_is_sent_after_the_last_gap(
    hub: Hub, join: Any, own_redis: RedisServer
) -> None:
    """Deliveries take turns, so `state` overtook the gap of a channel with many listeners.

    docs/protocol.md: the gap of every channel is sent before the node is live again.
    """
    member = await join()
    crowd = await join("public:crowd")
    channel = hub.registry.get("public:crowd")
    assert channel is not None
    assert crowd.conversation is not None
    extra = [Listener(crowd.conversation.writer) for _ in range(3 * CHUNK_LISTENERS)]
    channel.listeners.update(dict.fromkeys(extra))
    member.say({"id": 2, "subscribe": {"channel": "public:crowd"}})
    await member.until(3)
    await asyncio.to_thread(publish_while_cut, own_redis, "public:crowd", 1)
    await eventually(lambda: hub.live and states(member)[-1] and len(states(member)) == 3)
    await eventually(lambda: any("gap" in line.get("push", {}) for line in member.lines))
    for listener in extra:
        del channel.listeners[listener]
    pushes = [line["push"] for line in member.lines if "push" in line]
    assert "gap" in pushes[-2]
    assert pushes[-1] == {"state": {"live": True}}


async def test_a_node_comes_back_after_a_day_without_redis(
    hub: Hub, own_redis: RedisServer
) -> None:
    """After nine minutes, the 1,024th pause was too large a number, which ended the attempts."""
    hub._liveness.failures = 100_000
    own_redis.cut_subscribers()
    await eventually(lambda: not hub.live)
    await eventually(lambda: hub.live)


async def test_a_node_that_is_stopped_while_its_subscription_breaks_stays_stopped(
    hub: Hub, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task group prefers its errors to a cancellation, so the node would subscribe again."""

    async def break_when_cancelled(watchdog: Any, subscription: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise BrokerUnavailable("it breaks at the same moment") from None

    monkeypatch.setattr("realtime.brokers.watchdog.Watchdog.watch_socket", break_when_cancelled)
    own_redis.cut_subscribers()  # the next subscription has the new task
    await eventually(lambda: not hub.live)
    await eventually(lambda: hub.live)
    owner = hub.subscriber._owner
    assert owner is not None
    await in_time(hub.stop(), 30)
    assert owner.cancelled()
    assert not hub.is_started


async def test_a_redis_that_refuses_subscriptions_is_retried_with_back_off(
    hub: Hub, own_redis: RedisServer
) -> None:
    """Connecting alone counted as success, so each node reconnected 34 times a second."""
    with own_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-subscribe")
        own_redis.cut_subscribers()
        await eventually(lambda: hub._liveness.failures > 3)
        client.execute_command("ACL", "SETUSER", "default", "+subscribe")
    await eventually(lambda: hub.live)
    assert hub._liveness.failures == 0
