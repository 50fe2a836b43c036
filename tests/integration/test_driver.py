"""Sends are driven, not awaited: what a server or a middleware does stays with its connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
import uvloop

from realtime.codes import SHUTDOWN
from realtime.driver import Driver, Wire
from realtime.frames import text_frame
from realtime.namespaces import Overflow
from realtime.outbox import Pushes
from realtime.protocols import centrifugo
from tests.support.eventually import eventually

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
who: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.fixture(params=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """Run a scene on a loop of each kind."""

    def scene(coroutine: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param], debug=False) as runner:
            runner.run(coroutine)

    return scene


class Server:
    """An ASGI server's end of one connection: records what it gets, suspends while stalled."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.writable = asyncio.Event()
        self.writable.set()

    async def send(self, message: Message) -> None:
        await self.writable.wait()
        self.sent.append(message)

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.sent if "text" in message]


@contextlib.asynccontextmanager
async def attached(send: Send, wire: Wire | None = None, **limits: int) -> Any:
    """A driver over ``send``, with a task of its own that reads, as the consumer does."""

    async def read() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            driver.end(None)

    task = asyncio.create_task(read())
    driver = Driver(
        send,
        centrifugo,
        task=task,
        context=copy_context(),
        outbox_bytes=limits.get("outbox_bytes", 4096),
        window_bytes=limits.get("window_bytes", 1024 * 1024),
        watch=lambda driver: None,
        wire=wire,
    )
    await asyncio.sleep(0)
    yield driver
    driver.end(None)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def push(n: int, text: str = "") -> Pushes:
    text = text or f"push {n}"
    return Pushes("c", "e", n, n, text, len(text), text, Overflow.GAP)


def test_a_ready_connection_has_the_frame_before_push_returns(run: Callable[[Any], None]) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as driver:
            driver.push(push(1))
            assert server.texts == ["push 1"]

    run(scene())


@pytest.mark.parametrize("mistake", [ValueError("a middleware's"), asyncio.CancelledError()])
def test_a_raising_send_between_two_good_ones_ends_only_its_connection(
    run: Callable[[Any], None], caplog: pytest.LogCaptureFixture, mistake: BaseException
) -> None:
    async def broken(message: Message) -> None:
        raise mistake

    async def scene() -> None:
        first, last = Server(), Server()
        async with attached(first.send) as a, attached(broken) as b, attached(last.send) as c:
            for driver in (a, b, c):
                driver.push(push(1))
            assert first.texts == last.texts == ["push 1"]
            assert (a.ended, b.ended, c.ended) == (False, True, False)

    with caplog.at_level(logging.ERROR):
        run(scene())
    assert "a send failed" in caplog.text


def test_a_client_that_has_gone_is_no_error(
    run: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def gone(message: Message) -> None:
        raise ConnectionResetError

    async def scene() -> None:
        async with attached(gone) as driver:
            driver.push(push(1))
            assert driver.ended

    run(scene())
    assert caplog.text == ""


def test_a_suspended_send_holds_back_what_follows_and_keeps_its_order(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as driver:
            server.writable.clear()
            for n in range(1, 4):
                driver.push(push(n))
            assert server.texts == []
            server.writable.set()
            await eventually(lambda: len(server.texts) >= 2)
            assert "\n".join(server.texts) == "push 1\npush 2\npush 3"
            driver.push(push(4))
            assert server.texts[-1] == "push 4"

    run(scene())


def test_an_outbox_that_overflows_becomes_a_gap(run: Callable[[Any], None]) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as driver:
            server.writable.clear()
            for n in range(1, 9):
                driver.push(push(n, str(n) * 1000))
            server.writable.set()
            await eventually(lambda: len(server.texts) >= 2)
            first, rest = server.texts
            assert first == "1" * 1000
            assert '"from":2,"to":4,"reason":"slow"' in rest.split("\n")[0]
            assert rest.split("\n")[1:] == [str(n) * 1000 for n in range(5, 9)]

    run(scene())


def test_a_send_runs_in_its_connection_s_own_context(run: Callable[[Any], None]) -> None:
    seen: list[str] = []

    async def send(message: Message) -> None:
        seen.append(who.get())
        await asyncio.sleep(0)
        seen.append(who.get())

    async def scene() -> None:
        who.set("ada")
        async with attached(send) as driver:
            who.set("somebody else, whose task the hub runs in")
            driver.push(push(1))
            await eventually(lambda: len(seen) >= 2)
        assert seen == ["ada", "ada"]

    run(scene())


def test_a_timeout_in_a_middleware_ends_its_connection_and_not_the_hub(
    run: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    """`asyncio.timeout` cancels the task that is current at its start: never the hub's."""

    async def scene() -> None:
        server, neighbour = Server(), Server()

        async def hurried(message: Message) -> None:
            async with asyncio.timeout(0.02):
                await server.send(message)

        async with attached(hurried) as driver, attached(neighbour.send) as other:
            driver.push(push(1))
            assert server.texts == ["push 1"]
            server.writable.clear()
            driver.push(push(2))
            await eventually(lambda: driver.ended)
            other.push(push(2))
            assert neighbour.texts == ["push 2"]

    run(scene())


def test_ending_cancels_a_suspended_send_and_leaves_no_task(run: Callable[[Any], None]) -> None:
    cancelled = asyncio.Event()

    async def stalled(message: Message) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def scene() -> None:
        async with attached(stalled) as driver:
            driver.push(push(1))
            await asyncio.sleep(0)
            driver.end(SHUTDOWN)
        await asyncio.sleep(0)
        assert cancelled.is_set()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scene())


def test_a_connection_is_told_why_it_ends_after_what_it_was_told_before(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as driver:
            with driver.corked():
                driver.say("a reply")
                driver.end(SHUTDOWN)
        assert server.sent == [
            {"type": "websocket.send", "text": "a reply"},
            {"type": "websocket.close", "code": 3001, "reason": "shutdown"},
        ]

    run(scene())


def test_what_is_said_in_one_go_is_one_frame(run: Callable[[Any], None]) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as driver:
            with driver.corked():
                for text in "abc":
                    driver.say(text)
            assert server.texts == ["a\nb\nc"]

    run(scene())


def test_a_full_window_holds_publications_back_until_a_pong(run: Callable[[Any], None]) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send, window_bytes=4000, outbox_bytes=100_000) as driver:
            for n in range(1, 9):
                driver.push(push(n, str(n) * 1000))
            written = [text for text in server.texts if text != "{}"]
            assert len(written) == 5, "one more than the window holds: then it is past it"
            assert server.texts.count("{}") == 4
            driver.pong()
            assert "".join(server.texts).count("6") == 1000

    run(scene())


def test_hundreds_of_replies_that_nobody_reads_close_the_connection(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as driver:
            server.writable.clear()
            for _ in range(70):
                driver.say("x" * 1024)
            assert driver.ended

    run(scene())


def test_hundreds_of_replies_in_one_go_are_no_sin(run: Callable[[Any], None]) -> None:
    """700 subscribes after a reconnect: more replies than may wait, but none of them waits."""

    async def scene() -> None:
        server = Server()
        async with attached(server.send) as driver:
            with driver.corked():
                for n in range(700):
                    driver.say(f"{n:0100}")
            assert not driver.ended
            assert len("\n".join(server.texts).split("\n")) == 700
            assert len(server.texts) < 5

    run(scene())


class Socket:
    """A server's own way for ready frames: what a `Wire` is."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.has_room = asyncio.Event()
        self.has_room.set()

    def taken_by(self, user: Driver) -> Callable[[bytes], None]:
        self.user = user
        return self.write

    def write(self, frame: bytes) -> None:
        self.frames.append(frame)
        if not self.has_room.is_set():
            self.user.full()

    async def drained(self) -> None:
        await self.has_room.wait()


async def not_this_way(message: Message) -> None:
    raise AssertionError(f"{message} should have gone over the wire")


def test_a_wire_gets_the_very_frame_that_was_made_for_all(run: Callable[[Any], None]) -> None:
    async def scene() -> None:
        one, two = Socket(), Socket()
        entry = push(1)._replace(frame=text_frame(b"push 1"))
        async with (
            attached(not_this_way, wire=one) as a,
            attached(not_this_way, wire=two) as b,
        ):
            for driver in (a, b):
                driver.push_frame(entry, entry.frame, entry.size)
                driver.say("a reply")
        assert one.frames[0] is two.frames[0] is entry.frame
        assert one.frames[1] == text_frame(b"a reply")

    run(scene())


def test_a_full_wire_holds_back_what_follows_until_it_is_drained(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        socket = Socket()
        async with attached(not_this_way, wire=socket) as driver:
            socket.has_room.clear()
            for n in range(1, 4):
                driver.push_frame(push(n), text_frame(b"push %d" % n), 6)
            assert socket.frames == [text_frame(b"push 1")]
            assert driver.is_owed_an_answer
            socket.has_room.set()
            await eventually(lambda: len(socket.frames) == 2)
            assert socket.frames[1] == text_frame(b"push 2\npush 3")

    run(scene())


def test_a_wire_whose_client_has_gone_ends_its_connection(run: Callable[[Any], None]) -> None:
    async def scene() -> None:
        socket = Socket()
        async with attached(not_this_way, wire=socket) as driver:
            socket.user.lost()
            assert driver.ended
            driver.push_frame(push(1), text_frame(b"push 1"), 6)
            assert socket.frames == []

    run(scene())
