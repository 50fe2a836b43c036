"""A handshake of the usual form is answered without a second parser, and exactly alike."""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.server import ServerState
from websockets.asyncio.client import connect
from websockets.server import ServerProtocol
from websockets.utils import accept_key

from notifier.counting import Config
from notifier.event_queue import EventQueue
from notifier.http import HttpProtocol
from notifier.plain_handshake import accept_plain, make_accept
from notifier.plain_websocket import PlainWebSocketProtocol
from notifier.websocket import WebSocketProtocol
from tests.support.eventually import eventually
from tests.support.wire import Wire

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
PLAIN = [
    (b"Host", b"h"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", KEY),
    (b"Sec-WebSocket-Version", b"13"),
]
EXTENSIONS = b"permessage-deflate; client_max_window_bits"
DATE = (b"date", b"Sun, 29 Nov 2026 10:00:00 GMT")


def changed(name: bytes, value: bytes | None) -> list[tuple[bytes, bytes]]:
    """Return the usual headers with another value for one of them, or without it."""
    kept = [pair for pair in PLAIN if pair[0] != name]
    return kept if value is None else [*kept, (name, value)]


def head(headers: list[tuple[bytes, bytes]], url: bytes = b"/connection/websocket") -> bytes:
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (url, lines)


@pytest.fixture(autouse=True)
def usual_level() -> Iterator[None]:
    """The level that the service sets: whoever wants to read of handshakes gets the old way."""
    logger = logging.getLogger("uvicorn.error")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


class Outcome:
    """What an app and its client see of a handshake."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.scope: dict[str, Any] = {}
        self.messages: list[Any] = []
        self.sent = b""
        self.was_plain = False
        self.connection: weakref.ref[Any] | None = None

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = {name: value for name, value in scope.items() if name != "extensions"}
        self.messages.append(await receive())
        if self.answer == "accept":
            await send({"type": "websocket.accept", "headers": [(b"x-more", b"1")]})
        elif self.answer == "close":
            await send({"type": "websocket.close"})
        else:
            start = {"type": "websocket.http.response.start", "status": 503, "headers": []}
            await send(start)
            await send({"type": "websocket.http.response.body", "body": b"full"})
        self.messages.append(await receive())

    async def either(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer an HTTP request, or serve a WebSocket."""
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    def seen(self) -> tuple[Any, ...]:
        head, _, rest = self.sent.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        lines = [line for line in lines if not line.lower().startswith(b"date: ")]
        return first, sorted(line.lower() for line in lines), rest, self.scope, self.messages


def configured(app: Any) -> Config:
    config = Config(
        app,
        reached=lambda name: None,
        first_frame_bytes=100,
        interface="asgi3",
        ws=WebSocketProtocol,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        log_config=None,
    )
    config.load()
    return config


async def shake(request: bytes, answer: str, *, plainly: bool, speaks: bool = True) -> Outcome:
    outcome, state = Outcome(answer), ServerState()
    state.default_headers = [DATE]
    config = configured(outcome.app)
    protocol, wire = HttpProtocol(config, state, {}), Wire()
    if not plainly:
        protocol.ws_protocol_class = Stock
    wire.set_protocol(protocol)
    protocol.connection_made(wire)
    protocol.data_received(request)
    for _ in range(5):
        await asyncio.sleep(0)
    current: Any = wire.get_protocol()
    if speaks and wire.sent.startswith(b"HTTP/1.1 101"):
        current.data_received(b"\x81\x82\0\0\0\0hi")
    for _ in range(5):
        await asyncio.sleep(0)
    current.connection_lost(None)
    wire.protocol = None  # as asyncio's transports do
    await eventually(lambda: not state.tasks)
    outcome.sent = wire.sent
    outcome.was_plain = type(current) is PlainWebSocketProtocol
    outcome.connection = weakref.ref(current)
    return outcome


async def test_what_takes_over_has_all_that_the_stock_class_sets() -> None:
    """An update of uvicorn may add an attribute, and is found here, not in production."""
    state, app_state = ServerState(), {"a": 1}
    http, wire = HttpProtocol(configured(Outcome("accept").app), state, app_state), Wire()
    wire._extra = {"peername": ("192.0.2.1", 5), "sockname": ("192.0.2.2", 80)}
    http.connection_made(wire)
    plain = PlainWebSocketProtocol.taking_over(http)
    stock = WebSocketProtocol(http.config, state, app_state)
    stock.connection_made(wire)
    assert vars(plain).keys() == vars(stock).keys()
    assert {plain, stock} <= state.connections
    for name, value in vars(stock).items():
        taken = getattr(plain, name)
        assert type(taken) is type(value), name
        if not isinstance(value, ServerProtocol | asyncio.Event | EventQueue):
            assert taken == value, name
    ours, theirs = vars(plain.conn), vars(stock.conn)
    assert ours.keys() == theirs.keys()
    assert plain.writable.is_set()
    for name in ("max_message_size", "max_fragment_size", "available_extensions", "state"):
        assert getattr(plain.conn, name) == getattr(stock.conn, name), name
    http.connection_lost(None)


@pytest.mark.parametrize("plainly", [True, False])
async def test_a_websocket_on_a_used_connection_outlives_its_keep_alive(plainly: bool) -> None:
    """A proxy reuses connections. The timer of the last response used to end the WebSocket."""
    outcome, state = Outcome("accept"), ServerState()
    protocol, wire = HttpProtocol(configured(outcome.either), state, {}), Wire()
    if not plainly:
        protocol.ws_protocol_class = Stock
    protocol.connection_made(wire)
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    await eventually(lambda: wire.sent.endswith(b"\r\n\r\n") and not state.tasks)
    assert protocol.timeout_keep_alive_task is not None
    protocol.data_received(head(PLAIN))
    await eventually(lambda: b"HTTP/1.1 101" in wire.sent)
    assert protocol.timeout_keep_alive_task is None
    current: Any = wire.protocol
    current.connection_lost(None)
    await eventually(lambda: not state.tasks)


class Stock(WebSocketProtocol):
    """A class of its own, which takes no plain handshakes."""


USUAL = {
    head(PLAIN),
    head(PLAIN, b"/a/%C3%A9?b=c&d=%20"),
    head(changed(b"Connection", b"keep-alive, Upgrade")),
    head(changed(b"Upgrade", b"WebSocket")),
    head([*PLAIN, (b"Sec-WebSocket-Extensions", EXTENSIONS)]),
    head([*PLAIN, (b"Sec-WebSocket-Protocol", b"")]),
    head([*PLAIN, (b"Cookie", b"sessionid=\xe9"), (b"Origin", b"http://h")]),
}


@pytest.mark.parametrize("answer", ["accept", "close", "status"])
@pytest.mark.parametrize("request_bytes", sorted(USUAL))
async def test_a_plain_handshake_is_answered_as_by_websockets(
    request_bytes: bytes, answer: str
) -> None:
    plain = await shake(request_bytes, answer, plainly=True)
    stock = await shake(request_bytes, answer, plainly=False)
    assert plain.was_plain
    assert plain.seen() == stock.seen()
    assert plain.messages[0] == {"type": "websocket.connect"}


VALUES = st.sampled_from(
    [
        *(b"", b"websocket", b"Upgrade", b"keep-alive, Upgrade", b"close", b"h2c", b"13", b"8"),
        *(KEY, KEY[:-1], KEY[:-4], b"=" * 24, b"\xe9" * 24, b"AAAAAAAAAAAAAAAAAAAAAA=A", b"a b"),
        *(
            EXTENSIONS,
            b"foo;",
            b"foo; bar=",
            b", ,",
            b"graphql",
            b"a" * 5000,
            b"0",
            b"2",
            b"\t",
            b"websocket \t",
        ),
    ]
)
NAMES = st.sampled_from(
    [name for name, _ in PLAIN[1:]]
    + [b"Sec-WebSocket-Extensions", b"Sec-WebSocket-Protocol", b"Content-Length", b"Origin"]
)
URLS = st.sampled_from([b"/", b"/a?b", b"*", b"http://h/a", b"/%zz", b"/\xc3\xa9", b"/a#b"])


@given(
    headers=st.permutations(PLAIN),
    more=st.lists(st.tuples(NAMES, VALUES), max_size=2),
    less=st.none() | NAMES,
    url=URLS,
)
@example(
    headers=PLAIN, more=[(b"Origin", b"a" * 5000)] * 2, less=None, url=b"/"
)  # more than one piece of the parser
def test_no_handshake_has_another_answer_than_before(
    headers: list[tuple[bytes, bytes]],
    more: list[tuple[bytes, bytes]],
    less: bytes | None,
    url: bytes,
) -> None:
    names = {less} | ({more[0][0]} if more else set())
    request = head([pair for pair in headers if pair[0] not in names] + more, url)
    plain = asyncio.run(shake(request, "accept", plainly=True))
    stock = asyncio.run(shake(request, "accept", plainly=False))
    assert plain.seen() == stock.seen()


def test_the_answer_to_a_key_is_that_of_the_rfc() -> None:
    assert make_accept(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3
    assert make_accept(KEY).decode() == accept_key(KEY.decode())


@given(st.binary(min_size=14, max_size=18))
def test_only_a_key_of_sixteen_bytes_is_plain(key: bytes) -> None:
    value = base64.b64encode(key)
    pairs = [(n.lower(), v) for n, v in changed(b"Sec-WebSocket-Key", value)]
    assert (accept_plain(b"/", pairs) is not None) == (len(key) == 16)


@pytest.mark.parametrize("answer", ["accept", "close", "status"])
async def test_a_client_that_says_nothing_leaves_no_garbage(answer: str) -> None:
    gc.collect()
    gc.disable()
    try:
        outcome = await shake(head(PLAIN), answer, plainly=True, speaks=False)
        assert outcome.connection is not None
        assert outcome.connection() is None
    finally:
        gc.enable()


async def test_the_frames_of_a_plain_handshake_are_read(unused_tcp_port: int) -> None:
    """Through a socket, with a client that checks the answer."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"][::-1]})

    config = Config(
        echo, reached=lambda name: None, interface="asgi3", ws=WebSocketProtocol, log_config=None
    )
    config.load()
    loop, state = asyncio.get_running_loop(), ServerState()
    server = await loop.create_server(
        lambda: HttpProtocol(config, state, {}), "127.0.0.1", unused_tcp_port
    )
    async with connect(f"ws://127.0.0.1:{unused_tcp_port}/") as socket:
        await socket.send("abc")
        assert await socket.recv() == "cba"
    server.close()
    await eventually(lambda: not state.tasks and not state.connections)


async def test_who_wants_the_log_of_handshakes_gets_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")
    outcome = await shake(head(PLAIN), "accept", plainly=True)
    assert not outcome.was_plain
    assert any("[accepted]" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "frame",
    [b"\x81\x00", b"\x82\xff" + b"\xff" * 8, b"\x81\x81\0\0\0\0\xff"],
    ids=["unmasked", "an impossible length", "no UTF-8"],
)
async def test_a_bad_frame_before_the_handshake_is_answered_ends_its_connection(
    frame: bytes,
) -> None:
    """The app looks up a session first; uvicorn's class expects a close frame to send."""
    may_accept, complaints = asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await may_accept.wait()
        await send({"type": "websocket.close"})

    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: HttpProtocol(configured(app), state, {}), "127.0.0.1", 0
    )
    _reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(head(PLAIN))
    await eventually(lambda: state.tasks)
    writer.write(frame)
    await eventually(lambda: not state.connections)
    may_accept.set()
    await eventually(lambda: not state.tasks)
    assert complaints == []
    writer.close()
    server.close()
