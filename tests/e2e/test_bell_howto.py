"""Follows docs/howto/notification-center.md to the letter, in a foreign project with a browser."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.e2e.test_howtos import RUNSERVER, live_project, text_of
from tests.support.eventually import eventually
from tests.support.host import Host, files_of
from tests.support.losing import publish_while_cut
from tests.support.pages import becomes_true, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer

PAGE = "notification-center"
MOST_LINES = 60
LOG_IN = """
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.create_superuser("ada"))
print(client.cookies["sessionid"].value)
"""
SHELL = ("manage.py", "shell", "--no-imports", "-v", "0", "-c")
NOTIFY = """
from django.contrib.auth.models import User
from inbox.models import Notification
Notification.objects.create(user=User.objects.get(), title="From a shell", address="/inbox/")
"""
SILENTLY = """
from django.contrib.auth.models import User
from inbox.models import Notification
ada = User.objects.get()
Notification.objects.bulk_create(Notification(user=ada, title=f"Missed {n}") for n in range(3))
"""
BELL = "document.querySelector('realtime-bell')"


@pytest.fixture
def host(redis: RedisServer, tmp_path: Path) -> Host:
    host = live_project(redis, tmp_path, PAGE)
    host.run("manage.py", "makemigrations", "inbox")
    host.run("manage.py", "migrate")
    return host


def test_it_is_as_short_as_it_says() -> None:
    text = text_of(PAGE)
    lines = [line for file in files_of(text) for line in file.text.splitlines() if line.strip()]
    assert f"fewer than {MOST_LINES} lines" in text
    assert len(lines) < MOST_LINES


@pytest.mark.browser
@in_browser_loop
async def test_a_notification_center_shows_the_truth_of_the_database(
    host: Host, redis: RedisServer, tmp_path: Path, chromium: Browser
) -> None:
    cookie = (await asyncio.to_thread(host.run, *SHELL, LOG_IN)).split()[-1]
    with host.served(tmp_path / "log", *RUNSERVER) as url:
        async with own_contexts(chromium) as browser:
            context = await browser.new_context()
            await context.add_cookies([{"name": "sessionid", "value": cookie, "url": url}])
            page, other = [await context.new_page() for _ in range(2)]
            statuses: list[int] = []
            page.on(
                "response",
                lambda answer: (
                    statuses.append(answer.status)
                    if answer.url.endswith("/notifications/")
                    else None
                ),
            )
            for each in (page, other):
                await each.goto(f"{url}/inbox/")
                await each.locator("realtime-bell button.button:not(.off)").wait_for(timeout=60_000)
            await eventually(lambda: 304 in statuses, seconds=60)
            await page.get_by_role("button", name="Notify me").click()
            await other.locator(".toast", has_text="It works").wait_for(timeout=60_000)
            await becomes_true(other, f"{BELL}.unread === 1")
            await becomes_true(page, f"{BELL}?.unread === 1")

            await asyncio.to_thread(host.run, *SHELL, NOTIFY)
            await becomes_true(other, f"{BELL}.unread === 2")
            await asyncio.to_thread(host.run, *SHELL, SILENTLY)
            await asyncio.to_thread(publish_while_cut, redis, "user:#1", 3)
            await becomes_true(other, f"{BELL}.unread === 5", seconds=60)
            await other.locator("button.button").click()
            await other.locator(".gap", has_text="3 notifications missed").wait_for(timeout=60_000)
            assert (await other.locator("li a").all_inner_texts())[:4] == [
                *("Missed 2", "Missed 1", "Missed 0", "From a shell")
            ]

            await other.get_by_role("button", name="Mark all as read").click()
            await becomes_true(page, f"{BELL}?.unread === 0", seconds=60)
            await becomes_true(other, f"{BELL}?.unread === 0", seconds=60)
