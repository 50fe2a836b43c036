"""Writes to one connection, without ever making the hub wait for it.

Two ways lead into a socket. A server that offers a `Wire` takes ready frames, made once for all
connections: a call and a system call. Everywhere else it is ASGI's `send`.

`send` is driven one step, inside the connection's own context. Usually that finishes it: the server
has put the frame into the socket. If it suspends, one task finishes it, the connection is blocked,
and what comes meanwhile waits in the outbox. Nothing else in the project calls `send` once a
connection is attached (ADR-0004).

The task that the first step sees as current is the connection's own: `asyncio.timeout` in a
middleware needs one, and when it fires, it must hit this connection and not the hub.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Protocol

from realtime.codes import SLOW, Close
from realtime.flow import Flow
from realtime.frames import text_frame
from realtime.outbox import Control, Entry, Outbox, Pushes
from realtime.protocols import WireProtocol

logger = logging.getLogger(__name__)

FRAME_BYTES = 64 * 1024
"""Joined pushes in one frame; stock clients refuse frames over 1 MiB for good."""

WIRE = "realtime.wire"
"""The name under which a server offers a `Wire` in ``scope["extensions"]``."""

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Wire(Protocol):
    """A server's own way into a socket. Everything but the close frame then goes this way.

    A middleware around `send` does not see it, so only a server that has none may offer it.
    """

    def taken_by(self, user: Driver) -> Callable[[bytes], None]:
        """Return what writes a ready frame, and from now on tell the user how that goes.

        It calls `Driver.full` while writing, when the next frame should wait until `drained`, and
        `Driver.lost` as soon as nothing can be written any more. So a delivery touches as few
        objects as can be: with a thousand connections each is a cache miss.
        """

    async def drained(self) -> None:
        """Wait until more can be written."""


class Driver:
    """The writing half of one connection.

    Belongs to the loop it is made in. Whoever makes it calls `end` at last.
    """

    __slots__ = (
        "_abort",
        "_blocked",
        "_context",
        "_corked",
        "_finisher",
        "_loop",
        "_outbox",
        "_outbox_bytes",
        "_protocol",
        "_send",
        "_suspended_at",
        "_task",
        "_watch",
        "_wire",
        "_write_frame",
        "ended",
        "flow",
        "on_end",
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
        watch: Callable[[Driver], None],
        wire: Wire | None = None,
    ) -> None:
        """Take over a connection.

        Args:
            send: The ASGI server's (or a middleware's) send.
            protocol: Writes pings and gaps.
            task: The connection's own; cancelled when the connection ends and cannot be told.
            context: A copy of that task's.
            outbox_bytes: What may wait here.
            window_bytes: What may be on its way to the client.
            watch: Called when the client owes an answer from now on.
            wire: The server's own way, if it offers one.
        """
        self._send = send
        self._protocol = protocol
        self._task = task
        self._context = context
        self._loop = task.get_loop()
        self._outbox_bytes = outbox_bytes
        self._outbox: Outbox | None = None
        self._watch = watch
        self._wire = wire
        self._write_frame = wire.taken_by(self) if wire is not None else None
        self._finisher: asyncio.Task[None] | None = None
        self._suspended_at = 0.0
        self._corked = False
        self._blocked = False
        self.flow = Flow(window_bytes)
        self.ended = False
        self.on_end: Callable[[], None] = _nothing
        """Called once, when the connection ends."""

    def push(self, entry: Entry) -> None:
        """Write an entry now, or let it wait in the outbox."""
        if self._blocked:
            self._store(entry)
        else:
            self._write(entry.text, entry.size)

    def push_frame(self, entry: Pushes, frame: bytes, size: int) -> None:
        """`push` for an entry with a ready frame. The hot path: one call per delivery.

        Frame and size are the entry's own: the caller takes them out once for all connections.
        """
        write_frame = self._write_frame
        if self._blocked or write_frame is None:
            self.push(entry)
            return
        flow = self.flow
        flow.written += size
        write_frame(frame)
        if flow.written >= flow.mark:
            self._look_at_flow()

    def full(self) -> None:
        """The wire has taken a frame, and should get no other one before it is drained."""
        if self._wire is not None and self._finisher is None and not self.ended:
            self._suspend(self._wire.drained())

    def lost(self) -> None:
        """The wire cannot write any more."""
        self.end(None)

    def tell(self, text: str, size: int) -> bool:
        """Write what is worth hearing only now; False where it would have to wait."""
        if self._blocked:
            return self.ended
        self._write(text, size)
        return True

    def say(self, text: str) -> None:
        """Write a reply, or another text that must not be dropped."""
        size = len(text.encode())
        if (
            size > FRAME_BYTES // 2 and self._corked
        ):  # a frame of its own, and nothing that piles up
            self._let_go_of(text, size)
        else:
            self.push(Control(text, size))

    def _let_go_of(self, text: str, size: int) -> None:
        """Write a large text now where only the cork would hold it back."""
        self._corked = False
        self._drain()
        self.push(Control(text, size))
        self._corked = self._blocked = True

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Join all that is said inside to as few frames as possible."""
        self._corked = self._blocked = True
        try:
            yield
        finally:
            self._corked = False
            self._drain()

    def forget(self, channel: str) -> None:
        """Drop what waits of a channel: the client has left it."""
        if self._outbox is not None:
            self._outbox.forget(channel)

    def ping(self) -> None:
        """Ask for a pong: before what waits in the outbox, but never behind a suspended send."""
        if self._finisher is None and not self.ended:
            self.flow.pinged(self._loop.time())
            self._watch(self)
            self._put(self._protocol.PING)

    def pong(self) -> bool:
        """The client answered a ping; return whether there was one to answer."""
        was_owed = self.flow.ponged()
        if self._blocked and not self.ended:
            self._drain()
        return was_owed

    @property
    def is_congested(self) -> bool:
        """Whether the client takes less than it is told."""
        return self._finisher is not None or self.flow.congested

    @property
    def is_owed_an_answer(self) -> bool:
        """Whether the client must show that it reads."""
        return not self.ended and (self.flow.awaits_pong or self._finisher is not None)

    def is_overdue(self, now: float) -> bool:
        """Tell whether the client has shown for too long that it does not read."""
        if self.flow.is_overdue(now):
            return True
        if self._finisher is None:
            return False
        return now > self._suspended_at + self.flow.patience

    def end(self, close: Close | None) -> None:
        """End the connection, and tell the client why if that can still be written.

        None stands for a client that has gone itself.
        """
        if close is not None and not self.ended:
            self._corked = False
            self._drain()
        if self.ended:
            return
        self.ended = self._blocked = True
        self._outbox = None
        if self._finisher is not None:
            self._finisher.cancel()
        elif close is not None:
            self._say_goodbye(close)
        on_end, self.on_end = self.on_end, _nothing  # it may hold who holds this driver
        on_end()
        if self._task is not asyncio.current_task():
            self._task.cancel()

    def _say_goodbye(self, close: Close) -> None:
        if self._wire is None and not close.reconnect:
            # Daphne's close frames have no reason, and centrifuge-js takes a code without one for
            # an accident, after which it comes back.
            self._start({"type": "websocket.send", "text": self._protocol.disconnected(close)})
        if self._finisher is not None:
            self._finisher.cancel()
        else:
            self._start({"type": "websocket.close", "code": close.code, "reason": close.reason})

    def _store(self, entry: Entry) -> None:
        if self.ended:
            return
        if self._outbox is None:
            self._outbox = Outbox(self._outbox_bytes, self._protocol.gap)
        if not self._outbox.add(entry):
            self.end(SLOW)
        elif self._corked and self._outbox.control_bytes > FRAME_BYTES // 2:
            self._let_go()

    def _let_go(self) -> None:
        """Only the cork holds it back, and it makes a frame: hundreds of replies are no sin."""
        self._corked = False
        self._drain()
        self._corked = self._blocked = True

    def _write(self, text: str, size: int) -> None:
        self.flow.written += size
        self._put(text)
        if self.flow.written >= self.flow.mark:
            self._look_at_flow()

    def _look_at_flow(self) -> None:
        if self.flow.wants_ping:
            self.ping()
        self._blocked = self._is_blocked()

    def _put(self, text: str) -> None:
        """Put a text into the socket, whichever way leads there."""
        if self._write_frame is None:
            self._start({"type": "websocket.send", "text": text})
        else:
            self._write_frame(text_frame(text.encode()))

    def _drain(self) -> None:
        """Write what waits, as far as the connection takes it."""
        outbox = self._outbox
        while outbox and not self._is_blocked(but_outbox=True):
            text = outbox.take(FRAME_BYTES)
            self._write(text, len(text.encode()))
        if not outbox:
            self._outbox = None  # thousands of idle connections must not keep an empty one each
        self._blocked = self._is_blocked()

    def _is_blocked(self, *, but_outbox: bool = False) -> bool:
        return (
            self.ended
            or self._corked
            or self._finisher is not None
            or self.flow.congested
            or (bool(self._outbox) and not but_outbox)
        )

    def _start(self, message: Message) -> None:
        """Drive `send` one step."""
        steps = self._send(message).__await__()
        try:
            with _as_current_task(self._task, self._loop):
                waits_for = self._context.run(next, steps)
        except StopIteration:
            return
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a server may raise anything here; it ends this connection only
            # A cancellation is a middleware's own: no task of ours is cancelled in this step, and
            # it would break off the delivery to everybody behind this connection.
            self._broke(error)
            return
        self._suspend(_completed(_Rest(steps, waits_for)))

    def _suspend(self, rest: Coroutine[Any, Any, None]) -> None:
        """Nothing more is written until the rest of the last write is done."""
        self._blocked = True
        self._suspended_at = self._loop.time()
        self._finisher = self._loop.create_task(rest, context=self._context)
        self._finisher.add_done_callback(self._finished)
        self._watch(self)

    def _finished(self, finisher: asyncio.Task[None]) -> None:
        """Go on. As a callback, since inside the finisher the connection's context is entered."""
        self._finisher = None
        if finisher.cancelled():
            self.end(None)
        elif (error := finisher.exception()) is not None:
            self._broke(error)
        else:
            self._drain()

    def _broke(self, error: BaseException) -> None:
        # Servers say by an OSError that the client has gone, Daphne by autobahn's Disconnected;
        # anything else is somebody's mistake.
        if not isinstance(error, OSError) and type(error).__name__ != "Disconnected":
            logger.error("a send failed; its connection ends", exc_info=error)
        self.end(None)


def _nothing() -> None:
    """Stand in until somebody wants to know."""


async def _completed(rest: _Rest) -> None:
    await rest


class _Rest:
    """The rest of an awaitable whose first step was taken elsewhere.

    Gives out again what that step waits for, then passes everything through, so that the task which
    awaits this can cancel the awaitable as its own.
    """

    __slots__ = ("_steps", "_waits_for")

    def __init__(self, steps: Generator[Any, Any, None], waits_for: Any) -> None:
        self._steps = steps
        self._waits_for = [waits_for]

    def __await__(self) -> Generator[Any, Any, None]:
        return self

    def __iter__(self) -> _Rest:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._waits_for.pop() if self._waits_for else self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        return self._steps.throw(*error)

    def close(self) -> None:
        self._steps.close()


class _as_current_task:
    """Make a task the current one for a step that another drives (asyncio docs, "Extending")."""

    __slots__ = ("_before", "_loop", "_task")

    def __init__(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._task = task
        self._loop = loop

    def __enter__(self) -> None:
        self._before = asyncio.current_task(self._loop)
        if self._before is not None:
            asyncio._leave_task(self._loop, self._before)
        asyncio._enter_task(self._loop, self._task)

    def __exit__(self, *error: object) -> None:
        asyncio._leave_task(self._loop, self._task)
        if self._before is not None:
            asyncio._enter_task(self._loop, self._before)
