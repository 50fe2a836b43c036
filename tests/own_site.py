"""The project of `tests.session_settings` with its own page and service worker."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import include, path

WORKER = """
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => event.respondWith(fetch(event.request)));
"""


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("<!doctype html><title>Our own page</title><body></body>")


def worker(request: HttpRequest) -> HttpResponse:
    return HttpResponse(WORKER, content_type="text/javascript")


urlpatterns = [
    path("", page),
    path("worker.js", worker),
    path("", include("realtime.urls")),
]
