"""Middleware of the service: Content-Security-Policy, static files, and database failures."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.utils.deprecation import MiddlewareMixin
from django.views.defaults import page_not_found
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile

from realtime.core.tally import Tally

logger = logging.getLogger("notifier.pages")
AWAY_SECONDS = 5
_failures = Tally()
_noting = threading.Lock()
POLICY_HEADER = "Content-Security-Policy"
_FILE_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""For files, which are parts of pages; the worker, whose own policy counts, is not among them."""
_HASH = re.compile(r"\.[0-9a-f]{12}(?=\.[a-z0-9]{1,5}\Z)")
"""What Django's storage puts into the name of a collected file."""


class ContentSecurityPolicy(MiddlewareMixin):
    """Adds the Content-Security-Policy to each response, unless the view has set its own.

    And `Cross-Origin-Resource-Policy`, so that no page of another site may embed the response: it
    never enters the process of a page that reads its memory (Spectre).

    Django 6.0 has ``ContentSecurityPolicyMiddleware`` and the same setting; on the LTS release that
    this service uses, this class takes its place.
    """

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Add the headers."""
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if settings.DEBUG and response.status_code == 500:
            return response  # Django's page with the traceback has an inline style
        response.headers.setdefault(POLICY_HEADER, policy(settings.SECURE_CSP))
        return response


def policy(directives: Mapping[str, Iterable[str]]) -> str:
    """Return the value of the header: ``default-src 'none'; script-src 'self'``."""
    return "; ".join(f"{name} {' '.join(sources)}" for name, sources in directives.items())


class NotFoundInDebug(MiddlewareMixin):
    """Shows the service's own 404 page in DEBUG, too, instead of Django's list of URL patterns.

    `make run` is what most people see first, and a mistyped address is not an error to debug.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        """Without DEBUG, Django shows the page itself."""
        if not settings.DEBUG:
            raise MiddlewareNotUsed
        super().__init__(get_response)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Return the page for what a view has not found."""
        return page_not_found(request, exception) if isinstance(exception, Http404) else None

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Return the page for a URL that no pattern matches."""
        if response.status_code == 404 and request.resolver_match is None:
            return page_not_found(request, Http404())
        return response


class PlainSessionCookies(MiddlewareMixin):
    r"""Ignores a session cookie that Django cannot have sent.

    Django decodes quoted values: ``"\000"`` is a NUL, for which PostgreSQL raises an error that is
    a 500 and a traceback for each request.
    """

    def process_request(self, request: HttpRequest) -> None:
        """Remove it; comes before the session is read."""
        key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        if key is not None and not (key.isascii() and key.isalnum()):
            del request.COOKIES[settings.SESSION_COOKIE_NAME]


class DatabaseAway(MiddlewareMixin):
    """Responds with 503 if a page's user cannot be read: a temporary failure is not a 500."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Return a 503 if the database failed, and None for any other exception."""
        if not isinstance(exception, OperationalError | InterfaceError):
            return None
        with _noting:
            count = _failures.add("database", time.monotonic())
        if count is not None:  # rate-limited, since any visitor can trigger it
            text = ascii(str(exception))[:200]
            logger.error("cannot show a page, the database failed: %s (%d so far)", text, count)
        # Without the request: looking up its user would fail again.
        page = render_to_string("503.html")
        return HttpResponse(page, status=503, headers={"Retry-After": str(AWAY_SECONDS)})


class StaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc]  # WhiteNoise has no types
    """WhiteNoise, but with whole files as responses, and with files of other versions.

    Its own responses stream from a synchronous iterator, which Django under ASGI warns about and
    reads into memory anyway. Our files are small.

    During an upgrade, a page of one version may ask a node of another version for its files. Their
    names have other hashes there, so the node sends its own file of that name, for a minute only.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Send a static file, or call the next middleware."""
        path = request.path_info
        if not self.autorefresh and path not in self.files:
            own = self.files.get(_HASH.sub("", path))
            if own is not None:
                return self.serve(own, request)
        response: HttpResponseBase = super().__call__(request)
        return response

    def add_files(self, root: str | os.PathLike[str], prefix: str | None = None) -> None:
        """Add a folder, unless nothing has been collected: WhiteNoise would warn."""
        if os.path.isdir(root):
            super().add_files(root, prefix)

    @staticmethod
    def serve(static_file: StaticFile, request: HttpRequest) -> HttpResponse:
        """Return the file, the requested part of it, or "not modified"."""
        found = static_file.get_response(request.method, request.META)
        response = HttpResponse(status=int(found.status))
        del response.headers["Content-Type"]
        for name, value in found.headers:
            response.headers[name] = value
        if "immutable" in response.headers.get("Cache-Control", ""):
            # No browser asks again, and a page has thirty such files; the ETag would do, too.
            del response.headers["Last-Modified"]
        response.headers[POLICY_HEADER] = _FILE_POLICY
        if found.file is not None:
            with found.file as file:
                response.content = file.read()
        return response
