"""Ten thousand invalid inputs of each kind break nothing, and a healthy client loses nothing.

The inputs are the same in every run. `make test` sends a tenth; `make threats` sends all
(NOTIFIER_THREATS=full), and frames and handshakes also to the servers on which a host may run the
app.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.support.raw import CLOSE, TEXT, Raw, frame, status_of
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, KEY, SERVERS, Service, needs_proc
from tests.threats import fuzz
from tests.threats.conftest import FULL, Report, Target, Watched, resident_bytes

pytestmark = needs_proc

MIB = 1024 * 1024
SCALE = 1 if FULL else 10
MESSAGES_PER_CONNECTION = 40
CUT_SECONDS = 15.0  # the time limit for hanging connections; a missing body has 10 s
SEED = 20_250_705

Fuzz = Callable[[Service, int, int], "Counter[str]"]


def bodies(service: Service, number: int, count: int) -> Counter[str]:
    """Post bodies on one connection, as Hypothesis makes them."""
    outcomes: Counter[str] = Counter()
    link = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    given_headers = {**KEY, "Content-Type": "application/json"}

    def post(method: str, body: bytes) -> None:
        link.request("POST", f"/api/{method}", body, given_headers)
        answer = link.getresponse()
        said = json.loads(answer.read())
        outcomes[str(answer.status)] += 1
        assert answer.status < 500, (method, body, said)

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(fuzz.bodies())
    def post_all(case: tuple[str, bytes]) -> None:
        post(*case)

    for method in ("publish", "broadcast", "batch"):
        for kept in fuzz.corpus("bodies").values():
            post(method, kept)
    post_all()
    link.close()
    return outcomes


def messages(service: Service, number: int, count: int) -> Counter[str]:
    """Say messages on connections that stay until they are closed, or for a while."""
    outcomes: Counter[str] = Counter()
    said = fuzz.messages(number, count)
    with suppress(StopIteration):
        while True:
            with Raw(service.port).upgraded() as peer:
                peer.send(frame(TEXT, b'{"id":1,"connect":{}}'))
                _say(peer, said, outcomes)
    return outcomes


def _say(peer: Raw, said: Iterator[bytes], outcomes: Counter[str]) -> None:
    """Send messages, each followed by a ping whose reply shows that it was read."""
    for _ in range(MESSAGES_PER_CONNECTION):
        message = next(said)
        with suppress(UnicodeDecodeError):
            message.decode()
            outcomes["text"] += 1
        peer.send(frame(TEXT, message), frame(TEXT, b'{"id":4242,"ping":{}}'))
        for heard in peer.frames():
            if heard.opcode == CLOSE:
                outcomes[f"closed with {heard.close_code}"] += 1
                assert heard.close_code in {1007, 1009, 3013, 3500, 3501}, message
                return
            if b'"id":4242' in heard.payload:
                outcomes["answered"] += 1
                break
        else:
            raise AssertionError(f"it ended without a word after {message!r}")


def frames(service: Service, number: int, count: int) -> Counter[str]:
    """Send frames, two on a connection that has introduced itself, and see how it ends."""
    outcomes: Counter[str] = Counter()
    made = list(fuzz.frames(number, count))
    while made:
        some, made = made[:2], made[2:]
        with Raw(service.port, seconds=CUT_SECONDS).upgraded() as peer:
            peer.send(frame(TEXT, b'{"id":1,"connect":{}}'), *some, frame(CLOSE, b"\x03\xe8"))
            with suppress(OSError):
                peer.socket.shutdown(socket.SHUT_WR)
            outcomes[f"closed with {peer.closed()}"] += 1
    return outcomes


def handshakes(service: Service, number: int, count: int) -> Counter[str]:
    """Try to come in, and leave again."""
    outcomes: Counter[str] = Counter()
    for attempt in fuzz.handshakes(number, count):
        with Raw(service.port, seconds=CUT_SECONDS) as peer:
            peer.send(attempt)
            with suppress(OSError):
                peer.socket.shutdown(socket.SHUT_WR)
            try:
                status = status_of(peer.rest())
            except TimeoutError:
                outcomes["hung"] += 1
                continue
            outcomes[str(status) if status else "no answer"] += 1
            if status >= 500:
                outcomes["5xx"] += 1
    return outcomes


KINDS: dict[str, tuple[Fuzz, int]] = {
    "bodies": (bodies, 10_000),
    "messages": (messages, 10_000),
    "frames": (frames, 10_000),
    "handshakes": (handshakes, 2_000),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
async def test_endless_garbage(target: Target, watched: Watched, report: Report, kind: str) -> None:
    send, count = KINDS[kind]
    async with watched(target) as load:
        await asyncio.to_thread(send, target, SEED + 1, count // SCALE // 5)  # warm
        before = resident_bytes(target.worker_pid)
        outcomes = await asyncio.to_thread(send, target, SEED, count // SCALE)
        grown = resident_bytes(target.worker_pid) - before
    said = ", ".join(f"{name}: {times:,}" for name, times in sorted(outcomes.items()))
    summary = load.ledger.summary()
    report("fuzz", kind, count // SCALE, said, f"{grown / MIB:+.1f}", f"{summary.received:,}")
    target.looks_well()
    assert not outcomes["hung"]
    assert not outcomes["5xx"]
    assert grown <= 20 * MIB


@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", SERVERS if FULL else ["daphne"])
@pytest.mark.parametrize("kind", ["frames", "handshakes"])
async def test_endless_garbage_on_another_server(
    redis_server: RedisServer,
    serve: Callable[..., Service],
    watched: Watched,
    report: Report,
    server: str,
    kind: str,
) -> None:
    """What a server itself makes of nonsense is its own; the app behind it loses nothing."""
    send, count = KINDS[kind]
    service = serve(redis_server.url, server)
    async with watched(service) as load:
        outcomes = await asyncio.to_thread(send, service, SEED, count // 10)
    tracebacks = service.log.count("Traceback")
    said = ", ".join(f"{name}: {times:,}" for name, times in sorted(outcomes.items()))
    received = f"{load.ledger.summary().received:,}"
    report("other", f"{server}: {kind}", count // 10, said, tracebacks, received)
    assert service.is_live()
    if server != DEPLOYED:
        assert service.server == server
