"""Faults that the pages have had, in Chromium. Each test is named after the fault it looks for.

All visitors share one service and its database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.support.database import migrate
from tests.support.pages import ADA, PATHS, PHONE, SERVICE, Pages, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = [pytest.mark.browser, in_browser_loop]

Open = Callable[..., Awaitable[Page]]
CONTROLS = {"button", "checkbox", "combobox", "link", "radio", "textbox"}


@pytest.fixture(scope="module")
def service(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("pages")
    url = migrate(f"sqlite:///{folder}/db.sqlite3", then=ADA)
    service = Service(redis.url, **SERVICE, DATABASE_URL=url).start()
    yield service
    service.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def visit(service: Service, chromium: Browser) -> AsyncIterator[Open]:
    """Open a page in a browser of its own, as a guest or as a user."""
    async with own_contexts(chromium) as browser:
        yield Pages(browser, service).open


async def controls_without_a_name(page: Page) -> list[str]:
    """Return the roles of the controls for which a screen reader has no name."""
    session = await page.context.new_cdp_session(page)
    nodes: list[dict[str, Any]] = (await session.send("Accessibility.getFullAXTree"))["nodes"]
    found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in CONTROLS]
    assert len(found) > 2, "the page has controls"
    return [node["role"]["value"] for node in found if not node["name"]["value"].strip()]


@pytest.mark.parametrize("context", [PHONE, {}], ids=["phone", "desktop"])
@pytest.mark.parametrize("user", ["", "ada"], ids=["guest", "user"])
async def test_a_control_that_is_shown_as_an_icon_has_no_name(
    visit: Open, user: str, context: dict[str, Any]
) -> None:
    """Phones hid the words "Notifier" and "Log in" from screen readers, too (`display: none`)."""
    page = await visit(user=user, **context)
    found = {}
    for path in PATHS:
        await page.goto(path)
        found[path] = await controls_without_a_name(page)
    assert found == {path: [] for path in PATHS}
