"""The API reference in Chromium: search, tabs, navigation, keyboard, a phone, and no JavaScript."""

from __future__ import annotations

import pytest
from playwright.async_api import Page

from notifier.samples import LANGUAGES
from tests.support.axe import violations
from tests.support.pages import PHONE, Open, becomes_true, in_browser_loop

pytestmark = [pytest.mark.browser, in_browser_loop]

DESKTOP = {"viewport": {"width": 1440, "height": 900}}
FOCUS = "document.activeElement.id"
CURRENT = """[...document.querySelectorAll('#contents a[aria-current]')]
    .map((link) => link.getAttribute('href'))"""


async def opened(open_page: Open, path: str = "/docs/", **context: object) -> Page:
    page = await open_page(path, **context)
    await page.wait_for_selector("#main[data-ready]")
    return page


async def active(page: Page) -> str:
    """Return the text of the result that Enter follows."""
    found = await page.get_attribute("#lookup", "aria-activedescendant")
    return await page.locator(f"#{found}").inner_text() if found else ""


# --- search ---


async def test_the_keyboard_searches_and_follows_a_result(open_page: Open) -> None:
    page = await opened(open_page, **DESKTOP)
    await page.keyboard.press("Control+k")
    assert await page.evaluate(FOCUS) == "lookup"
    assert await page.input_value("#lookup") == ""
    await page.keyboard.type("idempotency_key")
    await page.wait_for_selector("#lookup-results:visible")
    assert await page.get_attribute("#lookup", "aria-expanded") == "true"
    first = await active(page)
    assert first == "idempotency_key\nPublish"
    await page.keyboard.press("ArrowDown")
    second = await active(page)
    assert second == "idempotency_key\nPublish to many channels"
    await page.keyboard.press("ArrowUp")
    assert await active(page) == first
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await becomes_true(page, "location.hash === '#broadcast-idempotency_key'")
    assert await page.locator("#broadcast-idempotency_key").is_visible()
    assert await page.evaluate(FOCUS) == "broadcast-heading"
    assert await page.locator("#lookup-results").is_hidden()


@pytest.mark.parametrize(
    ("words", "leads_to"),
    [
        ("block_user", "block_user"),  # a name
        ("presence statistics", "presence_stats"),  # a heading
        ("/connection/sse", "stream-eventStream"),  # an address
        ("gapPush", "stream-websocket-gapPush"),  # a message
        ("five minutes published once", "publish-idempotency_key"),  # a text
    ],
)
async def test_the_search_finds_names_headings_and_texts(
    open_page: Open, words: str, leads_to: str
) -> None:
    page = await opened(open_page, **DESKTOP)
    await page.fill("#lookup", words)
    await page.keyboard.press("Enter")
    await becomes_true(page, f"location.hash === '#{leads_to}'")
    inside = f"document.getElementById('{leads_to}').closest('.method')"
    await becomes_true(page, f"{inside}.contains(document.activeElement)")
    shown = f"document.getElementById('{leads_to}').getBoundingClientRect()"
    await becomes_true(page, f"{shown}.top >= 50 && {shown}.top < innerHeight - 20")
    if leads_to.startswith("stream-websocket-"):
        assert await page.evaluate(f"document.getElementById('{leads_to}').open")


async def test_a_search_without_results_says_so_and_escape_leaves_it(open_page: Open) -> None:
    page = await opened(open_page, **DESKTOP)
    await page.fill("#lookup", "a(b*c zebra\\")
    await page.wait_for_selector("#lookup-nothing:visible")
    assert "zebra" in await page.locator("#lookup-nothing").inner_text()
    assert await page.locator("#lookup-status").inner_text() == "No results"
    await page.fill("#lookup", "publish")
    await page.wait_for_selector("#lookup-results:visible")
    await page.keyboard.press("Escape")
    assert await page.locator("#lookup-results").is_hidden()
    assert await page.input_value("#lookup") == "publish"
    await page.keyboard.press("Escape")
    assert await page.input_value("#lookup") == ""


async def test_no_single_key_takes_the_focus(open_page: Open) -> None:
    """Somebody who dictates says letters (WCAG 2.2, 2.1.4)."""
    page = await opened(open_page, **DESKTOP)
    for key in ("/", "k", "s", "?", "Shift+K"):
        await page.keyboard.press(key)
        assert await page.evaluate(FOCUS) != "lookup", key
    await page.focus("#publish-body")
    await page.keyboard.press("Control+k")
    assert await page.evaluate(FOCUS) == "lookup"


async def test_the_pointer_follows_a_result(open_page: Open) -> None:
    page = await opened(open_page, **PHONE)
    await page.fill("#lookup", "disconnect")
    await page.locator(".lookup-result", has_text="Disconnect a user").first.click()
    await becomes_true(page, "location.hash === '#disconnect'")


@pytest.mark.parametrize("width", [390, 1440])
async def test_typing_in_the_search_does_not_scroll_the_page(open_page: Open, width: int) -> None:
    """Browsers scroll what has the focus out of `scroll-padding`, at each letter."""
    viewport = {"width": width, "height": 800}
    page = await opened(open_page, "/docs/#stream-websocket", viewport=viewport)
    await becomes_true(page, "scrollY > 1000")
    before = await page.evaluate("scrollY")
    await page.keyboard.press("Control+k")
    await page.keyboard.type("publish")
    await page.wait_for_selector("#lookup-results:visible")
    assert await page.evaluate("scrollY") == before


# --- tabs ---


async def languages(page: Page) -> set[str]:
    """Return the languages of the samples that the page shows for its methods."""
    shown = "(all) => all.filter((one) => one.checkVisibility()).map((one) => one.dataset.language)"
    return set(await page.eval_on_selector_all(".method:has(form) .sample", shown))


async def test_a_language_is_chosen_once_for_all_samples_and_remembered(open_page: Open) -> None:
    page = await opened(open_page, **DESKTOP)
    assert await languages(page) == {"curl"}
    tab = page.locator("#info-samples").get_by_role("tab", name="Python")
    await tab.scroll_into_view_if_needed()
    before = await tab.bounding_box()
    await tab.click()
    assert await languages(page) == {"python"}
    after = await tab.bounding_box()
    assert before
    assert after
    assert abs(before["y"] - after["y"]) <= 1, "the samples above it have another height now"
    assert await page.locator("#publish-samples [role=tab][aria-selected=true]").inner_text() == (
        "Python"
    )
    # No sample of this stream is in Python.
    assert await page.locator("#stream-httpStream-curl").is_visible()
    await page.reload()
    await page.wait_for_selector("#main[data-ready]")
    assert await languages(page) == {"python"}


async def test_the_tabs_follow_the_keyboard(open_page: Open) -> None:
    page = await opened(open_page, **DESKTOP)
    tabs = page.locator("#publish-samples [role=tab]")
    assert await tabs.all_inner_texts() == list(LANGUAGES.values())
    await tabs.first.focus()
    for key, language in (
        ("ArrowRight", "javascript"),
        ("End", "django"),
        ("ArrowRight", "curl"),
        ("ArrowLeft", "django"),
        ("Home", "curl"),
    ):
        await page.keyboard.press(key)
        assert await page.evaluate(FOCUS) == f"publish-{language}-tab"
        assert await languages(page) == {language}
        panel = page.locator(f"#publish-{language}")
        assert await panel.get_attribute("role") == "tabpanel"
        assert await panel.get_attribute("aria-labelledby") == f"publish-{language}-tab"
    stops = page.locator("#publish-samples [role=tab][tabindex='0']")
    assert await stops.count() == 1, "one of the tabs is in the order of Tab"
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.closest('#publish-curl') !== null")


async def test_a_method_without_a_function_says_so_for_django(open_page: Open) -> None:
    page = await opened(open_page, **DESKTOP)
    await page.locator("#info-samples").get_by_role("tab", name="Django").click()
    assert "has no function" in await page.locator("#info-django").inner_text()


COLORED = """(id) => {
  const code = document.querySelector(`#${id} code`);
  return [...CSS.highlights].map(([kind, ranges]) => [kind, [...ranges]
      .filter(({ startContainer }) => startContainer.parentElement === code)
      .map(({ startOffset, endOffset }) => code.textContent.slice(startOffset, endOffset))]);
}"""


async def test_the_strings_comments_and_keywords_of_samples_have_colors(open_page: Open) -> None:
    page = await opened(open_page, **DESKTOP)
    python = dict(await page.evaluate(COLORED, "stream-websocket-python"))
    assert '"public:news"' in python["code-string"]
    assert "# pip install websockets" in python["code-comment"]
    assert {"import", "async", "def"} <= set(python["code-keyword"])
    curl = dict(await page.evaluate(COLORED, "publish-curl"))
    assert curl["code-comment"] == [], "the address has two slashes"
    assert curl["code-string"][0] == '"X-API-Key: $NOTIFIER_API_KEY"'


# --- navigation ---


async def test_the_navigation_marks_the_section_that_is_read(open_page: Open) -> None:
    page = await opened(open_page, **DESKTOP)
    assert await page.evaluate(CURRENT) == ["#start"]
    links = await page.eval_on_selector_all(
        "#contents a", "(all) => all.map((one) => one.getAttribute('href'))"
    )
    assert len(links) > 20
    for link in links:
        await page.evaluate(f"document.querySelector('{link}').scrollIntoView()")
        await becomes_true(page, f"({CURRENT}).join() === '{link}'")
        inside = """(link) => {
          const inner = link.getBoundingClientRect();
          const outer = link.closest("nav").getBoundingClientRect();
          return inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1;
        }"""
        assert await page.eval_on_selector("#contents [aria-current]", inside), link
    await page.evaluate("scrollTo(0, 0)")
    await becomes_true(page, f"({CURRENT}).join() === '#start'")


async def test_a_phone_has_the_navigation_in_a_menu(open_page: Open) -> None:
    page = await opened(open_page, **PHONE)
    assert await page.locator("#contents").is_hidden()
    await page.click(".contents-button")
    await page.wait_for_selector("#contents:popover-open")
    await page.click("#contents a[href='#presence']")
    await page.wait_for_selector("#contents", state="hidden")
    await becomes_true(page, f"({CURRENT}).join() === '#presence'")
    heading = await page.locator("#presence-heading").bounding_box()
    rail = await page.locator(".reference-rail").bounding_box()
    assert heading
    assert rail
    assert rail["y"] + rail["height"] <= heading["y"] < 844 / 2
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390


async def test_the_keyboard_never_focuses_what_the_menu_covers(open_page: Open) -> None:
    """WCAG 2.2, 2.4.11: the menu of a phone stays at the top, and the page scrolls below it."""
    page = await opened(open_page, "/docs/#subscribe", viewport={"width": 390, "height": 844})
    await page.focus("#subscribe-body")
    for _ in range(12):
        await page.keyboard.press("Shift+Tab")
        covered = """(() => {
          const rail = document.querySelector(".reference-rail").getBoundingClientRect();
          const { activeElement } = document;
          const { top } = activeElement.getBoundingClientRect();
          return activeElement.closest(".method") && top < rail.bottom && activeElement.outerHTML;
        })()"""
        assert not await page.evaluate(covered)


async def test_three_columns_on_a_wide_screen_and_one_on_a_phone(open_page: Open) -> None:
    edges = {}
    for width in (390, 1440):
        page = await opened(open_page, viewport={"width": width, "height": 900})
        selectors = (".reference-rail", "#publish .method-text", "#publish .method-samples")
        boxes = [await page.locator(selector).bounding_box() for selector in selectors]
        edges[width] = [box["x"] for box in boxes if box]
        for selector in ("pre", ".sample", ".exchange"):
            wide = "(all) => all.filter((one) => one.scrollWidth > one.clientWidth + 1).length"
            assert await page.eval_on_selector_all(selector, wide) == 0
    assert edges[1440] == sorted(set(edges[1440]))
    assert edges[390][1] == edges[390][2]


# --- without JavaScript, and for everybody ---


async def test_everything_can_be_read_without_javascript(open_page: Open) -> None:
    page = await open_page("/docs/", java_script_enabled=False, **PHONE)
    for language in LANGUAGES:
        assert await page.locator(f"#publish-{language}").is_visible()
        assert await page.locator(f"#publish-{language} .sample-title").is_visible()
    assert await page.locator(".lookup").is_hidden()
    assert await page.locator("form.trial").first.is_hidden()
    assert await page.locator(".copy:visible").count() == 0
    await page.click(".contents-button")
    assert await page.locator("#contents a[href='#stream-htmx']").is_visible()
    await page.keyboard.press("Escape")
    await page.locator("#stream-websocket-gapPush summary").click()
    assert await page.locator("#stream-websocket-gapPush pre").is_visible()


@pytest.mark.node
@pytest.mark.parametrize("width", [390, 768, 1440])
@pytest.mark.parametrize("look", ["light", "dark", "forced"])
async def test_an_open_search_an_open_menu_and_another_language_have_no_violation(
    open_page: Open, width: int, look: str
) -> None:
    colors = {"forced_colors": "active"} if look == "forced" else {"color_scheme": look}
    page = await opened(open_page, viewport={"width": width, "height": 900}, **colors)
    # axe does not see the colors that the system chooses (`test_axe.py`).
    leave_out = ("color-contrast",) if look == "forced" else ()
    await page.locator("#publish-samples").get_by_role("tab", name="Django").click()
    await page.fill("#lookup", "connection")
    await page.wait_for_selector("#lookup-results:visible")
    assert await violations(page, leave_out=leave_out) == []
    if width < 960:
        await page.click(".contents-button")
        await page.wait_for_selector("#contents:popover-open")
        assert await violations(page, leave_out=leave_out) == []
