"""Sends are driven, not awaited: a slow or failing send affects only its own connection."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
import uvloop

from realtime.connection.entries import Pushes
from realtime.connection.sinks import MessageReceiver, Wire, WireSink
from realtime.connection.stepping import rest_of
from realtime.connection.writer import Writer
from realtime.core.codes import BAD_REQUEST, SHUTDOWN
from realtime.core.meters import NodeMeters
from realtime.core.overflow import Overflow
from realtime.protocols import centrifugo
from realtime.protocols.centrifugo import text_frame
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
    """A writer over ``send``, with a separate task that reads, like the consumer."""

    async def read() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            writer.end(None)
            await writer.finish()

    task = asyncio.create_task(read())
    writer = Writer(
        send,
        centrifugo,
        task=task,
        context=copy_context(),
        outbox_bytes=limits.get("outbox_bytes", 4096),
        window_bytes=limits.get("window_bytes", 1024 * 1024),
        watch=lambda writer: None,
        meters=NodeMeters(),
        wire=wire,
    )
    await asyncio.sleep(0)
    yield writer
    writer.end(None)
    if writer._task is None:  # handed over: the app would have returned
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def push(n: int, text: str = "") -> Pushes:
    text = text or f"push {n}"
    return Pushes("c", "e", n, n, text, len(text), text, Overflow.GAP)


def test_a_connection_that_ends_while_its_outbox_is_drained_closes_it_once(
    run: Callable[[Any], None],
) -> None:
    async def broken(message: dict[str, Any]) -> None:
        raise OSError("the client has gone")

    async def scene() -> None:
        async with attached(broken) as writer:
            with writer.corked():
                writer.send("a reply")
            assert writer.ended
            assert not writer._meters.outboxes

    run(scene())


def test_a_ready_connection_has_sent_the_frame_before_push_returns(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as writer:
            writer.write_entry(push(1))
            assert server.texts == ["push 1"]

    run(scene())


@pytest.mark.parametrize("mistake", [ValueError("a middleware's"), asyncio.CancelledError()])
def test_a_failing_send_ends_only_its_own_connection(
    run: Callable[[Any], None], caplog: pytest.LogCaptureFixture, mistake: BaseException
) -> None:
    async def broken(message: Message) -> None:
        raise mistake

    async def scene() -> None:
        first, last = Server(), Server()
        async with attached(first.send) as a, attached(broken) as b, attached(last.send) as c:
            for writer in (a, b, c):
                writer.write_entry(push(1))
            assert first.texts == last.texts == ["push 1"]
            assert (a.ended, b.ended, c.ended) == (False, True, False)

    with caplog.at_level(logging.ERROR):
        run(scene())
    assert "sending to a connection failed" in caplog.text


def test_sending_to_a_client_that_has_left_is_not_an_error(
    run: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def gone(message: Message) -> None:
        raise ConnectionResetError

    async def scene() -> None:
        async with attached(gone) as writer:
            writer.write_entry(push(1))
            assert writer.ended

    run(scene())
    assert caplog.text == ""


def test_a_suspended_send_delays_later_messages_and_keeps_their_order(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as writer:
            server.writable.clear()
            for n in range(1, 4):
                writer.write_entry(push(n))
            assert server.texts == []
            server.writable.set()
            await eventually(lambda: len(server.texts) >= 2)
            assert "\n".join(server.texts) == "push 1\npush 2\npush 3"
            writer.write_entry(push(4))
            assert server.texts[-1] == "push 4"

    run(scene())


def test_an_outbox_that_overflows_becomes_a_gap(run: Callable[[Any], None]) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as writer:
            server.writable.clear()
            for n in range(1, 9):
                writer.write_entry(push(n, str(n) * 1000))
            server.writable.set()
            await eventually(lambda: len(server.texts) >= 2)
            first, rest = server.texts
            assert first == "1" * 1000
            assert '"from":2,"to":4,"reason":"slow"' in rest.split("\n")[0]
            assert rest.split("\n")[1:] == [str(n) * 1000 for n in range(5, 9)]

    run(scene())


def test_a_send_runs_in_the_context_of_its_connection(run: Callable[[Any], None]) -> None:
    seen: list[str] = []

    async def send(message: Message) -> None:
        seen.append(who.get())
        await asyncio.sleep(0)
        seen.append(who.get())

    async def scene() -> None:
        who.set("ada")
        async with attached(send) as writer:
            who.set("somebody else, whose task the hub runs in")
            writer.write_entry(push(1))
            await eventually(lambda: len(seen) >= 2)
        assert seen == ["ada", "ada"]

    run(scene())


def test_a_timeout_in_a_middleware_ends_its_connection_and_not_the_hub(
    run: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    """`asyncio.timeout` cancels the task that was current when it started: never the hub's."""

    async def scene() -> None:
        server, neighbour = Server(), Server()

        async def hurried(message: Message) -> None:
            async with asyncio.timeout(0.02):
                await server.send(message)

        async with attached(hurried) as writer, attached(neighbour.send) as other:
            writer.write_entry(push(1))
            assert server.texts == ["push 1"]
            server.writable.clear()
            writer.write_entry(push(2))
            await eventually(lambda: writer.ended)
            other.write_entry(push(2))
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
        async with attached(stalled) as writer:
            writer.write_entry(push(1))
            await asyncio.sleep(0)
            writer.end(SHUTDOWN)
        await asyncio.sleep(0)
        assert cancelled.is_set()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scene())


class LaterServer(Server):
    """Its `send` returns an awaitable that is no coroutine and always suspends, like Granian's."""

    def send(self, message: Message) -> Any:  # type: ignore[override]
        written = asyncio.get_running_loop().create_future()

        def write() -> None:
            self.sent.append(dict(message))
            written.set_result(None)

        asyncio.get_running_loop().call_later(0.001, write)

        class Sending:
            def __await__(self) -> Any:
                return iter(written)

        return Sending()


def test_early_pings_are_sent_although_each_write_suspends(run: Callable[[Any], None]) -> None:
    """None was, so a client that read everything waited for the next heartbeat at a full window."""

    async def scene() -> None:
        server = LaterServer()
        async with attached(server.send, outbox_bytes=10_000_000, window_bytes=400_000) as writer:
            for number in range(200):
                writer.write_entry(push(number, "x" * 10_000))
            while len("".join(server.texts).replace(centrifugo.PING, "")) < 2_000_000:
                if server.texts.count(centrifugo.PING) > writer.flow.acked // 100_000:
                    writer.pong()
                await asyncio.sleep(0.001)
        assert server.texts.count(centrifugo.PING) >= 4

    run(scene())


@pytest.mark.parametrize("is_blocked", [True, False], ids=["in a write", "between two"])
def test_a_server_that_writes_later_writes_the_close_frame_too(
    run: Callable[[Any], None], is_blocked: bool
) -> None:
    """The close frame was dropped, because the disconnect push before it was not written yet."""

    async def scene() -> None:
        server = LaterServer()
        async with attached(server.send) as writer:
            if is_blocked:
                writer.write_entry(push(1))
            writer.end(BAD_REQUEST)
        texts = [message.get("text", message.get("code")) for message in server.sent]
        assert texts[-2:] == [centrifugo.encode_disconnect_push(BAD_REQUEST), 3501]
        assert len(texts) == 2 + is_blocked
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scene())


def test_a_client_that_does_not_read_delays_its_goodbye_for_a_second_at_most(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as writer:
            server.writable.clear()
            writer.write_entry(push(1))
            writer.end(SHUTDOWN)
        assert [message["type"] for message in server.sent if "code" in message] == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scene())


def test_a_bare_iterator_is_completed_and_cancelled(run: Callable[[Any], None]) -> None:
    """`__await__` need not return a generator: Granian's has no `send` and no `throw`."""

    class Steps:
        def __init__(self) -> None:
            self.left = [None, None]

        def __iter__(self) -> Steps:
            return self

        def __next__(self) -> None:
            if not self.left:
                raise StopIteration
            self.left.pop()

    async def scene() -> None:
        steps = Steps()
        await rest_of(steps, next(steps))
        assert steps.left == []
        endless = Steps()
        endless.left = [None] * 10**6
        task = asyncio.create_task(rest_of(endless, next(endless)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scene())


def test_the_close_reason_is_sent_after_all_earlier_messages(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as writer:
            with writer.corked():
                writer.send("a reply")
                writer.end(SHUTDOWN)
        assert server.sent == [
            {"type": "websocket.send", "text": "a reply"},
            {"type": "websocket.close", "code": 3001, "reason": "shutdown"},
        ]

    run(scene())


def test_messages_sent_in_one_turn_share_a_frame(run: Callable[[Any], None]) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as writer:
            with writer.corked():
                for text in "abc":
                    writer.send(text)
            assert server.texts == ["a\nb\nc"]

    run(scene())


def test_a_full_window_holds_publications_back_until_a_pong(run: Callable[[Any], None]) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send, window_bytes=4000, outbox_bytes=100_000) as writer:
            for n in range(1, 9):
                writer.write_entry(push(n, str(n) * 1000))
            written = [text for text in server.texts if text != "{}"]
            assert len(written) == 5, "one more than the window holds: then it is past it"
            assert server.texts.count("{}") == 4
            writer.pong()
            assert "".join(server.texts).count("6") == 1000

    run(scene())


def test_hundreds_of_unread_replies_close_the_connection(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        server = Server()
        async with attached(server.send) as writer:
            server.writable.clear()
            for _ in range(70):
                writer.send("x" * 1024)
            assert writer.ended

    run(scene())


def test_hundreds_of_replies_in_one_turn_are_allowed(run: Callable[[Any], None]) -> None:
    """700 subscribes after a reconnect: more replies than may wait, but all are written."""

    async def scene() -> None:
        server = Server()
        async with attached(server.send) as writer:
            with writer.corked():
                for n in range(700):
                    writer.send(f"{n:0100}")
            assert not writer.ended
            assert len("\n".join(server.texts).split("\n")) == 700
            assert len(server.texts) < 5

    run(scene())


class Socket:
    """A server's direct path for encoded frames: a `Wire`."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.left = 0

    def attach_sink(self, user: WireSink) -> Callable[[bytes], None]:
        self.user = user
        return self.write

    def write(self, frame: bytes) -> None:
        self.frames.append(frame)
        if not self.has_room.is_set():
            self.user.note_full()

    async def wait_until_drained(self) -> None:
        await self.has_room.wait()

    def hand_over(self, receiver: MessageReceiver) -> Callable[[], None]:
        self.receiver = receiver
        return lambda: None

    def leave(self) -> None:
        self.left += 1


async def not_this_way(message: Message) -> None:
    raise AssertionError(f"{message} should have gone over the wire")


def test_every_wire_gets_the_same_shared_frame(run: Callable[[Any], None]) -> None:
    async def scene() -> None:
        one, two = Socket(), Socket()
        entry = push(1)._replace(frame=text_frame(b"push 1"))
        async with (
            attached(not_this_way, wire=one) as a,
            attached(not_this_way, wire=two) as b,
        ):
            for writer in (a, b):
                writer.write_encoded(entry, entry.frame, entry.size)
                writer.send("a reply")
        assert one.frames[0] is two.frames[0] is entry.frame
        assert one.frames[1] == text_frame(b"a reply")

    run(scene())


def test_a_full_wire_delays_later_messages_until_it_drains(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        socket = Socket()
        async with attached(not_this_way, wire=socket) as writer:
            socket.has_room.clear()
            for n in range(1, 4):
                writer.write_encoded(push(n), text_frame(b"push %d" % n), 6)
            assert socket.frames == [text_frame(b"push 1")]
            assert writer.is_owed_an_answer
            socket.has_room.set()
            await eventually(lambda: len(socket.frames) == 2)
            assert socket.frames[1] == text_frame(b"push 2\npush 3")

    run(scene())


def test_a_wire_whose_client_has_left_ends_its_connection(run: Callable[[Any], None]) -> None:
    async def scene() -> None:
        socket = Socket()
        async with attached(not_this_way, wire=socket) as writer:
            socket.user.note_lost()
            assert writer.ended
            writer.write_encoded(push(1), text_frame(b"push 1"), 6)
            assert socket.frames == []

    run(scene())


class Ear:
    """Receives what a client says, once its connection has no task."""

    def receive(self, text: str | None) -> bool:
        return True

    def note_lost(self) -> None:
        """Do nothing: the tests below end their writers themselves."""


def test_a_connection_without_a_task_is_left_after_its_close_frame(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        server, socket = Server(), Socket()
        async with attached(server.send, wire=socket) as writer:
            assert writer.hand_over(Ear()) is not None
            writer.send("a reply")
            assert socket.left == 0
            writer.end(SHUTDOWN)
            assert server.sent[-1]["code"] == SHUTDOWN.code
            writer.end(None)
            assert socket.left == 1

    run(scene())


def test_a_connection_without_a_task_is_left_when_its_socket_has_room_for_the_close_frame(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        server, socket = Server(), Socket()
        async with attached(server.send, wire=socket) as writer:
            writer.hand_over(Ear())
            socket.has_room.clear()
            writer.send("fills the socket")
            writer.end(SHUTDOWN)
            assert (socket.left, server.sent) == (0, [])
            socket.has_room.set()
            await eventually(lambda: socket.left)
            assert server.sent[-1]["code"] == SHUTDOWN.code

    run(scene())


def test_a_connection_without_a_task_is_left_at_once_if_its_client_reads_nothing(
    run: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.connection.writer.GOODBYE_SECONDS", 0.0)

    async def scene() -> None:
        server, socket = Server(), Socket()
        async with attached(server.send, wire=socket) as writer:
            writer.hand_over(Ear())
            socket.has_room.clear()
            writer.send("fills the socket")
            writer.end(SHUTDOWN)
            assert (socket.left, server.sent) == (1, [])

    run(scene())


def test_a_connection_keeps_its_task_if_it_has_ended_or_its_server_needs_it(
    run: Callable[[Any], None],
) -> None:
    async def scene() -> None:
        async with attached(Server().send) as writer:
            assert writer.hand_over(Ear()) is None
        async with attached(Server().send, wire=Socket()) as writer:
            writer.end(None)
            assert writer.hand_over(Ear()) is None

    run(scene())


@pytest.mark.parametrize("has_wire", [False, True])
def test_an_ended_writer_is_freed_without_the_garbage_collector(
    run: Callable[[Any], None], has_wire: bool
) -> None:
    """The service rarely collects garbage: 2,500 clients that came and went once left 150 MiB."""

    async def scene() -> None:
        server, socket = Server(), Socket()
        async with attached(server.send, wire=socket if has_wire else None) as writer:
            writer.send("a reply")
            writer.end(SHUTDOWN)
            if has_wire:
                del socket.user
        assert server.sent[-1]["type"] == "websocket.close"

    gc.collect()
    gc.disable()
    try:
        before = _writers()
        run(scene())
        assert _writers() <= before
    finally:
        gc.enable()


def _writers() -> int:
    return sum(isinstance(each, Writer) for each in gc.get_objects())
