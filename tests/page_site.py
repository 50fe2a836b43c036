"""The pages of `tests.page_settings`: one line in a template, and a script that calls connect()."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, engines
from django.urls import include, path

SCRIPT = """
import { connect } from "/static/realtime/client.js";
const show = (text) => {
  const line = document.createElement("p");
  line.textContent = text;
  document.body.append(line);
};
const live = connect();
const listen = (subscription) => {
  subscription.addEventListener("subscribed", () => show(`listens ${subscription.channel}`));
  subscription.addEventListener("publication", (e) => show(`heard ${e.detail.data}`));
};
listen(live.subscribe("public:news"));
live.addEventListener("subscription", (e) => listen(e.detail.subscription));
"""
PAGE = """{% load realtime %}<!doctype html><title>A page</title>
{% realtime %}
<script type="module" src="/page.js"></script>
<body></body>"""

SHARED = """{% load realtime %}<!doctype html><title>A tab</title>
{% realtime shared=True %}
<body></body>"""

TAG = """{% load realtime %}<!doctype html><title>A page with a tag</title>
{% realtime_client "public:news" %}
<body></body>"""


def shown(user: Any) -> dict[str, str]:
    return {"name": user.username}


@login_not_required
def page(request: HttpRequest) -> HttpResponse:
    source = {"/tag": TAG, "/shared": SHARED}.get(request.path, PAGE)
    template = engines["django"].from_string(source).template
    response = HttpResponse(template.render(RequestContext(request)))
    public = urlsplit(settings.REALTIME_PUBLIC_URL or "ws://nowhere")
    response["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'self'; img-src 'self'; "
        f"connect-src 'self' ws://{public.netloc}"
    )
    return response


@login_not_required
def script(request: HttpRequest) -> HttpResponse:
    return HttpResponse(SCRIPT, content_type="text/javascript")


urlpatterns = [
    path("", page),
    path("tag", page),
    path("shared", page),
    path("page.js", script),
    path("", include("realtime.urls")),
]


def __getattr__(name: str) -> Any:
    """Create the ASGI application when a server asks for it, not when Django reads the URLs."""
    if name != "application":
        raise AttributeError(name)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.page_settings")
    from tests.asgi import application

    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # isort: skip

    routes = dict(application.application_mapping)
    return type(application)({**routes, "http": ASGIStaticFilesHandler(routes["http"])})
