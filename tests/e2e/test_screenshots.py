"""The pictures of the docs are made by a script, so they can be made again for each version."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.support.screenshots import PICTURES, SCHEMES, make
from tests.support.service import ROOT

FILES = {f"screenshot-{name}-{scheme}.png" for name in PICTURES for scheme in SCHEMES}


@pytest.mark.browser
def test_the_script_makes_each_picture(tmp_path: Path) -> None:
    asyncio.run(make(tmp_path, schemes=("dark",)))
    made = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(made) == {name for name in FILES if "dark" in name}
    assert all(picture.startswith(b"\x89PNG") for picture in made.values())


def test_the_docs_show_each_picture_of_the_script_and_no_other() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {
        name for page in pages for name in re.findall(r"screenshot-[a-z-]+\.png", page.read_text())
    }
    assert shown == FILES
    assert {file.name for file in (ROOT / "docs").glob("screenshot-*")} == FILES
