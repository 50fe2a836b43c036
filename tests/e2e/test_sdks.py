"""The stock SDKs work unmodified."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cent
import centrifuge
import pytest

from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.core.node_commands import (
    DisconnectUser,
    NodeCommand,
    UnsubscribeUser,
    encode_command,
)
from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.machine import in_time
from tests.support.redis_server import RedisServer
from tests.support.service import SERVERS, Service
from tests.support.tokens import token

SDK = Path(__file__).parent / "sdk"
leaves_its_transport = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""The Python SDK leaves closing its transport to the garbage collector, which then warns."""


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Service]:
    service = Service(redis_server.url, request.param).start()
    yield service
    service.stop()


class Recorder(
    centrifuge.ClientEventHandler,  # type: ignore[misc]
):
    """Records the events that the Python SDK reports."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def of(self, kind: str) -> list[Any]:
        return [context for event, context in self.events if event == kind]

    async def on_connected(self, context: Any) -> None:
        self.events.append(("connected", context))

    async def on_disconnected(self, context: Any) -> None:
        self.events.append(("disconnected", context))

    async def on_subscribed(self, context: Any) -> None:
        self.events.append(("served", context))

    async def on_unsubscribed(self, context: Any) -> None:
        self.events.append(("served no more", context))

    async def on_publication(self, context: Any) -> None:
        self.events.append(("served publication", context))


class Ear(centrifuge.SubscriptionEventHandler):  # type: ignore[misc]
    def __init__(self, recorder: Recorder) -> None:
        self._events = recorder.events

    async def on_subscribed(self, context: Any) -> None:
        self._events.append(("subscribed", context))

    async def on_unsubscribed(self, context: Any) -> None:
        self._events.append(("unsubscribed", context))

    async def on_publication(self, context: Any) -> None:
        self._events.append(("publication", context.pub))


@leaves_its_transport
async def test_centrifuge_python_subscribes_receives_and_publishes(service: Service) -> None:
    recorder = Recorder()
    client = centrifuge.Client(service.ws, events=recorder)
    await client.connect()
    news = client.new_subscription("public:news", events=Ear(recorder))
    await news.subscribe()
    lobby = client.new_subscription("chat:lobby", events=Ear(recorder))
    await lobby.subscribe()
    await eventually(lambda: len(recorder.of("subscribed")) == 2)
    receipt = await asyncio.to_thread(service.publish, "public:news", {"n": 1}, event="x")
    await eventually(lambda: recorder.of("publication"))
    [publication] = recorder.of("publication")
    assert publication.data == {"n": 1}
    assert publication.offset == receipt["offset"]
    assert publication.tags == {"event": "x"}
    await lobby.publish({"name": "python", "text": "hi"})
    await eventually(lambda: len(recorder.of("publication")) == 2)
    assert recorder.of("publication")[1].data == {"name": "python", "text": "hi"}
    secret = client.new_subscription("secret", events=Ear(recorder))
    await secret.subscribe()
    await eventually(lambda: recorder.of("unsubscribed"))
    assert recorder.of("unsubscribed")[0].code == 103
    await client.disconnect()
    await eventually(lambda: recorder.of("disconnected"))
    del client, news, lobby, secret
    gc.collect()


@pytest.mark.node
def test_centrifuge_js_is_told_whether_its_page_missed_anything(service: Service) -> None:
    """Through `since` or `getState`, with the position that was read before the page's data."""
    channel = "public:since"

    def position() -> dict[str, Any]:
        answer = service.post("position", {"channels": [channel]})
        found: dict[str, Any] = answer.json()["result"]["positions"][channel]
        return found

    read = position()
    service.publish(channel, "in between")
    now = position()
    tells_what_was_missed(service.ws, channel, read, now)


def tells_what_was_missed(url: str, channel: str, read: Any, now: Any) -> None:
    """Let the SDK subscribe since positions: that of the data, and the current one."""
    command = ["node", "since.mjs", url, json.dumps(read), json.dumps(now), channel]
    ended = subprocess.run(command, cwd=SDK, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    told = {line.pop("way"): line for line in map(json.loads, ended.stdout.splitlines())}
    common = {"wasRecovering": True, "streamPosition": now, "states": 0}
    assert told == {
        "missed": {**common, "recovered": False},
        "complete": {**common, "recovered": True},
        "state": {**common, "recovered": False, "states": 1},
    }


@pytest.mark.node
async def test_centrifuge_js_subscribes_receives_and_publishes(service: Service) -> None:
    node = await asyncio.create_subprocess_exec(
        "node", "stock.mjs", service.ws, cwd=SDK, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert node.stdout is not None
    assert node.stderr is not None
    events: list[dict[str, Any]] = []
    subscribed = asyncio.Event()

    async def read(lines: asyncio.StreamReader) -> None:
        async for line in lines:
            events.append(json.loads(line))
            if events[-1]["event"] == "subscribed":
                subscribed.set()

    reading = asyncio.create_task(read(node.stdout))
    await in_time(subscribed.wait(), 20)
    receipt = await asyncio.to_thread(service.publish, "public:news", "end", tags={"a": "b"})
    assert await in_time(node.wait(), 20) == 0, (await node.stderr.read()).decode()
    await reading
    by_kind = {event["event"]: event for event in events}
    assert by_kind["connected"]["transport"] == "websocket"
    assert by_kind["subscribed"]["position"] == {
        "epoch": receipt["epoch"],
        "offset": receipt["offset"] - 1,
    }
    assert by_kind["publication"] == {
        "event": "publication",
        "data": "end",
        "offset": receipt["offset"],
        "tags": {"a": "b"},
    }
    assert by_kind["chat"]["data"] == {"name": "stock", "text": "hello"}
    assert by_kind["refused"]["code"] == 103
    assert "error" not in by_kind


@leaves_its_transport
async def test_centrifuge_python_continues_after_a_redis_restart(
    own_redis: RedisServer, serve: Callable[..., Service]
) -> None:
    """It stays connected and subscribed.

    A subscribe during the restart succeeds by the SDK's retries.
    """
    service = await asyncio.to_thread(serve, own_redis.url, "framed")
    recorder = Recorder()
    client = centrifuge.Client(service.ws, events=recorder)
    await client.connect()
    news = client.new_subscription("public:news", events=Ear(recorder))
    await news.subscribe()
    await eventually(lambda: recorder.of("subscribed"))
    await asyncio.to_thread(own_redis.kill)
    await eventually(lambda: not service.is_live())
    late = client.new_subscription("public:late", events=Ear(recorder))
    await late.subscribe()
    await asyncio.to_thread(own_redis.start)
    await eventually(service.is_live)
    await asyncio.to_thread(service.publish, "public:news", "after")
    await eventually(lambda: recorder.of("publication"))
    assert recorder.of("publication")[0].data == "after"
    await eventually(lambda: len(recorder.of("subscribed")) == 2, seconds=20)  # its own retry delay
    assert not recorder.of("unsubscribed")
    assert not recorder.of("disconnected")
    await client.disconnect()
    await eventually(lambda: recorder.of("disconnected"))
    del client, news, late
    gc.collect()


@pytest.mark.node
async def test_centrifuge_js_continues_after_a_redis_restart(
    own_redis: RedisServer, serve: Callable[..., Service]
) -> None:
    service = await asyncio.to_thread(serve, own_redis.url, "framed")
    node = await asyncio.create_subprocess_exec(
        "node", "stock.mjs", service.ws, cwd=SDK, stdout=subprocess.PIPE
    )
    assert node.stdout is not None
    events: list[dict[str, Any]] = []
    before = {"subscribed", "chat", "published", "refused"}
    while not before <= {event["event"] for event in events}:
        events.append(json.loads(await in_time(node.stdout.readline(), 20)))
    await asyncio.to_thread(own_redis.kill)
    await eventually(lambda: not service.is_live())
    await asyncio.to_thread(own_redis.start)
    await eventually(service.is_live)
    await asyncio.to_thread(service.publish, "public:news", "end")
    rest = (await in_time(node.stdout.read(), 20)).decode().splitlines()
    assert await node.wait() == 0
    assert [json.loads(line)["event"] for line in rest] == ["publication", "disconnected"]


@leaves_its_transport
async def test_centrifuge_python_sends_and_renews_tokens(service: Service) -> None:
    """The SDK is asked for a new token before one expires; the connection is not interrupted."""
    asked: list[str] = []

    async def get_token(channel: str = "") -> str:
        asked.append(channel)
        if asked == [""]:  # the page had it for too long
            return token(seconds=-60)
        return token(seconds=2, **({"channel": channel} if channel else {}))

    recorder = Recorder()
    client = centrifuge.Client(service.ws, events=recorder, get_token=get_token)
    await client.connect()
    closed = client.new_subscription("closed", events=Ear(recorder), get_token=get_token)
    await closed.subscribe()
    await eventually(lambda: recorder.of("subscribed"))
    other = client.new_subscription("public:orders#43", events=Ear(recorder))
    await other.subscribe()
    await eventually(lambda: recorder.of("unsubscribed"))
    assert recorder.of("unsubscribed")[0].code == 103
    await eventually(lambda: asked.count("") >= 3 and asked.count("closed") >= 2, seconds=10)
    await asyncio.to_thread(service.publish, "closed", "after")
    await eventually(lambda: recorder.of("publication"))
    assert len(recorder.of("connected")) == len(recorder.of("subscribed")) == 1
    await client.disconnect()
    await eventually(lambda: recorder.of("disconnected"))
    del client, closed, other
    gc.collect()


@pytest.mark.node
async def test_centrifuge_js_sends_and_renews_tokens(service: Service) -> None:
    node = await asyncio.create_subprocess_exec(
        *("node", "tokens.mjs", service.ws),
        cwd=SDK,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert node.stdin is not None
    assert node.stdout is not None
    events: list[dict[str, Any]] = []
    asked: list[str] = []
    while asked.count("") < 3 or asked.count("closed") < 2:
        events.append(json.loads(await in_time(node.stdout.readline(), 20)))
        if events[-1]["event"] == "token":
            asked.append(events[-1].get("channel", ""))
            claims = {"channel": asked[-1]} if asked[-1] else {}
            # The first token comes from a page that has kept it for too long.
            seconds = -60 if asked == [""] else 2
            node.stdin.write(f"{token(seconds=seconds, **claims)}\n".encode())
    await asyncio.to_thread(service.publish, "closed", "end")
    rest = (await in_time(node.stdout.read(), 20)).decode().splitlines()
    assert await node.wait() == 0
    kinds = [event["event"] for event in [*events, *map(json.loads, rest)]]
    assert kinds.count("connected") == kinds.count("subscribed") == 1
    assert kinds[-2:] == ["publication", "disconnected"]
    assert {"event": "refused", "code": 103} in events


@leaves_its_transport
async def test_centrifuge_python_handles_server_subscriptions_and_disconnects(
    service: Service, redis_server: RedisServer
) -> None:
    recorder = Recorder()
    claims = {"channels": ["closed"]}
    client = centrifuge.Client(service.ws, events=recorder, token=token("ada", **claims))
    await client.connect()
    await eventually(lambda: len(recorder.of("served")) == 2)
    assert [context.channel for context in recorder.of("served")] == ["user:#ada", "closed"]
    await asyncio.to_thread(service.publish, "user:#ada", "for you")
    await eventually(lambda: recorder.of("served publication"))
    [heard] = recorder.of("served publication")
    assert (heard.channel, heard.pub.data) == ("user:#ada", "for you")
    await asyncio.to_thread(tell, redis_server, UnsubscribeUser("ada", "closed"))
    await eventually(lambda: recorder.of("served no more"))
    await asyncio.to_thread(tell, redis_server, DisconnectUser("ada"))
    await eventually(lambda: recorder.of("disconnected"))
    assert recorder.of("disconnected")[0].code == 3503
    assert client.state == centrifuge.ClientState.DISCONNECTED
    del client
    gc.collect()


@pytest.mark.node
async def test_centrifuge_js_handles_server_subscriptions_and_disconnects(
    service: Service, redis_server: RedisServer
) -> None:
    shown = token("ada", channels=["closed"])
    node = await asyncio.create_subprocess_exec(
        "node", "served.mjs", service.ws, shown, cwd=SDK, stdout=subprocess.PIPE
    )
    assert node.stdout is not None

    async def line() -> dict[str, Any]:
        read: dict[str, Any] = json.loads(await in_time(node.stdout.readline(), 20))
        return read

    first, second = await line(), await line()
    assert [first["channel"], second["channel"]] == ["user:#ada", "closed"]
    receipt = await asyncio.to_thread(service.publish, "user:#ada", "for you")
    heard = await line()
    assert (heard["event"], heard["data"], heard["offset"]) == (
        "publication",
        "for you",
        receipt["offset"],
    )
    await asyncio.to_thread(tell, redis_server, UnsubscribeUser("ada", "closed"))
    assert await line() == {"event": "unsubscribed", "channel": "closed"}
    await asyncio.to_thread(tell, redis_server, DisconnectUser("ada"))
    assert await line() == {"event": "disconnected", "code": 3503, "reason": "force disconnect"}
    assert await node.wait() == 0


def tell(redis_server: RedisServer, command: NodeCommand) -> None:
    broker = SyncRedisBroker(redis_server.url)
    broker.send_node_command(json.dumps(encode_command(command)).encode())
    broker.close()


@pytest.fixture
def publisher(service: Service) -> Iterator[cent.Client]:
    client = cent.Client(f"{service.http}/api", "test-key")
    yield client
    client.close()


def test_cent_publishes(publisher: cent.Client) -> None:
    first = publisher.publish(cent.PublishRequest(channel="public:cent", data={"n": 1}))
    second = publisher.publish(cent.PublishRequest(channel="public:cent", data={"n": 2}))
    assert second.offset == first.offset + 1
    assert second.epoch == first.epoch
    assert second.nodes == 0


def test_cent_publishes_once_per_idempotency_key(publisher: cent.Client) -> None:
    request = cent.PublishRequest(channel="public:cent", data=1, idempotency_key="once")
    assert publisher.publish(request).offset == publisher.publish(request).offset


def test_cent_broadcasts(publisher: cent.Client) -> None:
    answer = publisher.broadcast(cent.BroadcastRequest(channels=["public:a", "public:b"], data=1))
    assert [response.error for response in answer.responses] == [None, None]
    assert all(response.result.offset for response in answer.responses)


async def test_cent_controls_connections(service: Service, publisher: cent.Client) -> None:
    client = await Client.open(service.ws, connect=False)
    reply = await client.ask(connect={"token": token("cent")})
    one = {"user": "cent", "client": reply["connect"]["client"]}
    await client.push("state")
    await client.push("subscribe")  # to its own channel
    await asyncio.to_thread(
        publisher.subscribe, cent.SubscribeRequest(user="cent", channel="closed")
    )
    await client.push("subscribe")
    await asyncio.to_thread(publisher.unsubscribe, cent.UnsubscribeRequest(**one, channel="closed"))
    await client.push("unsubscribe")
    await asyncio.to_thread(publisher.refresh, cent.RefreshRequest(user="cent", expire_at=2**40))
    await asyncio.to_thread(
        publisher.disconnect,
        cent.DisconnectRequest(**one, disconnect=cent.Disconnect(code=4000, reason="enough")),
    )
    code, reason = await client.closed()
    assert (code, reason) == (4000, "" if service.server == "daphne" else "enough")


def test_cent_batches(publisher: cent.Client) -> None:
    answer = publisher.batch(
        cent.BatchRequest(
            requests=[
                cent.PublishRequest(channel="public:batch", data=1),
                cent.BroadcastRequest(channels=["public:batch"], data=2),
            ]
        )
    )
    published, broadcast = answer.replies
    assert broadcast.responses[0].result.offset == published.offset + 1


async def test_cent_reads_presence(service: Service, publisher: cent.Client) -> None:
    channel = f"chat:cent-{service.port}"
    client = await Client.open(service.ws, connect=False)
    mine = (await client.ask(connect={"token": token("cent", info={"name": "C"})}))["connect"]
    await client.subscribe(channel)
    asked = cent.PresenceRequest(channel=channel)

    async def members() -> Any:  # written down right after the reply
        return (await asyncio.to_thread(publisher.presence, asked)).presence

    found = await eventually(members)
    assert {name: (m.user, m.conn_info) for name, m in found.items()} == {
        mine["client"]: ("cent", {"name": "C"})
    }
    counted = cent.PresenceStatsRequest(channel=channel)
    stats = await asyncio.to_thread(publisher.presence_stats, counted)
    assert (stats.num_clients, stats.num_users) == (1, 1)
    listed = cent.ChannelsRequest(pattern="chat:cent-*")
    channels = (await asyncio.to_thread(publisher.channels, listed)).channels
    assert channels[channel].num_clients == 1
    nodes = (await asyncio.to_thread(publisher.info, cent.InfoRequest())).nodes
    assert sum(node.num_clients for node in nodes) >= 1
    await client.close()


def test_cent_reports_a_wrong_key(service: Service) -> None:
    client = cent.Client(f"{service.http}/api", "wrong")
    with pytest.raises(cent.CentUnauthorizedError):
        client.publish(cent.PublishRequest(channel="public:cent", data=1))
    client.close()
