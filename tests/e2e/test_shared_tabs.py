"""Tabs of one browser that share a WebSocket, also when the tab that has it ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, Route, WebSocket

from tests.e2e.test_sessions import Template, run
from tests.support.eventually import eventually
from tests.support.machine import allowed, in_time
from tests.support.pages import PATIENCE, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = [pytest.mark.browser, in_browser_loop]

NEWS = "public:news"
SILENCE = 10
"""Seconds: docs/client.md says so of visible tabs."""
CONNECT = """
async ([channel, options]) => {
  const { connect } = await import("/static/realtime/client.js");
  const live = (window.live = connect(options));
  window.states = [];
  live.addEventListener("state", ({ detail }) => window.states.push([detail.state, detail.reason]));
  window.heard = {};
  const listen = (subscription) => {
    const heard = (window.heard[subscription.channel] = []);
    subscription.addEventListener("publication", ({ detail }) => {
      const { epoch, offset, data } = detail;
      heard.push({ epoch, from: offset, to: offset, data });
    });
    subscription.addEventListener("gap", ({ detail }) => heard.push({ ...detail, isGap: true }));
    return new Promise((resolve) => {
      subscription.addEventListener("subscribed", () => resolve(subscription.position));
    });
  };
  live.addEventListener("subscription", ({ detail }) => listen(detail.subscription));
  return listen(live.subscribe(channel));
}
"""
USERS = """
import json
import time
import django
django.setup()
from django.contrib.auth import get_user_model
from django.test import Client
user = get_user_model().objects.create_user("bob")
client = Client()
client.force_login(user)
print(json.dumps({"user": str(user.pk), "cookie": client.cookies["sessionid"].value}))
"""
HANG = """
setTimeout(() => {
  const request = new XMLHttpRequest();
  request.open("GET", "/frozen", false);
  request.send();
});
"""
"""Nothing runs in the tab until the test answers, as in one that is frozen or busy."""


class Tab:
    """A page that has connected, and the position at which it began to listen."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.position: dict[str, Any] = {}
        self.sockets: list[WebSocket] = []
        self.frozen: list[Route] = []
        page.on("websocket", lambda socket: self.sockets.append(socket))

    @property
    def leads(self) -> bool:
        """Whether it has the WebSocket."""
        return any(not socket.is_closed() for socket in self.sockets)

    async def heard(self, channel: str = NEWS) -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = await self.page.evaluate(f"window.heard[{channel!r}] ?? []")
        return heard

    async def passed(self) -> int:
        """Return the offset up to which it has received or missed everything."""
        heard = await self.heard()
        return int(heard[-1]["to"]) if heard else int(self.position["offset"])

    async def missed_until(self, end: int) -> int:
        """Return how many it has missed; what it received and missed must be everything, once."""
        expected, missed = self.position["offset"] + 1, 0
        heard = await self.heard()
        for each in heard:
            assert each["epoch"] == self.position["epoch"], each
            assert each["from"] == expected, (each, expected)
            expected = each["to"] + 1
            if "isGap" in each:
                missed += each["missed"]
            else:
                assert each["data"] == each["from"]
        assert expected == end + 1
        return missed


class Browsing:
    """One browser, its tabs, and the site that they show."""

    def __init__(self, context: BrowserContext, site: Service) -> None:
        self.context = context
        self.site = site
        self.origin = f"http://localhost:{site.port}"

    async def open(self, path: str = "/shared", channel: str = NEWS, **options: Any) -> Tab:
        tab = Tab(await self.context.new_page())
        await tab.page.route("**/frozen", lambda route: tab.frozen.append(route))
        await tab.page.goto(self.origin + path)
        connecting = tab.page.evaluate(CONNECT, [channel, {"shared": True, **options}])
        tab.position = await in_time(connecting, PATIENCE * SILENCE)
        return tab

    async def log_in(self, cookie: str) -> None:
        await self.context.clear_cookies()
        await self.context.add_cookies([{"name": "sessionid", "value": cookie, "url": self.origin}])

    async def connections(self) -> int:
        """Return how many the server has."""
        answer = await asyncio.to_thread(self.site.post, "info", {})
        nodes = answer.json()["result"]["nodes"]
        return sum(node["num_clients"] for node in nodes)

    async def has_connections(self, number: int) -> None:
        async def has() -> bool:
            return await self.connections() == number

        await eventually(has, PATIENCE * SILENCE)

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[Callable[[], Awaitable[int]]]:
        """Publish one by one; yields a function that stops it and returns the last offset."""
        stopping = asyncio.Event()
        last = 0

        async def publish() -> None:
            nonlocal last
            number = self.published
            while not stopping.is_set():
                number += 1
                result = await asyncio.to_thread(self.site.publish, NEWS, number)
                last = self.published = result["offset"]
                assert last == number

        async def stop() -> int:
            stopping.set()
            await task
            return last

        task = asyncio.create_task(publish())
        try:
            yield stop
        finally:
            stopping.set()
            await task

    published = 0


@pytest.fixture
def site(redis_server: RedisServer, template: Template, tmp_path: Any) -> Iterator[Service]:
    database, ada = template.copy(tmp_path)
    env = {
        "DJANGO_SETTINGS_MODULE": "tests.page_settings",
        "TEST_DATABASE": str(database),
        "TEST_REDIS_PREFIX": f"shared-{token_hex(4)}",
    }
    app = "tests.page_site:application"
    service = Service(redis_server.url, "framed", app=app, **env).start()
    service.ada = ada  # type: ignore[attr-defined]
    service.env = env  # type: ignore[attr-defined]
    yield service
    log = service.log
    service.stop()
    assert "Traceback" not in log


@pytest_asyncio.fixture(loop_scope="session")
async def browsing(chromium: Browser, site: Service) -> AsyncIterator[Browsing]:
    async with own_contexts(chromium) as browser:
        yield Browsing(await browser.new_context(), site)


async def hear_until(tabs: list[Tab], end: int) -> None:
    for tab in tabs:

        async def has_passed(tab: Tab = tab) -> bool:
            return await tab.passed() >= end

        await eventually(has_passed, PATIENCE * SILENCE)


async def test_ten_tabs_have_one_connection_and_hear_everything_once(browsing: Browsing) -> None:
    tabs = [await browsing.open() for _ in range(10)]
    await browsing.has_connections(1)
    async with browsing.publishing() as stop:
        late = await browsing.open()
        await hear_until(tabs, 20)
        end = await stop()
    await hear_until([*tabs, late], end)
    assert [await tab.missed_until(end) for tab in [*tabs, late]] == [0] * 11
    assert await browsing.connections() == 1
    for tab in tabs:
        assert await tab.page.evaluate("window.states.filter(([name]) => name !== 'live')") == []


async def leader_and_others(tabs: list[Tab]) -> tuple[Tab, list[Tab]]:
    await eventually(lambda: [tab.leads for tab in tabs].count(True) == 1)
    [leader] = [tab for tab in tabs if tab.leads]
    return leader, [tab for tab in tabs if tab is not leader]


async def close(leader: Tab) -> None:
    await leader.page.close()


async def disconnect(leader: Tab) -> None:
    await leader.page.evaluate("live.close()")


async def navigate(leader: Tab) -> None:
    await leader.page.goto("about:blank")


async def crash(leader: Tab) -> None:
    crashed = asyncio.Event()
    leader.page.once("crash", lambda _: crashed.set())
    session = await leader.page.context.new_cdp_session(leader.page)
    crashing = asyncio.create_task(session.send("Page.crash"))  # the answer never comes
    await in_time(crashed.wait(), PATIENCE * SILENCE)
    crashing.cancel()


async def freeze(leader: Tab) -> None:
    """Do what the browser does to a hidden tab, since a headless one has only visible tabs."""
    await leader.page.evaluate('document.dispatchEvent(new Event("freeze"))')
    await hang(leader)


async def hang(leader: Tab) -> None:
    await leader.page.evaluate(HANG)
    await eventually(lambda: leader.frozen)


@pytest.mark.parametrize("end", [close, disconnect, navigate, crash, freeze, hang])
async def test_the_others_go_on_with_exact_gaps_when_the_tab_with_the_socket_ends(
    browsing: Browsing, end: Callable[[Tab], Awaitable[None]]
) -> None:
    tabs = [await browsing.open() for _ in range(4)]
    async with browsing.publishing() as stop:
        for _ in range(2):
            await hear_until(tabs, browsing.published + 10)
            leader, tabs = await leader_and_others(tabs)
            await end(leader)
            began = time.monotonic()
            await leader_and_others(tabs)
            await hear_until(tabs, browsing.published + 10)
            assert time.monotonic() - began < allowed(SILENCE, began)
        last = await stop()
    await hear_until(tabs, last)
    for tab in tabs:
        assert await tab.missed_until(last) > 0, "nothing was published meanwhile"
    await leader_and_others(tabs)


async def test_a_tab_that_was_frozen_learns_exactly_what_it_missed(browsing: Browsing) -> None:
    """It had the socket, and another tab has it now."""
    tabs = [await browsing.open() for _ in range(3)]
    leader, others = await leader_and_others(tabs)
    async with browsing.publishing() as stop:
        await hear_until(tabs, browsing.published + 10)
        await hang(leader)
        await leader_and_others(others)
        await hear_until(others, browsing.published + 10)
        await leader.frozen.pop().fulfill()
        await hear_until(tabs, browsing.published + 10)
        last = await stop()
    await hear_until(tabs, last)
    assert [await tab.missed_until(last) > 0 for tab in tabs] == [True] * 3
    await browsing.has_connections(1)


async def test_tabs_of_two_users_of_one_browser_do_not_share(
    browsing: Browsing, site: Service
) -> None:
    bob = json.loads(await asyncio.to_thread(run, USERS, site.env))
    pages: list[Tab] = []
    for cookie in (site.ada["cookie"], bob["cookie"]):
        await browsing.log_in(cookie)
        pages += [await browsing.open(), await browsing.open()]
    await browsing.has_connections(2)
    channels = [f"user:#{user['user']}" for user in (site.ada, bob)]
    for number, channel in enumerate(channels):
        await asyncio.to_thread(site.publish, channel, number)
    await asyncio.to_thread(site.publish, NEWS, 1)
    await hear_until(pages, 1)
    heard = [[len(await tab.heard(channel)) for channel in channels] for tab in pages]
    assert heard == [[1, 0], [1, 0], [0, 1], [0, 1]]


async def test_a_tab_whose_session_is_unknown_has_its_own_connection(browsing: Browsing) -> None:
    tabs = [await browsing.open(url="/connection/websocket") for _ in range(2)]
    await browsing.has_connections(2)
    await asyncio.to_thread(browsing.site.publish, NEWS, 1)
    await hear_until(tabs, 1)
    named = [await browsing.open(url="/connection/websocket", shared="me") for _ in range(2)]
    await browsing.has_connections(3)
    await asyncio.to_thread(browsing.site.publish, NEWS, 2)
    await hear_until([*tabs, *named], 2)


async def test_the_template_decides_unless_the_page_does(browsing: Browsing) -> None:
    tabs = [await browsing.open(shared=None) for _ in range(2)]
    await browsing.has_connections(1)
    tabs += [await browsing.open(shared=False) for _ in range(2)]
    await browsing.has_connections(3)
    assert [tab.leads for tab in tabs].count(True) == 3
    unshared = [await browsing.open("/", shared=None) for _ in range(2)]
    assert await browsing.connections() > 4
    await asyncio.to_thread(browsing.site.publish, NEWS, 1)
    await hear_until([*tabs, *unshared], 1)
