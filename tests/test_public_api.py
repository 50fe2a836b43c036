"""What others may rely on, literally listed: a change here is a change of the contract."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import import_module, resources
from inspect import signature
from pathlib import Path

import pytest

import realtime

ROOT = Path(__file__).parent.parent


def test_the_exported_names():
    publishing = ["apublish", "publish", "publish_on_commit"]
    who = ["connection_token", "personal_channel", "subscription_token"]
    users = [f"{verb}_user" for verb in ("disconnect", "message", "subscribe", "unsubscribe")]
    present = ["presence", "presence_stats"]
    asynchronous = [f"a{name}" for name in [*users, *present]]
    names = [*publishing, "fallback", *who, *users, *present, *asynchronous]
    assert realtime.__all__ == ["__version__", *sorted(names)]


@pytest.mark.parametrize("name", realtime.__all__)
def test_every_exported_name_is_there(name):
    assert getattr(realtime, name) is not None


def test_no_other_name_is():
    with pytest.raises(AttributeError, match="has no attribute 'subscribe'"):
        _ = realtime.subscribe


@pytest.mark.parametrize("name", ["publish", "apublish", "publish_on_commit"])
def test_the_three_ways_to_publish_take_the_same(name):
    parameters = list(signature(getattr(realtime, name)).parameters)
    assert parameters[:5] == ["channel", "data", "event", "tags", "idempotency_key"]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("realtime.routing", ["lifespan", "websocket_urlpatterns"]),
        ("realtime.urls", ["urlpatterns"]),
        ("realtime.endpoint", ["HttpEndpoint"]),
        ("realtime.wiring", ["drain", "largest_body_bytes", "limit_reached", "limits"]),
    ],
)
def test_what_hosts_and_services_mount(module, names):
    assert all(hasattr(import_module(module), name) for name in names)


def test_the_exported_names_of_the_browser_client():
    source = resources.files("realtime").joinpath("static/realtime/client.js").read_text()
    exported = re.findall(
        r"^export (?:async )?(?:class|function|const) (\w+)", source, re.MULTILINE
    )
    assert exported == [
        "RealtimeError",
        "isTerminal",
        "backoffMs",
        "PositionTracker",
        "Roster",
        "Subscription",
        "Connection",
        "connect",
    ]
    assert source.count("\nexport ") == len(exported)


def test_the_version_is_the_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert realtime.__version__ == project["version"]


def test_the_types_are_for_others_too():
    """PEP 561."""
    assert resources.files("realtime").joinpath("py.typed").is_file()


def test_the_package_can_be_imported_before_django_is_set_up():
    code = "import realtime, sys; sys.exit('django' in sys.modules or 'redis' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
