"""Floods of requests that are harmless individually, and many clients at a bad moment."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable

import pytest

from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.raw import TEXT, Raw, frame
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service
from tests.threats.conftest import Target, Watched

Attach = Callable[..., Awaitable[Client]]
CHANNELS = 128  # of one connection


async def test_ten_thousand_subscribes_in_a_second(target: Target, watched: Watched) -> None:
    """Redis sees no more channels than one connection may have, and the flood is closed."""
    with target.redis.client() as redis:
        async with watched(target):
            before = len(redis.pubsub_channels())
            with Raw(target.port, seconds=15).upgraded() as peer:
                peer.send(frame(TEXT, b'{"id":1,"connect":{}}'))
                lines = [
                    json.dumps({"id": n + 2, "subscribe": {"channel": f"chat:{n}"}}).encode()
                    for n in range(10_000)
                ]
                flood = [
                    frame(TEXT, b"\n".join(lines[at : at + 500])) for at in range(0, 10_000, 500)
                ]
                await asyncio.to_thread(peer.send, *flood)
                assert await asyncio.to_thread(peer.closed) == 3013
                assert len(redis.pubsub_channels()) - before <= CHANNELS
        await eventually(lambda: len(redis.pubsub_channels()) <= before)


async def test_a_client_that_floods_and_reads_late_is_told_why(target: Target) -> None:
    """A close with unread input resets the connection, and drops what the client has not read."""
    line = b'{"id":2,"ping":{}}'
    flood = [frame(TEXT, b"\n".join([line] * 1000))] * 30
    with Raw(target.port, seconds=15) as peer:
        peer.socket.close()
        peer.socket = socket.socket()
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # before it connects
        peer.socket.settimeout(15)
        peer.socket.connect(("127.0.0.1", target.port))
        peer.upgraded().send(frame(TEXT, b'{"id":1,"connect":{}}'))
        await asyncio.to_thread(peer.send, *flood)
        assert await asyncio.to_thread(peer.closed) == 3013


async def test_a_connection_subscribes_to_more_channels_than_it_may(
    target: Target, attach: Attach
) -> None:
    client = await attach(target)
    for number in range(CHANNELS):
        await client.subscribe(f"chat:{number}")
    reply = await client.ask(subscribe={"channel": "chat:one-more"})
    assert reply["error"]["code"] == 106


@pytest.mark.timeout(300)
async def test_two_hundred_clients_connect_without_redis(
    own_redis: RedisServer, serve: Callable[..., Service], attach: Attach
) -> None:
    """They are accepted and told that the node is not live.

    Two seconds after Redis returns, all are subscribed.
    """
    service = await asyncio.to_thread(serve, own_redis.url, DEPLOYED)
    own_redis.kill()
    await eventually(lambda: not service.is_live())
    clients = [await attach(service, connect=False) for _ in range(200)]
    for client in clients:
        await client.ask(connect={})
        assert not (await client.push("state"))["live"]
    own_redis.start()
    for client in clients:
        assert (await client.push("state"))["live"]
        assert "subscribe" in await client.ask(subscribe={"channel": "public:back"})
    assert service.publish("public:back", "all")["nodes"] == 1
    for client in clients:
        assert await client.data() == "all"
