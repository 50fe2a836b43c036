"""A server that runs the application without an asyncio task, like Granian's ``rust``."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from channels.routing import URLRouter

from realtime.endpoint import HttpEndpoint
from realtime.routing import websocket_urlpatterns
from realtime.transports.own_task import is_in_task, run_in_own_task
from realtime.wiring import Node
from tests.support.eventually import eventually

HEADERS = [(b"host", b"testserver")]
Current = Callable[[asyncio.AbstractEventLoop], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def nothing(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """During a step, `asyncio.current_task` returns None."""
    yield


@contextlib.contextmanager
def placeholder(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """During a step, it returns a task that was never initialized, as Granian 2.8.9 does."""
    task: asyncio.Task[Any] = asyncio.Task.__new__(asyncio.Task)
    asyncio._enter_task(loop, task)
    try:
        yield
    finally:
        asyncio._leave_task(loop, task)


class Stepper:
    """Runs a coroutine through callbacks of the loop."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], current: Current) -> None:
        self._coroutine = coroutine
        self._current = current
        self._loop = asyncio.get_running_loop()
        self.is_done = False
        self.error: BaseException | None = None
        self._loop.call_soon(self._step)

    def _step(self, _: object = None) -> None:
        if not self.is_done:
            self._advance(self._coroutine.send, None)

    def end(self, error: BaseException) -> None:
        """Raise an exception where the coroutine waits, like a server that gives up."""
        self._loop.call_soon(self._advance, self._coroutine.throw, error)

    def _advance(self, step: Callable[[Any], Any], value: Any) -> None:
        try:
            with self._current(self._loop):
                waits_for = step(value)
        except StopIteration:
            self.is_done = True
        except BaseException as error:  # noqa: BLE001 - it is handed to the test
            self.is_done, self.error = True, error
        else:
            if waits_for is None:
                self._loop.call_soon(self._step)
            else:
                waits_for._asyncio_future_blocking = False
                waits_for.add_done_callback(self._step)


@pytest.fixture(params=[nothing, placeholder])
def current(request: pytest.FixtureRequest) -> Current:
    found: Current = request.param
    return found


class Exchange:
    """One connection: what the client sends, and what the application sends."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        return await self.incoming.get()

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def say(self, **command: Any) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(command)})

    @property
    def text(self) -> str:
        return "".join(
            message.get("text", "") + message.get("body", b"").decode() for message in self.sent
        )

    def types(self) -> list[str]:
        return [message["type"] for message in self.sent]


async def test_a_coroutine_knows_whether_it_is_in_a_task(current: Current) -> None:
    found: list[bool] = []

    async def look() -> None:
        found.append(is_in_task())

    stepper = Stepper(look(), current)
    await eventually(lambda: stepper.is_done)
    await look()
    assert found == [False, True]


async def test_a_timeout_fires_in_the_own_task(current: Current) -> None:
    async def wait() -> None:
        assert is_in_task()
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    stepper = Stepper(run_in_own_task(wait()), current)
    await eventually(lambda: stepper.is_done)
    assert isinstance(stepper.error, TimeoutError)


async def test_the_own_task_ends_with_its_caller(current: Current) -> None:
    steps: list[str] = []

    async def wait() -> None:
        steps.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("ended")

    stepper = Stepper(run_in_own_task(wait()), current)
    await eventually(lambda: steps == ["begun"])
    stepper.end(ConnectionResetError())
    await eventually(lambda: steps == ["begun", "ended"])
    assert isinstance(stepper.error, ConnectionResetError)


async def test_a_websocket_without_a_task_is_served_and_ended(node: Node, current: Current) -> None:
    client = Exchange()
    scope = {
        "type": "websocket",
        "path": "/connection/websocket",
        "scheme": "ws",
        "headers": HEADERS,
        "client": ("127.0.0.1", 1),
    }
    app = URLRouter(websocket_urlpatterns)
    client.incoming.put_nowait({"type": "websocket.connect"})
    stepper = Stepper(app(scope, client.receive, client.send), current)
    client.say(id=1, connect={})
    await eventually(lambda: '"id":1' in client.text)
    await node.hub.drain(0)
    await eventually(lambda: stepper.is_done)
    assert stepper.error is None
    assert client.types()[0] == "websocket.accept"
    assert client.sent[-1]["type"] == "websocket.close"
    assert client.sent[-1]["code"] == 3001


async def test_a_stream_without_a_task_is_served_and_ended(node: Node, current: Current) -> None:
    async def django(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the stream is not Django's")

    client = Exchange()
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/connection/sse",
        "query_string": b"channel=public:news",
        "scheme": "http",
        "headers": HEADERS,
        "client": ("127.0.0.1", 1),
    }
    client.incoming.put_nowait({"type": "http.request"})
    stepper = Stepper(HttpEndpoint(django)(scope, client.receive, client.send), current)
    await eventually(lambda: "event" in client.text)
    await node.hub.drain(0)
    await eventually(lambda: stepper.is_done)
    assert stepper.error is None
    assert client.sent[0]["status"] == 200
    assert not client.sent[-1].get("more_body", False)
