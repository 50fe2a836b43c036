"""The rings: who may import whom (docs/architecture.md).

Every import statement of every module is looked at, also those inside functions and under
TYPE_CHECKING. What breaks a rule fails with the rule's own sentence.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

RULES = {
    "errors", "codes", "names", "namespaces", "publication", "envelope", "gaps", "outbox", "flow",
    "frames", "tally", "heads", "limits", "query",
    "identity", "tokens", "jwks", "control", "registry", "connection", "canary", "origins",
    "outage", "tracker", "protocols", "keys", "queued", "events", "membership",
    "survey", "cloudevents", "redis_url", "neighbours", "globs", "addresses", "node_messages",
    "url_rules",
}  # fmt: skip
PUBLISHING = {"publisher"}
DELIVERING = {"hub", "conversation", "driver", "fanout", "heartbeat", "users", "vigil"}
DELIVERING |= {"attendance", "clerk", "joining", "roster"}
DELIVERING |= {"client_calls", "client_subscriptions", "node"}
DELIVERING |= {"announcer", "connections", "liveness", "subscriber"}
QUEUEING = {"worker", "threads"}
ENGINE = PUBLISHING | DELIVERING | QUEUEING | {"brokers", "hostcode"}

# Parts of the standard library that neither wait nor look at a clock, at chance or at the world.
PURE = {
    "__future__", "abc", "base64", "binascii", "bisect", "collections", "contextlib", "copy",
    "dataclasses", "datetime.date", "enum",
    "functools", "hashlib", "hmac", "ipaddress", "itertools", "json", "math", "operator", "re",
    "string", "types", "typing", "urllib.parse",
}  # fmt: skip
LIBRARIES_OF_RULES = {"msgspec", "jwt", "cryptography"}
PUBLIC_TO_SERVICES = {
    "realtime.contrib.celery",
    "realtime.conf.check_setting",
    "realtime.documents",
    "realtime.endpoint",
    "realtime.errors",
    "realtime.handlers.configured",
    "realtime.limits",
    "realtime.management.stop_signals",
    "realtime.jwks",
    "realtime.keys",
    "realtime.names.is_personal_prefix",
    "realtime.namespaces",
    "realtime.personal_channel",
    "realtime.publish",
    "realtime.redis_url",
    "realtime.routing",
    "realtime.tokens.EXPIRY",
    "realtime.tokens.REQUIRED",
    "realtime.tally",
    "realtime.url_rules",
    "realtime.urls",
    "realtime.wiring.drain",
    "realtime.wiring.largest_body_bytes",
    "realtime.wiring.limit_reached",
    "realtime.wiring.limits",
}

RING_0 = (
    "the rules (ring 0) import only each other, msgspec, PyJWT with its cryptography, and pure "
    "parts of the standard library: no clock, no chance, no I/O"
)
RING_1 = (
    "the engine (ring 1) imports only rules, itself, redis (with its hiredis), msgspec and the "
    "standard library"
)
HALVES = "the publishing and the delivering side never import each other: they meet in Redis"
APP = "the app never imports the service, or anything else of this repository"
SERVICE = "the service uses the app like any other project: by its public modules only"


def imports(source: str, package: str = "") -> Iterator[str]:
    """Yield the full name of everything that a module imports: `a.b.c` for `from a.b import c`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join(filter(None, [*parents, node.module])) if node.level else node.module
            yield from (f"{base}.{alias.name}" for alias in node.names)


def ring_of(module: str) -> int:
    """Return the ring of a module of the app."""
    part = module.split(".")[1] if "." in module else ""
    return 0 if part in RULES else 1 if part in ENGINE else 2


def station(name: str) -> str:
    """Return the part of the app that a full name belongs to: `hub` for `realtime.hub.Hub`."""
    return name.split(".")[1] if name.startswith("realtime.") else ""


def side(name: str) -> str:
    """Return the side of the road on which a module or an imported name stands."""
    part = station(name)
    return "publishing" if part in PUBLISHING else "delivering" if part in DELIVERING else ""


def is_of(imported: str, names: set[str]) -> bool:
    """Tell whether something imported is one of the names, or of what is inside them."""
    return any(imported == name or imported.startswith(f"{name}.") for name in names)


def broken_rule(module: str, imported: str) -> str | None:
    """Return the rule that this import breaks."""
    top = imported.partition(".")[0]
    if imported == "realtime.__version__":
        return None
    if module.startswith("notifier"):
        allowed = top != "realtime" or is_of(imported, PUBLIC_TO_SERVICES)
        return None if allowed else SERVICE
    if top in {"notifier", "tests", "bench"}:
        return APP
    if {side(module), side(imported)} == {"publishing", "delivering"}:
        return HALVES
    if top == "realtime":
        inner = ring_of(imported) <= ring_of(module)
        return None if inner else (RING_0, RING_1)[ring_of(module)]
    if ring_of(module) == 0:
        return None if is_of(imported, PURE | LIBRARIES_OF_RULES) else RING_0
    if ring_of(module) == 1:
        return None if top in sys.stdlib_module_names | {"msgspec", "redis", "hiredis"} else RING_1
    return None


def modules(package: str) -> dict[str, Path]:
    """Return the modules of a package by name, packages as `name.__init__`."""
    files = (ROOT / package).rglob("*.py")
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in sorted(files)}


MODULES = modules("realtime") | modules("notifier")


@pytest.mark.parametrize("module", MODULES)
def test_every_import_keeps_the_rules(module):
    package = module.rpartition(".")[0]
    broken = [
        f"{module} imports {imported}: {rule}"
        for imported in imports(MODULES[module].read_text(), package)
        if (rule := broken_rule(module, imported))
    ]
    assert not broken, "\n".join(broken)


def test_every_rule_and_engine_module_exists():
    """A module that was renamed would fall out of its ring without a word."""
    names = {station(module) for module in MODULES if module.startswith("realtime.")}
    assert names >= RULES | ENGINE


@pytest.mark.parametrize("module", sorted(name for name in MODULES if ring_of(name) == 0))
def test_a_rule_never_waits(module):
    found = [
        type(node).__name__
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
    ]
    assert not found, f"{module}: {RING_0}"


def texts_of_the_locale(source: str) -> list[str]:
    """Return the calls that read or write text in whatever encoding the locale has (PEP 597).

    Ruff's PLW1514 finds fewer (not the pipes of subprocesses, not `importlib.resources`), and needs
    the preview mode, which changes other rules as well.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg for keyword in node.keywords}
        is_binary = any(
            isinstance(each, ast.Constant) and isinstance(each.value, str) and "b" in each.value
            for each in [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
        )
        opens = name in {"open", "os.fdopen"} and not is_binary
        texts = name.endswith((".read_text", ".write_text", "TextIOWrapper", "FileHandler"))
        is_process = name.endswith(("Popen", "run", "check_output"))
        pipes = is_process and {"text", "universal_newlines"} & given
        if (opens or texts or pipes) and "encoding" not in given:
            found.append(f"{node.lineno}: {name}")
    return found


SHIPPED = [*MODULES.values(), ROOT / "manage.py", *sorted((ROOT / "bench").rglob("*.py"))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_has_an_encoding_of_its_own(path):
    """Issue 15, C19: in an ASCII locale the import died at the Lua scripts."""
    assert not texts_of_the_locale(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    ["open(p)", "open(p, 'w')", "p.read_text()", "f(n).write_text(t)", "Popen(c, text=True)"],
)
def test_text_of_the_locale_is_found(source):
    assert texts_of_the_locale(source)


@pytest.mark.parametrize(
    "source",
    ["open(p, 'rb')", "open(p, mode='rb')", "p.read_text(encoding='utf-8')", "os.open(p, 0)"],
)
def test_text_with_an_encoding_and_bytes_are_left_alone(source):
    assert not texts_of_the_locale(source)


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        ("realtime.gaps", "import time", RING_0),
        ("realtime.gaps", "import msgspec, asyncio", RING_0),
        ("realtime.origins", "import urllib.request", RING_0),
        ("realtime.gaps", "def f():\n    from random import random", RING_0),
        ("realtime.gaps", "from django.conf import settings", RING_0),
        ("realtime.gaps", "from realtime.hub import Hub", RING_0),
        ("realtime.gaps", "from realtime import hub", RING_0),
        ("realtime.gaps", "from .conf import Settings", RING_0),
        ("realtime.protocols.centrifugo", "from ..brokers import Broker", RING_0),
        ("realtime.hub", "import django", RING_1),
        ("realtime.brokers.redis", "from channels.layers import x", RING_1),
        ("realtime.driver", "if TYPE_CHECKING:\n    from realtime.conf import Settings", RING_1),
        ("realtime.hub", "from realtime.publisher import Publisher", HALVES),
        ("realtime.publisher", "from realtime import fanout", HALVES),
        ("realtime.views", "import notifier.env", APP),
        ("realtime.hub", "from tests.support import x", APP),
        ("notifier.asgi", "from realtime.hub import Hub", SERVICE),
        ("notifier.asgi", "import realtime.wiring", SERVICE),
        ("notifier.asgi", "from realtime.wiring import node", SERVICE),
    ],
)
def test_an_import_that_breaks_a_rule_is_found(module, source, rule):
    package = module.rpartition(".")[0]
    assert rule in [broken_rule(module, imported) for imported in imports(source, package)]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("realtime.gaps", "from __future__ import annotations\nimport re, msgspec"),
        ("realtime.protocols.centrifugo", "from realtime.protocols import Ping"),
        ("realtime.hub", "import asyncio\nfrom realtime import __version__"),
        ("realtime.publisher", "from realtime.brokers import Broker"),
        (
            "realtime.wiring",
            "from realtime.hub import Hub\nfrom realtime.publisher import Publisher",
        ),
        (
            "notifier.asgi",
            "from realtime.routing import lifespan\nfrom realtime.wiring import drain",
        ),
    ],
)
def test_an_import_that_keeps_the_rules_is_left_alone(module, source):
    package = module.rpartition(".")[0]
    assert {broken_rule(module, imported) for imported in imports(source, package)} == {None}
