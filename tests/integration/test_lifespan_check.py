"""What `manage.py check` says of an ASGI application without a lifespan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from django.core import checks

from realtime.checks.lifespan import SERVERS, is_without_lifespan
from realtime.endpoint import HttpEndpoint
from tests.support.service import ROOT

IMPORTS = """
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
django = get_asgi_application()
from realtime.endpoint import HttpEndpoint
from realtime.routing import websocket_urlpatterns, with_root_path
from elsewhere import Wrapped, others
"""
SOCKETS = '"websocket": URLRouter(websocket_urlpatterns)'
WITHOUT = f'ProtocolTypeRouter({{"http": django, {SOCKETS}}})'
HAVE_NONE = {
    "a router": f"application = {WITHOUT}",
    "a comment": f'# "lifespan": lifespan\napplication = {WITHOUT}',
    "an import alone": f"from realtime.routing import lifespan\napplication = {WITHOUT}",
    "routes by name": f"routes = {{{SOCKETS}}}\napplication = ProtocolTypeRouter(routes)",
    "wrapped by ours": f"application = {WITHOUT}\napplication = with_root_path(application)",
    "streams only": "application = HttpEndpoint(django)",
    "streams in front": f"application = HttpEndpoint({WITHOUT})",
    "a full name": f"import channels.routing\napplication = channels.routing.{WITHOUT}",
    "other things after it": f"application = {WITHOUT}\nasync def other():\n    x = 1\n",
}
MAY_HAVE_ONE = {
    "it has": f'application = ProtocolTypeRouter({{{SOCKETS}, "lifespan": lifespan}})',
    "one of its own": f'application = ProtocolTypeRouter({{{SOCKETS}, "lifespan": others}})',
    "added later": 'routes = {}\nroutes["lifespan"] = 1\napplication = ProtocolTypeRouter(routes)',
    "other routes": f"application = ProtocolTypeRouter({{{SOCKETS}, **others}})",
    "routes from elsewhere": "application = ProtocolTypeRouter(others)",
    "wrapped": f"application = Wrapped({WITHOUT})",
    "wrapped later": f"application = {WITHOUT}\napplication = Wrapped(application)",
    "wrapped sometimes": f"application = {WITHOUT}\nif others:\n    application = Wrapped()",
    "from elsewhere": "from elsewhere import application",
    "only Django": "application = others\nurls = django",
    "no such name": "app = others",
    "nothing called": "application = others[0]()",
    "broken": "application = (",
    "null": "application = '\0'",
    "deep": f"application = {'-' * 50_000}1",
}  # fmt: skip


@pytest.mark.parametrize("code", HAVE_NONE.values(), ids=HAVE_NONE)
def test_an_application_without_a_lifespan_is_recognised(code: str) -> None:
    assert is_without_lifespan(IMPORTS + code, "application")


@pytest.mark.parametrize("code", MAY_HAVE_ONE.values(), ids=MAY_HAVE_ONE)
def test_one_that_may_have_a_lifespan_is_not_reported(code: str) -> None:
    assert not is_without_lifespan(IMPORTS + code, "application")


def test_an_application_that_does_not_serve_our_clients_is_not_reported() -> None:
    imports = "".join(line for line in IMPORTS.splitlines(True) if "realtime" not in line)
    assert not is_without_lifespan(f"{imports}application = {WITHOUT}", "application")


def test_the_applications_of_this_repository_have_one() -> None:
    for path in ("notifier/asgi.py", "tests/asgi.py", "tests/own_api.py"):
        assert not is_without_lifespan((ROOT / path).read_text(encoding="utf-8"), "application")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Path:
    """The module of an application without a lifespan, which must not be imported."""
    path = tmp_path / "an_asgi_module.py"
    path.write_text(f"raise SystemExit('imported')\n{IMPORTS}application = {WITHOUT}")
    monkeypatch.syspath_prepend(tmp_path)
    settings.ASGI_APPLICATION = "an_asgi_module.application"
    settings.REALTIME_REDIS_URL = "redis://127.0.0.1:6379/0"
    return path


def found() -> list[str | None]:
    return [message.id for message in checks.run_checks(tags=["realtime"])]


def test_the_check_reads_the_module_without_importing_it(module: Path) -> None:
    assert found() == ["realtime.W014"]
    assert "an_asgi_module" not in sys.modules


def test_a_project_whose_only_server_is_daphne_is_not_told(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for server in SERVERS:
        monkeypatch.setitem(sys.modules, server, None)  # as if it were not installed
    assert found() == []


@pytest.mark.parametrize(
    "path", [None, 1, "", "application", "nowhere.asgi.application", "nowhere.application", "..a"]
)
def test_a_project_without_such_a_module_is_not_told(settings: Any, path: Any) -> None:
    settings.REALTIME_REDIS_URL = "redis://127.0.0.1:6379/0"
    settings.ASGI_APPLICATION = path
    assert found() == []


@pytest.mark.parametrize("content", [b"\xff", b"# coding: none\n"])
def test_a_module_that_cannot_be_read_is_not_reported(module: Path, content: bytes) -> None:
    module.write_bytes(content)
    assert found() == []


async def test_an_endpoint_in_front_of_a_router_passes_its_lifespan_on() -> None:
    """It looked for the path, and a lifespan has none."""
    passed: list[Any] = []

    async def router(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
    await HttpEndpoint(router)(scope, None, None)  # type: ignore[arg-type]
    assert passed == [scope]
