"""Fixtures for all tests: a real Valkey, the app connected to it, and optional tools."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio
from httpx._transports import default as httpx_transports

from realtime.api.key_debts import KeyDebts
from realtime.core.breaker import Breaker
from realtime.core.limits import Bucket
from realtime.core.outage import Outage
from realtime.core.tally import Tally
from tests.support.client import Client
from tests.support.dispositions import give_children_ordinary_signals
from tests.support.machine import measure
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import DEBIAN, RedisServer
from tests.support.service import Service

KEPT = {
    "NOTIFIER_REQUIRE",
    "NOTIFIER_FAILURES",
    "NOTIFIER_FAULTS",
    "NOTIFIER_THREATS",
    "NOTIFIER_FOREIGN",
}  # of the tests themselves
for name in list(os.environ):
    if name.startswith(("REALTIME_", "NOTIFIER_")) and name not in KEPT:
        del os.environ[name]  # the tests' settings are the tests' own
os.environ.pop("DATABASE_URL", None)  # likewise: nobody's own database


give_children_ordinary_signals()
# asyncio's debug mode reports each callback of more than 0.1 s. That says how busy the machine is,
# and would be one line too many for a test of what is logged.
logging.getLogger("asyncio").addFilter(lambda record: "took %.3f seconds" not in str(record.msg))
# The servers under test speak plain HTTP; creating a TLS context takes 22 of the 24 ms of
# `httpx.get`.
httpx_transports.create_ssl_context = cache(httpx_transports.create_ssl_context)
SDK = Path(__file__).parent / "e2e" / "sdk" / "node_modules"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None
)
"""The shell is the same engine without the windows, which take two thirds of the CPU time."""
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CADDY = shutil.which("caddy")
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
PROMETHEUS = all(map(shutil.which, ("prometheus", "promtool")))
HAS_SDK = bool(shutil.which("node")) and (SDK / ".ready").is_file()  # the Makefile's stamp
HAS_SITE = (Path(__file__).parents[1] / ".docs/venv/.ready").is_file()  # likewise
HAS_POSTGRES = PostgresServer.is_installed()
HAS_OTEL = find_spec("opentelemetry") and find_spec("opentelemetry.sdk")
HAS_SCHEMAS = find_spec("kubernetes_validate")
HAS_FAKETIME = sys.platform == "linux" and bool(shutil.which("faketime"))
MISSING = {
    "browser": None if CHROMIUM else "there is no Chromium on this machine",
    "node": None if HAS_SDK else "Node, or its packages (`make setup`), are missing",
    "docs": None if HAS_SITE else "the packages of the site (`make docs-build`) are missing",
    "postgres": None if HAS_POSTGRES else "there is no PostgreSQL server on this machine",
    "nginx": None if NGINX else "there is no nginx on this machine",
    "haproxy": None if HAPROXY else "there is no HAProxy on this machine",
    "caddy": None if CADDY else "there is no Caddy on this machine",
    "systemd": None if SYSTEMD_ANALYZE else "there is no systemd-analyze on this machine",
    "kubernetes": None if HAS_SCHEMAS else "kubernetes-validate is not installed",
    "prometheus": None if PROMETHEUS else "there is no Prometheus on this machine",
    "redis": None if DEBIAN else "there is no redis-server on this machine",
    "otel": None if HAS_OTEL else "the SDK of OpenTelemetry is not installed",
    "faketime": None if HAS_FAKETIME else "there is no libfaketime to move clocks with",
}


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the processes that run tests, not the one that distributes them.

    Only the tests run in development mode, not the programs that they start. Those would be several
    times slower, and write what asyncio finds slow to their standard error.
    """
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        os.environ.pop("PYTHONDEVMODE", None)
        measure()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose tools this machine lacks, and say so.

    Under NOTIFIER_REQUIRE, fail them instead.
    """
    required = os.environ.get("NOTIFIER_REQUIRE", "").split(",")
    for item in items:
        for need, problem in MISSING.items():
            if problem and item.get_closest_marker(need) and need not in required:
                item.add_marker(pytest.mark.skip(reason=problem))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Note what failed for `make test`, which runs pytest several times and ends with a summary."""
    path = os.environ.get("NOTIFIER_FAILURES")
    if not path or hasattr(terminalreporter.config, "workerinput"):
        return  # a worker's failures are those of the process that started it, too
    failed = [*terminalreporter.getreports("error"), *terminalreporter.getreports("failed")]
    with Path(path).open("a", encoding="utf-8") as file:
        for report in failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = (crash.message if crash else str(report.longrepr)).strip().partition("\n")[0]
            file.write(f"{report.nodeid}: {reason[:200]}\n")


@pytest.fixture(autouse=True)
def _log_has_told_nothing() -> None:
    """Start each test like a new process: log lines of earlier tests do not throttle its own."""
    # Copied in one step: a thread of the previous test may still be importing something.
    for name, module in sys.modules.copy().items():
        if name.startswith(("realtime.", "notifier.")):
            for each in _throttles(module):
                if type(each) is Bucket:
                    each.__init__(each._rate)
                else:
                    each.__init__()


@cache
def _throttles(module: ModuleType) -> list[Any]:
    """Return the log throttles that a module has created; searched once, in about 200 modules."""
    kinds = (Tally, Outage, KeyDebts, Breaker, Bucket)
    return [each for each in vars(module).copy().values() if type(each) in kinds]


@pytest.fixture(autouse=True)
def _celery_is_forgotten() -> Iterator[None]:
    """End what a test has connected for tasks, before another test is blamed for it."""
    yield
    celery = sys.modules.get("tests.shop.celery")
    if celery is not None and celery.in_use:
        celery.forget_connections()


@pytest.fixture(scope="session", autouse=True)
def _services_on_the_usual_prefix_are_ours() -> None:
    """Many tests publish to services that they have started; a host's tests must not do that."""
    from realtime.testing import share_prefix

    share_prefix("rt")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Valkey for all tests that do not break it."""
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def system_redis() -> Iterator[RedisServer]:
    """The Redis of the system, for tests that run on both; they have the mark ``redis``."""
    server = RedisServer(program=DEBIAN or "redis-server").start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests that need one; each uses its own database in it."""
    server = PostgresServer().start()
    yield server
    server.stop()


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database without tables, for one module; once for each supported kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('database')}/site.sqlite3"
    return request.getfixturevalue("postgres_server").new_database()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Any]:
    """One browser for all tests with pages; see `tests.support.pages.own_contexts`."""
    # Imported here because most tests have no page and should not wait for Playwright's import.
    from tests.support.pages import launch_chromium

    assert CHROMIUM, MISSING["browser"]
    async with launch_chromium(CHROMIUM) as browser:
        yield browser


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Valkey for this test alone, which may break it."""
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture
def wired(redis_server: RedisServer, settings: Any) -> str:
    """Point the app's settings to the real Valkey, under a separate prefix; return the prefix.

    This uses pytest-django's fixture. If an ``override_settings`` ended before a setting that the
    test has changed with that fixture, the setting would come back at the end of the test and stay
    for all later tests.
    """
    settings.REALTIME_REDIS_URL = redis_server.url
    settings.REALTIME_REDIS_PREFIX = f"test-{secrets.token_hex(4)}"
    return str(settings.REALTIME_REDIS_PREFIX)


@pytest.fixture
async def node(wired: str) -> AsyncIterator[Any]:
    """The node of this test's loop, closed at the end."""
    from realtime import wiring

    yield wiring.node()
    await wiring.aclose()


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    """Start services that end with the test."""
    started: list[Service] = []

    def start(redis_url: str, server: str = "uvicorn", *, live: bool = True, **env: str) -> Service:
        service = Service(redis_url, server, **env)
        started.append(service)
        return service.start(live=live)

    yield start
    for service in started:
        service.stop()


@pytest.fixture
async def attach() -> AsyncIterator[Callable[..., Any]]:
    """Open clients, and close them when the test ends."""
    attached: list[Client] = []

    async def open_client(service: Service, **options: Any) -> Client:
        client = await Client.open(service.ws, **options)
        attached.append(client)
        return client

    yield open_client
    for client in attached:
        await client.close()
