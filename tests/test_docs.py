"""Compares the documentation with the code wherever they must agree.

The page about the HTTP API has its own test, which runs its examples (e2e/test_docs_http_api.py),
and so has the page for hosts (e2e/test_wheel.py). The Redis users are tested in
e2e/test_redis_access.py, and the environment of a deployment in e2e/test_setup.py.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from itertools import combinations
from pathlib import Path

import pytest
from django.core.management import get_commands

from notifier import http, http_unread, listening, login_limit
from notifier.command_help import ENVIRONMENT
from notifier.database import POOL
from notifier.env import SECRETS, read_environment
from notifier.launcher import write_welcome
from realtime import __version__
from realtime.api.cloudevent_routes import ATTRIBUTES_LIMIT, RULES_LIMIT
from realtime.api.fields import REASON_BYTES
from realtime.api.key_entries import PATTERNS_LIMIT
from realtime.api.methods import METHODS
from realtime.connection.flow import OUTSTANDING_PINGS
from realtime.connection.outbox import UNDROPPABLE_BYTES
from realtime.core import codes, paths
from realtime.core.identity import USER_LIMIT
from realtime.core.json_text import DATA_LIMIT, DEPTH_LIMIT
from realtime.core.limits import MANY_BYTES, PUBLISH_BYTES
from realtime.core.members import ANSWER_BYTES, MEMBERS_LIMIT, PUSHES_BURST
from realtime.core.namespaces import Namespace
from realtime.core.publication import OPTIONS_LIMIT, TAG_VALUE_LIMIT, TAGS_LIMIT
from realtime.core.survey import CHANNELS_LIMIT as CHANNELS_LISTED
from realtime.fallbacks.handlers.email import SUBJECT_LIMIT
from realtime.fallbacks.posting import LOOK_UPS_LIMIT
from realtime.identity.ended_sessions import ENDED_LIMIT
from realtime.identity.tokens import (
    CHANNELS_LIMIT,
    INFO_BYTES,
    LEEWAY_SECONDS,
    MARK_LIMIT,
)
from realtime.protocols import BadFrame, centrifugo
from realtime.routing import websocket_urlpatterns
from realtime.wiring import USUAL_CHANNELS
from tests.support import metrics_table, prose
from tests.support.host import files_of
from tests.support.settings_tables import with_tables
from tests.unit.test_tokens import TAKEN

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "npm/README.md"])
CODE = sorted(
    path
    for folder in ("realtime", "notifier", "tests")
    for path in (ROOT / folder).rglob("*.*")
    if path.suffix in {".py", ".lua", ".js", ".mjs"} and "node_modules" not in path.parts
)
READ_ELSEWHERE = {
    "FORWARDED_ALLOW_IPS",  # uvicorn
    "NOTIFIER_RUN_DIR",  # notifier.servicefile, before there is an environment to read
}


def page(name: str) -> str:
    return prose.read(DOCS / name)


def section(text: str, heading: str) -> str:
    """Return the text under a heading, up to the next heading that is not below it."""
    level = heading.index(" ")
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{level}}} |\Z)", text, re.M | re.S)
    assert found is not None, f"there is no {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables, without headers and separators."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rulers = [n for n, row in enumerate(table) if set("".join(row)) <= set("- ")]
    return [row for n, row in enumerate(table) if n not in rulers and n + 1 not in rulers]


def code(cell: str) -> str:
    """Return the code at the start of a cell, which is in backticks."""
    found = re.match(r"`([^`]+)`", cell)
    return found[1] if found else ""


# --- settings ---


def test_settings_tables_match_their_declarations():
    text = page("settings.md")
    assert text == with_tables(text), "run python -m tests.support.settings_tables"


def test_the_tables_of_metrics_match_their_declarations():
    text = page("metrics.md")
    assert text == metrics_table.with_tables(text), "run python -m tests.support.metrics_table"


def test_every_namespace_option_is_documented_with_its_default():
    table = rows(section(page("settings.md"), "## Namespaces"))
    defaults = {field.name: getattr(Namespace(), field.name) for field in fields(Namespace)}
    assert {code(row[0]): ast.literal_eval(code(row[1])) for row in table} == defaults


def test_every_environment_variable_is_documented():
    table = rows(section(page("settings.md"), "## The service: its environment"))
    files = {f"{name}_FILE" for name in SECRETS}
    assert {code(row[0]) for row in table} | files == variables() | READ_ELSEWHERE


def test_every_secret_that_may_be_in_a_file_is_documented():
    told = section(page("deploy.md"), "## Secrets")
    assert set(re.findall(r"`([A-Z_]+)`", told)) - {"_FILE"} == set(SECRETS)


def test_the_help_names_only_documented_variables():
    named = set(re.findall(r"[A-Z][A-Z_]+(?=, |  )", ENVIRONMENT))
    assert named > {"HOST", "PORT", "REDIS_URL"}
    assert named <= variables() | READ_ELSEWHERE


class Recorder(dict[str, str]):
    """An environment that records which variables were read."""

    def __init__(self) -> None:
        super().__init__(DEBUG="1", SECRET_KEY="x")
        self.asked: set[str] = set()

    def get(self, name, default=None):
        self.asked.add(name)
        return super().get(name, default)


def variables() -> set[str]:
    recorder = Recorder()
    read_environment(recorder)
    return recorder.asked


# --- the wire ---


def test_every_error_code_is_documented_with_its_message():
    table = rows(section(page("protocol.md"), "## Errors"))
    told = {(int(row[0]), row[1], row[2] == "yes") for row in table}
    assert told == {refusal[:3] for refusal in codes.REFUSALS}


def test_every_close_code_is_documented_with_its_reason():
    table = rows(section(page("protocol.md"), "## Close codes"))
    told = {(int(row[0]), row[1]): row[2] == "yes" for row in table}
    assert told == {tuple(close): close.reconnect for close in codes.CLOSES}


def test_client_messages_in_examples_are_valid():
    said = re.findall(r"^> (.*)$", page("protocol.md"), re.M)
    assert len(said) > 5
    for line in said:
        if line == "nonsense":
            with pytest.raises(BadFrame):
                centrifugo.read(line)
        else:
            assert centrifugo.read(line), line


def test_node_messages_in_examples_are_documented_json():
    told = re.findall(r"^< (.*)$", page("protocol.md"), re.M)
    assert len(told) > 10
    for line in told:
        message = json.loads(line)
        assert message.keys() & {"id", "error", "push"}, line
        assert line == json.dumps(message, separators=(",", ":")), line


# --- commands and URLs ---


def test_documented_commands_are_exactly_those_that_exist():
    ours = {name for name, app in get_commands().items() if app in {"realtime", "notifier"}}
    told = set(re.findall(r"manage\.py ([a-z_]+)", "".join(p.read_text() for p in PAGES)))
    assert ours
    assert ours <= {
        code(row[0]).split()[1] for row in rows(page("settings.md")) if "manage" in row[0]
    }
    # This host project has no users, so neither Django's commands for them, nor the app for theirs.
    of_users = {"createsuperuser", "changepassword", "webpush_keys"}
    assert told <= {"help", *of_users, *get_commands()}


@pytest.mark.parametrize(
    "address",
    [
        *(f"/api/{method}" for method in METHODS),
        *(f"/{path}" for path in paths.PROBES),
        *(f"/{pattern.pattern}" for pattern in websocket_urlpatterns),
    ],
)
def test_every_endpoint_is_documented(address):
    assert address in "".join(page.read_text() for page in DOCS.glob("*.md"))


# --- words, modules, messages ---

WORDS = [
    "channel", "publication", "event", "data", "publisher", "receipt", "broker", "envelope",
    "node", "hub", "connection", "client", "identity", "grant", "subscription", "command", "reply",
    "push", "frame", "outbox", "epoch", "offset", "position", "gap", "presence", "member",
    "fallback", "drain", "canary", "notification", "writer", "conversation", "listener", "fan-out",
    "heartbeat", "settle",
]  # fmt: skip


@pytest.mark.parametrize("word", [*WORDS, "wire protocol", "close code"])
def test_the_glossary_has_the_term(word):
    assert re.search(rf"^\|[^|]*\*\*{word}\*\*", page("glossary.md"), re.M)


MAPPED = sorted(
    path.relative_to(ROOT / "realtime").with_suffix("")
    for path in (ROOT / "realtime").rglob("*.py")
    if path.parent.name not in ("contrib", "management", "commands", "migrations", "templatetags")
)


@pytest.mark.parametrize("module", MAPPED, ids=str)
def test_the_map_has_every_module(module):
    """By its path below `realtime`, or by its name alone if its package was just named."""
    name = module.parent if module.name == "__init__" else module
    pattern = rf"`(realtime/)?({name}|{name.name})(\.py|/)?`"
    assert name.name in ("", "checks") or re.search(pattern, page("architecture.md"))


WALKS = [
    (code(row[0]), name)
    for heading in (
        "### From `POST /api/publish` to the browser",
        "### From a `subscribe` command to its reply",
        "### From a lost connection to Redis to `live` again",
        "### From a queued publication to its handler",
    )
    for row in rows(section(page("architecture.md"), heading))
    if code(row[0])
    for name in re.findall(r"`([^`]+)`", row[1]) or [""]
]
"""Each step of the walks through the files, as a file and a function; Lua has no functions here."""


def functions(tree: ast.Module) -> Iterator[str]:
    """Yield the functions of a module, and the methods of its classes as `Class.method`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{name}" for name in functions(ast.Module(node.body, [])))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


@pytest.mark.parametrize(("file", "function"), WALKS)
def test_each_step_of_a_walk_is_where_the_map_says(file, function):
    path = ROOT / file if file.startswith("notifier/") else ROOT / "realtime" / file
    text = path.read_text(encoding="utf-8")
    assert not function or function in functions(ast.parse(text))


def test_the_seven_files_to_read_first_are_as_long_as_promised():
    """CONTRIBUTING promises about 1,200 lines."""
    table = rows(section(page("../CONTRIBUTING.md"), "## Seven files for one evening"))
    lines = [len((ROOT / code(row[0])).read_text(encoding="utf-8").splitlines()) for row in table]
    assert len(lines) == 7
    assert sum(lines) <= 1300


LISTED = [
    name
    for row in rows(section(page("architecture.md"), "## The packages"))
    for name in re.findall(r"`(\w+)`", row[0])
    if name != "realtime"
]


@pytest.mark.parametrize(("above", "below"), list(combinations(LISTED, 2)))
def test_no_package_depends_on_one_further_down_the_map(above, below):
    imported = re.compile(rf"^\s*from realtime(\.{below}[. ]| import .*\b{below}\b)", re.M)
    modules = sorted((ROOT / "realtime" / above).rglob("*.py"))
    assert modules
    assert not [path for path in modules if imported.search(path.read_text(encoding="utf-8"))]


def messages() -> Iterator[str]:
    """Yield the text of every logger call, with … for its arguments."""
    for path in [*(ROOT / "realtime").rglob("*.py"), *(ROOT / "notifier").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="logger")),
                    args=[ast.Constant(text), *_] | [ast.Name("level"), ast.Constant(text), *_],
                ):
                    yield re.sub(r"%[.\d]*[a-z]", "…", text)


def test_every_log_message_is_explained():
    told = {code(row[0]) for row in rows(section(page("deploy.md"), "## The log"))}
    assert told == set(messages())


# --- what the README shows ---

README = prose.read(ROOT / "README.md")


def test_the_promise_is_the_same_in_both_places():
    promise = re.compile(r"^1\. \*Live only\.\*.*?\*and\* live\.$", re.M | re.S)
    [here], [there] = promise.findall(README), promise.findall(page("semantics.md"))
    assert here == there
    assert re.findall(r"^(\d)\.", here, re.M) == list("12345")


def test_the_readme_shows_the_output_of_make_run():
    printed = write_welcome(
        "http://127.0.0.1:8000",
        "aAmhc2afySH5…",
        private_valkey=True,
        passwords={"ada": "m8zq…", "ben": "w4tk…"},
    )
    assert f"```\n{printed.strip()}\n```" in README


def test_the_commands_of_the_readme_are_targets_of_make():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = re.findall(r"^make (\w+)$", README, re.M)
    assert named[0] == "run"
    assert set(named) <= targets


def test_the_lines_that_an_existing_project_needs_are_counted():
    text = page("howto/existing-project.md")
    lines = {
        file.name: sum(bool(line.strip()) for line in file.text.splitlines())
        for file in files_of((DOCS / "howto/existing-project.md").read_text(encoding="utf-8"))
    }
    assert {code(row[0]): int(row[1]) for row in rows(section(text, "## What it took"))} == lines
    assert f"{sum(lines.values())} lines, without the empty ones" in text


def test_the_changelog_has_the_current_version():
    assert __version__ in (ROOT / "CHANGELOG.md").read_text()


# --- links and references ---


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    broken = [target for pair in targets for target in pair if target and not leads(path, target)]
    assert not broken


def leads(path: Path, target: str) -> bool:
    if target.startswith(("https://", "http://")):
        return True
    name, _, anchor = target.partition("#")
    file = path.parent / name if name else path
    return file.exists() and (not anchor or anchor in anchors(file))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_references_from_code_to_documents_exist():
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in CODE
        for target in re.findall(r"\bdocs/[\w/-]+\.md(?:#[\w-]+)?", path.read_text())
        if not leads(ROOT / "README.md", target)
    ]
    assert not broken


def test_every_referenced_adr_exists():
    decisions = {path.name[:4]: path for path in (DOCS / "adr").glob("[0-9]*.md")}
    texts = [path.read_text() for path in [*CODE, *PAGES]]
    named = {number for text in texts for number in re.findall(r"\bADR-(\d{4})\b", text)}
    assert named == set(decisions)
    for number, path in decisions.items():
        assert path.read_text().startswith(f"# ADR-{number}: ")
        assert path.name in page("adr/README.md")


def test_the_client_feature_table_has_no_empty_cell():
    """Each cell for a client and a feature names a test, or the reason why there is none."""
    text = page("clients.md")
    table = rows(text.partition("## Centrifugo's SDKs")[0])
    assert len(table) >= 19
    for feature, *cells in table:
        assert len(cells) == 6
        for cell in cells:
            assert "::" in cell or "`tests/" in cell or len(cell) > 10, (feature, cell)
    for file, name in re.findall(r"`(tests/e2e/js/[\w.]+)::([^`]+)`", text):
        assert f'test("{name}"' in (ROOT / file).read_text(), name


def test_every_test_named_in_the_docs_exists():
    named = {
        match
        for path in PAGES
        for match in re.findall(r"`(tests/[\w/.]+?\.(?:py|mjs))(?:::(\w+))?`", path.read_text())
    }
    assert named
    missing = [
        f"{file}::{test}"
        for file, test in sorted(named)
        if not (ROOT / file).exists()
        or (test and not re.search(rf"def {test}\(", (ROOT / file).read_text()))
    ]
    assert not missing


def column(table: list[list[str]], at: int) -> int:
    return sum(int(row[at].replace(",", "")) for row in table)


def test_the_totals_in_the_readme_match_the_tables():
    ours, tutorial = (
        [row for row in rows(part) if row[0].strip("| ") != "" and row[1].isdigit()]
        for part in section(page("semantics.md"), "## How it is proved").split("### The same load")
    )
    faults = [row for row in ours if not row[0].startswith("no fault")]
    readme = README
    for said in (
        f"were broken {column(faults, 1):,} times",
        f"{column(ours, 4):,} publications received",
        f"{column(ours, 5):,} announced",
        f"in {len(tutorial) - 1} kinds of fault",
        f"lost {column(tutorial, 6):,} publications",
    ):
        assert said in readme, said


# --- statements that must be consistent ---


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_at_most_a_hundred_columns_wide(path):
    """Tables, code and unbreakable text may be wider."""
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    wide = [
        line
        for line in text.split("\n")
        if len(line) > 100 and not re.match(r"\s*[|#!<>]|    ", line)
    ]
    assert not [line for line in wide if " " in re.sub(r"`[^`]*`|^\s*([-*]|\d+\.) ", "", line)]


def test_the_readme_names_the_sdks_that_work():
    by_verdict: dict[str, set[str]] = {}
    for names, _, verdict in rows(section(page("clients.md"), "## Centrifugo's SDKs")):
        by_verdict.setdefault(verdict, set()).update(re.findall(r"`(centrifuge-\w+)`", names))
    [said] = re.findall(r"work too: ([^,]+), which", README)
    assert set(re.findall(r"`(centrifuge-\w+)`", said)) == by_verdict["works; tested above"]
    [not_working] = re.findall(r"Protobuf alone \(([\w, ]+)\) do not", README)
    named = {f"centrifuge-{name.lower()}" for name in not_working.split(", ")}
    assert named == by_verdict["do not work"]


FILE = re.compile(r"`((?:realtime|notifier|tests|bench|docs|static|templates|\.ci)/[\w./*-]+)`")


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_referenced_file_exists(path):
    """`http-api.md` named a module that had become a package."""
    if "adr" in path.parts:  # they say what there was
        return
    text = prose.read(path)
    # Some pages name the app's own folders, and its templates as Django names them.
    folders = ("", "realtime/", "realtime/templates/")
    missing = [
        name
        for name in FILE.findall(text)
        if not any(
            list(ROOT.glob(f"{folder}{name.rstrip('/')}{suffix}"))
            for folder in folders
            for suffix in ("", ".*")
        )
    ]
    assert not missing


CLIENT_JS = (ROOT / "realtime/static/realtime/client.js").read_text(encoding="utf-8")


def constant_of_client_js(name: str) -> str:
    [value] = re.findall(rf"^const {name} = ([\d_]+);", CLIENT_JS, re.M)
    return f"{int(value):,}"


NUMBERS = {
    # (page, the words around a number): the value in the code
    ("client.md", r"the same one for the same channel\. At most ([\d,]+)"): constant_of_client_js(
        "MOST_SUBSCRIPTIONS"
    ),
    ("client.md", r"there are more than ([\d,]+) connections"): constant_of_client_js("MOST_NAMED"),
    ("protocol.md", r"a string of at most (\d+) characters; without one"): str(USER_LIMIT),
    ("protocol.md", r"at most (\d+) channels that the client"): str(CHANNELS_LIMIT),
    ("protocol.md", r"at most (\d+) characters: the login"): str(MARK_LIMIT),
    ("protocol.md", r"when it becomes valid; (\d+) seconds"): f"{LEEWAY_SECONDS:g}",
    ("deploy.md", r"still accepts connections for (\d+) s"): f"{listening.LINGER_SECONDS:g}",
    ("deploy.md", r"disconnects its clients over at most (\d+) s"): f"{listening.DRAIN_SECONDS:g}",
    ("deploy.md", r"gives requests that hang (\d+) s"): str(listening.GRACEFUL_SECONDS),
    ("deploy.md", r"After (\d+) s it is killed"): f"{listening.STOP_SECONDS:g}",
    ("deploy.md", r"(\d+) s for the whole head"): f"{http.HEAD_SECONDS:g}",
    ("deploy.md", r"(\d+) s for the whole body"): f"{http.BODY_SECONDS:g}",
    ("deploy.md", r"(\d+) s in which the client reads none"): f"{http_unread.UNREAD_SECONDS:g}",
    ("deploy.md", r"(\d+) KiB of address and headers"): str(http.HEAD_BYTES // 1024),
    ("deploy.md", r"(\d+) requests that were sent before"): str(http.PIPELINE_LIMIT),
    ("deploy.md", r"after (\d+) attempts for one name from one"): str(
        login_limit.NAME_FROM_ADDRESS
    ),
    ("deploy.md", r"address \(of IPv6: one /64\), (\d+) from one"): str(login_limit.ADDRESS),
    ("deploy.md", r"or (\d+) for one name, each"): str(login_limit.NAME),
}


@pytest.mark.parametrize(("told", "value"), NUMBERS.items(), ids=[" ".join(key) for key in NUMBERS])
def test_numbers_in_prose_match_the_code(told, value):
    name, words = told
    assert re.findall(words, page(name)) == [value]


def test_every_bound_of_a_package_is_documented_with_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = dict.fromkeys(project["dependencies"], "")
    for extra, needs in project["optional-dependencies"].items():
        wanted |= dict.fromkeys(needs, f", extra `{extra}`")
    table = rows(section(page("deploy.md"), "## Packages"))
    assert {row[0] for row in table} == {f"`{need}`{extra}" for need, extra in wanted.items()}
    for requirement, used, lower, upper in table:
        assert used
        assert lower
        assert (upper == "none") == ("<" not in requirement)


def test_documented_listen_addresses_match_the_service():
    """The service has HOST and PORT, and no unix socket, which a page once recommended."""
    assert {"HOST", "PORT"} <= variables()
    for path in PAGES:
        sentences = re.split(r"(?<=\.)\s", prose.read(path))  # not at the dots of `net.ipv4`
        said = [text for text in sentences if "unix socket" in text.lower()]
        assert not [text for text in said if "proxy" in text.lower()], path


def test_every_token_claim_is_documented_and_tested():
    told = section(page("protocol.md"), "## Identity")
    judged = {code(row[0]) for row in rows(told) if row[0].startswith("`")}
    [ignored] = re.findall(r"^All other claims are ignored.*$", told, re.M)
    claims = judged | set(re.findall(r"`(\w+)`", ignored)) - {"null", "exp"}
    assert claims | {"channel", "exp"} == set(TAKEN)


def test_the_deployment_check_runs_in_the_documented_environment():
    """`make check` uses exactly the environment that deploy.md tells operators to set."""
    [block] = re.findall(r"^It needs .*?^```\n(.*?)^```$", page("deploy.md"), re.M | re.S)
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    [given] = re.findall(r"^PRODUCTION = env (.*)$", makefile, re.M)
    variable = re.compile(r"(?<![\w-])([A-Z_]+)=")
    assert variable.findall(given.replace("$$(", "")) != []
    assert set(variable.findall(given)) == set(variable.findall(block))


def said(number: int) -> str:
    """Format a bound as pages write it: 10,000, or 64 KiB."""
    for unit, size in (("MiB", 1024**2), ("KiB", 1024)):
        if number >= size and number % size == 0:
            return f"{number // size} {unit}"
    return f"{number:,}"


def bound_of_client_js(name: str) -> int:
    return int(constant_of_client_js(name).replace(",", ""))


BOUNDS = {
    # page: the constants behind each "at most" and "more than" in it
    "client.md": {
        bound_of_client_js("MOST_SUBSCRIPTIONS"),
        bound_of_client_js("MOST_NAMED"),
        bound_of_client_js("COMMAND_BYTES"),
    },
    "deploy.md": {
        POOL["max_size"], int(listening.DRAIN_SECONDS), DATA_LIMIT, INFO_BYTES, ENDED_LIMIT,
    },
    "fallbacks.md": {OPTIONS_LIMIT, SUBJECT_LIMIT, LOOK_UPS_LIMIT},
    "http-api.md": {
        PUBLISH_BYTES, MANY_BYTES, PATTERNS_LIMIT, DATA_LIMIT, DEPTH_LIMIT, TAGS_LIMIT,
        TAG_VALUE_LIMIT, OPTIONS_LIMIT, REASON_BYTES, MEMBERS_LIMIT, CHANNELS_LISTED,
    },
    "protocol.md": {
        MEMBERS_LIMIT, ANSWER_BYTES, PUSHES_BURST, OUTSTANDING_PINGS, UNDROPPABLE_BYTES, USER_LIMIT,
        INFO_BYTES, CHANNELS_LIMIT, MARK_LIMIT, USUAL_CHANNELS,
    },
    "settings.md": {RULES_LIMIT, ATTRIBUTES_LIMIT},
}  # fmt: skip
NOT_OURS = {
    "50,000",  # what Centrifugo advises
    "4300",  # digits that Python reads (sys.int_info)
}


@pytest.mark.parametrize("name", BOUNDS)
def test_every_bound_in_prose_matches_the_code(name):
    """A new "at most" needs its constant here; NUMBERS holds those with other wording."""
    found = re.findall(r"\b(?:at most|more than) (\d[\d,]*(?: [KM]iB)?)", page(name), re.IGNORECASE)
    assert {bound.rstrip(",") for bound in found} - NOT_OURS == {
        said(number) for number in BOUNDS[name]
    }
