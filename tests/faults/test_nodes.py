"""A node is stopped, killed or restarted under load; clients of other nodes notice nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import AsyncExitStack

import httpx
import pytest

from notifier.listening import DRAIN_SECONDS, GRACEFUL_SECONDS, LINGER_SECONDS
from realtime.delivery.connections import DRAIN_PER_SECOND
from tests.support.eventually import eventually
from tests.support.lean_client import LeanClient
from tests.support.ledger import Told
from tests.support.listener import Listener
from tests.support.load import Load
from tests.support.machine import allowed
from tests.support.redis_server import RedisServer
from tests.support.scene import FULL, SOMETIMES, Account, Scene, Serve, scene_of, told_nothing
from tests.support.service import DEPLOYED, KEY, Service, needs_proc

pytestmark = [needs_proc, pytest.mark.faults, pytest.mark.timeout(900 if FULL else 300)]

STOPPED_SECONDS = 5.0
BACK_SECONDS = 5.0  # within which the clients of a killed node are back
EXIT_SECONDS = 15.0
GONE_SECONDS = 60.0  # however slow the machine is
SHUTDOWN, NO_CLOSE_FRAME = 3001, 1006
STALLED = 25 if FULL else 4  # clients of each node that do not read
STALLED_BYTES = 60_000
STALLED_PUBLICATIONS = 60  # 3.6 MB for each of them
RESTARTS = 10 if FULL else 1


async def test_a_suspended_node_delivers_late_and_complete(
    own_redis: RedisServer, serve: Serve, account: Account
) -> None:
    async with scene_of(
        own_redis, serve, account, nodes=2, posted_to=slice(1, 2), runs=SOMETIMES
    ) as scene:
        stopped, _ = scene.nodes
        for _ in range(SOMETIMES):
            stopped.freeze()
            try:
                await scene.load.run(STOPPED_SECONDS)
            finally:
                stopped.thaw()
            await scene.load.run(1.0)
        told_nothing(scene.load.listeners)


async def test_killing_a_node_reconnects_only_its_own_clients(
    own_redis: RedisServer, serve: Serve, account: Account
) -> None:
    async with scene_of(own_redis, serve, account, nodes=2, runs=2 * SOMETIMES) as scene:
        scene.may_close = {NO_CLOSE_FRAME}
        for turn, (killed, other) in enumerate((scene.nodes, scene.nodes[::-1]) * SOMETIMES):
            struck = [each for each in scene.load.listeners if each.url == killed.ws]
            spared = [each for each in scene.load.listeners if each.url == other.ws]
            before = [(len(each.ended), len(each.states), gaps(each)) for each in spared]
            async with scene.load.fault("kill -9 of a node"):
                if turn < 2:  # its launcher starts the next one, and later each time
                    killed.kill_worker()
                else:
                    killed.crash()
                await scene.load.told(BACK_SECONDS, of=struck)
                await scene.load.recovered(BACK_SECONDS)
            if turn >= 2:
                await asyncio.to_thread(killed.start)
            await eventually(killed.is_live, seconds=20)
            after = [(len(each.ended), len(each.states), gaps(each)) for each in spared]
            assert after == before, "a client of the other node noticed"
        reasons = {told.reason for each in scene.load.listeners for told in gaps(each)}
        assert reasons == {"reconnect"}


def gaps(listener: Listener) -> list[Told]:
    assert listener.journal is not None
    return [entry for entry in listener.journal.entries if isinstance(entry, Told)]


async def test_a_rolling_restart_reports_every_loss_and_fails_no_request(
    own_redis: RedisServer, serve: Serve, account: Account
) -> None:
    """Two nodes restart alternately, several times, under load and with stalled readers."""
    async with (
        scene_of(own_redis, serve, account, nodes=2, runs=2 * RESTARTS) as scene,
        AsyncExitStack() as stalled,
    ):
        scene.may_close = {SHUTDOWN}
        for _ in range(RESTARTS):
            for node in scene.nodes:
                await stall(node, stalled)
                await restarted(scene, node)
        assert not scene.load.unanswered, "a request in progress got no response"
        reasons = {told.reason for each in scene.load.listeners for told in gaps(each)}
        assert reasons <= {"reconnect"}


async def stall(node: Service, stalled: AsyncExitStack) -> None:
    """Let clients subscribe and stop reading, and send them more than any buffer holds."""
    channel = f"public:stalled-{node.port}"
    subscribed = asyncio.Event()
    for _ in range(STALLED):
        subscribed.clear()
        client = await LeanClient.open(node.ws, lambda frame: _note(frame, subscribed))
        stalled.callback(client.abort)
        client.send('{"id":1,"connect":{}}')
        client.send(json.dumps({"id": 2, "subscribe": {"channel": channel}}))
        await subscribed.wait()
        client.stall()
    async with httpx.AsyncClient(headers=KEY) as http:
        for number in range(STALLED_PUBLICATIONS):
            body = {"channel": channel, "data": [number, "x" * STALLED_BYTES]}
            answer = await http.post(f"{node.http}/api/publish", json=body)
            assert answer.status_code == 200, answer.text


def _note(frame: str, subscribed: asyncio.Event) -> None:
    if '"id":2' in frame:
        subscribed.set()


async def restarted(scene: Scene, node: Service) -> None:
    """Restart a node; observe the shutdown."""
    load, here = scene.load, [each for each in scene.load.listeners if each.url == node.ws]
    assert here
    before = [len(gaps(each)) for each in here]
    async with load.fault("a node restarts"):
        began = time.monotonic()
        node.terminate()
        await eventually(lambda: says_that_it_leaves(node))
        await asyncio.to_thread(node.wait, GONE_SECONDS)
        assert time.monotonic() - began < allowed(EXIT_SECONDS, began)
        await load.recovered(BACK_SECONDS)
    ends = [each.ended[-1] for each in here]
    assert all(end.at > began and end.code == SHUTDOWN for end in ends), Counter(
        end.code for end in ends
    )
    busiest = max(Counter(int(end.at * 4) for end in ends).values())
    assert busiest <= 3 * DRAIN_PER_SECOND / 4, f"{busiest} of {len(ends)} in a quarter of a second"
    published_after(began, load, list(zip(here, before, strict=True)))
    await asyncio.to_thread(node.start)


def says_that_it_leaves(node: Service) -> bool:
    answer = httpx.get(f"{node.http}/readyz", timeout=60)
    return answer.status_code == 503 and answer.json()["reason"] == "leaving"


def published_after(began: float, load: Load, listeners: list[tuple[Listener, int]]) -> None:
    """Publications from before the node began to leave have reached its clients."""
    answered = {
        (each.channel, each.position): each.ended for each in load.ledger.attempts if each.position
    }
    for listener, before in listeners:
        for told in gaps(listener)[before:]:
            assert told.gap.last is not None
            for offset in range(told.gap.first, told.gap.last + 1):
                position = (told.gap.epoch, offset)
                at = answered.get((listener.channel, position), began)
                assert at >= began, f"{position} was published before, and missed"


async def test_a_request_whose_body_is_still_arriving_is_answered(
    redis_server: RedisServer, serve: Serve
) -> None:
    node = await asyncio.to_thread(serve, redis_server.url, DEPLOYED)
    body = b'{"channel":"public:a","data":1}'
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(
        b"POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %b\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (KEY["X-API-Key"].encode(), len(body), body[:10])
    )
    await writer.drain()
    node.terminate()
    await eventually(lambda: refuses(node), seconds=LINGER_SECONDS + DRAIN_SECONDS)
    writer.write(body[10:])
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"offset":' in answer
    assert LINGER_SECONDS + DRAIN_SECONDS + GRACEFUL_SECONDS < EXIT_SECONDS
    await asyncio.to_thread(node.wait, GONE_SECONDS)
    writer.close()


async def refuses(node: Service) -> bool:
    """Whether no new connection is accepted any more."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", node.port)
    except OSError:
        return True
    writer.close()
    return False
