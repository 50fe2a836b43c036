"""Malicious bytes: bombs, oversized input, smuggled requests, forged log lines."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from notifier.server import WEBSOCKET_SLACK_BYTES
from realtime.connection.client_state import STRIKES
from realtime.core.json_text import DATA_LIMIT, ESCAPED
from realtime.core.limits import MANY_BYTES, PUBLISH_BYTES
from realtime.protocols.centrifugo_commands import CLIENT_FRAME_BYTES, CommandLine
from tests.support.client import Client
from tests.support.eventually import eventually, eventually_sync
from tests.support.raw import (
    BINARY,
    CLOSE,
    NO_CLOSE_FRAME,
    PING,
    TEXT,
    Raw,
    asked,
    frame,
    handshake,
    request,
    status_of,
)
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, KEY, Service, needs_proc
from tests.threats.conftest import Target, Watched, least_growth, resident_bytes

Attach = Callable[..., Awaitable[Client]]
JSON = {**KEY, "Content-Type": "application/json"}

# --- 10: JSON bombs ---

BOMBS = {
    "NaN": b"NaN",
    "-Infinity": b"-Infinity",
    "1e999": b"1e999",
    "a number of 60000 digits": b"9" * 60_000,
    "an exponent of 50000 digits": b"1e" + b"9" * 50_000,
    "30000 arrays": b"[" * 30_000 + b"]" * 30_000,
    "70000 open arrays": b"[" * 70_000,
    "8000 objects": b'{"a":' * 8000 + b"1" + b"}" * 8000,
    "1000 objects and no end": b'{"a":' * 1000,
    "a lone surrogate": rb'"\ud800"',
    "a lone surrogate as a key": rb'{"\udc00":1}',
    "a raw line break": b'"\n"',
    "an octal": b"017",
    "a hexadecimal": b"0xff",
    "a comment": b"1/**/",
    "a trailing comma": b"[1,]",
    "single quotes": b"'a'",
    "a cut string": b'"abc',
    "a cut escape": rb'"\u12',
    "a bare word": b"undefined",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
async def test_a_json_bomb_is_posted(target: Target, bomb: bytes) -> None:
    async with httpx.AsyncClient(base_url=target.http, headers=JSON) as http:
        for body in (b'{"channel":"public:news","data":%s}', b'{"channel":%s,"data":1}', b"%s"):
            answer = await http.post("/api/publish", content=body % bomb)
            assert answer.status_code in {400, 413}, answer.text
            assert answer.json()["error"]["reason"] in {
                *("invalid_json", "invalid_data", "invalid_channel", "too_large")
            }


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
async def test_a_json_bomb_comes_in_a_frame(target: Target, attach: Attach, bomb: bytes) -> None:
    """Refused with its id, if it has a readable one; the connection survives two such errors."""
    client = await attach(target)
    await client.subscribe("chat:bombs")
    said = bomb.decode()
    await client.send('{"id":77,"publish":{"channel":"chat:bombs","data":' + said + "}}")
    answer = await client.next()
    assert answer["error"]["code"] == 107, answer
    assert "ping" in await client.ask(ping={})
    for _ in range(STRIKES):
        await client.send("x" + said)
    assert (await client.closed())[0] == 3501


# --- 11: sizes ---

WAITING_HELD_BYTES = 2_162_687
"""Memory of one connection whose commands wait for the host: docs/security.md#memory."""
FIRST_BYTES = CLIENT_FRAME_BYTES + WEBSOCKET_SLACK_BYTES
HELD_BYTES = 400 * 1024
"""Memory of one connection whose client is not identified yet: docs/security.md#memory."""
OPEN_BYTES = 100 * 1024
"""Memory of one open stream, with what its request has left behind: docs/security.md#memory."""
LONGEST = {
    "ASCII": r"\u0041" * 65_534,
    "Cyrillic": r"\u0416" * 32_767,
    "Chinese": r"\u4e2d" * 21_844,
    "emoji": r"\ud83d\ude00" * 16_383,
    "control characters": r"\u0001" * 10_922,
    "solidus": r"\u002f" * 65_534,
}
"""Data of 64 KiB, with each character in its longest JSON encoding."""
FULL = {
    "channel": "public:" + "n" * 240,
    "tags": {f"tag-{n:02}" + "x" * 58: "\U0001f600" * 256 for n in range(15)},
    "event": "e" * 64,
}
"""The largest other fields of one publication."""

GREAT = {
    "an exabyte": 2**62,
    "more than there is": 2**63 - 1,
    "negative": 2**63,
    "16 MiB": 16 * 1024 * 1024,
    "a byte more than the transport takes": 128 * 1024 + 1,
}


@needs_proc
@pytest.mark.parametrize("size", GREAT.values(), ids=GREAT)
def test_a_frame_announces_an_exabyte(target: Target, size: int) -> None:
    """No memory is reserved for an announced size.

    The frame is refused as soon as its header is read.
    """

    def attack() -> None:
        peers = [Raw(target.port).upgraded() for _ in range(20)]
        for peer in peers:
            peer.send(frame(TEXT, b"x" * 100, size=size))
            assert peer.closed() in {1002, 1009, NO_CLOSE_FRAME}
            peer.socket.close()

    assert least_growth(target.worker_pid, attack, SLACK_BYTES) < SLACK_BYTES


@pytest.mark.parametrize("pieces", [1, 2, 60])
async def test_an_oversized_message_is_sent(target: Target, pieces: int) -> None:
    """Six times 80 KiB after `connect`, whole or in fragments; the third ends the connection."""
    message = b'{"id":1,"ping":{}}'.ljust(ESCAPED * CLIENT_FRAME_BYTES + 1)
    size = len(message) // pieces + 1
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    with Raw(target.port).upgraded() as peer:
        peer.send(frame(TEXT, b'{"id":1,"connect":{}}'))
        for _ in range(3):
            peer.send(
                *(
                    frame(TEXT if n == 0 else 0, part, fin=n == len(parts) - 1)
                    for n, part in enumerate(parts)
                )
            )
        assert await asyncio.to_thread(peer.closed) == 3501


@pytest.mark.parametrize("size", [CLIENT_FRAME_BYTES + 1, FIRST_BYTES + 1])
async def test_a_large_message_is_sent_before_connect(target: Target, size: int) -> None:
    """Only clients that have sent `connect` get the room for escapes."""
    with Raw(target.port) as peer:
        await asyncio.to_thread(peer.upgraded)
        peer.send(frame(TEXT, b'{"id":1,"connect":{}}'.ljust(size)))
        assert await asyncio.to_thread(peer.closed) == (3501 if size < FIRST_BYTES else 1009)


@pytest.mark.parametrize("text", LONGEST.values(), ids=LONGEST)
async def test_a_fully_escaped_frame_is_within_its_limit(
    target: Target, attach: Attach, text: str
) -> None:
    r"""Python writes ``\u0416`` for each Cyrillic letter, so the limit of data could not be used
    up.

    Issue 15, C18: the limit of the frame refused 50 KB of text.
    """
    client = await attach(target)
    await client.subscribe("chat:escaped")
    data = f'"{text}"'
    assert len(json.dumps(json.loads(data), ensure_ascii=False).encode()) <= DATA_LIMIT
    said = f'{{"id":7,"publish":{{"channel":"chat:escaped","data":{data}}}}}'
    await client.send(said)
    answers = [await client.next(), await client.next()]  # the reply and the push, in any order
    [heard] = [answer["push"]["pub"]["data"] for answer in answers if "push" in answer]
    assert heard == json.loads(data)


@pytest.mark.parametrize("text", LONGEST.values(), ids=LONGEST)
def test_a_fully_escaped_body_is_within_its_limit(target: Target, text: str) -> None:
    # flop-labs/technocore-chat#35: a legal message became 49,181 bytes and a 413;
    # contentful/contentful.py#88. RFC 8259 §7 allows an escape for any character.
    for body in (
        f'{{"channel":"public:news","data":"{text}"}}',
        json.dumps(FULL | {"idempotency_key": secrets.token_hex(32), "data": 1}).replace(
            '"data": 1', f'"data":"{text}"'
        ),
    ):
        answer = httpx.post(f"{target.http}/api/publish", content=body, headers=JSON)
        assert answer.status_code == 200, answer.text


def test_oversized_data_is_refused_by_the_data_limit(target: Target) -> None:
    text = r"\u0041" * (DATA_LIMIT - 1)  # and two quotes
    body = f'{{"channel":"public:news","data":"{text}"}}'
    answer = httpx.post(f"{target.http}/api/publish", content=body, headers=JSON)
    assert answer.status_code == 413
    assert f"the limit is {DATA_LIMIT}" in answer.json()["error"]["message"]


@needs_proc
def test_a_message_grows_endlessly(target: Target) -> None:
    """Fragments of 60 KiB without a last one: the transport counts the message, not the frame."""

    def attack() -> None:
        with Raw(target.port).upgraded() as peer:
            peer.send(frame(TEXT, b"x" * 60_000, fin=False))
            peer.send(*[frame(0, b"x" * 60_000, fin=False)] * 100)
            assert peer.closed() in {1009, NO_CLOSE_FRAME}

    assert least_growth(target.worker_pid, attack, SLACK_BYTES) < SLACK_BYTES


HEAD = (
    b"POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    b"X-API-Key: test-key\r\nContent-Type: application/json\r\n"
)


@needs_proc
def test_an_oversized_body_is_posted(target: Target) -> None:
    """Announced or not, it is refused as soon as that is clear, and not read to its end."""
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"

    def attack() -> None:
        large = b" " * (PUBLISH_BYTES + 1)
        for parts in (
            [HEAD + b"Content-Length: %d\r\n\r\n" % 2**40],
            [HEAD + b"Content-Length: %d\r\n\r\n" % len(large), large],
            [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 64],
            [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"fffffffffffff\r\n" + b" " * 600_000],
        ):
            answer = asked(target.port, *parts)
            assert status_of(answer) in {400, 413}, answer

    assert least_growth(target.worker_pid, attack, SLACK_BYTES) < SLACK_BYTES


PATHS = ["/", "/login/", "/nowhere", "/docs/", "/static/x", "/livez", "/connection/sse", "/api/x"]
SESSION = b"Cookie: sessionid=x\r\nContent-Type: application/json\r\n"


@needs_proc
@pytest.mark.parametrize("path", PATHS)
def test_a_body_is_sent_where_none_is_expected(target: Target, path: str) -> None:
    """Issue 15, B8: Django spooled 199 MiB to the disk, for pages with only small forms."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"

    def attack() -> None:
        for cookie in (b"", SESSION):
            announced = head + cookie + b"Content-Length: %d\r\n\r\n" % (199 * 2**20)
            answer = asked(target.port, announced, *[b" " * 65_536] * 8)
            assert status_of(answer) == 413, answer
            unannounced = head + cookie + b"Transfer-Encoding: chunked\r\n\r\n"
            told = asked(target.port, unannounced, *[chunk] * 99)
            assert 400 <= status_of(told) < 500, told
            assert told.count(b"HTTP/1.1 ") == 1

    assert least_growth(target.worker_pid, attack, SLACK_BYTES) < SLACK_BYTES


async def test_a_client_hangs_up_on_pages_and_fills_the_log(target: Target) -> None:
    """Django cancels the request of such a client, and asyncio logs a traceback for each."""

    def hang_up() -> None:
        for number in range(40):
            with Raw(target.port) as peer:
                path = PATHS[number % len(PATHS)]
                peer.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    await asyncio.gather(*[asyncio.to_thread(hang_up) for _ in range(4)])
    async with httpx.AsyncClient(base_url=target.http, timeout=30) as client:
        assert (await client.get("/login/")).status_code == 200, "behind all of them"
    target.looks_well()


HELD = {
    "a page": ("/login/", b"", 65_536),
    "a page that is not there": ("/nowhere", b"", 65_536),
    "a batch by a session": ("/api/batch", SESSION, MANY_BYTES),
    "a batch by a wrong key": ("/api/batch", b"X-API-Key: x\r\n", MANY_BYTES),
    "a publish without a key": ("/api/publish", b"", PUBLISH_BYTES),
    "a command beside a stream": ("/emulation", b"", 2 * CLIENT_FRAME_BYTES),
    "a stream": ("/connection/http_stream", b"", CLIENT_FRAME_BYTES),
    "a stream of one way": ("/connection/uni_sse", b"", CLIENT_FRAME_BYTES),
}


@needs_proc
@pytest.mark.parametrize(("path", "said", "size"), HELD.values(), ids=HELD)
def test_bodies_without_their_last_byte_are_held_for_strangers(
    target: Target, path: str, said: bytes, size: int
) -> None:
    """Forty bodies, each as large as its path allows: `docs/security.md` states the cost of one."""
    before = resident_bytes(target.worker_pid)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    head += said + b"Content-Length: %d\r\n\r\n" % size
    peers = [Raw(target.port) for _ in range(40)]
    for peer in peers:
        peer.send(head, b" " * (size - 1))
    assert httpx.get(f"{target.http}/livez").status_code == 200
    held = resident_bytes(target.worker_pid) - before
    for peer in peers:
        peer.socket.close()
    assert held < 40 * HELD_BYTES


CHUNKED_HEAD = (
    b"POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: wrong\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)
WIDE = '{"id":1,"connect":{"x":"\U0001f600' + "a" * (CLIENT_FRAME_BYTES - 100) + '"}}'
STREAM_HEAD = b"HTTP/1.1\r\nHost: 127.0.0.1\r\n"
SSE = b"GET /connection/sse?channel=public:a " + STREAM_HEAD
POST_STREAM = b"POST /connection/http_stream " + STREAM_HEAD
PLACES = b"&".join(b"/0/%x" % n for n in range(4096))[:24_000]
LATER = {
    "a first frame with a wide character": POST_STREAM
    + b"Content-Length: %d\r\n\r\n%b" % (len(WIDE.encode()), WIDE.encode()),
    "thousands of positions": SSE + b"Last-Event-ID: %b\r\n\r\n" % PLACES,
    "a body in tiny chunks before it": CHUNKED_HEAD
    + b"1\r\na\r\n" * 30_000
    + b"0\r\n\r\n"
    + SSE
    + b"\r\n",
}


@needs_proc
@pytest.mark.parametrize("said", LATER.values(), ids=LATER)
def test_an_open_stream_keeps_what_its_request_sent(target: Target, said: bytes) -> None:
    """It did as long as it was open: up to 2 MB for 225 KB that were sent once."""
    peers = [Raw(target.port) for _ in range(2)]  # what the first ones load
    for peer in peers:
        peer.send(said)
    assert httpx.get(f"{target.http}/livez").status_code == 200
    before = resident_bytes(target.worker_pid)
    for _ in range(40):
        peers.append(Raw(target.port))
        peers[-1].send(said)
        while b"HTTP/1.1 200" not in (head := peers[-1].head()):
            assert head, "the stream did not open"
    held = resident_bytes(target.worker_pid) - before
    for peer in peers:
        peer.socket.close()
    assert held < 40 * OPEN_BYTES


PAD = "…"
WAITING = {
    "connect": {"connect": {"token": PAD}},
    "connect for a channel": {"connect": {"subs": {"public:a": {"token": PAD}}}},
    "subscribe": {"subscribe": {"channel": "public:a", "token": PAD}},
    "unsubscribe": {"unsubscribe": {"channel": "public:a", "token": PAD}},
    "publish": {"publish": {"channel": "public:a", "data": PAD}},
    "refresh": {"refresh": {"token": PAD}},
    "sub_refresh": {"sub_refresh": {"channel": "public:a", "token": PAD}},
    "ping": {"ping": {"more": PAD}},
    "history": {"history": {"channel": "public:a", "more": PAD}},
    "presence": {"presence": {"channel": "public:a", "token": PAD}},
    "presence_stats": {"presence_stats": {"channel": "public:a", "token": PAD}},
    "rpc": {"rpc": {"method": "who", "data": PAD}},
    "rpc of a long name": {"rpc": {"method": PAD}},
    "send": {"send": {"data": PAD}},
    "what is no command": {"more": PAD},
}
"""Each kind of command, in its largest form."""
PEERS = 2
COMMANDS = 64
"""Commands from each client; together they would be 60 MiB, seven times the limit."""
SLACK_BYTES = 4 * 1024 * 1024  # of the allocator, for all of them
HOLD = [b'{"id":1,"connect":{}}', b'{"id":2,"rpc":{"method":"hold"}}']


@pytest.fixture(scope="module")
def slow_host(redis_server: RedisServer) -> Iterator[Service]:
    """A host whose RPC `hold` does not return, on the server of the service.

    Its allocator returns the memory of large texts immediately, or one test would hide the memory
    that the next one takes (mallopt(3), M_MMAP_THRESHOLD).
    """
    running = Service(
        redis_server.url,
        "framed",
        app="tests.asgi_endpoint:application",
        TEST_RPC="tests.shop.rpc.answer_late",
        MALLOC_MMAP_THRESHOLD_="32768",
        TEST_PING_SECONDS="3600",  # these clients never answer pings
    ).start()
    for peer in _flooded(running, "ping"):  # of which nothing is held; it grows once by itself
        peer.socket.close()
    _release(running)
    yield running
    running.stop()


def _release(service: Service) -> None:
    """Release what is held: while a client is not read, its disconnect goes unnoticed."""
    with Raw(service.port, seconds=10).upgraded() as peer:
        commands = b'{"id":1,"connect":{}}\n{"id":2,"rpc":{"method":"release"}}'
        peer.send(frame(TEXT, commands))
        assert any(b'"id":2' in found.payload for found in peer.frames())


def _largest(kind: str, number: int, size: int) -> bytes:
    """Return a command with this many bytes of JSON."""
    command = json.dumps({"id": number, **WAITING[kind]}, ensure_ascii=False)
    room = size - len(command.encode()) + len(PAD.encode())
    return command.replace(PAD, "x" * room).encode()


def _flooded(service: Service, kind: str) -> list[Raw]:
    """Return clients that have sent as much as is read behind an unanswered RPC."""
    peers = [Raw(service.port, seconds=10).upgraded() for _ in range(PEERS)]
    for peer in peers:
        peer.send(frame(TEXT, b"\n".join(HOLD)))
        peer.socket.settimeout(1)

    def send(peer: Raw) -> None:
        with contextlib.suppress(TimeoutError):  # it is no longer read, as intended
            for number in range(3, 3 + COMMANDS):
                peer.send(frame(TEXT, _largest(kind, number, ESCAPED * CLIENT_FRAME_BYTES)))

    with ThreadPoolExecutor(PEERS) as threads:
        list(threads.map(send, peers))
    assert httpx.get(f"{service.http}/livez", timeout=30).status_code == 200
    return peers


def test_every_kind_of_waiting_command_is_covered() -> None:
    named = {name for command in WAITING.values() for name in command}
    assert named - {"more"} == set(CommandLine.__struct_fields__) - {"id"}


@needs_proc
@pytest.mark.parametrize("kind", WAITING)
def test_the_largest_commands_wait_behind_a_slow_one(slow_host: Service, kind: str) -> None:
    """256 refreshes of 480 KiB behind an RPC took 117 MiB for one anonymous client."""
    before = resident_bytes(slow_host.worker_pid)
    peers = _flooded(slow_host, kind)
    held = resident_bytes(slow_host.worker_pid) - before
    for peer in peers:
        peer.socket.close()
    _release(slow_host)
    assert held < PEERS * WAITING_HELD_BYTES + SLACK_BYTES
    eventually_sync(lambda: resident_bytes(slow_host.worker_pid) - before < SLACK_BYTES)


async def _line_with(code: str, lines: AsyncIterator[str]) -> bool:
    """Read to the end; return whether one of the lines has this code."""
    return any([code in line async for line in lines])


@needs_proc
@pytest.mark.parametrize("kind", WAITING)
async def test_the_largest_commands_wait_beside_a_stream(slow_host: Service, kind: str) -> None:
    """Requests are not throttled, so too many commands end their stream.

    A call is given up after ten seconds, in which a busy machine may not be able to send that many:
    a dozen, one after the other, hold the rest for two minutes.
    """
    first = 2 + 12
    calls = [b'{"id":%d,"rpc":{"method":"hold"}}' % number for number in range(2, first)]
    before = resident_bytes(slow_host.worker_pid)
    held, ends = [], []
    async with httpx.AsyncClient(base_url=slow_host.http, timeout=30) as client:

        async def talk() -> None:
            hold = b"\n".join([HOLD[0], *calls])
            async with client.stream("POST", "/connection/http_stream", content=hold) as stream:
                lines = stream.aiter_lines()
                connect = json.loads(await anext(lines))["connect"]
                said = {"session": connect["session"], "node": connect["node"]}
                async with asyncio.TaskGroup() as group:
                    end = group.create_task(_line_with("3013", lines))
                    for number in range(first, first + 256):
                        if end.done():  # the session of later commands no longer exists
                            break
                        data = _largest(kind, number, CLIENT_FRAME_BYTES).decode()
                        answer = await client.post("/emulation", json={**said, "data": data})
                        assert answer.status_code == 204
                        held.append(resident_bytes(slow_host.worker_pid) - before)
                ends.append(end.result())

        await asyncio.gather(*[talk() for _ in range(PEERS)])
    assert all(ends), "the stream continued"
    assert max(held) < PEERS * WAITING_HELD_BYTES + SLACK_BYTES


@needs_proc
def test_a_request_has_endless_headers(target: Target) -> None:
    many = [b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(2000)]

    def attack() -> None:
        for parts in (
            [b"GET /livez HTTP/1.1\r\nX: " + b"x" * 500_000],
            [b"GET /" + b"x" * 500_000 + b" HTTP/1.1\r\n\r\n"],
            [b"GET /livez HTTP/1.1\r\n", *many],
        ):
            with Raw(target.port) as peer:
                peer.send(*parts, b"\r\n\r\n" + b"x" * 100)
                assert status_of(peer.head()) < 500

    assert least_growth(target.worker_pid, attack, SLACK_BYTES) < SLACK_BYTES


# --- 12: compression ---


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits; server_no_context_takeover",
        "x-webkit-deflate-frame, permessage-bzip2",
        "permessage-deflate" + ", permessage-deflate" * 300,  # more is no handshake, see below
    ],
    ids=["deflate", "deflate with options", "others", "300 times"],
)
def test_a_compression_bomb_is_offered(target: Target, offer: str) -> None:
    """The offer is declined; a frame that claims to be compressed anyway ends the connection."""
    with Raw(target.port) as peer:
        head = peer.send(handshake(f"Sec-WebSocket-Extensions: {offer}")).head()
        assert status_of(head) == 101
        assert b"extensions" not in head.lower()
        peer.send(frame(TEXT, b"\xaa" * 100, rsv=4))
        assert peer.closed() in {1002, NO_CLOSE_FRAME}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x-gzip"])
def test_a_compression_bomb_is_posted(target: Target, coding: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    given = {**JSON, "Content-Encoding": coding}
    answer = httpx.post(f"{target.http}/api/publish", content=bomb, headers=given)
    assert answer.status_code == 415, answer.text


# --- 16: floods of small things ---


async def test_a_message_of_fragments_of_one_byte(target: Target, watched: Watched) -> None:
    text = b'{"id":1,"connect":{}}'
    async with watched(target):
        for _ in range(5):
            with Raw(target.port).upgraded() as peer:
                flood = [frame(TEXT, text[:1], fin=False)]
                flood += [frame(0, b" ", fin=False)] * 20_000
                await asyncio.to_thread(peer.send, b"".join(flood))
                await asyncio.to_thread(peer.send, frame(0, text[1:]), frame(CLOSE, b"\x03\xe8"))
                await asyncio.to_thread(peer.rest)


async def test_endless_pings(target: Target, watched: Watched) -> None:
    async with watched(target):
        flood = b"".join([frame(PING, b"x" * 125)] * 20_000)
        for _ in range(3):
            with Raw(target.port, seconds=10).upgraded() as peer:
                peer.send(frame(TEXT, b'{"id":1,"connect":{}}'))
                reader = asyncio.create_task(asyncio.to_thread(peer.rest))
                await asyncio.to_thread(peer.send, flood, frame(CLOSE, b"\x03\xe8"))
                await reader


# --- 20: forged log lines ---

FORGED = '\r\n{"level": "error", "message": "FORGED"}\r\n\x1b[31m\u2028\x85'


async def test_a_name_forges_a_line_of_the_log(
    redis_server: RedisServer, serve: Callable[..., Service], attach: Attach
) -> None:
    """Every line is one JSON object, whatever channels, headers, paths and origins contained."""
    target = await asyncio.to_thread(serve, redis_server.url, DEPLOYED)
    lines = len(target.log.splitlines())
    quoted = "".join(f"%{byte:02x}" for byte in FORGED.encode())
    client = await attach(target)
    await client.ask(subscribe={"channel": FORGED})
    await client.ask(publish={"channel": FORGED, "data": FORGED})
    await asyncio.to_thread(target.post, "publish", {"channel": FORGED, "data": FORGED})
    await asyncio.to_thread(target.post, "publish", {FORGED: FORGED})
    agent = "User-Agent: " + FORGED.translate({13: 11, 10: 12, 0x2028: 32, 0x85: 32})
    origin = "Origin: https://evil.example/\x1b[31m\x0b" + '{"level":"error","message":"FORGED"}'
    for attempt in (
        request("GET", f"/{quoted}", agent),
        request("GET", f"/chat/{quoted}/", agent),
        request("POST", f"/api/{quoted}", agent),
        request("GET", "/", "Host: evil.example\x1b[31m", agent),
        handshake(origin, agent),
        handshake(f"Origin: https://evil.example{quoted}"),
        handshake(path=f"/{quoted}"),
    ):
        await asyncio.to_thread(asked, target.port, attempt)
    await eventually(lambda: len(target.log.splitlines()) > lines)
    for line in target.log.splitlines():
        if line == f"The notifier is live at {target.http}":
            continue  # the launcher, to a person
        said = json.loads(line)
        assert said["message"] != "FORGED"
        assert len(line) < 2000
        assert line.isascii()
        assert "\x1b" not in said["message"]


async def test_a_client_fills_the_disk_through_the_log(target: Target) -> None:
    """One line for each kind of event, not one for each request of a stranger."""
    lines = len(target.log.splitlines())
    attempts = (
        handshake("Origin: https://evil.example"),
        handshake("Sec-WebSocket-Version: 9"),
        handshake(path="/nowhere"),
        handshake("X-A: " + "a" * 10_000),
        b"nonsense\r\n\r\n",
        request("GET", "/nowhere"),
        request("POST", "/"),
        request("GET", "/", "Host: evil.example"),
        request("POST", "/api/publish", body=b"{}"),
        request("POST", "/api/nothing", "X-API-Key: test-key", body=b"{}"),
        request("GET", "/", "Upgrade: h2c", "Connection: Upgrade"),
        request("GET", "/connection/websocket"),
    )
    for _ in range(30):
        for attempt in attempts:
            await asyncio.to_thread(asked, target.port, attempt)
        with Raw(target.port).upgraded() as peer:
            peer.send(frame(TEXT, b"\xff"))
            await asyncio.to_thread(peer.rest)
        with Raw(target.port).upgraded() as peer:
            peer.send(frame(TEXT, b'{"id":1,"connect":{"token":"a.b.c"}}'))
            assert await asyncio.to_thread(peer.closed) == 3500
        with Raw(target.port).upgraded() as peer:
            peer.send(frame(TEXT, b'{"id":1,"connect":{}}'))
            for number, channel in enumerate(("nowhere:a", "user:#7", "closed"), 2):
                command = {"id": number, "subscribe": {"channel": channel}}
                peer.send(frame(TEXT, json.dumps(command).encode()))
            peer.send(frame(TEXT, b"junk"), frame(TEXT, b"junk"), frame(TEXT, b"junk"))
            assert await asyncio.to_thread(peer.closed) == 3501
    assert len(target.log.splitlines()) - lines <= 2 * len(attempts)


# --- 22: smuggling ---

TRICKS = {
    "CL.TE": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE.CL": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n\r\n0\r\n\r\n",
    "TE.TE": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    "TE, identity last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "TE in capitals and CL": b"TRANSFER-ENCODING: CHUNKED\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "TE with a tab": b"Transfer-Encoding:\tchunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "TE with a vertical tab": b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 0\r\n\r\n",
    "TE with a space before its colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "TE in quotes": b'Transfer-Encoding: "chunked"\r\nContent-Length: 0\r\n\r\n',
    "two lengths": b"Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}",
    "two equal lengths": b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": b"Content-Length: 2, 60\r\n\r\n{}",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a length with a plus": b"Content-Length: +2\r\n\r\n{}",
    "a length in hexadecimal": b"Content-Length: 0x2\r\n\r\n{}",
    "a length with an underscore": b"Content-Length: 1_0\r\n\r\n{}",
    "a length beyond 64 bits": b"Content-Length: 18446744073709551618\r\n\r\n{}",
    "no length": b"Content-Length: \r\n\r\n{}",
    "a length in other digits": "Content-Length: \u0662\r\n\r\n{}".encode(),
    "a folded header": b"X-A: a\r\n Content-Length: 60\r\nContent-Length: 2\r\n\r\n{}",
    "a folded length": b"Content-Length:\r\n 2\r\n\r\n{}",
    "a vertical tab": b"X-A: a\x0bContent-Length: 60\r\nContent-Length: 2\r\n\r\n{}",
    "a form feed": b"X-A: a\x0cContent-Length: 60\r\nContent-Length: 2\r\n\r\n{}",
    "a next line": b"X-A: a\x85Content-Length: 60\r\nContent-Length: 2\r\n\r\n{}",
    "a NUL": b"X-A: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "a NUL in a name": b"X-\x00A: b\r\nContent-Length: 2\r\n\r\n{}",
    "a bare CR": b"X-A: a\rContent-Length: 60\r\nContent-Length: 2\r\n\r\n{}",
    "a bare LF": b"X-A: a\nContent-Length: 2\n\n{}",
    "no colon": b"Content-Length 60\r\nContent-Length: 2\r\n\r\n{}",
    "no name": b": 60\r\nContent-Length: 2\r\n\r\n{}",
    "a bad chunk": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a negative chunk": b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "a chunk beyond 64 bits": b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n",
    "a chunk without its end": b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n",
    "a long extension": b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 100_000 + b"\r\n{}\r\n",
    "a trailer": b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-API-Key: k\r\n\r\n",
    "an upgrade of HTTP/2": b"Upgrade: h2c\r\nHTTP2-Settings: AA\r\nContent-Length: 2\r\n\r\n{}",
}
SECOND = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize("rest", TRICKS.values(), ids=TRICKS)
def test_a_request_is_hidden_in_another(target: Target, rest: bytes) -> None:
    """However it is parsed: there is one 4xx response, and the connection ends."""
    answer = asked(target.port, HEAD + rest + SECOND, seconds=15)
    assert answer == b"" or 400 <= status_of(answer) < 500, answer
    assert b'"alive"' not in answer
    assert answer.count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize(
    "line",
    [
        b"GET /livez HTTP/9.9",
        b"GET /livez HTTP/2.0",
        b"GET  /livez HTTP/1.1",
        b"GET /livez",
        b"GET http://evil.example/livez HTTP/1.1",
        b"CONNECT evil.example:443 HTTP/1.1",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /livez HTTP/1.1\x0bX",
        b"G\x00T /livez HTTP/1.1",
        b"GET /liv\x00ez HTTP/1.1",
        b"get /livez HTTP/1.1",
        b"*1\r\n$4\r\nPING",
        b"EHLO evil.example",
    ],
)
def test_a_request_is_malformed(target: Target, line: bytes) -> None:
    answer = asked(target.port, line + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert status_of(answer) < 500, answer
    eventually_sync(target.is_live)


HANDSHAKES = {
    "a line of 10 KB": [f"X-A: {'a' * 10_000}"],
    "200 headers": [f"X-{n}: a" for n in range(200)],
    "a query of 10 KB": [],
    "a name that is none": ["X(A): a"],
    "an empty name": [": a"],
    "another version": ["Sec-WebSocket-Version: 8"],
    "a key that is none": ["Sec-WebSocket-Key: a"],
    "a body": ["Content-Length: 2"],
    "a chunked body": ["Transfer-Encoding: chunked"],
}


@pytest.mark.parametrize("kind", HANDSHAKES)
def test_a_malformed_handshake_holds_its_connection(target: Target, kind: str) -> None:
    """uvicorn neither responded nor closed if a line was too long or there were too many headers.

    Each such connection stayed open forever, before the client had identified itself; its next byte
    caused a traceback.
    """
    path = "/connection/websocket"
    if kind == "a query of 10 KB":
        path += "?" + "a" * 10_000
    with Raw(target.port) as peer:
        answer = peer.send(handshake(*HANDSHAKES[kind], path=path)).rest()
        peer.send(b"more")
        assert answer == b"" or 400 <= status_of(answer) < 500, answer


@pytest.mark.parametrize(
    "text",
    [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"{}\xe2\x82"],
)
def test_a_text_frame_is_not_text(target: Target, text: bytes) -> None:
    """uvicorn logged a traceback for each of them, and another one if a close followed."""
    with Raw(target.port).upgraded() as peer:
        assert peer.send(frame(TEXT, text)).closed() == 1007
    with Raw(target.port).upgraded() as peer:
        assert peer.send(frame(TEXT, text) + frame(CLOSE, b"\x03\xe8")).closed() in {1000, 1007}


@pytest.mark.parametrize("size", [2, 126, 60_000])
def test_a_binary_frame_carries_a_text_command(target: Target, size: int) -> None:
    with Raw(target.port).upgraded() as peer:
        peer.send(frame(BINARY, b'{"id":1,"connect":{}}'.ljust(size)))
        assert peer.closed() == 3501
