"""Lays out the sources of the documentation site: `python docs/site/stage.py DIRECTORY`.

The site has the pages of `docs/` and some of the repository's other Markdown files, as they are.
README.md is its front page, followed by docs/README.md, whose lists are the navigation. Only what
GitHub resolves and a site cannot is rewritten: links out of `docs/`, and pictures in two schemes.

Knows nothing of Sphinx but the directive `toctree`, so that tests need no package for it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MAP = "docs/README.md"
"""The page whose lists are the navigation."""
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "npm/README.md": "npm.md",
}
"""Pages that are not below `docs/`, and their places on the site."""

_FENCE = re.compile(r"^( *)```.*?^\1```$", re.M | re.S)
_LINK = re.compile(r"(!?)\[((?:[^\[\]`]|`[^`]*`)*)\]\(([^)\s]+)\)")
_ITEM = re.compile(r"^[*-] \[([^\]]*)\]\(([^)#\s]+)\)", re.M)
_PICTURE = re.compile(
    r'<picture>\s*<source[^>]*srcset="(?P<dark>[^"]+)">\s*'
    r'<img\s+src="(?P<light>[^"]+)"\s+alt="(?P<alt>[^"]+)"[^>]*>\s*</picture>'
)


class Entry(NamedTuple):
    """A page in the navigation, by its path in the repository; "" for its own title."""

    label: str
    path: str


class Section(NamedTuple):
    """A heading of the navigation with its pages."""

    title: str
    entries: list[Entry]


def place(path: str) -> str | None:
    """Return where a file of the repository is on the site; None if it is not there.

    A README is the first page of its folder.
    """
    if path in OUTSIDE:
        return OUTSIDE[path]
    if path == MAP:
        return OUTSIDE["README.md"]
    if not path.startswith("docs/") or path.startswith("docs/site/"):
        return None
    return re.sub(r"(?<=/)README\.md$", "index.md", path.removeprefix("docs/"))


def sections(text: str) -> list[Section]:
    """Return the navigation: the second-level headings of `MAP` with the items below them."""
    parts = re.split(r"^## (.*)$", text, flags=re.M)[1:]
    return [
        Section(title, [Entry(label, path) for label, path in _items(MAP, items)])
        for title, items in zip(parts[::2], parts[1::2], strict=True)
    ]


def children(path: str, text: str) -> list[Entry]:
    """Return the pages of its folder that the first page of a folder lists."""
    return [Entry("", page) for _, page in _items(path, text) if dirname(page) == dirname(path)]


def _items(path: str, text: str) -> list[tuple[str, str]]:
    """Return the links that begin the items of a page's lists, as labels and paths."""
    return [
        (" ".join(label.split()), normpath(join(dirname(path), link)))
        for label, link in _ITEM.findall(text)
    ]


def repository() -> str:
    """Return the address of the repository, as pyproject.toml gives it; "" if it does not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = {name.lower(): str(url) for name, url in project.get("urls", {}).items()}
    return (urls.get("repository") or urls.get("source") or "").rstrip("/")


def adapt(text: str, path: str, source: str = "") -> str:
    """Return a page as the site needs it.

    Args:
        text: The page, as GitHub shows it.
        path: Where it is in the repository.
        source: The address of the repository. Links to files that are not on the site lead there;
            without it, only their labels remain.

    Raises:
        ValueError: The site does not have this page, or a picture of it.
    """
    here = place(path)
    if here is None:
        raise ValueError(f"{path} is not on the site")

    def picture(found: re.Match[str]) -> str:
        """Return two images, of which the theme shows one."""
        alt = " ".join(found["alt"].split())
        images = []
        for kind in ("light", "dark"):
            there = place(normpath(join(dirname(path), found[kind])))
            if there is None:
                raise ValueError(f"the site does not have {found[kind]}, which {path} shows")
            file = relpath(there, dirname(here) or ".")
            images.append(f"```{{image}} {file}\n:class: only-{kind}\n:alt: {alt}\n```")
        return "\n\n".join(images)

    text = _outside_code(text, lambda prose: _PICTURE.sub(picture, prose))

    def link(found: re.Match[str]) -> str:
        image, label, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        name, sharp, anchor = target.partition("#")
        file = normpath(join(dirname(path), name))
        if (ROOT / file).is_dir() and (ROOT / file / "README.md").exists():
            file = f"{file}/README.md"
        there = place(file)
        if there is None:
            return f"[{label}]({source}/blob/main/{file}{sharp}{anchor})" if source else label
        return f"{image}[{label}]({relpath(there, dirname(here) or '.')}{sharp}{anchor})"

    return _outside_code(text, lambda prose: _LINK.sub(link, prose))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change what is not between fences."""
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])


def toctree(caption: str, entries: list[Entry], here: str) -> str:
    """Return the directive for a part of the navigation, on the page that is here."""
    lines = []
    for label, path in entries:
        name = relpath(str(place(path)).removesuffix(".md"), dirname(here) or ".")
        lines.append(f"{label} <{name}>" if label else name)
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["", "```{toctree}", *options, "", *lines, "```", ""])


def staged() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each page of the site."""
    source = repository()
    paths = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))]
    navigation = sections((ROOT / MAP).read_text(encoding="utf-8"))
    for path in [*OUTSIDE, *paths]:
        here = place(path)
        if path == MAP or here is None:
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        page = adapt(text, path, source)
        if path == "README.md":
            page += _front(source) + "".join(
                toctree(title, entries, here) for title, entries in navigation
            )
        elif path.endswith("/README.md") and path not in OUTSIDE:
            listed = {entry.path for section in navigation for entry in section.entries}
            own = [child for child in children(path, text) if child.path not in listed]
            page += toctree("", own, here) if own else ""
        yield here, page


def _front(source: str) -> str:
    """Return the map as a part of the front page: its headings are one level deeper."""
    text = adapt((ROOT / MAP).read_text(encoding="utf-8"), MAP, source)
    return "\n" + re.sub(r"^#", "##", text, flags=re.M)


def stage(folder: Path) -> None:
    """Write all pages and the files that they show into a directory, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for here, text in staged():
        (folder / here).parent.mkdir(parents=True, exist_ok=True)
        (folder / here).write_text(text, encoding="utf-8")
    for path in (ROOT / "docs").rglob("*"):
        there = place(os.fspath(path.relative_to(ROOT)))
        if path.suffix in {".png", ".svg"} and there is not None:
            (folder / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / there)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
