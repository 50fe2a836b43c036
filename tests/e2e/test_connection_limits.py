"""Connection limits per node, address and user, and the counts after disconnects."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import websockets

from notifier.counting import SPARE_PER_ADDRESS
from realtime.transports.websocket import RealtimeConsumer
from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.raw import Raw, handshake
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, SERVERS, Service
from tests.support.tokens import token

Attach = Callable[..., Awaitable[Client]]
Serve = Callable[..., Service]


async def status_of(service: Service, **options: Any) -> tuple[int, str | None]:
    """Connect; return the status of the refusal, and after how long to retry."""
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(service.ws, **options)
    response = caught.value.response
    return response.status_code, response.headers.get("Retry-After")


def from_(address: str, **headers: str) -> dict[str, Any]:
    return {"local_addr": (address, 0), "additional_headers": headers}


@pytest.mark.parametrize("server", SERVERS)
async def test_a_full_node_refuses_before_accept_until_a_client_leaves(
    server: str, serve: Serve, redis_server: RedisServer, attach: Attach
) -> None:
    service = serve(redis_server.url, server, TEST_CONNECTIONS="2")
    first, second = await attach(service), await attach(service)
    await second.subscribe("public:full")
    for _ in range(3):
        expected = (403, None) if server == "daphne" else (503, "5")  # Daphne can only refuse
        assert await status_of(service) == expected
    service.publish("public:full", "still here")
    assert await second.data() == "still here"
    await first.close()
    await eventually(lambda: '"connections":1' in _readyz(service))
    assert await (await attach(service)).subscribe("public:full")
    await eventually(lambda: "the limit connections was reached" in service.log)


def _readyz(service: Service) -> str:
    import httpx

    return httpx.get(service.http + "/readyz", timeout=60).text


@pytest.mark.parametrize("server", SERVERS)
async def test_a_user_with_too_many_connections_is_closed_and_others_are_not(
    server: str, serve: Serve, redis_server: RedisServer, attach: Attach
) -> None:
    service = serve(redis_server.url, server, TEST_CONNECTIONS_PER_USER="1")
    ada = await attach(service, connect=False)
    assert "connect" in await ada.ask(connect={"token": token("ada")})
    second = await attach(service, connect=False)
    await second.tell(connect={"token": token("ada")})
    assert (await second.closed())[0] == 3504
    for other in ({"token": token("bob")}, {}, {}):  # anonymous clients do not count as one user
        client = await attach(service, connect=False)
        assert "connect" in await client.ask(connect=other)
    await ada.close()
    await eventually(lambda: "the limit connections_per_user was reached" in service.log)
    again = await attach(service, connect=False)
    assert "connect" in await again.ask(connect={"token": token("ada")})


@pytest.mark.parametrize("server", SERVERS)
async def test_an_address_with_too_many_connections_is_refused_and_others_are_not(
    server: str, serve: Serve, redis_server: RedisServer, attach: Attach
) -> None:
    service = serve(redis_server.url, server, TEST_CONNECTIONS_PER_ADDRESS="2")
    for _ in range(2):
        await attach(service, **from_("127.0.0.2"))
    refused = await status_of(service, **from_("127.0.0.2"))
    assert refused == ((403, None) if server == "daphne" else (429, "5"))
    await attach(service, **from_("127.0.0.3"))


@pytest.fixture
def deployed(serve: Serve, redis_server: RedisServer) -> Service:
    """The service itself, limited to one connection per address; its proxies are .1 and .9."""
    return serve(
        redis_server.url,
        DEPLOYED,
        NOTIFIER_LIMITS='{"connections_per_address": 1}',
        FORWARDED_ALLOW_IPS="127.0.0.1,127.0.0.9",
    )


async def test_a_forged_client_address_is_ignored(deployed: Service, attach: Attach) -> None:
    await attach(deployed, **from_("127.0.0.2", **{"X-Forwarded-For": "203.0.113.1"}))
    for number in range(2, 5):
        claimed = from_("127.0.0.2", **{"X-Forwarded-For": f"203.0.113.{number}"})
        assert (await status_of(deployed, **claimed))[0] == 429


async def test_a_trusted_proxy_provides_the_client_address(
    deployed: Service, attach: Attach
) -> None:
    for number in range(1, 4):
        said = {"X-Forwarded-For": f"203.0.113.{number}"}
        await attach(deployed, **from_("127.0.0.1", **said))
        assert (await status_of(deployed, **from_("127.0.0.1", **said)))[0] == 429


@pytest.mark.parametrize(
    "chain",
    [
        "{spoofed}, 203.0.113.7",
        "{spoofed}, 203.0.113.7, 127.0.0.9",  # through both proxies
        "127.0.0.1, {spoofed}, 203.0.113.7",
        "{spoofed},203.0.113.7:40000",
    ],
)
async def test_a_client_address_forged_before_the_proxy_is_ignored(
    deployed: Service, attach: Attach, chain: str
) -> None:
    said = [chain.format(spoofed=f"198.51.100.{number}") for number in range(3)]
    await attach(deployed, **from_("127.0.0.1", **{"X-Forwarded-For": said[0]}))
    for line in said[1:]:
        assert (await status_of(deployed, **from_("127.0.0.1", **{"X-Forwarded-For": line})))[
            0
        ] == 429


@pytest.mark.parametrize("subprotocols", [[], ["centrifuge-json"]])  # two ways to a WebSocket
async def test_a_proxy_is_trusted_by_its_ipv4_address_on_an_ipv6_socket(
    serve: Serve, redis_server: RedisServer, attach: Attach, subprotocols: list[str]
) -> None:
    """`HOST=::` takes IPv4 connections, too, and shows their peers as `::ffff:127.0.0.1`."""
    service = serve(
        redis_server.url, DEPLOYED, HOST="::", NOTIFIER_LIMITS='{"connections_per_address": 1}'
    )
    for number in (1, 2):
        said = from_("127.0.0.1", **{"X-Forwarded-For": f"203.0.113.{number}"})
        await attach(service, **said, subprotocols=subprotocols)
        assert (await status_of(service, **said, subprotocols=subprotocols))[0] == 429


async def test_an_ipv6_network_counts_as_one_address(deployed: Service, attach: Attach) -> None:
    for network in ("2001:db8:0:1", "2001:db8:0:2"):
        await attach(deployed, **from_("127.0.0.1", **{"X-Forwarded-For": f"{network}::1"}))
        other = {"X-Forwarded-For": f"{network}:ffff::2"}
        assert (await status_of(deployed, **from_("127.0.0.1", **other)))[0] == 429


# --- new subscriptions ---


async def test_a_client_that_keeps_reconnecting_subscribes_no_faster(
    serve: Serve, redis_server: RedisServer, attach: Attach
) -> None:
    """One client created 3,144 counters a second, with 128 channels for each new connection."""
    limits = {"subscriptions_per_address": 1, "channels_per_connection": 16}
    service = serve(redis_server.url, DEPLOYED, NOTIFIER_LIMITS=json.dumps(limits))
    refused = []
    for number in range(5):
        client = await attach(service, **from_("127.0.0.2"))
        for channel in range(16):
            reply = await client.ask(subscribe={"channel": f"public:{number}-{channel}"})
            refused.append(reply.get("error", {}).get("code"))
        await client.close()
    assert refused[:64] == [None] * 64
    assert 111 in refused[64:]
    other = await attach(service, **from_("127.0.0.3"))
    assert "subscribe" in await other.ask(subscribe={"channel": "public:other"})


# --- no connection stays counted ---


class Ending(Exception):
    """The server gives up on the connection."""


def _scope(address: int, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "websocket",
        "path": "/connection/websocket",
        "client": (f"10.0.{address // 250}.{address % 250}", 1),
        "headers": [(b"host", b"testserver"), *headers],
        "extensions": {"websocket.http.response": {}},
    }


async def _visit(shown: str, how: str, number: int, gone: asyncio.Event) -> None:
    """Connect as a server would report it, and end the connection in one of the possible ways."""
    foreign = (b"origin", b"https://evil.example")
    scope = _scope(number, *([foreign] if how == "foreign page" else []))
    connect = {} if how == "stranger" else {"token": shown}
    said = iter(
        [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": json.dumps({"id": 1, "connect": connect})},
        ]
    )

    async def receive() -> dict[str, Any]:
        for message in said:
            return message
        await gone.wait()
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(message: dict[str, Any]) -> None:
        if how == "broken accept" or (how == "broken send" and "text" in message):
            raise OSError("the client has gone")
        if how == "a fault" and "text" in message:
            raise Ending

    task = asyncio.create_task(RealtimeConsumer()(scope, receive, send))
    await gone.wait()
    if how == "cancelled":
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)


WAYS, WEIGHTS = zip(
    ("foreign page", 1),  # few, as each leaves a line in the log
    ("a fault", 1),
    ("broken accept", 20),
    ("broken send", 20),
    ("cancelled", 20),
    ("stranger", 20),
    ("leaves", 20),
    strict=True,
)


async def test_ten_thousand_connections_leave_no_count_behind(node: Any, settings: Any) -> None:
    settings.REALTIME_CONNECTIONS = 6
    settings.REALTIME_CONNECTIONS_PER_ADDRESS = 2
    settings.REALTIME_CONNECTIONS_PER_USER = 3
    ways, shown = random.Random(5), token("ada")
    reached = node.hub.reached.counts
    for _ in range(100):
        full, gone = reached["connections"], asyncio.Event()
        visits = [
            asyncio.create_task(
                _visit(shown, *ways.choices(WAYS, WEIGHTS), ways.randrange(10), gone)
            )
            for _ in range(100)
        ]
        await eventually(lambda full=full: reached["connections"] > full)
        gone.set()
        await asyncio.gather(*visits)
    assert all(
        reached[name] for name in ("connections", "connections_per_address", "connections_per_user")
    ), reached
    await eventually(lambda: node.hub.connections._crowd.is_empty)
    assert len(node.hub.connections) == 0


async def test_thousands_that_connect_and_vanish_leave_no_count_behind(
    serve: Serve, redis_server: RedisServer, attach: Attach
) -> None:
    """Over real sockets, which close during the handshake or right after it."""
    service = serve(redis_server.url, "framed", TEST_CONNECTIONS="50")
    request = (
        b"GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )

    async def vanish(number: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request[: len(request) - number % 2])  # every second one sends it completely
        await writer.drain()
        writer.transport.abort()

    for start in range(0, 2000, 40):
        await asyncio.gather(*[vanish(start + number) for number in range(40)])
    await eventually(lambda: '"connections":0' in _readyz(service))
    clients = [await attach(service) for _ in range(50)]
    assert (await status_of(service))[0] == 503
    assert len(clients) == 50


async def test_sockets_that_end_in_every_way_leave_no_count_behind(
    serve: Serve, redis_server: RedisServer
) -> None:
    """At the transport, whatever the protocol: with the event loop and server of a deployment."""
    service = serve(
        redis_server.url,
        DEPLOYED,
        NOTIFIER_LIMITS='{"connections_per_address": 1}',
        FORWARDED_ALLOW_IPS="10.0.0.1",
    )
    most = 1 + SPARE_PER_ADDRESS
    get = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    large = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999\r\n\r\n"
    spoken = (b"", b"GET", get, large, b"nonsense\r\n\r\n", handshake(), handshake(path="/nowhere"))

    def visit_often() -> None:
        for number in range(2 * most):
            with Raw(service.port) as peer:
                peer.send(said := spoken[number % len(spoken)])
                if number % 2 and said.endswith(b"\r\n\r\n"):
                    peer.head()

    def statuses() -> list[int]:
        peers = [Raw(service.port).send(get) for _ in range(most + 1)]
        try:
            return [int(peer.head()[9:12]) for peer in peers]
        finally:
            for peer in peers:
                peer.socket.close()

    await asyncio.to_thread(visit_often)
    await eventually(lambda: sorted(statuses()) == [200] * most + [429], seconds=20)
    await eventually(lambda: "the limit transport_connections_per_address" in service.log)
