"""`GET /connection/sse` over real servers: with httpx, and with a browser's own EventSource."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser

from tests.support.database import migrate
from tests.support.event_stream import Parser
from tests.support.eventually import eventually
from tests.support.losing import publish_while_cut
from tests.support.machine import within
from tests.support.pages import SERVICE, becomes_true, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, ROOT, Service
from tests.support.tokens import token

Serve = Callable[..., Service]
ENDPOINT = "tests.asgi_endpoint:application"


@pytest.fixture(scope="module", params=["uvicorn", "daphne", DEPLOYED])
def service(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Service]:
    app = {} if request.param == DEPLOYED else {"app": ENDPOINT}
    running = Service(redis_server.url, request.param, **app).start()
    yield running
    assert "Traceback" not in running.log
    running.stop()


class Stream:
    """An open stream, event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.parser = Parser()
        self._lines = response.aiter_lines()

    async def next(self, seconds: float = 5) -> tuple[str, Any, str]:
        """Return name, data and id of the next event."""
        async with within(seconds):
            async for line in self._lines:
                if event := self.parser.feed(line):
                    return event.name, _read(event.data), event.id
        raise EOFError

    async def until(self, name: str) -> tuple[str, Any, str]:
        while (event := await self.next())[0] != name:
            pass
        return event


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@asynccontextmanager
async def streaming(service: Service, *channels: str, **headers: str) -> AsyncIterator[Stream]:
    query = [("channel", channel) for channel in channels]
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream(
            "GET", f"{service.http}/connection/sse", params=query, headers=headers
        ) as got,
    ):
        yield Stream(got)


async def publish(service: Service, channel: str, data: Any, **fields: Any) -> dict[str, Any]:
    return await asyncio.to_thread(service.publish, channel, data, **fields)


async def test_a_publication_is_an_event(service: Service) -> None:
    async with streaming(service, "public:a", "public:b") as stream:
        headers = stream.response.headers
        assert stream.response.status_code == 200
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"
        await stream.until("realtime.state")
        assert 500 <= stream.parser.retry <= 3000
        first = await publish(service, "public:a", {"n": 1}, event="order.shipped")
        assert first["nodes"] == 1
        name, data, last_id = await stream.next()
        assert (name, data) == ("order.shipped", {"n": 1})
        assert f"{first['epoch']}/{first['offset']}/public:a" in last_id.split("&")
        await publish(service, "public:b", "<b>html</b>\n<i>too</i>")
        name, data, last_id = await stream.next()
        assert (name, data) == ("message", "<b>html</b>\n<i>too</i>")
        assert len(last_id.split("&")) == 2

    async def nobody() -> bool:
        return (await publish(service, "public:a", 1))["nodes"] == 0

    await eventually(nobody)


async def test_a_returning_client_gets_the_exact_gap(service: Service) -> None:
    async with streaming(service, "public:c") as stream:
        await stream.until("realtime.state")
        await publish(service, "public:c", 1)
        _, _, last_id = await stream.next()
    for n in (2, 3, 4):
        missed = await publish(service, "public:c", n)
    async with streaming(service, "public:c", **{"Last-Event-ID": last_id}) as stream:
        _, gap, now = await stream.until("realtime.gap")
        assert gap["channel"] == "public:c"
        assert (gap["epoch"], gap["to"]) == (missed["epoch"], missed["offset"])
        assert gap["to"] - gap["from"] == 2
        assert gap["reason"] == "reconnect"
        await publish(service, "public:c", 5)
        assert (await stream.until("message"))[1] == 5
    async with streaming(service, "public:c", **{"Last-Event-ID": now}) as stream:
        _, gap, _ = await stream.until("realtime.gap")
        assert gap["from"] == gap["to"] == missed["offset"] + 1


async def test_a_stream_since_a_position_begins_with_what_was_published_since(
    service: Service,
) -> None:
    """Since the position of the page's data; on a reconnect, the last id takes precedence."""
    channels = {"channels": ["public:since", "public:other"]}
    answer = await asyncio.to_thread(service.post, "position", channels)
    read = answer.json()["result"]["positions"]["public:since"]
    url = f"public:since&since={read['epoch']}/{read['offset']}/public:since"
    async with streaming_since(service, url) as stream:
        await stream.until("realtime.state")
        await publish(service, "public:since", 1)
        assert (await stream.next())[1] == 1, "there was no gap"
    missed = await publish(service, "public:since", 2)
    async with streaming_since(service, url) as stream:
        name, gap, last_id = await stream.next()
        assert (name, gap["reason"]) == ("realtime.gap", "reconnect")
        assert (gap["from"], gap["to"]) == (read["offset"] + 1, missed["offset"])
    await publish(service, "public:since", 3)
    async with streaming_since(service, url, **{"Last-Event-ID": last_id}) as stream:
        _, gap, _ = await stream.next()
        assert (gap["from"], gap["to"]) == (missed["offset"] + 1, missed["offset"] + 1)


async def test_a_stream_since_an_unknown_position_begins_with_an_open_gap(
    service: Service,
) -> None:
    async with streaming_since(service, "public:lost&since=/0/public:lost") as stream:
        name, gap, _ = await stream.next()
        assert (name, gap["to"], gap["reason"]) == ("realtime.gap", None, "broker")
        await publish(service, "public:lost", 1)
        assert (await stream.until("message"))[1] == 1


@asynccontextmanager
async def streaming_since(service: Service, query: str, **headers: str) -> AsyncIterator[Stream]:
    url = f"{service.http}/connection/sse?channel={query}"
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("GET", url, headers=headers) as got,
    ):
        yield Stream(got)


async def test_a_gap_in_the_middle_is_an_event(service: Service, redis_server: RedisServer) -> None:
    async with streaming(service, "public:d") as stream:
        await stream.until("realtime.state")
        await asyncio.to_thread(publish_while_cut, redis_server, "public:d", 3)
        _, gap, last_id = await stream.until("realtime.gap")
        assert gap["to"] - gap["from"] == 2
        assert last_id.split("/")[1] == str(gap["to"])


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ("", 400, "invalid_channel"),
        ("?channel=", 400, "invalid_channel"),
        ("?channel=a%0Ab", 400, "invalid_channel"),
        ("?channel=closed", 403, "forbidden"),
        ("?channel=public:a&channel=closed", 403, "forbidden"),
        ("?channel=nowhere:a", 403, "forbidden"),
        ("?channel=user:%2342", 403, "forbidden"),
        ("?" + "&".join(f"channel=public:{n}" for n in range(129)), 400, "invalid_data"),
        ("?channel=public:a&token=x", 400, "token_in_url"),
        ("?channel=public:a&since=5", 400, "invalid_data"),
        ("?channel=public:a&since=aa/x/public:a", 400, "invalid_data"),
        ("?channel=public:a&since=aa/1/public:a%26aa/2/public:b", 400, "invalid_channel"),
    ],
)
async def test_a_channel_that_cannot_be_subscribed_is_refused(
    service: Service, query: str, status: int, reason: str
) -> None:
    answer = await asyncio.to_thread(httpx.get, f"{service.http}/connection/sse{query}")
    assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)


async def test_other_methods_and_cross_site_pages_are_refused(service: Service) -> None:
    url = f"{service.http}/connection/sse?channel=public:a"
    posted = await asyncio.to_thread(httpx.post, url)
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, OPTIONS")
    foreign = {"Origin": "https://evil.example"}
    answer = await asyncio.to_thread(lambda: httpx.get(url, headers=foreign))
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


async def test_a_page_that_may_connect_may_read(redis_server: RedisServer, serve: Serve) -> None:
    service = await asyncio.to_thread(serve, redis_server.url, app=ENDPOINT)
    origin = "https://app.example.com"
    async with streaming(service, "public:a", Origin=origin) as stream:
        assert stream.response.headers["access-control-allow-origin"] == origin
        assert stream.response.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    ("path", "methods"), [("/connection/sse", "GET"), ("/connection/uni_sse", "GET, POST")]
)
async def test_a_preflight_for_a_reconnect_is_answered(
    service: Service, path: str, methods: str
) -> None:
    """The preflight used to get 405, so the first connect of a page worked but no reconnect did.

    dunglas/mercure#535 and Wave-RF/WaveHouse#471: clients that use fetch send a preflight because
    of Last-Event-ID, which is not safelisted (whatwg/fetch#568).
    """
    asks = {
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "last-event-id",
    }
    origin = service.http.replace("http:", "https:")  # for `deployed`, which has secure cookies
    own = {"Origin": origin}
    evil = {"Origin": "https://evil.example"}
    async with httpx.AsyncClient(base_url=service.http) as client:
        yes = await client.options(path, headers=own | asks)
        assert (yes.status_code, yes.content) == (204, b"")
        assert yes.headers["access-control-allow-origin"] == origin
        assert yes.headers["access-control-allow-methods"] == methods
        assert "Last-Event-ID" in yes.headers["access-control-allow-headers"]
        assert yes.headers["access-control-allow-credentials"] == "true"
        no = await client.options(path, headers=evil | asks)
        assert no.status_code == 403
        assert not [name for name in no.headers if name.startswith("access-control")]


async def test_a_quiet_stream_is_kept_alive(redis_server: RedisServer, serve: Serve) -> None:
    service = await asyncio.to_thread(serve, redis_server.url, app=ENDPOINT, TEST_PING_SECONDS="1")
    async with streaming(service, "public:q") as stream:
        await stream.until("realtime.state")
        waiting = asyncio.create_task(stream.next(seconds=30))
        await eventually(lambda: stream.parser.comments >= 3, seconds=10)
        await publish(service, "public:q", "still here")
        assert (await waiting)[1] == "still here"


async def test_a_stopping_node_ends_its_streams(redis_server: RedisServer, serve: Serve) -> None:
    service = await asyncio.to_thread(serve, redis_server.url, DEPLOYED)
    async with streaming(service, "public:l") as stream:
        await stream.until("realtime.state")
        service.terminate()
        with pytest.raises(EOFError):
            await stream.until("never")
    await asyncio.to_thread(service.wait, 15)
    assert "Traceback" not in service.log
    assert "without completing response" not in service.log


async def test_a_stalled_reader_costs_bounded_memory_and_gets_a_gap(
    redis_server: RedisServer, serve: Serve
) -> None:
    service = await asyncio.to_thread(serve, redis_server.url, DEPLOYED)
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=2**16)
    writer.write(b"GET /connection/sse?channel=public:s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert b"200" in await reader.readline()
    writer.transport.pause_reading()
    for _ in range(150):
        await publish(service, "public:s", "x" * 60_000)
    writer.transport.resume_reading()
    heard = b""
    async with within(20):
        while b"realtime.gap" not in heard:
            heard = heard[-100:] + await reader.read(2**16)
    writer.close()


@pytest.mark.browser
@in_browser_loop
async def test_the_event_source_of_a_browser_receives_events(
    redis_server: RedisServer, serve: Serve, chromium: Browser
) -> None:
    service = await asyncio.to_thread(serve, redis_server.url, **SERVICE)
    async with own_contexts(chromium) as browser:
        page = await (await browser.new_context()).new_page()
        await page.goto(f"{service.http}/chat/")
        await page.evaluate(
            """() => {
                window.heard = [];
                const source = new EventSource("/connection/sse?channel=public:es");
                for (const name of ["message", "order.shipped", "realtime.gap"])
                    source.addEventListener(name, (e) => heard.push([name, e.data, e.lastEventId]));
                return new Promise((resolve) => source.addEventListener("open", resolve));
            }"""
        )
        await publish(service, "public:es", {"n": 1}, event="order.shipped")
        await becomes_true(page, "heard.length === 1")
        await asyncio.to_thread(service.stop)
        await asyncio.to_thread(service.start)

        # The node counts as subscribed before the stream has its position; later publications come
        # after it.
        async def is_back() -> bool:
            await publish(service, "public:es", "again")
            return bool(await page.evaluate("heard.some(([name, data]) => data === 'again')"))

        await eventually(is_back, seconds=20)
        heard = await page.evaluate("heard")
    assert heard[0][:2] == ["order.shipped", '{"n":1}']
    gaps = [json.loads(data) for name, data, _ in heard if name == "realtime.gap"]
    offsets = [int(last_id.split("/")[1]) for name, _, last_id in heard if name == "message"]
    missed = {n for gap in gaps for n in range(gap["from"], gap["to"] + 1)}
    assert missed | set(offsets) | {int(heard[0][2].split("/")[1])} == set(
        range(int(heard[0][2].split("/")[1]), max(offsets) + 1)
    ), "received and announced together are everything"


SPY = """
  window.sources = [], window.gaps = [], window.heard = [];
  Math.random = () => 0;
  window.EventSource = class extends EventSource {
    constructor(url) {
      super(url);
      sources.push(this);
      this.addEventListener("message", ({ data }) => heard.push(data));
      this.addEventListener("realtime.gap", ({ data }) => gaps.push(JSON.parse(data)));
    }
  };
"""


@pytest.mark.browser
@in_browser_loop
async def test_an_event_source_that_gave_up_is_created_anew_as_documented(
    redis_server: RedisServer, serve: Serve, chromium: Browser
) -> None:
    """A new `EventSource` sends no Last-Event-ID, so the gap before it was not reported."""
    guide = (ROOT / "docs/event-stream.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^let positions.*?^}$", guide, re.M | re.S)
    service = await asyncio.to_thread(serve, redis_server.url, **SERVICE)
    async with own_contexts(chromium) as browser:
        page = await (await browser.new_context()).new_page()
        await page.goto(f"{service.http}/chat/")
        await page.evaluate(f"() => {{ {SPY} {code} open(); }}")
        await becomes_true(page, "sources[0].readyState === EventSource.OPEN")
        await publish(service, "public:news", "first")
        await becomes_true(page, "heard.length === 1")
        await page.route("**/connection/sse*", lambda route: route.fulfill(status=503))
        await asyncio.to_thread(service.stop)
        await asyncio.to_thread(service.start)
        await becomes_true(page, "sources[0].readyState === EventSource.CLOSED")
        missed = await publish(service, "public:news", "missed")
        await page.unroute("**/connection/sse*")
        await becomes_true(page, "gaps.length === 1")
        [gap] = await page.evaluate("gaps")
        assert (gap["from"], gap["to"]) == (missed["offset"], missed["offset"])


async def test_joins_and_leaves_are_events_where_the_namespace_sends_them(
    redis_server: RedisServer, serve: Serve, attach: Callable[..., Any]
) -> None:
    service = await asyncio.to_thread(serve, redis_server.url, app=ENDPOINT)
    channel = f"told:{service.port}"
    async with streaming(service, channel) as stream:
        own = (await stream.until("realtime.join"))[1]
        client = await attach(service)
        await client.subscribe(channel)
        joined = (await stream.until("realtime.join"))[1]
        assert joined["channel"] == channel
        assert joined["info"]["client"] != own["info"]["client"]
        await client.close()
        left = (await stream.until("realtime.leave"))[1]
        assert left["info"]["client"] == joined["info"]["client"]


async def test_a_permanent_end_is_announced(redis_server: RedisServer, serve: Serve) -> None:
    """An EventSource always reconnects, so this event tells it not to."""
    service = await asyncio.to_thread(serve, redis_server.url, app=ENDPOINT)
    wanted = {"token": token("ada"), "subs": {"public:end": {}}}
    async with raw(service, wanted, post=True) as stream:
        await pushed_to(stream, "subscribe")
        await asyncio.to_thread(service.post, "disconnect", {"user": "ada"})
        push = await pushed_to(stream, "disconnect")
        assert push["disconnect"] == {"code": 3503, "reason": "force disconnect"}
        with pytest.raises(EOFError):
            await stream.next()


async def test_closed_streams_leave_nothing_behind(redis_server: RedisServer, serve: Serve) -> None:
    prefix = {"TEST_REDIS_PREFIX": "stream-loops"}
    service = await asyncio.to_thread(serve, redis_server.url, app=ENDPOINT, **prefix)
    for n in range(50):
        async with streaming(service, "public:loop", f"public:loop-{n}") as stream:
            await stream.until("realtime.state")

    def is_deserted() -> bool:
        [node] = service.post("info", {}).json()["result"]["nodes"]
        return (node["num_clients"], node["num_subs"], node["num_channels"]) == (0, 0, 0)

    await eventually(lambda: asyncio.to_thread(is_deserted))
    assert "Traceback" not in service.log


async def test_a_stream_may_have_thousands_of_channels(
    redis_server: RedisServer, serve: Serve
) -> None:
    """With a raised limit: as many as fit into Last-Event-ID, and 3,000 in a request body."""
    limit = {"TEST_CHANNELS_PER_CONNECTION": "3000"}
    service = await asyncio.to_thread(serve, redis_server.url, app=ENDPOINT, **limit)
    names = [f"public:m{n}" for n in range(3000)]
    async with streaming(service, *names[:480]) as stream:
        await stream.until("realtime.state")
        await publish(service, "public:m479", "last")
        _, data, last_id = await stream.until("message")
        assert (data, len(last_id.split("&"))) == ("last", 480)
    await publish(service, "public:m479", "missed")
    async with streaming(service, *names[:480], **{"Last-Event-ID": last_id}) as stream:
        assert (await stream.until("realtime.gap"))[1]["channel"] == "public:m479"
    async with streaming(service, *names[:600]) as stream:
        assert stream.response.status_code == 400
    async with raw(service, {"subs": {name: {} for name in names}}, post=True) as stream:
        assert len((await stream.next())[1]["connect"]["subs"]) == 3000
        await publish(service, "public:m2999", "last")
        assert (await pushed_to(stream, "pub"))["pub"]["data"] == "last"


# --- Centrifugo's own format, for clients that only listen ---


@asynccontextmanager
async def raw(service: Service, wanted: Any, *, post: bool = False) -> AsyncIterator[Stream]:
    url, text = f"{service.http}/connection/uni_sse", json.dumps(wanted)
    how = {"content": text} if post else {"params": {"cf_connect": text}}
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST" if post else "GET", url, **how) as got,
    ):
        yield Stream(got)


async def pushed_to(stream: Stream, kind: str) -> Any:
    """Return the next push of a kind; these have neither a name nor an id."""
    while True:
        name, data, last_id = await stream.next()
        assert (name, last_id) == ("message", "")
        if kind in data:
            return data


@pytest.mark.parametrize("post", [False, True])
async def test_a_unidirectional_client_receives_pushes(service: Service, post: bool) -> None:
    async with raw(service, {"subs": {"public:u": {}}, "name": "js"}, post=post) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        first = (await stream.next())[1]["connect"]
        assert first["client"]
        assert first["subs"]["public:u"]["positioned"] is True
        receipt = await publish(service, "public:u", {"n": 1}, event="e")
        push = await pushed_to(stream, "pub")
        assert push["channel"] == "public:u"
        assert push["pub"]["data"] == {"n": 1}
        assert push["pub"]["tags"] == {"event": "e"}
        assert push["pub"]["offset"] == receipt["offset"]


@pytest.mark.parametrize("post", [False, True])
async def test_a_unidirectional_client_is_told_what_it_missed(service: Service, post: bool) -> None:
    channel = f"public:returns-{post}"
    async with raw(service, {"subs": {channel: {}}}, post=post) as stream:
        begun = (await stream.next())[1]["connect"]["subs"][channel]
        assert "recovered" not in begun
    place = {"recover": True, "epoch": begun["epoch"], "offset": begun["offset"]}
    async with raw(service, {"subs": {channel: place}}, post=post) as stream:
        again = (await stream.next())[1]["connect"]["subs"][channel]
        assert (again["was_recovering"], again["recovered"]) == (True, True)
    for n in range(3):
        last = await publish(service, channel, n)
    async with raw(service, {"subs": {channel: place}}, post=post) as stream:
        again = (await stream.next())[1]["connect"]["subs"][channel]
        assert (again["recovered"], again["offset"]) == (False, last["offset"])
        missed = await pushed_to(stream, "gap")
        told = {"from": begun["offset"] + 1, "to": last["offset"], "reason": "reconnect"}
        assert missed == {"channel": channel, "gap": {"epoch": begun["epoch"], **told}}
        await publish(service, channel, "next")
        assert (await pushed_to(stream, "pub"))["pub"]["data"] == "next"


async def test_a_client_may_send_its_token_in_the_body(
    redis_server: RedisServer, serve: Serve
) -> None:
    service = await asyncio.to_thread(serve, redis_server.url, app=ENDPOINT)
    async with raw(service, {"token": token("42"), "subs": {"news#42": {}}}, post=True) as stream:
        connect = (await stream.next())[1]["connect"]
        assert connect["expires"] is True
        assert list(connect["subs"]) == ["news#42"]
        assert (await pushed_to(stream, "subscribe"))["channel"] == "user:#42"
        at = await publish(service, "user:#42", "mine")
        assert (await pushed_to(stream, "pub"))["pub"]["data"] == "mine"
    await publish(service, "user:#42", "missed")
    place = {"recover": True, "epoch": at["epoch"], "offset": at["offset"]}
    wanted = {"token": token("42"), "subs": {"user:#42": place}}
    async with raw(service, wanted, post=True) as stream:
        missed = await pushed_to(stream, "gap")
        assert (missed["channel"], missed["gap"]["to"]) == ("user:#42", at["offset"] + 1)


@pytest.mark.parametrize(
    ("wanted", "post", "status", "reason"),
    [
        ({"token": "x", "subs": {}}, False, 400, "token_in_url"),
        ({"subs": {"public:a": {"token": "x"}}}, False, 400, "token_in_url"),
        ({"token": "x", "subs": {}}, True, 401, "unauthorized"),
        ({"subs": {"closed": {}}}, True, 403, "forbidden"),
        ({"subs": {"a b": {}}}, True, 400, "invalid_channel"),
        ({"subs": ["a"]}, True, 400, "invalid_data"),
        ([], False, 400, "invalid_data"),
        ({"subs": {"x" * 90_000: {}}}, True, 413, "too_large"),
    ],
)
async def test_bidirectional_features_are_refused_to_unidirectional_clients(
    service: Service, wanted: Any, post: bool, status: int, reason: str
) -> None:
    async with raw(service, wanted, post=post) as stream:
        body = json.loads(await stream.response.aread())
    assert (stream.response.status_code, body["error"]["reason"]) == (status, reason)
    assert stream.response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


# --- identified by the session of a page ---


SCRIPT = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
"""The headers of a request by a script of the site's own page."""


def serve_ada(serve: Serve, redis_server: RedisServer, folder: Path) -> Service:
    """Start the service with one user, Ada, whose id is 1."""
    user = "from django.contrib.auth.models import User; User.objects.create_user"
    url = migrate(f"sqlite:///{folder}/db.sqlite3", then=f"{user}('ada', password='a password')")
    return serve(redis_server.url, DEPLOYED, DATABASE_URL=url, HTTPS="0")


@asynccontextmanager
async def logged_in(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client with Ada's session."""
    async with httpx.AsyncClient(base_url=service.http, timeout=60) as client:
        page = (await client.get("/login/")).text
        [csrf] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
        fields = {"username": "ada", "password": "a password", "csrfmiddlewaretoken": csrf}
        assert (await client.post("/login/", data=fields)).status_code == 302
        yield client


@asynccontextmanager
async def page_of(
    client: httpx.AsyncClient, channel: str, last_id: str = ""
) -> AsyncIterator[Stream]:
    """Open a stream as a page of the site does, for the first time or again."""
    headers = SCRIPT | ({"Last-Event-ID": last_id} if last_id else {})
    query = {"channel": channel}
    async with client.stream("GET", "/connection/sse", params=query, headers=headers) as got:
        assert got.status_code == 200
        yield Stream(got)


async def test_the_session_of_a_page_identifies_the_client(
    redis_server: RedisServer, serve: Serve, tmp_path: Path
) -> None:
    service = await asyncio.to_thread(serve_ada, serve, redis_server, tmp_path)
    async with logged_in(service) as client:
        own = {"channel": "news#service.1"}
        async with page_of(client, "news#service.1") as stream:
            assert (await stream.until("realtime.subscribed"))[1] == {"channel": "user:#service.1"}
            await publish(service, "user:#service.1", "for ada")
            assert (await stream.until("message"))[1] == "for ada"
            await publish(service, "news#service.1", "too")
            assert (await stream.until("message"))[1] == "too"
        for other in (
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
            {},  # a browser that is too old to send these headers
        ):
            answer = await client.get("/connection/sse", params=own, headers=other)
            assert answer.status_code == 403
        client.cookies.clear()
        answer = await client.get("/connection/sse", params=own, headers=SCRIPT)
        assert answer.status_code == 403


async def first_id(client: httpx.AsyncClient, channel: str, last_id: str) -> str:
    """Reconnect, and disconnect as soon as the first id has arrived; return the id."""
    async with page_of(client, channel, last_id) as stream:
        async for line in stream.response.aiter_lines():
            if line.startswith("id: "):
                return line[4:]
    raise EOFError


async def test_a_user_gets_the_exact_gap_on_the_personal_channel(
    redis_server: RedisServer, serve: Serve, tmp_path: Path
) -> None:
    """The first id of a stream used to erase the position of a channel that the server starts."""
    service = await asyncio.to_thread(serve_ada, serve, redis_server, tmp_path)
    own = "user:#service.1"
    async with logged_in(service) as client:
        for channel in (own, "public:x"):  # requested as well, and not
            async with page_of(client, channel) as stream:
                await stream.until("realtime.state")
                await becomes_served(service, own)
                had = await publish(service, own, "one")
                last_id = (await stream.until("message"))[2]
            for n in range(3):
                missed = await publish(service, own, n)
            for _ in range(2):  # the connection breaks again before the channel starts
                last_id = await first_id(client, channel, last_id)
                assert f"{had['epoch']}/{had['offset']}/{own}" in last_id.split("&")
            async with page_of(client, channel, last_id) as stream:
                _, gap, _ = await stream.until("realtime.gap")
                assert gap == {
                    "channel": own,
                    "epoch": had["epoch"],
                    "from": had["offset"] + 1,
                    "to": missed["offset"],
                    "reason": "reconnect",
                }
                await publish(service, own, "after")
                _, data, last_id = await stream.until("message")
                assert data == "after"
            async with page_of(client, channel, last_id) as stream:
                await stream.until("realtime.state")
                await becomes_served(service, own)
                await publish(service, own, "last")
                names = []
                while (event := await stream.next())[1] != "last":
                    names.append(event[0])
                assert "realtime.gap" not in names


async def becomes_served(service: Service, channel: str) -> None:
    """Wait until the server has started a channel.

    The original request gets no reply about that.
    """

    async def is_heard() -> bool:
        info = await asyncio.to_thread(service.post, "channels", {})
        return channel in info.json()["result"]["channels"]

    await eventually(is_heard)


async def test_a_user_gets_the_exact_gap_on_a_channel_subscribed_by_the_api(
    redis_server: RedisServer, serve: Serve, tmp_path: Path
) -> None:
    """Such a channel starts whenever the API is called, perhaps two connections later."""
    service = await asyncio.to_thread(serve_ada, serve, redis_server, tmp_path)
    fields = {"user": "service.1", "channel": "desk"}
    async with logged_in(service) as client:
        async with page_of(client, "public:x") as stream:
            await stream.until("realtime.state")
            await asyncio.to_thread(service.post, "subscribe", fields)
            while (await stream.until("realtime.subscribed"))[1]["channel"] != fields["channel"]:
                pass
            had = await publish(service, fields["channel"], "one")
            last_id = (await stream.until("message"))[2]
        missed = await publish(service, fields["channel"], "two")
        async with page_of(client, "public:x", last_id) as stream:
            await stream.until("realtime.state")
            await publish(service, "public:x", "beside")
            _, data, last_id = await stream.until("message")
            assert data == "beside"
            assert f"{had['epoch']}/{had['offset']}/{fields['channel']}" in last_id.split("&")
        async with page_of(client, "public:x", last_id) as stream:
            await stream.until("realtime.state")
            await asyncio.to_thread(service.post, "subscribe", fields)
            _, gap, _ = await stream.until("realtime.gap")
            assert (gap["channel"], gap["epoch"]) == (fields["channel"], missed["epoch"])
            assert gap["from"] == gap["to"] == missed["offset"] == had["offset"] + 1
            assert (await stream.next())[:2] == (
                "realtime.subscribed",
                {"channel": fields["channel"]},
            )
