"""A cancelled connection ends quietly or as cancelled, depending on what has cancelled it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from channels.routing import URLRouter

from realtime import wiring
from realtime.endpoint import HttpEndpoint
from realtime.routing import websocket_urlpatterns
from realtime.transports.cancellation import OF_UVICORN
from realtime.wiring import Node
from tests.integration.test_own_task import HEADERS, Exchange
from tests.support.eventually import eventually
from tests.support.ports import free_port

OF_A_SERVER_THAT_STOPS = f"Task cancelled, {OF_UVICORN}"
STREAMS = {
    "sse": ("/connection/sse", b"channel=public:news"),
    "uni_sse": ("/connection/uni_sse", b'cf_connect={"subs":{"public:news":{}}}'),
    "emulated": ("/connection/sse", b'cf_connect={"id":1,"connect":{}}'),
}
RIMS = [*STREAMS, "websocket"]


async def django(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("it is not Django's")


def app_of(client: Exchange, rim: str) -> Callable[[], Awaitable[None]]:
    """Return the application, called as a server calls it for a client."""
    scope: dict[str, Any] = {"headers": HEADERS, "client": ("127.0.0.1", 1), "scheme": "http"}
    if rim == "websocket":
        scope |= {"type": "websocket", "path": "/connection/websocket", "scheme": "ws"}
        client.incoming.put_nowait({"type": "websocket.connect"})
        client.say(id=1, connect={})
        return partial(URLRouter(websocket_urlpatterns), scope, client.receive, client.send)
    path, query = STREAMS[rim]
    scope |= {"type": "http", "method": "GET", "path": path, "query_string": query}
    client.incoming.put_nowait({"type": "http.request"})
    return partial(HttpEndpoint(django), scope, client.receive, client.send)


@pytest.fixture(params=RIMS)
def rim(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def served(client: Exchange, rim: str) -> asyncio.Task[None]:
    """Return the task of a connection, which waits for its client."""
    task = asyncio.ensure_future(app_of(client, rim)())
    said = "event: realtime.state" if rim == "sse" else "connect"
    await eventually(lambda: said in client.text)
    return task


@pytest.mark.usefixtures("node")
async def test_uvicorn_that_stops_ends_a_connection_without_an_error(rim: str) -> None:
    """It logged a traceback for each stream."""
    client = Exchange()
    task = await served(client, rim)
    task.cancel(msg=OF_A_SERVER_THAT_STOPS)
    await task
    assert task.cancelling() == 0
    if rim == "websocket":
        assert (client.types()[-1], client.sent[-1]["code"]) == ("websocket.close", 3001)
    else:
        assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.usefixtures("node")
async def test_any_other_cancellation_is_seen_by_who_waits_for_it(rim: str) -> None:
    task = await served(Exchange(), rim)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.usefixtures("node")
async def test_a_timeout_around_the_application_fires(rim: str) -> None:
    client = Exchange()
    app = app_of(client, rim)

    async def middleware() -> None:
        async with asyncio.timeout(None) as limit:
            waiting.set_result(limit)
            await app()

    waiting: asyncio.Future[asyncio.Timeout] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(middleware())
    limit = await waiting
    await eventually(lambda: bool(client.sent))
    limit.reschedule(0)
    with pytest.raises(TimeoutError):
        await task


async def test_a_cancellation_at_the_moment_when_the_hub_ends_it_is_not_lost(
    node: Node, rim: str
) -> None:
    task = await served(Exchange(), rim)
    node.hub.connections.close_all()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1


async def test_uvicorn_and_the_hub_may_both_end_it(node: Node, rim: str) -> None:
    task = await served(Exchange(), rim)
    task.cancel(msg=OF_A_SERVER_THAT_STOPS)
    node.hub.connections.close_all()  # by the lifespan, which ends next
    await task
    assert task.cancelling() == 0


async def test_a_stream_that_has_not_begun_is_refused_when_uvicorn_stops(settings: Any) -> None:
    settings.REALTIME_REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"  # nobody is there
    client = Exchange()
    task = asyncio.ensure_future(app_of(client, "sse")())
    await eventually(lambda: len(wiring.node().hub.connections) == 1)
    task.cancel(msg=OF_A_SERVER_THAT_STOPS)
    await task
    assert client.sent[0]["status"] == 503
    await wiring.aclose()
