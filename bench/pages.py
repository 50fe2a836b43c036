"""Measure the pages in a browser: how fast they are live, how smooth, and what Lighthouse says.

python -m bench.pages [--lighthouse PROGRAM]

Needs Chromium. The service runs as in production, and each page is opened in a new, empty browser
context. Lighthouse comes from npm (`npm install lighthouse`); its program is below
`node_modules/.bin`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Browser, Page, async_playwright

from tests.support.database import migrate
from tests.support.pages import USERS, Pages
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, KEY, Service

CHANNEL = "public:news"
LOADS = 15
PER_SECOND = 2_000
FEED_SECONDS = 15.0
BATCHES_PER_SECOND = 50
PAGES = ("/", "/chat/", "/jobs/", "/htmx/", "/docs/", "/docs/guides/client/", "/login/")
STAFF_PAGES = ("/monitor/", "/console/")
CATEGORIES = ("performance", "accessibility", "best-practices")
NOTE_LIVE = """
new MutationObserver(() => {
  if (!window.liveAt && document.querySelector("#connection[data-state=live]")) {
    window.liveAt = performance.now();
  }
}).observe(document, { subtree: true, childList: true, attributeFilter: ["data-state"] });
"""
"""Milliseconds from the navigation to the moment when the page says that it is live."""
NOTE_FRAMES = """
let before = performance.now();
const note = (now) => {
  window.frameTimes.push(now - before);
  before = now;
  requestAnimationFrame(note);
};
window.frameTimes = [];
requestAnimationFrame(note);
"""


async def measure_live(browser: Browser, url: str) -> list[float]:
    """Return how long each load of the first page took to be live, in milliseconds."""
    found = []
    for _ in range(LOADS):
        context = await browser.new_context()
        page = await context.new_page()
        await page.add_init_script(NOTE_LIVE)
        await page.goto(url)
        await page.wait_for_selector("#connection[data-state=live]")
        found.append(await page.evaluate("window.liveAt"))
        await context.close()
    return found


async def publish_steadily(url: str, until: float) -> int:
    """Publish the events of a busy site, in batches; return how many."""
    many = PER_SECOND // BATCHES_PER_SECOND
    levels = ("info", "success", "warning", "error")
    sent = 0
    async with httpx.AsyncClient(headers=KEY, timeout=10) as http:
        due = time.monotonic()
        while due < until:
            commands = [
                {
                    "publish": {
                        "channel": CHANNEL,
                        "data": {
                            "title": f"Order {number} shipped",
                            "text": f"It is number {number} of many.",
                            "level": levels[number % 4],
                        },
                    }
                }
                for number in range(sent, sent + many)
            ]
            answer = await http.post(f"{url}/api/batch", json={"commands": commands})
            answer.raise_for_status()
            sent += many
            due += 1 / BATCHES_PER_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    return sent


async def measure_frames(page: Page, url: str) -> tuple[list[float], float]:
    """Return the times between frames in milliseconds, and the publications a second."""
    await page.goto(url)
    await page.wait_for_selector("#connection[data-state=live]")
    began = time.monotonic()
    publishing = asyncio.create_task(publish_steadily(url, began + FEED_SECONDS))
    await asyncio.sleep(2)  # the list is full
    await page.evaluate(NOTE_FRAMES)
    sent = await publishing
    return await page.evaluate("window.frameTimes"), sent / (time.monotonic() - began)


def run_lighthouse(program: str, chromium: str, url: str, profile: str) -> dict[str, int]:
    """Return the scores of a page, from 0 to 100, with the cookies of a browser profile."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            *(program, url, "--quiet", "--output=json", f"--output-path={report}"),
            f"--only-categories={','.join(CATEGORIES)}",
            "--preset=desktop",
            f"--chrome-flags=--headless --no-sandbox --user-data-dir={profile}",
            "--disable-storage-reset",
        ]
        environ = {**os.environ, "CHROME_PATH": chromium}
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
        categories = json.loads(report.read_text(encoding="utf-8"))["categories"]
    return {name: round(100 * categories[name]["score"]) for name in CATEGORIES}


async def measure(service: Service, chromium: str, lighthouse: str) -> None:
    """Take all measurements, and print them."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        loads = await measure_live(browser, service.http)
        median, worst = statistics.median(loads), max(loads)
        print(f"/ is live after {median:.0f} ms, {worst:.0f} at most ({LOADS} loads)", flush=True)
        frames, rate = await measure_frames(await browser.new_page(), service.http)
        median, worst = statistics.median(frames), max(frames)
        p99 = statistics.quantiles(frames, n=100)[98]
        print(f"at {rate:.0f} events a second, a frame takes", end=" ")
        print(f"{median:.1f} ms, p99 {p99:.0f}, at most {worst:.0f}", flush=True)
        staff = await Pages(browser, service).open("/", user="ada")
        cookies: Any = await staff.context.cookies()
        await browser.close()
        if not lighthouse:
            return
        for path in (*PAGES, *STAFF_PAGES):
            with tempfile.TemporaryDirectory() as profile:
                if path in STAFF_PAGES:
                    await keep_cookies(playwright, chromium, profile, cookies)
                scores = await asyncio.to_thread(
                    run_lighthouse, lighthouse, chromium, service.http + path, profile
                )
            print(f"{path:24} {scores}", flush=True)


async def keep_cookies(playwright: Any, chromium: str, profile: str, cookies: Any) -> None:
    """Write cookies into a browser profile."""
    context = await playwright.chromium.launch_persistent_context(
        profile, executable_path=chromium, args=["--no-sandbox"]
    )
    await context.add_cookies([{**each, "expires": time.time() + 3600} for each in cookies])
    await context.close()


def main() -> None:
    """Start a service, and measure its pages."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("--lighthouse", default="", help="the program; not run by default")
    options = parser.parse_args()
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if chromium is None:
        parser.error("Chromium is not installed")
    redis = RedisServer()
    redis.start()
    with tempfile.TemporaryDirectory() as folder:
        url = migrate(f"sqlite:///{folder}/db.sqlite3", then=USERS)
        service = Service(redis.url, DEPLOYED, DATABASE_URL=url, HTTPS="0")
        try:
            service.start()
            asyncio.run(measure(service, chromium, options.lighthouse))
        finally:
            service.stop()
            redis.stop()


if __name__ == "__main__":
    main()
