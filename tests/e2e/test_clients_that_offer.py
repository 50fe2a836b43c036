"""The deployed service with clients that are old, or offer unsupported upgrades."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.raw import Raw, asked, handshake, status_of
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service

BODY = b'{"channel":"public:offers","data":"from Java"}'
JAVA = (
    # What java.net.http.HttpClient of Java 17 sends; head and body are in separate packets.
    b"POST /api/publish HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Content-Length: %d\r\nHost: 127.0.0.1\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
    b"User-Agent: Java-http-client/17.0.15\r\nContent-Type: application/json\r\n"
    b"X-API-Key: test-key\r\n\r\n" % len(BODY)
)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    redis = RedisServer().start()
    service = Service(redis.url, DEPLOYED, HTTPS="0")
    try:
        yield service.start()
    finally:
        service.stop()
        redis.stop()


def test_the_java_http_client_publishes_and_reuses_its_connection(service: Service) -> None:
    """Issue 15, C13: the body and the next request were lost. See Kludex/uvicorn#2722."""
    with Raw(service.port) as peer:
        for parts in ((JAVA, BODY), (JAVA + BODY,), (JAVA + BODY + JAVA[:40], JAVA[40:] + BODY)):
            assert b"HTTP/1.1 200" in peer.send(*parts).head()  # behind the body before it
    said = asked(service.port, (JAVA + BODY) * 2 + b"GET /livez HTTP/1.0\r\n\r\n")
    assert said.count(b'"offset":') == 2
    assert said.count(b"HTTP/1.1 200") == 3


@pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")
def test_curl_offering_http_2_can_publish(service: Service) -> None:
    # Kludex/uvicorn#1501: uvicorn answered 400 instead of ignoring the offer, as RFC 9110 §7.8
    # allows.
    done = subprocess.run(
        [
            *("curl", "--silent", "--http2", "--max-time", "10", "--data", BODY.decode()),
            *("-H", "X-API-Key: test-key", "-H", "Content-Type: application/json"),
            *[f"{service.http}/api/publish"] * 2,
        ],
        capture_output=True,
        check=True,
    )
    assert done.stdout.count(b'"offset":') == 2, done.stdout


def test_a_handshake_without_a_subprotocol_but_with_its_header_is_accepted(
    service: Service,
) -> None:
    """As centrifuge-python with `websockets` 15 does (issue 15, C13)."""
    with Raw(service.port) as peer:
        assert status_of(peer.send(handshake("Sec-WebSocket-Protocol:")).head()) == 101


async def test_an_http_1_0_client_gets_an_event_stream_without_chunks(service: Service) -> None:
    # Kludex/uvicorn#1360; RFC 9112 §6.1: no Transfer-Encoding unless the request indicates
    # HTTP/1.1.
    url = "/connection/sse?channel=public:offers"
    said = b""
    with Raw(service.port) as peer:
        peer.send(f"GET {url} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
        while b"retry:" not in said:
            said += await asyncio.to_thread(peer.socket.recv, 4096)
    head, _, body = said.partition(b"\r\n\r\n")
    assert status_of(head) == 200
    assert b"chunked" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body.startswith(b"retry:"), "no size of a chunk stands before it"
    old = asked(service.port, b"GET /login/ HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    assert b"chunked" not in old.lower()
    assert old.rstrip().endswith(b"</html>")


def test_an_http_1_0_client_publishes(service: Service) -> None:
    """The request that `ab -p` sends."""
    head = b"POST /api/publish HTTP/1.0\r\nContent-length: %d\r\nX-API-Key: test-key\r\n" % len(
        BODY
    )
    rest = b"Content-type: application/json\r\nHost: 127.0.0.1\r\nConnection: Keep-Alive\r\n\r\n"
    answer = asked(service.port, head + rest + BODY)
    assert status_of(answer) == 200
    assert "result" in json.loads(answer.partition(b"\r\n\r\n")[2])
