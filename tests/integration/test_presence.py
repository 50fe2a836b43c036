"""Presence with a real Redis: queries, joins and leaves, and expiry."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from realtime.brokers.redis import RedisBroker
from realtime.core.identity import Identity
from realtime.core.members import (
    ANSWER_BYTES,
    MEMBERS_BYTES,
    MEMBERS_LIMIT,
    Member,
    MemberUpdate,
    TooManyMembers,
)
from realtime.delivery.hub import Hub
from realtime.errors import BrokerUnavailable
from realtime.wiring import Node
from tests.support.eventually import eventually
from tests.support.member import Member as Connection
from tests.support.redis_server import RedisServer

NAMESPACES = {
    "seen": {
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": True,
        "presence": True,
        "join_leave": True,
        "allow_presence_for_subscriber": True,
        "allow_presence_for_anonymous": True,
    },
    "known": {
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": True,
        "presence": True,
        "allow_presence_for_client": True,
    },
    "forced": {
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": True,
        "join_leave": True,
        "force_push_join_leave": True,
    },
    "hidden": {
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": True,
        "presence": True,
        "join_leave": True,
    },
    "secret": {
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": True,
        "presence": True,
    },
}


@pytest.fixture(autouse=True)
def namespaces(settings: Any, wired: str) -> None:
    settings.REALTIME_NAMESPACES = NAMESPACES


class Person(Connection):
    """A connection that subscribes, sends queries and waits for replies."""

    _id = 100

    async def ask(self, **command: Any) -> Any:
        self._id += 1
        asked = self._id
        self.say({"id": asked, **command})
        await eventually(lambda: self.reply(asked) is not None)
        return self.reply(asked)

    def reply(self, asked: int) -> Any:
        return next((line for line in self.lines if line.get("id") == asked), None)

    async def subscribe(self, channel: str, *, join_leave: bool = True) -> None:
        asked = {"channel": channel, "join_leave": join_leave}
        assert "subscribe" in await self.ask(subscribe=asked)

    async def presence(self, channel: str) -> dict[str, Any]:
        reply = await self.ask(presence={"channel": channel})
        found: dict[str, Any] = reply["presence"]["presence"]
        return found

    async def numbers(self, channel: str) -> tuple[int, int]:
        stats = (await self.ask(presence_stats={"channel": channel}))["presence_stats"]
        return stats["num_clients"], stats["num_users"]

    def users(self, kind: str) -> list[str]:
        return [push["info"]["user"] for push in self.pushes(kind)]


@pytest.fixture
async def come(hub: Hub) -> AsyncIterator[Any]:
    people: list[Person] = []

    async def open_person(user: str = "", at: Hub = hub) -> Person:
        person = Person(at, Identity(user, info='{"name":"N"}' if user else ""))
        people.append(person)
        await eventually(lambda: person.conversation)
        person.say({"id": 1, "connect": {}})
        await eventually(lambda: person.lines)
        return person

    yield open_person
    for person in people:
        await person.leave()


async def other_node(**options: Any) -> Node:
    node = Node()
    node.hub.start()
    await eventually(lambda: node.hub.live)
    return node


async def test_a_subscriber_sees_the_members(come: Any) -> None:
    ada, ben = await come("ada"), await come("ben")
    await ada.subscribe("seen:room")
    await ben.subscribe("seen:room")
    found = await ada.presence("seen:room")
    clients = {ada.conversation.client, ben.conversation.client}
    assert found.keys() == clients
    shown = found[ben.conversation.client]
    assert shown == {
        "user": "ben",
        "client": ben.conversation.client,
        "conn_info": {"name": "N"},
    }
    assert await ben.numbers("seen:room") == (2, 2)


async def test_a_client_that_asks_at_once_sees_itself(come: Any) -> None:
    """All in one frame, like an SDK after a reconnect."""
    ada = await come("ada")
    ada.say(
        {"id": 2, "subscribe": {"channel": "seen:room"}},
        {"id": 3, "presence": {"channel": "seen:room"}},
        {"id": 4, "presence_stats": {"channel": "seen:room"}},
    )
    await eventually(lambda: ada.reply(4))
    assert list(ada.reply(3)["presence"]["presence"]) == [ada.conversation.client]
    assert ada.reply(4)["presence_stats"] == {"num_clients": 1, "num_users": 1}


async def test_joins_and_leaves_are_sent_to_clients_that_request_them(come: Any) -> None:
    ada, ben, eve = await come("ada"), await come("ben"), await come("eve")
    await ada.subscribe("seen:room")
    await eve.subscribe("seen:room", join_leave=False)
    await ben.subscribe("seen:room")
    await eventually(lambda: ada.users("join") == ["ada", "eve", "ben"])
    await ben.leave()
    await eventually(lambda: ada.users("leave") == ["ben"])
    assert ada.pushes("leave")[0]["info"]["client"] == ben.conversation.client
    assert (eve.users("join"), eve.users("leave")) == ([], [])
    remaining = {ada.conversation.client, eve.conversation.client}
    assert set(await ada.presence("seen:room")) == remaining  # Redis has no order in a hash


async def test_a_namespace_can_send_joins_to_every_subscriber(come: Any) -> None:
    ada, ben = await come("ada"), await come("ben")
    await ada.subscribe("forced:room", join_leave=False)
    await ben.subscribe("forced:room", join_leave=False)
    await eventually(lambda: ada.users("join") == ["ada", "ben"])


async def test_several_tabs_are_one_user(come: Any) -> None:
    tabs = [await come("ada") for _ in range(3)]
    for tab in tabs:
        await tab.subscribe("seen:room")
    assert await tabs[0].numbers("seen:room") == (3, 1)
    await tabs[1].leave()
    assert await tabs[0].numbers("seen:room") == (2, 1)


async def test_a_member_that_leaves_within_a_moment_is_not_announced(come: Any) -> None:
    ada, ben = await come("ada"), await come("ben")
    await ada.subscribe("seen:room")
    await eventually(lambda: ada.users("join") == ["ada"])
    for _ in range(20):
        await ben.subscribe("seen:room")
        await ben.ask(unsubscribe={"channel": "seen:room"})
    assert await ada.numbers("seen:room") == (1, 1)
    await ben.subscribe("seen:room")
    await eventually(lambda: len(ada.users("join")) == len(ada.users("leave")) + 2)


@pytest.mark.parametrize("method", ["presence", "presence_stats"])
async def test_presence_requires_permission(come: Any, method: str) -> None:
    ada = await come("ada")
    for channel in ("seen:room", "nowhere:room"):  # not subscribed; no such namespace
        assert (await ada.ask(**{method: {"channel": channel}}))["error"]["code"] == 103
    await ada.subscribe("secret:room")
    assert (await ada.ask(**{method: {"channel": "secret:room"}}))["error"]["code"] == 103


async def test_a_client_that_is_refused_presence_asks_for_joins(come: Any) -> None:
    """The joins and leaves revealed the same names and the same `info`."""
    eve, ada = await come("eve"), await come("ada")
    await eve.subscribe("hidden:room")
    assert (await eve.ask(presence={"channel": "hidden:room"}))["error"]["code"] == 103
    await ada.subscribe("hidden:room")
    await ada.leave()
    await eve.subscribe("seen:room")
    await eventually(lambda: eve.pushes("join"))
    heard = {push["channel"] for kind in ("join", "leave", "presence") for push in eve.pushes(kind)}
    assert heard == {"seen:room"}


async def test_presence_is_refused_after_unsubscribing(come: Any) -> None:
    ada = await come("ada")
    await ada.subscribe("seen:room")
    ada.say(
        {"id": 7, "unsubscribe": {"channel": "seen:room"}},
        {"id": 8, "presence": {"channel": "seen:room"}},
    )
    await eventually(lambda: ada.reply(8))
    assert ada.reply(8)["error"]["code"] == 103


async def test_two_nodes_share_the_members_of_a_channel(come: Any, hub: Hub) -> None:
    second = await other_node()
    try:
        ada, ben = await come("ada"), await come("ben", second.hub)
        await ada.subscribe("seen:room")
        await ben.subscribe("seen:room")
        await eventually(lambda: ada.users("join") == ["ada", "ben"])
        assert len(await ada.presence("seen:room")) == 2
        assert await ben.numbers("seen:room") == (2, 2)
        await ben.leave()
        await eventually(lambda: ada.users("leave") == ["ben"])
    finally:
        await second.aclose()


async def test_the_members_of_a_stopping_node_leave_at_once(come: Any, hub: Hub) -> None:
    second = await other_node()
    ada, ben = await come("ada"), await come("ben", second.hub)
    await ada.subscribe("seen:room")
    await ben.subscribe("seen:room")
    await eventually(lambda: ada.users("join") == ["ada", "ben"])
    await second.aclose()
    await eventually(lambda: ada.users("leave") == ["ben"], seconds=2)
    assert await ada.numbers("seen:room") == (1, 1)


async def test_the_members_of_a_frozen_node_expire_and_return(
    come: Any, node: Node, wired: str, redis_server: RedisServer
) -> None:
    ada, ben = await come("ada"), await come("ben")
    await ada.subscribe("seen:room")
    await ben.subscribe("seen:room")
    await eventually(lambda: ada.users("join") == ["ada", "ben"])
    with redis_server.client() as client:
        [name] = client.zrange(f"{wired}:{{0}}:nodes", 0, -1)
    # As another node does after the lease has expired; the next renewal detects it.
    assert not await node.broker.presence.sweep(name.decode(), is_leaving=True)
    # Redis has no order in a hash.
    await eventually(lambda: sorted(ada.users("leave")) == ["ada", "ben"])
    await eventually(lambda: sorted(ada.users("join")) == ["ada", "ada", "ben", "ben"])
    assert await ada.numbers("seen:room") == (2, 2)


async def test_a_full_redis_keeps_the_members(wired: str, own_redis: RedisServer) -> None:
    """After six seconds, all nodes had lost their leases, and every channel seemed empty."""
    broker = RedisBroker(own_redis.url, prefix=wired)
    nodes = broker.presence
    here, one, two = f"{wired}:{{0}}:here:seen:room", member(1), member(2)
    assert (await nodes.lease("a1", is_new=True)).is_known
    await nodes.change("a1", [MemberUpdate("seen:room", {one.client: one}, False, True)])
    client = own_redis.client()
    client.config_set("maxmemory", "1")
    with pytest.raises(BrokerUnavailable):
        await nodes.change("a1", [MemberUpdate("seen:room", {two.client: two}, False, True)])
    # One who comes and one who leaves, in one update.
    both = {one.client: None, two.client: two}
    await nodes.change("a1", [MemberUpdate("seen:room", both, False, True)])
    assert client.hkeys(here) == [two.client.encode()]
    assert (await nodes.lease("a1", is_new=False)).is_known
    assert await nodes.keep("a1", ["seen:room"]) == []
    assert client.hlen(here) == 1
    assert not await nodes.sweep("a1", is_leaving=True)
    assert not client.exists(here)
    await broker.aclose()


async def test_members_that_redis_lost_are_written_again(
    come: Any, node: Node, wired: str, redis_server: RedisServer
) -> None:
    ada = await come("ada")
    await ada.subscribe("seen:room")
    assert await ada.numbers("seen:room") == (1, 1)
    with redis_server.client() as client:
        client.delete(f"{wired}:{{0}}:here:seen:room", f"{wired}:{{0}}:users:seen:room")
    node.hub.presence._writer._renew_at = 0.0
    node.hub.presence._writer._wake.set()

    async def is_back() -> bool:
        return await ada.numbers("seen:room") == (1, 1)

    await eventually(is_back)


async def test_a_storm_of_joins_is_reported_as_a_count(come: Any, hub: Hub) -> None:
    """300 members join at the same time: 300 × 300 pushes would be 90,000."""
    ada = await come("ada")
    await ada.subscribe("seen:hall")
    crowd = await asyncio.gather(*(come(f"user-{n}") for n in range(300)))
    for person in crowd:
        person.say({"id": 2, "subscribe": {"channel": "seen:hall", "join_leave": True}})
    await eventually(lambda: all(person.reply(2) for person in crowd))
    await eventually(lambda: counted(ada) == 301, seconds=10)
    pushes = sum(len(person.pushes("join")) for person in [ada, *crowd])
    assert pushes < 45_000
    told = ada.pushes("presence")[-1]
    assert (told["num_clients"], told["num_users"]) == (301, 301)
    assert len(await ada.presence("seen:hall")) == 301


def counted(person: Person) -> int:
    """Return how many joins a client received, by name or as a count."""
    return len(person.users("join")) + sum(p["untold"] or 0 for p in person.pushes("presence"))


async def test_concurrent_presence_requests_share_one_query(
    come: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = await asyncio.gather(*(come(f"user-{n}") for n in range(50)))
    for person in crowd:
        await person.subscribe("seen:hall")
    await eventually(lambda: len(crowd[0].users("join")) == 50)
    read: list[str] = []
    presence = crowd[0].conversation._node.presence._presence
    members = presence.members

    async def noted(channel: str, *limits: int) -> dict[str, str]:
        read.append(channel)
        return await members(channel, *limits)

    monkeypatch.setattr(presence, "members", noted)
    monkeypatch.setattr("realtime.delivery.presence_announcer.ANSWER_REUSE_SECONDS", 600)
    answers = await asyncio.gather(*(person.presence("seen:hall") for person in crowd))
    assert all(len(found) == 50 for found in answers)
    # The first reply may have been read before the node learned of the last join.
    assert len(read) <= 2


@pytest.fixture
async def broker(redis_server: RedisServer) -> AsyncIterator[RedisBroker]:
    made = RedisBroker(redis_server.url, prefix=f"test-{secrets.token_hex(4)}")
    yield made
    await made.aclose()


def member(number: int) -> Member:
    client, user = f"{number:08x}", f"user-{number}"
    return Member(client, user, f'{{"user":"{user}","client":"{client}"}}')


async def test_too_many_members_are_only_counted(broker: RedisBroker) -> None:
    presence, number = broker.presence, 0
    await presence.lease("aa", is_new=True)
    while number <= MEMBERS_LIMIT:
        some = {one.client: one for one in map(member, range(number, number + 500))}
        await presence.change(
            "aa", [MemberUpdate("hall", some, is_announced=False, has_members=True)]
        )
        number += 500
    [headcount] = (await presence.headcounts(["hall"])).values()
    assert headcount == (number, number)
    with pytest.raises(TooManyMembers):
        await presence.members("hall")


def described(number: int) -> Member:
    """A member with the largest `info` that a token allows (4 KiB)."""
    client, user = f"{number:08x}", f"user-{number}"
    info = f'{{"user":"{user}","client":"{client}","conn_info":"{"x" * 4000}"}}'
    return Member(client, user, info)


async def crowd(presence: Any, channel: str, number: int) -> None:
    await presence.lease("aa", is_new=True)
    for start in range(0, number, 50):
        some = {one.client: one for one in map(described, range(start, start + 50))}
        await presence.change(
            "aa", [MemberUpdate(channel, some, is_announced=False, has_members=True)]
        )


async def test_members_are_read_only_up_to_the_limit_of_the_answer(
    broker: RedisBroker, redis_server: RedisServer
) -> None:
    """Each query for 200 members of 4 KiB moved 785 KiB from Redis before it was refused."""
    await crowd(broker.presence, "hall", 200)
    with redis_server.client() as client:
        before = client.info("stats")["total_net_output_bytes"]
        with pytest.raises(TooManyMembers, match="200 members"):
            await broker.presence.members("hall", ANSWER_BYTES)
        read = client.info("stats")["total_net_output_bytes"] - before
    assert read < 64 * 1024, "what INFO itself says, and a number"
    assert len(await broker.presence.members("hall", MEMBERS_BYTES)) == 200


async def test_a_client_asks_again_and_again_for_a_long_list(
    come: Any, node: Node, hub: Hub
) -> None:
    """Queries are work: 16 KiB of members cost as much as a command, and a flood is closed."""
    ada = await come("ada")
    await ada.subscribe("seen:hall")
    await crowd(node.broker.presence, "seen:hall", 100)  # 400 KiB: 25 commands
    said = []
    for _ in range(20):
        reply = await ada.ask(presence={"channel": "seen:hall"})
        said.append(reply.get("error", {}).get("code", 0))
        while ada.conversation.writer.pong():
            continue  # it reads what it asks for
    assert set(said[:8]) == {0}
    assert 111 in said, "each is 26 commands, and 256 may be said at once"
    assert hub.reached.counts["commands_per_second"] >= 1


async def test_a_client_asks_for_many_long_lists_in_one_frame(
    come: Any, node: Node, hub: Hub, redis_server: RedisServer
) -> None:
    """Each was counted when it was read, and paid for only after all had been carried out."""
    ada, channels = await come("ada"), [f"known:hall{number}" for number in range(60)]
    for channel in channels:
        await crowd(node.broker.presence, channel, 50)  # 200 KiB: 12 commands
    with redis_server.client() as client:
        before = client.info("stats")["total_net_output_bytes"]
        asked = [{"id": 500 + n, "presence": {"channel": c}} for n, c in enumerate(channels)]
        ada.say(*asked)

        def has_read_all() -> bool:
            while ada.conversation.writer.pong():
                continue
            return ada.reply(559) is not None

        await eventually(has_read_all)
        read = client.info("stats")["total_net_output_bytes"] - before
    codes = [ada.reply(500 + n).get("error", {}).get("code", 0) for n in range(60)]
    assert codes.count(0) <= 256 // 12 + 1
    assert codes[-1] == 111
    assert read < 8 * 1024 * 1024, "60 of them would be 12 MiB"
    assert hub.reached.counts["commands_per_second"] >= 1


async def test_queries_that_wait_for_redis_share_one_task(
    come: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that was full left a task a second for each channel that clients asked about."""
    ada = await come("ada")
    await ada.subscribe("seen:hall")
    monkeypatch.setattr("realtime.delivery.presence_announcer.ANSWER_REUSE_SECONDS", 0.0)
    written = asyncio.Event()

    async def wait_until_written(channel: str) -> None:
        await written.wait()

    monkeypatch.setattr(hub.presence._writer, "wait_until_written", wait_until_written)
    before = asyncio.all_tasks()
    asking = [asyncio.create_task(hub.presence.members("seen:hall")) for _ in range(5)]
    for _ in range(3):
        await asyncio.sleep(0)
        hub.presence._invalidate("seen:hall")
    assert len(asyncio.all_tasks() - before - set(asking)) == 1
    written.set()
    assert len({*await asyncio.gather(*asking)}) == 1


async def test_those_who_missed_a_join_are_told_after_an_error(
    come: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were forgotten, and their lists stayed wrong without a word."""
    await come("ada")
    behind = {object(): hub.registry.get(next(iter(hub.registry)).name)}

    async def fail(channels: list[str]) -> Any:
        raise BrokerUnavailable("for a moment")

    monkeypatch.setattr(hub.presence._presence, "headcounts", fail)
    hub.fanout.note_behind(behind)  # type: ignore[arg-type]
    with pytest.raises(BrokerUnavailable):
        await hub.presence._update_those_behind()
    assert hub.fanout.take_behind() == behind


async def test_an_anonymous_client_asks_for_presence(come: Any) -> None:
    """`allow_presence_for_client` is for clients with an identity, as in Centrifugo."""
    stranger, ada = await come(), await come("ada")
    for asked in ("presence", "presence_stats"):
        await stranger.subscribe("known:room")
        assert (await stranger.ask(**{asked: {"channel": "known:room"}}))["error"]["code"] == 103
        assert asked in await ada.ask(**{asked: {"channel": "known:room"}}), "not subscribed"
        await stranger.ask(unsubscribe={"channel": "known:room"})


async def test_members_of_a_node_without_a_lease_are_ignored(broker: RedisBroker) -> None:
    presence = broker.presence
    for name, number in (("aa", 1), ("bb", 2)):
        one = member(number)
        await presence.lease(name, is_new=True)
        await presence.change(name, [MemberUpdate("hall", {one.client: one}, True, True)])
    assert await presence.sweep("bb") is False  # it lives
    assert len(await presence.members("hall")) == 2
    await presence._run_script(*_without_lease(broker, "bb"))
    assert list(await presence.members("hall")) == [member(1).client]
    assert await presence.headcounts(["hall"]) == {"hall": (1, 1)}
    assert (await presence.lease("aa", is_new=False)).gone == ("bb",)
    assert await presence.sweep("bb") is False
    assert (await presence.lease("aa", is_new=False)).gone == ()
    assert not (await presence.lease("bb", is_new=False)).is_known
    assert await presence.headcounts(["hall"]) == {"hall": (1, 1)}


def _without_lease(broker: RedisBroker, name: str) -> Any:
    """Return a function that ends a lease without waiting for it."""
    from realtime.brokers.presence_commands import SCRIPTS as PRESENCE_SCRIPTS

    nodes = broker.presence._commands._nodes
    return PRESENCE_SCRIPTS.lease, [
        ("EVALSHA", PRESENCE_SCRIPTS.lease.digest, 1, nodes, name, -1000, "1", 10)
    ]


async def test_foreign_entries_are_ignored(
    come: Any, wired: str, redis_server: RedisServer
) -> None:
    ada = await come("ada")
    await ada.subscribe("seen:room")
    assert await ada.numbers("seen:room") == (1, 1)
    here = f"{wired}:{{0}}:here:seen:room"
    with redis_server.client() as client:
        mine = client.hget(here, ada.conversation.client)
        assert mine is not None
        name = mine.split(b" ")[0]
        for field, value in (("x\n", b" 0 {}"), ("abc", b' 1 a{"user":1}'), ("abf", b" 0 \xff")):
            client.hset(here, field, name + value)
        client.publish(f"{wired}:{{0}}:ch:seen:room", b"members {}")
        client.publish(f"{wired}:{{0}}:ch:seen:room", b"members \xff")
    await asyncio.to_thread(redis.Redis.ping, redis_server.client())
    await ada.ask(unsubscribe={"channel": "seen:room"})
    await ada.subscribe("seen:room")
    assert list(await ada.presence("seen:room")) == [ada.conversation.client]
