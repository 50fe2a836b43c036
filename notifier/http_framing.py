"""Checks how the head of a request frames it: Host, Transfer-Encoding, lengths.

Requests that another server in front of us could read differently are refused (CWE-444, request
smuggling). No sockets, no parser: values in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case, and values."""


class FramingError(NamedTuple):
    """Why a request is refused."""

    status: HTTPStatus
    why: str


def find_framing_error(hosts: int, codings: bytes, *, is_old: bool) -> FramingError | None:
    """Return what makes the framing of a request ambiguous, if anything does.

    Args:
        hosts: The number of Host headers.
        codings: The values of all Transfer-Encoding headers, joined by commas.
        is_old: Whether the version is below 1.1.
    """
    if hosts > 1 or not (hosts or is_old):  # RFC 9112 §3.2
        return FramingError(HTTPStatus.BAD_REQUEST, "a request must have one Host header")
    if not codings:
        return None
    if is_old:  # RFC 9112 §6.1
        return FramingError(HTTPStatus.BAD_REQUEST, "HTTP/1.0 does not support Transfer-Encoding")
    names = [coding.strip(b" \t").lower() for coding in codings.split(b",")]
    names = [name for name in names if name]  # RFC 9110 §5.6.1.2
    if names[-1:] != [b"chunked"] or names.count(b"chunked") > 1:  # RFC 9112 §6.1, §6.3
        return FramingError(
            HTTPStatus.BAD_REQUEST, "chunked must be the last transfer coding, and used once"
        )
    if names != [b"chunked"]:
        return FramingError(
            HTTPStatus.NOT_IMPLEMENTED, "the only supported transfer coding is chunked"
        )
    return None


def count_head_bytes(url: bytes, headers: Headers) -> int:
    """Return the size of a head: its URL, and the names and values of its headers."""
    return len(url) + sum(len(name) + len(value) for name, value in headers)


def read_content_length(headers: Headers) -> int:
    """Return the announced length of a body; 0 if there is none, or if it is no number.

    The parser has checked it, but takes any number of zeros before it, and Python converts at most
    4,300 digits. A number of more than 20 digits is returned too small, but never within a limit.
    """
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value.lstrip(b"0")[:20] or b"0")
    return 0
