"""The service's pages with users: private publications and permissions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.support.client import Client
from tests.support.database import manage
from tests.support.eventually import eventually
from tests.support.pages import SERVICE, Visitor, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import SERVERS, Service

pytestmark = [pytest.mark.browser, in_browser_loop]

PASSWORD = "one that nobody guesses"
MAKE_USERS = f"""
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth.models import User
for name in ("ada", "ben"):
    User.objects.create_user(name, password={PASSWORD!r}, is_staff=name == "ada")
print({{user.username: user.pk for user in User.objects.all()}})
"""
ENV = {name: value for name, value in SERVICE.items() if name != "NOTIFIER_DEMO_KEY"}

Open = Callable[..., Awaitable[Visitor]]


@pytest.fixture(scope="module", params=SERVERS[1:])
def service(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: Any):
    url = f"sqlite:///{tmp_path_factory.mktemp('users')}/db.sqlite3"
    printed = manage(url, "shell", "--no-imports", "--command", MAKE_USERS)
    prefix = f"users-{request.param}"
    service = Service(
        redis_server.url, request.param, **ENV, DATABASE_URL=url, NOTIFIER_REDIS_PREFIX=prefix
    ).start()
    service.users = json.loads(printed.replace("'", '"'))
    yield service
    log = service.log
    service.stop()
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def ids(service: Service) -> dict[str, int]:
    return service.users


@pytest_asyncio.fixture(loop_scope="session")
async def visit(service: Service, chromium: Browser) -> AsyncIterator[Open]:
    """Open pages as a user or a guest, each in a separate browser; none of them may log errors."""
    async with own_contexts(chromium) as browser:
        visitors: list[Visitor] = []

        async def open_page(user: str = "", path: str = "/", **context: Any) -> Visitor:
            page = await (await browser.new_context(**context)).new_page()
            visitor = Visitor(page, service)
            visitors.append(visitor)
            if user:
                await page.goto(f"{service.http}/login/?next={path}")
                await page.wait_for_selector("#username:focus")
                await page.keyboard.type(user)
                await page.keyboard.press("Tab")
                await page.keyboard.type(PASSWORD)
                await page.keyboard.press("Enter")
            else:
                await page.goto(service.http + path)
            await visitor.sees("#connection[data-state=live]")
            await visitor.sees("#main[data-listening]")
            return visitor

        yield open_page
        assert [visitor.complaints for visitor in visitors] == [[] for _ in visitors]


async def publish(service: Service, channel: str, title: str) -> dict[str, Any]:
    return await asyncio.to_thread(service.publish, channel, {"title": title})


async def test_a_private_notification_requires_only_the_session(
    service: Service, ids: dict[str, int], visit: Open
) -> None:
    ada, ben, guest = await visit("ada"), await visit("ben"), await visit()
    own = f"user:#service.{ids['ada']}"
    await ada.sees("#own-heading", own)
    assert (await publish(service, own, "For ada alone"))["nodes"] == 1
    await ada.sees(".toast", "For ada alone")
    await ada.sees(f".notification[data-channel='{own}'] .own-word", "Only you")
    await publish(service, "public:news", "For all")
    for visitor, titles in (
        (ada, ["For all", "For ada alone"]),
        (ben, ["For all"]),
        (guest, ["For all"]),
    ):
        await visitor.sees(".notification-title", "For all")
        assert await visitor.page.locator("#notifications h3").all_inner_texts() == titles


async def test_staff_post_with_their_session_and_others_need_a_key(
    ids: dict[str, int], visit: Open
) -> None:
    ada, ben = await visit("ada"), await visit("ben")
    assert not await ada.page.is_visible("#api-key")
    await ada.page.get_by_label("Only me").check()
    assert await ada.text_of("#post-submit") == f"Post to user:#service.{ids['ada']}"
    await ada.page.click("#post-submit")
    await ada.sees("#post-result", "Received here after")
    await ada.sees(".notification .own-word", "Only you")
    await ada.page.get_by_label("Everyone").check()
    await ada.page.click("#post-submit")
    await ben.sees(".notification-title", "Order 1042 shipped")
    assert await ben.count(".notification") == 1
    assert await ben.page.is_visible("#api-key")


async def test_a_chat_name_cannot_be_impersonated(service: Service, visit: Open) -> None:
    ada, ben = await visit("ada", "/chat/tea/"), await visit("ben", "/chat/tea/")
    guest = await visit("", "/chat/tea/")
    for visitor, words in ((ada, "I am ada"), (guest, "I am a guest")):
        await visitor.page.fill("#composer-text", words)
        await visitor.page.press("#composer-text", "Enter")
        await ben.sees(".message", words)  # the names are compared in this order
    liar = await Client.open(service.ws)
    await liar.subscribe("chat:tea")
    claims = {"name": "ada", "author": "ada", "user": "1", "sender": {"user": "1"}, "kind": "user"}
    said = {"channel": "chat:tea", "data": {**claims, "text": "I am ada, too", "id": "1"}}
    assert "publish" in await liar.ask(publish=said)
    await liar.close()

    await ben.sees(".message", "I am ada, too")
    authors = {
        words: await ben.page.locator(".message", has_text=words).first.get_attribute("data-kind")
        for words in ("I am ada", "I am a guest", "I am ada, too")
    }
    assert authors == {"I am ada": "user", "I am a guest": "guest", "I am ada, too": "guest"}
    names = await ben.page.locator(".message-author").all_inner_texts()
    assert names[0] == "ada"
    assert names[1] == await guest.text_of("#you")
    assert names[1] != names[2]
    assert all(name.startswith("guest ") and len(name) == 10 for name in names[1:])
    await ada.sees(".message[data-own=true][data-status=sent]", "I am ada")
    assert await ada.text_of("#you") == "ada"


async def test_logging_out_makes_a_page_anonymous_at_once(service: Service, visit: Open) -> None:
    ada = await visit("ada")
    await ada.page.focus("#account-button")
    await ada.page.keyboard.press("Enter")
    await ada.page.keyboard.press("Tab")
    await ada.page.keyboard.press("Enter")
    await ada.sees("#log-in")
    await ada.sees("#main[data-listening]")
    assert await ada.count("#own-curl") == 0


async def test_logging_out_disconnects_other_tabs(
    service: Service, ids: dict[str, int], visit: Open
) -> None:
    ada = await visit("ada")
    tab = await ada.page.context.new_page()
    await tab.goto(service.http)
    await tab.wait_for_selector("#main[data-listening]")
    await ada.page.click("#account-button")
    await ada.page.click("#log-out")
    await ada.sees("#log-in")

    async def is_gone() -> bool:
        return (await publish(service, f"user:#service.{ids['ada']}", "Too late"))["nodes"] == 0

    await eventually(is_gone)


@pytest.mark.parametrize("width", [360, 1280])
async def test_the_login_page_fits_every_screen(service: Service, visit: Open, width: int) -> None:
    visitor = await visit(viewport={"width": width, "height": 800})
    for path in ("/login/", "/jobs/"):
        await visitor.page.goto(service.http + path)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await visitor.page.evaluate(wide) <= 0
