"""Pages of other sites attack a user who is logged in here, in a real Chromium.

All sites are on 127.0.0.1. For Chromium, ``http://localhost:…`` is another site than
``http://127.0.0.1:…``, and two ports of one host are siblings, which share cookies.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.support.eventually import eventually
from tests.support.foreign import foreign_site
from tests.support.pages import in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT, Service
from tests.support.tokens import token

pytestmark = [pytest.mark.browser, in_browser_loop]

Serve = Callable[..., Service]
ENDPOINT = "tests.asgi_endpoint:application"
LOG_IN = """
import json
import django
django.setup()
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
user = get_user_model().objects.create_user("ada")
client = Client()
client.force_login(user)
print(json.dumps([str(user.pk), client.cookies["sessionid"].value]))
"""
EVIL = "chat:evil"


class Site:
    """Our site, and a user who is logged in to it."""

    def __init__(self, service: Service, user: str, cookie: str) -> None:
        self.service = service
        self.user = user
        self._cookie = cookie
        self._marks = 0

    @asynccontextmanager
    async def visitor(self, browser: Browser, url: str) -> AsyncIterator[Page]:
        """Open a page of any site in the user's browser."""
        context = await browser.new_context()
        cookie = {"name": "sessionid", "value": self._cookie, "sameSite": "Lax"}
        await context.add_cookies([cookie | {"url": self.service.http}])  # type: ignore[list-item]
        page = await context.new_page()
        await page.goto(url)
        yield page
        await context.close()

    def marked(self, path: str) -> str:
        """Return a path that no other test requests."""
        self._marks += 1
        return f"{path}&mark={self._marks}"

    async def statuses(self, url: str) -> set[int]:
        """Record the server's responses: a browser does not say what it has blocked."""
        path = re.escape(url.removeprefix(self.service.http))
        answered = re.compile(rf'"[A-Z]+ {path} HTTP/1.1" (\d+)')
        found = await eventually(lambda: answered.findall(self.service.log), seconds=10)
        return set(map(int, found))

    async def members(self) -> list[str]:
        """Return the user ids on the attacker's channel; empty for anonymous clients."""
        found = await asyncio.to_thread(self.service.post, "presence", {"channel": EVIL})
        return [info.get("user", "") for info in found.json()["result"]["presence"].values()]

    async def is_joined(self) -> bool:
        return self.user in await self.members()

    async def is_deserted(self) -> bool:
        return await self.members() == []


@pytest.fixture(scope="module")
def site(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    env = {
        "DJANGO_SETTINGS_MODULE": "tests.own_site_settings",
        "TEST_DATABASE": str(tmp_path_factory.mktemp("site") / "site.sqlite3"),
        "TEST_REDIS_PREFIX": "foreign-pages",
    }
    command = [sys.executable, "-c", LOG_IN]
    made = subprocess.run(
        command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, check=True
    )
    service = Service(redis_server.url, app=ENDPOINT, **env).start()
    yield Site(service, *json.loads(made.stdout))
    assert "Traceback" not in service.log
    service.stop()


@pytest.fixture(scope="module")
def foreign() -> Iterator[int]:
    with foreign_site() as port:
        yield port


@pytest_asyncio.fixture(loop_scope="session")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    async with own_contexts(chromium) as browser:
        yield browser


SUBSCRIBE = quote(json.dumps({"subs": {EVIL: {}}}))
CONNECT = quote(json.dumps({"id": 1, "connect": {"subs": {EVIL: {}}}}))
STREAMS = {
    "sse": f"/connection/sse?channel={EVIL}",
    "uni_sse": f"/connection/uni_sse?cf_connect={SUBSCRIBE}",
    "emulation": f"/connection/sse?cf_connect={CONNECT}",
}
SITES = {"another site": "localhost", "a sibling": "127.0.0.1"}
ATTACKS = {
    "a link": "(url) => { location.href = url; }",
    "a link in a new window": "(url) => { window.open(url); }",
    "a frame": """(url) => {
        document.body.append(Object.assign(document.createElement("iframe"), {src: url}));
    }""",
    "an image": "(url) => { new Image().src = url; }",
    "an image with credentials": """(url) => {
        const image = new Image();
        image.crossOrigin = "use-credentials";
        image.src = url;
    }""",
    "a script": """(url) => {
        document.body.append(Object.assign(document.createElement("script"), {src: url}));
    }""",
    "a prefetch": """(url) => {
        const link = Object.assign(document.createElement("link"), {rel: "prefetch", href: url});
        document.head.append(link);
    }""",
    "a form": """(url) => {
        const form = Object.assign(document.createElement("form"), {method: "POST", action: url});
        document.body.append(form);
        form.submit();
    }""",
    "a fetch": """(url) => {
        fetch(url, {mode: "no-cors", credentials: "include"}).catch(() => {});
    }""",
    "a fetch by CORS": "(url) => { fetch(url, {credentials: 'include'}).catch(() => {}); }",
    "an event source": "(url) => { new EventSource(url, {withCredentials: true}); }",
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
async def test_a_script_on_our_own_page_joins_as_the_user(
    site: Site, browser: Browser, stream: str
) -> None:
    """The control: this is what the attacks below would look like if they succeeded."""
    async with site.visitor(browser, f"{site.service.http}/") as page:
        heard = """([url, own]) => new Promise((resolve) => {
            const source = new EventSource(url);
            for (const name of ["message", "realtime.subscribed"])
                source.addEventListener(name, ({data}) => data.includes(own) && resolve());
        })"""
        await page.evaluate(heard, [stream, f"user:#{site.user}"])
        await eventually(site.is_joined)
    await eventually(site.is_deserted)


@pytest.mark.parametrize("host", SITES.values(), ids=SITES)
async def test_a_page_of_another_site_joins_a_channel_as_the_user(
    site: Site, foreign: int, browser: Browser, host: str
) -> None:
    tried = [(attack, "sse") for attack in ATTACKS]
    tried += [("a link", "uni_sse"), ("an image", "uni_sse"), ("a link", "emulation")]
    answers = {}
    for attack, stream in tried:
        async with site.visitor(browser, f"http://{host}:{foreign}/") as page:
            url = site.service.http + site.marked(STREAMS[stream])
            await page.evaluate(ATTACKS[attack], url)
            answers[attack, stream] = await site.statuses(url)
            assert await site.is_deserted()
    assert answers == {case: {403} for case in tried}


@pytest.mark.parametrize("host", SITES.values(), ids=SITES)
async def test_a_service_worker_of_another_site_joins_as_the_user(
    site: Site, foreign: int, browser: Browser, host: str
) -> None:
    """The worker fetches in the background.

    A refusal ends immediately, while a stream would not.
    """
    async with site.visitor(browser, f"http://{host}:{foreign}/") as page:
        for mode in ("no-cors", "cors"):
            url = site.service.http + site.marked(STREAMS["sse"])
            answer = await page.evaluate(
                """async (data) => {
                    await navigator.serviceWorker.register("/worker.js");
                    const {active} = await navigator.serviceWorker.ready;
                    const channel = new MessageChannel();
                    const answer = new Promise((resolve) => {
                        channel.port1.onmessage = ({data}) => resolve(data);
                    });
                    active.postMessage(data, [channel.port2]);
                    return await answer;
                }""",
                [url, {"mode": mode, "credentials": "include"}],
            )
            assert answer == ["error", 0]
            assert await site.statuses(url) == {403}
        assert await site.is_deserted()


WRITTEN_BY_USERS = ("an image", "a script", "a prefetch", "a frame", "a link")


@pytest.mark.parametrize("has_worker", [False, True], ids=["", "with our service worker"])
async def test_a_link_on_our_own_page_joins_as_the_user(
    site: Site, browser: Browser, has_worker: bool
) -> None:
    """Users also write links and images, for example in a chat message.

    Their requests are anonymous.
    """
    own = f"/connection/sse?channel=news%23{site.user}"  # for this user alone
    answers = {}
    async with site.visitor(browser, f"{site.service.http}/") as page:
        if has_worker:
            await page.evaluate(
                """async () => {
                    await navigator.serviceWorker.register("/worker.js");
                    await navigator.serviceWorker.ready;
                    if (navigator.serviceWorker.controller) return;
                    await new Promise((resolve) => {
                        navigator.serviceWorker.addEventListener("controllerchange", resolve);
                    });
                }"""
            )
        control = "(url) => fetch(url).then((answer) => answer.status)"
        assert await page.evaluate(control, own) == 200
        for attack in WRITTEN_BY_USERS:
            url = site.marked(own)
            await page.evaluate(ATTACKS[attack], url)
            answers[attack] = await site.statuses(url)
    assert answers == {attack: {403} for attack in WRITTEN_BY_USERS}


async def test_a_link_in_a_mail_joins_as_the_user(site: Site, browser: Browser) -> None:
    """For the browser, no site caused the request: ``Sec-Fetch-Site: none``."""
    async with site.visitor(browser, f"{site.service.http}/") as page:
        with pytest.raises(Exception, match="Timeout"):
            await page.goto(site.service.http + STREAMS["sse"], timeout=2000)

        async def has_come() -> bool:
            return await site.members() == [""]

        await eventually(has_come)
    await eventually(site.is_deserted)


# --- pages that may connect ---


FETCH = """async ([url, withCredentials]) => {
  const headers = { "Last-Event-ID": "of an earlier stream" };
  const credentials = withCredentials ? "include" : "omit";
  const answer = await fetch(url, { headers, credentials });
  await answer.body.cancel();
  return `${answer.status} ${answer.headers.get("Content-Type").split(";")[0]}`;
}"""
LISTEN = """([url, withCredentials]) => {
    window.heard = [];
    window.source = new EventSource(url, {withCredentials});
    for (const name of ["message", "realtime.gap"])
        source.addEventListener(name, (e) => heard.push([name, e.data]));
    return new Promise((resolve, reject) => {
        source.addEventListener("open", resolve, {once: true});
        source.addEventListener("error", () => reject("error"), {once: true});
    });
}"""


@pytest.mark.parametrize("with_credentials", [False, True])
async def test_a_page_of_an_allowed_site_reconnects_and_gets_its_gap(
    redis_server: RedisServer,
    serve: Serve,
    foreign: int,
    browser: Browser,
    with_credentials: bool,
) -> None:
    """Chromium sends no preflight for its own Last-Event-ID; a client that uses `fetch` does."""
    origin = f"http://localhost:{foreign}"
    env = {"app": ENDPOINT, "TEST_ALLOWED_ORIGINS": origin}
    service = await asyncio.to_thread(serve, redis_server.url, **env)
    other = await asyncio.to_thread(serve, redis_server.url, app=ENDPOINT)
    channel = f"public:back-{with_credentials}"
    page = await (await browser.new_context()).new_page()
    await page.goto(origin)
    url = f"{service.http}/connection/sse?channel={channel}"
    await page.evaluate(LISTEN, [url, with_credentials])
    await asyncio.to_thread(service.publish, channel, "first")
    await page.wait_for_function("heard.length === 1")
    await asyncio.to_thread(service.stop)
    await asyncio.to_thread(other.publish, channel, "missed")
    await asyncio.to_thread(service.start)

    # The node counts as subscribed before the page has its position; what is published in between
    # is no loss.
    async def is_back() -> bool:
        await asyncio.to_thread(service.publish, channel, "again")
        return bool(await page.evaluate("heard.some(([name, data]) => data === 'again')"))

    await eventually(is_back, seconds=20)
    heard = await page.evaluate("heard")
    gaps = [json.loads(data) for name, data in heard if name == "realtime.gap"]
    assert heard[0] == ["message", "first"]
    assert [gap["channel"] for gap in gaps] == [channel]
    assert await page.evaluate("source.readyState") == 1
    assert await page.evaluate(FETCH, [url, with_credentials]) == "200 text/event-stream"


async def test_htmx_on_a_page_of_an_allowed_site_receives_publications(
    redis_server: RedisServer, serve: Serve, foreign: int, browser: Browser
) -> None:
    """HTMX's SSE extension opens streams with credentials.

    bigskysoftware/htmx-extensions, src/sse/sse.js: it opens an EventSource with credentials.
    """
    origin = f"http://localhost:{foreign}"
    env = {"app": ENDPOINT, "TEST_ALLOWED_ORIGINS": origin}
    service = await asyncio.to_thread(serve, redis_server.url, **env)
    page = await (await browser.new_context()).new_page()
    await page.goto(origin)
    await page.add_script_tag(url="/htmx.js")
    await page.add_script_tag(url="/hx-sse.js")
    url = f"{service.http}/connection/sse?channel=public:htmx"
    await page.evaluate(
        """(url) => {
            document.body.innerHTML =
                `<p hx-ext="sse" sse-connect="${url}" sse-swap="message">nothing yet</p>`;
            htmx.process(document.body);
        }""",
        url,
    )

    async def is_heard() -> bool:
        await asyncio.to_thread(service.publish, "public:htmx", "swapped")
        return await page.locator("p", has_text="swapped").count() == 1

    await eventually(is_heard)


async def test_a_page_allowed_only_by_a_star_listens_without_credentials(
    redis_server: RedisServer, serve: Serve, foreign: int, browser: Browser
) -> None:
    env = {"app": ENDPOINT, "TEST_ALLOWED_ORIGINS": "*"}
    service = await asyncio.to_thread(serve, redis_server.url, **env)
    page = await (await browser.new_context()).new_page()
    await page.goto(f"http://localhost:{foreign}")
    url = f"{service.http}/connection/sse?channel=public:star"
    await page.evaluate(LISTEN, [url, False])
    with pytest.raises(Exception, match="error"):
        await page.evaluate(LISTEN, [url, True])


async def test_a_page_of_an_allowed_site_can_read_why_its_token_is_refused(
    redis_server: RedisServer, serve: Serve, foreign: int, browser: Browser
) -> None:
    origin = f"http://localhost:{foreign}"
    env = {"app": ENDPOINT, "TEST_ALLOWED_ORIGINS": origin}
    service = await asyncio.to_thread(serve, redis_server.url, **env)
    page = await (await browser.new_context()).new_page()
    await page.goto(origin)
    first = """async ([url, body]) => {
        const headers = {"Content-Type": "application/json"};
        const answer = await fetch(url, {method: "POST", headers, body, credentials: "include"});
        const {value} = await answer.body.getReader().read();
        return [answer.status, new TextDecoder().decode(value)];
    }"""
    url = f"{service.http}/connection/uni_sse"
    status, text = await page.evaluate(first, [url, json.dumps({"token": token("ada")})])
    assert (status, '"connect"' in text) == (200, True)
    status, text = await page.evaluate(first, [url, json.dumps({"token": "none"})])
    assert (status, json.loads(text)["error"]["reason"]) == (401, "unauthorized")
    for path, body, expected in (
        ("/connection/http_stream", '{"id":1,"connect":{}}', 200),
        ("/emulation", "{}", 400),
    ):
        status, text = await page.evaluate(first, [service.http + path, body])
        assert status == expected, text


async def test_a_websocket_of_a_sibling_is_refused(
    site: Site, foreign: int, browser: Browser
) -> None:
    async with site.visitor(browser, f"http://127.0.0.1:{foreign}/") as page:
        code = await page.evaluate(
            """(url) => new Promise((resolve) => {
                new WebSocket(url).addEventListener("close", ({code}) => resolve(code));
            })""",
            site.service.ws,
        )
    assert code == 1006
