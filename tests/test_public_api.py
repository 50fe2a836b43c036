"""The public API, listed literally: a change here changes the contract."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import import_module, resources
from inspect import signature
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import realtime

ROOT = Path(__file__).parent.parent


def test_the_exported_names():
    publishing = ["apublish", "publish", "publish_on_commit"]
    who = ["connection_token", "personal_channel", "subscription_token"]
    verbs = ("block", "disconnect", "message", "subscribe", "unblock", "unsubscribe")
    users = [f"{verb}_user" for verb in verbs]
    present = ["presence", "presence_stats", "position"]
    asynchronous = [f"a{name}" for name in [*users, *present]]
    views = ["live_etag", "with_position"]
    names = [*publishing, "fallback", *who, *users, *present, *asynchronous, *views]
    assert realtime.__all__ == ["__version__", *sorted(names)]


@pytest.mark.parametrize("name", realtime.__all__)
def test_every_exported_name_exists(name):
    assert getattr(realtime, name) is not None


@pytest.mark.parametrize("name", [name for name in realtime.__all__ if name != "__version__"])
def test_a_host_can_read_the_type_hints(name):
    """Frameworks do this to check arguments or to generate documentation."""
    assert "return" in get_type_hints(getattr(realtime, name))


def test_no_other_name_is_exported():
    with pytest.raises(AttributeError, match="has no attribute 'subscribe'"):
        _ = realtime.subscribe


@pytest.mark.parametrize("name", ["publish", "apublish", "publish_on_commit"])
def test_the_three_publish_functions_take_the_same_arguments(name):
    parameters = list(signature(getattr(realtime, name)).parameters)
    assert parameters[:5] == ["channel", "data", "event", "tags", "idempotency_key"]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            "realtime.routing",
            ["lifespan", "otherwise", "require_upgrade", "websocket_urlpatterns", "with_root_path"],
        ),
        ("realtime.contrib.jinja2", ["FUNCTIONS"]),
        ("realtime.urls", ["urlpatterns"]),
        ("realtime.endpoint", ["HttpEndpoint"]),
        ("realtime.wiring", ["drain", "largest_body_bytes", "limit_reached", "limits"]),
    ],
)
def test_the_mountable_names_are_exported(module, names):
    assert all(hasattr(import_module(module), name) for name in names)


def test_the_exported_names_of_the_browser_client():
    source = resources.files("realtime").joinpath("static/realtime/client.js").read_text()
    exported = re.findall(
        r"^export (?:async )?(?:class|function|const) (\w+)", source, re.MULTILINE
    )
    assert exported == [
        "RealtimeError",
        "warnOfRefusal",
        "isTerminal",
        "backoffMs",
        "PositionTracker",
        "Roster",
        "Subscription",
        "Connection",
        "connect",
    ]
    assert source.count("\nexport ") == len(exported)


def test_the_types_of_the_browser_client_declare_the_names_that_it_exports():
    """If Node is installed, `make check` compares the whole file with the output of tsc."""
    static = resources.files("realtime").joinpath("static/realtime")
    exported = r"^export (?:declare )?(?:async )?(?:class|function|const) (\w+)"
    names = [
        re.findall(exported, static.joinpath(name).read_text(), re.MULTILINE)
        for name in ("client.js", "client.d.ts")
    ]
    assert names[0] == names[1]


def test_when_a_fallback_gets_a_publication_is_one_of_two_words():
    options = import_module("realtime.host.publishing").PublishOptions
    words, nothing = get_args(get_type_hints(options)["fallback_when"])
    assert (get_origin(words), get_args(words)) == (Literal, ("nobody", "always"))
    assert nothing is type(None)


def test_the_version_matches_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert realtime.__version__ == project["version"]


def test_the_package_ships_its_type_hints():
    """PEP 561."""
    assert resources.files("realtime").joinpath("py.typed").is_file()


def test_the_package_can_be_imported_before_django_is_set_up():
    code = "import realtime, sys; sys.exit('django' in sys.modules or 'redis' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
