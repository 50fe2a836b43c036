"""What `manage.py check` says of an ASGI application that routes no WebSockets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from django.core import checks

from realtime.checks.websocket_route import is_without_websockets
from tests.support.service import ROOT

IMPORTS = """
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from realtime.routing import lifespan, require_upgrade, websocket_urlpatterns, with_root_path
from elsewhere import Wrapped, others
"""
HTTP = "get_asgi_application()"
HAVE_NONE = {
    "as startproject writes it": f"application = {HTTP}",
    "a router": f'application = ProtocolTypeRouter({{"http": {HTTP}, "lifespan": lifespan}})',
    "routes by name": f'routes = {{"http": {HTTP}}}\napplication = ProtocolTypeRouter(routes)',
    "wrapped by ours": f"application = {HTTP}\napplication = with_root_path(application)",
    "a comment": f"# websocket\napplication = {HTTP}",
}
MAY_HAVE_ONE = {
    "it has": f'application = ProtocolTypeRouter({{"http": {HTTP}, "websocket": others}})',
    "added later": 'routes = {}\nroutes["websocket"] = 1\napplication = ProtocolTypeRouter(routes)',
    "other routes": f'application = ProtocolTypeRouter({{"http": {HTTP}, **others}})',
    "routes from elsewhere": "application = ProtocolTypeRouter(others)",
    "a protocol by name": f"application = ProtocolTypeRouter({{others: {HTTP}}})",
    "wrapped": f"application = Wrapped({HTTP})",
    "a class of the project": f"class WebSocketApp:\n    pass\napplication = {HTTP}",
    "from elsewhere": "from elsewhere import application",
    "no such name": f"app = {HTTP}",
    "broken": "application = (",
    "deep": f"application = {'-' * 50_000}1",
}


@pytest.mark.parametrize("code", HAVE_NONE.values(), ids=HAVE_NONE)
def test_an_application_without_websockets_is_recognised(code: str) -> None:
    assert is_without_websockets(IMPORTS + code, "application")


@pytest.mark.parametrize("code", MAY_HAVE_ONE.values(), ids=MAY_HAVE_ONE)
def test_one_that_may_have_them_is_not_reported(code: str) -> None:
    assert not is_without_websockets(IMPORTS + code, "application")


def test_the_applications_of_this_repository_have_them() -> None:
    for path in ("notifier/asgi.py", "tests/asgi.py", "tests/own_api.py"):
        assert not is_without_websockets((ROOT / path).read_text(encoding="utf-8"), "application")


@pytest.fixture
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """A project that includes the app's URLs; its application must not be imported."""
    module = tmp_path / "a_bare_asgi.py"
    module.write_text(
        "from django.core.asgi import get_asgi_application\n"
        f"raise SystemExit('imported')\napplication = {HTTP}"
    )
    include = "from django.urls import include, path\nurlpatterns = ["
    (tmp_path / "an_empty_site.py").write_text(f"{include}]")
    (tmp_path / "a_live_site.py").write_text(f"{include}path('live/', include('realtime.urls'))]")
    monkeypatch.syspath_prepend(tmp_path)
    settings.ROOT_URLCONF = "a_live_site"
    settings.ASGI_APPLICATION = "a_bare_asgi.application"
    settings.REALTIME_REDIS_URL = "redis://127.0.0.1:6379/0"


def found() -> list[str | None]:
    return [message.id for message in checks.run_checks(tags=["realtime"])]


@pytest.mark.usefixtures("_project")
def test_a_project_whose_pages_find_no_websocket_is_told() -> None:
    assert found() == ["realtime.W015"]
    assert "a_bare_asgi" not in sys.modules


@pytest.mark.usefixtures("_project")
@pytest.mark.parametrize(
    "more",
    [
        {"REALTIME_PUBLIC_URL": "https://notify.example.com"},
        {"ROOT_URLCONF": "an_empty_site"},
        {"ASGI_APPLICATION": None},
        {"ASGI_APPLICATION": "nowhere.application"},
    ],
    ids=["a service elsewhere", "no pages", "only WSGI", "no such module"],
)
def test_a_project_whose_pages_need_none_is_not_told(settings: Any, more: dict[str, Any]) -> None:
    for name, value in more.items():
        setattr(settings, name, value)
    assert found() == []
