"""axe-core finds nothing on any page: by width, color scheme, and forced colors."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.axe import violations
from tests.support.pages import PATHS, PATIENCE, Open, becomes_true, in_browser_loop
from tests.support.service import Service

pytestmark = [pytest.mark.browser, pytest.mark.node, in_browser_loop]

LOOKS = {
    "phone, light": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    "phone, dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
    "tablet, forced colors": {
        "viewport": {"width": 768, "height": 1024},
        "forced_colors": "active",
    },
    "desktop, light": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "desktop, dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
}
NO_TRANSITIONS = "document.getAnimations().every((each) => !(each instanceof CSSTransition))"
"""Colors change gradually, and axe would take the present ones for those of the page."""
LIVE = {"/", "/chat/", "/jobs/", "/htmx/", "/monitor/", "/console/"}


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_has_no_violation(page_service: Service, open_page: Open, path: str) -> None:
    # The login sends those away who are logged in.
    page = await open_page(path, user="" if path == "/login/" else "ada", reduced_motion="reduce")
    if path in LIVE:
        await page.wait_for_selector("#connection[data-state=live]", timeout=PATIENCE * 10_000)
        event = {"title": "An event", "text": "with text", "level": "warning"}
        await asyncio.to_thread(page_service.publish, "public:news", event)
    if path == "/":
        await becomes_true(page, "document.body.innerText.includes('An event')")
    if path == "/monitor/":
        await becomes_true(page, "document.querySelectorAll('#nodes .node').length > 0")
    found = {}
    for name, look in LOOKS.items():
        await page.set_viewport_size(look["viewport"])
        await page.emulate_media(
            color_scheme=look.get("color_scheme"), forced_colors=look.get("forced_colors", "none")
        )
        await becomes_true(page, NO_TRANSITIONS)
        # There the system chooses the colors of text, which axe does not see (it reads
        # -webkit-text-fill-color, where the browser still has the color of the style sheet).
        leave_out = ("color-contrast",) if "forced_colors" in look else ()
        if broken := await violations(page, leave_out=leave_out):
            found[name] = broken
    assert not found, found
