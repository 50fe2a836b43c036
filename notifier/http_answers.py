"""What an application offers to the lane, and how the responses of the lane are written."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

Headers = Sequence[tuple[bytes, bytes]]


class Answer(Protocol):
    """A response; the application's own type fits."""

    @property
    def status(self) -> int:
        """The status code."""

    @property
    def body(self) -> bytes:
        """The body, which is always sent."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers in addition to those of every response."""


Work = Callable[[bytes], Coroutine[Any, Any, Answer]]
"""Answers a request, when its whole body is known."""
Take = Callable[[bytes, Headers], Work | None]
"""Takes the target and the headers of a POST; returns what answers all requests with this head, or
None to decline it."""


class AnswerWriter:
    """Writes responses, whose heads are nearly always the same."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Take the headers of every response."""
        self._common = {name.lower(): text for name, text in headers.items()}
        self._server_headers: Headers | None = None
        self._successful = b""

    def write(self, answer: Answer, server_headers: Headers, *, is_last: bool) -> bytes:
        """Return the bytes of a response.

        Args:
            answer: What to send.
            server_headers: The server's own; a new object whenever the date changes.
            is_last: Whether the connection ends after it.
        """
        if server_headers is not self._server_headers:
            self._server_headers = server_headers
            self._successful = self._head(200, {})
        if answer.status == 200 and not answer.headers:
            head = self._successful
        else:
            head = self._head(answer.status, answer.headers)
        end = b"connection: close\r\n\r\n" if is_last else b"\r\n"
        return b"%bcontent-length: %d\r\n%b%b" % (head, len(answer.body), end, answer.body)

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        server = b"".join([b"%b: %b\r\n" % pair for pair in self._server_headers or ()])
        own = self._common | {name.lower(): text for name, text in headers.items()}
        lines = "".join([f"{name}: {text}\r\n" for name, text in own.items()])
        return STATUS_LINE[status] + server + lines.encode("latin-1")


class Lane:
    """What an application offers to the protocol class of the server."""

    def __init__(self, take: Take, headers: Mapping[str, str]) -> None:
        """Open the lane.

        Args:
            take: Takes requests.
            headers: The headers of every response.
        """
        self.take = take
        self.answers = AnswerWriter(headers)
        self.is_open = True

    def close(self) -> None:
        """Take no more requests: they take the way through ASGI."""
        self.is_open = False


NO_LANE = Lane(lambda url, headers: None, {})
"""Sends all requests through ASGI."""
NO_LANE.close()
