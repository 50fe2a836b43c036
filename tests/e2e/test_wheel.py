"""The wheel is complete: a foreign project does what docs/howto/django-host.md says, to the letter.

The project is made by ``startproject`` outside of the checkout, its files are those of the page,
and `realtime` comes from the wheel alone. The libraries are those of the tests' environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.support.eventually import eventually_sync
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT, free_port

PAGE = ROOT / "docs" / "howto" / "django-host.md"
NO_BACKEND = re.compile(r"failed to (resolve|fetch)|no matching distribution|connection", re.I)

# Packages that were installed by a test of another kind must not hide a hole in the wheel.
FILES = (
    "realtime/static/realtime/client.js",
    "realtime/brokers/position.lua",
    "realtime/brokers/publish.lua",
    "realtime/brokers/read_position.lua",
    "realtime/brokers/queue_tend.lua",
    "realtime/templates/realtime/fallback.txt",
    "realtime/py.typed",
    "realtime/management/commands/__init__.py",
    "realtime/templatetags/realtime.py",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    if shutil.which("uv"):
        command = ["uv", "build", "--wheel", "--out-dir", str(folder), str(ROOT)]
    else:
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "hatchling" in done.stderr and NO_BACKEND.search(done.stderr):
        pytest.skip("the wheel cannot be built here: hatchling cannot be fetched")
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    return built


class Host:
    """A project in a folder of its own, with nothing of the checkout on its path."""

    def __init__(self, folder: Path, site: Path, redis_url: str) -> None:
        self.folder = folder
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DJANGO_", "REALTIME_", "NOTIFIER_", "PYTHONDEVMODE"))
        } | {"PYTHONPATH": str(site), "REDIS_URL": redis_url}

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def host(wheel: Path, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Host:
    folder, site = tmp_path_factory.mktemp("host"), tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    project = Host(folder, site, redis_server.url)
    project.run("-m", "django", "startproject", "mysite", ".")
    project.run("manage.py", "startapp", "orders")
    for name, at_the_end, text in files_of_the_page():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if at_the_end else "w") as file:
            file.write(text)
    return project


def files_of_the_page() -> list[tuple[str, bool, str]]:
    """Return name, whether it is appended, and text of each file that the page shows."""
    found = re.findall(
        r"^`([\w./]+)`(, at the end)?:\n\n```\w+\n(.*?)^```$", PAGE.read_text(), re.M | re.S
    )
    return [(name, bool(at_the_end), text) for name, at_the_end, text in found]


@pytest.fixture(params=["runserver", "uvicorn"])
def address(host: Host, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Serve the project as the page says."""
    port = free_port()
    command = {
        "runserver": ["manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"],
        "uvicorn": ["-m", *options_of_uvicorn(), "--port", str(port)],
    }[request.param]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=host.folder, env=host.env, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    try:
        try:
            eventually_sync(lambda: answers(f"{url}/live/readyz"), seconds=20)
        except AssertionError:
            raise AssertionError(log.read_text()) from None
        yield url
        assert "Traceback" not in log.read_text()
    finally:
        process.terminate()
        process.wait(timeout=30)


def options_of_uvicorn() -> list[str]:
    found = re.search(r"^(uvicorn mysite.*?)^```", PAGE.read_text(), re.M | re.S)
    assert found is not None
    return found[1].replace("\\\n", " ").split()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_wheel_has_all_that_is_no_python_too(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert set(FILES) <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "realtime").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_the_wheel_has_nothing_of_the_service(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"realtime"}


def test_the_page_shows_all_files_of_the_project(host: Host) -> None:
    assert {name for name, _, _ in files_of_the_page()} == {
        "mysite/settings.py",
        "mysite/urls.py",
        "mysite/asgi.py",
        "orders/views.py",
        "orders/templates/orders/shipped.html",
        "orders/static/orders/live.js",
        "orders/tests.py",
    }


def test_the_app_is_the_wheel_s(host: Host) -> None:
    where = host.run("-c", "import realtime; print(realtime.__file__)").strip()
    assert where.startswith(host.env["PYTHONPATH"])


def test_its_checks_pass_and_find_a_misspelt_setting(host: Host) -> None:
    assert "no issues" in host.run("manage.py", "check")
    typing_error = (
        "from mysite.settings import *; REALTIME_PING_SECOND = 1; "
        "from django.core.checks.registry import registry"
    )
    (host.folder / "mysite" / "wrong.py").write_text(typing_error)
    said = host.run("manage.py", "check", "--settings", "mysite.wrong")
    assert "REALTIME_PING_SECOND is not a setting" in said
    assert "REALTIME_PING_SECONDS?" in said


def test_it_has_no_migrations(host: Host) -> None:
    assert "realtime" not in host.run("manage.py", "showmigrations")


def test_the_page_s_own_test_passes(host: Host) -> None:
    assert "OK" in host.run("manage.py", "test", "orders")


def test_its_client_is_found_among_the_static_files(host: Host) -> None:
    found = host.run("manage.py", "findstatic", "realtime/client.js")
    assert host.env["PYTHONPATH"] in found


async def test_a_press_on_the_button_is_live(address: str) -> None:
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


async def test_a_page_of_a_foreign_origin_is_refused(address: str) -> None:
    websocket = address.replace("http", "ws") + "/connection/websocket"
    with pytest.raises(Exception, match="403"):
        async with connect(websocket, origin="https://evil.example"):  # type: ignore[arg-type]
            pass
