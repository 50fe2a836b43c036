"""The fallback transports, byte by byte and in a browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser

from tests.conftest import SDK
from tests.support.event_stream import Parser
from tests.support.eventually import eventually
from tests.support.machine import within
from tests.support.pages import SERVICE, becomes_true, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.support.tokens import token

Serve = Callable[..., Service]
ENDPOINT = "tests.asgi_endpoint:application"
PAGE = {"Origin": "https://app.example.com"}
EVIL = {"Origin": "https://evil.example"}


@pytest.fixture(scope="module")
def service(redis_server: RedisServer) -> Iterator[Service]:
    running = Service(redis_server.url, app=ENDPOINT).start()
    yield running
    assert "Traceback" not in running.log
    running.stop()


class Stream:
    """The messages of the node in a stream, line by line; commands are sent separately."""

    def __init__(self, http: httpx.AsyncClient, response: httpx.Response) -> None:
        self.http = http
        self.response = response
        self._lines = response.aiter_lines()
        self._parser = Parser()
        self.is_sse = response.headers["content-type"].startswith("text/event-stream")
        self.session = self.node = ""

    async def next(self) -> dict[str, Any]:
        """Return the next line; EOFError at the end."""
        async with within(10):
            async for line in self._lines:
                if not self.is_sse:
                    return json.loads(line)
                if event := self._parser.feed(line):
                    return json.loads(event.data)
        raise EOFError

    async def until(self, is_it: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        while not is_it(line := await self.next()):
            pass
        return line

    async def say(self, *commands: Any, **changed: Any) -> httpx.Response:
        data = "\n".join(c if isinstance(c, str) else json.dumps(c) for c in commands)
        said = {"session": self.session, "node": self.node, "data": data, **changed}
        return await self.http.post("/emulation", content=json.dumps(said))


@asynccontextmanager
async def streaming(service: Service, *, sse: bool = False) -> AsyncIterator[Stream]:
    first = json.dumps({"id": 1, "connect": {}})
    path = "/connection/sse" if sse else "/connection/http_stream"
    how: Any = {"params": {"cf_connect": first}} if sse else {"content": first}
    async with (
        httpx.AsyncClient(base_url=service.http, timeout=60) as client,
        client.stream("GET" if sse else "POST", path, **how) as response,
    ):
        stream = Stream(client, response)
        connect = (await stream.next())["connect"]
        stream.session, stream.node = connect["session"], connect["node"]
        yield stream


async def post(service: Service, path: str, content: bytes, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=service.http, timeout=60) as client:
        return await client.post(path, content=content, headers=headers)


def reason(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["reason"]


both = pytest.mark.parametrize("sse", [False, True], ids=["http_stream", "sse"])


# --- normal use ---


@both
async def test_an_emulation_request_is_answered_in_the_stream(service: Service, sse: bool) -> None:
    async with streaming(service, sse=sse) as stream:
        headers = stream.response.headers
        assert headers["x-accel-buffering"] == "no"
        assert headers["cache-control"] == "no-store"
        answer = await stream.say({"id": 2, "subscribe": {"channel": "public:em"}}, {"id": 3})
        assert (answer.status_code, answer.content) == (204, b"")
        assert "content-length" not in answer.headers
        assert (await stream.until(lambda line: line.get("id") == 2))["subscribe"]["epoch"]
        assert (await stream.until(lambda line: line.get("id") == 3))["error"]["code"] == 104
        await asyncio.to_thread(service.publish, "public:em", {"n": 1})
        assert (await stream.until(lambda line: "pub" in line.get("push", {})))["push"]["pub"]

    async def nobody() -> bool:
        return (await asyncio.to_thread(service.publish, "public:em", 1))["nodes"] == 0

    await eventually(nobody)
    assert stream.session not in service.log


# --- access control ---


async def test_an_emulation_request_with_a_forged_session_is_refused(service: Service) -> None:
    async with streaming(service) as one, streaming(service) as other:
        forged = [
            {"session": ""},
            {"session": one.session[:-1]},
            {"session": one.session[:32] + other.session[32:]},
            {"session": "é" * 64},
            {"node": "0" * 16},
            {"node": ""},
            {"node": "all"},
            {"node": "*"},
        ]
        for changed in forged:
            answer = await one.say({"id": 2, "ping": {}}, **changed)
            assert reason(answer) == (404, "session_not_found"), changed
        await one.say({"id": 9, "ping": {}})
        assert (await one.until(lambda line: "id" in line))["id"] == 9, "none of it was published"


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b'{"session":1}', b"\xff", b"[" * 10_000, b'{"session":"a"}'],
)
async def test_an_invalid_command_is_a_bad_request(service: Service, body: bytes) -> None:
    assert reason(await post(service, "/emulation", body)) == (400, "invalid_data")


async def test_an_invalid_emulated_command_is_answered_in_the_stream(service: Service) -> None:
    async with streaming(service) as stream:
        assert (await stream.say("nonsense")).status_code == 204
        assert (await stream.until(lambda line: "error" in line))["error"]["code"] == 107
        for _ in range(2):
            await stream.say("\0")
        assert (await stream.until(lambda line: "push" in line and "disconnect" in line["push"]))[
            "push"
        ]["disconnect"]["code"] == 3501
        with pytest.raises(EOFError):
            await stream.next()
        assert (await stream.say({"id": 2, "ping": {}})).status_code == 204, (
            "no other client is affected"
        )


async def test_a_stream_with_an_empty_first_request_is_refused(service: Service) -> None:
    assert reason(await post(service, "/connection/http_stream", b"")) == (400, "invalid_data")
    async with httpx.AsyncClient(base_url=service.http) as client:
        answer = await client.get("/connection/sse?cf_connect=")
    assert reason(answer) == (400, "invalid_data")


async def test_a_link_on_another_site_sends_commands_as_the_user(service: Service) -> None:
    """If the user follows a link, the GET carries the session cookie (SameSite=Lax)."""
    connect, said = '{"id":1,"connect":{}}', '{"channel":"chat:link","data":"forged"}'
    both = '{"id":2,"connect":{},"publish":' + said + "}"
    frames = [
        f'{connect}\n{{"id":2,"publish":{said}}}',
        f'{{"id":2,"publish":{said}}}',
        both,
        f"{connect}\n{both}",
        f"{connect}\r{both}",
        f"{connect} {both}",
    ]
    before = (await asyncio.to_thread(service.publish, "chat:link", "before"))["offset"]
    async with httpx.AsyncClient(base_url=service.http, timeout=60) as client:
        for frame in frames:
            url = "/connection/sse"
            async with client.stream("GET", url, params={"cf_connect": frame}) as answer:
                if answer.status_code == 200:  # it begins, says what is wrong, and ends
                    assert "3501" in (await answer.aread()).decode(), frame
    after = (await asyncio.to_thread(service.publish, "chat:link", "after"))["offset"]
    assert after == before + 1


CONNECT = '{"id":1,"connect":{}}'
WITH_TOKEN = '{"id":1,"connect":{"token":"%s"}}'
WITH_TOKEN_OF_A_CHANNEL = '{"id":1,"connect":{"subs":{"closed":{"token":"%s"}}}}'


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/connection/sse", {"cf_connect": WITH_TOKEN}),
        ("GET", "/connection/sse", {"cf_connect": WITH_TOKEN_OF_A_CHANNEL}),
        ("GET", "/connection/sse", {"cf_connect": CONNECT, "token": "%s"}),
        ("POST", "/connection/http_stream", {"access_token": "%s"}),
        ("POST", "/emulation", {"token": "%s"}),
    ],
)
async def test_a_token_is_left_in_the_logs_of_proxies(
    service: Service, method: str, path: str, query: dict[str, str]
) -> None:
    shown = token("42")
    params = {name: value.replace("%s", shown) for name, value in query.items()}
    async with httpx.AsyncClient(base_url=service.http, timeout=10) as client:
        answer = await client.request(method, path, params=params, content=CONNECT)
    assert reason(answer) == (400, "token_in_url")
    assert "POST" in answer.json()["error"]["message"]
    await eventually(lambda: "refused a token: it was sent in the URL" in service.log)
    assert shown not in answer.text
    # uvicorn's own access log, which the service turns off, is one of the logs with the URL.
    ours = [line for line in service.log.splitlines() if not line.startswith("INFO:")]
    assert not any(shown in line for line in ours)


async def test_a_channel_may_have_the_name_of_the_parameter(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.http, timeout=60) as client:
        url = "/connection/sse?channel=public:cf_connect"
        async with client.stream("GET", url) as answer:
            assert answer.status_code == 200
            assert (await anext(answer.aiter_lines())).startswith("retry:")


async def test_oversized_requests_are_refused(service: Service) -> None:
    async with streaming(service) as stream:
        frame = json.dumps({"id": 2, "ping": {"x": "y" * 81_920}})
        assert reason(await stream.say(frame)) == (413, "too_large")
        assert reason(await stream.say("x" * 200_000)) == (413, "too_large")
        escaped = json.dumps({"id": 3, "ping": {"x": '"' * 40_000}})
        assert (await stream.say(escaped)).status_code == 204, "a frame that is not too large"
        assert (await stream.until(lambda line: "id" in line))["id"] == 3
    body = b'{"id":1,"connect":{}}' + b" " * 200_000
    assert reason(await post(service, "/connection/http_stream", body)) == (413, "too_large")


async def test_a_flooding_client_is_disconnected(service: Service) -> None:
    async with streaming(service) as stream:
        for n in range(20):
            pings = [{"id": 50 * n + k + 2, "ping": {}} for k in range(50)]
            assert (await stream.say(*pings)).status_code == 204
        push = await stream.until(lambda line: "disconnect" in line.get("push", {}))
        assert push["push"]["disconnect"]["code"] == 3013
        with pytest.raises(EOFError):
            await stream.next()


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/emulation", "POST, OPTIONS"),
        ("/connection/http_stream", "POST, OPTIONS"),
        ("/connection/sse?cf_connect=x", "GET, OPTIONS"),
    ],
)
async def test_other_methods_get_an_allow_header(service: Service, path: str, allow: str) -> None:
    async with httpx.AsyncClient(base_url=service.http) as client:
        answer = await client.put(path)
        assert reason(answer) == (405, "method_not_allowed")
        assert answer.headers["allow"] == allow


# --- pages of other sites ---


@pytest.mark.parametrize("path", ["/emulation", "/connection/http_stream"])
async def test_pages_that_may_connect_may_send_commands(service: Service, path: str) -> None:
    asks = {"Access-Control-Request-Method": "POST"}
    async with httpx.AsyncClient(base_url=service.http) as client:
        yes = await client.options(path, headers=PAGE | asks)
        assert (yes.status_code, yes.content) == (204, b"")
        assert yes.headers["access-control-allow-origin"] == PAGE["Origin"]
        assert yes.headers["access-control-allow-methods"] == "POST"
        assert "Content-Type" in yes.headers["access-control-allow-headers"]
        assert yes.headers["access-control-allow-credentials"] == "true"
        no = await client.options(path, headers=EVIL | asks)
        assert no.status_code == 403
        assert not [name for name in no.headers if name.startswith("access-control")]
        assert (await client.post(path, headers=EVIL, content=b"{}")).status_code == 403
        wrong = await client.post("/emulation", headers=PAGE, content=b"{}")
        assert wrong.headers["access-control-allow-origin"] == PAGE["Origin"], (
            "its page may read the reason"
        )


# --- nodes that are gone, and an unreachable broker ---


async def test_a_session_of_a_stopped_node_is_not_found(
    redis_server: RedisServer, serve: Serve, service: Service
) -> None:
    away = await asyncio.to_thread(serve, redis_server.url, app=ENDPOINT)
    async with streaming(away) as stream:
        there = {"session": stream.session, "node": stream.node}
        body = json.dumps({**there, "data": '{"id":2,"ping":{}}'}).encode()
        assert (await post(service, "/emulation", body)).status_code == 204, "through the broker"
        assert (await stream.until(lambda line: line.get("id") == 2))["ping"] == {}
    await asyncio.to_thread(away.kill)

    async def is_gone() -> bool:
        return (await post(service, "/emulation", body)).status_code == 404

    await eventually(is_gone)


async def test_without_the_broker_emulation_works_only_on_the_same_node(
    own_redis: RedisServer, serve: Serve
) -> None:
    one = await asyncio.to_thread(serve, own_redis.url, app=ENDPOINT)
    other = await asyncio.to_thread(serve, own_redis.url, app=ENDPOINT)
    async with streaming(one) as stream:
        await asyncio.to_thread(own_redis.kill)
        there = {"session": stream.session, "node": stream.node}
        body = json.dumps({**there, "data": '{"id":2,"ping":{}}'}).encode()
        answer = await post(other, "/emulation", body)
        assert reason(answer) == (503, "not_live")
        assert answer.headers["retry-after"]
        assert (await post(one, "/emulation", body)).status_code == 204
        assert (await stream.until(lambda line: line.get("id") == 2))["ping"] == {}


# --- in a browser whose network breaks WebSockets ---


@pytest.mark.browser
@in_browser_loop
@pytest.mark.node
@pytest.mark.parametrize("transport", ["http_stream", "sse"])
async def test_a_browser_falls_back_to_another_transport(
    redis_server: RedisServer, serve: Serve, chromium: Browser, transport: str
) -> None:
    service = await asyncio.to_thread(serve, redis_server.url, **SERVICE)
    sdk = (SDK / "centrifuge" / "dist" / "centrifuge.js").read_text()
    async with own_contexts(chromium) as browser:
        context = await browser.new_context(bypass_csp=True)  # for the SDK, which is not the page's
        page = await context.new_page()
        await page.route_web_socket("**", lambda socket: socket.close(code=1011))
        await page.goto(f"{service.http}/livez")
        await page.add_script_tag(content=sdk)
        connected = await page.evaluate(
            """(fallback) => new Promise((resolve, reject) => {
                const site = location.origin;
                const sockets = site.replace("http", "ws");
                const client = new Centrifuge([
                    {transport: "websocket", endpoint: `${sockets}/connection/websocket`},
                    {transport: fallback, endpoint: `${site}/connection/${fallback}`},
                ], {emulationEndpoint: `${site}/emulation`, minReconnectDelay: 20});
                window.heard = [];
                const news = client.newSubscription("public:fallback");
                news.on("publication", ({data}) => heard.push(data));
                news.on("subscribed", () => resolve(window.transport));
                client.on("connected", ({transport}) => { window.transport = transport; });
                news.subscribe();
                client.connect();
            })""",
            transport,
        )
        assert connected == transport
        await asyncio.to_thread(service.publish, "public:fallback", {"n": 1})
        await becomes_true(page, "heard.length === 1")
        assert await page.evaluate("heard") == [{"n": 1}]
