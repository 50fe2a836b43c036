"""Follows docs/tutorial.md to the letter, in an empty folder: its files and commands, in order."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page

from tests.support.host import Host, foreign_environment
from tests.support.pages import PATIENCE, becomes_true, in_browser_loop, own_contexts
from tests.support.ports import free_port
from tests.support.service import ROOT

TEXT = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
STEP = re.compile(
    r"^`(?P<name>[\w./]+)`(?P<end>, at the end)?:\n\n```\w+\n(?P<text>.*?)^```$"
    r"|^```sh\n(?P<lines>.*?)^```$",
    re.M | re.S,
)
INSTALLS = ("python -m venv ", ". .venv/", "python -m pip install ")
"""Commands that bring what the environment of the tests has."""
SERVE = "python manage.py runserver"


class Reader(Host):
    """A person who follows the tutorial in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = foreign_environment() | {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": programs}
        self.outputs: dict[str, str] = {}

    def follow(self) -> Iterator[str]:
        """Do what the page says; yield instead of each command that serves."""
        for step in STEP.finditer(TEXT):
            if step["name"]:
                path = self.folder / step["name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a" if step["end"] else "w", encoding="utf-8") as file:
                    file.write(step["text"])
                continue
            for line in step["lines"].splitlines():
                if line == SERVE:
                    yield line
                elif not line.startswith(INSTALLS):
                    done = self._done(["sh", "-c", line])
                    self.outputs[line] = done.stdout + done.stderr


def test_the_steps_use_every_block_of_the_page() -> None:
    assert len(STEP.findall(TEXT)) == len(re.findall(r"^```\w", TEXT, re.M))
    assert [step["lines"].count(SERVE) for step in STEP.finditer(TEXT) if step["lines"]] == [
        0, 1, 0, 0, 1, 1, 0,
    ]  # fmt: skip


@pytest.mark.browser
@in_browser_loop
async def test_the_tutorial_leads_to_a_page_that_catches_up_by_itself(
    tmp_path: Path, chromium: Browser
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    reader = Reader(folder)
    port = free_port()
    serves = reader.follow()

    def serve(log: str, probe: str = "/"):
        return reader.served(
            tmp_path / log, "manage.py", "runserver", "--noreload", probe=probe, port=port
        )

    async with own_contexts(chromium) as browser:
        one, other = [await browser.new_page() for _ in range(2)]

        # The page that is not live.
        await asyncio.to_thread(next, serves)
        with serve("plain") as url:
            for page in (one, other):
                await page.goto(url)
            await one.get_by_role("button", name="Vote for Tea").click()
            await shows(one, "Tea: 1")
            assert await other.get_by_text("Tea: 0").count() == 1

        # The live one.
        await asyncio.to_thread(next, serves)
        with serve("live", "/live/readyz") as url:
            for page in (one, other):
                await page.add_init_script(
                    "document.addEventListener('realtime:subscribed',"
                    " () => { window.isLive = true; })"
                )
                await page.goto(url)
                await becomes_true(page, "window.isLive")
            # The voter gets a new page, which has to be whole before the server stops: a page of
            # Chromium that says "refused to connect" never becomes live.
            async with one.expect_navigation(timeout=PATIENCE * 30_000):
                await one.get_by_role("button", name="Vote for Coffee").click()
            await becomes_true(one, "window.isLive")
            await shows(other, "Coffee: 1")

        # What nobody published.
        await asyncio.to_thread(next, serves)
        with serve("again", "/live/readyz"):
            for page in (one, other):
                await shows(page, "Tea: 40")

    assert await asyncio.to_thread(next, serves, "the end") == "the end"
    assert "no issues" in reader.outputs["python manage.py check"]
    assert "OK" in reader.outputs["python manage.py test polls"]


async def shows(page: Page, text: str) -> None:
    """Wait until a page shows a text; after a gap, it waits for up to ten seconds itself."""
    await page.get_by_text(text).wait_for(timeout=PATIENCE * 30_000)
