"""Renders the guides, which are the Markdown files below ``docs/``, as pages of the service.

What GitHub shows and a page cannot is adapted: links to other guides lead to their pages, links to
other files of the project are plain text, and a picture is its description.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import TYPE_CHECKING, NamedTuple

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token
    from markdown_it.utils import EnvType, OptionsDict

NAME = "[a-z0-9-]{1,64}(?:/[a-z0-9-]{1,64})?"
"""The form of a guide's name: its path below ``docs/``, without the suffix. File systems refuse to
look for names of more than 255 bytes."""
MAP = "readme"
"""The guide whose lists name all others in their order."""
SUMMARY_LEVEL = "h2"
"""Headings of this level are in the table of contents."""
CACHED_GUIDES = 128

_ALT = re.compile(r'\balt="([^"]*)"')


class Heading(NamedTuple):
    """A heading, and the id that links name."""

    id: str
    text: str


class Guide(NamedTuple):
    """A guide, rendered."""

    title: str
    html: SafeString
    headings: list[Heading]


class GuideLink(NamedTuple):
    """A guide in the list of all."""

    label: str
    name: str


def folder() -> Path:
    """Return where the guides are."""
    return Path(__file__).resolve().parent.parent / "docs"


def file_of(name: str) -> Path | None:
    """Return the file of a guide; None if there is no such guide. A README is named ``readme``."""
    if re.fullmatch(NAME, name) is None:
        return None
    path = folder() / f"{name.replace('readme', 'README')}.md"
    return path if path.is_file() else None


def exists(name: str) -> bool:
    """Tell whether there is such a guide."""
    return file_of(name) is not None


@never_cache
@require_safe
def page(request: HttpRequest, name: str) -> HttpResponse:
    """Show a guide; 404 if there is none of this name."""
    path = file_of(name)
    if path is None:
        raise Http404
    context = {
        "guide": read_guide(name, path.stat().st_mtime_ns),
        "name": name,
        "groups": all_guides(),
    }
    return render(request, "notifier/guide.html", context)


@lru_cache(CACHED_GUIDES)
def read_guide(name: str, _changed_at: int) -> Guide:
    """Render a guide, which must exist; again when its file has changed."""
    path = file_of(name)
    assert path is not None  # noqa: S101 - see the docstring
    tokens = _parser.parse(path.read_text(encoding="utf-8"))
    _adapt(tokens, path.relative_to(folder()).as_posix())
    headings = _name_headings(tokens)
    title = name
    if headings and headings[0][0] == "h1" and tokens[0].tag == "h1":  # the template shows it
        title, tokens = headings[0][2], tokens[3:]
    html = _parser.renderer.render(tokens, _parser.options, {})
    summary = [Heading(anchor, text) for tag, anchor, text in headings if tag == SUMMARY_LEVEL]
    # The source is the project's own, markup in it is left out, and the renderer escapes the rest.
    return Guide(title, mark_safe(html), summary)  # noqa: S308


def all_guides() -> dict[str, list[GuideLink]]:
    """Return the guides of the map by its headings; {} if there is none."""
    path = file_of(MAP)
    return _read_map(path.stat().st_mtime_ns) if path else {}


@lru_cache(1)
def _read_map(_changed_at: int) -> dict[str, list[GuideLink]]:
    path = folder() / "README.md"
    groups: dict[str, list[GuideLink]] = {}
    current: list[GuideLink] = []
    before: Token | None = None
    for token in _parser.parse(path.read_text(encoding="utf-8")):
        if token.type == "inline" and before is not None:
            if before.tag == SUMMARY_LEVEL:
                current = groups.setdefault(token.content, [])
            elif before.type == "paragraph_open":
                current += _first_link(token)
        before = token
    return {title: links for title, links in groups.items() if links}


def _first_link(inline: Token) -> Iterator[GuideLink]:
    """Yield the guide with whose link a text begins, if it does."""
    children = inline.children or []
    if children and children[0].type == "link_open":
        name = _guide_of(str(children[0].attrs.get("href", "")), "README.md")
        if name is not None:
            yield GuideLink(_text_of(children[1 : _end_of_link(children)]), name)


def _end_of_link(children: Sequence[Token]) -> int:
    return next(n for n, token in enumerate(children) if token.type == "link_close")


# --- adapting what is rendered ---


def _adapt(tokens: Sequence[Token], path: str) -> None:
    """Change what a page cannot show. ``path`` is that of the file, below the folder."""
    for number, token in enumerate(tokens):
        if token.type == "html_block":
            _describe(token)
        if token.type == "th_open" and not tokens[number + 1].content:  # it is the head of nothing
            token.tag = tokens[number + 2].tag = "td"
        token.attrs.pop("style", None)  # the alignment of a cell; our policy forbids styles
        is_link: list[bool] = []
        for child in token.children or ():
            if child.type == "link_open":
                is_link.append(_lead(child, path))
            elif child.type == "link_close" and not is_link.pop():
                child.tag = "span"
            elif child.type == "html_inline":
                _describe(child)
            elif child.type == "image":
                _describe(child, child.content)


def _describe(token: Token, words: str = "") -> None:
    """Replace markup or a picture by the picture's description."""
    found = _ALT.search(token.content) if not words else None
    token.type, token.tag, token.children = "text", "", None
    token.content = words or (found[1] if found else "")


def _lead(link: Token, path: str) -> bool:
    """Let a link lead to the page of a guide; make it plain text if it has no page."""
    href = str(link.attrs.get("href", ""))
    if re.match("[a-z]+:|#", href):
        return True
    name = _guide_of(href, path)
    if name is None:
        link.tag, link.attrs = "span", {}
        return False
    _, hash_sign, fragment = href.partition("#")
    link.attrs["href"] = f"{reverse('guide', args=[name])}{hash_sign}{fragment}"
    return True


def _guide_of(href: str, path: str) -> str | None:
    """Return the name of the guide that a link in a file leads to; None if it is something else."""
    target = normpath(join(dirname(path), href.partition("#")[0]))
    name = target.removesuffix(".md").replace("README", "readme")
    return name if target.endswith(".md") and exists(name) else None


def _name_headings(tokens: Sequence[Token]) -> list[tuple[str, str, str]]:
    """Give each heading the id that GitHub gives it; return tag, id and text of each."""
    found: list[tuple[str, str, str]] = []
    taken: dict[str, int] = {}
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            text = _text_of(inline.children or ())
            kept = (each for each in text.lower() if each.isalnum() or each in "-_ ")
            slug = "".join(kept).replace(" ", "-")
            count = taken[slug] = taken.get(slug, -1) + 1
            token.attrs["id"] = f"{slug}-{count}" if count else slug
            found.append((token.tag, str(token.attrs["id"]), text))
    return found


def _text_of(children: Iterable[Token]) -> str:
    return "".join(each.content or (" " if each.type == "softbreak" else "") for each in children)


# --- the renderer ---


def _code(
    _self: RendererHTML, tokens: Sequence[Token], index: int, _options: OptionsDict, _env: EnvType
) -> str:
    """Return code as the other pages show it; the keyboard can scroll it."""
    text = escape(tokens[index].content.removesuffix("\n"))
    pre = f'<pre tabindex="0" role="group" aria-label="Code"><code>{text}</code></pre>'
    return f'<div class="code">{pre}</div>\n'


def _table(
    _self: RendererHTML, tokens: Sequence[Token], index: int, _options: OptionsDict, _env: EnvType
) -> str:
    opens = tokens[index].nesting > 0
    wrap = '<div class="wide" tabindex="0" role="group" aria-label="Table">'
    return f"{wrap}<table>\n" if opens else "</table></div>\n"


def _make_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable("table")
    for name in ("fence", "code_block"):
        parser.add_render_rule(name, _code)
    for name in ("table_open", "table_close"):
        parser.add_render_rule(name, _table)
    return parser


_parser = _make_parser()
