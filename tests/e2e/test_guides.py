"""The guides on the pages of the service: every Markdown file below docs/."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import unquote, urldefrag, urljoin

import httpx
import pytest

from notifier.guides import exists, folder
from notifier.reference import GUIDES
from tests.support.pages import PHONE, Open, becomes_true, in_browser_loop
from tests.support.service import Service

NAMES = sorted(
    path.relative_to(folder()).as_posix().removesuffix(".md").replace("README", "readme")
    for path in folder().rglob("*.md")
)
STRANGE = (
    *("..", "../README", "../../etc/passwd", "%2e%2e/readme", "howto/../readme", "site/conf.py"),
    *("nothing", "README", "howto", "a/b/c", "readme.md", "readme%00", "x" * 5_000),
)


@pytest.fixture(scope="module")
def pages(page_service: Service) -> dict[str, str]:
    """All guides of a running service, by address."""
    found = {}
    with httpx.Client(base_url=page_service.http, timeout=60) as client:
        for name in NAMES:
            answer = client.get(f"/docs/guides/{name}/")
            assert answer.status_code == 200, name
            found[f"/docs/guides/{name}/"] = answer.text
        found["/docs/"] = client.get("/docs/").text
    return found


def article(text: str) -> str:
    return text.partition('<article class="prose">')[2].partition("</article>")[0]


def test_every_link_of_a_guide_leads_somewhere(pages: dict[str, str]) -> None:
    broken = []
    for address, text in pages.items():
        for href in re.findall(r'href="([^"]*)"', article(text)):
            target, fragment = urldefrag(urljoin(address, unescape(href)))
            if re.match("https?:", target):
                continue
            ids = re.findall(r'\bid="([^"]*)"', pages.get(target, ""))
            if target not in pages or (fragment and unquote(fragment) not in ids):
                broken.append((address, href))
    assert not broken


def test_no_guide_has_markup_of_its_own(pages: dict[str, str]) -> None:
    for address, text in pages.items():
        said = article(text)
        assert not re.search(r"<(?:img|picture|script|style|kbd|br|!--)", said), address
        assert "style=" not in re.sub(r"<code>.*?</code>", "", said, flags=re.S), address
    htmx = pages["/docs/guides/howto/htmx/"]
    assert "&lt;" in article(htmx), "markup in code is text"
    assert "the sums of all nodes" in article(pages["/docs/guides/metrics/"])


def test_the_lists_name_guides_that_exist(pages: dict[str, str]) -> None:
    navigation = pages["/docs/guides/readme/"].partition('id="contents"')[2].partition("</nav>")[0]
    listed = re.findall(r'<a href="(/docs/guides/[^"]*)"[^>]*>([^<]+)</a>', navigation)
    assert len(listed) > 30
    assert all(address in pages and label for address, label in listed)
    assert [name for name in GUIDES if not exists(name)] == []
    assert [title for title in GUIDES.values() if title not in pages["/docs/"]] == []


@pytest.mark.parametrize("name", STRANGE)
def test_another_name_is_not_found(page_service: Service, name: str) -> None:
    path = f"/docs/guides/{name}/"
    answer = httpx.get(f"{page_service.http}{path}", timeout=60)
    if answer.request.url.raw_path.decode() == path:  # httpx has not resolved the dots itself
        assert answer.status_code == 404
    assert not exists(name)


@pytest.mark.browser
@in_browser_loop
async def test_a_guide_is_read_with_its_contents_beside_it(open_page: Open) -> None:
    page = await open_page("/docs/", viewport={"width": 1440, "height": 900})
    await page.click(".guides a:has-text('What is promised')")
    await page.wait_for_selector("#main[data-ready]")
    assert await page.inner_text("h1") == "What is promised"
    last = page.locator("#contents a[href^='#']").last
    await last.click()
    await becomes_true(page, "document.querySelector('#contents a[aria-current=location]') != null")
    assert await last.get_attribute("aria-current") == "location"
    assert await page.locator("#contents a[aria-current=page]").inner_text() == "What is promised"
    colored = "[...CSS.highlights.keys()].length"
    await page.click("#contents a:has-text('With HTMX')")
    await page.wait_for_selector("#main[data-ready]")
    assert await page.evaluate(colored) > 0


@pytest.mark.browser
@in_browser_loop
async def test_a_phone_scrolls_code_and_tables_and_not_the_page(open_page: Open) -> None:
    for name in ("protocol", "semantics", "settings"):
        page = await open_page(f"/docs/guides/{name}/", **PHONE)
        await page.wait_for_selector("#main[data-ready]")
        assert await page.evaluate("document.documentElement.scrollWidth") == 390, name
        await page.click(".contents-button")
        await page.locator("#contents a[href^='#']").first.click()
        await page.locator("#contents").wait_for(state="hidden")
        await page.close()


@pytest.mark.browser
@in_browser_loop
async def test_a_guide_needs_no_javascript(open_page: Open) -> None:
    page = await open_page("/docs/guides/tutorial/", java_script_enabled=False)
    assert await page.locator("article h2").count() > 3
