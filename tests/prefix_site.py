"""Pages of the template tags, for `tests.prefix_settings`."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, engines
from django.urls import include, path

HEAD = """<!doctype html>{% load static realtime %}<title>A page</title>
<link rel="icon" href="data:,"><body><script>
const show = (text) => document.body.append(text, document.createElement("br"));
</script>"""
PAGES = {
    "client": """{% realtime_client channel %}<script>
document.addEventListener("realtime:subscribed", () => show("listens"));
document.addEventListener("realtime:publication", ({detail}) => show(`heard ${detail.data}`));
</script>""",
    "module": """{% realtime %}<script type="module">
import { connect } from "{% static 'realtime/client.js' %}";
const news = connect().subscribe("{{ channel }}");
news.addEventListener("subscribed", () => show("listens"));
news.addEventListener("publication", ({detail}) => show(`heard ${detail.data}`));
</script>""",
    "stream": """<p data-url="{% realtime_stream channel %}"><script>
const stream = new EventSource(document.querySelector("p").dataset.url);
stream.addEventListener("open", () => show("listens"));
stream.addEventListener("message", ({data}) => show(`heard ${data}`));
</script>""",
}


def page(request: HttpRequest, kind: str, channel: str) -> HttpResponse:
    template = engines["django"].from_string(HEAD + PAGES[kind]).template
    return HttpResponse(template.render(RequestContext(request, {"channel": channel})))


urlpatterns = [path("page/<kind>/<channel>", page), path("", include("realtime.urls"))]
