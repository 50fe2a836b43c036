"""The URL paths of the app, each relative to the prefix under which a project mounts it.

``include("realtime.urls")`` mounts `API`, `TOKEN`, `LIVEZ` and `READYZ`. The WebSocket route and
`realtime.endpoint.HttpEndpoint` mount the others, under REALTIME_PATH_PREFIX.

All of them are below the prefix under which a proxy mounts the whole project: Django's script name,
ASGI's root_path. A proxy may strip it from the path or leave it there, and servers disagree about
what they then put into ASGI's ``path``: uvicorn adds its ``--root-path``, others do not. Like
Django, the functions here accept both.
"""

from __future__ import annotations

WEBSOCKET = "connection/websocket"
SSE, UNI_SSE = "connection/sse", "connection/uni_sse"
HTTP_STREAM, EMULATION = "connection/http_stream", "emulation"
STREAMS = frozenset({SSE, UNI_SSE, HTTP_STREAM, EMULATION})
"""The paths of event streams, and of the commands beside them."""

API = "api/"
TOKEN = "connection/token"  # noqa: S105 - a path
LIVEZ, READYZ = "livez", "readyz"
PROBES = (LIVEZ, READYZ)


def within_project(path: str, script_name: str) -> str:
    """Return a path without the prefix, if it has it.

    >>> within_project("/app/live/readyz", "/app/live")
    '/readyz'
    >>> within_project("/readyz", "/app/live")
    '/readyz'
    """
    prefix = script_name.rstrip("/")
    if prefix and (path == prefix or path.startswith(prefix + "/")):
        return path[len(prefix) :] or "/"
    return path


def for_browsers(path: str, script_name: str) -> str:
    """Return a path with the prefix, as the browser knows it.

    >>> for_browsers("/readyz", "/app/live")
    '/app/live/readyz'
    """
    return script_name.rstrip("/") + within_project(path, script_name)
