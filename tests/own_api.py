"""A foreign host project with its own API, at the paths that the service uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

MARK = "X-Host-View"
"""A header of every response that Django makes."""


def mark(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    def marked(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response[MARK] = "yes"
        return response

    return marked


@csrf_exempt
def echo(request: HttpRequest, name: str = "") -> JsonResponse:
    """Respond with a description of the request."""
    return JsonResponse({"method": request.method, "bytes": len(request.body)})


urlpatterns = [
    *(path(name, echo) for name in ("livez", "readyz", "emulation")),
    path("live/api/v3/<str:name>/", echo),
    path("live/", include("realtime.urls")),
    path("api/<path:name>", echo),
]


def __getattr__(name: str) -> Any:
    """Create the ASGI application when a server asks for it, not when Django reads the URLs."""
    if name != "application":
        raise AttributeError(name)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.own_api_settings")
    from tests.asgi import application

    from realtime.endpoint import HttpEndpoint  # isort: skip

    routes = dict(application.application_mapping)
    endpoint = HttpEndpoint(routes["http"], api=os.environ.get("TEST_API_PREFIX", ""))
    return type(application)({**routes, "http": endpoint})
