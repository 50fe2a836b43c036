"""The site of the documentation, as `make docs-build` builds it, and as Chromium shows it."""

from __future__ import annotations

import runpy
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.support.http_server import Quiet, serving
from tests.support.pages import PATIENCE, PHONE, in_browser_loop, own_contexts
from tests.support.service import ROOT

SITE = ROOT / "docs/site"
PYTHON = ROOT / ".docs/venv/bin/python"
versions: Any = runpy.run_path(str(SITE / "versions.py"))

pytestmark = pytest.mark.docs
needs_browser = pytest.mark.browser


def build(pages: Path, html: Path) -> subprocess.CompletedProcess[str]:
    """Build with the options of the Makefile."""
    options = [line for line in (ROOT / "Makefile").read_text().splitlines() if "-m sphinx" in line]
    [strict] = [line.partition("-m sphinx ")[2].partition(" -d ")[0].split() for line in options]
    command = [PYTHON, "-m", "sphinx", *strict, "-c", SITE, pages, html]
    return subprocess.run(command, capture_output=True, text=True, timeout=290)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([PYTHON, SITE / "stage.py", folder / "pages"], check=True)
    built = build(folder / "pages", folder / "html")
    assert built.returncode == 0, built.stderr
    return folder / "html"


TOCTREE = "\n```{toctree}\n:hidden:\n\na\n```\n"
MISTAKES = {
    "nothing": ({"index.md": "# Front\n\n[here](a.md#a-part)\n" + TOCTREE}, ""),
    "a link": ({"index.md": "# Front\n\n[here](b.md)\n" + TOCTREE}, "'b.md'"),
    "an anchor": ({"index.md": "# Front\n\n[here](a.md#no-part)\n" + TOCTREE}, "'no-part'"),
    "an anchor of the page": ({"index.md": "# Front\n\n[here](#no)\n" + TOCTREE}, "'no'"),
    "a page outside": ({"index.md": "# Front\n" + TOCTREE, "b.md": "# B\n"}, "any toctree"),
}


@pytest.mark.parametrize(("pages", "complaint"), MISTAKES.values(), ids=MISTAKES)
def test_a_broken_link_or_anchor_or_a_page_outside_the_navigation_fails_the_build(
    tmp_path: Path, pages: dict[str, str], complaint: str
) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    for name, text in {"a.md": "# A\n\n## A part\n", **pages}.items():
        (folder / name).write_text(text)
    built = build(folder, tmp_path / "html")
    assert (built.returncode != 0) == bool(complaint), built.stderr
    assert complaint in built.stderr


def pages_of(html: Path) -> list[Path]:
    return [path for path in sorted(html.rglob("*.html")) if "_static" not in path.parts]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a directory; yield its URL."""
    with serving(partial(QuietHandler, directory=str(folder))) as port:
        yield f"http://127.0.0.1:{port}"


class QuietHandler(Quiet, SimpleHTTPRequestHandler):
    pass


@needs_browser
@in_browser_loop
async def test_the_search_finds_pages_without_a_request_to_another_host(
    html: Path, chromium: Browser
) -> None:
    asked: list[str] = []
    with served(html) as url:
        async with own_contexts(chromium) as browser:
            page = await browser.new_page()
            page.on("request", lambda request: asked.append(request.url))
            await page.goto(f"{url}/index.html")
            await page.get_by_role("textbox", name="Search").fill("idempotency_key")
            await page.keyboard.press("Enter")
            found = page.locator("ul.search a", has_text="The HTTP API")
            await found.first.wait_for(timeout=PATIENCE * 10_000)
            await found.first.click()
            await page.locator("h1", has_text="The HTTP API").wait_for()
    assert asked
    assert not [address for address in asked if not address.startswith((f"{url}/", "data:"))]


@needs_browser
@in_browser_loop
async def test_the_site_can_be_read_and_searched_from_its_files(
    html: Path, chromium: Browser
) -> None:
    async with own_contexts(chromium) as browser:
        page = await browser.new_page()
        await page.goto(f"file://{html}/search.html?q=idempotency_key")
        found = page.locator("ul.search a", has_text="The HTTP API")
        await found.first.wait_for(timeout=PATIENCE * 10_000)
        await page.goto(f"file://{html}/client.html#a-page-that-does-not-become-live")
        assert await page.locator("#a-page-that-does-not-become-live h3").count() == 1


@needs_browser
@in_browser_loop
async def test_no_page_scrolls_sideways_on_a_phone(html: Path, chromium: Browser) -> None:
    """Wide tables and code scroll inside their own frame.

    The theme hides what is wider than the window, and lets the content scroll instead.
    """
    paths = pages_of(html)
    assert len(paths) > 80
    wide: dict[str, int] = {}
    async with own_contexts(chromium) as browser:
        page = await (await browser.new_context(**PHONE)).new_page()
        for path in paths:
            await page.goto(f"file://{path}", wait_until="domcontentloaded")
            width = await page.evaluate("document.querySelector('.content').scrollWidth")
            if width > 390:
                wide[path.name] = width
    assert not wide


@needs_browser
@in_browser_loop
async def test_the_theme_follows_the_system_and_can_be_switched(
    html: Path, chromium: Browser
) -> None:
    async with own_contexts(chromium) as browser:
        shades = {}
        for scheme in ("light", "dark"):
            context = await browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
            page = await context.new_page()
            await page.goto(f"file://{html}/index.html")
            ground = "getComputedStyle(document.body).backgroundColor"
            shades[scheme] = await page.evaluate(ground)
            assert await page.locator(f"img.only-{scheme}").is_visible()
        assert shades["light"] != shades["dark"]
        switch = page.locator("button.theme-toggle:visible").first
        await switch.click()
        await page.wait_for_function(f"{ground} === '{shades['light']}'")


@needs_browser
@in_browser_loop
async def test_the_selector_leads_to_the_same_page_of_another_version(
    html: Path, chromium: Browser, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    for version in ("main", "0.1.0", "0.2.0"):
        versions["add"](html, site, version)
    (site / "0.1.0" / "metrics.html").unlink()  # a page that the older version did not have
    with served(site) as url:
        async with own_contexts(chromium) as browser:
            page = await browser.new_page()
            await page.goto(f"{url}/")
            await page.wait_for_url(f"{url}/0.2.0/**")
            await page.goto(f"{url}/0.2.0/howto/view.html")
            choice = page.get_by_label("Version")
            assert await choice.locator("option").all_inner_texts() == ["0.2.0", "0.1.0", "main"]
            assert await choice.input_value() == "0.2.0"
            await choice.select_option("0.1.0")
            await page.wait_for_url(f"{url}/0.1.0/howto/view.html")
            await page.goto(f"{url}/main/metrics.html")
            await page.get_by_label("Version").select_option("0.1.0")
            await page.wait_for_url(f"{url}/0.1.0/")


@needs_browser
@in_browser_loop
async def test_a_build_of_ones_own_has_no_selector(html: Path, chromium: Browser) -> None:
    with served(html) as url:
        async with own_contexts(chromium) as browser:
            page = await browser.new_page()
            await page.goto(f"{url}/index.html", wait_until="networkidle")
            assert await page.locator(".versions").is_hidden()
