"""The two paths into a socket. A sink writes immediately; `writer` decides when.

A server that offers a `Wire` takes encoded frames, which are encoded once for all connections: one
function call and one system call. All other servers get ASGI's `send`.

`send` is advanced by one step, in the connection's own context. Usually that completes it: the
server has written the frame to the socket. If it suspends, the rest is left to the user of the
sink (ADR-0004). A server with a `Wire` can also do without the connection's task (ADR-0038).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from realtime.connection.stepping import as_current_task, rest_of

if TYPE_CHECKING:
    from realtime.core.codes import Close
    from realtime.protocols import WireProtocol

WIRE = "realtime.wire"
"""The name under which a server offers a `Wire` in ``scope["extensions"]``."""

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Wire(Protocol):
    """A server's direct path into a socket, used for everything except the close frame.

    A middleware around `send` does not see these frames, so only a server without one may offer it.
    """

    def attach_sink(self, user: WireSink) -> Callable[[bytes], None]:
        """Return the function that writes an encoded frame, and report its state to the user.

        It calls `WireSink.note_full` during a write if the next frame should wait for
        `wait_until_drained`, and `WireSink.note_lost` as soon as writing is no longer possible. A
        delivery thus touches as few objects as possible: with a thousand connections, each object
        is a cache miss.
        """

    async def wait_until_drained(self) -> None:
        """Wait until more can be written."""

    def hand_over(self, receiver: MessageReceiver) -> Callable[[], None]:
        """Pass the client's messages to the receiver from now on, instead of to the application.

        Afterwards the application returns, without ending the connection.

        Returns:
            What the receiver calls to get more messages, after it returned False.
        """

    def leave(self) -> None:
        """End the connection, after `hand_over`; if a close frame was sent, when it is answered."""


class MessageReceiver(Protocol):
    """Takes the messages of one client without a task; the server calls it as they arrive."""

    def receive(self, text: str | None) -> bool:
        """Take a message, None if it is not text; False to get the next one only on request."""

    def note_lost(self) -> None:
        """Note that the connection has ended, for whatever reason; called once."""


class SinkUser(Protocol):
    """The interface of a writer that its sink reports to."""

    ended: bool

    @property
    def is_suspended(self) -> bool:
        """Whether an earlier write is not completed yet."""

    def suspend(self, rest: Coroutine[Any, Any, None]) -> None:
        """Complete a write, and write nothing before that."""

    def fail(self, error: BaseException) -> None:
        """End the connection: a write has raised an exception."""

    def end(self, close: None) -> None:
        """End the connection: the client has disconnected."""


class AsgiSink:
    """Writes with ASGI's `send`."""

    __slots__ = ("_context", "_loop", "_protocol", "_send", "_task", "_user")

    reason_arrives = False
    """Whether the server is certain to write code and reason of a close frame."""

    def __init__(
        self,
        send: Send,
        protocol: WireProtocol,
        user: SinkUser,
        task: asyncio.Task[Any],
        context: Context,
    ) -> None:
        """Take the same arguments as `realtime.connection.writer.Writer`."""
        self._send = send
        self._protocol = protocol
        self._user = user
        self._task: asyncio.Task[Any] | None = task
        self._context = context
        self._loop = task.get_loop()

    def put(self, text: str) -> None:
        """Write lines to the socket in one write."""
        frames = self._protocol.frames(text)
        if len(frames) == 1:
            self._start(self._send({"type": "websocket.send", "text": frames[0]}))
        else:
            self._start(self._send_all(frames))

    def close(self, code: int, reason: str) -> None:
        """Write the close frame."""
        self._start(self._send({"type": "websocket.close", "code": code, "reason": reason}))

    def goodbye(self, why: Close) -> list[Callable[[], None]]:
        """Return the writes that tell the client why its connection ends, in order."""
        text, close = self._protocol.encode_goodbye(why, reason_arrives=self.reason_arrives)
        last = partial(self.close, close.code, close.reason)
        return [partial(self.put, text), last] if text else [last]

    async def _send_all(self, frames: Sequence[str]) -> None:
        for frame in frames:
            await self._send({"type": "websocket.send", "text": frame})

    def _start(self, sending: Awaitable[None]) -> None:
        """Advance a `send` by one step."""
        steps = sending.__await__()
        try:
            if self._task is None:  # the server has taken over, and its `send` needs none
                waits_for = next(steps)
            else:
                with as_current_task(self._task, self._loop):
                    waits_for = self._context.run(next, steps)
        except StopIteration:
            return
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a server may raise anything here; it ends this connection only
            # A cancellation comes from a middleware: none of our tasks is cancelled in this step,
            # and it would abort the delivery to the remaining connections.
            self._user.fail(error)
            return
        self._user.suspend(rest_of(steps, waits_for))


class WireSink(AsgiSink):
    """Writes with a server's `Wire`, but the close frame with ASGI's `send`."""

    __slots__ = ("_wire", "leave_wire", "write_frame")

    reason_arrives = True

    def __init__(
        self,
        wire: Wire,
        send: Send,
        protocol: WireProtocol,
        user: SinkUser,
        task: asyncio.Task[Any],
        context: Context,
    ) -> None:
        """Take over the wire; the other arguments are those of `AsgiSink`."""
        super().__init__(send, protocol, user, task, context)
        self._wire = wire
        self.write_frame = wire.attach_sink(self)
        """Writes an encoded frame."""
        self.leave_wire = wire.leave

    def hand_over(self, receiver: MessageReceiver) -> Callable[[], None]:
        """Go on without the connection's task; see `Wire.hand_over`."""
        self._task = None
        del self._context  # of that task
        return self._wire.hand_over(receiver)

    def put(self, text: str) -> None:
        """Write lines to the socket in one write."""
        self.write_frame(self._protocol.wire_frames(text))

    def note_full(self) -> None:
        """Wait until the wire is drained: it has taken a frame, and its buffer is full."""
        if not self._user.is_suspended and not self._user.ended:
            self._user.suspend(self._wire.wait_until_drained())

    def note_lost(self) -> None:
        """End the connection: the wire can no longer write."""
        self._user.end(None)


class NoSink:
    """Replaces the sink of a connection that has ended, which breaks a reference cycle."""

    __slots__ = ()

    def put(self, text: str) -> None:
        """Write nothing."""

    def goodbye(self, why: Close) -> list[Callable[[], None]]:
        """Return nothing to write."""
        return []


NO_SINK = NoSink()
