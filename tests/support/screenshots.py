"""``python -m tests.support.screenshots [FOLDER]``: make the pictures of the pages in the docs.

A real service and a real Chromium, with real publications and a real gap. Each page is drawn light
and dark.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from playwright.async_api import Page

from tests.support.database import migrate
from tests.support.losing import publish_while_cut
from tests.support.pages import PATIENCE, SERVICE, Pages, becomes_true, launch_chromium
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT, Service

USERS = """
from django.contrib.auth.models import User
from tests.support.pages import PASSWORD
User.objects.create_user("ada", password=PASSWORD, is_staff=True)
"""
SIZE = {"width": 1280, "height": 800}
TALL = {"width": 1280, "height": 1180}
"""For pages whose point is further down."""
SCHEMES = ("light", "dark")
PORT = 8000
"""That of `make run`, for the commands on the pages; it must be free."""
BEFORE = (
    ("order.shipped", "Order 1041 shipped", "It left the warehouse.", "success"),
    ("backup.done", "Backup finished", "14,302 files in 4 minutes.", "info"),
)
AFTER = (
    ("disk.full", "Disk is 91 % full", "On db-2. It will last for about six days.", "warning"),
    ("payment.failed", "Payment failed", "Order 1043: the bank declined it.", "error"),
)


class Scene:
    """The service and the people of the pictures."""

    def __init__(self, redis: RedisServer, service: Service, pages: Pages) -> None:
        self.redis = redis
        self.service = service
        self.pages = pages

    async def open(self, path: str, user: str, scheme: str) -> Page:
        """Open a page in the color scheme of a picture, and wait until it listens."""
        page = await self.pages.open(
            path, user=user, viewport=SIZE, color_scheme=scheme, reduced_motion="reduce"
        )
        await page.wait_for_selector("#connection[data-state=live]", timeout=PATIENCE * 10_000)
        return page

    async def publish(self, events: tuple[tuple[str, str, str, str], ...]) -> None:
        """Publish notifications to all."""
        for event, title, text, level in events:
            data = {"title": title, "text": text, "level": level}
            await asyncio.to_thread(self.service.publish, "public:news", data, event=event)

    async def lose_three(self) -> None:
        """Publish three times while nobody is subscribed, which is one gap."""
        await asyncio.to_thread(publish_while_cut, self.redis, "public:news", 3)


async def live(scene: Scene, scheme: str) -> Page:
    """The front page, with a gap between notifications."""
    page = await scene.open("/", "", scheme)
    await page.set_viewport_size(TALL)
    await page.wait_for_selector("#main[data-listening]")
    await scene.publish(BEFORE)
    await page.get_by_text(BEFORE[-1][1]).first.wait_for()
    await scene.lose_three()
    await page.get_by_text("3 missed").first.wait_for(timeout=PATIENCE * 10_000)
    await scene.publish(AFTER)
    await page.get_by_text(AFTER[-1][1]).first.wait_for()
    await becomes_true(page, "!document.querySelector('.toast')")
    return page


async def console(scene: Scene, scheme: str) -> Page:
    """The console, with publications and a gap."""
    page = await scene.open("/console/", "ada", scheme)
    await page.set_viewport_size(TALL)
    await page.wait_for_selector("#main[data-listening]")
    await page.fill("#channel-name", "public:news")
    await page.press("#channel-name", "Enter")
    await page.wait_for_selector(".channel[data-channel='public:news'][data-state=subscribed]")
    await scene.publish(BEFORE)
    await page.wait_for_selector(".frame[data-kind=publication]")
    await scene.lose_three()
    await page.wait_for_selector(".frame-gap", timeout=PATIENCE * 10_000)
    await scene.publish(AFTER)
    await becomes_true(
        page, "document.querySelectorAll('.frame[data-kind=publication]').length > 3"
    )
    return page


async def monitor(scene: Scene, scheme: str) -> Page:
    """The monitor, after a minute of publications."""
    page = await scene.open("/monitor/", "ada", scheme)
    await page.set_viewport_size(TALL)
    async with asyncio.timeout(PATIENCE * 60):
        while not await page.evaluate("document.querySelectorAll('#plots svg path').length > 3"):
            await scene.publish(BEFORE)
    return page


PICTURES: dict[str, Callable[[Scene, str], Awaitable[Page]]] = {
    "live": live,
    "console": console,
    "monitor": monitor,
}
"""By the name in the file, `screenshot-NAME-SCHEME.png`."""


async def make(
    folder: Path,
    names: tuple[str, ...] = tuple(PICTURES),
    schemes: tuple[str, ...] = SCHEMES,
    port: int = 0,
) -> None:
    """Draw these pages into files of a folder.

    Args:
        folder: For the files.
        names: Of the pages.
        schemes: For each page a file.
        port: Of the service, which the pages show; 0 is any.
    """
    redis = RedisServer().start()
    database = Path(tempfile.mkdtemp(prefix="rt-pictures-"))
    url = migrate(f"sqlite:///{database}/db.sqlite3", then=USERS)
    service = Service(redis.url, port=port, **SERVICE, DATABASE_URL=url)
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium") or "chromium"
    try:
        service.start()
        async with launch_chromium(chromium) as browser:
            scene = Scene(redis, service, Pages(browser, service))
            for name in names:
                for scheme in schemes:
                    page = await PICTURES[name](scene, scheme)
                    await page.mouse.move(0, 0)
                    await page.evaluate("document.activeElement.blur()")
                    await page.screenshot(path=folder / f"screenshot-{name}-{scheme}.png")
                    for context in browser.contexts:
                        await context.close()
                    print(f"screenshot-{name}-{scheme}.png")
    finally:
        service.stop()
        redis.stop()
        shutil.rmtree(database)


def main() -> None:
    """Make the pictures of the docs, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.screenshots")
    parser.add_argument("names", nargs="*", choices=[[], *PICTURES], help="all, unless named")
    parser.add_argument("--into", type=Path, default=ROOT / "docs", help="default: docs")
    options = parser.parse_args()
    asyncio.run(make(options.into, tuple(options.names) or tuple(PICTURES), port=PORT))


if __name__ == "__main__":
    main()
