"""Recognises a request whose head is that of the request before it, without parsing it again.

A publisher that keeps its connection sends the same head each time; only the length of the body
changes. The parser is deterministic: the same bytes always produce the same result. Parsing was a
third of the work in Python for a publish (ADR-0034).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from notifier.http_answers import Work

KEPT_BYTES = 1024
"""Of a head that is remembered, for each connection; publishers send about 200."""
DIGITS = 7
"""Of the length of a body; the largest body of the API has 1 MiB."""
_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


class RepeatedHead:
    """A head that was parsed and accepted, around the length of its body."""

    __slots__ = ("_after", "_before", "work")

    def __init__(self, before: bytes, after: bytes, work: Work) -> None:
        """Take the bytes before and after the length, and what answers such a request."""
        self._before = before
        self._after = after
        self.work = work

    def body_of(self, data: bytes) -> bytes | None:
        """Return the body if ``data`` is exactly one request with this head, else None."""
        start = len(self._before)
        if not data.startswith(self._before):
            return None
        end = data.find(b"\r", start, start + DIGITS + 1)
        if not data.startswith(self._after, end):
            return None
        digits = data[start:end]
        body = data[end + len(self._after) :]
        return body if digits.isdigit() and int(digits) == len(body) else None


def is_head_alone(data: bytes) -> bool:
    """Tell whether ``data`` is the head of a POST whose body is still to come.

    Many clients write the two one after the other: Python's ``http.client``, requests and httpx.
    """
    if not data.endswith(_END) or not data.startswith(b"POST ") or len(data) > KEPT_BYTES:
        return False
    head = data.lower()
    at = head.find(_LENGTH)
    # Without a body it is the whole request; with Expect, the client waits for our answer to it.
    has_body = at >= 0 and head[at + len(_LENGTH) :].lstrip(b" \t")[:1] in b"123456789"
    return has_body and b"\r\nexpect:" not in head and head.find(_END) == len(head) - len(_END)


def remember(data: bytes, body: bytes, work: Work) -> RepeatedHead | None:
    """Return the head of a request, to recognise it again; None if that is not worth it.

    Args:
        data: What was read: this one request, and nothing else.
        body: Its body, as the parser found it.
        work: What answers it, whatever its body is.
    """
    head = data[: len(data) - len(body)]
    # Not for chunked bodies, nor if the read contains anything besides this head and body.
    if len(head) > KEPT_BYTES or head.find(_END) != len(head) - len(_END):
        return None
    if not data.startswith(b"POST ") or not data.endswith(body):
        return None
    at = head.lower().find(_LENGTH)
    if at < 0:
        return None
    start = at + len(_LENGTH)
    end = head.find(b"\r", start)
    stated = head[start:end]
    digits = stated.strip(b" \t")
    if not digits.isdigit() or int(digits) != len(body):
        return None
    start += stated.find(digits)
    return RepeatedHead(head[:start], head[start + len(digits) :], work)
