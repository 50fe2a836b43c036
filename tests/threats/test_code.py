"""Things that the code must not do because they could be exploited: every file is searched."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sorted(path for name in ("realtime", "notifier") for path in (ROOT / name).rglob("*.py"))
LUA = sorted((ROOT / "realtime").rglob("*.lua"))
PAGES = sorted(
    path
    for folder in ("static", "templates", "realtime/static", "realtime/templates", "notifier")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".js", ".mjs", ".html", ".svg", ".css"}
)

MARKUP = re.compile(
    r"(?<!hx-swap=\")(?:innerHTML|outerHTML)|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser"
    r"|srcdoc|\beval\s*\(|new Function"
    r"|setTimeout\(\s*[\"'`]|setInterval\(\s*[\"'`]|javascript:(?=\S)"
    r"|\bon[a-z]+\s*=\s*[\"']|<script(?![^>]*\bsrc=)(?![^>]*application/json)|\|\s*safe\b"
    r"|autoescape off|mark_safe|<base\b|style\s*=\s*[\"']|<style"
    r"|responseType.*document|setHTML|parseHTML",
    re.I,
)
FRAGMENTS = {
    "realtime/static/realtime/bell.js": ["responseType"],  # the host's own fragment (ADR-0044)
    "static/notifier/badge.js": ["strokeStyle", *["fillStyle"] * 3],  # colors of a canvas
    "static/notifier/start.js": ["return `<script"],  # shown as text, to be pasted
}
"""Files that insert or show markup, each with the words of the only lines that do."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_data_becomes_markup_or_code_in_a_page(path: Path) -> None:
    found = [
        f"{number}: {line.strip()}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MARKUP.search(line) and not (path.suffix == ".svg" and "style" in line)
    ]
    known = FRAGMENTS.get(name(path), [])
    assert len(found) == len(known), found
    assert all(word in line for word, line in zip(known, found, strict=True)), found


def test_the_search_for_markup_finds_it() -> None:
    for bad in (
        "a.innerHTML = b",
        '<a onclick="x()">',
        "<script>x()</script>",
        "{{ a|safe }}",
        "setTimeout('x()', 1)",
        "new Function(x)",
        '<b style="x">',
        'request.responseType = "document"',
    ):
        assert MARKUP.search(bad), bad
    for good in ('<script type="module" src="x.js">', "node.textContent = text", "on = 5"):
        assert not MARKUP.search(good), good


UNPICKLING = {
    *("pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"),
    *("xml", "lxml", "joblib", "code", "codeop"),
}
EXECUTING = {"eval", "exec", "compile", "__import__"}


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_input_from_redis_or_clients_is_unpickled_or_executed(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not set(imported(tree)) & UNPICKLING
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & EXECUTING


@pytest.mark.parametrize("path", LUA, ids=name)
def test_a_script_in_redis_executes_its_arguments(path: Path) -> None:
    assert not re.search(
        r"\bloadstring|\bload\s*\(|\bdofile|cmsgpack|struct\.unpack",
        path.read_text(encoding="utf-8"),
    )


CLOCKS = {
    "realtime/auth/sessions.py",  # a session's end is a date in the database
    "realtime/host/signals.py",  # likewise
    "realtime/delivery/hub.py",  # passes it on, too
    "realtime/delivery/fanout.py",  # measures how old a publication is, which has a date
    "realtime/api/control.py",  # a block ends at a date
    "realtime/brokers/diagnosis.py",  # compares the clock of Redis with ours
    "notifier/check/database.py",  # and that of the database
    "notifier/samples.py",  # shows it in a sample
    "notifier/token_command.py",  # says to a person until when a token is valid
    "notifier/monitor.py",  # says to people when the numbers were read
    "realtime/wiring/tracing.py",  # says to all nodes when a publication was accepted
    "realtime/wiring/parts.py",  # passes it on as the clock of tokens
    "realtime/host/user_tokens.py",  # makes tokens
    "realtime/brokers/memory/shared.py",  # dates entries for people, by a clock read once
    "realtime/fallbacks/worker.py",  # says to people when something failed
    "realtime/management/commands/fallback.py",  # and how long ago that was
    "realtime/fallbacks/handlers/webhook.py",  # signs when it was sent
    "realtime/contrib/outbox/relay.py",  # dates rows for people, and deletes the old ones
    "realtime/contrib/outbox/views.py",  # passes it on as the clock of tokens
    "realtime/contrib/webpush/sending.py",  # signs until when a message is ours
    "realtime/contrib/calls.py",  # waits until a date
    "realtime/contrib/state_publisher.py",  # says when something was said
    "realtime/contrib/records.py",  # when machines heard of a task; they share no other clock
    "notifier/job_views.py",  # a job's age is a date in the database
    "notifier/order_views.py",  # an order's, too; and people are told when it happened
}


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_a_clock_change_breaks_timers(path: Path) -> None:
    """Only tokens use the wall clock; every deadline uses the monotonic one."""
    wall = re.findall(r"\btime\.time(?:_ns)?\b|\bnow\(|utcnow", path.read_text(encoding="utf-8"))
    assert not wall or name(path) in CLOCKS
