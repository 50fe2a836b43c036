"""One line in a template of a foreign Django project, and its pages receive their publications."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Page

from tests.e2e.test_sessions import Template, run
from tests.support.eventually import eventually
from tests.support.pages import becomes_true, in_browser_loop, own_contexts
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.service import KEY, Service

Serve = Callable[..., Service]


class PageSite:
    """A project with pages; its users are on `localhost`, and the service may be elsewhere."""

    def __init__(self, template: Template, folder: Path, redis_url: str) -> None:
        self.database, self.ada = template.copy(folder)
        self._env = {
            "DJANGO_SETTINGS_MODULE": "tests.page_settings",
            "TEST_DATABASE": str(self.database),
            "TEST_REDIS_URL": redis_url,
        }
        app = "tests.page_site:application"
        self._started = partial(Service, redis_url, "framed", app=app, **self._env)
        self.port = free_port()
        self.origin = f"http://localhost:{self.port}"

    def start(self, public_url: str = "") -> None:
        """Start it; its address is fixed beforehand, so that the service can be told."""
        self.service = self._started(port=self.port, TEST_PUBLIC_URL=public_url).start()

    def log_out(self) -> None:
        """End the session, as a logout in another tab would."""
        key = self.ada["cookie"]
        code = "import django; django.setup()\nfrom django.contrib.sessions.models import Session\n"
        run(f"{code}Session.objects.get(pk={key!r}).delete()", self._env)


class Look:
    """A page, and everything that its browser reports as a problem."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)

    def _note(self, message: Any) -> None:
        if message.type == "error" and "favicon" not in str(message.location):
            self.complaints.append(message.text)

    async def shows(self, text: str) -> None:
        try:
            await self.page.get_by_text(text, exact=True).first.wait_for(timeout=60_000)
        except Error:
            shown = await self.lines()
            raise AssertionError(f"no {text!r} in {shown}; {self.complaints}") from None

    async def lines(self) -> list[str]:
        return await self.page.locator("p").all_inner_texts()


@pytest.fixture
def site(template: Template, redis_server: RedisServer, tmp_path: Path) -> Iterator[PageSite]:
    site = PageSite(template, tmp_path, redis_server.url)
    yield site
    log = site.service.log
    site.service.stop()
    assert "Traceback" not in log


@pytest_asyncio.fixture(loop_scope="session")
async def look(chromium: Browser) -> AsyncIterator[Callable[..., Any]]:
    async with own_contexts(chromium) as browser:
        looks: list[Look] = []

        async def open_page(site: PageSite, *, logged_in: bool = True) -> Look:
            context = await browser.new_context()
            if logged_in:
                cookie = {"name": "sessionid", "value": site.ada["cookie"], "url": site.origin}
                await context.add_cookies([cookie])
            looks.append(Look(await context.new_page()))
            await looks[-1].page.goto(site.origin)
            return looks[-1]

        yield open_page
        assert [look.complaints for look in looks] == [[] for _ in looks]


async def hears_what_is_hers(site: PageSite, service: Service, look: Any) -> Look:
    own = f"user:#{site.ada['user']}"
    ada, nobody = await look(site), await look(site, logged_in=False)
    for page in (ada, nobody):
        await page.shows("listens public:news")
    await ada.shows(f"listens {own}")
    await asyncio.to_thread(service.publish, own, "for ada")
    await asyncio.to_thread(service.publish, "public:news", "for all")
    await ada.shows("heard for ada")
    await nobody.shows("heard for all")
    assert await nobody.lines() == ["listens public:news", "heard for all"]
    return ada


@pytest.mark.browser
@in_browser_loop
async def test_the_session_identifies_the_user_on_the_host_of_the_site(
    site: PageSite, look: Any
) -> None:
    await asyncio.to_thread(site.start)
    await hears_what_is_hers(site, site.service, look)


@pytest.mark.browser
@in_browser_loop
async def test_a_token_identifies_the_user_on_another_host_until_logout(
    site: PageSite, redis_server: RedisServer, serve: Serve, look: Any
) -> None:
    service = await asyncio.to_thread(
        partial(serve, redis_server.url, TEST_ALLOWED_ORIGINS=site.origin)
    )
    await asyncio.to_thread(site.start, service.http)
    ada = await hears_what_is_hers(site, service, look)
    asked = await ada.page.evaluate("performance.getEntriesByType('resource').map((e) => e.name)")
    assert f"{site.origin}/connection/token" in asked
    assert not any("token=" in url for url in asked), "no token stands in a URL"
    own = f"user:#{site.ada['user']}"
    await asyncio.to_thread(site.log_out)

    async def is_gone() -> bool:
        return (await asyncio.to_thread(service.publish, own, "too late"))["nodes"] == 0

    await eventually(is_gone)
    assert "heard too late" not in await ada.lines()


TOLD = """
window.told = [];
for (const name of ["subscribed", "unsubscribed"]) {
  document.addEventListener(`realtime:${name}`, ({ detail: { channel, code = "" } }) => {
    told.push(`${name} ${channel} ${code}`);
  });
}
"""


@pytest.mark.browser
@in_browser_loop
async def test_a_page_is_told_that_the_server_has_ended_its_subscription(
    site: PageSite, look: Any
) -> None:
    await asyncio.to_thread(site.start)
    ada = await look(site)
    await ada.page.add_init_script(TOLD)
    await ada.page.goto(f"{site.origin}/tag")
    own = f"user:#{site.ada['user']}"
    await becomes_true(ada.page, "told.length === 2")
    said = {"user": site.ada["user"], "channel": "public:news"}
    answer = await asyncio.to_thread(site.service.post, "unsubscribe", said)
    assert answer.status_code == 200
    await becomes_true(ada.page, "told.length === 3")
    *begun, ended = await ada.page.evaluate("told")
    assert sorted(begun) == ["subscribed public:news ", f"subscribed {own} "]
    assert ended == "unsubscribed public:news 2000"


def test_the_views_of_the_app_answer_under_login_required_middleware(site: PageSite) -> None:
    """Django's LoginRequiredMiddleware would redirect probes and publishers to a login form."""
    site.start()
    with httpx.Client(base_url=site.origin) as nobody:
        assert nobody.get("/livez").status_code == 200
        assert nobody.get("/readyz").status_code == 200
        assert nobody.get("/connection/token").status_code == 403
        command = {"channel": "public:news", "data": 1}
        assert nobody.post("/api/publish", json=command, headers=KEY).status_code == 200


def test_a_page_gets_a_token_with_its_session(site: PageSite) -> None:
    site.start()
    with httpx.Client(base_url=site.origin, cookies={"sessionid": site.ada["cookie"]}) as page:
        answer = page.get("/connection/token")
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        payload = answer.json()["token"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert claims["sub"] == site.ada["user"]
    assert claims["info"] == {"name": "ada"}
    assert claims["session"]
    assert claims["stamp"]
