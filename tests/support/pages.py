"""The service's pages in a real Chromium."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.support.database import manage
from tests.support.eventually import eventually
from tests.support.service import Service

SERVICE = {
    "app": "notifier.asgi:application",
    "DJANGO_SETTINGS_MODULE": "notifier.settings",
    "DEBUG": "1",
    "HTTPS": "0",
    "SECRET_KEY": "only for tests, but long enough to be taken for a secret key",
    "NOTIFIER_API_KEY": "test-key",
    "NOTIFIER_DEMO_KEY": "1",
}

PATHS = (
    *("/", "/chat/", "/jobs/", "/htmx/", "/docs/", "/monitor/", "/console/", "/login/"),
    "/docs/guides/http-api/",
    "/nowhere",
)
"""Every page; those of the staff send guests to the login, and the last one does not exist."""
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
"""Options of a browser context."""
PASSWORD = "one that nobody guesses"
HEBREW_NAME = "עדה"
USERS = f"""
from django.contrib.auth.models import User
for name in ("ada", {HEBREW_NAME!r}):
    User.objects.create_user(name, password={PASSWORD!r}, is_staff=name == "ada")
"""
"""Code for `migrate` that creates the users of `Pages`."""

Open = Callable[..., Awaitable[Page]]
"""`Pages.open`."""

in_browser_loop = pytest.mark.asyncio(loop_scope="session")
"""For tests with a page: Playwright's objects belong to the loop that launched the browser."""


@asynccontextmanager
async def launch_chromium(path: str) -> AsyncIterator[Browser]:
    """Start a browser, and end it."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def own_contexts(chromium: Browser) -> AsyncIterator[Browser]:
    """Use the browser that all tests share; the contexts made in the block end with it.

    A context has cookies, storage, cache, permissions, and service workers of its own. Playwright
    and the browser cost three times as much CPU time to start as a context and a page.
    """
    assert not chromium.contexts, "the previous test left pages open"
    try:
        yield chromium
    finally:
        for context in chromium.contexts:
            await context.close()


PATIENCE = 6
"""Multiplies the deadlines of a quiet machine: Chromium's waits do not adapt to a busy one."""


async def becomes_true(page: Page, expression: str, *, seconds: float = 10) -> None:
    """Wait until a JavaScript expression is true in the page.

    Playwright's `wait_for_function` polls from inside the page, where our policy forbids it to
    evaluate a string: it only ever saw the result of its first attempt.
    """
    await eventually(lambda: page.evaluate(expression), PATIENCE * seconds)


class Visitor:
    """A person with a browser of their own: no cookies or storage shared with others."""

    def __init__(self, page: Page, service: Service) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.service = service
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _console(self, message: ConsoleMessage) -> None:
        # Network errors are what the tests of broken networks cause.
        if message.type == "error" and "net::ERR" not in message.text:
            self.complaints.append(message.text)

    @classmethod
    async def open(
        cls, browser: Browser, service: Service, path: str = "/", **context: Any
    ) -> Visitor:
        page = await (await browser.new_context(**context)).new_page()
        visitor = cls(page, service)
        await page.goto(service.http + path)
        await visitor.sees("#connection[data-state=live]")
        await visitor.sees("#main[data-listening]")  # publications before that are not missed
        return visitor

    async def sees(self, selector: str, text: str | None = None, *, seconds: float = 10) -> None:
        """Wait until the page shows an element, optionally with this text."""
        locator = self.page.locator(selector)
        if text is not None:
            locator = locator.filter(has_text=text)
        await locator.first.wait_for(state="visible", timeout=PATIENCE * seconds * 1000)

    async def text_of(self, selector: str) -> str:
        return (await self.page.locator(selector).first.inner_text()).replace("\u00a0", " ")

    async def count(self, selector: str) -> int:
        return await self.page.locator(selector).count()


class Pages:
    """Opens pages of one service without waiting for them to be live, as a guest or as a user."""

    def __init__(self, browser: Browser, service: Service) -> None:
        self._browser = browser
        self._service = service
        self._sessions: dict[str, str] = {}

    async def open(self, path: str = "/", *, user: str = "", **context: Any) -> Page:
        made = await self._browser.new_context(base_url=self._service.http, **context)
        if user:
            cookie = {"name": "sessionid", "value": await self._session_of(user)}
            await made.add_cookies([{**cookie, "url": self._service.http}])  # type: ignore[list-item]
        page = await made.new_page()
        await page.goto(path)
        return page

    async def _session_of(self, user: str) -> str:
        """Log a user in without the page, once."""
        if user not in self._sessions:
            async with httpx.AsyncClient(base_url=self._service.http, timeout=60) as http:
                await http.get("/login/")
                fields = {"username": user, "password": PASSWORD}
                token = {"X-CSRFToken": http.cookies["csrftoken"]}
                answer = await http.post("/login/", data=fields, headers=token)
                assert answer.status_code == 302, answer.text
                self._sessions[user] = http.cookies["sessionid"]
        return self._sessions[user]


JOB = f"""
import uuid
from django.contrib.auth.models import User
from notifier.models import Job
owner = User.objects.get(username={HEBREW_NAME!r})
print(Job.objects.create(id=uuid.uuid4(), owner=owner, is_broken=False).pk)
"""


def make_job(database: str) -> str:
    """Create a job of one of the users, of which nothing has been published; return its id."""
    return manage(database, "shell", "--no-imports", "--command", JOB).split()[-1]
