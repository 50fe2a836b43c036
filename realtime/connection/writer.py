"""Decides when to write to one connection, without blocking the hub.

A `send` that suspends is completed by a task; meanwhile, the connection is blocked, and further
entries wait in the outbox. So do entries that exceed the window of a client that reads slowly, and
texts that are collected for one frame. Nothing else in the project writes to a connection
once it is attached (ADR-0004). Its sink does the writing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any

from realtime.connection.entries import Entry, Pushes, Undroppable
from realtime.connection.flow import Flow
from realtime.connection.outbox import Outbox
from realtime.connection.sinks import NO_SINK, AsgiSink, NoSink, WireSink
from realtime.core.callbacks import do_nothing
from realtime.core.codes import SLOW, Close
from realtime.protocols import JOINED_FRAME_BYTES

if TYPE_CHECKING:
    from realtime.connection.sinks import MessageReceiver, Send, Wire
    from realtime.core.meters import NodeMeters
    from realtime.protocols import WireProtocol

logger = logging.getLogger(__name__)

GOODBYE_SECONDS = 1.0
"""How long a suspended write may delay the goodbye; nginx lingers 5 s for the rest of a request."""


class Writer:
    """The writing half of one connection.

    Bound to the loop in which it is created. Its creator must finally call `end`.
    """

    __slots__ = (
        "_blocked",
        "_context",
        "_corked",
        "_finisher",
        "_goodbye",
        "_leave_wire",
        "_loop",
        "_meters",
        "_outbox_bytes",
        "_sink",
        "_suspended_at",
        "_task",
        "_watch",
        "_write_frame",
        "ended",
        "ends_task",
        "flow",
        "on_end",
        "outbox",
        "protocol",
    )

    def __init__(
        self,
        send: Send,
        protocol: WireProtocol,
        *,
        task: asyncio.Task[Any],
        context: Context,
        outbox_bytes: int,
        window_bytes: int,
        watch: Callable[[Writer], None],
        meters: NodeMeters,
        wire: Wire | None = None,
    ) -> None:
        """Take over a connection.

        Args:
            send: The ASGI server's (or a middleware's) send.
            protocol: Encodes pings and gaps.
            task: The connection's own task; cancelled when another task ends the connection.
            context: A copy of that task's context.
            outbox_bytes: Bytes that may wait in the outbox.
            window_bytes: Bytes that may be in flight to the client.
            watch: Called when the client starts to owe an answer.
            meters: Those of the node.
            wire: The server's direct path, if it offers one.
        """
        self.protocol = protocol
        """The wire protocol of the client."""
        self._task: asyncio.Task[Any] | None = task
        self._context: Context | None = context
        self._loop = task.get_loop()
        self._outbox_bytes = outbox_bytes
        self.outbox: Outbox | None = None
        """What waits; None while nothing does."""
        self._watch = watch
        self._meters = meters
        self._finisher: asyncio.Task[None] | None = None
        self._goodbye: list[Callable[[], None]] = []
        self._suspended_at = 0.0
        self._corked = False
        self._blocked = False
        self.flow = Flow(window_bytes)
        self.ended = False
        self.ends_task = False
        """Whether it has cancelled the connection's task, or the task has called `finish`."""
        self._leave_wire: Callable[[], None] = do_nothing
        self.on_end: Callable[[], None] = do_nothing
        """Called once, when the connection ends."""
        self._write_frame: Callable[[bytes], None] | None = None
        self._sink: AsgiSink | NoSink
        if wire is None:
            self._sink = AsgiSink(send, protocol, self, task, context)
        else:
            self._sink = sink = WireSink(wire, send, protocol, self, task, context)
            self._write_frame = sink.write_frame

    def write_entry(self, entry: Entry) -> None:
        """Write an entry now, or append it to the outbox."""
        if self._blocked:
            self._store(entry)
        else:
            self._write(entry.text, entry.size)

    def write_encoded(self, entry: Pushes, frame: bytes, size: int) -> None:
        """Write an entry whose frame is encoded already; the hot path, one call per delivery.

        Frame and size are those of the entry; the caller reads them once for all connections.
        """
        write_frame = self._write_frame
        if self._blocked or write_frame is None:
            self.write_entry(entry)
            return
        flow = self.flow
        flow.written += size
        write_frame(frame)
        if flow.written >= flow.mark:
            self._look_at_flow()

    def write_ephemeral(self, text: str, size: int) -> bool:
        """Write an ephemeral text; return False if it would have to wait.

        A connection that has ended drops it and returns True.
        """
        if self._blocked:
            return self.ended
        self._write(text, size)
        return True

    def send(self, text: str) -> None:
        """Write a reply, or another text that must not be dropped; ignores an empty text."""
        if not text:
            return
        size = len(text.encode())
        if size > JOINED_FRAME_BYTES // 2 and self._corked:  # in its own frame, not buffered
            self._flush_corked(Undroppable(text, size))
        else:
            self.write_entry(Undroppable(text, size))

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Join all texts that are written in this context into as few frames as possible."""
        self._corked = self._blocked = True
        try:
            yield
        finally:
            self._corked = False
            self._drain()

    def forget(self, channel: str) -> None:
        """Drop waiting entries of a channel that the client has unsubscribed from."""
        if self.outbox is not None:
            self.outbox.forget(channel)

    def ping(self) -> None:
        """Send a ping, ahead of the outbox; skipped while a send is suspended."""
        if self._finisher is None and not self.ended:
            self.flow.note_ping(self._loop.time())
            self._watch(self)
            self._sink.put(self.protocol.PING)

    def pong(self) -> bool:
        """Record a pong of the client; return whether it answers a ping."""
        was_owed = self.flow.note_pong()
        if self._blocked and not self.ended:
            self._drain()
        return was_owed

    @property
    def is_suspended(self) -> bool:
        """Whether an earlier write is not completed yet."""
        return self._finisher is not None

    @property
    def is_owed_an_answer(self) -> bool:
        """Whether a ping is unanswered or a write is not completed."""
        return not self.ended and (self.flow.awaits_pong or self._finisher is not None)

    def is_overdue(self, now: float) -> bool:
        """Tell whether the client has failed to read for too long."""
        is_stuck = self._finisher is not None and now > self._suspended_at + self.flow.patience
        return is_stuck or self.flow.is_overdue(now)

    def end(self, close: Close | None) -> None:
        """End the connection, and send the reason to the client if it can still be written.

        None stands for a client that has disconnected.
        """
        if close is not None and not self.ended:
            self._corked = False
            self._drain()
        if self.ended:
            return
        self.ended = self._blocked = True
        if self.outbox is not None:
            self.outbox.close()
            self.outbox = None
        if close is not None:
            self._goodbye = self._sink.goodbye(close)
        self._sink = NO_SINK  # breaks a reference cycle, as the next line does
        on_end, self.on_end = self.on_end, do_nothing
        on_end()
        self._leave(0 if close is None else GOODBYE_SECONDS)

    async def finish(self) -> None:
        """Wait until the goodbye is written, or cannot be; the connection's task calls it last.

        Servers whose `send` always suspends (Granian) lose the close frame if the task ends first.
        """
        self.ends_task = True
        while self._finisher is not None:
            await asyncio.wait([self._finisher])

    def hand_over(self, receiver: MessageReceiver) -> Callable[[], None] | None:
        """Do without the connection's task, which must then return; see `Wire.hand_over`.

        Returns None if the task must go on, or the connection has ended.
        """
        if not isinstance(self._sink, WireSink):
            return None
        self._task = self._context = None
        self._leave_wire = self._sink.leave_wire
        return self._sink.hand_over(receiver)

    def _leave(self, seconds: float) -> None:
        """Write what is left of the goodbye, then end the connection or its task.

        A write that has been suspended for longer is cancelled, and there is no goodbye.
        """
        while self._goodbye and self._finisher is None:
            self._goodbye.pop(0)()
        if self._finisher is not None:
            left = self._suspended_at + seconds - self._loop.time()
            if left > 0:
                self._loop.call_later(left, self._finisher.cancel)
                return
            self._goodbye.clear()
            self._finisher.cancel()
        if self._task is None:
            leave, self._leave_wire = self._leave_wire, do_nothing
            leave()
        elif not self.ends_task and self._task is not asyncio.current_task():
            self.ends_task = True
            self._task.cancel()

    def _store(self, entry: Entry) -> None:
        if self.ended:
            return
        if self.outbox is None:
            self.outbox = Outbox(self._outbox_bytes, self.protocol.encode_gap, self._meters)
        if not self.outbox.add(entry):
            self.end(SLOW)
        elif self._corked and self.outbox.undroppable_bytes > JOINED_FRAME_BYTES // 2:
            self._flush_corked()

    def _flush_corked(self, entry: Undroppable | None = None) -> None:
        """Write the outbox and an entry, even while corked: many replies are not a slow client."""
        self._corked = False
        self._drain()
        if entry is not None:
            self.write_entry(entry)
        self._corked = self._blocked = True

    def _write(self, text: str, size: int) -> None:
        self.flow.written += size
        self._sink.put(text)
        if self.flow.written >= self.flow.mark:
            self._look_at_flow()

    def _look_at_flow(self) -> None:
        if self.flow.wants_ping:
            self.ping()
        self._blocked = self._is_blocked()

    def _drain(self) -> None:
        """Write waiting entries until the connection is blocked."""
        outbox = self.outbox
        while outbox and not self._is_blocked(but_outbox=True):
            text = outbox.take(JOINED_FRAME_BYTES)
            self._write(text, len(text.encode()))
        if self.outbox is not None and not self.outbox:  # a write may have ended the connection
            self.outbox.close()
            self.outbox = None  # saves memory on idle connections
        self._blocked = self._is_blocked()

    def _is_blocked(self, *, but_outbox: bool = False) -> bool:
        return (
            self.ended
            or self._corked
            or self._finisher is not None
            or self.flow.congested
            or (bool(self.outbox) and not but_outbox)
        )

    def suspend(self, rest: Coroutine[Any, Any, None]) -> None:
        """Block the connection until the rest of the last write is completed."""
        self._blocked = True
        self._suspended_at = self._loop.time()
        self._finisher = self._loop.create_task(rest, context=self._context)
        self._finisher.add_done_callback(self._note_finished)
        self._watch(self)

    def _note_finished(self, finisher: asyncio.Task[None]) -> None:
        """Resume writing. A callback, because the finisher runs in the connection's context."""
        self._finisher = None
        if finisher.cancelled():
            self._goodbye.clear()
            self.end(None)
        elif (error := finisher.exception()) is not None:
            self.fail(error)
        elif not self.ended:
            if self.flow.wants_ping:  # none could be sent while this write was suspended
                self.ping()
            self._drain()
        if self.ended:
            self._leave(GOODBYE_SECONDS)

    def fail(self, error: BaseException) -> None:
        """End the connection: a write has raised an exception."""
        # Servers raise OSError when the client has disconnected, Daphne autobahn's Disconnected;
        # any other exception is a bug.
        if not isinstance(error, OSError) and type(error).__name__ != "Disconnected":
            logger.error("sending to a connection failed; closing it", exc_info=error)
        self._goodbye.clear()
        self.end(None)
