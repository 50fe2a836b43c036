"""The service's pages in a real Chromium."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

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


@asynccontextmanager
async def chromium(path: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


PATIENCE = 6
"""Times what a page takes on a quiet machine: Chromium's waits know nothing of a busy one."""


async def becomes_true(page: Page, expression: str, *, seconds: float = 10) -> None:
    """Wait until a JavaScript expression is true in the page.

    Playwright's `wait_for_function` looks again from inside the page, where our policy forbids to
    evaluate a string: it only ever saw what was true at its first look.
    """
    await eventually(lambda: page.evaluate(expression), PATIENCE * seconds)


class Visitor:
    """Somebody with a browser of their own: no cookies or storage shared with others."""

    def __init__(self, page: Page, service: Service) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.service = service
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _console(self, message: ConsoleMessage) -> None:
        # A network error is what the tests of broken networks cause themselves.
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
        await visitor.sees("#main[data-listening]")  # what is lost before, nobody misses
        return visitor

    async def sees(self, selector: str, text: str | None = None, *, seconds: float = 10) -> None:
        """Wait until the page shows an element, with a text in it."""
        locator = self.page.locator(selector)
        if text is not None:
            locator = locator.filter(has_text=text)
        await locator.first.wait_for(state="visible", timeout=PATIENCE * seconds * 1000)

    async def text_of(self, selector: str) -> str:
        return (await self.page.locator(selector).first.inner_text()).replace("\u00a0", " ")

    async def count(self, selector: str) -> int:
        return await self.page.locator(selector).count()
