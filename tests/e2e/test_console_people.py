"""Presence on the console, and the connections of a user, which the staff may close."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import parse_qs

import pytest
from playwright.async_api import Page, Route

from tests.e2e.test_console import CHANNEL, PUBLICATION, open_console
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
    # The connection may end before the page has its answer.
    await page.locator("#user-result", has_text=f"{OTHER} is disconnected").wait_for()
    line = f"staff member ada: disconnect user {OTHER}, connection all: sent"
    assert line in page_service.log


async def test_only_the_staff_lists_and_disconnects_users(
    page_service: Service, open_page: Open
) -> None:
    before = page_service.log.count("disconnect user")
    for user, status in (("", 403), (HEBREW_NAME, 403), ("ada", 400)):
        page = await open_page("/login/", user=user)
        token = await page.locator("[name=csrfmiddlewaretoken]").first.input_value()
        for name, expected in ((token, status), ("x" * 32, 403)):
            headers = {"X-CSRFToken": name, "Origin": page_service.http}
            form = {"user": "u" * 129}
            answer = await page.request.post("/console/disconnect", headers=headers, form=form)
            assert answer.status == expected, (user, await answer.text())
            listed = await page.request.post(
                "/console/connections", headers=headers, form={"user": OTHER}
            )
            allowed = 200 if name == token and user == "ada" else 403
            assert listed.status == allowed, (user, await listed.text())
        for view in ("disconnect", "connections"):
            answer = await page.request.get(f"/console/{view}")
            assert answer.status == 405
    assert page_service.log.count("disconnect user") == before + 1, "the invalid one of the staff"


async def show_connections(page: Page, user: str) -> None:
    await page.fill("#user-id", user)
    await page.click("#user-show")
    await page.locator("#user-result", has_text="connection").wait_for(timeout=60_000)


async def test_the_connections_of_a_user_are_listed_and_closed_one_by_one(
    page_service: Service, open_page: Open
) -> None:
    others = [await open_page("/chat/listed/", user=HEBREW_NAME) for _ in range(2)]
    for other in others:
        await other.wait_for_selector("#main[data-listening]")
    page = await open_console(open_page)
    await show_connections(page, OTHER)
    rows = page.locator("#connections .person-row")
    assert await rows.count() == 2
    words = await rows.first.inner_text()
    assert re.search(r"websocket at .+, since [\d:]+, [1-9]\d* channels", words), words
    client = await rows.first.get_attribute("data-client")
    await rows.first.get_by_role("button").click()
    assert f"the connection {client} of user" in await page.inner_text("#disconnect-words")
    await confirm(page, "Disconnect")
    closed = [
        asyncio.ensure_future(other.wait_for_selector("#connection[data-state=closed]"))
        for other in others
    ]
    await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED)

    async def is_alone() -> bool:
        await show_connections(page, OTHER)
        return await rows.count() == 1

    await eventually(is_alone, 30)
    assert sum(each.done() for each in closed) == 1, "the other connection is still open"
    for each in closed:
        each.cancel()
    await asyncio.gather(*closed, return_exceptions=True)


CONNECTION = {
    "user": OTHER,
    "node": "n1",
    "node_name": "machine",
    "transport": "websocket",
    "connected_at": 1764500000,
    "outbox_bytes": 0,
    "is_congested": True,
    "num_channels": 1,
    "channels": ["public:shown"],
}


async def answer_with(page: Page, pages: dict[str, dict[str, Any]]) -> None:
    """Answer the questions of the page for connections, by the `after` of each."""

    async def answer(route: Route) -> None:
        form = parse_qs(route.request.post_data or "")
        body = pages[form.get("after", [""])[0]]
        await route.fulfill(status=body.get("status", 200), body=json.dumps(body))

    await page.route("**/console/connections", answer)


def page_of(*clients: str, more: bool = False, silent: int = 0) -> dict[str, Any]:
    connections = [{**CONNECTION, "client": client} for client in clients]
    return {"connections": connections, "has_more": more, "silent_nodes": silent}


async def test_a_long_list_of_connections_is_continued(open_page: Open) -> None:
    page = await open_console(open_page)
    await answer_with(page, {"": page_of("a", "b", more=True), "b": page_of("c", silent=2)})
    await show_connections(page, OTHER)
    assert "2 connections, and more." in await page.inner_text("#user-result")
    assert "1 channel, too slow" in await page.inner_text("#connections")
    await page.get_by_role("button", name="Show more").click()
    await page.locator("#user-result", has_text="3 connections.").wait_for(timeout=60_000)
    assert "2 nodes did not answer in time" in await page.inner_text("#user-result")
    assert await page.evaluate("document.activeElement.dataset.client") == "c"
    assert await page.get_by_role("button", name="Show more").count() == 0


async def test_without_an_answer_the_reason_is_shown(open_page: Open) -> None:
    page = await open_console(open_page)
    refusal = {"status": 503, "error": {"message": "Redis is unreachable"}}
    await answer_with(page, {"": refusal})
    await page.fill("#user-id", OTHER)
    for button in ("#user-show", "#user-follow"):
        await page.click(button)
    await page.locator("#user-error", has_text="Redis is unreachable").wait_for(timeout=60_000)
    await page.locator("#follow-state", has_text="Redis is unreachable").wait_for(timeout=60_000)


async def test_a_user_is_followed_from_channel_to_channel(
    page_service: Service, open_page: Open
) -> None:
    """The page hears what the user hears, without the channels that are closed to the staff."""
    other = await open_page("/chat/followed/", user=HEBREW_NAME)
    await other.wait_for_selector("#main[data-listening]")
    page = await open_console(open_page, "public:own")
    await page.fill("#user-id", OTHER)
    await page.click("#user-follow")
    await page.wait_for_selector(CHANNEL.format("chat:followed", "subscribed"))
    personal = page.locator(CHANNEL.format(f"user:#{OTHER}", "refused"))
    await personal.wait_for(timeout=60_000)
    await asyncio.to_thread(page_service.publish, "public:own", "of the staff")
    await asyncio.to_thread(page_service.publish, "chat:followed", "of the user")
    await page.wait_for_selector(PUBLICATION.format("chat:followed"))
    assert await page.locator(PUBLICATION.format("public:own")).count() == 0, "filtered out"
    # The user goes to another room.
    await other.goto("/chat/followed-on/")
    await page.wait_for_selector(CHANNEL.format("chat:followed-on", "subscribed"), timeout=60_000)
    await page.wait_for_selector(".channel[data-channel='chat:followed']", state="detached")
    await page.click("#user-follow")
    await page.wait_for_selector(".channel[data-channel='chat:followed-on']", state="detached")
    assert await page.locator(CHANNEL.format("public:own", "subscribed")).count() == 1
    assert await page.input_value("#filter-channel") == ""
    await page.wait_for_selector(PUBLICATION.format("public:own"))
