"""The sample answers and frames of the page `/docs/`, recorded from a running service.

`python -m tests.support.sample_frames` records them anew; tests/e2e/test_reference_samples.py
compares. What is random or takes time is replaced: epochs, ids, secrets, and durations.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from notifier.reference import MethodEntry, methods
from realtime import __version__
from tests.settings import REALTIME_TOKEN_SECRET
from tests.support.database import migrate
from tests.support.eventually import eventually
from tests.support.machine import within
from tests.support.pages import SERVICE, USERS
from tests.support.redis_server import RedisServer
from tests.support.service import KEY, ROOT, Service
from tests.support.tokens import token

FILE = ROOT / "notifier/sample_frames.json"
SAMPLES = {**SERVICE, "NOTIFIER_TOKEN_SECRET": REALTIME_TOKEN_SECRET}
"""The environment of the service that answers."""
NEWS = "public:news"
Lines = list[tuple[str, str]]
"""What went over a connection: sent, received, or what happened meanwhile, each with its text."""


def start(redis: RedisServer, folder: Path) -> Service:
    """Start a service whose answers do not depend on what was published before."""
    database = migrate(f"sqlite:///{folder}/db.sqlite3", then=USERS)
    env: Any = {**SAMPLES, "DATABASE_URL": database}
    return Service(redis.url, **env).start()


async def record(service: Service) -> dict[str, Any]:
    """Return the answer to the example of each method, and what each stream carries."""
    async with httpx.AsyncClient(base_url=service.http, timeout=60) as http:
        document = (await http.get("/api/openapi.json")).json()
        entries = [entry for group in methods(document).values() for entry in group]
        return {
            "answers": {entry.name: await _answer(service, http, entry) for entry in entries},
            "streams": {
                "websocket": plain(await _websocket(service, http)),
                "eventStream": plain(await _event_stream(http)),
                "unidirectional": plain(await _unidirectional(http)),
                "httpStream": plain(await _http_stream(http)),
                "htmx": plain(await _htmx(service, http)),
            },
        }


# --- the HTTP API ---


async def _answer(service: Service, http: httpx.AsyncClient, method: MethodEntry) -> Any:
    """Send the example of a method, while user 42 is connected and subscribed."""
    async with _user(service, http):
        headers = {**KEY, "Content-Type": method.content_type}
        answer = await http.post(method.path, content=method.example, headers=headers)
    if method.name == "block_user":
        await http.post("/api/unblock_user", json={"user": "42"}, headers=KEY)
    assert answer.status_code == 200, answer.text
    [(_, text)] = plain([("received", answer.text)])
    return json.loads(text)


@asynccontextmanager
async def _user(service: Service, http: httpx.AsyncClient) -> AsyncIterator[None]:
    async with connect(service.ws, compression=None) as socket:
        log: Lines = []
        await _say(socket, log, {"id": 1, "connect": {"token": token("42")}}, count=3)
        for number, channel in enumerate((NEWS, "chat:lobby"), start=2):
            await _say(socket, log, {"id": number, "subscribe": {"channel": channel}})
        await eventually(lambda: _has_members(http, 1))
        yield
    await eventually(lambda: _has_members(http, 0))


async def _has_members(http: httpx.AsyncClient, count: int) -> bool:
    """Tell whether the room has as many members; they are written after the subscribe."""
    asked = {"channel": "chat:lobby"}
    answer = await http.post("/api/presence_stats", json=asked, headers=KEY)
    return bool(answer.json()["result"]["num_clients"] == count)


# --- the streams ---


async def _say(socket: ClientConnection, log: Lines, command: Any, *, count: int = 1) -> None:
    """Send a command, and note what is received, which is this many lines."""
    text = json.dumps(command, separators=(",", ":"))
    log.append(("sent", text))
    await socket.send(text)
    await _hear(socket, log, count)


async def _hear(socket: ClientConnection, log: Lines, count: int = 1) -> None:
    async with within(10):
        heard: list[str] = []
        while len(heard) < count:
            heard += [line for line in str(await socket.recv()).split("\n") if line != "{}"]
    assert len(heard) == count, heard
    log += [("received", line) for line in heard]


async def _publish(http: httpx.AsyncClient, log: Lines, number: int) -> None:
    body = {"channel": NEWS, "event": "order.shipped", "data": {"number": number}}
    answer = await http.post("/api/publish", json=body, headers=KEY)
    assert answer.status_code == 200, answer.text
    log.append(("meanwhile", f"A server publishes order.shipped, number {number}."))


async def _websocket(service: Service, http: httpx.AsyncClient) -> Lines:
    log: Lines = []
    async with connect(service.ws, compression=None) as socket:
        await _say(socket, log, {"id": 1, "connect": {}}, count=2)
        await _say(socket, log, {"id": 2, "subscribe": {"channel": NEWS}})
        await _publish(http, log, 1042)
        await _hear(socket, log)
        await _say(socket, log, {"id": 3, "subscribe": {"channel": "closed"}})
        await _say(socket, log, {"id": 4, "ping": {}})
    position = _position(log)
    log.append(("meanwhile", "The connection breaks."))
    await _publish(http, log, 1043)
    async with connect(service.ws, compression=None) as socket:
        await _say(socket, log, {"id": 1, "connect": {}}, count=2)
        back = {"channel": NEWS, "recover": True, **position}
        await _say(socket, log, {"id": 2, "subscribe": back}, count=2)
    return log


def _position(log: Lines) -> dict[str, Any]:
    """Return the position after the last publication that was received."""
    received = [json.loads(text) for kind, text in log if kind == "received"]
    epoch = next(line["subscribe"]["epoch"] for line in received if "subscribe" in line)
    pushes = [line["push"] for line in received if "push" in line]
    return {"epoch": epoch, "offset": next(p["pub"]["offset"] for p in pushes if "pub" in p)}


async def _event_stream(http: httpx.AsyncClient) -> Lines:
    path = f"/connection/sse?channel={NEWS}"
    log: Lines = [("sent", f"GET {path}")]
    async with http.stream("GET", path) as response:
        lines = response.aiter_lines()
        await _events(lines, log, 1)
        await _publish(http, log, 1044)
        await _events(lines, log, 1)
    last = re.findall(r"^id: (.*)$", log[-1][1], re.MULTILINE)[-1]
    log.append(("meanwhile", "The connection breaks."))
    await _publish(http, log, 1045)
    log.append(("sent", f"GET {path}\nLast-Event-ID: {last}"))
    async with http.stream("GET", path, headers={"Last-Event-ID": last}) as response:
        await _events(response.aiter_lines(), log, 2)
    return log


async def _events(lines: AsyncIterator[str], log: Lines, count: int) -> None:
    """Note the next events of a stream; each ends with an empty line."""
    async with within(10):
        for _ in range(count):
            event: list[str] = []
            async for line in lines:
                if line:
                    event.append(line)
                elif any(line.startswith("data:") for line in event):
                    break
                elif event:  # the time until a reconnect stands alone
                    event.append("")
            log.append(("received", "\n".join(event)))


async def _unidirectional(http: httpx.AsyncClient) -> Lines:
    path, body = "/connection/uni_sse", json.dumps({"subs": {NEWS: {}}})
    log: Lines = [("sent", f"POST {path}\n\n{body}")]
    async with http.stream("POST", path, content=body) as response:
        lines = response.aiter_lines()
        await _events(lines, log, 2)
        await _publish(http, log, 1046)
        await _events(lines, log, 1)
    return log


async def _http_stream(http: httpx.AsyncClient) -> Lines:
    path, body = "/connection/http_stream", json.dumps({"id": 1, "connect": {}})
    log: Lines = [("sent", f"POST {path}\n\n{body}")]
    async with http.stream("POST", path, content=body) as response:
        lines = response.aiter_lines()
        await _json_lines(lines, log, 2)
        told = json.loads(log[1][1])["connect"]
        command = json.dumps({"id": 2, "subscribe": {"channel": NEWS}})
        said = {"session": told["session"], "node": told["node"], "data": command}
        answer = await http.post("/emulation", json=said)
        log.append(("sent", f"POST /emulation\n\n{json.dumps(said)}"))
        log.append(("received", f"{answer.status_code} {answer.reason_phrase}"))
        await _json_lines(lines, log, 1)
        await _publish(http, log, 1047)
        await _json_lines(lines, log, 1)
    return log


async def _json_lines(lines: AsyncIterator[str], log: Lines, count: int) -> None:
    async with within(10):
        for _ in range(count):
            log.append(("received", await anext(lines)))


async def _htmx(service: Service, http: httpx.AsyncClient) -> Lines:
    """What the board of `/htmx/` does: an event, then the fragment that the server renders."""
    path = "/connection/sse?channel=public:orders"
    await http.get("/login/")  # sets the cookie of the CSRF token
    csrf = {"X-CSRFToken": http.cookies["csrftoken"]}
    log: Lines = [("sent", f"GET {path}")]
    async with http.stream("GET", path) as response:
        lines = response.aiter_lines()
        await _events(lines, [], 1)
        placed = await http.post("/htmx/create", data={"what": "A red bicycle"}, headers=csrf)
        assert placed.status_code == 200, placed.text
        log.append(("meanwhile", "Somebody places an order."))
        await _events(lines, log, 1)
    fragment = await http.get("/htmx/orders", headers={"HX-Request": "true"})
    log.append(("sent", "GET /htmx/orders\nHX-Request: true"))
    text = "\n".join(line for line in fragment.text.splitlines() if line.strip())
    log.append(("received", text))
    return log


# --- what differs from one recording to the next ---

_CLIENT = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_EPOCH = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")
_SESSION = re.compile(r'(session\\?": ?\\?")[^"\\]+')
_NODE = re.compile(r'("node": ?")[^"]+')
_NAME = re.compile(r'("(?:node_name|name)": ?")[^"]+')
_TIME = re.compile(r'("connected_at": ?)\d+')
_RETRY = re.compile(r"(?m)^retry: \d+$")
_VERSION = re.compile(rf'("version": ?"){re.escape(__version__)}')
_MEASURED = re.compile(r'("uptime": ?)[\d.]+')


def plain(log: Lines) -> Lines:
    """Replace ids, secrets and measurements by the same ones in each recording."""
    return [(kind, _plain(text)) for kind, text in log]


def _plain(text: str) -> str:
    text = _CLIENT.sub("f165e74f-9834-413e-b053-08c72374c6c6", text)
    text = _SESSION.sub(r"\1a1b2c3…", text)
    text = _NODE.sub(r"\1d4e5f6…", text)
    text = _NAME.sub(r"\1web-1", text)
    text = _TIME.sub(r"\g<1>1790000000", text)
    text = _EPOCH.sub("5602f26b7fb53832", text)
    text = _RETRY.sub("retry: 1837", text)
    text = _VERSION.sub(r"\g<1>0.1.0", text)
    return _MEASURED.sub(r"\g<1>1", text)


def encoded(samples: dict[str, Any]) -> str:
    """Return the text of the file."""
    return json.dumps(samples, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Record the samples, and write the file."""
    redis = RedisServer().start()
    with tempfile.TemporaryDirectory() as folder:
        service = start(redis, Path(folder))
        try:
            FILE.write_text(encoded(asyncio.run(record(service))), encoding="utf-8")
        finally:
            service.stop()
            redis.stop()


if __name__ == "__main__":
    main()
