"""Checks a page with axe-core, whose rules find what keeps people from using it (WCAG 2.2).

It finds only what a program can find: a page that passes still has to be used with a keyboard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.async_api import Page

SCRIPT = Path(__file__).parents[1] / "e2e/sdk/node_modules/axe-core/axe.min.js"
"""Installed with the packages of the SDK tests: a test that uses it has the mark ``node``."""

FADE_IN = """async () => {
  const rootsIn = (root) => [...root.querySelectorAll("*")]
    .flatMap(({ shadowRoot }) => (shadowRoot ? [shadowRoot, ...rootsIn(shadowRoot)] : []));
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  for (;;) {
    const found = [document, ...rootsIn(document)].flatMap((root) => root.getAnimations())
      .filter(({ effect }) => effect.getComputedTiming().endTime !== Infinity);
    if (!found.length) return;
    for (const each of found) each.finish();
    await frame(); // the end of one may be the beginning of another
    await frame();
  }
}"""
"""Ends the animations of a page and of its shadow trees, which the document does not list."""


async def violations(
    page: Page, within: str = "html", *, leave_out: tuple[str, ...] = ()
) -> list[str]:
    """Return the rules that a page breaks, each with the elements that break it.

    Args:
        page: A page in the state that is to be checked: open, empty, disconnected.
        within: A selector; only what it contains is checked, shadow trees included.
        leave_out: Names of rules (https://dequeuniversity.com/rules/axe/).
    """
    # What is fading in has the contrast of its end only at its end. Not what goes round for ever.
    await page.evaluate(FADE_IN)
    # Evaluated by the browser's debugger, which no Content-Security-Policy restricts.
    await page.evaluate(SCRIPT.read_text(encoding="utf-8"))
    rules = {name: {"enabled": False} for name in leave_out}
    options = {"resultTypes": ["violations"], "rules": rules}
    run = "([within, options]) => axe.run(within, options)"
    found: dict[str, Any] = await page.evaluate(run, [within, options])
    return [_told(each) for each in found["violations"]]


def _told(violation: dict[str, Any]) -> str:
    places = [" ".join(map(str, node["target"])) for node in violation["nodes"]]
    return f"{violation['id']}: {violation['help']}: {', '.join(places)}"
