"""The middlewares of the service: a policy for its pages, its static files, and a database away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.utils.deprecation import MiddlewareMixin
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile

from realtime.tally import Tally

logger = logging.getLogger("notifier.pages")
AWAY_SECONDS = 5
_failures = Tally()
_noting = threading.Lock()
POLICY_HEADER = "Content-Security-Policy"
# Django's pages for the developer bring their style inline; Django 6.0 exempts the same two.
_DEBUG_PAGES = frozenset({404, 500})


class ContentSecurityPolicy(MiddlewareMixin):
    """Say with each response what its page may load, unless the view has said it already.

    And that no page of another site may embed it (`Cross-Origin-Resource-Policy`), so that it never
    is in the process of a page that reads its memory (Spectre).

    Django 6.0 brings ``ContentSecurityPolicyMiddleware`` and the same setting; with the LTS this
    service runs on, these lines take its place.
    """

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Add the headers."""
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if settings.DEBUG and response.status_code in _DEBUG_PAGES:
            return response
        response.headers.setdefault(POLICY_HEADER, policy(settings.SECURE_CSP))
        return response


def policy(directives: Mapping[str, Iterable[str]]) -> str:
    """Return the value of the header: ``default-src 'none'; script-src 'self'``."""
    return "; ".join(f"{name} {' '.join(sources)}" for name, sources in directives.items())


class DatabaseAway(MiddlewareMixin):
    """Answer 503 where the user of a page cannot be read; a fault of the moment is no 500."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Say it, if that is what happened."""
        if not isinstance(exception, OperationalError | InterfaceError):
            return None
        with _noting:
            count = _failures.add("database", time.monotonic())
        if count is not None:  # any visitor brings it about
            text = ascii(str(exception))[:200]
            logger.error("a page cannot be shown: %s (%d so far)", text, count)
        # Without the request: to ask who its user is would fail again.
        page = render_to_string("503.html")
        return HttpResponse(page, status=503, headers={"Retry-After": str(AWAY_SECONDS)})


class StaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc]  # WhiteNoise has no types
    """WhiteNoise, answering with whole files.

    Its own answer streams from a synchronous iterator, which Django under ASGI warns of and reads
    into memory first anyway. Our files are small.
    """

    @staticmethod
    def serve(static_file: StaticFile, request: HttpRequest) -> HttpResponse:
        """Return the file, the part of it that was asked for, or "not modified"."""
        found = static_file.get_response(request.method, request.META)
        response = HttpResponse(status=int(found.status))
        del response.headers["Content-Type"]
        for name, value in found.headers:
            response.headers[name] = value
        if found.file is not None:
            with found.file as file:
                response.content = file.read()
        return response
