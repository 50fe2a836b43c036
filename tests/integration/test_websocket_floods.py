"""Floods of WebSocket frames that no application sees are counted and closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from notifier.websocket import CONTROL_FRAMES, FRAGMENTS_LIMIT
from tests.support.eventually import eventually_sync
from tests.support.raw import Raw, frame, handshake, status_of
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service

CONT, TEXT, CLOSE, PING, PONG = 0, 1, 8, 9, 10
CONNECT = b'{"id":1,"connect":{}}'


@pytest.fixture(scope="module")
def service(redis_server: RedisServer) -> Iterator[Service]:
    service = Service(redis_server.url, DEPLOYED, NOTIFIER_LIMITS='{"ping_seconds": 3600}').start()
    yield service
    log = service.log
    service.stop()
    assert "Traceback" not in log, log


@pytest.fixture
def peer(service: Service) -> Iterator[Raw]:
    with Raw(service.port).upgraded() as peer:
        peer.send(frame(TEXT, CONNECT))
        assert b'"connect"' in next(peer.frames()).payload
        yield peer


def is_told(service: Service, limit: str) -> None:
    eventually_sync(lambda: f"the limit {limit} was reached" in service.log)


@pytest.mark.parametrize("opcode", [PING, PONG], ids=["pings", "pongs"])
def test_unlimited_control_frames_end_the_connection(
    service: Service, peer: Raw, opcode: int
) -> None:
    peer.send(frame(opcode, b"x") * 5000)
    answers = list(peer.frames())
    assert answers[-1].close_code == 3013
    assert len(answers) <= CONTROL_FRAMES.burst + 700, "no more than one slice is answered"
    is_told(service, "websocket_control_frames")


@pytest.mark.parametrize(
    "flood",
    [
        frame(PING, b"x") * 300,
        frame(TEXT, b"a", fin=False) + frame(CONT, fin=False) * 100 + frame(CONT),
    ],
    ids=["pings", "fragments"],
)
def test_a_flood_with_a_close_frame_behind_it_ends_without_an_error(
    service: Service, peer: Raw, flood: bytes
) -> None:
    """The parser has read the close frame by then, and refuses to send one of ours."""
    peer.send(flood + frame(CLOSE))
    list(peer.frames())
    assert "Fatal error" not in service.log


def test_a_close_frame_behind_what_ends_the_connection_is_answered(service: Service) -> None:
    """The message is handled before the parser's answer to the close frame is written."""
    with Raw(service.port).upgraded() as peer:
        peer.send(frame(TEXT, b'{"id":1,"connect":{"token":"no"}}') + frame(CLOSE, b"\x03\xe8"))
        *_, last = peer.frames()
        assert last.opcode == CLOSE


def test_a_few_control_frames_are_allowed(peer: Raw) -> None:
    peer.send(frame(PING, b"x") * 50 + frame(TEXT, b'{"id":2,"ping":{}}'))
    frames = peer.frames()
    assert [next(frames).opcode for _ in range(50)] == [PONG] * 50
    assert next(frames).payload == b'{"id":2,"ping":{}}'


@pytest.mark.parametrize("piece", [b"", b" "], ids=["empty", "of one byte"])
def test_a_message_of_unlimited_fragments_ends_the_connection(
    service: Service, peer: Raw, piece: bytes
) -> None:
    """An empty fragment took a place in an unbounded list, and never counted as a byte."""
    peer.send(frame(TEXT, b"{", fin=False) + frame(CONT, piece, fin=False) * 10_000)
    assert peer.closed() == 1009
    is_told(service, "websocket_fragments")


def test_a_message_with_the_maximum_number_of_fragments_is_read(peer: Raw) -> None:
    pieces = [b'{"id":2,"ping":{}', *[b" "] * (FRAGMENTS_LIMIT - 2), b"}"]
    last = len(pieces) - 1
    for number, piece in enumerate(pieces):
        peer.send(frame(CONT if number else TEXT, piece, fin=number == last))
    assert next(peer.frames()).payload == b'{"id":2,"ping":{}}'


def test_the_app_ends_a_flood_of_tiny_frames(peer: Raw) -> None:
    peer.send(frame(TEXT, b"{}") * 50_000)
    assert peer.closed() == 3013


def test_control_frames_before_the_handshake_completes_do_no_harm(service: Service) -> None:
    for _ in range(5):
        with Raw(service.port).send(handshake() + frame(PING) * 20_000) as peer:
            assert status_of(peer.head()) == 101
    with Raw(service.port).upgraded() as peer:
        peer.send(frame(TEXT, CONNECT))
        assert b'"connect"' in next(peer.frames()).payload


def test_security_relevant_headers_must_not_be_repeated(service: Service) -> None:
    for line in ("Host: b", "Cookie: a=b\r\nCookie: c=d", "Authorization: a\r\nAuthorization: b"):
        with Raw(service.port).send(handshake(*line.split("\r\n"))) as peer:
            assert status_of(peer.head()) == 400
        both = f"GET /livez HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n".encode()
        with Raw(service.port).send(both) as peer:
            assert status_of(peer.head()) == 400


def test_the_number_of_handshake_headers_is_limited(service: Service) -> None:
    with Raw(service.port).send(handshake(*["X-A: b"] * 100)) as peer:
        assert status_of(peer.head()) == 431
    is_told(service, "request_headers")


def test_a_silent_connection_to_the_service_is_closed(service: Service) -> None:
    """The real deadline, on the real server; test_http_protocol tests everything else about it."""
    with Raw(service.port, seconds=15) as silent, Raw(service.port, seconds=15) as half:
        half.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        assert silent.rest() == b""
        assert status_of(half.rest()) == 408
    is_told(service, "request_head_seconds")
