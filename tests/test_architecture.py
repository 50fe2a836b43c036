"""The rings: which modules may import which (docs/architecture.md), and how large a module may be.

Every import statement of every module is checked, including those inside functions and under
TYPE_CHECKING. A violation fails with the sentence of the rule that it breaks.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

RULES = {
    *("_version", "errors", "core", "identity", "protocols"),
    *("api.channel_patterns", "api.key_entries", "api.keys"),
    *("api.cloudevent_attributes", "api.cloudevent_routes", "api.cloudevents"),
    *("brokers.bounds", "brokers.neighbours", "brokers.node_messages"),
    *("brokers.memory.entry_queue", "brokers.memory.counters", "brokers.memory.exchange"),
    *("brokers.memory.roster", "brokers.memory.store"),
    *(
        "client.probe_ledger",
        "client.tracker",
        "connection.authentication",
        "connection.client_channels",
    ),
    *("connection.decisions", "connection.entries", "connection.flow", "connection.outbox"),
    *("connection.client_state", "brokers.canary", "delivery.registry", "transports.sse_format"),
}
"""Ring 0: packages and modules of `realtime`, by full name."""
PUBLISHING = {"brokers.publisher"}
DELIVERING = {"delivery", "connection"}
QUEUEING = {"fallbacks.worker", "fallbacks.worker_log", "fallbacks.threads"}
ENGINE = PUBLISHING | DELIVERING | QUEUEING | {"brokers"}
"""Ring 1, except for the modules above."""

# Parts of the standard library that neither wait nor use a clock, randomness or the outside world.
PURE = {
    "__future__", "abc", "base64", "binascii", "bisect", "collections", "contextlib", "copy",
    "dataclasses", "datetime.date", "enum",
    "functools", "hashlib", "heapq", "hmac", "ipaddress", "itertools", "json", "math", "operator",
    "re", "string", "types", "typing", "urllib.parse", "zlib",
}  # fmt: skip
LIBRARIES_OF_RULES = {"msgspec", "jwt", "cryptography"}
PUBLIC_TO_SERVICES = {
    "realtime.contrib.admin.dead_letters",
    "realtime.contrib.celery",
    "realtime.contrib.metrics",
    "realtime.conf.DECLARED",
    "realtime.conf.check_setting",
    "realtime.connection_token",
    "realtime.disconnect_user",
    "realtime.http.documents",
    "realtime.endpoint",
    "realtime.errors",
    "realtime.fallbacks.handlers.make_built_in",
    "realtime.core.callbacks",
    "realtime.core.limits",
    "realtime.core.metrics",
    "realtime.http.exposition",
    "realtime.management.commands.createapikey",
    "realtime.management.stop_signals",
    "realtime.identity.jwks",
    "realtime.api.key_entries",
    "realtime.core.names.is_personal_prefix",
    "realtime.core.identity.Identity",
    "realtime.core.namespaces",
    "realtime.__version__",
    "realtime.api.keys",
    "realtime.personal_channel",
    "realtime.publish",
    "realtime.subscription_token",
    "realtime.core.redis_address",
    "realtime.core.redis_facts",
    "realtime.core.redis_url",
    "realtime.routing",
    "realtime.identity.tokens.EXPIRY",
    "realtime.identity.tokens.LEEWAY_SECONDS",
    "realtime.identity.tokens.REQUIRED",
    "realtime.core.secret_strength",
    "realtime.core.tally",
    "realtime.core.url_rules",
    "realtime.urls",
    "realtime.wiring.drain",
    "realtime.wiring.largest_body_bytes",
    "realtime.wiring.limit_reached",
    "realtime.wiring.limits",
    "realtime.wiring.monitoring",
    "realtime.wiring.read_metrics",
    "realtime.wiring.read_metrics_and_queue",
    "realtime.wiring.redis_broker",
}

OPEN_PACKAGES = {"realtime.contrib", "realtime.management", "realtime.templatetags"}
"""Packages whose modules Django or a host names."""

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


def is_within(name: str, places: set[str]) -> bool:
    """Tell whether a full name is one of these packages or modules, or inside one of them."""
    own = name.removeprefix("realtime.")
    return name.startswith("realtime.") and is_of(own, places)


def ring_of(module: str) -> int:
    """Return the ring of a module of the app, or of what is imported from one."""
    return 0 if is_within(module, RULES) else 1 if is_within(module, ENGINE) else 2


def side(name: str) -> str:
    """Return the side, publishing or delivering, of a module or an imported name."""
    if ring_of(name) == 0:
        return ""
    if is_within(name, PUBLISHING):
        return "publishing"
    return "delivering" if is_within(name, DELIVERING) else ""


def is_of(imported: str, names: set[str]) -> bool:
    """Tell whether an imported name is one of these names, or inside one of them."""
    return any(imported == name or imported.startswith(f"{name}.") for name in names)


def broken_rule(module: str, imported: str) -> str | None:
    """Return the rule that this import breaks."""
    top = imported.partition(".")[0]
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
def test_every_import_follows_the_rules(module):
    package = module.rpartition(".")[0]
    broken = [
        f"{module} imports {imported}: {rule}"
        for imported in imports(MODULES[module].read_text(), package)
        if (rule := broken_rule(module, imported))
    ]
    assert not broken, "\n".join(broken)


def test_every_rule_and_engine_module_exists():
    """A renamed module would otherwise silently drop out of its ring."""
    names = {f"realtime.{place}" for place in RULES | ENGINE}
    known = {module.removesuffix(".__init__") for module in MODULES}
    assert names <= known


def test_the_top_level_listing_is_short():
    entries = [each.name for each in (ROOT / "realtime").iterdir() if each.name != "__pycache__"]
    assert len(entries) <= 30, sorted(entries)


PACKAGES = sorted(
    module.removesuffix(".__init__")
    for module in MODULES
    if module.startswith("realtime.") and module.endswith(".__init__") and module.count(".") == 2
)


@pytest.mark.parametrize("package", set(PACKAGES) - OPEN_PACKAGES)
def test_a_package_announces_each_of_its_modules(package):
    tree = ast.parse(MODULES[f"{package}.__init__"].read_text(encoding="utf-8"))
    announced = set(re.findall(r"`(\w+)`", ast.get_docstring(tree) or ""))
    modules = {name.split(".")[2] for name in MODULES if name.startswith(f"{package}.")}
    assert modules - {"__init__"} <= announced


def package_of(name: str) -> str:
    """Return the package of a full name of the app, or its module if it is in no package."""
    return ".".join(name.split(".")[:2])


def test_packages_depend_on_each_other_in_one_direction():
    """Packages in a cycle would be one package with several names."""
    uses = {}
    for module, path in MODULES.items():
        if module.startswith("realtime.") and module != "realtime.__init__":
            parent = module.rpartition(".")[0]
            found = imports(path.read_text(encoding="utf-8"), parent)
            wanted = {package_of(name) for name in found if name.startswith("realtime.")}
            wanted = {name for name in wanted if name in PACKAGES or name in MODULES}
            uses.setdefault(package_of(module), set()).update(wanted - {package_of(module)})
    TopologicalSorter(uses).prepare()  # raises CycleError, which names the cycle


LONGEST_CHAIN = 15
"""Modules of the app in the longest chain of imports; the goal was 12 (ADR-0030)."""


def loaded_by(module: str, path: Path) -> set[str]:
    """Return the full names that loading a module imports, unlike those for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = [each for each in tree.body if isinstance(each, ast.Import | ast.ImportFrom)]
    return set(imports("\n".join(map(ast.unparse, statements)), module.rpartition(".")[0]))


def test_import_chains_are_short():
    """To understand the first module of a chain, a reader may have to understand all others."""
    loads = {}
    for module, path in MODULES.items():
        if module.startswith("realtime."):
            loads[module.removesuffix(".__init__")] = loaded_by(module, path)
    for name, wanted in loads.items():
        known = {each if each in loads else each.rpartition(".")[0] for each in wanted}
        loads[name] = known & loads.keys() - {name, "realtime"}
    chains: dict[str, list[str]] = {}
    for name in TopologicalSorter(loads).static_order():
        chains[name] = [name, *max((chains[each] for each in loads[name]), key=len, default=[])]
    longest = max(chains.values(), key=len)
    assert len(longest) <= LONGEST_CHAIN, " imports ".join(longest)


EXTRAS = {
    "metrics": ({"prometheus_client"}, {"contrib.metrics", "http.exposition"}),
    "listen": ({"websockets"}, {"client.listening", "client.probe", "client.session"}),
    "celery": (
        {"celery", "kombu"},
        {"contrib.celery", "contrib.calls", "contrib.state_publisher", "contrib.sweep"},
    ),
    "otel": ({"opentelemetry"}, {"wiring.spans"}),
}
"""The libraries of each extra, and the modules that need them."""


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_libraries_of_an_extra_are_loaded_by_its_own_modules_only(extra):
    """A host without the extra loads all others, and no other module loads these with itself."""
    libraries, places = EXTRAS[extra]
    places = {f"realtime.{place}" for place in places}
    loading = {
        module
        for module, path in MODULES.items()
        if module.startswith("realtime.")
        and any(is_of(each, libraries | places) for each in loaded_by(module, path))
    }
    assert loading == places


MODULE_LINES = 350
CLASS_METHODS = 25


def too_large(source: str) -> list[str]:
    """Return what is too large without a reason: the module (as an empty name), and its classes.

    The reason is a sentence of the docstring that begins with "Long because" in a module and with
    "Many methods because" in a class.
    """
    tree = ast.parse(source)
    found = []
    is_long = len(source.splitlines()) > MODULE_LINES
    if is_long and not gives_reason(tree, "Long because"):
        found.append("")
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = [
                each
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            if len(methods) > CLASS_METHODS and not gives_reason(node, "Many methods because"):
                found.append(node.name)
    return found


def gives_reason(node: ast.Module | ast.ClassDef, beginning: str) -> bool:
    docstring = " ".join((ast.get_docstring(node) or "").split())
    return re.search(rf"(^|[.:] ){beginning} \w", docstring) is not None


@pytest.mark.parametrize("module", MODULES)
def test_large_modules_and_classes_give_a_reason(module):
    assert too_large(MODULES[module].read_text(encoding="utf-8")) == []


LONG = "x = 1\n" * MODULE_LINES
MANY = "".join(f"    def f{n}(self): ...\n" for n in range(CLASS_METHODS + 1))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (LONG, []),
        (LONG + "x = 2\n", [""]),
        (f'"""Rules.\n\nLong because\nthey are one table."""\n{LONG}', []),
        (f'"""Not so. Long because."""\n{LONG}', [""]),
        (f"class A:\n{MANY}", ["A"]),
        (f'class A:\n    """Many methods because it is a visitor."""\n{MANY}', []),
        (f'class A:\n    """Long because it is a visitor."""\n{MANY}', ["A"]),
        (f"class A:\n    x = 1\n{MANY.partition(chr(10))[2]}", []),
    ],
)
def test_oversized_modules_and_classes_are_found(source, found):
    assert too_large(source) == found


@pytest.mark.parametrize("module", sorted(name for name in MODULES if ring_of(name) == 0))
def test_rule_modules_contain_no_await(module):
    found = [
        type(node).__name__
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
    ]
    assert not found, f"{module}: {RING_0}"


def texts_of_the_locale(source: str) -> list[str]:
    """Return the calls that read or write text in the encoding of the locale (PEP 597).

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
def test_text_files_are_opened_with_an_explicit_encoding(path):
    """Issue 15, C19: in an ASCII locale, the import failed at the Lua scripts."""
    assert not texts_of_the_locale(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    ["open(p)", "open(p, 'w')", "p.read_text()", "f(n).write_text(t)", "Popen(c, text=True)"],
)
def test_opening_text_in_the_locale_encoding_is_found(source):
    assert texts_of_the_locale(source)


@pytest.mark.parametrize(
    "source",
    ["open(p, 'rb')", "open(p, mode='rb')", "p.read_text(encoding='utf-8')", "os.open(p, 0)"],
)
def test_explicit_encodings_and_binary_mode_are_allowed(source):
    assert not texts_of_the_locale(source)


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        ("realtime.core.positions", "import time", RING_0),
        ("realtime.core.positions", "import msgspec, asyncio", RING_0),
        ("realtime.identity.origins", "import urllib.request", RING_0),
        ("realtime.core.positions", "def f():\n    from random import random", RING_0),
        ("realtime.core.positions", "from django.conf import settings", RING_0),
        ("realtime.core.positions", "from realtime.delivery.hub import Hub", RING_0),
        ("realtime.core.positions", "from realtime.delivery import hub", RING_0),
        ("realtime.core.positions", "from ..conf import Settings", RING_0),
        ("realtime.protocols.centrifugo", "from ..brokers import Broker", RING_0),
        ("realtime.delivery.hub", "import django", RING_1),
        ("realtime.brokers.redis", "from channels.layers import x", RING_1),
        (
            "realtime.connection.writer",
            "if TYPE_CHECKING:\n    from realtime.conf import Settings",
            RING_1,
        ),
        ("realtime.delivery.hub", "from realtime.brokers.publisher import Publisher", HALVES),
        ("realtime.brokers.publisher", "from realtime.delivery import fanout", HALVES),
        ("realtime.http.views", "import notifier.env", APP),
        ("realtime.delivery.hub", "from tests.support import x", APP),
        ("notifier.asgi", "from realtime.delivery.hub import Hub", SERVICE),
        ("notifier.asgi", "import realtime.wiring", SERVICE),
        ("notifier.asgi", "from realtime.wiring import node", SERVICE),
    ],
)
def test_imports_that_break_a_rule_are_found(module, source, rule):
    package = module.rpartition(".")[0]
    assert rule in [broken_rule(module, imported) for imported in imports(source, package)]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("realtime.core.positions", "from __future__ import annotations\nimport re, msgspec"),
        ("realtime.protocols.centrifugo", "from realtime.protocols import Ping"),
        ("realtime.delivery.hub", "import asyncio\nfrom realtime._version import __version__"),
        ("realtime.brokers.publisher", "from realtime.brokers import Broker"),
        (
            "realtime.wiring",
            "from realtime.delivery.hub import Hub\n"
            "from realtime.brokers.publisher import Publisher",
        ),
        (
            "notifier.asgi",
            "from realtime.routing import lifespan\nfrom realtime.wiring import drain",
        ),
    ],
)
def test_imports_that_follow_the_rules_are_allowed(module, source):
    package = module.rpartition(".")[0]
    assert {broken_rule(module, imported) for imported in imports(source, package)} == {None}


CLOCK_DEADLINE = re.compile(r"asyncio\.(wait_for\(|timeout\([\d.]*[1-9])")
SHORT_ON_PURPOSE = {"tests/integration/test_writer.py"}  # something must not happen in 20 ms


def test_no_test_has_a_deadline_of_the_clock():
    """A busy machine needs longer: `tests.support.machine` has `within` and `in_time` for that."""
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in sorted((ROOT / "tests").rglob("*.py"))
        if "support" not in file.parts and file.name != "test_architecture.py"
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if CLOCK_DEADLINE.search(line)
    ]
    assert [each for each in found if each.rpartition(":")[0] not in SHORT_ON_PURPOSE] == []
