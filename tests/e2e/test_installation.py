"""The service as an installed app: manifest, icons, service worker, badges, and the footer."""

from __future__ import annotations

import asyncio
import shutil
import struct
from typing import Any

import httpx
import pytest
from playwright.async_api import Page

from notifier.installation import ICONS, WORKER
from realtime import __version__
from tests.support.icons import FOLDER
from tests.support.icons import ICONS as DRAWN
from tests.support.pages import PATHS, Open, becomes_true, in_browser_loop, launch_chromium
from tests.support.service import Service

WHOLE = shutil.which("chromium") or shutil.which("google-chrome")
"""A browser that shows notifications: Debian's headless shell denies them to every page."""
AWAY = """
window.badges = [];
window.away = false;
Object.defineProperty(document, "hidden", { get: () => window.away });
navigator.setAppBadge = async (count) => window.badges.push(count);
navigator.clearAppBadge = async () => window.badges.push(0);
window.leave = (isAway) => {
  window.away = isAway;
  document.dispatchEvent(new Event("visibilitychange"));
};
"""
"""Headless pages are never hidden, and no system has a badge for them."""
READY = "navigator.serviceWorker.ready.then((one) => new URL(one.scope).pathname)"
HOOKS = "Promise.all([import('/static/notifier/badge.js'), import('/static/notifier/install.js')])"


# --- the manifest and its icons ---


def test_the_icons_have_the_sizes_that_the_manifest_says(page_service: Service) -> None:
    answer = httpx.get(f"{page_service.http}/manifest.webmanifest", timeout=60)
    assert answer.headers["content-type"] == "application/manifest+json"
    icons = answer.json()["icons"]
    assert len(icons) == len(ICONS)
    for icon in icons:
        png = httpx.get(f"{page_service.http}{icon['src']}", timeout=60).raise_for_status().content
        assert png.startswith(b"\x89PNG")
        width, height = struct.unpack("!II", png[16:24])
        assert f"{width}x{height}" == icon["sizes"]
    for name, drawn in DRAWN.items():
        size = struct.unpack("!II", (FOLDER / name).read_bytes()[16:24])
        assert size == (drawn.pixels, drawn.pixels)


@pytest.mark.browser
@in_browser_loop
async def test_chromium_finds_no_mistake_in_the_manifest(open_page: Open) -> None:
    page = await open_page("/docs/")
    browser = await page.context.new_cdp_session(page)
    found = await browser.send("Page.getAppManifest")
    assert found["url"].endswith("/manifest.webmanifest")
    assert found["errors"] == []
    assert found["manifest"]["display"] == "kStandalone"
    # A context of a test is a private window, from which nothing can be installed.
    errors = (await browser.send("Page.getInstallabilityErrors"))["installabilityErrors"]
    assert {error["errorId"] for error in errors} <= {"in-incognito"}
    for path in PATHS:
        await page.goto(path)
        assert await page.locator("link[rel=manifest]").count() == 1


# --- the service worker ---


def test_the_worker_is_served_at_the_root_and_never_from_a_cache(page_service: Service) -> None:
    answer = httpx.get(f"{page_service.http}/service-worker.js", timeout=60)
    assert answer.content == WORKER.read_bytes()
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"] == "no-cache"
    assert "set-cookie" not in answer.headers


@pytest.mark.browser
@in_browser_loop
async def test_every_page_registers_the_worker_which_serves_no_page(open_page: Open) -> None:
    page = await open_page("/docs/")
    for path in ("/docs/", "/chat/", "/htmx/", "/login/"):
        complaints: list[str] = []
        page.on("pageerror", lambda error, found=complaints: found.append(str(error)))
        await page.goto(path)
        assert await page.evaluate(READY) == "/"
        assert complaints == []
    [worker] = page.context.service_workers
    # Without a handler for `fetch`, the browser asks the server for each page.
    assert "fetch" not in [line.strip() for line in WORKER.read_text().splitlines()]
    assert await worker.evaluate("caches.keys()") == []
    answer = await page.reload()
    assert answer
    assert not answer.from_service_worker


@pytest.mark.browser
@in_browser_loop
async def test_only_the_address_of_the_worker_becomes_a_script(open_page: Open) -> None:
    page = await open_page("/docs/")
    await page.evaluate(READY)
    for mistake in (
        "navigator.serviceWorker.register('/static/realtime/client.js')",
        "trustedTypes.createPolicy('service-worker', { createScriptURL: (text) => text })",
    ):
        tried = f"(async () => {mistake})().then(() => 'done', (error) => error.name)"
        assert await page.evaluate(tried) == "TypeError", mistake


RECORD_NOTIFICATIONS = """() => {
  window.shown = [];
  Object.defineProperty(Notification, "permission", { get: () => window.permission });
  ServiceWorkerRegistration.prototype.showNotification = async function (title, options) {
    window.shown.push([this.active.state, title, options.tag, options.data.path]);
  };
}"""


@pytest.mark.browser
@in_browser_loop
async def test_a_notification_is_shown_by_the_worker(open_page: Open) -> None:
    """By the page's own hook; the last step is recorded, since this browser denies it."""
    page = await open_page("/docs/")
    await page.evaluate(RECORD_NOTIFICATIONS)
    show = "async ([, { notify }]) => notify('Order 7 shipped', { tag: 'orders' })"
    for permission, is_shown in (("denied", False), ("granted", True)):
        await page.evaluate(f"window.permission = '{permission}'")
        assert await page.evaluate(f"{HOOKS}.then({show})") is is_shown
    assert await page.evaluate("shown") == [["activated", "Order 7 shipped", "orders", "/docs/"]]


@pytest.mark.browser
@in_browser_loop
async def test_an_event_that_comes_while_the_page_is_hidden_is_shown_by_the_worker(
    open_page: Open, page_service: Service
) -> None:
    page = await open_page("/")
    await page.wait_for_selector("#main[data-listening]")
    await page.evaluate(RECORD_NOTIFICATIONS)
    await page.evaluate(
        "window.permission = 'granted';"
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true })"
    )
    await asyncio.to_thread(page_service.publish, "public:news", {"title": "Order 7 shipped"})
    await becomes_true(page, "window.shown.length === 1")
    assert await page.evaluate("shown") == [["activated", "Order 7 shipped", "public:news", "/"]]


@pytest.mark.browser
@pytest.mark.skipif(not WHOLE, reason="needs the whole Chromium (Debian's package chromium)")
@in_browser_loop
async def test_chromium_shows_a_notification_of_the_worker(page_service: Service) -> None:
    async with launch_chromium(str(WHOLE)) as browser:
        context = await browser.new_context()
        await context.grant_permissions(["notifications"], origin=page_service.http)
        page = await context.new_page()
        await page.goto(f"{page_service.http}/docs/")
        show = "async ([, { notify }]) => notify('Order 7 shipped', { tag: 'orders' })"
        assert await page.evaluate(f"{HOOKS}.then({show})")
        shown = "navigator.serviceWorker.ready.then((one) => one.getNotifications())"
        titles = f"{shown}.then((all) => all.map(({{ title, tag }}) => [title, tag]))"
        assert await page.evaluate(titles) == [["Order 7 shipped", "orders"]]


CLICK = """async (path) => {
  self.done = [];
  WindowClient.prototype.focus = async function () { self.done.push(["focus", this.url]); };
  self.clients.openWindow = async (url) => { self.done.push(["open", url]); };
  const click = new ExtendableEvent("notificationclick");
  const waiting = [];
  const data = path === null ? null : { path };
  click.notification = { data, close: () => self.done.push(["close"]) };
  click.waitUntil = (promise) => waiting.push(promise);
  self.dispatchEvent(click);
  await Promise.all(waiting);
  return self.done;
}"""
"""A person's click lets a worker move a window, a test's does not: the last step is recorded."""


@pytest.mark.browser
@in_browser_loop
async def test_a_click_on_a_notification_brings_its_page_to_the_front(
    open_page: Open, page_service: Service
) -> None:
    page = await open_page("/docs/")
    await page.evaluate(READY)
    [worker] = page.context.service_workers
    site = page_service.http
    for path, done in (
        ("/docs/", [["focus", f"{site}/docs/"]]),
        ("/chat/tea/", [["open", f"{site}/chat/tea/"]]),
        (None, [["open", f"{site}/"]]),
        ("//evil.example/", []),
    ):
        assert await worker.evaluate(CLICK, path) == [["close"], *done], path


# --- badges ---

COLORS = """async (href) => {
  const image = Object.assign(new Image(), { src: href });
  await image.decode();
  const context = new OffscreenCanvas(64, 64).getContext("2d");
  context.drawImage(image, 0, 0, 64, 64);
  const color = (x, y) => [...context.getImageData(x, y, 1, 1).data].slice(0, 3).join();
  return [color(8, 32), color(46, 31)];
}"""
"""Returns the color of the background of an icon, and that below the number."""
BLUE, GRAY, RED = "42,79,208", "91,95,104", "176,36,27"


async def icon_of(page: Page) -> str:
    """Return the addresses of the icons of a page."""
    hrefs = "[...document.querySelectorAll('link[rel=icon]')].map((one) => one.href).join(' ')"
    return str(await page.evaluate(hrefs))


async def opened_away(open_page: Open, path: str) -> Page:
    page = await open_page(path)
    await page.add_init_script(AWAY)
    await page.goto(path)
    return page


async def show_unread(page: Page, count: int) -> None:
    await page.evaluate(f"{HOOKS}.then(([{{ showUnread }}]) => showUnread({count}))")


@pytest.mark.browser
@in_browser_loop
async def test_the_icon_of_a_hidden_page_has_the_number_of_what_is_new(open_page: Open) -> None:
    page = await opened_away(open_page, "/docs/")
    plain = await icon_of(page)
    assert plain.count(".svg") == plain.count(".ico") == 1
    await show_unread(page, 3)
    assert await icon_of(page) == plain, "the reader sees the page itself"
    await page.evaluate("leave(true)")
    drawn = await icon_of(page)
    assert drawn.startswith("data:image/png;base64,")
    assert " " not in drawn
    images = {}
    for count in (1, 7, 42, 100, 1_000):
        await show_unread(page, count)
        images[count] = await icon_of(page)
        background, corner = await page.evaluate(COLORS, images[count])
        assert (background, corner) == (BLUE, RED), count
    assert len(set(images.values())) == 4, "99+ stands for all that are larger"
    assert (await page.evaluate("badges.at(-1)")) == 1_000
    await page.evaluate("leave(false)")
    assert await icon_of(page) == plain
    assert (await page.evaluate("badges.at(-1)")) == 0


@pytest.mark.browser
@in_browser_loop
async def test_the_icon_of_a_hidden_page_shows_that_it_is_not_live(open_page: Open) -> None:
    page = await opened_away(open_page, "/chat/icon/")
    await page.wait_for_selector("#connection[data-state=live]")
    plain = await icon_of(page)
    await page.evaluate("leave(true)")
    assert await icon_of(page) == plain
    state = "document.getElementById('connection').dataset.state"
    await page.context.set_offline(True)
    await page.evaluate("dispatchEvent(new Event('offline'))")
    await becomes_true(page, f"{state} !== 'live'")
    await becomes_true(page, "document.querySelector('link[rel=icon]').href.startsWith('data:')")
    assert (await page.evaluate(COLORS, await icon_of(page)))[0] == GRAY
    await page.context.set_offline(False)
    await becomes_true(page, f"{state} === 'live'", seconds=30)
    await becomes_true(page, "!document.querySelector('link[rel=icon]').href.startsWith('data:')")
    assert await icon_of(page) == plain


@pytest.mark.browser
@in_browser_loop
async def test_a_page_in_the_background_counts_on_its_icon(
    page_service: Service, open_page: Open
) -> None:
    page = await opened_away(open_page, "/chat/counting/")
    await page.wait_for_selector("#main[data-listening]")
    await page.evaluate("leave(true)")
    await asyncio.to_thread(page_service.publish, "chat:counting", {"text": "Hello"})
    await becomes_true(page, "badges.at(-1) === 1")
    assert (await page.evaluate(COLORS, await icon_of(page))) == [BLUE, RED]


# --- the footer ---


@pytest.mark.browser
@in_browser_loop
async def test_every_page_has_a_footer_with_the_version_and_links(open_page: Open) -> None:
    page: Any = await open_page(user="ada", viewport={"width": 1280, "height": 900})
    for path in PATHS:
        await page.goto(path)
        footer = page.locator("footer.bottom")
        assert await footer.is_visible(), path
        assert __version__ in await footer.inner_text()
        box = await footer.bounding_box()
        height = await page.evaluate("document.documentElement.scrollHeight")
        assert box["y"] + box["height"] + await page.evaluate("scrollY") >= min(height, 900) - 1
    for link in await page.locator("footer a").all():
        answer = await page.request.get(await link.get_attribute("href"))
        assert answer.ok


@pytest.mark.browser
@in_browser_loop
async def test_the_footer_leaves_the_chat_of_a_phone_its_room(open_page: Open) -> None:
    page = await open_page("/chat/", viewport={"width": 390, "height": 844})
    assert await page.locator("footer.bottom").is_hidden()
    box = await page.locator("#composer-text").bounding_box()
    assert box
    assert box["y"] + box["height"] > 844 - 120
