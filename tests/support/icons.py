"""``python -m tests.support.icons``: draw the icons of the app from its SVG files, with Chromium.

`favicon.svg` is the icon. Where the system cuts icons to a shape of its own, the background has to
fill the square, and the drawing has to be in the middle ("maskable": a circle of 80 %).
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import NamedTuple

from playwright.async_api import Browser

from tests.conftest import CHROMIUM
from tests.support.pages import launch_chromium
from tests.support.service import ROOT

FOLDER = ROOT / "static/notifier/icons"


class Icon(NamedTuple):
    """A file to draw."""

    pixels: int
    fills_square: bool
    scale: float
    """Of the drawing; 1 is that of the favicon."""


ICONS = {
    "app-192.png": Icon(192, fills_square=False, scale=1),
    "app-512.png": Icon(512, fills_square=False, scale=1),
    "app-512-maskable.png": Icon(512, fills_square=True, scale=0.75),
    "touch-180.png": Icon(180, fills_square=True, scale=0.9),
}


def svg_of(icon: Icon) -> str:
    """Return the favicon in the form of an icon."""
    svg = (FOLDER / "favicon.svg").read_text(encoding="utf-8")
    if icon.fills_square:
        svg, count = re.subn(r' rx="8"', "", svg)
        assert count == 1
    margin = 16 * (1 - icon.scale)
    move = f'<g transform="translate({margin} {margin}) scale({icon.scale})" '
    svg, count = re.subn("<g ", move, svg)
    assert count == 1
    return svg.replace("<svg ", f'<svg width="{icon.pixels}" height="{icon.pixels}" ')


async def draw(browser: Browser, icon: Icon) -> bytes:
    """Return the PNG of an icon."""
    size = {"width": icon.pixels, "height": icon.pixels}
    page = await browser.new_page(viewport=size)  # type: ignore[arg-type]
    style = "<style>body { margin: 0 } svg { display: block }</style>"
    await page.set_content(style + svg_of(icon))
    png = await page.screenshot(omit_background=True)
    await page.close()
    return png


async def main(folder: Path = FOLDER) -> None:
    """Draw all of them."""
    async with launch_chromium(str(CHROMIUM)) as browser:
        for name, icon in ICONS.items():
            (folder / name).write_bytes(await draw(browser, icon))


if __name__ == "__main__":
    asyncio.run(main())
