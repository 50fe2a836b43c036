"""Request-response cycles for requests that uvicorn's own class answers wrongly."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class CloseDelimitedCycle(RequestResponseCycle):
    """Answers an HTTP/1.0 request: without chunks (RFC 9112 §6.1), and without 100 Continue.

    A body without Content-Length, such as that of an event stream, ends with the connection.
    """

    _is_open_ended = False

    async def send(self, message: Any) -> None:
        """Send a message of the app; uvicorn sends chunks whatever the version is."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            if b"content-length" not in names:
                self._is_open_ended = True
                self.chunked_encoding = False
        elif self._is_open_ended:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class ExpectingCycle(RequestResponseCycle):
    """Answers a request with ``Expect: 100-continue``.

    A client that gets its answer before 100 Continue need not send the body that it announced. Its
    next request would be read as that body, so the connection ends (RFC 9110 §10.1.1).
    """

    async def send(self, message: Any) -> None:
        """Send a message of the app."""
        if self.waiting_for_100_continue and self.more_body:
            self.keep_alive = False
        await super().send(message)


def adapt_cycle(cycle: RequestResponseCycle) -> None:
    """Change the class of a cycle whose request is not plain HTTP/1.1."""
    if cycle.scope["http_version"] == "1.1":
        cycle.__class__ = ExpectingCycle
        return
    cycle.__class__ = CloseDelimitedCycle
    cycle.keep_alive = cycle.waiting_for_100_continue = False
