"""None of our regular expressions can backtrack without limit (CWE-1333).

`re` tries every way to divide a text among the repeats of a pattern. There is only one way, and so
practically no backtracking, if the pattern follows these rules:

* what is repeated holds no repeat itself, and its alternatives begin with different characters;
* two repeats have no character in common, or something stands between them that ends the first;
* a pattern that is searched for, which begins anew at each character, begins with one that none of
  its repeats (but the last) can eat.

The rules check patterns instead of measuring time, so they hold on any machine. Every call of `re`
in our Python code is found in its syntax tree, and every literal in our scripts.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONG = 8
"""Repeats up to this number are harmless."""
SEARCHING = {"search", "sub", "subn", "split", "findall", "finditer"}
BEYOND, SPACE_BEYOND, DIGIT_BEYOND = 256, 257, 258  # Latin-1
ALL = frozenset(range(259))
SPACES = frozenset(map(ord, " \t\n\r\f\v\x1c\x1d\x1e\x1f\x85\xa0")) | {SPACE_BEYOND}
CLASSES = {
    sre.CATEGORY_DIGIT: frozenset(range(48, 58)) | {DIGIT_BEYOND},
    sre.CATEGORY_SPACE: SPACES,
    sre.CATEGORY_NOT_SPACE: ALL - SPACES,
}


class Found(NamedTuple):
    where: str
    pattern: Any
    flags: int
    is_searched: bool


class Repeat(NamedTuple):
    characters: frozenset[int]


class Single(NamedTuple):
    characters: frozenset[int]


class Check(NamedTuple):
    """Checks a position and consumes no character: ``$``, ``(?=…)``."""

    characters: frozenset[int] = frozenset()


# --- all patterns in the code ---


def python_patterns() -> Iterator[Found]:
    for path in sorted([*ROOT.glob("realtime/**/*.py"), *ROOT.glob("notifier/**/*.py")]):
        source = path.read_text()
        if "import re\n" not in source:
            continue
        tree = ast.parse(source)
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = vars(importlib.import_module(name))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            function = call.func
            if not (isinstance(function, ast.Attribute) and _is_re(function.value)):
                continue
            if function.attr == "escape":
                continue
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            # A pattern that is not a constant of its module is a NameError here: none is built at
            # run time.
            pattern = eval(compile(ast.Expression(call.args[0]), where, "eval"), module)
            flags = [eval(ast.unparse(arg), module) for arg in call.args if _is_flag(arg)]
            compiled = re.compile(pattern, sum(flags))
            names = [key for key, value in module.items() if value == compiled]
            searched = any(f"{key}.{verb}(" in source for key in names for verb in SEARCHING)
            yield Found(where, pattern, sum(flags), function.attr in SEARCHING or searched)


def _is_re(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "re"


def _is_flag(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and _is_re(node.value)


LITERAL = re.compile(
    r"(?:\(|=> |, |= )"
    r"/((?:[^/\\\n*\[]|\\.|\[[^\]\n]+\])(?:[^/\\\n\[]|\\.|\[[^\]\n]+\])*)/"
    r"[gimsuy]*[.,)]"
)


def script_patterns() -> Iterator[Found]:
    for path in [*ROOT.glob("realtime/static/**/*.js"), *ROOT.glob("static/notifier/*.js")]:
        source = path.read_text()
        assert "RegExp(" not in source, path
        for number, line in enumerate(source.splitlines(), 1):
            if not line.lstrip().startswith(("//", "*", "/*")):
                for match in LITERAL.finditer(line):
                    yield Found(f"{path.relative_to(ROOT)}:{number}", match[1], 0, True)


PATTERNS = [*python_patterns(), *script_patterns()]


# --- the rules ---


def faults(pattern: Any, flags: int = 0, *, is_searched: bool) -> list[str]:
    tree = parser.parse(pattern, flags)
    found: list[str] = []
    for flat in _flat(list(tree), found):
        repeats = [n for n, part in enumerate(flat) if isinstance(part, Repeat)]
        for n, first in enumerate(repeats):
            for second in repeats[n + 1 :]:
                one = flat[first].characters
                between = flat[first + 1 : second]
                is_ended = any(type(p) is Single and not p.characters & one for p in between)
                if one & flat[second].characters and not is_ended:
                    found.append("two repeats share characters")
        if is_searched and flat:
            eaten = [flat[n].characters for n in repeats if n < len(flat) - 1]
            begins = flat[0].characters
            if eaten and (repeats[0] == 0 or any(begins & one for one in eaten)):
                found.append("is searched for, and a repeat can eat its beginning")
    return found


def _flat(parts: list[Any], found: list[str]) -> list[list[Any]]:
    """Return each way through a pattern as a list of `Repeat` and `Single`."""
    ways: list[list[Any]] = [[]]
    for op, value in parts:
        ways = [way + more for way in ways for more in _ways(op, value, found)]
        assert len(ways) < 1000
    return ways


def _ways(op: Any, value: Any, found: list[str]) -> list[list[Any]]:
    if op in (sre.AT, sre.ASSERT, sre.ASSERT_NOT):
        return [[Check()]]
    if op is sre.SUBPATTERN:
        return _flat(list(value[-1]), found)
    if op is sre.BRANCH:
        return [way for branch in value[1] for way in _flat(list(branch), found)]
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        least, most, body = value
        ways = _flat(list(body), found)
        if most <= LONG or least == most:
            once = [way * min(int(most), 2) for way in ways]
            return once if least else [[], *once]
        return [[_repeat(ways, found)]]
    return [[Single(_characters(op, value))]]


def _repeat(ways: list[list[Any]], found: list[str]) -> Repeat:
    if any(isinstance(part, Repeat) for way in ways for part in way):
        found.append("a repeat within a repeat")
    if not all(ways):
        found.append("repeats what may be nothing")
    begins = [way[0].characters for way in ways if way]
    if sum(map(len, begins)) != len(frozenset().union(*begins)):
        found.append("repeats alternatives that begin alike")
    return Repeat(frozenset().union(*(part.characters for way in ways for part in way)))


def _characters(op: Any, value: Any) -> frozenset[int]:
    if op is sre.LITERAL:
        return frozenset({min(value, BEYOND)})
    if op is sre.NOT_LITERAL:
        return ALL - {value}
    if op is sre.ANY:
        return ALL
    assert op is sre.IN, op
    inside: frozenset[int] = frozenset()
    for kind, what in value:
        if kind is sre.LITERAL:
            inside |= {min(what, BEYOND)}
        elif kind is sre.RANGE:
            first, last = (min(code, BEYOND) for code in what)
            inside |= frozenset(range(first, last + 1))
        elif kind is sre.CATEGORY:
            inside |= CLASSES[what]
    is_all_but = value[0][0] is sre.NEGATE
    return (ALL - inside) | {BEYOND} if is_all_but else inside


# --- the tests ---


@pytest.mark.parametrize("found", PATTERNS, ids=lambda found: found.where)
def test_no_regular_expression_can_backtrack(found: Found) -> None:
    assert faults(found.pattern, found.flags, is_searched=found.is_searched) == []


def test_the_search_finds_regular_expressions() -> None:
    """Otherwise a change of style could hide a pattern."""
    said = sum(
        len(re.findall(r"\bre\.(?:compile|match|fullmatch|search|sub|split)\(", path.read_text()))
        for folder in ("realtime", "notifier")
        for path in ROOT.glob(f"{folder}/**/*.py")
    )
    assert len([found for found in PATTERNS if ".py:" in found.where]) == said > 20
    assert len([found for found in PATTERNS if ".js:" in found.where]) >= 5


@pytest.mark.parametrize("module", ["fnmatch", "glob"])
def test_no_pattern_is_translated_to_a_regular_expression(module: str) -> None:
    """Both functions translate a pattern into a regular expression."""
    for path in [*ROOT.glob("realtime/**/*.py"), *ROOT.glob("notifier/**/*.py")]:
        assert not re.search(rf"^(?:import|from) {module}\b", path.read_text(), re.M), path


@pytest.mark.parametrize(
    ("pattern", "is_searched"),
    [
        ("(a+)+b", False),
        ("(?:a|ab)+c", False),
        ("(?:a?)*b", False),
        (".*a.*a.*b", False),
        ("a*[ab]*c", False),
        (r"\d+\d+x", False),
        (r"([a-z]\d*)+", False),
        ("-+$", True),
        (r"\s+x", True),
        ("a[ab]*c", True),
    ],
)
def test_exploding_expressions_are_found(pattern: str, is_searched: bool) -> None:
    assert faults(pattern, is_searched=is_searched)


@pytest.mark.parametrize(
    ("pattern", "is_searched"),
    [
        ("[a-z]+-[a-z-]+x", False),
        (r"\s+", True),
        (r"\{([a-z]+)\}", True),
        ("(?:[ab]|%[0-9]{2})+", False),
    ],
)
def test_safe_expressions_are_allowed(pattern: str, is_searched: bool) -> None:
    assert faults(pattern, is_searched=is_searched) == []
