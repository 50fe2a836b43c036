"""Serves the descriptions of the service: OpenAPI for its HTTP API, AsyncAPI for its streams.

They are public: they contain what the documentation says, and the limits of this site.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from realtime import wiring
from realtime.api.answers import Response, only_get
from realtime.core import paths
from realtime.http import asyncapi, openapi

if TYPE_CHECKING:
    from realtime.api.fields import Shape

DOCUMENTS: dict[str, Callable[[Shape, str], dict[str, Any]]] = {
    "openapi.json": openapi.document,
    "asyncapi.json": asyncapi.document,
}
HEADERS = {
    "Cache-Control": "public, max-age=300",
    # For editors and code generators on other sites.
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_ROOTS = 8  # that a site serves the documents under; usually one


class _Text(NamedTuple):
    body: bytes
    etag: str


def description(name: str, root: str = "") -> dict[str, Any]:
    """Return one of the documents, such as ``openapi.json``.

    Raises:
        KeyError: The document does not exist.
    """
    return DOCUMENTS[name](wiring.shape(), root)


def answer(http_method: str, path: str, if_none_match: str) -> Response:
    """Return the answer to a request for one of the documents.

    Args:
        http_method: The method of the request.
        path: Its path, which ends with ``/api/`` and the name of a document.
        if_none_match: The header If-None-Match, or empty.
    """
    if http_method not in ("GET", "HEAD"):
        return only_get()
    root, _, name = path.rpartition(f"/{paths.API}")
    text = _text(name, root, wiring.shape())
    headers = {**HEADERS, "ETag": text.etag}
    if text.etag in if_none_match or if_none_match.strip() == "*":
        return Response(304, b"", headers)
    return Response(200, text.body, headers)


@lru_cache(len(DOCUMENTS) * _ROOTS)
def _text(name: str, root: str, shape: Shape) -> _Text:
    document = DOCUMENTS[name](shape, root)
    body = msgspec.json.format(msgspec.json.encode(document)) + b"\n"
    return _Text(body, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
