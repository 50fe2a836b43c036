"""A declined offer changes nothing: neither the response to its request nor the next request.

Tested with our protocol class, configured as the service does it, and with the bytes that real
clients send. Issue 15, C13: the JDK's HTTP client and centrifuge-python could not use the service.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from uvicorn.server import ServerState

from notifier.counting import Config
from notifier.http import HttpProtocol
from notifier.websocket import WebSocketProtocol
from tests.support.eventually import eventually
from tests.support.raw import Raw, asked, handshake, status_of

H2C = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\nUpgrade: h2c\r\n"
BODY = "Content-Length: 3\r\n\r\nabc"
CHUNKS = "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"
LAST = "GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Respond with what was received: method, path and body, without announcing the length."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    body = b""
    if scope["path"] != "/refused":
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
    said = f"<{scope['method']} {scope['path']} {body.decode()}>".encode()
    status = 401 if scope["path"] == "/refused" else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    for part in (said[:1], said[1:]):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    state = ServerState()
    config = Config(
        echo,
        reached=lambda name: None,
        interface="asgi3",
        log_config=None,
        ws=WebSocketProtocol,
        ws_per_message_deflate=False,
        timeout_keep_alive=1,
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpProtocol(config, state, {}), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await eventually(lambda: not state.connections and not state.tasks)


async def ask(port: int, *parts: str) -> bytes:
    return await asyncio.to_thread(asked, port, *[part.encode() for part in parts])


def said(answer: bytes) -> list[str]:
    """Return the body that `echo` has sent, chunked or not."""
    return ["<" + text for text in re.findall(r"<(?:\r\n\w+\r\n)?([^<>]+>)", answer.decode())]


JDK = (
    # Java 17, java.net.http.HttpClient.newHttpClient(), a POST of a string; head and body are
    # written separately, each in its own packet.
    "POST /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 3\r\n"
    "Host: 127.0.0.1\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
    "Upgrade: h2c\r\nUser-Agent: Java-http-client/17.0.15\r\n\r\n",
    "abc",
)
OFFERS = {
    "the JDK's HTTP client": JDK,
    "curl --http2": (
        "POST /a HTTP/1.1\r\nHost: h\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n" + BODY,
    ),
    "h2c and chunks": (f"POST /a HTTP/1.1\r\nHost: h\r\n{H2C}{CHUNKS}",),
    "TLS within HTTP (RFC 2817)": (
        f"POST /a HTTP/1.1\r\nHost: h\r\nUpgrade: TLS/1.0\r\nConnection: Upgrade\r\n{BODY}",
    ),
    "one of several": (
        f"POST /a HTTP/1.1\r\nHost: h\r\nUpgrade: h2c, foo/2\r\nConnection: Upgrade\r\n{BODY}",
    ),
    "a WebSocket by POST": (
        f"POST /a HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{BODY}",
    ),
    "an upgrade that Connection does not name": (
        f"POST /a HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n{BODY}",
    ),
    "trailers": (
        f"POST /a HTTP/1.1\r\nHost: h\r\nTE: trailers, deflate\r\nConnection: TE\r\n{BODY}",
    ),
    "codings": (
        f"POST /a HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip, br;q=1.0, *;q=0\r\n{BODY}",
    ),
    "times to keep it": (
        "POST /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n"
        f"Keep-Alive: timeout=9999, max=9999\r\n{BODY}",
    ),
    "an expectation that nobody knows": (
        f"POST /a HTTP/1.1\r\nHost: h\r\nExpect: miracles\r\n{BODY}",
    ),
    "a WebSocket's headers alone": (
        "POST /a HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Protocol:\r\n"
        f"Sec-WebSocket-Extensions: permessage-deflate\r\n{BODY}",
    ),
    "alternatives and priorities": (
        "POST /a HTTP/1.1\r\nHost: h\r\nPriority: u=0, i\r\nAlt-Used: h\r\nWant-Digest: sha-256\r\n"
        f"Range: bytes=0-0\r\nPrefer: respond-async\r\n{BODY}",
    ),
}


@pytest.mark.parametrize("parts", OFFERS.values(), ids=OFFERS)
async def test_a_post_with_an_offer_keeps_its_body_and_the_next_request_is_answered(
    port: int, parts: tuple[str, ...]
) -> None:
    """Stock uvicorn responds without the body, and takes the rest for the other protocol.

    Public reports: Kludex/uvicorn#2722 (Java's RestClient), #1501 (`curl --http2`).
    """
    expected = ["<POST /a abc>", "<GET /last >"]
    assert said(await ask(port, "".join(parts) + LAST)) == expected
    assert said(await ask(port, *parts, LAST)) == expected


@pytest.mark.parametrize("cut", range(1, 200, 7))
async def test_an_offer_may_be_split_anywhere(port: int, cut: int) -> None:
    request = f"POST /a HTTP/1.1\r\nHost: h\r\n{H2C}{CHUNKS}{LAST}"
    with Raw(port) as peer:
        peer.send(request[:cut].encode())
        await asyncio.sleep(0.01)  # the parser shall see it in two pieces
        answer = await asyncio.to_thread(peer.send(request[cut:].encode()).rest)
    assert said(answer) == ["<POST /a abc>", "<GET /last >"]


async def test_requests_with_offers_may_be_pipelined(port: int) -> None:
    get = f"GET /b HTTP/1.1\r\nHost: h\r\n{H2C}\r\n"
    post = f"POST /a HTTP/1.1\r\nHost: h\r\n{H2C}{BODY}"
    expected = ["<POST /a abc>", "<GET /b >"] * 4 + ["<GET /last >"]
    assert said(await ask(port, (post + get) * 4 + LAST)) == expected


async def test_a_pending_response_precedes_a_websocket_upgrade(
    port: int,
) -> None:
    """The 101 would precede the response to the first request, and be taken for that response."""
    post = f"POST /a HTTP/1.1\r\nHost: h\r\n{BODY}"
    both = post.encode() + handshake(path="/b")
    answer = await asyncio.to_thread(asked, port, both + LAST.encode())
    assert said(answer) == ["<POST /a abc>", "<GET /b >", "<GET /last >"]


async def test_a_declined_offer_does_not_hide_a_second_length(port: int) -> None:
    """RFC 9112 §6.3: a body with two lengths is invalid, with or without an offer before it."""
    head = f"POST /a HTTP/1.1\r\nHost: h\r\n{H2C}"
    both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    for framing in (both, "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"):
        assert status_of(await ask(port, head + framing + LAST)) == 400


async def test_a_tunnel_is_refused_and_its_contents_are_not_parsed(port: int) -> None:
    answer = await ask(port, f"CONNECT example.com:443 HTTP/1.1\r\nHost: h\r\n\r\n{LAST}")
    assert status_of(answer) == 405
    assert b"allow: " in answer
    assert answer.count(b"HTTP/1.1") == 1


async def test_prior_knowledge_of_http_2_is_400(port: int) -> None:
    assert status_of(await ask(port, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) == 400


# ------------------------------------------------------------------------ WebSocket handshakes


@pytest.mark.parametrize(
    "header",
    [
        "Sec-WebSocket-Protocol:",
        "Sec-WebSocket-Protocol:  ,\t, ",
        "Sec-WebSocket-Extensions:",
        "Sec-WebSocket-Protocol: graphql-ws, centrifuge-protobuf",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-unknown",
        "Accept-Encoding: gzip",
        "Keep-Alive: timeout=5",
        "TE: trailers",
    ],
)
async def test_a_handshake_with_an_offer_that_is_declined_or_empty_is_accepted(
    port: int, header: str
) -> None:
    """centrifuge-python with `websockets` 15 sends the first of these, and could not connect.

    Issue 15, C13: the server-side `websockets` answered it with 400.

    centrifugal/centrifuge-python, tests/test_json_handshake.py: servers such as the `websockets`
    one reject an empty Sec-WebSocket-Protocol; likewise python-hyper/wsproto#7.
    """
    with Raw(port) as peer:
        head = await asyncio.to_thread(peer.send(handshake(header)).head)
    assert status_of(head) == 101
    assert b"sec-websocket-protocol" not in head.lower()
    assert b"sec-websocket-extensions" not in head.lower()


async def test_a_handshake_may_list_connection_options_in_separate_lines(
    port: int,
) -> None:
    with Raw(port) as peer:
        head = await asyncio.to_thread(peer.send(handshake("Connection: keep-alive")).head)
    assert status_of(head) == 101


# -------------------------------------------------------------------- HTTP/1.0, and 100 Continue


@pytest.mark.parametrize("header", ["", "Connection: keep-alive\r\n", H2C, "TE: chunked\r\n"])
async def test_an_http_1_0_client_gets_no_chunks_and_the_end_of_the_connection(
    port: int, header: str
) -> None:
    """`ab`, and nginx with `proxy_http_version 1.0`. Public report: Kludex/uvicorn#1360."""
    answer = await ask(port, f"POST /a HTTP/1.0\r\n{header}{BODY}")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status_of(answer) == 200
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body == b"<POST /a abc>"


async def test_an_http_1_0_client_is_not_told_to_continue(port: int) -> None:
    """RFC 9110 §10.1.1: the expectation must be ignored.

    Such a client takes the 100 for the response.
    """
    answer = await ask(port, f"POST /a HTTP/1.0\r\nExpect: 100-continue\r\n{BODY}")
    assert status_of(answer) == 200


async def test_a_client_that_waits_for_100_is_told_to_continue(port: int) -> None:
    head = "POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    with Raw(port) as peer:
        told = await asyncio.to_thread(peer.send(head.encode()).head)
        assert status_of(told) == 100
        answer = await asyncio.to_thread(peer.send(b"abc", LAST.encode()).rest)
    assert said(answer) == ["<POST /a abc>", "<GET /last >"]


async def test_a_request_after_a_refused_100_continue_is_not_read_as_its_body(
    port: int,
) -> None:
    """The client need not send that body.

    If the two ends disagree about it, requests can be smuggled.
    """
    refused = "POST /refused HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
    with Raw(port) as peer:
        peer.send(f"{refused}Content-Length: {len(LAST)}\r\n\r\n".encode())
        answer = await asyncio.to_thread(peer.rest)
    assert status_of(answer) == 401
    assert b"connection: close" in answer.lower()
