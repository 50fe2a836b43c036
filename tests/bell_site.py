"""Pages with a bell under the strictest policy, and the rows that they fetch."""

from __future__ import annotations

import os
from typing import Any

from channels.routing import ProtocolTypeRouter
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template import RequestContext, engines
from django.urls import include, path

from realtime import live_etag

CHANNEL = "public:bell"
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'self'"
)
"""No style sheet is allowed, in particular no style attribute."""
WORDS = "text_label='Meldungen' text_unread='{n} neu' text_new='Neu: {title}' text_live='Verbunden'"
PAGES = {
    "plain": "{% realtime_bell 'public:bell' %}",
    "personal": "{% realtime_bell %}",
    "two": "{% realtime_bell 'public:bell' id='one' %}{% realtime_bell 'public:bell' id='two' %}",
    "tag": "{% realtime_client 'public:bell' %}{% realtime_bell 'public:bell' %}",
    "html": "{% realtime_bell 'public:bell' rows='/rows/html' %}",
    "json": "{% realtime_bell 'public:bell' rows='/rows/json' %}",
    "login": "{% realtime_bell 'public:bell' rows='/rows/login' %}",
    "foreign": "{% realtime_bell 'public:bell' rows='https://elsewhere.example/' %}",
    "refused": "{% realtime_bell 'nowhere:bell' %}",
    "german": f"{{% realtime_bell 'public:bell' {WORDS} %}}",
    "arabic": "{% realtime_bell 'public:bell' text_unread='0|1|2|{n} few|{n} many|{n} other' %}",
    "stream": "{% realtime_bell waits=True %}<script type=module src=/stream.js "
    "data-url=\"{% realtime_stream 'public:bell' %}\"></script>",
    "own": "{% realtime_bell 'public:bell' waits=True %}<script type=module src=/own.js></script>",
}
LANGUAGES = {"german": "de", "arabic": "ar"}
HEAD = """{% load realtime %}<!doctype html><html lang="LANGUAGE" dir="DIRECTION">
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>A page with a bell</title><link rel="icon" href="data:,">
<body><header><a href="#main">Before</a> BELL</header><main id="main"><h1>A page</h1>
<a href="#main" id="after">After</a></main>"""
OWN = """
import { connect } from "/static/realtime/client.js";
window.live = connect();
document.querySelector("realtime-bell").connection = window.live;
"""
STREAM = """
import { listen } from "/static/realtime/stream.js";
const { url } = document.querySelector("[data-url]").dataset;
document.querySelector("realtime-bell").connection = listen(url, ["note"]);
"""
notes: list[tuple[str, bool]] = []
"""The notifications of this site: a title, and whether it is unread."""
FRAGMENT = """<ul data-unread="{{ unread }}">{% for title, is_unread in notes %}
<li><a href="#{{ forloop.counter }}">{{ title }}</a></li>{% endfor %}</ul>
<script src="/fragment.js"></script>"""


SCRIPTS = {
    "own": OWN,
    "stream": STREAM,
    "fragment": "document.body.dataset.ran = 'the script of a fragment'",
}


@login_not_required
def page(request: HttpRequest, name: str) -> HttpResponse:
    language = LANGUAGES.get(name, "en")
    text = HEAD.replace("LANGUAGE", language).replace("BELL", PAGES[name])
    text = text.replace("DIRECTION", "rtl" if language == "ar" else "ltr")
    template = engines["django"].from_string(text).template
    response = HttpResponse(template.render(RequestContext(request)))
    response["Content-Security-Policy"] = POLICY
    return response


@login_not_required
@live_etag(CHANNEL)
def rows(request: HttpRequest, kind: str) -> HttpResponse:
    unread = sum(is_unread for _, is_unread in notes)
    if kind == "html":
        template = engines["django"].from_string(FRAGMENT)
        return HttpResponse(template.render({"notes": notes, "unread": unread}, request))
    if kind == "login":
        return HttpResponseRedirect("/rows/html")
    found = [{"title": title, "unread": is_unread, "href": "/x"} for title, is_unread in notes]
    return JsonResponse({"unread": unread, "rows": found})


@login_not_required
def note(request: HttpRequest, title: str) -> HttpResponse:
    """Add a notification; nothing is published."""
    notes.insert(0, (title, True))
    return HttpResponse()


@login_not_required
def script(request: HttpRequest, name: str) -> HttpResponse:
    return HttpResponse(SCRIPTS[name], content_type="text/javascript")


urlpatterns = [
    path("rows/<str:kind>", rows),
    path("note/<str:title>", note),
    path("<str:name>.js", script),
    path("", include("realtime.urls")),
    path("<str:name>/", page),
]


def __getattr__(name: str) -> Any:
    """Create the ASGI application when a server asks for it, not when Django reads the URLs."""
    if name != "application":
        raise AttributeError(name)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.bell_settings")
    from tests.asgi import application

    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # isort: skip
    from realtime.endpoint import HttpEndpoint  # isort: skip

    routes = dict(application.application_mapping)
    http = HttpEndpoint(ASGIStaticFilesHandler(routes["http"]))
    return ProtocolTypeRouter({**routes, "http": http})
