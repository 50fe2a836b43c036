"""The wheel is complete: a foreign project follows docs/howto/django-host.md with nothing else.

``startproject`` creates the project outside of the checkout, its files are those of the page, and
`realtime` comes from the wheel alone. The libraries are those of the test environment.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.support.host import Host, files_of
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT
from tests.support.wheel import build_wheel

PAGE = ROOT / "docs" / "howto" / "django-host.md"

# Packages that were installed for other tests must not hide a file missing from the wheel.
FILES = (
    "realtime/static/realtime/bell.js",
    "realtime/static/realtime/client.d.ts",
    "realtime/static/realtime/client.js",
    "realtime/static/realtime/page.js",
    "realtime/static/realtime/shared.js",
    "realtime/static/realtime/stream.js",
    "realtime/brokers/scripts/position.lua",
    "realtime/brokers/scripts/publish.lua",
    "realtime/brokers/scripts/read_position.lua",
    "realtime/brokers/scripts/queue_tend.lua",
    "realtime/templates/realtime/fallback.txt",
    "realtime/py.typed",
    "realtime/management/commands/__init__.py",
    "realtime/templatetags/realtime.py",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def host(wheel: Path, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Host:
    folder, site = tmp_path_factory.mktemp("host"), tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    project = Host(folder, str(site), redis_server.url)
    project.write(files_of(PAGE.read_text()))
    return project


@pytest.fixture(params=["runserver", "uvicorn"])
def address(host: Host, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Serve the project as described on the page."""
    command = {
        "runserver": ["manage.py", "runserver", "--noreload"],
        "uvicorn": ["-m", *options_of_uvicorn()],
    }[request.param]
    with host.served(tmp_path / "log", *command) as url:
        yield url


def options_of_uvicorn() -> list[str]:
    found = re.search(r"^(uvicorn mysite.*?)^```", PAGE.read_text(), re.M | re.S)
    assert found is not None
    return found[1].replace("\\\n", " ").split()


def test_the_wheel_includes_non_python_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert set(FILES) <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "realtime").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_the_wheel_excludes_the_service(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"realtime"}


def test_the_documentation_shows_all_files_of_the_project(host: Host) -> None:
    assert {file.name for file in files_of(PAGE.read_text())} == {
        "mysite/settings.py",
        "mysite/urls.py",
        "mysite/asgi.py",
        "orders/views.py",
        "orders/templates/orders/shipped.html",
        "orders/static/orders/live.js",
        "orders/tests.py",
    }


def test_the_app_is_imported_from_the_wheel(host: Host) -> None:
    where = host.run("-c", "import realtime; print(realtime.__file__)").strip()
    assert where.startswith(host.env["PYTHONPATH"])


def test_checks_pass_and_find_a_misspelt_setting(host: Host) -> None:
    assert "no issues" in host.run("manage.py", "check")
    typing_error = (
        "from mysite.settings import *; REALTIME_PING_SECOND = 1; "
        "from django.core.checks.registry import registry"
    )
    (host.folder / "mysite" / "wrong.py").write_text(typing_error)
    said = host.run("manage.py", "check", "--settings", "mysite.wrong")
    assert "REALTIME_PING_SECOND is not a setting" in said
    assert "REALTIME_PING_SECONDS?" in said


def test_the_app_has_no_migrations(host: Host) -> None:
    assert "realtime" not in host.run("manage.py", "showmigrations")


def test_the_documented_test_passes(host: Host) -> None:
    assert "OK" in host.run("manage.py", "test", "orders")


def test_the_client_is_found_among_the_static_files(host: Host) -> None:
    found = host.run("manage.py", "findstatic", "realtime/client.js")
    assert host.env["PYTHONPATH"] in found


async def test_pressing_the_button_updates_the_page_live(address: str) -> None:
    websocket = address.replace("http", "ws") + "/connection/websocket"
    async with connect(websocket, origin=address) as client:  # type: ignore[arg-type]
        await client.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"orders:all"}}')
        said = ""
        while '"id":2' not in said:
            said = str(await client.recv())
        async with httpx.AsyncClient(base_url=address) as browser:
            page = await browser.get("/orders/")
            token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', page.text)
            assert token is not None
            pressed = await browser.post(
                "/orders/1042/ship/", data={"csrfmiddlewaretoken": token[1]}
            )
            assert pressed.status_code == 302
        push = json.loads(await client.recv())["push"]
    assert push["channel"] == "orders:all"
    assert push["pub"]["data"] == {"number": 1042}
    assert push["pub"]["tags"] == {"event": "order.shipped"}


async def test_an_anonymous_visitor_may_publish_nowhere(address: str) -> None:
    """The demo's `chat`, open to everyone, was among the defaults of every host."""
    websocket = address.replace("http", "ws") + "/connection/websocket"
    async with connect(websocket, origin=address) as client:  # type: ignore[arg-type]
        commands = ['{"id":1,"connect":{}}']
        for number, channel in enumerate(("chat:x", "public:x", "orders:all", "job:1", "x"), 2):
            commands.append(f'{{"id":{number},"publish":{{"channel":"{channel}","data":1}}}}')
        await client.send("\n".join(commands))
        answers: dict[int, Any] = {}
        while len(answers) < len(commands):
            said = map(json.loads, str(await client.recv()).splitlines())
            answers |= {answer["id"]: answer for answer in said if "id" in answer}
    assert "connect" in answers.pop(1)
    assert {answer["error"]["code"] for answer in answers.values()} == {103}


async def test_a_page_of_a_foreign_origin_is_refused(address: str) -> None:
    websocket = address.replace("http", "ws") + "/connection/websocket"
    with pytest.raises(Exception, match="403"):
        async with connect(websocket, origin="https://evil.example"):  # type: ignore[arg-type]
            pass
