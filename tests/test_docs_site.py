"""The site of the documentation, without the packages that build it.

e2e/test_docs_site.py builds it.
"""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path, PurePosixPath
from posixpath import dirname, join, normpath
from typing import Any

import pytest

from realtime import __version__
from tests.test_docs import DOCS, PAGES, ROOT, anchors

SITE = DOCS / "site"
stage: Any = runpy.run_path(str(SITE / "stage.py"))
versions: Any = runpy.run_path(str(SITE / "versions.py"))
STAGED: dict[str, str] = dict(stage["staged"]())
FENCED = re.compile(r"^( *)```.*?^\1```$", re.M | re.S)


def navigation() -> list[str]:
    """Return the pages of the site in the order of its navigation, without the front page."""
    found = [
        normpath(join(dirname(here), name)) + ".md"
        for here, text in STAGED.items()
        for listed in re.findall(r"^```\{toctree\}\n(?::[^\n]*\n)+\n(.*?)^```$", text, re.M | re.S)
        for name in re.findall(r"^(?:.* <)?([^<>\n]+)>?$", listed, re.M)
    ]
    assert len(found) > 70
    return found


def test_every_page_is_in_the_navigation_exactly_once() -> None:
    listed = navigation()
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) == STAGED.keys() - {"index.md"}


def test_every_page_of_the_documentation_is_on_the_site() -> None:
    """And nothing else but the pages in `OUTSIDE`: a forge shows the others by itself."""
    paths = [str(path.relative_to(ROOT)) for path in PAGES]
    wanted = {path for path in paths if path.startswith("docs/")} | stage["OUTSIDE"].keys()
    assert {stage["place"](path) for path in wanted} == STAGED.keys()
    assert {path for path in paths if stage["place"](path)} == wanted


def test_the_navigation_is_divided_into_tutorial_howto_reference_and_explanation() -> None:
    titles = [section.title for section in stage["sections"]((DOCS / "README.md").read_text())]
    assert titles[0] == "Tutorial"
    assert titles[-2:] == ["Reference", "Explanation"]
    assert {title.partition(":")[0] for title in titles[1:-2]} == {"How-to guides"}


@pytest.mark.parametrize("here", sorted(STAGED))
def test_links_of_the_site_lead_to_its_pages_and_anchors(here: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", STAGED[here])):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        there = normpath(join(dirname(here), name)) if name else here
        if not there.endswith(".md"):
            assert (DOCS / there).is_file(), target
            continue
        assert there in STAGED, target
        if there == "index.md":  # the README, and the map below it
            known = anchors(ROOT / "README.md") | anchors(DOCS / "README.md")
        else:
            known = anchors(source_of(there))
        assert not anchor or anchor in known, target


def source_of(place: str) -> Path:
    """Return the file of a page of the site."""
    [found] = [path for path in PAGES if stage["place"](str(path.relative_to(ROOT))) == place]
    return found


def test_links_to_files_that_are_not_on_the_site_lead_to_the_repository() -> None:
    adapt = stage["adapt"]
    text = "[`jobs.py`](../notifier/jobs.py#a) and [the\nsettings](settings.md#b)"
    known = adapt(text, "docs/jobs.md", "https://forge.example/us/it")
    link = "(https://forge.example/us/it/blob/main/notifier/jobs.py#a)"
    assert known == f"[`jobs.py`]{link} and [the\nsettings](settings.md#b)"
    assert adapt(text, "docs/jobs.md") == "`jobs.py` and [the\nsettings](settings.md#b)"


def test_links_between_folders_follow_the_pages() -> None:
    text = "[a](docs/howto/view.md) [b](docs/adr/) [c](npm/README.md) ![d](docs/plots/cost.svg)"
    adapted = "[a](howto/view.md) [b](adr/index.md) [c](npm.md) ![d](plots/cost.svg)"
    assert stage["adapt"](text, "README.md") == adapted
    text = "[a](../../README.md#the-promise) `[b](c)`\n\n```md\n[d](../e.md)\n```\n"
    assert stage["adapt"](text, "docs/howto/view.md") == text.replace(
        "../../README.md", "../index.md"
    )


def test_the_front_page_has_the_picture_for_light_and_dark() -> None:
    front = STAGED["index.md"]
    assert "<picture>" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<" not in re.sub(r"`[^`]*`", "", FENCED.sub("", front))
    for kind in ("light", "dark"):
        assert f"```{{image}} screenshot-live-{kind}.png\n:class: only-{kind}\n:alt: The" in front


def test_each_picture_of_a_page_is_on_the_site() -> None:
    """In light and dark; `make docs-build` finds a missing one, but it needs other packages."""
    shown = {
        normpath(join("docs", dirname(here), name))
        for here, text in STAGED.items()
        for name in re.findall(r"^```\{image\} (.*)$", text, re.M)
    }
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/screenshot-*.png")}
    assert shown == files


def test_the_site_has_the_version_of_the_package() -> None:
    conf = runpy.run_path(str(SITE / "conf.py"))
    assert conf["release"] == __version__


def test_nothing_of_the_site_is_loaded_from_another_host() -> None:
    ours = [path for path in SITE.rglob("*") if path.suffix in {".css", ".js", ".html", ".py"}]
    assert len(ours) >= 5
    assert not [path for path in ours if re.search(r"(https?:)?//\w+\.\w+", path.read_text())]


# --- versions ---


def build(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "searchindex.js").write_text(text)
    return folder


def test_the_newest_release_is_the_front_page_of_all_versions(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for number, version in enumerate(("main", "0.9", "0.10", "0.1.0")):
        versions["add"](build(tmp_path / f"build{number}", version), site, version)
    assert json.loads((site / "versions.json").read_text()) == ["0.10", "0.9", "0.1.0", "main"]
    assert 'content="0; url=0.10/"' in (site / "index.html").read_text()


def test_a_version_that_is_added_again_is_replaced(tmp_path: Path) -> None:
    site = tmp_path / "site"
    versions["add"](build(tmp_path / "first", "old"), site, "main")
    (site / "main" / "removed.html").touch()
    versions["add"](build(tmp_path / "second", "new"), site, "main")
    assert [path.name for path in (site / "main").iterdir()] == ["searchindex.js"]
    assert (site / "main" / "searchindex.js").read_text() == "new"
    assert json.loads((site / "versions.json").read_text()) == ["main"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", ".hidden", "Main"])
def test_a_version_is_a_plain_folder_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a name for a version"):
        versions["add"](tmp_path, tmp_path / "site", name)
    assert not (tmp_path / "site").exists()


def test_pages_keep_their_paths() -> None:
    """The code, its messages and the README link to them."""
    for path in DOCS.glob("*.md"):
        if path.name != "README.md":
            assert PurePosixPath(stage["place"](f"docs/{path.name}")).name == path.name
