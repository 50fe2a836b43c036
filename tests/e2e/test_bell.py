"""The bell in Chromium: counts, gaps, keyboard, rows of its host, and its end."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.bell_site import CHANNEL
from tests.e2e.test_sessions import Template
from tests.support.axe import violations
from tests.support.eventually import eventually
from tests.support.losing import publish_while_cut
from tests.support.pages import PATIENCE, PHONE, becomes_true, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import KEY, Service

pytestmark = [pytest.mark.browser, in_browser_loop]

LIVE = "realtime-bell button.button:not(.off)"
BELL = "document.querySelector('realtime-bell')"
FOCUSED = """() => {
  let active = document.activeElement;
  while (active.shadowRoot?.activeElement) active = active.shadowRoot.activeElement;
  return active.textContent;
}"""
ASKED = """performance.getEntriesByType("resource")
  .filter((entry) => entry.name.includes("/rows/")).map((entry) => entry.startTime)"""
COUNTED = """(bell) => [...bell.shadowRoot.querySelectorAll(".gap .title")].reduce(
  (sum, { textContent }) => sum + parseInt(textContent), bell.unread)"""
TOAST_MS = 4000
ROWS_SPACING_MS = 1900  # the bell waits for two seconds; timers and entries have different clocks


@pytest.fixture(scope="module")
def ada(template: Template, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    database, user = template.copy(tmp_path_factory.mktemp("bell"))
    return {**user, "database": str(database)}


@pytest.fixture(scope="module")
def site(redis: RedisServer, ada: dict[str, str]) -> Iterator[Service]:
    env = {"DJANGO_SETTINGS_MODULE": "tests.bell_settings", "TEST_DATABASE": ada["database"]}
    service = Service(redis.url, app="tests.bell_site:application", **env).start()
    yield service
    assert "Traceback" not in service.log
    service.stop()


class Visit:
    """A page with a bell, what its browser complains about, and what it asks the server."""

    def __init__(self, page: Page, site: Service) -> None:
        self.page = page
        self.site = site
        self.complaints: list[str] = []
        self.sockets: list[str] = []
        self.sent: list[str] = []
        self.statuses: list[int] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)
        page.on("websocket", self._note_socket)
        page.on("response", self._note_response)

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _note_socket(self, socket: Any) -> None:
        self.sockets.append(socket.url)
        socket.on("framesent", lambda text: self.sent.append(str(text)))

    def _note_response(self, response: Any) -> None:
        if "/rows/" in response.url:
            self.statuses.append(response.status)

    async def sees(self, selector: str, text: str | None = None) -> None:
        """Wait until the page shows an element, optionally with this text."""
        locator = self.page.locator(selector)
        if text is not None:
            locator = locator.filter(has_text=text)
        await locator.first.wait_for(timeout=PATIENCE * 10_000)

    async def publishes(self, data: Any, **fields: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self.site.publish, CHANNEL, data, **fields)

    async def opens(self) -> None:
        await self.page.locator("button.button").first.click()
        await self.sees(".panel")

    async def is_true(self, expression: str) -> None:
        await becomes_true(self.page, expression)

    async def texts(self, selector: str) -> list[str]:
        return await self.page.locator(selector).all_inner_texts()

    async def focused(self) -> str:
        """Return the text of the focused element, through shadow trees."""
        return str(await self.page.evaluate(FOCUSED)).strip()


Open = Callable[..., Awaitable[Visit]]


@pytest_asyncio.fixture(loop_scope="session")
async def visit(site: Service, ada: dict[str, str], chromium: Browser) -> AsyncIterator[Open]:
    async with own_contexts(chromium) as browser:

        async def open_page(
            name: str,
            *,
            live: bool = True,
            script: str = "",
            user: bool = False,
            clock: bool = False,
            **context: Any,
        ) -> Visit:
            made = await browser.new_context(**context)
            if user:
                cookie = {"name": "sessionid", "value": ada["cookie"], "url": site.http}
                await made.add_cookies([cookie])  # type: ignore[list-item]
            visit = Visit(await made.new_page(), site)
            if clock:
                await visit.page.clock.install()
            if script:
                await visit.page.add_init_script(script)
            await visit.page.goto(f"{site.http}/{name}/")
            if live:
                await visit.sees(LIVE)
            return visit

        yield open_page


async def test_publications_are_counted_until_the_panel_is_opened(visit: Open) -> None:
    """The policy of the page allows no style at all; the browser would complain."""
    bell = await visit("plain")
    assert not await bell.page.locator(".badge").is_visible()
    await bell.publishes({"title": "Order 7 was shipped", "text": "Today", "level": "success"})
    await bell.publishes({"number": 8}, event="order.packed")
    await bell.sees(".badge", "2")
    await bell.sees(".toast", "Order 7 was shipped")
    await bell.sees(".said", "order.packed")
    button = bell.page.locator("button.button")
    assert await button.get_attribute("aria-label") == "Notifications, 2 unread"
    await bell.opens()
    assert await button.get_attribute("aria-expanded") == "true"
    assert not await bell.page.locator(".badge").is_visible()
    rows = await bell.texts(".row .title")
    assert rows == ["order.packed", "Order 7 was shipped (Success)"]
    await button.click()
    assert await bell.page.locator(".unread").count() == 0
    assert bell.complaints == []


async def test_data_is_shown_as_text_and_links_stay_on_the_site(visit: Open) -> None:
    bell = await visit("plain")
    await bell.publishes({"title": "<b id=evil>x</b>", "href": "javascript:alert(1)"})
    await bell.publishes({"title": "Elsewhere", "href": "https://elsewhere.example/"})
    await bell.publishes({"title": "Here", "href": "/plain/#here", "level": ["error"], "time": 7})
    await bell.publishes({"title": "y" * 2000})
    await bell.opens()
    await bell.sees(".row", "yyy")
    assert await bell.page.locator("#evil").count() == 0
    links = await bell.page.locator(".row a").evaluate_all("(all) => all.map((a) => a.href)")
    assert links == [f"{bell.site.http}/plain/#here"]
    assert {len(text) for text in await bell.texts(".row .title") if "y" * 99 in text} == {500}
    assert bell.complaints == []


async def test_a_gap_is_a_line_with_channel_numbers_and_reason(
    visit: Open, redis: RedisServer
) -> None:
    bell = await visit("plain")
    last = (await bell.publishes({"title": "Before"}))["offset"]
    await bell.sees(".badge", "1")
    await asyncio.to_thread(publish_while_cut, redis, CHANNEL, 3)
    await bell.sees(".mark")
    label = await bell.page.locator("button.button").get_attribute("aria-label")
    assert label is not None
    assert "1 unread, 3 notifications missed" in label
    await bell.sees(".said", "3 notifications missed")
    await bell.opens()
    line = await bell.page.locator(".gap").inner_text()
    assert "3 notifications missed" in line
    assert f"{CHANNEL} · {last + 1}–{last + 3} · Redis was unreachable · " in line
    assert "Missed notifications are not sent again." in line
    assert not await bell.page.locator(".mark").is_visible()
    await bell.sees(LIVE)
    assert bell.complaints == []


async def test_the_keyboard_reaches_everything_and_returns(visit: Open) -> None:
    bell = await visit("plain")
    await bell.publishes({"title": "One", "href": "#one"})
    await bell.publishes({"title": "Two"})
    await bell.publishes({"title": "Three", "href": "#three"})
    await bell.sees(".badge", "3")
    keyboard = bell.page.keyboard
    await bell.page.locator("button.button").focus()
    await keyboard.press("Enter")
    await bell.sees(".panel")
    assert await bell.page.evaluate(f"{BELL}.shadowRoot.activeElement.className") == "button"
    await keyboard.press("ArrowDown")
    assert await bell.focused() == "Three"
    for key, text in (
        *(("ArrowDown", "Two"), ("ArrowDown", "One"), ("ArrowDown", "One")),
        *(("Home", "Three"), ("End", "One"), ("ArrowUp", "Two")),
    ):
        await keyboard.press(key)
        assert text in await bell.focused()
    await keyboard.press("Escape")
    assert not await bell.page.locator(".panel").is_visible()
    assert await bell.page.evaluate(f"{BELL}.shadowRoot.activeElement.className") == "button"
    await keyboard.press("ArrowDown")
    await bell.sees(".panel")
    await bell.page.locator("#after").focus()
    assert not await bell.page.locator(".panel").is_visible(), "focus has left it"
    assert bell.complaints == []


async def test_escape_dismisses_a_toast_and_focus_stays_in_the_bell(visit: Open) -> None:
    bell = await visit("plain")
    await bell.publishes({"title": "First"})
    await bell.sees(".toast", "First")
    await bell.page.locator(".toast .dismiss").focus()
    await bell.page.keyboard.press("Escape")
    await bell.is_true(f"!{BELL}.shadowRoot.querySelector('.toast')")
    focused = await bell.page.evaluate(f"{BELL}.shadowRoot.activeElement?.className")
    assert focused == "button"


async def test_toasts_stay_where_they_are_while_one_is_used(visit: Open) -> None:
    bell = await visit("plain", clock=True)
    await bell.publishes({"title": "Read"})
    toast = bell.page.locator(".toast", has_text="Read")
    await toast.hover(timeout=60_000)
    box = await toast.bounding_box()
    for number in range(5):
        await bell.publishes({"title": f"Later {number}", "level": "error"})
    await bell.sees(".toast", "Later")
    await bell.page.clock.fast_forward(3 * TOAST_MS)
    assert await toast.bounding_box() == box
    assert await bell.page.locator(".toast").count() <= 3
    await bell.page.mouse.move(5, 5)
    await bell.page.clock.fast_forward(3 * TOAST_MS)
    await bell.is_true(f"!{BELL}.shadowRoot.querySelector('.toast')")


@pytest.mark.node
@pytest.mark.parametrize(
    "context",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"forced_colors": "active"},
        {"reduced_motion": "reduce"},
        PHONE,
        {**PHONE, "color_scheme": "dark"},
    ],
    ids=["light", "dark", "forced colors", "reduced motion", "phone", "dark phone"],
)
async def test_nothing_keeps_people_from_using_it(
    visit: Open, redis: RedisServer, context: dict[str, Any]
) -> None:
    bell = await visit("plain", **context)
    assert await violations(bell.page, "realtime-bell") == []
    for level in ("info", "success", "warning", "error"):
        await bell.publishes(
            {"title": f"A {level}", "text": "x" * 300, "level": level, "href": "/"}
        )
    await asyncio.to_thread(publish_while_cut, redis, CHANNEL, 1)
    await bell.sees(".toast", "A error")
    await bell.sees(".mark")
    assert await violations(bell.page, "realtime-bell") == []
    await bell.opens()
    await bell.sees(".gap")
    assert await violations(bell.page, "realtime-bell") == []
    assert await bell.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = await bell.page.locator(".panel").bounding_box()
    width = await bell.page.evaluate("innerWidth")
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert bell.complaints == []


async def test_forced_colors_keep_every_sign(visit: Open) -> None:
    bell = await visit("plain", forced_colors="active")
    await bell.publishes({"title": "Failed", "level": "error"})
    await bell.sees(".badge", "1")
    style = "(e) => [getComputedStyle(e).borderColor, getComputedStyle(e).backgroundColor]"
    border, background = await bell.page.locator(".badge").evaluate(style)
    assert border != background
    icon = "(e) => getComputedStyle(e, '::before').content"
    assert await bell.page.locator(".toast .title").evaluate(icon) == '"✕"'


async def test_two_bells_share_a_connection_and_show_each_toast_once(visit: Open) -> None:
    bell = await visit("two")
    await bell.is_true("[...document.querySelectorAll('realtime-bell')].every((b) => b.connection)")
    await bell.sees("#two button.button:not(.off)")
    await bell.publishes({"title": "For both"})
    await bell.sees("#one .badge", "1")
    await bell.sees("#two .badge", "1")
    assert await bell.texts(".toast .title") == ["For both"]
    assert len(bell.sockets) == 1
    await bell.page.evaluate("document.getElementById('one').remove()")
    await bell.publishes({"title": "For the other"})
    await bell.sees("#two .badge", "2")
    assert not any('"unsubscribe"' in frame for frame in bell.sent)
    await bell.page.evaluate("window.live = document.getElementById('two').connection")
    await bell.page.evaluate("document.getElementById('two').remove()")
    await bell.is_true("live.subscriptions.length === 0")
    await eventually(lambda: [frame for frame in bell.sent if '"unsubscribe"' in frame])
    assert bell.complaints == []


HEARD = """
window.heard = [];
document.addEventListener("realtime:publication", ({ detail }) => heard.push(detail.data.title));
"""


async def test_the_end_of_a_bell_is_not_that_of_the_page_s_own_subscription(visit: Open) -> None:
    bell = await visit("tag", script=HEARD)
    assert len(bell.sockets) == 1
    await bell.publishes({"title": "Both"})
    await bell.sees(".badge", "1")
    await bell.page.evaluate(f"{BELL}.remove()")
    await bell.publishes({"title": "The page"})
    await bell.is_true("heard.join() === 'Both,The page'")
    assert bell.complaints == []


async def test_a_page_with_a_connection_of_its_own_lends_it(visit: Open) -> None:
    bell = await visit("own")
    assert await bell.page.evaluate(f"{BELL}.connection === window.live")
    await bell.publishes({"title": "Lent"})
    await bell.sees(".badge", "1")
    assert len(bell.sockets) == 1


async def test_a_bell_without_channels_has_those_of_the_user(
    visit: Open, ada: dict[str, str]
) -> None:
    bell = await visit("personal", user=True)
    own = f"user:#{ada['user']}"
    await bell.is_true(f"{BELL}.connection.subscriptions.some((s) => s.channel === '{own}')")
    await asyncio.to_thread(bell.site.publish, own, {"title": "For Ada"})
    await bell.sees(".toast", "For Ada")


async def add(site: Service, *titles: str) -> None:
    """Add notifications to the site's database without publishing anything."""
    for title in titles:
        answer = await asyncio.to_thread(httpx.get, f"{site.http}/note/{title}")
        assert answer.status_code == 200


@pytest.mark.parametrize(("kind", "rows"), [("html", "li a"), ("json", ".row a")])
async def test_unread_is_the_truth_of_the_host(
    visit: Open, redis: RedisServer, kind: str, rows: str
) -> None:
    bell = await visit(kind)
    await bell.is_true(f"{ASKED}.length > 1")
    await eventually(lambda: 304 in bell.statuses)
    before = int(await bell.page.evaluate(f"{BELL}.unread"))
    await add(bell.site, f"{kind}1", f"{kind}2")
    await bell.publishes({}, event="note")  # says nothing, so the bell has no toast
    await bell.is_true(f"{BELL}.unread === {before + 2}")
    assert await bell.page.locator(".toast").count() == 0
    await add(bell.site, f"{kind}3")
    await asyncio.to_thread(publish_while_cut, redis, CHANNEL, 1)
    await bell.is_true(f"{BELL}.unread === {before + 3}")
    await bell.opens()
    assert await bell.page.evaluate(f"{BELL}.unread") == before + 3, "the host decides what is read"
    assert (await bell.texts(rows))[0] == f"{kind}3"
    assert "The list is fetched again" in await bell.page.locator(".gap").inner_text()
    assert await bell.page.evaluate("document.body.dataset.ran") is None, "its script has not run"
    assert set(bell.statuses) == {200, 304}
    assert bell.complaints == []


async def test_a_burst_makes_few_requests_and_the_focus_stays_on_its_row(visit: Open) -> None:
    bell = await visit("html")
    await add(bell.site, "a", "b", "c")
    await bell.publishes({})
    await bell.opens()
    await bell.sees("li", "c")
    await bell.page.keyboard.press("ArrowDown")
    await bell.page.keyboard.press("ArrowDown")
    assert await bell.page.evaluate("document.activeElement.localName") == "a"
    before = len(bell.statuses)
    for number in range(30):
        await bell.publishes({"number": number})
    await eventually(lambda: len(bell.statuses) > before)
    await bell.is_true("document.activeElement.localName === 'a'")
    times = await bell.page.evaluate(ASKED)
    spaces = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(spaces) >= ROWS_SPACING_MS


async def test_a_redirect_to_a_login_is_not_a_list(visit: Open) -> None:
    bell = await visit("login", live=False)
    await bell.sees("button.off")
    await bell.opens()
    await bell.sees(".status", "The list could not be fetched; retrying")
    assert await bell.page.locator("realtime-bell li").count() == 0


async def test_rows_of_another_site_are_not_fetched(visit: Open) -> None:
    bell = await visit("foreign")
    await eventually(lambda: bell.complaints)
    assert bell.complaints[0] == "realtime-bell: rows must be an address of this origin"
    assert not any("elsewhere" in text for text in bell.complaints)


async def test_a_channel_that_is_refused_is_named(visit: Open) -> None:
    bell = await visit("refused", live=False)
    await bell.opens()
    await bell.sees(".status", "Not allowed: nowhere:bell")


async def test_its_end_ends_requests_and_timers(visit: Open) -> None:
    bell = await visit("html")
    await bell.publishes({"title": "A toast"})
    await bell.sees(".toast")
    await bell.page.evaluate(f"window.bell = {BELL}; window.live = bell.connection; bell.remove()")
    asked = len(bell.statuses)
    await bell.is_true("live.subscriptions.length === 0")
    assert await bell.page.evaluate("bell.shadowRoot.querySelector('.toast')") is None
    await bell.page.evaluate(
        "window.heard = 0;"
        "live.subscribe('public:bell').addEventListener('publication', () => heard++)"
    )
    await bell.is_true("live.subscriptions[0].state === 'subscribed'")
    await bell.publishes({"title": "To nobody"})
    await bell.is_true("heard === 1")
    assert await bell.page.evaluate("bell.shadowRoot.querySelectorAll('.row, .toast').length") == 0
    await bell.page.evaluate("document.body.append(bell)")
    await bell.is_true("!bell.shadowRoot.querySelector('.button.off')")
    await bell.publishes({"title": "Back"})
    await bell.sees(".toast", "Back")
    assert len(bell.statuses) >= asked


async def test_two_thousand_publications_leave_a_bounded_page(visit: Open) -> None:
    bell = await visit("plain")
    command = {"publish": {"channel": CHANNEL, "data": {"title": "Often", "level": "warning"}}}

    def burst() -> None:
        with httpx.Client(base_url=bell.site.http, headers=KEY, timeout=120) as http:
            for _ in range(20):
                answer = http.post("/api/batch", json={"commands": [command] * 100})
                assert answer.status_code == 200, answer.text

    await asyncio.to_thread(burst)
    await bell.is_true(f"({COUNTED})({BELL}) === 2000")  # a busy machine may miss some
    await bell.sees(".badge", "99+")
    assert await bell.page.locator(".toast").count() <= 3
    await bell.publishes({"title": "Worst", "level": "error"})
    await bell.sees(".toast", "Worst")
    await bell.opens()
    assert await bell.page.locator(".toast").count() == 0, "the list has them"
    await bell.is_true(f"{BELL}.shadowRoot.querySelectorAll('.row').length === 50")
    assert bell.complaints == []


NOTIFICATIONS = """
window.told = [];
window.Notification = class extends Notification {
  static permission = "default";
  static async requestPermission() {
    return (this.permission = await super.requestPermission());
  }
  constructor(title, options) {
    super(title, options);
    told.push(title);
  }
};
Object.defineProperty(document, "hidden", { get: () => window.away === true });
"""
"""Records what the browser's own class is told. Headless pages are never hidden, and say "denied"
in `permission` although the context has granted it, as `requestPermission` says."""


async def test_desktop_notifications_follow_their_switch(visit: Open) -> None:
    bell = await visit("plain", script=NOTIFICATIONS, permissions=["notifications"])
    await bell.opens()
    switch = bell.page.get_by_role("switch")
    assert await switch.get_attribute("aria-checked") == "false", "nobody has asked for it"
    await bell.page.evaluate("window.away = true")
    await bell.publishes({"title": "Not wanted"})
    await bell.sees(".row", "Not wanted")
    assert await bell.page.evaluate("told") == []
    await switch.click()
    await bell.is_true(f"{BELL}.shadowRoot.querySelector('[role=switch]').ariaChecked === 'true'")
    await bell.publishes({"title": "Wanted"})
    await bell.is_true("told.join() === 'Wanted'")
    await switch.click()
    await bell.publishes({"title": "No longer"})
    await bell.sees(".row", "No longer")
    assert await bell.page.evaluate("told") == ["Wanted"]


async def test_all_words_are_the_host_s(visit: Open) -> None:
    bell = await visit("german")
    await bell.publishes({"title": "Fertig"})
    await bell.sees(".said", "Neu: Fertig")
    label = await bell.page.locator("button.button").get_attribute("aria-label")
    assert label == "Meldungen, 1 neu"
    await bell.opens()
    assert await bell.texts(".heading") == ["Meldungen"]
    assert await bell.texts(".status") == ["Verbunden"]


async def test_plurals_and_directions_are_those_of_the_language(visit: Open) -> None:
    bell = await visit("arabic")
    for title in ("مرحبا (1042)!", "שלום (1042)!", "Hello (1042)!"):
        await bell.publishes({"title": title})
    await bell.sees(".badge", "3")
    label = await bell.page.locator("button.button").get_attribute("aria-label")
    assert label == "Notifications, 3 few"
    await bell.opens()
    await bell.sees(".row", "Hello")
    directions = "(all) => all.map((e) => getComputedStyle(e).direction)"
    found = await bell.page.locator(".row .title").evaluate_all(directions)
    assert found == ["ltr", "rtl", "rtl"]
    box = await bell.page.locator(".panel").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= await bell.page.evaluate("innerWidth")


async def test_a_bell_works_over_an_event_stream(visit: Open, redis: RedisServer) -> None:
    bell = await visit("stream")
    assert bell.sockets == []
    await bell.publishes({"title": "Streamed"}, event="note")
    await bell.sees(".badge", "1")
    await asyncio.to_thread(publish_while_cut, redis, CHANNEL, 2)
    await bell.opens()
    await bell.sees(".gap", "2 notifications missed")
    line = await bell.page.locator(".gap").inner_text()
    assert re.search(rf"{CHANNEL} · \d+–\d+ · Redis was unreachable", line)
    await bell.is_true(f"{BELL}.connection.state.state === 'live'")
    await bell.publishes({"title": "Again"}, event="note")
    await bell.sees(".row", "Again")
    await bell.page.evaluate(f"{BELL}.connection.close()")
    await bell.sees(".status", "Disconnected")
    assert bell.complaints == []
