"""Reads and rewrites requests that offer to switch to another protocol.

Declining an offer changes nothing else (RFC 9110 §7.8): the request is answered as if it had made
no offer, with its body, and so are the requests behind it.
"""

from __future__ import annotations

from notifier.http_framing import Headers

OFFERS = {b"sec-websocket-protocol", b"sec-websocket-extensions"}
"""Headers of a handshake that list offers; an empty list means the same as no header."""


def offers_websocket(method: str, http_version: str, headers: Headers) -> bool:
    """Tell whether a request is a WebSocket handshake (RFC 6455 §4.1).

    HTTP/1.0 has no upgrade (RFC 9110 §7.8).
    """
    return (
        method == "GET"
        and http_version == "1.1"
        and any(name == b"upgrade" and value.lower() == b"websocket" for name, value in headers)
    )


def announces_body(headers: Headers) -> bool:
    """Tell whether a handshake has a body, which would be read as WebSocket frames.

    `websockets` raises an error for a body, and for a length written as 00; uvicorn then closes the
    connection without an answer.
    """
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )


def drop_empty_offers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers of a handshake without empty lists of offers (RFC 9110 §5.6.1.2).

    A client with `websockets` 15 sends ``Sec-WebSocket-Protocol:`` if its user names no protocol.
    """
    return [(name, value) for name, value in headers if name not in OFFERS or value.strip(b", \t")]


def write_head_without_offer(method: str, url: bytes, http_version: str, headers: Headers) -> bytes:
    """Return the head of a request, without its offer.

    Every HTTP client of the JDK offers h2c by default, and so does `curl --http2`.
    """
    head = [method.encode(), b" ", url, b" HTTP/", http_version.encode(), b"\r\n"]
    for name, value in headers:
        if name != b"upgrade":
            head += (name, b": ", value, b"\r\n")
    return b"".join((*head, b"\r\n"))
