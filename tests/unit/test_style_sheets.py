"""The style sheets of the pages: cascade layers, a readable size, and no dead rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHEETS = {path.name: path for path in sorted((ROOT / "static/notifier/css").glob("*.css"))}
SHARED = {"base.css": "base", "components.css": "components", "header.css": "components"}
"""The layer of each sheet that every page loads; all others style one page."""
LONGEST_LINES = 350
TEMPLATES = [path.read_text(encoding="utf-8") for path in (ROOT / "templates").rglob("*.html")]
GUIDES = (ROOT / "notifier/guides.py").read_text(encoding="utf-8")
"""The one module that writes markup itself."""
SCRIPTS = [path.read_text(encoding="utf-8") for path in (ROOT / "static/notifier").glob("*.js")]
OF_HTMX = {"htmx-request"}
"""Classes that HTMX itself sets."""
LINK = re.compile(r"<link rel=\"stylesheet\" href=\"\{% static 'notifier/css/([a-z]+\.css)' %\}\">")


def rules_of(name: str) -> str:
    """Return a sheet without its comments."""
    return re.sub(r"/\*.*?\*/", "", SHEETS[name].read_text(encoding="utf-8"), flags=re.DOTALL)


def is_mentioned(name: str) -> bool:
    """Tell whether markup or a script uses a class or id, or the prefix of a computed one."""
    if name in OF_HTMX:
        return True
    text = "\n".join([*TEMPLATES, *SCRIPTS, GUIDES])
    if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text):
        return True
    prefix, _, value = name.rpartition("-")  # `icon-${name}`, `hue-${hue(key)}`
    has_value = value.isdigit() or bool(re.search(rf"\b{re.escape(value)}\b", text))
    return bool(prefix) and f"{prefix}-${{" in text and has_value


@pytest.mark.parametrize("name", SHEETS)
def test_a_style_sheet_is_short_enough_to_read(name: str) -> None:
    assert len(SHEETS[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_LINES


@pytest.mark.parametrize("name", SHEETS)
def test_every_rule_belongs_to_the_layer_of_its_sheet(name: str) -> None:
    """Rules outside of all layers override every layer, and an @import delays the page."""
    rules = rules_of(name).strip()
    order = "@layer base, components, page;"
    if name == "base.css":
        assert rules.startswith(order)
        rules = rules.removeprefix(order).strip()
    assert rules.startswith(f"@layer {SHARED.get(name, 'page')} {{")
    assert rules.count("@layer") == 1
    assert "@import" not in rules
    inside = rules[rules.index("{") + 1 : -1]
    depth = 0
    for character in inside:
        depth += (character == "{") - (character == "}")
        assert depth >= 0, "the layer ends before the file does"
    assert depth == 0


@pytest.mark.parametrize("name", SHEETS)
def test_every_class_and_id_in_a_selector_is_used(name: str) -> None:
    selectors = [part for part in re.findall(r"([^{};]+)\{", rules_of(name)) if "@" not in part]
    names = {found for part in selectors for found in re.findall(r"[.#]([a-zA-Z][\w-]*)", part)}
    assert {found for found in names if not is_mentioned(found)} == set()


def test_every_custom_property_is_defined() -> None:
    rules = "".join(map(rules_of, SHEETS))
    defined = set(re.findall(r"(--[\w-]+):", rules))
    assert set(re.findall(r"var\((--[\w-]+)\)", rules)) <= defined


def test_the_order_of_the_layers_is_linked_before_any_other_sheet() -> None:
    base = (ROOT / "templates/notifier/base.html").read_text(encoding="utf-8")
    assert LINK.findall(base) == list(SHARED)
    assert base.rindex("stylesheet") < base.index("{% block style %}")


def test_every_sheet_is_linked_and_by_no_template_twice() -> None:
    linked = [LINK.findall(template) for template in TEMPLATES]
    assert all(len(names) == len(set(names)) for names in linked)
    assert {name for names in linked for name in names} == set(SHEETS)
