"""A web server for another site: blank pages, HTMX, and a service worker that fetches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import django_htmx

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


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = FILES.get(self.path, b"<!doctype html><title>Another site</title><body></body>")
        kind = "text/javascript" if self.path in FILES else "text/html"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def foreign_site() -> Iterator[int]:
    """Serve on 127.0.0.1 and return the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
