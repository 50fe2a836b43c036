"""Pages whose views publish after reading their data, before the browser has received the page."""

from __future__ import annotations

import os
from typing import Any

from channels.routing import ProtocolTypeRouter
from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, engines
from django.urls import include, path

from realtime import live_etag, publish, with_position

CHANNEL = "public:orders"
MISSED = 3
"""Publications that each page misses."""
orders: list[int] = []
"""The database of this site."""
PAGES = {
    # The script is below the tag, so it may load after publications have arrived.
    "websocket": """{% realtime_client "public:orders" %}
<script defer src="/orders.js"></script>
<body><p id="rows">{{ orders }}</p><p id="gaps"></p></body>""",
    "module": """{% realtime %}<script defer src="/orders.js"></script>
<body><p id="rows">{{ orders }}</p><p id="gaps"></p></body><script type="module">
import { connect } from "{% static 'realtime/client.js' %}";
connect().subscribe("public:orders").addEventListener("gap", ({ detail }) => onGap(detail));
</script>""",
    "sse": """<script defer src="/orders.js"></script>
<body data-stream="{% realtime_stream 'public:orders' %}">
<p id="rows">{{ orders }}</p><p id="gaps"></p></body>""",
    "htmx": """{% load django_htmx %}{% htmx_script extensions="hx-sse" %}
<script defer src="/orders.js"></script>
<body hx-ext="sse" sse-connect="{% realtime_stream 'public:orders' %}">
<p id="rows" hx-get="/rows/" hx-trigger="sse:realtime.gap">{{ orders }}</p>
<p id="gaps"></p></body>""",
}
SCRIPT = """
const rows = document.getElementById("rows");
const show = ({from, to, reason}) => {
  document.getElementById("gaps").textContent += `${to - from + 1} by ${reason};`;
};
const onGap = async (gap) => {
  show(gap);
  rows.textContent = await (await fetch("/rows/")).text();
};
document.addEventListener("realtime:gap", ({detail}) => onGap(detail));
document.addEventListener("htmx:sseMessage", ({detail}) => show(JSON.parse(detail.data)));
const {stream} = document.body.dataset;
if (stream) {
  const source = new EventSource(stream);
  source.addEventListener("realtime.gap", ({data}) => onGap(JSON.parse(data)));
}
"""


@with_position(CHANNEL)
def page(request: HttpRequest, kind: str) -> HttpResponse:
    text = f"<!doctype html>{{% load static realtime %}}{PAGES[kind]}"
    template = engines["django"].from_string(text)
    context = RequestContext(request, {"orders": len(orders)})
    response = HttpResponse(template.template.render(context))
    for _ in range(MISSED):
        orders.append(1)
        publish(CHANNEL, {"orders": len(orders)})
    return response


@live_etag(CHANNEL)
def rows(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(len(orders)))


def script(request: HttpRequest) -> HttpResponse:
    return HttpResponse(SCRIPT, content_type="text/javascript")


urlpatterns = [
    path("rows/", rows),
    path("orders.js", script),
    path("", include("realtime.urls")),
    path("<str:kind>/", page),
]


def __getattr__(name: str) -> Any:
    """Create the ASGI application when a server asks for it, not when Django reads the URLs."""
    if name != "application":
        raise AttributeError(name)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.live_settings")
    from tests.asgi import application

    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # isort: skip
    from realtime.endpoint import HttpEndpoint  # isort: skip

    routes = dict(application.application_mapping)
    http = HttpEndpoint(ASGIStaticFilesHandler(routes["http"]))
    return ProtocolTypeRouter({**routes, "http": http})
