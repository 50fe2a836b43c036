"""The stock Python SDK, unmodified: all of its features, and reconnects."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import centrifuge
import pytest

from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.core.publication import Publication
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.support.tokens import token

# The SDK leaves closing its transport to the garbage collector, which then warns.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ENDPOINT = "tests.asgi_endpoint:application"
Serve = Callable[..., Service]
Open = Callable[..., "One"]


class One(
    centrifuge.ClientEventHandler,  # type: ignore[misc]
    centrifuge.SubscriptionEventHandler,  # type: ignore[misc]
):
    """A client, and all events that its SDK reports."""

    def __init__(self, service: Service, **options: Any) -> None:
        delays = {"min_reconnect_delay": 0.05, "max_reconnect_delay": 0.5}
        self.events: list[tuple[str, Any]] = []
        self.client = centrifuge.Client(service.ws, events=self, **delays, **options)

    def of(self, kind: str) -> list[Any]:
        return [context for event, context in self.events if event == kind]

    async def until(self, kind: str, count: int = 1, seconds: float = 10) -> Any:
        """Wait until an event has been reported this many times; return the last one."""
        await eventually(lambda: len(self.of(kind)) >= count, seconds)
        return self.of(kind)[-1]

    async def listen(self, channel: str, **options: Any) -> Any:
        sub = self.client.new_subscription(channel, events=self, **options)
        await sub.subscribe()
        await sub.ready(timeout=60)
        return sub

    async def on_connected(self, context: Any) -> None:
        self.events.append(("connected", context))

    async def on_disconnected(self, context: Any) -> None:
        self.events.append(("disconnected", context))

    async def on_subscribed(self, context: Any) -> None:
        self.events.append(("subscribed", context))

    async def on_unsubscribed(self, context: Any) -> None:
        self.events.append(("unsubscribed", context))

    async def on_publication(self, context: Any) -> None:
        self.events.append(("publication", context.pub))

    async def on_join(self, context: Any) -> None:
        self.events.append(("join", context.info))

    async def on_leave(self, context: Any) -> None:
        self.events.append(("leave", context.info))


@pytest.fixture(scope="module", params=["uvicorn", "daphne"])
def service(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Service]:
    running = Service(redis_server.url, request.param, app=ENDPOINT).start()
    yield running
    assert "Traceback" not in running.log
    running.stop()


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Open clients that disconnect at the end of the test."""
    ones: list[One] = []

    def open_one(service: Service, **options: Any) -> One:
        ones.append(One(service, **options))
        return ones[-1]

    yield open_one
    for one in ones:
        if one.client.state != centrifuge.ClientState.DISCONNECTED:
            await one.client.disconnect()
    ones.clear()
    # Whatever collects them later would blame the test that runs then.
    loop: Any = asyncio.get_running_loop()
    for transport in list(loop._transports.values()):
        transport.abort()
    await asyncio.sleep(0)
    gc.collect()


async def test_presence_joins_and_leaves(service: Service, opened: Open) -> None:
    channel = f"chat:python-{service.port}"
    ada = opened(service, token=token("ada", info={"name": "Ada"}))
    await ada.client.connect()
    room = await ada.listen(channel, join_leave=True)
    assert (await ada.until("join")).user == "ada"
    ben = opened(service, token=token("ben", info={"name": "Ben"}))
    await ben.client.connect()
    role = {"role": "guest"}
    await ben.listen(channel, token=token("ben", channel=channel, info=role))
    joined = await ada.until("join", 2)
    assert (joined.user, joined.conn_info, joined.chan_info) == ("ben", {"name": "Ben"}, role)
    members = (await room.presence()).clients
    assert sorted(member.user for member in members.values()) == ["ada", "ben"]
    stats = await room.presence_stats()
    assert (stats.num_clients, stats.num_users) == (2, 2)
    await ben.client.disconnect()
    assert (await ada.until("leave")).user == "ben"
    await room.publish({"text": "hello"})
    said = await ada.until("publication")
    assert (said.data, said.info.user, said.info.conn_info) == (
        {"text": "hello"},
        "ada",
        {"name": "Ada"},
    )


async def test_calls_are_answered(service: Service, opened: Open) -> None:
    ada = opened(service, token=token("ada"))
    await ada.client.connect()
    assert (await ada.client.rpc("who", {"n": 1})).data == {"user": "ada", "data": {"n": 1}}
    channel = f"public:python-{service.port}"
    news = await ada.listen(channel)
    offset = (await asyncio.to_thread(service.publish, channel, 1))["offset"]
    await ada.until("publication")
    history = await news.history(limit=0)
    assert (history.offset, history.publications) == (offset, [])
    with pytest.raises(centrifuge.CentrifugeError, match="108"):
        await news.history(limit=10)


async def test_the_sdk_may_subscribe_to_thousands_of_channels(
    redis_server: RedisServer, serve: Serve, opened: Open
) -> None:
    service = await asyncio.to_thread(
        serve, redis_server.url, app=ENDPOINT, TEST_CHANNELS_PER_CONNECTION="3000"
    )
    one = opened(service, timeout=60)
    channels = [f"public:python-many-{n}" for n in range(3000)]
    subs = [one.client.new_subscription(channel, events=one) for channel in channels]
    for sub in subs:
        await sub.subscribe()
    await one.client.connect()  # as one that comes back: with all of them
    await one.until("subscribed", 3000, seconds=30)
    for n in (0, 1499, 2999):
        await asyncio.to_thread(service.publish, channels[n], n)
    await one.until("publication", 3)
    assert sorted(pub.data for pub in one.of("publication")) == [0, 1499, 2999]
    assert len(one.of("connected")) == 1
    assert not one.of("unsubscribed")


async def test_the_sdk_subscribes_and_unsubscribes_repeatedly(
    redis_server: RedisServer, serve: Serve, opened: Open
) -> None:
    limits = {"TEST_COMMANDS_PER_SECOND": "1000"}
    service = await asyncio.to_thread(
        serve, redis_server.url, app=ENDPOINT, TEST_REDIS_PREFIX="python-loops", **limits
    )
    one = opened(service)
    await one.client.connect()
    loop = await one.listen("public:python-loop")
    for _ in range(50):
        await loop.unsubscribe()
        await loop.subscribe()
        await loop.ready(timeout=60)
    for _ in range(50):
        await one.client.disconnect()
        await one.client.connect()
        await loop.ready(timeout=60)
    await asyncio.to_thread(service.publish, "public:python-loop", "end")
    assert (await one.until("publication")).data == "end"
    assert len(one.of("publication")) == 1
    await one.client.disconnect()

    def is_deserted() -> bool:
        [node] = service.post("info", {}).json()["result"]["nodes"]
        return (node["num_clients"], node["num_subs"]) == (0, 0)

    await eventually(lambda: asyncio.to_thread(is_deserted))
    assert "Traceback" not in service.log


async def test_the_sdk_survives_the_death_of_the_server(
    redis_server: RedisServer, serve: Serve, opened: Open
) -> None:
    service = await asyncio.to_thread(serve, redis_server.url, app=ENDPOINT)
    one = opened(service)
    await one.client.connect()
    await one.listen("public:python-survives")
    await asyncio.to_thread(service.kill)
    broker = SyncRedisBroker(redis_server.url)
    missed = broker.publish(Publication.of("public:python-survives", "missed"))
    broker.close()
    await asyncio.to_thread(service.start)
    again = await one.until("subscribed", 2, seconds=20)
    assert again.stream_position.offset == missed.offset
    await asyncio.to_thread(service.publish, "public:python-survives", "after")
    assert (await one.until("publication")).data == "after"
