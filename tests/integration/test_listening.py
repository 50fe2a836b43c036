"""The Python client against misbehaving servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from realtime.client.events import (
    Event,
    GapFound,
    ListeningError,
    Live,
    MessageReceived,
    NotLive,
    Published,
    Reconnecting,
)
from realtime.client.listening import RETRY_FIRST_SECONDS, ListeningClient, websocket_url
from realtime.client.tracker import MissedPublications
from realtime.core.positions import Gap, Position
from realtime.errors import BrokerUnavailable
from tests.support.machine import in_time, within

EPOCH = "e" * 16
Script = Callable[["Peer"], Awaitable[None]]
Identify = Callable[[], Awaitable[tuple[str, list[str]]]]


class Peer:
    """The server's end of one connection, which sends what the test wants."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def commands(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in str(await self.socket.recv()).split("\n")]

    async def say(self, *messages: Any) -> None:
        await self.socket.send("\n".join(map(json.dumps, messages)))

    async def welcome(self, offset: int = 0, epoch: str = EPOCH) -> None:
        """Answer connect and subscribe, and report that the node is live."""
        connect, subscribe = await self.commands()
        await self.say(
            {"id": connect["id"], "connect": {"client": "x", "ping": 25, "pong": True}},
            {"push": {"state": {"live": True}}},
            {"id": subscribe["id"], "subscribe": {"epoch": epoch, "offset": offset}},
        )

    async def publish(self, offset: int, data: Any = None, **more: Any) -> None:
        await self.say({"push": {"channel": "c", "pub": {"data": data, "offset": offset} | more}})


@asynccontextmanager
async def listening(
    *scripts: Script, identify: Identify | None = None, **options: Any
) -> AsyncIterator[asyncio.Queue[Event]]:
    """Run a listener with one server script for each connection; return its events."""
    waiting = list(scripts)

    async def handle(socket: ServerConnection) -> None:
        with suppress(Exception):
            await waiting.pop(0)(Peer(socket))

    events: asyncio.Queue[Event] = asyncio.Queue()
    async with serve(handle, "127.0.0.1", 0, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        listener = ListeningClient(
            f"http://127.0.0.1:{port}",
            ["c"],
            events.put_nowait,
            identify=identify,
            jitter=lambda: 0.01,
        )
        task = asyncio.create_task(listener.run())
        events.task = task  # type: ignore[attr-defined]
        try:
            yield events
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, ListeningError):
                await task


async def the_next(events: asyncio.Queue[Event], kind: type[Event]) -> Any:
    async with within(5):
        event = await events.get()
    assert type(event) is kind, event
    return event


async def stay(peer: Peer) -> None:
    await peer.welcome()
    await peer.socket.wait_closed()


async def test_the_listener_is_live_when_every_channel_is_subscribed() -> None:
    async with listening(stay) as events:
        assert await the_next(events, Live) == Live({"c": Position(EPOCH, 0)})


async def test_the_listener_answers_a_ping_at_once() -> None:
    answered = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.say({})
        assert await peer.socket.recv() == "{}"
        answered.set()
        await peer.socket.wait_closed()

    async with listening(script), within(5):
        await answered.wait()


async def test_the_listener_reconnects_and_reports_the_gap() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome(5)
        await peer.publish(6, "x", tags={"a": "b"})
        await peer.socket.close(3001, "shutdown")

    async def second(peer: Peer) -> None:
        await peer.welcome(9)
        await peer.publish(10)
        await peer.socket.wait_closed()

    async with listening(first, second) as events:
        await the_next(events, Live)
        published = await the_next(events, Published)
        assert published == Published("c", Position(EPOCH, 6), "x", {"a": "b"})
        assert (await the_next(events, Reconnecting)).reason == "shutdown (3001)"
        expected = GapFound("c", MissedPublications(Gap(EPOCH, 7, 9), "reconnect"))
        assert await the_next(events, GapFound) == expected
        assert await the_next(events, Live) == Live({"c": Position(EPOCH, 9)})
        assert (await the_next(events, Published)).position.offset == 10


async def test_the_listener_reports_gaps_and_outages() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(5)
        await peer.say({"push": {"state": {"live": False, "reason": "broker"}}})
        gap = {"epoch": EPOCH, "from": 6, "to": None, "reason": "broker"}
        await peer.say({"push": {"channel": "c", "gap": gap}})
        await peer.say({"push": {"state": {"live": True}}})
        await peer.publish(1, epoch="f" * 16)
        await peer.socket.wait_closed()

    async with listening(script) as events:
        await the_next(events, Live)
        assert await the_next(events, NotLive) == NotLive("broker")
        assert (await the_next(events, GapFound)).missed == MissedPublications(
            Gap(EPOCH, 6, None), "broker"
        )
        await the_next(events, Live)
        assert (await the_next(events, Published)).position == Position("f" * 16, 1)


async def test_the_listener_is_not_live_while_its_channel_is_not() -> None:
    """The master of some channels of a cluster may be away; another channel is not ours."""

    async def script(peer: Peer) -> None:
        await peer.welcome(5)
        await peer.say({"push": {"channel": "other", "state": {"live": False}}})
        await peer.say({"push": {"channel": "c", "state": {"live": False, "reason": "broker"}}})
        await peer.say({"push": {"channel": "c", "state": {"live": True}}})
        await peer.say({"push": {"channel": "c", "state": {"live": False, "reason": "broker"}}})
        await peer.say({"push": {"state": {"live": True}}})
        await peer.socket.wait_closed()

    async with listening(script) as events:
        for kind in (Live, NotLive, Live, NotLive, Live):
            await the_next(events, kind)


async def test_a_temporarily_refused_subscribe_is_repeated_when_live() -> None:
    async def script(peer: Peer) -> None:
        connect, subscribe = await peer.commands()
        await peer.say(
            {"id": connect["id"], "connect": {}},
            {"push": {"state": {"live": False, "reason": "broker"}}},
            {"id": subscribe["id"], "error": {"code": 100, "message": "x", "temporary": True}},
            {"push": {"state": {"live": True}}},
        )
        [again] = await peer.commands()
        await peer.say({"id": again["id"], "subscribe": {"epoch": EPOCH, "offset": 3}})
        await peer.socket.wait_closed()

    async with listening(script) as events:
        await the_next(events, NotLive)
        assert await the_next(events, Live) == Live({"c": Position(EPOCH, 3)})


# --- as a user ---


def served(channel: str, offset: int = 0) -> dict[str, Any]:
    return {"push": {"channel": channel, "subscribe": {"epoch": EPOCH, "offset": offset}}}


async def test_a_listener_with_a_token_leaves_its_subscriptions_to_the_service() -> None:
    """One that the service interrupts comes back with the next connection, and so does its gap."""
    answers = iter([BrokerUnavailable("Redis"), ("one", ["c", "d"]), ("two", ["c"])])

    async def identify() -> tuple[str, list[str]]:
        answer = next(answers)
        if isinstance(answer, BrokerUnavailable):
            raise answer
        return answer

    async def first(peer: Peer) -> None:
        [connect] = await peer.commands()
        assert connect["connect"]["token"] == "one"
        await peer.say({"id": 1, "connect": {}}, {"push": {"state": {"live": True}}}, served("c"))
        await peer.say(served("d"), {"push": {"message": {"data": 7}}})
        await peer.say({"push": {"channel": "d", "unsubscribe": {"code": 2000, "reason": "x"}}})
        await peer.say(served("e"))
        await peer.say({"push": {"channel": "c", "unsubscribe": {"code": 2501, "reason": "y"}}})
        await peer.socket.wait_closed()

    async def second(peer: Peer) -> None:
        [connect] = await peer.commands()
        assert connect["connect"]["token"] == "two"
        await peer.say(
            {"id": 1, "connect": {}}, served("c", 2), {"push": {"state": {"live": True}}}
        )
        await peer.socket.wait_closed()

    async with listening(first, second, identify=identify) as events:
        assert (await the_next(events, Reconnecting)).reason == "Redis"
        start = Position(EPOCH, 0)
        assert await the_next(events, Live) == Live({"c": start, "d": start})
        assert await the_next(events, MessageReceived) == MessageReceived(7)
        assert await the_next(events, Live) == Live({"c": start, "e": start})
        assert (await the_next(events, Reconnecting)).reason == "the service interrupted c: y"
        assert (await the_next(events, GapFound)).missed.gap == Gap(EPOCH, 1, 2)
        assert await the_next(events, Live) == Live({"c": Position(EPOCH, 2)})


async def ended(events: asyncio.Queue[Event]) -> str:
    with pytest.raises(ListeningError) as caught:
        await in_time(events.task, 5)  # type: ignore[attr-defined]
    return str(caught.value)


async def test_a_refused_channel_ends_the_listener() -> None:
    async def script(peer: Peer) -> None:
        _, subscribe = await peer.commands()
        await peer.say({"id": subscribe["id"], "error": {"code": 103, "message": "no\x1b"}})
        await peer.socket.wait_closed()

    async with listening(script) as events:
        assert "subscription to c: no\\x1b (103)" in await ended(events)


@pytest.mark.parametrize("code", [3500, 3999, 4500, 4999, 1009])
async def test_permanent_close_codes_end_the_listener(code: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.close(code, "why")

    async with listening(script) as events:
        assert f"why ({code})" in await ended(events)


async def test_a_permanent_disconnect_push_ends_the_listener() -> None:
    """The service sends it before it closes, and the listener came back again and again."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.say({"push": {"disconnect": {"code": 3503, "reason": "force disconnect"}}})
        await peer.socket.wait_closed()

    async with listening(script) as events:
        assert "force disconnect (3503)" in await ended(events)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3001, 3499, 4000, 4499])
async def test_temporary_close_codes_make_the_listener_reconnect(code: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.close(code, "why")

    async with listening(script, stay) as events:
        assert f"({code})" in (await the_next(events, Reconnecting)).reason
        await the_next(events, Live)


@pytest.mark.parametrize(
    "frame",
    [
        b"{}",
        "hello",
        "[]",
        '{"push":{"channel":"c","pub":{"data":1}}}',
        '{"push":{"channel":"c","pub":{"data":1,"offset":"1"}}}',
        '{"push":{"channel":"c","gap":{}}}',
        '{"push":' + "[" * 5000,
        '{"error":{"code":107,"message":"bad request"}}',
        '{"push":{"disconnect":{"code":3001,"reason":"x"}}}',
        "x" * (2 * 1024 * 1024),
    ],
)
async def test_an_unreadable_frame_ends_only_the_connection(frame: Any) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.socket.send(frame)
        await peer.socket.wait_closed()

    async with listening(script, stay) as events:
        await the_next(events, Live)
        await the_next(events, Reconnecting)
        await the_next(events, Live)


@pytest.mark.parametrize(
    "line",
    [
        '{"push":{"channel":"d","pub":{"data":1,"offset":1}}}',
        '{"push":{"channel":"c","join":{}}}',
        '{"push":{}}',
        '{"id":99}',
    ],
)
async def test_unknown_messages_of_a_newer_server_are_ignored(line: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.socket.send(line)
        await peer.publish(1)
        await peer.socket.wait_closed()

    async with listening(script) as events:
        await the_next(events, Live)
        await the_next(events, Published)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426])
async def test_an_http_refusal_ends_the_listener(status: int) -> None:
    def refuse(connection: ServerConnection, request: Any) -> Any:
        return connection.respond(HTTPStatus(status), "no")

    async with listening(process_request=refuse) as events:
        assert str(status) in await ended(events)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_an_http_failure_is_retried(status: int) -> None:
    def refuse(connection: ServerConnection, request: Any) -> Any:
        return connection.respond(HTTPStatus(status), "no")

    async with listening(process_request=refuse) as events:
        for _ in range(3):
            assert str(status) in (await the_next(events, Reconnecting)).reason


async def test_the_back_off_has_full_jitter_and_doubles() -> None:
    drawn = iter([0.0, 1e-4, 1e-4, 1e-4])
    events: asyncio.Queue[Event] = asyncio.Queue()
    listener = ListeningClient(
        "http://127.0.0.1:1", ["c"], events.put_nowait, jitter=lambda: next(drawn)
    )
    task = asyncio.create_task(listener.run())
    waits = [(await the_next(events, Reconnecting)).seconds for _ in range(4)]
    task.cancel()
    assert waits == pytest.approx([RETRY_FIRST_SECONDS * n for n in (0, 2e-4, 4e-4, 8e-4)])


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://h", "ws://h/connection/websocket"),
        ("https://h:8443/", "wss://h:8443/connection/websocket"),
        ("ws://h/x", "ws://h/x"),
        ("WSS://h/x?y=z#f", "wss://h/x?y=z"),
        ("http://[::1]:8000", "ws://[::1]:8000/connection/websocket"),
    ],
)
def test_service_addresses_become_websocket_urls(given: str, url: str) -> None:
    assert websocket_url(given) == url


@pytest.mark.parametrize("wrong", ["http://h:0", "ws://h:65536/x", "http://", "ftp://h", "h:8000"])
def test_an_invalid_address_is_refused(wrong: str) -> None:
    with pytest.raises(ListeningError, match="is not a URL"):
        websocket_url(wrong)
