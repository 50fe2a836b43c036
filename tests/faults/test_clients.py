"""Clients that vanish, stall, or never read: memory is bounded, and they are closed in time.

What a client loses that merely does not read is tested in `test_slow_clients.py`. Here, the client
itself, the connection to it or its timing is faulty.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from realtime.brokers.redis import RedisBroker
from realtime.connection.flow import PONG_SECONDS, SLOWEST_BYTES_PER_SECOND
from realtime.core.publication import Publication
from tests.faults.test_slow_clients import SLACK_BYTES, account
from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.fault_proxy import FaultProxy
from tests.support.machine import allowed, within
from tests.support.redis_server import RedisServer
from tests.support.service import SERVERS, Service, needs_proc

pytestmark = pytest.mark.faults

WINDOW_BYTES = 96 * 1024
LIMITS = {
    "TEST_WINDOW_BYTES": str(WINDOW_BYTES),
    "TEST_OUTBOX_BYTES": str(128 * 1024),
    # By default, a client that sends without a pause is disconnected long before anything piles up.
    "TEST_COMMANDS_PER_SECOND": "1000000",
    "TEST_COMMANDS_BURST": "1000000",
}
DATA = "x" * 16 * 1024
PACE_SECONDS = 0.02  # nearly 800 KiB/s for each channel: in a pong deadline more than SLACK_BYTES
QUIET_SECONDS = 0.25
FULL_SECONDS = WINDOW_BYTES / SLOWEST_BYTES_PER_SECOND
"""Seconds that a full window adds to the pong deadline."""
LATE_SECONDS = 6.0
"""Until the first ping without an answer 1 s, until the tick after the deadline 1 s, 1 s for the
publication over the window; the rest for what the test itself does."""
GIVE_UP_SECONDS = 30.0
STALL_SECONDS = PONG_SECONDS + 2.0  # a client with nothing in flight has been closed by then
AFTER = 100  # publications after a stall
SOON_SECONDS = 5.0  # far from any pong deadline
ROUNDS = 60
COMMANDS = 500
"""Commands in one frame; their replies are 33 KiB."""


@pytest.fixture(scope="module")
def services(redis_server: RedisServer) -> Iterator[dict[str, Service]]:
    """All servers at the same time, so that the tests wait only once. No test breaks them."""
    services = {
        server: Service(redis_server.url, server, TEST_PING_SECONDS="1", **LIMITS)
        for server in SERVERS
    }
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Service.start, services.values()))
        yield services
        logs = [service.log for service in services.values()]
    finally:
        for service in services.values():
            service.stop()
    for log in logs:
        assert "Traceback" not in log, log


class Publisher:
    """Publishes from the event loop of the test."""

    def __init__(self, broker: RedisBroker) -> None:
        self._broker = broker

    async def nodes(self, channel: str, data: str = DATA) -> int:
        """Publish, and return how many nodes were subscribed."""
        return (await self._broker.publish(Publication.of(channel, data))).nodes

    async def heard(self, channel: str, neighbour: Client) -> int:
        """Publish; the neighbour receives this next, without a gap or a close.

        Returns the offset.
        """
        offset = (await self._broker.publish(Publication.of(channel, DATA))).offset
        # On a busy machine, the node may report in between that it is not live, which is harmless.
        push = await neighbour.push("pub", GIVE_UP_SECONDS, passing_over="state")
        assert push["offset"] == offset
        return offset


@pytest.fixture
async def publisher(redis_server: RedisServer) -> AsyncIterator[Publisher]:
    broker = RedisBroker(redis_server.url)
    yield Publisher(broker)
    await broker.aclose()


@asynccontextmanager
async def attached(url: str, *, answers_pings: bool = True) -> AsyncIterator[Client]:
    """A client without its own WebSocket pings, which waits only briefly for the close."""
    client = await Client.open(
        url, answers_pings=answers_pings, ping_interval=None, close_timeout=0.1
    )
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def road_to(service: Service) -> AsyncIterator[tuple[FaultProxy, str]]:
    """A connection that can be broken, and the address of its near end."""
    async with FaultProxy(("127.0.0.1", service.port)) as road:
        yield road, service.ws.replace(str(service.port), str(road.port))


async def has_connections(service: Service, count: int) -> bool:
    """Ask the node how many connections it has, without sending a byte to any of them."""
    async with httpx.AsyncClient() as client:
        return bool((await client.get(service.http + "/readyz")).json()["connections"] == count)


async def seconds_until_a_vanished_client_counts_no_more(
    service: Service,
    publisher: Publisher,
    channel: str,
    data: str,
    pace_seconds: float,
    *,
    most_seconds: float,
) -> float:
    """Let a client vanish without FIN; publications to it and to a neighbour continue."""
    beside = f"{channel}-beside"
    async with (
        attached(service.ws) as neighbour,
        road_to(service) as (road, near),
        attached(near) as client,
    ):
        await neighbour.subscribe(beside)
        await client.subscribe(channel)
        road.behave(blackhole=True)
        before, began = service.resident_bytes, time.monotonic()
        while await publisher.nodes(channel, data):
            await publisher.heard(beside, neighbour)
            grown = service.resident_bytes - before
            assert grown < SLACK_BYTES, f"{grown / 2**20:.1f} MiB on {service.server}"
            took = time.monotonic() - began
            assert took < allowed(most_seconds, began), f"it counts on {service.server}"
            await asyncio.sleep(pace_seconds)
        seconds = time.monotonic() - began
        for _ in range(10):
            await publisher.heard(beside, neighbour)
        return seconds


async def vanishes(service: Service, publisher: Publisher) -> None:
    """Bytes in flight to it extend its deadline; waiting publications stay within the outbox."""
    seconds = await seconds_until_a_vanished_client_counts_no_more(
        *(service, publisher, f"public:vanished-{service.server}", DATA, PACE_SECONDS),
        most_seconds=PONG_SECONDS + FULL_SECONDS + LATE_SECONDS,
    )
    assert seconds > PONG_SECONDS + FULL_SECONDS


async def is_half_open(service: Service, publisher: Publisher) -> None:
    """Little is sent to a host that lost the connection, and no RST comes: only pings detect it."""
    seconds = await seconds_until_a_vanished_client_counts_no_more(
        *(service, publisher, f"public:half-open-{service.server}", "", QUIET_SECONDS),
        most_seconds=PONG_SECONDS + LATE_SECONDS,
    )
    assert seconds > PONG_SECONDS


async def stalls(service: Service, publisher: Publisher) -> None:
    """Bytes in flight give it time to resume, and then it is told what it missed."""
    channel = f"public:stalled-{service.server}"
    async with (
        attached(service.ws) as neighbour,
        attached(service.ws, answers_pings=False) as stalled,
    ):
        await neighbour.subscribe(channel)
        last = start = int((await stalled.subscribe(channel))["offset"])
        began = time.monotonic()
        while time.monotonic() < began + STALL_SECONDS:  # this delay is the fault
            last = await publisher.heard(channel, neighbour)
            await asyncio.sleep(PACE_SECONDS)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(account(stalled, start, last + AFTER))
            for _ in range(AFTER):
                await publisher.heard(channel, neighbour)
                await asyncio.sleep(PACE_SECONDS)
        received, missed = reading.result()
        assert missed
        assert received[-AFTER // 2 :] == list(range(last + AFTER // 2 + 1, last + AFTER + 1))
        assert (await stalled.ask(ping={}))["ping"] == {}


@needs_proc
async def test_vanished_clients_end_at_the_pong_deadline_and_stalled_ones_get_longer(
    services: dict[str, Service], publisher: Publisher
) -> None:
    """The deadline is 10 s plus the time of the bytes in flight at 16 KiB/s."""
    async with asyncio.TaskGroup() as group:
        for service in services.values():
            for fault in (vanishes, is_half_open, stalls):
                group.create_task(fault(service, publisher))


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("next_bytes", ["a_ping", "a_publication"])
async def test_a_client_whose_host_rebooted_ends_at_the_next_rst(
    services: dict[str, Service], publisher: Publisher, server: str, next_bytes: str
) -> None:
    service = services[server]
    channel, beside = f"public:{next_bytes}-{server}", f"public:beside-{next_bytes}-{server}"
    async with (
        attached(service.ws) as neighbour,
        road_to(service) as (road, near),
        attached(near) as client,
    ):
        await neighbour.subscribe(beside)
        await client.subscribe(channel)
        async with neighbour.attentive(), client.attentive():
            # The connections of other tests have ended, including those that had to reach their
            # pong deadline.
            await eventually(lambda: has_connections(service, 2), GIVE_UP_SECONDS)
            road.behave(cut_after=1)
            began = time.monotonic()
            if next_bytes == "a_publication":
                await publisher.nodes(channel)
            await eventually(lambda: has_connections(service, 1), GIVE_UP_SECONDS)
            took = time.monotonic() - began
        assert took < allowed(PONG_SECONDS, began), "only the pong deadline closed it"
        assert await publisher.nodes(channel) == 0
        await publisher.heard(beside, neighbour)


class Deaf:
    """A client that never reads after the handshake: everything sent to it stays in the kernels."""

    def __init__(self, service: Service) -> None:
        self._port = service.port
        self._protocol = ClientProtocol(parse_uri(service.ws))
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Deaf:
        await self._loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        self._protocol.send_request(self._protocol.connect())
        await self._flush()
        while not self._protocol.events_received():
            self._protocol.receive_data(await self._read())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._socket.close()

    async def tell(self, *lines: str) -> None:
        """Send a frame; block while the service does not read."""
        self._protocol.send_text("\n".join(lines).encode())
        await self._flush()

    async def speak(self, *lines: str, pause_seconds: float) -> None:
        """Send the same frame repeatedly until the connection breaks."""
        with suppress(OSError):
            while True:
                await self.tell(*lines)
                await asyncio.sleep(pause_seconds)

    async def close_code(self) -> int:
        """Finally read, until the end; 1006 if there was no close frame."""
        with suppress(OSError):
            while self._protocol.close_rcvd is None:
                self._protocol.receive_data(await self._read())
        return self._protocol.close_rcvd.code if self._protocol.close_rcvd else 1006

    async def _read(self) -> bytes:
        data = await self._loop.sock_recv(self._socket, 65536)
        if not data:
            raise ConnectionError("the end")
        return data

    async def _flush(self) -> None:
        await self._loop.sock_sendall(self._socket, b"".join(self._protocol.data_to_send()))


@needs_proc
@pytest.mark.parametrize(
    ("server", "forged_pongs"),
    [*((server, 0) for server in SERVERS), ("uvicorn", 4), ("framed", 4)],
    ids=[*SERVERS, "uvicorn-forged_pongs", "framed-forged_pongs"],
)
async def test_a_client_that_sends_but_never_reads_is_closed_as_slow(
    services: dict[str, Service], publisher: Publisher, server: str, forged_pongs: int
) -> None:
    """Replies cannot be dropped, so a client that lets them pile up must be disconnected.

    With forged pongs, the client seems to read. Then TCP is the limit, except on Daphne, which
    accepts everything that it is given to write. Daphne also reads everything that arrives, faster
    than anybody could answer (docs/deploy.md#daphne), so the test allows it more time.
    """
    service = services[server]
    channel = f"public:deaf-{server}-{forged_pongs}"
    beside = f"{channel}-beside"
    lines = ["{}"] * forged_pongs
    lines += [json.dumps({"id": n, "history": {"channel": channel}}) for n in range(2, COMMANDS)]
    pause_seconds = PACE_SECONDS if server == "daphne" else 0.0
    async with attached(service.ws) as neighbour, Deaf(service) as deaf:
        await neighbour.subscribe(beside)
        await deaf.tell('{"id":1,"connect":{}}')
        await deaf.tell(json.dumps({"id": 2, "subscribe": {"channel": channel}}))
        await eventually(lambda: publisher.nodes(channel))
        before = service.resident_bytes
        speaking = asyncio.create_task(deaf.speak(*lines, pause_seconds=pause_seconds))
        for _ in range(ROUNDS):
            await publisher.nodes(channel)
            await publisher.heard(beside, neighbour)
            grown = service.resident_bytes - before
            assert grown < SLACK_BYTES, f"{grown / 2**20:.1f} MiB for one client"

        async def is_gone() -> bool:
            return await publisher.nodes(channel) == 0

        await eventually(is_gone, SOON_SECONDS)
        speaking.cancel()
        await asyncio.wait([speaking])
        async with within(SOON_SECONDS):
            assert await deaf.close_code() in (3008, 1006)
