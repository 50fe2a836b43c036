"""A web server for another site: blank pages, HTMX, and a service worker that fetches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import django_htmx

from tests.support.http_server import Quiet, serving

HTMX = Path(django_htmx.__file__).parent / "static" / "django_htmx"
WORKER = """
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("message", async ({data: [url, init], ports}) => {
  const answer = await fetch(url, init).catch((error) => ({type: "error", status: 0}));
  ports[0].postMessage([answer.type, answer.status]);
});
"""
FILES = {
    "/worker.js": WORKER.encode(),
    "/htmx.js": (HTMX / "htmx-2.min.js").read_bytes(),
    "/hx-sse.js": (HTMX / "ext" / "hx-sse-2.min.js").read_bytes(),
}


class _Handler(Quiet, BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = FILES.get(self.path, b"<!doctype html><title>Another site</title><body></body>")
        kind = "text/javascript" if self.path in FILES else "text/html"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def foreign_site() -> Iterator[int]:
    """Serve on 127.0.0.1 and return the port."""
    with serving(_Handler) as port:
        yield port
