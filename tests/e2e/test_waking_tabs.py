"""Tabs of one browser with a connection each: one that is connected again wakes the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from playwright.async_api import Browser, BrowserContext, Page, WebSocketRoute

from tests.support.eventually import eventually
from tests.support.pages import becomes_true, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service

pytestmark = [pytest.mark.browser, in_browser_loop]

CONNECT = """
async () => {
  const { connect } = await import("/static/realtime/client.js");
  const hour = 3_600_000;
  window.luck = 1; // an attempt is in an hour, unless the test allows one at once
  const random = () => {
    const luck = window.luck;
    window.luck = 1;
    return luck;
  };
  window.live = connect({ random, retryFirstMs: hour, retryMostMs: hour });
  window.reasons = [];
  live.addEventListener("state", ({ detail }) => {
    if (detail.state === "reconnecting") window.reasons.push(detail.reason);
  });
}
"""


async def open_tab(context: BrowserContext, origin: str) -> Page:
    page = await context.new_page()
    await page.goto(f"{origin}/docs/")
    await page.evaluate(CONNECT)
    await has_state(page, "live")
    return page


async def has_state(page: Page, state: str) -> None:
    await becomes_true(page, f"live.state.state === '{state}'")


async def test_a_tab_that_is_connected_again_wakes_the_others(
    redis: RedisServer, chromium: Browser, serve: Callable[..., Service]
) -> None:
    service = await asyncio.to_thread(serve, redis.url, DEPLOYED, HTTPS="0")
    origin = f"http://127.0.0.1:{service.port}"
    async with own_contexts(chromium) as browser:
        context, stranger = await browser.new_context(), await browser.new_context()
        tabs = [await open_tab(context, origin) for _ in range(3)]
        other = await open_tab(stranger, origin)
        await asyncio.to_thread(service.stop)
        for tab in [*tabs, other]:
            await has_state(tab, "reconnecting")
            await tab.evaluate("luck = 0")
        await asyncio.to_thread(service.start)
        await tabs[0].evaluate("live.retryNow()")
        for tab in tabs:
            await has_state(tab, "live")
        assert [(await tab.evaluate("reasons"))[-1] for tab in tabs[1:]] == ["other-tab"] * 2
        assert await other.evaluate("live.state.state") == "reconnecting", "it is another browser"


async def test_tabs_do_not_wake_each_other_without_a_pause(
    redis: RedisServer, chromium: Browser, serve: Callable[..., Service]
) -> None:
    """A server that accepts connections and closes them at once, such as one that is full."""
    service = await asyncio.to_thread(serve, redis.url, DEPLOYED, HTTPS="0")
    origin = f"http://127.0.0.1:{service.port}"
    dialled: list[WebSocketRoute] = []
    closing: list[asyncio.Task[None]] = []

    def close_soon(route: WebSocketRoute) -> None:
        server = route.connect_to_server()
        dialled.append(route)

        def pass_on(message: str | bytes) -> None:
            route.send(message)
            closing.append(asyncio.create_task(route.close(code=3004, reason="full")))

        if len(dialled) > 3:
            server.on_message(pass_on)

    async with own_contexts(chromium) as browser:
        context = await browser.new_context()
        await context.route_web_socket("**/connection/websocket", close_soon)
        tabs = [await open_tab(context, origin) for _ in range(3)]
        for route in dialled:
            await route.close(code=3004, reason="full")
        for tab in tabs:
            await has_state(tab, "reconnecting")
            await tab.evaluate("luck = 0")
        await tabs[0].evaluate("live.retryNow()")
        # Its connection is closed again. It has woken the others, and they wake it, once.
        await eventually(lambda: len(dialled) >= 3 + 3)
        for _ in range(3):
            for tab in tabs:
                await has_state(tab, "reconnecting")
                await tab.evaluate("luck = 0")
        reasons = [(await tab.evaluate("reasons")).count("other-tab") for tab in tabs]
        assert max(reasons) == 1
        assert len(dialled) <= 3 + 1 + 3
