"""Simultaneous attackers, in a separate process: ``python -m tests.threats.attackers``.

Each attacker continues until its connection is closed, and then reconnects. They have their own
addresses (127.1.0.1 and so on; Linux routes the whole network), so that limits per address affect
them and not the witnesses. At the end of stdin, they stop and report as JSON what they have done.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import jwt

from tests.support.machine import within
from tests.support.raw import CLOSE, PING, TEXT, frame, handshake

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Actor = Callable[[Streams, "Counter[str]"], Awaitable[None]]

CONNECT = frame(TEXT, b'{"id":1,"connect":{}}')
AGAIN_SECONDS = 0.5
SLOW_KEY = b"a key that may publish once a second"
TOKEN_SECRET = "the secret of the tokens that the threat suite makes, a long one"
INFO = "i" * 4_000
"""A member's info; nearly the largest that a token may contain."""
ADDRESSES = 200


async def silent(streams: Streams, done: Counter[str]) -> None:
    """Connect, and send nothing at all."""
    done["silent sockets"] += 1
    await streams[0].read()


async def silent_upgraded(streams: Streams, done: Counter[str]) -> None:
    """Become a WebSocket, but do not send `connect`."""
    await _upgrade(streams)
    done["silent WebSockets"] += 1
    await streams[0].read()


async def slow_headers(streams: Streams, done: Counter[str]) -> None:
    """Slowloris: send one header a second."""
    reader, writer = streams
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    done["slow headers"] += 1
    while not reader.at_eof():
        writer.write(b"X-A: a\r\n")
        await writer.drain()
        await asyncio.sleep(1)


async def slow_body(streams: Streams, done: Counter[str]) -> None:
    """Send one byte of a body a second."""
    reader, writer = streams
    writer.write(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n")
    done["slow bodies"] += 1
    while not reader.at_eof():
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(1)


async def pinger(streams: Streams, done: Counter[str]) -> None:
    """Send pings as fast as they are read."""
    await _upgrade(streams, CONNECT)
    pings = frame(PING, b"x" * 125) * 100
    async with _read_on(streams):
        while True:
            done["pings"] += 100
            streams[1].write(pings)
            await streams[1].drain()
            await asyncio.sleep(0)


async def subscriber(streams: Streams, done: Counter[str]) -> None:
    """Subscribe to arbitrary channels."""
    await _upgrade(streams, CONNECT)
    async with _read_on(streams):
        while True:
            lines = [
                json.dumps(
                    {"id": n + 2, "subscribe": {"channel": f"chat:{random.getrandbits(40)}"}}
                )
                for n in range(100)
            ]
            done["subscribes"] += 100
            streams[1].write(frame(TEXT, "\n".join(lines).encode()))
            await streams[1].drain()
            await asyncio.sleep(0)


async def oversize(streams: Streams, done: Counter[str]) -> None:
    """Send frames that are too large, and frames that claim to be."""
    await _upgrade(streams, CONNECT)
    done["oversize frames"] += 1
    if random.random() < 0.5:
        streams[1].write(frame(TEXT, b"x" * 100, size=2**62))
    else:
        streams[1].write(frame(TEXT, b"x" * 200_000))
    await streams[0].read()


async def guesser(streams: Streams, done: Counter[str]) -> None:
    """Publish with wrong keys."""
    reader, writer = streams
    body = b'{"channel":"public:news","data":1}'
    while True:
        writer.write(
            b"POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %x\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (random.getrandbits(128), len(body), body)
        )
        done["wrong keys"] += 1
        await _answer(reader, done)


async def forger(streams: Streams, done: Counter[str]) -> None:
    """Send invalid tokens."""
    token = ".".join(f"{random.getrandbits(400):x}" for _ in range(3))
    said = json.dumps({"id": 1, "connect": {"token": token}}).encode()
    await _upgrade(streams, frame(TEXT, said))
    done["forged tokens"] += 1
    await streams[0].read(1)
    streams[1].write(frame(CLOSE, b"\x0d\xac"))
    await streams[0].read()


async def greedy(streams: Streams, done: Counter[str]) -> None:
    """Name channels in `connect`: as many as the limits allow, or thousands."""
    count = random.choice((128, 5_000))
    subs = {f"public:{random.getrandbits(40)}": {} for _ in range(count)}
    said = json.dumps({"id": 1, "connect": {"subs": subs}}).encode()
    done["channels in connect"] += count
    await _upgrade(streams, frame(TEXT, said))
    async with within(1):
        await streams[0].read()


async def churner(streams: Streams, done: Counter[str]) -> None:
    """Subscribe to channels that nobody has named before, disconnect, and reconnect."""
    lines = [
        json.dumps({"id": n + 2, "subscribe": {"channel": f"public:{random.getrandbits(60)}"}})
        for n in range(128)
    ]
    await _upgrade(streams, CONNECT, frame(TEXT, "\n".join(lines).encode()))
    done["new channels"] += 128
    async with _read_on(streams):
        await asyncio.sleep(0.2)


def _token(**claims: object) -> str:
    user = f"user-{random.getrandbits(40)}"
    claims = {"sub": user, "exp": time.time() + 3_600, **claims}
    return jwt.encode(claims, TOKEN_SECRET, "HS256")


ASKED = frame(TEXT, b'{"id":2,"subscribe":{"channel":"chat:asked"}}')


async def _join_asked(streams: Streams) -> None:
    """Join a channel as a member with the largest info."""
    said = json.dumps({"id": 1, "connect": {"token": _token(info=INFO)}}).encode()
    await _upgrade(streams, frame(TEXT, said), ASKED)


async def member(streams: Streams, done: Counter[str]) -> None:
    """Join the channel whose presence other attackers request."""
    await _join_asked(streams)
    done["members"] += 1
    async with _read_on(streams) as reading:
        await reading


async def asker(streams: Streams, done: Counter[str]) -> None:
    """Repeatedly ask who is on a channel with members whose info is large."""
    await _join_asked(streams)
    async with _read_on(streams):
        for number in range(3, 1_000_000):
            done["presence questions"] += 1
            ask = b'{"id":%d,"presence":{"channel":"chat:asked"}}' % number
            streams[1].write(frame(TEXT, ask))
            await streams[1].drain()
            await asyncio.sleep(0)


async def shower(streams: Streams, done: Counter[str]) -> None:
    """Send hundreds of subscription tokens in `connect`; each needs a signature check."""
    head, _, _ = _token(channel="closed").rpartition(".")
    subs = {
        f"closed:{random.getrandbits(40)}": {"token": f"{head}.{random.getrandbits(250):x}"}
        for _ in range(random.choice((100, 300)))  # as many as the commands allow, or more
    }
    said = json.dumps({"id": 1, "connect": {"subs": subs}}).encode()
    done["tokens in connect"] += len(subs)
    await _upgrade(streams, frame(TEXT, said))
    async with within(1):
        await streams[0].read()


async def namer(streams: Streams, done: Counter[str]) -> None:
    """Publish on channels that nobody has named before, as often as a client may."""
    await _upgrade(streams, CONNECT)
    async with _read_on(streams):
        for number in range(2, 1_000_000, 2):
            channel = f"chat:{random.getrandbits(60)}"
            commands = (
                {"id": number, "subscribe": {"channel": channel}},
                {"id": number + 1, "publish": {"channel": channel, "data": "new"}},
                {"unsubscribe": {"channel": channel}},
            )
            done["publications on new channels"] += 1
            streams[1].write(frame(TEXT, "\n".join(map(json.dumps, commands)).encode()))
            await streams[1].drain()
            await asyncio.sleep(0.1)


async def squatter(streams: Streams, done: Counter[str]) -> None:
    """Use idempotency keys before the publisher that they belong to does."""
    reader, writer = streams
    while True:
        key = f"order-{random.randrange(1_000)}"
        body = b'{"channel":"public:squatted","data":1,"idempotency_key":"%b"}' % key.encode()
        writer.write(
            b"POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (SLOW_KEY, len(body), body)
        )
        done["keys of others"] += 1
        await _answer(reader, done)


async def early(streams: Streams, done: Counter[str]) -> None:
    """Subscribe to a closed channel, and publish there in the same frame."""
    await _upgrade(streams, CONNECT)
    async with _read_on(streams):
        for number in range(2, 1_000_000, 3):
            channel = {"channel": "user:#somebody"}
            commands = (
                {"id": number, "subscribe": channel},
                {"id": number + 1, "publish": {**channel, "data": "early"}},
                {"id": number + 2, "presence": channel},
            )
            done["early publications"] += 1
            streams[1].write(frame(TEXT, "\n".join(map(json.dumps, commands)).encode()))
            await streams[1].drain()
            await asyncio.sleep(0.01)


async def body_holder(streams: Streams, done: Counter[str]) -> None:
    """Send a large body except for its last byte, with a session that does not exist."""
    reader, writer = streams
    path = random.choice((b"/login/", b"/api/publish", b"/nowhere/"))
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: sessionid=x\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" % path
    )
    done["bodies without an end"] += 1
    with contextlib.suppress(OSError):
        for _ in range(64):
            writer.write(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
            await writer.drain()
    await reader.read()


async def upgrader(streams: Streams, done: Counter[str]) -> None:
    """Offer another protocol in a request that has a body."""
    reader, writer = streams
    body = b'{"channel":"public:news","data":1}'
    while True:
        writer.write(
            b"POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
            b"Upgrade: h2c\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        done["offers that are declined"] += 1
        await _answer(reader, done)


async def globber(streams: Streams, done: Counter[str]) -> None:
    """List channels by a pattern that once made every node backtrack, with a key that may do so."""
    reader, writer = streams
    body = json.dumps({"pattern": "*a" * 60 + "b"}).encode()
    while True:
        writer.write(
            b"POST /api/channels HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: test-key\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        done["patterns"] += 1
        await _answer(reader, done)
        await asyncio.sleep(0.1)


BRACKETS = b"[" + b"[]," * 21_000 + b"null]"
"""Nearly 64 KiB of the data that is most expensive to check."""


async def bracketer(streams: Streams, done: Counter[str]) -> None:
    """Publish brackets on a channel, as often as a client may."""
    channel = b"chat:%d" % random.getrandbits(40)
    subscribe = b'{"id":2,"subscribe":{"channel":"%b"}}' % channel
    await _upgrade(streams, CONNECT, frame(TEXT, subscribe))
    async with _read_on(streams):
        for number in range(3, 1_000_000):
            done["brackets"] += 1
            said = b'{"id":%d,"publish":{"channel":"%b","data":%b}}' % (number, channel, BRACKETS)
            streams[1].write(frame(TEXT, said))
            await streams[1].drain()
            await asyncio.sleep(0.1)


async def broadcaster(streams: Streams, done: Counter[str]) -> None:
    """Publish them on a hundred channels at once, with a key that may publish once a second."""
    reader, writer = streams
    channels = ",".join(f'"public:brackets-{n}"' for n in range(100)).encode()
    body = b'{"channels":[%b],"data":%b,"idempotency_key":"k"}' % (channels, BRACKETS)
    while True:
        writer.write(
            b"POST /api/broadcast HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (SLOW_KEY, len(body), body)
        )
        done["broadcasts"] += 1
        await _answer(reader, done)


async def linker(streams: Streams, done: Counter[str]) -> None:
    """Follow a link on another site to a stream, as the browser of a logged-in user does."""
    reader, writer = streams
    while True:
        writer.write(
            b"GET /connection/sse?channel=chat:evil HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Cookie: sessionid=x\r\nSec-Fetch-Site: cross-site\r\n"
            b"Sec-Fetch-Mode: navigate\r\n\r\n"
        )
        done["links"] += 1
        await _answer(reader, done)


async def _answer(reader: asyncio.StreamReader, done: Counter[str]) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    said = await reader.readexactly(length)
    is_ours = head.startswith(b"HTTP/1.1 5")
    done["answers in the five hundreds"] += is_ours
    if is_ours:
        done[f"{head[9:12].decode()} {said[:100].decode(errors='replace')}"] += 1


async def _upgrade(streams: Streams, *more: bytes) -> None:
    reader, writer = streams
    writer.write(handshake())
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"".join(more))


@contextlib.asynccontextmanager
async def _read_on(streams: Streams):  # type: ignore[no-untyped-def]
    """Read and discard responses, so that the attackers do not count as slow readers."""

    async def read() -> None:
        while await streams[0].read(65_536):
            pass
        streams[1].close()

    task = asyncio.create_task(read())
    try:
        yield task
    finally:
        task.cancel()


ACTORS: dict[str, Actor] = {
    actor.__name__: actor
    for actor in (
        *(silent, silent_upgraded, slow_headers, slow_body, pinger, subscriber, oversize, guesser),
        *(forger, greedy, churner, asker, body_holder, upgrader, globber, linker),
        *(bracketer, broadcaster, member, shower, namer, squatter, early),
    )
}


async def _again_and_again(actor: Actor, port: int, address: str, done: Counter[str]) -> None:
    while True:
        try:
            async with within(20):
                streams = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        except (OSError, TimeoutError):
            done["refused"] += 1
        else:
            with contextlib.suppress(
                OSError, asyncio.IncompleteReadError, RuntimeError, TimeoutError
            ):
                await actor(streams, done)
            done["cut"] += 1
            streams[1].transport.abort()
        await asyncio.sleep(random.uniform(0, AGAIN_SECONDS))


async def attack(port: int, sizes: dict[str, int]) -> Counter[str]:
    """Run this many attackers of each kind until stdin ends."""
    done: Counter[str] = Counter()
    tasks = [
        asyncio.create_task(
            _again_and_again(ACTORS[name], port, f"127.1.0.{1 + n % ADDRESSES}", done)
        )
        for name, count in sizes.items()
        for n in range(count)
    ]
    await asyncio.to_thread(sys.stdin.read)
    done["open at the end"] = len(os.listdir("/proc/self/fd"))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return done


def main() -> None:
    """Arguments: the port, and as JSON the number of attackers of each kind."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(asyncio.run(attack(int(sys.argv[1]), json.loads(sys.argv[2])))))


if __name__ == "__main__":
    main()
