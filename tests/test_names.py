"""Names: each public class has its own, the glossary explains what is not plain, functions act."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from realtime.connection.decisions import Decision
from realtime.protocols import Command

ROOT = Path(__file__).parent.parent
GLOSSARY_PATH = ROOT / "docs/glossary.md"
GLOSSARY = GLOSSARY_PATH.read_text(encoding="utf-8")
TERMS = re.findall(r"\*\*([^*]+)\*\*", GLOSSARY)

NAMED_BY_DJANGO = {"Command", "Migration"}
"""Django finds management commands and migrations by these names."""
EXPLAINED = ("core", "protocols", "identity", "brokers", "connection", "delivery", "fallbacks")
"""The packages whose one-word class names the glossary must explain."""
PLAIN = {
    "Announcement", "Announcer", "Authentication", "Bucket", "Close", "Connector", "Credentials",
    "Dispatcher", "Durability", "Email", "Failure", "Glob", "Histogram", "Limits", "Liveness",
    "Message", "Metric", "Neighbours", "Origin", "Pattern", "Question", "Receiver", "Script",
    "Sizes", "Stats", "Subscribed", "Subscriber", "Threads", "Throttle", "Tokens", "Unsubscribed",
    "Users", "Watchdog", "Webhook",
}  # fmt: skip
"""Words that every programmer knows in this sense. If in doubt, explain a name in the glossary."""


def public_classes(package: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the file of each public class at the top level of a module."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name, str(path.relative_to(ROOT))


def twice(classes: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names that more than one class has, with their files."""
    places = defaultdict(list)
    for name, file in classes:
        if name not in NAMED_BY_DJANGO:
            places[name].append(file)
    return {name: files for name, files in places.items() if len(files) > 1}


def test_no_public_class_name_is_used_twice():
    found = twice([*public_classes(ROOT / "realtime"), *public_classes(ROOT / "notifier")])
    assert not found, "give one of each pair a more specific name"


def test_duplicate_class_names_are_found():
    classes = [("Node", "a.py"), ("Hub", "a.py"), ("Node", "b.py"), *[("Command", "c.py")] * 2]
    assert twice(classes) == {"Node": ["a.py", "b.py"]}


def is_explained(name: str) -> bool:
    """Tell whether the glossary has the name of a class, in the singular or plural."""
    known = {re.sub("[- ]", "", term.lower()) for term in TERMS}
    return bool({name.lower(), name.lower().removesuffix("s"), f"{name.lower()}s"} & known)


UNIONS = {kind.__name__ for union in (Command, Decision) for kind in get_args(union)}
"""Unions of classes: the glossary explains *command* and *decision*."""
ONE_WORD = sorted(
    {
        name
        for package in EXPLAINED
        for name, _ in public_classes(ROOT / "realtime" / package)
        if re.fullmatch("[A-Z][a-z]+", name)
    }
)


@pytest.mark.parametrize("name", ONE_WORD)
def test_a_class_name_of_one_word_is_plain_or_in_the_glossary(name):
    assert name in PLAIN | UNIONS or is_explained(name), "rename it, or explain it in the glossary"


def test_unexplained_class_names_are_found():
    assert is_explained("Hub")
    assert is_explained("Pushes")
    assert not is_explained("Clerk")


def test_plain_names_are_used_and_not_in_the_glossary():
    assert set(ONE_WORD) >= PLAIN
    assert [name for name in PLAIN if is_explained(name)] == []


IRREGULAR = (
    "begun|born|bound|broken|built|came|caught|chosen|done|drawn|driven|found|gave|given|gone|got|"
    "grown|heard|held|hidden|kept|known|left|lost|made|meant|met|overslept|paid|said|seen|sent|"
    "shown|sold|spent|spoken|stood|taken|taught|thought|told|torn|understood|went|won|written"
)
NO_PARTICIPLES = "(?!(?:embed|exceed|feed|need|proceed|seed|shed|speed|succeed)$)"
PARTICIPLE = re.compile(
    rf"_*{NO_PARTICIPLES}(?:[a-z]+ed|{IRREGULAR})(?:_(?:again|async|at|away|by|in|of|off|out|up|"
    r"since|until))?"
)
"""A state where a verb is meant. *checked_channel* is a noun: it says what is returned."""
READ_LIKE_STATES = ("property", "contextmanager", "fixture")
"""Decorators whose functions are read where a state is: ``with corked():``."""


def participles(package: Path) -> Iterator[str]:
    """Yield each function that is called by a bare participle, as ``name in file``."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                decorators = " ".join(map(ast.unparse, node.decorator_list))
                if PARTICIPLE.fullmatch(node.name) and not any(
                    each in decorators for each in READ_LIKE_STATES
                ):
                    yield f"{node.name} in {path.relative_to(ROOT)}"


@pytest.mark.parametrize("package", ["realtime", "notifier"])
def test_a_function_is_not_called_by_a_bare_participle(package):
    assert [*participles(ROOT / package)] == [], "say what it does: a verb, or what it returns"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *(("told", True), ("_checked", True), ("told_since", True), ("made_async", True)),
        *(("tell", False), ("shed", False), ("checked_channel", False), ("note_failed", False)),
    ],
)
def test_participles_are_found(name, is_one):
    assert bool(PARTICIPLE.fullmatch(name)) is is_one


CLASS_TERMS = re.findall(
    r"\*\*([^*]+)\*\*", GLOSSARY.partition("## Classes with a name of one word")[2]
)
CLASSES_IN_PROSE = re.findall(r"`([A-Z][a-z]\w*)`", GLOSSARY)
CLASS_NAMES = {name for name, _ in public_classes(ROOT / "realtime")}


@pytest.mark.parametrize("term", CLASS_TERMS)
def test_a_glossary_term_that_stands_for_a_class_is_one(term):
    assert term.capitalize() in CLASS_NAMES, "the class was renamed or removed"


@pytest.mark.parametrize("name", CLASSES_IN_PROSE)
def test_a_class_that_the_glossary_names_exists(name):
    assert name in CLASS_NAMES, "the class was renamed or removed"


WRITTEN = "\n".join(
    path.read_text(encoding="utf-8").lower()
    for place in ("realtime/**/*", "notifier/**/*", "tests/support/*", "docs/*")
    for path in sorted(ROOT.glob(place))
    if path.suffix in {".py", ".js", ".lua", ".html", ".md"}
    and path not in {GLOSSARY_PATH, Path(__file__)}
)


def is_in_use(term: str) -> bool:
    """Tell whether code or pages use a term, also `in flight` as `in_flight`, or as `Fanout`."""
    words = map(re.escape, re.split("[- ]", term.lower()))
    return re.search(rf"(?<![a-z]){'[-_ ]?'.join(words)}", WRITTEN) is not None


@pytest.mark.parametrize("term", TERMS)
def test_every_glossary_term_is_used(term):
    assert is_in_use(term), "neither code nor pages use this term"


def test_unused_glossary_terms_are_found():
    assert is_in_use("idempotency key")
    assert not is_in_use("attendance")
