"""The protocol of a WebSocket whose handshake was plain (`notifier.plain_handshake`, ADR-0035)."""

from __future__ import annotations

import asyncio
from typing import Any, Self
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from websockets.protocol import Protocol as FrameParser
from websockets.protocol import State
from websockets.server import ServerProtocol

from notifier.event_queue import EventQueue
from notifier.http_framing import Headers
from notifier.websocket import WebSocketProtocol

CLOSE_SECONDS = 10.0
"""How long the stock class waits for the client's answer to a close frame."""

SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)


class PlainWebSocketProtocol(WebSocketProtocol):
    """Takes over a connection after its handshake was read and checked, and answers it."""

    _accept = b""
    """The value of Sec-WebSocket-Accept, until it was sent."""

    @classmethod
    def taking_over(cls, http: HttpToolsProtocol) -> Self:
        """Return what takes over the connection of an HTTP protocol.

        It has what the constructor and `connection_made` of the stock class set, which a test
        compares. These two took 20 µs of each new connection: they make a queue that is replaced,
        ask for two loggers, and ask the transport again what the other protocol knows.
        """
        self = cls.__new__(cls)
        config = self.config = http.config
        self.app = config.loaded_app
        self.loop = http.loop
        self.logger = http.logger
        self.root_path = config.root_path
        self.asgi_version = config.asgi_version
        self.app_state = http.app_state
        self.connections = http.connections
        self.tasks = http.tasks
        self.default_headers = http.server_state.default_headers
        self.transport = http.transport
        self.server, self.client = http.server, http.client
        self.scheme = "wss" if http.scheme == "https" else "ws"
        self.queue = EventQueue()
        self.handshake_initiated = self.handshake_complete = False
        self.close_sent = self.disconnected = False
        self.close_timer = None
        self.close_timeout = CLOSE_SECONDS
        self.initial_response = None
        self.conn = ServerProtocol(extensions=[], max_size=config.ws_max_size, logger=http.logger)
        self.read_paused = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.ping_interval, self.ping_timeout = config.ws_ping_interval, config.ws_ping_timeout
        self.ping_timer = self.pong_timer = self.pending_ping_payload = None
        self.ping_sent_at = self.last_ping_rtt = 0.0
        self.frames = []
        self.curr_msg_data_type = "bytes"
        self.connections.add(self)
        return self

    def begin(self, url: bytes, headers: Headers, accept: bytes) -> None:
        """Start a handshake that was found to be plain (`notifier.plain_handshake`).

        Like the stock `handle_connect`, without a second look at the head.

        Args:
            url: The target.
            headers: With names in lower case.
            accept: The value of Sec-WebSocket-Accept.
        """
        self._accept = accept
        self.handshake_initiated = True
        # The parser continues with frames, as after the head of a request.
        self.conn.parser = FrameParser.parse(self.conn)
        next(self.conn.parser)
        path, _, query = url.partition(b"?")
        self.scope = {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "root_path": self.root_path,
            "path": self.root_path + unquote(path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + path,
            "query_string": query,
            "headers": headers,
            "subprotocols": [],
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)
        self.begin_serving()

    async def send(self, message: Any) -> None:
        """Send an event from the app; answer the handshake without the parser."""
        if self._accept and message["type"] == "websocket.accept":
            await self._send_ready(message)
        else:
            await super().send(message)

    async def _send_ready(self, message: Any) -> None:
        """Answer a plain handshake with 101."""
        await self.writable.wait()
        if self.disconnected:
            raise ClientDisconnected
        accept, self._accept = self._accept, b""
        lines = [*self.default_headers, *message.get("headers", [])]
        if subprotocol := message.get("subprotocol"):
            lines.append((b"Sec-WebSocket-Protocol", subprotocol.encode("latin-1")))
        more = b"".join([b"%b: %b\r\n" % line for line in lines])
        if not self.transport.is_closing():
            self.handshake_complete = True
            self.conn.state = State.OPEN
            self.transport.write(b"%b%b\r\n%b\r\n" % (SWITCHING, accept, more))
            self.start_keepalive()
