"""One worker process: uvicorn, set up and stopped the way this service needs it.

What the stock server would do differently: it tells all clients at once to go (and they all return
at once), it sends a second heartbeat, and it never gets rid of a reader that has stopped reading.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from types import FrameType
from typing import Any

import uvicorn

from notifier.counting import BODY_BYTES, Config
from notifier.http import HttpProtocol
from notifier.websocket import WebSocketProtocol
from realtime.limits import Limits

logger = logging.getLogger("notifier.server")

# How long a proxy has to notice that /readyz says no, before it meets a closed port.
LINGER_SECONDS = 1.0
# How long clients are sent away one after the other, so that they do not all return at once.
DRAIN_SECONDS = 10.0
# What is left after that (a request that hangs) is given this long, then cancelled.
GRACEFUL_SECONDS = 3
# The whole of the above and some slack; after it, the process ends whatever it is doing.
STOP_SECONDS = LINGER_SECONDS + DRAIN_SECONDS + GRACEFUL_SECONDS + 4.0

# Above our own limit of a frame, which is answered with a close code that says why; beyond both the
# connection just ends.
WEBSOCKET_SLACK_BYTES = 48 * 1024
# The only way to be rid of a reader that has stopped: `websocket.close` waits behind the data.
# Longer than flow control's patience (10 s and 1 MiB at 16 KiB/s): the kernel cuts silently, and a
# client that stops for half a minute shall be told what it missed.
UNACKNOWLEDGED_SECONDS = 80
# Every client of a restarted node returns within seconds. The kernel caps it (net.core.somaxconn).
BACKLOG = 2048

Drain = Callable[[float], Awaitable[None]]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class LeavingNotice:
    """The app, which says that it goes as soon as the worker is leaving: /readyz answers no.

    Every other response closes its connection, so that publishers make the next one elsewhere and
    no request is on its way when the connection ends. Only the server knows that it leaves; the app
    below may be as well as ever.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._leaving = False

    def leave(self) -> None:
        """From now on, /readyz sends traffic elsewhere."""
        self._leaving = True

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request or connection (ASGI 3)."""
        if self._leaving and scope["type"] == "http" and scope["path"] == "/readyz":
            headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            body = b'{"status":"not live","reason":"leaving"}'
            await send({"type": "http.response.body", "body": body})
            return
        closes = self._leaving and scope["type"] == "http"
        await self._app(scope, receive, _closing(send) if closes else send)


def _closing(send: Send) -> Send:
    """Return a send whose response is the last one of its connection (RFC 9112 §9.6)."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"connection", b"close")]
            message = {**message, "headers": headers}
        await send(message)

    return sent


class Server(uvicorn.Server):
    """uvicorn that leaves in four steps: not ready, no new ones, drain, stop.

    Args:
        stand_down: tells whoever asks /readyz to send traffic elsewhere.
        linger_seconds: how long new connections are still accepted after that.
        drain: sends the clients away within the seconds it is given.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        stand_down: Callable[[], None],
        drain: Drain,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        super().__init__(config)
        self._stand_down = stand_down
        self._drain = drain
        self._linger_seconds = linger_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully at the first signal, at once at the second."""
        if self.should_exit:
            os._exit(1)
        # Unlike the stock handler this one does not keep the signal to raise it again at the end:
        # to have been stopped is a success, exit code 0.
        self.should_exit = True

    def leave_at_once(self) -> None:
        """Stop gracefully without lingering: whoever started us is gone. Call it in the loop."""
        self._linger_seconds = 0.0
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See the class."""
        self._stand_down()
        await asyncio.sleep(self._linger_seconds)
        for listener in self.servers:
            listener.close()
        await self._drained()
        await super().shutdown(sockets)

    async def _drained(self) -> None:
        try:
            await asyncio.wait_for(self._drain(DRAIN_SECONDS), DRAIN_SECONDS + 1.0)
        except TimeoutError:
            logger.warning("draining took longer than %.0f s; the rest is cut off", DRAIN_SECONDS)


def server_config(
    app: Any, reached: Callable[[str], None], limits: Limits, body_bytes: int = BODY_BYTES
) -> uvicorn.Config:
    """Return how uvicorn serves ``app``.

    Args:
        app: The ASGI application.
        reached: Is told the names of limits that were reached.
        limits: Of connections and frames.
        body_bytes: Of a request, whatever its path.
    """
    return Config(
        app,
        reached=reached,
        limits=limits,
        body_bytes=body_bytes,
        first_frame_bytes=limits.frame_bytes + WEBSOCKET_SLACK_BYTES,
        interface="asgi3",
        lifespan="on",
        http=HttpProtocol,
        # Ours also takes ready frames; the other two of uvicorn's are deprecated or slower.
        ws=WebSocketProtocol,
        ws_max_size=limits.escaped_frame_bytes + WEBSOCKET_SLACK_BYTES,
        # One heartbeat, not two: ours is in the protocol, where clients and flow control use it.
        ws_ping_interval=None,
        # Compression costs 64 KiB a connection and must be paid for every client anew.
        ws_per_message_deflate=False,
        log_config=None,  # Django's LOGGING has set it up
        access_log=False,  # a line per publish would cost more than the publish
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        workers=1,  # ours are started by the launcher
    )


def listening_socket(host: str, port: int) -> socket.socket:
    """Bind and listen; what connects from now on waits for a worker.

    Raises:
        OSError: the address cannot be had.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    # "localhost" may be both. Browsers fall back from ::1 to 127.0.0.1, not every client does.
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _set_user_timeout(listener)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _set_user_timeout(listener: socket.socket) -> None:
    # Linux only; accepted sockets inherit it (a test looks). Elsewhere the pong deadline remains.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = UNACKNOWLEDGED_SECONDS * 1000
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def raise_file_limit() -> None:
    """Take as many open files as the system allows: each client is one.

    The soft limit is often 1,024, for programs that use `select`. A worker that reaches it accepts
    nobody, and cannot connect to Redis again.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "infinity" and takes 10,240
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def watch_lifeline(
    lifeline: int, loop: asyncio.AbstractEventLoop, leave: Callable[[], None]
) -> None:
    """Leave when the launcher is gone, however it ended: then its end of the pipe is closed.

    A thread, not a reader of the loop: it still ends the process when the loop hangs.
    """

    def watch() -> None:
        os.read(lifeline, 1)  # nobody writes: this returns at the end of the launcher
        _call_in(loop, leave)
        threading.Event().wait(STOP_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call in the loop, unless it has ended in this very moment."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return


def _calm_the_collector() -> None:
    """Let the garbage collector look at long-lived objects less often.

    With its defaults a storm of 5,000 connections spends half its time in full collections that
    find nothing (measured: 526 µs of processor time for a join, 320 µs like this). What the modules
    are made of is never looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


async def serve(server: Server, listener: socket.socket, lifeline: int | None) -> None:
    """Serve until a signal comes or the launcher is gone."""
    if lifeline is not None:
        watch_lifeline(lifeline, asyncio.get_running_loop(), server.leave_at_once)
    await server.serve(sockets=[listener])


def main(arguments: list[str] | None = None) -> int:
    """Run one worker on a socket that the launcher has opened."""
    parser = argparse.ArgumentParser(
        prog="notifier.server", description="One worker process; `python -m notifier` starts it."
    )
    parser.add_argument("--fd", type=int, required=True, help="the inherited listening socket")
    parser.add_argument("--lifeline", type=int, help="a pipe that ends when the launcher does")
    parser.add_argument("--linger", type=float, default=LINGER_SECONDS, help="seconds")
    options = parser.parse_args(arguments)
    raise_file_limit()

    # Imported here: they need Django's settings, the launcher and its tests need the rest.
    from notifier.asgi import application
    from realtime.wiring import drain, largest_body_bytes, limit_reached, limits

    notice = LeavingNotice(application)
    server = Server(
        server_config(notice, limit_reached, limits(), largest_body_bytes()),
        stand_down=notice.leave,
        drain=drain,
        linger_seconds=options.linger,
    )
    listener = socket.socket(fileno=options.fd)
    _calm_the_collector()
    asyncio.run(serve(server, listener, options.lifeline))
    return 0


if __name__ == "__main__":
    sys.exit(main())
