"""Presence on the console, and the connections of a user, which the staff may close."""

from __future__ import annotations

import json
import re

import pytest
from playwright.async_api import Page, Route

from tests.e2e.test_console import open_console
from tests.support.eventually import eventually
from tests.support.pages import HEBREW_NAME, Open, in_browser_loop
from tests.support.service import Service

pytestmark = [pytest.mark.browser, in_browser_loop]

OTHER = "service.2"
"""The ID of the user who is not a member of the staff."""


async def confirm(page: Page, button: str) -> None:
    await page.locator("#disconnect-dialog").get_by_role("button", name=button).click()


async def test_presence_is_shown_where_the_server_shows_it(open_page: Open) -> None:
    await open_page("/chat/console/", user=HEBREW_NAME)
    page = await open_console(open_page, "chat:console", "public:news")
    ask = page.get_by_role("button", name="Who is here: chat:console")
    person = page.locator(".channel[data-channel='chat:console'] .person-row")

    async def is_listed() -> bool:
        await ask.click()
        return await person.filter(has_text=OTHER).count() == 1

    await eventually(is_listed, 30)
    assert HEBREW_NAME in await person.filter(has_text=OTHER).inner_text()
    assert "2 connections of 2 users" in await page.inner_text(".channel-people:not(:empty)")
    await page.get_by_role("button", name="Who is here: public:news").click()
    refused = page.locator(".channel[data-channel='public:news'] .outcome-bad")
    await refused.wait_for(timeout=60_000)
    assert "does not show who is here" in await refused.inner_text()


async def test_a_user_is_disconnected_after_a_question(
    page_service: Service, open_page: Open
) -> None:
    before = page_service.log.count("disconnect user")
    other = await open_page("/", user=HEBREW_NAME)
    await other.wait_for_selector("#main[data-listening]")
    page = await open_console(open_page)
    await page.fill("#user-id", OTHER)
    await page.click("#user-disconnect")
    assert f"all connections of user {OTHER}" in await page.inner_text("#disconnect-words")
    await confirm(page, "Cancel")
    await page.click("#user-disconnect")
    await page.keyboard.press("Escape")
    assert page_service.log.count("disconnect user") == before
    await page.click("#user-disconnect")
    await confirm(page, "Disconnect")
    await other.wait_for_selector("#connection[data-state=closed]")
    assert f"{OTHER} is disconnected" in await page.inner_text("#user-result")
    line = f"staff member ada: disconnect user {OTHER}, connection all: sent"
    assert line in page_service.log


async def test_only_the_staff_disconnects_users(page_service: Service, open_page: Open) -> None:
    before = page_service.log.count("disconnect user")
    for user, status in (("", 403), (HEBREW_NAME, 403), ("ada", 400)):
        page = await open_page("/login/", user=user)
        token = await page.locator("[name=csrfmiddlewaretoken]").first.input_value()
        for name, expected in ((token, status), ("x" * 32, 403)):
            headers = {"X-CSRFToken": name, "Origin": page_service.http}
            form = {"user": "u" * 129}
            answer = await page.request.post("/console/disconnect", headers=headers, form=form)
            assert answer.status == expected, (user, await answer.text())
        answer = await page.request.get("/console/disconnect")
        assert answer.status == 405
    assert page_service.log.count("disconnect user") == before + 1, "the invalid one of the staff"


CONNECTION = {
    "client": "c0ffee",
    "user": OTHER,
    "node": "n1",
    "node_name": "machine",
    "transport": "websocket",
    "connected_at": 1764500000,
    "outbox_bytes": 0,
    "congested": True,
    "num_channels": 2,
}


async def test_connections_are_listed_if_the_api_has_the_method(open_page: Open) -> None:
    page = await open_console(open_page)
    if not await page.is_visible("#user-show"):
        await page.evaluate("document.getElementById('user-show').hidden = false")
    asked: list[str] = []

    async def answer(route: Route) -> None:
        asked.append(route.request.post_data or "")
        result = {"connections": [CONNECTION], "has_more": False, "silent_nodes": 1}
        await route.fulfill(status=200, body=json.dumps({"result": result}))

    await page.route("**/api/connections", answer)
    await page.fill("#user-id", OTHER)
    await page.click("#user-show")
    row = page.locator("#connections .person-row")
    await row.wait_for(timeout=60_000)
    words = await row.inner_text()
    assert re.search(r"c0ffee, websocket at machine, since [\d:]+, 2 channels, too slow", words)
    assert "1 node did not answer" in await page.inner_text("#user-result")
    assert asked == [json.dumps({"user": OTHER}, separators=(",", ":"))]
    await row.get_by_role("button").click()
    assert "the connection c0ffee of user" in await page.inner_text("#disconnect-words")


@pytest.mark.parametrize(("status", "reason"), [(404, "method_not_found"), (403, "forbidden")])
async def test_the_list_of_connections_disappears_if_it_is_not_permitted(
    open_page: Open, status: int, reason: str
) -> None:
    page = await open_console(open_page)
    await page.evaluate("document.getElementById('user-show').hidden = false")

    async def answer(route: Route) -> None:
        body = json.dumps({"error": {"reason": reason, "message": "no"}})
        await route.fulfill(status=status, body=body)

    await page.route("**/api/connections", answer)
    await page.fill("#user-id", OTHER)
    await page.click("#user-show")
    await page.locator("#user-error", has_text="list connections").wait_for(timeout=60_000)
    assert not await page.is_visible("#user-show")
    assert await page.is_visible("#user-disconnect")
    assert await page.evaluate("document.activeElement.id") == "user-disconnect"
