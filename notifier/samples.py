"""Sample requests and frames for the page `/docs/`, in each language that it offers.

Pure functions from a method's example to text. The answers and frames were recorded from a running
service (`tests.support.sample_frames`); tests/e2e/test_reference_samples.py runs every request.
"""

from __future__ import annotations

import json
import shlex
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

LANGUAGES = {
    "curl": "curl",
    "javascript": "JavaScript",
    "python": "Python",
    "django": "Django",
}
"""The tabs of the samples, in their order."""
KEY = "NOTIFIER_API_KEY"
"""The environment variable from which the samples take the key."""
_FILE = Path(__file__).with_name("sample_frames.json")


class Sample(NamedTuple):
    """A sample in one language: code, or the reason why there is none."""

    language: str
    title: str
    code: str
    note: str = ""


class Exchange(NamedTuple):
    """One thing that went over a connection, or that happened meanwhile."""

    way: str
    """``sent`` by the client, ``received`` by it, or ``meanwhile``."""
    text: str


def sample_answer(method: str) -> str:
    """Return what the service answered to the example of a method."""
    return _to_text(_read_recording()["answers"][method])


def exchanges(stream: str) -> list[Exchange]:
    """Return what was recorded on a stream; nothing for one that is part of another."""
    return [Exchange(way, text) for way, text in _read_recording()["streams"].get(stream, [])]


@cache
def _read_recording() -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return recorded


# --- the HTTP API ---


def request_samples(method: str, url: str, content_type: str, body: Any) -> list[Sample]:
    """Return the request of a method in each language.

    Args:
        method: The name of the method: ``publish``.
        url: Its whole address.
        content_type: That of the body.
        body: The example of the description.
    """
    in_django = DJANGO.get(method, "")
    return [
        _sample("curl", _curl(url, content_type, body)),
        _sample("javascript", _javascript(url, content_type, body)),
        _sample("python", _python(url, content_type, body)),
        _sample("django", in_django, "" if in_django else NO_FUNCTION),
    ]


def _sample(language: str, code: str, note: str = "") -> Sample:
    return Sample(language, LANGUAGES[language], code, note)


def _to_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _curl(url: str, content_type: str, body: Any) -> str:
    parts = [
        f"curl {url}",
        f'-H "X-API-Key: ${KEY}"',
        f"-H 'Content-Type: {content_type}'",
        f"-d {shlex.quote(_to_text(body))}",
    ]
    return " \\\n  ".join(parts)


def _javascript(url: str, content_type: str, body: Any) -> str:
    literal = _to_text(body).replace("\n", "\n  ")
    return f"""const response = await fetch("{url}", {{
  method: "POST",
  headers: {{
    "X-API-Key": process.env.{KEY},
    "Content-Type": "{content_type}",
  }},
  body: JSON.stringify({literal}),
}});
console.log(await response.text());"""


def _python(url: str, content_type: str, body: Any) -> str:
    return f"""import json
import os
from urllib.request import Request, urlopen

body = {python_literal(body)}
headers = {{
    "X-API-Key": os.environ["{KEY}"],
    "Content-Type": "{content_type}",
}}
request = Request("{url}", json.dumps(body).encode(), headers)
with urlopen(request, timeout=10) as response:
    print(json.load(response))"""


def python_literal(value: Any, indent: str = "") -> str:
    """Return a JSON value as an expression of Python, a member on each line."""
    deeper = indent + "    "
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(n)}: {python_literal(v, deeper)}" for n, v in value.items()]
        marks = "{}"
    elif isinstance(value, list) and value:
        items, marks = [python_literal(item, deeper) for item in value], "[]"
    else:
        return json.dumps(value) if isinstance(value, str) else repr(value)
    lines = "".join(f"{deeper}{item},\n" for item in items)
    return f"{marks[0]}\n{lines}{indent}{marks[1]}"


NO_FUNCTION = (
    "The app has no function for this method: send the HTTP request, as in the sample for Python."
)
DJANGO = {
    "publish": """from realtime import publish

receipt = publish("public:news", {"text": "Hello"})
print(receipt.offset, receipt.epoch)""",
    "broadcast": """from realtime import publish

for channel in ["public:a", "public:b"]:  # each with an outcome of its own
    publish(channel, {"text": "Hello"})""",
    "batch": """from realtime import publish

publish("public:news", 1)  # each with an outcome of its own""",
    "events": """from realtime import publish

publish("public:news", {"order": 42}, event="order.shipped")""",
    "disconnect": """from realtime import disconnect_user

disconnect_user("42")  # or a user: request.user""",
    "block_user": """from datetime import timedelta

from django.utils import timezone
from realtime import block_user

block_user("42", timezone.now() + timedelta(hours=1))""",
    "unblock_user": """from realtime import unblock_user

unblock_user("42")""",
    "subscribe": """from realtime import subscribe_user

subscribe_user("42", "public:news")""",
    "unsubscribe": """from realtime import unsubscribe_user

unsubscribe_user("42", "public:news")""",
    "position": """from realtime import position

print(position("public:news"))""",
    "presence": """from realtime import presence

for member in presence("chat:lobby"):
    print(member.user, member.client)""",
    "presence_stats": """from realtime import presence_stats

print(presence_stats("chat:lobby"))""",
}
"""The same with the functions of the app, for the code of a project that has it."""


# --- the streams ---


def stream_samples(stream: str, site: str) -> list[Sample]:
    """Return how to listen on a stream, in the languages that can.

    Args:
        stream: Its name in the AsyncAPI document, or ``htmx``.
        site: Scheme and host of the service, and the path below which it is, if any.
    """
    wanted = _STREAMS.get(stream, {})
    addresses = {"SITE": site, "SOCKET": site.replace("http", "ws", 1)}
    found = []
    for language, code in wanted.items():
        for name, address in addresses.items():
            code = code.replace(f"<{name}>", address)
        found.append(_sample(language, code))
    return found


_STREAMS: dict[str, dict[str, str]] = {
    "websocket": {
        "javascript": """// A module of a page of the site, without a build step.
import { connect } from "/static/realtime/client.js";

const news = connect().subscribe("public:news");
news.addEventListener("publication", (event) => {
  console.log(event.detail.data);
});
news.addEventListener("gap", (event) => {
  console.log("missed", event.detail.missed);
});""",
        "python": """import asyncio
import json

# pip install websockets
from websockets.asyncio.client import connect

ADDRESS = "<SOCKET>/connection/websocket"
COMMANDS = [
    {"id": 1, "connect": {}},
    {"id": 2, "subscribe": {"channel": "public:news"}},
]


async def listen():
    async with connect(ADDRESS) as socket:
        frame = "\\n".join(map(json.dumps, COMMANDS))
        await socket.send(frame)
        async for frame in socket:
            for line in frame.split("\\n"):
                if line == "{}":  # a ping
                    await socket.send("{}")
                else:
                    print(line, flush=True)


asyncio.run(listen())""",
        "django": """{# In a template: it dispatches events in the page. #}
{% load realtime %}
{% realtime_client "public:news" %}""",
    },
    "eventStream": {
        "curl": "curl -N '<SITE>/connection/sse?channel=public:news'",
        "javascript": """// In a page of the site.
const address = "/connection/sse?channel=public:news";
const news = new EventSource(address);
news.addEventListener("order.shipped", ({ data }) => {
  console.log(JSON.parse(data));
});
news.addEventListener("realtime.gap", ({ data }) => {
  console.log("missed", JSON.parse(data));
});""",
        "python": """from urllib.request import urlopen

site = "<SITE>"
path = "/connection/sse?channel=public:news"
with urlopen(site + path) as stream:
    for line in stream:
        print(line.decode().rstrip(), flush=True)""",
    },
    "unidirectional": {
        "curl": 'curl -N <SITE>/connection/uni_sse \\\n  -d \'{"subs": {"public:news": {}}}\'',
        "python": """import json
from urllib.request import urlopen

body = json.dumps({"subs": {"public:news": {}}}).encode()
with urlopen("<SITE>/connection/uni_sse", body) as stream:
    for line in stream:
        print(line.decode().rstrip(), flush=True)""",
    },
    "httpStream": {
        "curl": 'curl -N <SITE>/connection/http_stream \\\n  -d \'{"id": 1, "connect": {}}\'',
        "javascript": """// npm install centrifuge
import { Centrifuge } from "centrifuge";

const site = "<SITE>";
const client = new Centrifuge(
  [
    {
      transport: "http_stream",
      endpoint: `${site}/connection/http_stream`,
    },
  ],
  { emulationEndpoint: `${site}/emulation` },
);
const news = client.newSubscription("public:news");
news.on("publication", ({ data }) => console.log(data));
news.subscribe();
client.connect();""",
    },
    "htmx": {
        "django": """{% load realtime %}
<main hx-ext="sse"
      sse-connect="{% realtime_stream 'public:orders' %}">
  <div hx-get="{% url 'htmx-orders' %}"
       hx-trigger="sse:order, sse:realtime.gap"
       hx-sync="this:queue last">
    {% include "notifier/fragments/orders.html" %}
  </div>
</main>""",
    },
}
