"""Follows docs/howto/servers.md: each server, and an nginx that strips a prefix."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from realtime import apublish, wiring
from realtime.wiring.nodes import REST_SECONDS
from tests.conftest import NGINX
from tests.support.client import Client
from tests.support.eventually import eventually, eventually_sync
from tests.support.host import Host, files_of
from tests.support.machine import within
from tests.support.overheard_channel import Heard
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT

PAGE = (ROOT / "docs" / "howto" / "servers.md").read_text(encoding="utf-8")
SERVERS, BELOW_A_PATH = PAGE.split("\n## nginx, below a path\n")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE.replace("\\\n", " "), re.M | re.S)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
ASGI = [command for command in COMMANDS if "mysite.asgi" in command]
IDS = [re.sub(r"^(\w+).*?(?:--task-impl (\w+).*)?$", r"\1 \2", each).strip() for each in ASGI]
[WSGI] = [command for command in COMMANDS if "mysite.wsgi" in command]
OPTIONS = dict(re.findall(r"^\| (\w+) \| `(--[^`]+)` \|$", BELOW_A_PATH, re.M))
[GUNICORN_OPTION] = re.findall(r"^\| gunicorn .*: `(\"[^`]+)` \|$", BELOW_A_PATH, re.M)
[LOCATION] = re.findall(r"^```nginx\n(.*?)^```$", BELOW_A_PATH, re.M | re.S)
CLOSE_CODES = {
    "uvicorn": 1012,
    "gunicorn": 1012,
    "hypercorn": 1011,
    "granian": 1006,
    "daphne": 1006,
}
WAITING = {"hypercorn"} if sys.version_info >= (3, 12) else set()
"""Those that stop when the last client has gone, whatever their options say."""
PRODUCTION = """
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
"""
SCRIPT_NAME = """
FORCE_SCRIPT_NAME = "/app/live"
USE_X_FORWARDED_HOST = True
ALLOWED_HOSTS = ["shop.example"]
"""
PUBLIC = "shop.example:8443"
"""The host that browsers know, for a proxy that replaces `Host` by another."""
NGINX_CONF = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}
http {{
    access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
    fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    server {{ listen 127.0.0.1:{port}; {location} }}
}}
"""


class Server:
    """A server started by a command of the page, on another port."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_until(self, probe: str) -> None:
        """Wait until a path responds with 200."""
        try:
            eventually_sync(lambda: self.process.poll() is not None or is_ok(self.url + probe), 20)
            assert self.process.poll() is None
        except AssertionError:
            raise AssertionError(self.log) from None


def is_ok(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def started(project: Host, command: str, log: Path) -> Iterator[Server]:
    port = free_port()
    programs = Path(sys.executable).parent
    env = project.env | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            shlex.split(command.replace("8000", str(port))),
            cwd=project.folder, env=env, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield Server(process, port, log)
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def project(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The project of `django-host`, changed as the page says, with DEBUG off."""
    folder = tmp_path_factory.mktemp("servers")
    project = Host(folder, f"{folder}:{ROOT}", redis.url)
    project.write(files_of((ROOT / "docs/howto/django-host.md").read_text(encoding="utf-8")))
    project.write(files_of(SERVERS))
    with (folder / "mysite/settings.py").open("a", encoding="utf-8") as settings:
        settings.write(PRODUCTION)
    return project


@pytest.fixture(scope="module")
def below_a_path(project: Host, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The same project, with what the page adds for a path."""
    moved = copy_of(project, tmp_path_factory.mktemp("path"))
    moved.write(files_of(BELOW_A_PATH))
    workers = moved.folder / "mysite/workers.py"
    text = workers.read_text(encoding="utf-8")
    workers.write_text(text.replace("{\n", f"{{\n        {GUNICORN_OPTION},\n"), encoding="utf-8")
    return moved


@pytest.fixture(scope="module")
def with_script_name(project: Host, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The same project, which knows the path by itself, and its host from the proxy."""
    moved = copy_of(project, tmp_path_factory.mktemp("script-name"))
    with (moved.folder / "mysite/settings.py").open("a", encoding="utf-8") as settings:
        settings.write(SCRIPT_NAME)
    return moved


def copy_of(project: Host, folder: Path) -> Host:
    moved = copy(project)
    moved.folder = folder
    moved.env = project.env | {"PYTHONPATH": f"{folder}:{ROOT}"}
    shutil.copytree(project.folder, folder, dirs_exist_ok=True)
    return moved


@pytest.fixture
async def _publishes_there(redis: RedisServer, settings: Any) -> AsyncIterator[None]:
    """Let this process publish to the project."""
    settings.REALTIME_REDIS_URL = redis.url
    settings.REALTIME_REDIS_PREFIX = "rt"
    settings.REALTIME_NAMESPACES = {"orders": {}}
    yield
    await wiring.aclose()


@asynccontextmanager
async def clients(
    base: str, origin: str, probe: str = "/live/readyz"
) -> AsyncIterator[tuple[Client, AsyncIterator[str]]]:
    """A WebSocket and an event stream that have each received a publication."""
    url = f"{base.replace('http', 'ws', 1)}/connection/websocket"
    async with (
        httpx.AsyncClient(base_url=base, timeout=60) as http,
        http.stream("GET", "/connection/sse?channel=orders:all") as stream,
    ):
        assert stream.status_code == 200
        lines = stream.aiter_lines()
        page = await Client.open(url, origin=origin)
        try:
            await page.subscribe("orders:all")
            receipt = await apublish("orders:all", {"number": 1042})
            assert receipt.nodes
            # One worker may be live before the other, and the client may be connected to the other.
            pub = await page.push("pub", passing_over="state")
            assert pub["data"] == {"number": 1042}
            async with within(10):
                while await anext(lines) != 'data: {"number":1042}':
                    pass
            await eventually(partial(is_ready, http, probe))
            yield page, lines
        finally:
            await page.close()


async def is_ready(http: httpx.AsyncClient, probe: str) -> bool:
    return (await http.get(probe)).status_code == 200


async def is_completed(lines: AsyncIterator[str]) -> bool:
    """Read a stream to its end; tell whether the server has written it."""
    try:
        async for _ in lines:
            pass
    except httpx.RemoteProtocolError:
        return False
    return True


def errors_in(log: str) -> list[str]:
    """Return the exception of each traceback: the first line after it that is not indented."""
    found = re.findall(r"^Traceback .*?\n(?=\S)([\w.]+)", log, re.M | re.S)
    return [str(error) for error in found]


@pytest.mark.usefixtures("_publishes_there")
@pytest.mark.parametrize("command", ASGI, ids=IDS)
async def test_a_server_delivers_and_stops(project: Host, command: str, tmp_path: Path) -> None:
    name = command.split()[0]
    with started(project, command, tmp_path / "log") as server:
        await asyncio.to_thread(server.wait_until, "/live/readyz")  # without a client
        async with clients(server.url, server.url) as (page, lines):
            assert "Traceback" not in server.log
            server.process.terminate()
            if name in WAITING:
                await still_delivers(server, page)
            else:
                (code, _), is_whole = await asyncio.gather(page.closed(20), is_completed(lines))
                assert code == CLOSE_CODES[name]
                assert is_whole or name not in {"uvicorn", "gunicorn"}
        await asyncio.to_thread(server.process.wait, 60)
        assert ("no lifespan event" in server.log) == (name == "daphne")
        assert set(errors_in(server.log)) <= {"asyncio.exceptions.CancelledError"}
        # hypercorn's own; not on Python 3.11.2.
        assert "Traceback" not in server.log or (name == "hypercorn" and name not in WAITING)
        assert "without completing response" not in server.log  # uvicorn's complaint


@pytest.mark.parametrize("name", ["daphne", "uvicorn"])
async def test_a_node_without_a_lifespan_becomes_ready_and_stays_ready_between_probes(
    project: Host, name: str, tmp_path: Path
) -> None:
    """Its hub rests five seconds after its last client, and a balancer may probe every ten."""
    bare = copy_of(project, tmp_path)
    asgi = bare.folder / "mysite/asgi.py"
    text = asgi.read_text(encoding="utf-8")
    asgi.write_text(text.replace('"lifespan": lifespan,', ""), encoding="utf-8")
    command = next(each for each in ASGI if each.startswith(name)).replace("--lifespan on", "")
    with started(bare, command, tmp_path / "log") as server:
        await asyncio.to_thread(server.wait_until, "/live/readyz")
        await asyncio.sleep(REST_SECONDS + 2)  # there is no condition to wait for: nobody asks
        assert await asyncio.to_thread(is_ok, f"{server.url}/live/readyz")


async def still_delivers(server: Server, page: Client) -> None:
    """See that a server that was told to stop keeps a client; it ends when that has left."""
    await apublish("orders:all", {"number": 1043})
    assert (await page.push("pub", passing_over="state"))["data"] == {"number": 1043}
    assert server.process.poll() is None


def test_a_project_whose_clients_have_no_lifespan_is_told(project: Host, tmp_path: Path) -> None:
    assert "realtime.W" not in project.run("manage.py", "check")
    told = copy_of(project, tmp_path)
    asgi = told.folder / "mysite/asgi.py"
    text = asgi.read_text(encoding="utf-8")
    asgi.write_text(text.replace('"lifespan": lifespan,', ""), encoding="utf-8")
    # The mailer of Django 6.1's own template is an error for --deploy.
    for more in ((), ("--deploy", "--fail-level", "CRITICAL")):
        said = told.run("manage.py", "check", *more)
        assert "(realtime.W014) mysite.asgi.application serves clients and does not" in said
    # Under WSGI alone, nothing serves clients.
    settings = told.folder / "mysite/settings.py"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("ASGI_APPLICATION = ", "UNUSED = "), encoding="utf-8")
    assert "realtime.W" not in told.run("manage.py", "check")


def test_the_page_names_an_option_for_each_server_below_a_path() -> None:
    assert OPTIONS.keys() | {"gunicorn"} == CLOSE_CODES.keys()


@pytest.mark.nginx
@pytest.mark.usefixtures("_publishes_there")
@pytest.mark.parametrize("name", CLOSE_CODES)
async def test_nginx_serves_each_server_below_a_path(
    below_a_path: Host, name: str, tmp_path: Path
) -> None:
    command = next(each for each in ASGI if each.startswith(name))
    with started(below_a_path, f"{command} {OPTIONS.get(name, '')}", tmp_path / "log") as server:
        await asyncio.to_thread(server.wait_until, "/live/readyz")
        if name not in {"uvicorn", "gunicorn"}:  # they put the path in front of any
            with nginx(tmp_path, server, LOCATION.replace(":8000/;", ":8000;")) as site:
                async with clients(f"{site}/app/live", site):
                    pass
        with nginx(tmp_path, server) as site:
            assert await configured_url(f"{site}/app/live/orders/") == (
                "/app/live/connection/websocket"  # as `clients` have it
            )
            async with clients(f"{site}/app/live", site):
                pass
            async with httpx.AsyncClient(timeout=30) as http:
                answer = await http.get(f"{site}/app/live/live/api/openapi.json")
                assert answer.json()["servers"] == [{"url": "/app/live/live"}]
                assert await eventually(partial(is_live_without_clients, http, site))
        assert "Traceback" not in server.log


@pytest.mark.nginx
@pytest.mark.usefixtures("_publishes_there")
@pytest.mark.parametrize("command", ASGI, ids=IDS)
async def test_a_script_name_suits_each_server_behind_a_proxy_that_replaces_the_host(
    with_script_name: Host, command: str, tmp_path: Path
) -> None:
    """Whether the proxy strips the path or keeps it; and the Origin is compared with PUBLIC."""
    replaced = LOCATION.replace(" Host $http_host;", f" X-Forwarded-Host {PUBLIC};")
    kept = replaced.replace(":8000/;", ":8000;")
    assert len({LOCATION, replaced, kept}) == 3
    public = f"http://{PUBLIC}"
    with started(with_script_name, command, tmp_path / "log") as server:
        for way, location in {"stripped": replaced, "kept": kept}.items():
            folder = tmp_path / way
            folder.mkdir()
            with nginx(folder, server, location) as site:
                ready = partial(is_ok, f"{site}/app/live/live/readyz")
                await asyncio.to_thread(eventually_sync, ready, 20)
                url = "/app/live/connection/websocket"
                assert await configured_url(f"{site}/app/live/orders/") == url
                base = f"{site}/app/live"
                async with clients(base, public, f"{base}/live/readyz"):
                    pass
                with pytest.raises(InvalidStatus) as refused:
                    await Client.open(
                        f"{base.replace('http', 'ws', 1)}/connection/websocket",
                        origin="http://elsewhere.example",
                    )
                assert refused.value.response.status_code == 403
        assert "Traceback" not in server.log


async def configured_url(page: str) -> str:
    """Return the URL that the template tag has written into a page."""
    async with httpx.AsyncClient(timeout=30) as http:
        html = (await http.get(page)).raise_for_status().text
    [configured] = re.findall(r'<script id="realtime-config"[^>]*>(.*?)</script>', html)
    return str(json.loads(configured)["url"])


async def is_live_without_clients(http: httpx.AsyncClient, site: str) -> bool:
    answer = await http.get(f"{site}/app/live/live/readyz")
    assert answer.status_code == 200
    return bool(answer.json()["connections"] == 0)


@contextmanager
def nginx(folder: Path, server: Server, location: str = LOCATION) -> Iterator[str]:
    port = free_port()
    location = location.replace("8000", str(server.port))
    conf = folder / "nginx.conf"
    conf.write_text(NGINX_CONF.format(folder=folder, port=port, location=location))
    process = subprocess.Popen([str(NGINX), "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        eventually_sync(lambda: (folder / "pid").exists())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_a_project_under_wsgi_publishes(project: Host, heard: Heard, tmp_path: Path) -> None:
    token = "a" * 32
    headers = {"Cookie": f"csrftoken={token}", "X-CSRFToken": token}
    with started(project, WSGI, tmp_path / "log") as server:
        server.wait_until("/live/livez")
        answer = httpx.post(f"{server.url}/orders/7/ship/", headers=headers, timeout=30)
        assert answer.is_redirect, answer.text
        assert heard.data_on("orders:all") == [{"number": 7}]
        server.process.terminate()
        server.process.wait(60)
        assert "Traceback" not in server.log
