"""End-to-end delivery on both servers: from an HTTP request to WebSocket frames."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator

import pytest
import websockets

from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.service import SERVERS, Service

Attach = Callable[..., Awaitable[Client]]


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Service]:
    """One server of each kind, shared by all tests here; none of them breaks it."""
    service = Service(redis_server.url, request.param).start()
    yield service
    log = service.log
    service.stop()
    assert "Traceback" not in log, log


async def test_connect_is_answered_with_the_client_and_the_state(
    service: Service, attach: Attach
) -> None:
    client = await attach(service, connect=False)
    reply = await client.ask(connect={})
    assert reply["connect"]["ping"] == 25
    assert reply["connect"]["pong"] is True
    assert len(reply["connect"]["client"]) == 36
    assert await client.push("state") == {"live": True}


async def test_a_publication_follows_the_position_of_the_subscribe_reply(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    start = await client.subscribe("public:follows")
    assert start["positioned"] is True
    assert start["recoverable"] is False
    receipt = service.publish("public:follows", {"n": 1}, event="order.shipped", tags={"a": "b"})
    pub = await client.push("pub")
    assert pub == {
        "data": {"n": 1},
        "offset": start["offset"] + 1,
        "tags": {"event": "order.shipped", "a": "b"},
    }
    assert receipt == {
        "offset": pub["offset"],
        "epoch": start["epoch"],
        "nodes": 1,
        "queued": False,
    }


async def test_a_publisher_learns_that_no_node_is_subscribed(service: Service) -> None:
    assert service.publish("public:nobody", 1)["nodes"] == 0


async def test_the_commands_of_a_frame_are_answered_in_order(
    service: Service, attach: Attach
) -> None:
    client = await attach(service, connect=False)
    commands = [
        {"connect": {"name": "js", "flag": 1}},
        {"subscribe": {"channel": "public:order", "flag": 1}},
        {"ping": {}},
        {"subscribe": {"channel": "chat:order"}},
        {"publish": {"channel": "chat:order", "data": 1}},
        {"subscribe": {"channel": "public:order"}},
        {"unsubscribe": {"channel": "public:order"}},
        {"history": {"channel": "public:order"}},
        {"nonsense": {}},
        {"subscribe": {"channel": "secret"}},
    ]
    await client.send("\n".join(json.dumps({"id": n, **c}) for n, c in enumerate(commands, 1)))
    replies = []
    while len(replies) < len(commands):
        message = await client.next()
        if "id" in message:
            replies.append(message)
    assert [reply["id"] for reply in replies] == list(range(1, len(commands) + 1))
    codes = [reply.get("error", {}).get("code") for reply in replies]
    assert codes == [None] * 5 + [105, None, 103, 104, 103]


async def test_a_client_publishes_where_the_namespace_allows_it(
    service: Service, attach: Attach
) -> None:
    speaker, hearer = await attach(service), await attach(service)
    for client in (speaker, hearer):
        await client.subscribe("chat:room")
    await speaker.tell(publish={"channel": "chat:room", "data": {"text": "hi"}})
    assert await hearer.data() == {"text": "hi"}
    refused = await speaker.ask(publish={"channel": "public:room", "data": 1})
    assert refused["error"]["code"] == 103


async def test_unknown_and_forbidden_channels_look_the_same(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    errors = [
        (await client.ask(subscribe={"channel": channel}))["error"]
        for channel in ("secret", "nowhere:x", "public:x#42")
    ]
    assert errors[0] == errors[1] == errors[2] == {"code": 103, "message": "permission denied"}


async def test_unsubscribing_ends_pushes_and_the_subscription_of_the_node(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    await client.subscribe("public:gone")
    assert (await client.ask(unsubscribe={"channel": "public:gone"}))["unsubscribe"] == {}
    await eventually(lambda: service.publish("public:gone", 1)["nodes"] == 0)
    assert (await client.ask(ping={}))["ping"] == {}


async def test_a_vanished_client_is_no_longer_counted(service: Service, attach: Attach) -> None:
    client = await attach(service)
    await client.subscribe("public:vanished")
    assert service.publish("public:vanished", 1)["nodes"] == 1
    await client.close()
    await eventually(lambda: service.publish("public:vanished", 1)["nodes"] == 0)


async def test_positions_are_exact_when_publications_race_with_subscribes(
    service: Service, attach: Attach
) -> None:
    """Each subscriber receives exactly what follows its position, however fast others publish."""
    racing = True

    async def publish() -> None:
        while racing:
            await asyncio.to_thread(service.publish, "public:race", 1)

    async def race() -> None:
        client = await attach(service)
        for _ in range(10):
            position = (await client.subscribe("public:race"))["offset"]
            for offset in range(position + 1, position + 4):
                assert (await client.push("pub"))["offset"] == offset
            while "unsubscribe" not in await client.ask(unsubscribe={"channel": "public:race"}):
                pass
            client._waiting.clear()

    publisher = asyncio.create_task(publish())
    await asyncio.gather(*(race() for _ in range(5)))
    racing = False
    await publisher


async def test_large_data_and_all_of_unicode_arrive_unchanged(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    await client.subscribe("public:large")
    data = {"text": "é\u2028\u0000\n\U0001f600" * 3500, "n": [1e300, -1, None, True]}
    service.publish("public:large", data)
    assert await client.data() == data


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        (None, True),
        ("https://app.example.com", True),
        ("http://127.0.0.1:{port}", True),
        ("https://app.example.com.evil.org", False),
        ("http://app.example.com", False),
        ("https://evil.org", False),
        ("null", False),
        ("http://127.0.0.1:1", False),
    ],
)
async def test_a_page_of_a_foreign_origin_is_refused_with_403(
    service: Service, attach: Attach, origin: str | None, welcome: bool
) -> None:
    headers = {"Origin": origin.format(port=service.port)} if origin else {}
    if welcome:
        await attach(service, additional_headers=headers)
        return
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(service.ws, additional_headers=headers)
    assert refused.value.response.status_code == 403


async def test_dns_rebinding_does_not_make_a_foreign_page_our_own(service: Service) -> None:
    """evil.org may resolve to our address; Origin and Host then match, but both are foreign."""
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(
            f"ws://evil.org:{service.port}/connection/websocket",
            host="127.0.0.1",
            origin=f"http://evil.org:{service.port}",
        )
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param('{"id":1,"subscribe":{"channel":"public:x"}}', id="before-connect"),
        pytest.param("not json", id="not-json"),
        pytest.param('{"id":1,"connect":{}}\n{"id":2,"connect":{}}', id="connect-twice"),
    ],
)
async def test_a_client_that_does_not_speak_the_protocol_is_closed_with_3501(
    service: Service, attach: Attach, frame: str
) -> None:
    client = await attach(service, connect=False)
    await client.send(frame)
    assert (await client.closed())[0] == 3501


async def test_unreadable_frames_are_answered_twice_and_then_close(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    for frame in ("[" * 5000, b"\x00binary"):
        await client.send(frame)
        assert (await client.next())["error"]["code"] == 107
    await client.send('{"id":-1,"ping":{}}')
    assert (await client.closed())[0] == 3501


async def test_unreadable_data_is_refused_and_the_connection_stays(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    await client.subscribe("chat:bad")
    for number, data in enumerate(["1e999", '"\\ud800"', "[" * 40 + "]" * 40, f'"{"x" * 66000}"']):
        await client.send(
            f'{{"id":{100 + number},"publish":{{"channel":"chat:bad","data":{data}}}}}'
        )
        reply = await client.next()
        assert (reply["id"], reply["error"]["code"]) == (100 + number, 107)
    assert (await client.ask(ping={}))["ping"] == {}
