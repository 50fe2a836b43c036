"""What people choose for the pages, in a real Chromium: kept in the account, or in the browser."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from playwright.async_api import Page, Route

from tests.support.axe import violations
from tests.support.eventually import eventually
from tests.support.pages import PASSWORD, Open, becomes_true, in_browser_loop
from tests.support.service import Service

pytestmark = pytest.mark.browser
DARK = "getComputedStyle(document.body).backgroundColor === 'rgb(18, 19, 22)'"
FLASHES = """
new PerformanceObserver((list) => { window.drawn = list.getEntries().length; })
  .observe({ type: "paint", buffered: true });
document.addEventListener("DOMContentLoaded", () => {
  window.themeWhenParsed = document.documentElement.dataset.theme;
});
"""


async def opened(open_page: Open, user: str = "") -> Page:
    page = await open_page("/", user=user)
    await page.wait_for_selector("#main[data-listening]")
    await page.click("#preferences-open")
    return page


def log_in(client: httpx.Client) -> dict[str, str]:
    """Log in, and return the headers of a request that keeps choices."""
    client.get("/login/")
    token = {"X-CSRFToken": client.cookies["csrftoken"]}
    client.post("/login/", data={"username": "ada", "password": PASSWORD}, headers=token)
    return {"X-CSRFToken": client.cookies["csrftoken"], "Content-Type": "application/json"}


async def opened_anew(open_page: Open, service: Service) -> Page:
    """Open the form of a user who has chosen nothing, whatever other tests have chosen."""
    with httpx.Client(base_url=service.http, timeout=60) as client:
        headers = await asyncio.to_thread(log_in, client)
        answer = await asyncio.to_thread(
            client.post, "/preferences", content=b"{}", headers=headers
        )
        assert answer.status_code == 200
    return await opened(open_page, "ada")


async def publish(service: Service, title: str, level: str) -> None:
    data = {"title": title, "level": level}
    await asyncio.to_thread(service.publish, "public:news", data)


@in_browser_loop
async def test_a_guest_has_them_in_the_browser_and_on_all_pages(open_page: Open) -> None:
    page = await opened(open_page)
    assert not await page.evaluate(DARK)
    await page.check("[name=theme][value=dark]")
    await page.check("[name=density][value=compact]")
    await page.locator("#preferences-result", has_text="Kept in this browser").wait_for()
    assert await page.evaluate(DARK)
    await page.add_init_script(FLASHES)
    await page.goto("/chat/")
    assert await page.evaluate(DARK)
    assert await page.evaluate("themeWhenParsed") == "dark", "before any module has run"
    await page.goto("/")
    await page.click("#preferences-open")
    assert await page.is_checked("[name=theme][value=dark]")
    assert await page.is_checked("[name=density][value=compact]")
    await page.check("[name=theme][value=system]")
    assert not await page.evaluate(DARK)


@in_browser_loop
async def test_a_user_has_them_in_every_browser(open_page: Open, page_service: Service) -> None:
    page = await opened_anew(open_page, page_service)
    await page.check("[name=theme][value=dark]")
    await page.check("[name=muted_levels][value=info]")
    await page.locator("#preferences-result", has_text="Kept in your account").wait_for()
    other = await opened(open_page, "ada")
    assert await other.evaluate(DARK)
    assert await other.is_checked("[name=muted_levels][value=info]")
    guest = await open_page("/")
    assert not await guest.evaluate(DARK)


@in_browser_loop
async def test_choices_made_quickly_do_not_overtake_each_other(
    open_page: Open, page_service: Service
) -> None:
    page = await opened_anew(open_page, page_service)
    held: list[Route] = []
    await page.route("**/preferences", lambda route: held.append(route))
    await page.check("[name=theme][value=dark]")
    await eventually(lambda: held)
    await page.check("[name=density][value=compact]")
    await page.check("[name=muted_levels][value=info]")
    assert len(held) == 1
    await held[0].continue_()
    await eventually(lambda: len(held) == 2)
    assert held[1].request.post_data_json["density"] == "compact"
    assert held[1].request.post_data_json["muted_levels"] == ["info"]
    await held[1].continue_()
    await page.locator("#preferences-result", has_text="Kept in your account").wait_for()
    assert len(held) == 2


@in_browser_loop
async def test_what_is_muted_is_in_the_list_only(open_page: Open, page_service: Service) -> None:
    page = await opened(open_page)
    await page.check("[name=muted_levels][value=success]")
    await page.keyboard.press("Escape")
    await publish(page_service, "Muted", "success")
    await publish(page_service, "Loud", "error")
    await page.locator(".toast", has_text="Loud").wait_for()
    assert await page.locator(".notification", has_text="Muted").count() == 1
    assert await page.locator(".toast", has_text="Muted").count() == 0
    await page.click("#preferences-open")
    await page.check("[name=muted_channels]")
    await page.keyboard.press("Escape")
    await page.locator(".toast").first.wait_for(state="detached")
    await publish(page_service, "Nothing of this channel", "error")
    await page.locator(".notification", has_text="Nothing of this channel").wait_for()
    assert await page.locator(".toast").count() == 0


@in_browser_loop
async def test_toasts_are_where_they_were_wanted(open_page: Open, page_service: Service) -> None:
    page = await opened(open_page)
    await page.check("[name=toasts][value=top]")
    await page.keyboard.press("Escape")
    await publish(page_service, "Above", "error")
    box = await page.locator(".toast", has_text="Above").bounding_box()
    assert box is not None
    assert box["y"] < 200
    await page.click("#preferences-open")
    await page.check("[name=toasts][value=none]")
    await page.keyboard.press("Escape")
    await page.locator(".toast").first.wait_for(state="detached")
    await publish(page_service, "No toast", "error")
    await page.locator(".notification", has_text="No toast").wait_for()
    assert await page.locator(".toast").count() == 0


@in_browser_loop
async def test_a_tone_is_played_for_what_is_not_muted(
    open_page: Open, page_service: Service
) -> None:
    page = await opened(open_page)
    await page.evaluate(
        """() => {
          window.tones = 0;
          const start = OscillatorNode.prototype.start;
          OscillatorNode.prototype.start = function () { window.tones += 1; start.call(this); };
        }"""
    )
    await page.check("[name=sound]")
    await becomes_true(page, "tones === 1")
    await page.evaluate("window.sounded = performance.now()")
    await becomes_true(page, "performance.now() > sounded + 1_000")  # at most one a second
    await publish(page_service, "Heard", "info")
    await becomes_true(page, "tones === 2")


@pytest.mark.node
@in_browser_loop
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_form_keeps_nobody_from_using_it(open_page: Open, scheme: str) -> None:
    page = await opened(open_page)
    await page.check(f"[name=theme][value={scheme}]")
    assert await violations(page, "#preferences") == []
    await page.keyboard.press("Escape")
    assert await page.evaluate("document.activeElement.id") == "preferences-open"
    assert await violations(page) == [], "with a theme that is not that of the system"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"theme":"dark","muted_levels":["info"],"muted_channels":["public:news"]}', 200),
        (b"{}", 200),
        (b'{"theme":"pink"}', 400),
        (b'{"unknown":1}', 400),
        (b'{"muted_levels":"info"}', 400),
        (b'{"muted_channels":[1]}', 400),
        (b"[]", 400),
        (b"nonsense", 400),
        (b"\xff", 400),
        (b'{"muted_channels":["' + b"x" * 300 + b'"]}', 400),
        (b'{"muted_channels":[' + b",".join(b'"%d"' % n for n in range(51)) + b"]}", 400),
        (b'{"theme":"dark"' + b" " * 20_000 + b"}", 413),
    ],
)
def test_only_choices_that_exist_are_kept(page_service: Service, body: bytes, status: int) -> None:
    with httpx.Client(base_url=page_service.http, timeout=60) as client:
        client.get("/login/")
        kind = {"Content-Type": "application/json"}
        token = {"X-CSRFToken": client.cookies["csrftoken"]}
        refused = client.post("/preferences", content=body, headers=token | kind)
        assert refused.status_code == 401
        answer = client.post("/preferences", content=body, headers=log_in(client))
        assert answer.status_code == status, answer.text
        assert client.get("/preferences").status_code == 405
        assert client.post("/preferences", content=body).status_code == 403
