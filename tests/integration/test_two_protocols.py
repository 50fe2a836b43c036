"""Two wire protocols on one node: each push is encoded once per protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from realtime.core.publication import Publication
from realtime.delivery.conversation import Conversation
from realtime.delivery.hub import Hub
from realtime.transports.websocket import RealtimeConsumer
from tests.integration.test_steps import Site
from tests.support import plain_protocol
from tests.support.eventually import eventually
from tests.support.plain_protocol import Proofs, proof
from tests.support.redis_server import RedisServer


class PlainMember:
    """One connection with the plain protocol, whose server is this test."""

    def __init__(self, hub: Hub) -> None:
        self.frames: list[str] = []
        self.closed: int | None = None
        self._hub = hub
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self._task = asyncio.create_task(self._serve())
        self.conversation: Conversation | None = None

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.conversation = self._hub.connections.attach(
            self._send, task, protocol=self.protocol, credentials=Proofs()
        )
        try:
            await asyncio.Event().wait()
        finally:
            self.conversation.end(None)

    protocol: Any = plain_protocol

    async def _send(self, message: dict[str, Any]) -> None:
        await self.may_go_on.wait()
        if message["type"] == "websocket.close":
            self.closed = message["code"]
        elif message["text"] == plain_protocol.PING:
            asyncio.get_running_loop().call_soon(self.say, "pong")
        else:
            self.frames.append(message["text"])

    def say(self, *items: Any) -> None:
        assert self.conversation is not None
        self.conversation.receive(json.dumps(items))

    def heard(self, word: str) -> list[list[Any]]:
        said = map(json.loads, self.frames)
        return [items for first, *items in said if first == word]

    @property
    def id(self) -> str:
        [[client, *_]] = self.heard("hello")
        return str(client)

    async def leave(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
async def site(redis_server: RedisServer) -> AsyncIterator[Site]:
    site = Site(redis_server)
    await site.start()
    yield site
    await site.stop()


@pytest.fixture
async def plain(site: Site) -> PlainMember:
    member = PlainMember(site.hub)
    await eventually(lambda: member.heard("hello"))
    return member


async def test_a_client_is_greeted_before_its_first_message(plain: PlainMember) -> None:
    assert [json.loads(frame)[0] for frame in plain.frames] == ["hello", "state"]
    first, _, second = plain.id.partition(".")
    assert first.isdecimal()
    assert second.isdecimal()


async def test_each_client_receives_a_publication_in_its_own_protocol(
    site: Site, plain: PlainMember
) -> None:
    stock = await site.come()
    stock.say({"id": 2, "subscribe": {"channel": "open:a"}})
    plain.say("subscribe", "open:a", "", False, None)
    await eventually(lambda: plain.heard("subscribed"))
    await eventually(lambda: any(line.get("id") == 2 for line in stock.lines))
    for number in range(3):
        stock.say({"id": 3 + number, "publish": {"channel": "open:a", "data": number}})
    plain.say("say", "open:a", "greeting", "hello")
    await eventually(lambda: len(plain.heard("event")) == len(stock.offsets()) == 4)
    assert {tuple(items[:3]) for items in plain.heard("event")} == {
        *(("open:a", "message", number) for number in range(3)),
        ("open:a", "greeting", "hello"),
    }
    [named] = [push for push in stock.pushes("pub") if push["data"] == "hello"]
    assert named["tags"] == {"event": "greeting"}


async def test_a_burst_is_one_frame_or_many_depending_on_the_protocol(
    site: Site, plain: PlainMember
) -> None:
    stock = await site.come()
    stock.say({"id": 2, "subscribe": {"channel": "open:a"}})
    plain.say("subscribe", "open:a", "", False, None)
    await eventually(lambda: plain.heard("subscribed") and len(stock.lines) > 2)
    made = [Publication.of("open:a", number) for number in range(50)]
    await site.broker.publish_many(made)
    await eventually(lambda: len(plain.heard("event")) == len(stock.offsets()) == 50)
    assert all("\n" not in frame for frame in plain.frames)
    assert [items[4] for items in plain.heard("event")] == list(range(1, 51))


async def test_a_push_is_encoded_once_per_protocol(site: Site) -> None:
    made: list[int] = []

    def encode(*args: Any, **named: Any) -> str:
        made.append(1)
        return plain_protocol.encode_publication(*args, **named)

    counting = SimpleNamespace(**{**vars(plain_protocol), "encode_publication": encode})

    class Counted(PlainMember):
        protocol = Hashable(counting)

    members = [Counted(site.hub) for _ in range(5)]
    await eventually(lambda: all(member.heard("hello") for member in members))
    for member in members:
        member.say("subscribe", "open:a", "", False, None)
    await eventually(lambda: all(member.heard("subscribed") for member in members))
    await site.broker.publish(Publication.of("open:a", 1))
    await eventually(lambda: all(member.heard("event") for member in members))
    assert made == [1]


class Hashable:
    """A separate protocol by identity, with the functions of another one."""

    def __init__(self, functions: SimpleNamespace) -> None:
        self.__dict__.update(vars(functions))


async def test_a_closed_channel_requires_a_proof_made_for_the_connection(
    site: Site, plain: PlainMember
) -> None:
    other = PlainMember(site.hub)
    await eventually(lambda: other.heard("hello"))
    plain.say("subscribe", "club:a", "", False, None)
    plain.say("subscribe", "club:a", proof(other.id, "club:a"), False, None)
    await eventually(lambda: len(plain.heard("no")) == 2)
    assert {tuple(items[:3]) for items in plain.heard("no")} == {("Subscribe", "club:a", 103)}
    plain.say("subscribe", "club:a", proof(plain.id, "club:a"), False, None)
    await eventually(lambda: plain.heard("subscribed"))


async def test_only_refused_commands_are_answered(site: Site, plain: PlainMember) -> None:
    plain.say("ping")
    plain.say("say", "open:a", "e", 1)
    plain.say("say", "club:a", "e", 1)
    plain.say("no such word")
    plain.say("where", "open:a")
    await eventually(lambda: len(plain.heard("no")) == 3)
    assert [items[:2] for items in plain.heard("no")] == [
        ["Publish", "club:a"],
        ["Refused", ""],
        ["History", "open:a"],
    ]
    assert site.host.published == [1]
    assert {json.loads(frame)[0] for frame in plain.frames} == {"hello", "state", "no"}


async def test_members_have_ids_in_the_format_of_their_protocol(
    site: Site, plain: PlainMember
) -> None:
    stock = await site.come()
    stock.say({"id": 2, "subscribe": {"channel": "room:a", "join_leave": True}})
    await eventually(lambda: any(line.get("id") == 2 for line in stock.lines))
    plain.say("subscribe", "room:a", "", True, None)
    await eventually(lambda: plain.heard("subscribed"))
    await eventually(lambda: plain.id in [push["info"]["client"] for push in stock.pushes("join")])
    late = await site.come()
    late.say({"id": 2, "subscribe": {"channel": "room:a"}})
    await eventually(lambda: len(plain.heard("came")) >= 1)
    await plain.leave()
    await eventually(lambda: plain.id in [push["info"]["client"] for push in stock.pushes("leave")])


async def test_every_client_receives_the_node_state(
    site: Site, plain: PlainMember, redis_server: RedisServer
) -> None:
    stock = await site.come()
    await eventually(lambda: stock.pushes("state"))
    with redis_server.client() as client:
        client.client_kill_filter(_type="pubsub")
    await eventually(lambda: [push["live"] for push in stock.pushes("state")][-2:] == [False, True])
    assert plain.heard("state")[-2:] == [[False, "broker", ""], [True, None, ""]]


async def test_each_protocol_has_its_own_close_codes(site: Site, plain: PlainMember) -> None:
    site.hub.connections.close_all()
    await eventually(lambda: plain.closed)
    assert plain.closed == 4001
    assert plain.heard("bye") == [[3001, "shutdown"]]


async def test_a_slow_client_is_sent_its_gap_in_its_own_protocol(
    site: Site, plain: PlainMember
) -> None:
    plain.say("subscribe", "open:a", "", False, None)
    await eventually(lambda: plain.heard("subscribed"))
    plain.may_go_on.clear()
    for _ in range(40):
        await site.broker.publish(Publication.of("open:a", "x" * 60_000))
    plain.may_go_on.set()
    await site.broker.publish(Publication.of("open:a", "the end"))
    await eventually(lambda: any(items[2] == "the end" for items in plain.heard("event")))
    [[channel, _, first, last, reason]] = plain.heard("missed")
    assert (channel, reason) == ("open:a", "slow")
    heard = [items[4] for items in plain.heard("event")]
    assert sorted([*heard, *range(first, last + 1)]) == list(range(1, 42))


async def test_a_rejected_client_is_notified_after_accept(wired: str) -> None:
    class PlainConsumer(RealtimeConsumer):
        protocol = plain_protocol

    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "websocket", "headers": [], "query_string": b"token=secret"}
    await PlainConsumer()(scope, receive, send)
    accept, said, close = sent
    assert accept == {"type": "websocket.accept"}
    assert json.loads(said["text"])[:2] == ["bye", 400]
    assert close["code"] == 4400
