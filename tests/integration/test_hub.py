"""The hub with a real Redis, in this loop: channels come and go, and the loop is never blocked."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from realtime import apublish
from realtime.delivery.conversation import Conversation
from realtime.delivery.hub import Hub
from realtime.wiring import Node
from tests.support.eventually import eventually
from tests.support.machine import in_time
from tests.support.member import Member


async def test_a_channel_is_forgotten_when_its_last_connection_leaves(hub: Hub, join: Any) -> None:
    channels = len(hub.registry)
    member = await join("public:last")
    assert len(hub.registry) == channels + 1
    await member.leave()
    await eventually(lambda: len(hub.registry) == channels)
    assert len(hub.connections) == 0


async def test_resubscribing_to_a_leaving_channel_starts_afresh(hub: Hub, join: Any) -> None:
    member = await join("public:again")
    for turn in range(20):
        member.say(
            {"id": 10 + 2 * turn, "unsubscribe": {"channel": "public:again"}},
            {"id": 11 + 2 * turn, "subscribe": {"channel": "public:again"}},
        )
    await eventually(lambda: member.lines[-1].get("id") == 49)
    receipt = await apublish("public:again", 1)
    await eventually(lambda: member.offsets() == [receipt.offset])
    assert member.lines[-2]["subscribe"]["offset"] == receipt.offset - 1


async def test_a_burst_is_one_frame_and_in_order(hub: Hub, node: Node, join: Any) -> None:
    from realtime.core.publication import Publication

    member = await join("public:burst")
    publication = Publication.of("public:burst", 1)
    await node.broker.publish_many([publication] * 100)
    await eventually(lambda: len(member.offsets()) == 100)
    assert member.offsets() == list(range(1, 101))


async def test_ten_thousand_listeners_do_not_stall_the_loop(hub: Hub, join: Any) -> None:
    """Each iteration of the loop gets at most one slice of the delivery."""
    from realtime.delivery.listeners import Listener

    member = await join("public:crowd")
    channel = hub.registry.get("public:crowd")
    assert channel is not None
    writer = member.conversation.writer
    for _ in range(9_999):
        channel.listeners[Listener(writer)] = None
    turns = 0
    turn_of: list[int] = []
    member.heard = lambda: turn_of.append(turns)

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await apublish("public:crowd", 1)
    await eventually(lambda: len(member.offsets()) == 10_000)
    assert len(set(turn_of)) >= 10
    counting.cancel()
    for listener in [
        item for item in channel.listeners if item is not next(iter(channel.listeners))
    ]:
        del channel.listeners[listener]


async def test_a_client_that_joins_during_a_delivery_receives_only_later_ones(
    hub: Hub, join: Any
) -> None:
    from realtime.delivery.listeners import Listener

    member, late = await join("public:during"), await join()
    channel = hub.registry.get("public:during")
    assert channel is not None
    extra = [Listener(member.conversation.writer) for _ in range(5_000)]
    channel.listeners.update(dict.fromkeys(extra))
    await apublish("public:during", "first")
    await eventually(lambda: member.offsets())
    assert len(member.offsets()) < 5_001
    late.say({"id": 2, "subscribe": {"channel": "public:during"}})
    assert late.lines[-1]["subscribe"]["offset"] == 1
    await apublish("public:during", "second")
    await eventually(lambda: late.offsets() == [2])
    for listener in extra:
        channel.listeners.pop(listener)


async def test_an_unused_hub_goes_idle_and_wakes_up(node: Node) -> None:
    hub = node.running_hub()
    await eventually(lambda: hub.live)
    hub.idleness.rest_after_seconds = 0
    await eventually(lambda: not hub.is_started)
    assert node.running_hub() is hub
    await eventually(lambda: hub.live)


async def test_a_hub_does_not_rest_while_a_client_is_being_admitted(node: Node) -> None:
    """Its session is looked up first; a hub that rested meanwhile left the client without it."""
    hub = node.running_hub()
    await eventually(lambda: hub.live)
    assert hub.connections.enter("192.0.2.1") is None
    hub.idleness.rest_after_seconds = 0
    ticks = count_ticks(hub)
    await eventually(lambda: len(ticks) >= 2)
    assert hub.is_started
    hub.connections.leave("192.0.2.1")
    await eventually(lambda: not hub.is_started)


async def test_a_hub_that_is_probed_does_not_rest(node: Node, caplog: Any) -> None:
    """On a server without a lifespan, a probe every ten seconds never found the hub live."""
    hub = node.probed_hub()
    await eventually(lambda: hub.live)
    hub.idleness.rest_after_seconds = 0
    ticks = count_ticks(hub)
    await eventually(lambda: len(ticks) >= 2)
    assert hub.live
    hub.keep_running(0)
    await eventually(lambda: not hub.is_started)
    [told] = [each for each in caplog.messages if "no lifespan event" in each]
    assert "asgi.py" in told


def count_ticks(hub: Hub) -> list[float]:
    """Return a list to which each tick of the heartbeat appends its time."""
    ticks: list[float] = []
    renew = hub.subscriber.renew

    def counted(now: float) -> None:
        renew(now)
        ticks.append(now)

    hub.subscriber.renew = counted  # type: ignore[method-assign]
    return ticks


async def test_stopping_notifies_every_connection_and_leaves_no_task(node: Node) -> None:
    before = asyncio.all_tasks()
    hub = node.hub
    hub.start()
    await eventually(lambda: hub.live)
    member = Member(hub)
    await eventually(lambda: member.conversation)
    await node.aclose()
    await eventually(lambda: asyncio.all_tasks() == before)
    assert len(hub.connections) == 0


async def test_draining_ends_as_soon_as_all_connections_have_closed(hub: Hub, join: Any) -> None:
    for _ in range(5):
        await join()
    await in_time(hub.drain(10), 2)
    assert len(hub.connections) == 0


async def test_a_connection_that_has_left_is_freed_without_the_collector(
    hub: Hub, join: Any
) -> None:
    """It must not be in a reference cycle: full collections are rare (`notifier.server`)."""

    def conversations() -> int:
        return sum(isinstance(each, Conversation) for each in gc.get_objects())

    gc.collect()
    before = conversations()
    gc.disable()
    try:
        for channel in ("public:gone", "chat:gone"):
            member = await join(channel)
            assert conversations() == before + 1
            await member.leave()
            member.conversation = None
            await eventually(lambda: conversations() == before)
    finally:
        gc.enable()
