"""One worker process: uvicorn, configured and stopped the way this service needs it.

The stock server would do three things differently: it disconnects all clients at once (and they all
return at once), it sends a second heartbeat, and it never drops a client that has stopped reading.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from types import FrameType
from typing import Any

import uvicorn

from notifier.counting import BODY_BYTES, Config
from notifier.file_limit import raise_file_limit, warn_if_file_limit_is_low
from notifier.http import HttpProtocol
from notifier.http_answers import Lane
from notifier.leaving import LeavingNotice
from notifier.listening import (
    BACKLOG,
    DRAIN_SECONDS,
    GRACEFUL_SECONDS,
    LINGER_SECONDS,
    STOP_SECONDS,
)
from notifier.measuring import attend_launcher
from notifier.websocket import WebSocketProtocol
from realtime.core.limits import Limits

logger = logging.getLogger("notifier.server")

# Above our own frame limit, which is answered with a close code that says why; beyond both, the
# connection just ends.
WEBSOCKET_SLACK_BYTES = 48 * 1024

Drain = Callable[[float], Awaitable[None]]


class Server(uvicorn.Server):
    """uvicorn with a shutdown in four steps: not ready, stop accepting, drain, stop.

    Args:
        stand_down: Makes /readyz fail, so that traffic goes elsewhere.
        linger_seconds: How long new connections are still accepted after that.
        drain: Disconnects the clients within the seconds it is given.
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
        self._accepting: set[asyncio.Task[Any]] = set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully at the first signal, immediately at the second."""
        if self.should_exit:
            os._exit(1)
        # Unlike the stock handler, this does not keep the signal to raise it again at the end:
        # being stopped is a success, exit code 0.
        self.should_exit = True

    def leave_at_once(self) -> None:
        """Stop gracefully without lingering: our parent is gone. Call it in the event loop."""
        self._linger_seconds = 0.0
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down in the steps that the class describes."""
        self._stand_down()
        loop = asyncio.get_running_loop()
        began = loop.time()
        connections = len(self.server_state.connections)
        logger.info("stopping: not ready any more, draining %d connections", connections)
        closed = loop.create_future()
        loop.call_later(self._linger_seconds, self._close_port, sockets or [], closed)
        await closed
        if self._accepting:
            await asyncio.wait(self._accepting)
        await self._drain_in_time()
        await super().shutdown(sockets)
        logger.info("stopped after %.1f s", loop.time() - began)

    def _close_port(self, sockets: list[socket.socket], closed: asyncio.Future[None]) -> None:
        """Close the listening sockets, whose queues are emptied first.

        A socket that closes resets the connections that nobody has accepted, and on a busy machine
        some have arrived since the loop accepted the last one. Later ones are refused. A timer and
        not a task, which would run one iteration of the loop later.
        """
        loop = asyncio.get_running_loop()
        for waiting in sockets:
            for connection in _accept_all(waiting):
                task = loop.create_task(
                    loop.connect_accepted_socket(self._make_protocol, connection)
                )
                self._accepting.add(task)
                task.add_done_callback(self._accepting.discard)
        for listener in self.servers:
            listener.close()
        closed.set_result(None)

    def _make_protocol(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        return protocol(  # type: ignore[no-any-return] # uvicorn's types allow any class
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def _drain_in_time(self) -> None:
        try:
            await asyncio.wait_for(self._drain(DRAIN_SECONDS), DRAIN_SECONDS + 1.0)
        except TimeoutError:
            logger.warning(
                "draining took longer than %.0f s; closing all connections", DRAIN_SECONDS
            )


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept the connections that wait in the queue of a non-blocking listening socket."""
    for _ in range(BACKLOG):
        try:
            connection, _address = listener.accept()
        except OSError:  # none waits, or this process has too many open files
            return
        connection.setblocking(False)
        yield connection


def server_config(
    app: Any,
    reached: Callable[[str], None],
    limits: Limits,
    body_bytes: int = BODY_BYTES,
    lane: Lane | None = None,
) -> uvicorn.Config:
    """Return uvicorn's configuration for ``app``.

    Args:
        app: The ASGI application.
        reached: Called with the name of each limit that was reached.
        limits: The limits on connections and frames.
        body_bytes: Maximum body of a request, whatever its path.
        lane: See `notifier.counting.Config`.
    """
    return Config(
        app,
        reached=reached,
        limits=limits,
        body_bytes=body_bytes,
        lane=lane,
        first_frame_bytes=limits.frame_bytes + WEBSOCKET_SLACK_BYTES,
        interface="asgi3",
        lifespan="on",
        http=HttpProtocol,
        # Ours also takes encoded frames; uvicorn's other two are deprecated or slower.
        ws=WebSocketProtocol,
        ws_max_size=limits.escaped_frame_bytes + WEBSOCKET_SLACK_BYTES,
        # One heartbeat, not two: ours is in the protocol, where clients and flow control use it.
        ws_ping_interval=None,
        # Compression costs 64 KiB per connection, and the work is repeated for every client.
        ws_per_message_deflate=False,
        log_config=None,  # Django's LOGGING has configured it
        access_log=False,  # a line per publish would cost more than the publish
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        workers=1,  # the launcher starts ours
    )


def watch_lifeline(
    lifeline: int, loop: asyncio.AbstractEventLoop, leave: Callable[[], None]
) -> None:
    """Stop when the launcher is gone, however it ended: its end of the pipe is then closed.

    A thread, not a reader on the event loop: it still ends the process when the loop hangs.
    """

    def watch() -> None:
        os.read(lifeline, 1)  # nothing is ever written: returns when the launcher has gone
        _call_in(loop, leave)
        threading.Event().wait(STOP_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call in the event loop, unless the loop has just ended."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return


def _calm_the_collector() -> None:
    """Make the garbage collector examine long-lived objects less often.

    With its defaults, a storm of 5,000 connections spends half its time in full collections that
    find nothing (measured: 526 µs of CPU time per join, 320 µs like this). Objects that exist after
    the imports are never examined again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


async def serve(
    server: Server,
    listener: socket.socket,
    lifeline: int | None,
    *beside: Coroutine[None, None, None],
) -> None:
    """Serve until a signal arrives or the launcher is gone.

    Args:
        server: The server.
        listener: Its socket.
        lifeline: A pipe that closes when the launcher exits.
        beside: What runs as long as the server.
    """
    if lifeline is not None:
        watch_lifeline(lifeline, asyncio.get_running_loop(), server.leave_at_once)
    tasks = [asyncio.create_task(each) for each in beside]
    await server.serve(sockets=[listener])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main(arguments: list[str] | None = None) -> int:
    """Run one worker on a socket that the launcher opened."""
    parser = argparse.ArgumentParser(
        prog="notifier.server", description="One worker process, started by `python -m notifier`."
    )
    parser.add_argument("--fd", type=int, required=True, help="the inherited listening socket")
    parser.add_argument("--lifeline", type=int, help="a pipe that closes when the launcher exits")
    parser.add_argument("--metrics", type=int, help="a socket on which the launcher asks for them")
    parser.add_argument("--linger", type=float, default=LINGER_SECONDS, help="seconds")
    options = parser.parse_args(arguments)
    files = raise_file_limit()

    # Imported here because they need Django's settings; the launcher and its tests need the rest.
    from django.conf import settings

    from notifier.asgi import application, endpoint
    from notifier.monitor_news import send_news
    from realtime.endpoint import COMMON_HEADERS
    from realtime.wiring import (
        drain,
        largest_body_bytes,
        limit_reached,
        limits,
        read_metrics_and_queue,
    )

    if not settings.DEBUG:
        warn_if_file_limit_is_low(files, limits().connections)
    lane = Lane(endpoint.take_whole, COMMON_HEADERS)
    notice = LeavingNotice(application, lane)
    server = Server(
        server_config(
            notice,
            limit_reached,
            limits(),
            largest_body_bytes(),
            lane,
        ),
        stand_down=notice.leave,
        drain=drain,
        linger_seconds=options.linger,
    )
    listener = socket.socket(fileno=options.fd)
    _calm_the_collector()
    beside = [send_news()]
    if options.metrics is not None:
        end = socket.socket(fileno=options.metrics)
        beside.append(attend_launcher(end, read_metrics_and_queue))
    asyncio.run(serve(server, listener, options.lifeline, *beside))
    return 0


if __name__ == "__main__":
    sys.exit(main())
