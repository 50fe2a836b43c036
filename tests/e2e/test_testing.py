"""Follows docs/howto/testing.md: a foreign project without Redis, in a single process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.support.eventually import eventually_sync
from tests.support.host import Host, files_of
from tests.support.ports import free_port
from tests.support.service import ROOT

HOWTO = ROOT / "docs" / "howto"
PAGE = (HOWTO / "testing.md").read_text(encoding="utf-8")
SETTINGS = '\nREALTIME_API_KEY = "test-key"\n'
PUBLISH = "from realtime import publish; print(publish('orders:7', 1))"
ALONE = "works inside one process only, and another one uses it ("


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Host:
    folder = tmp_path_factory.mktemp("testing")
    made = Host(folder, f"{folder}:{ROOT}", "")
    del made.env["REDIS_URL"]
    made.write(files_of((HOWTO / "django-host.md").read_text(encoding="utf-8")))
    with (folder / "mysite/settings.py").open("a", encoding="utf-8") as file:
        file.write(SETTINGS)
    made.write(files_of((HOWTO / "view.md").read_text(encoding="utf-8")))
    files = files_of(PAGE)
    assert len(files) == 6
    made.write(files)
    made.run("manage.py", "makemigrations", "orders")
    made.run("manage.py", "migrate")
    return made


def commands() -> list[str]:
    """Return the commands that the page shows."""
    [lines] = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)
    return [line.partition("#")[0].strip() for line in lines.splitlines() if line]


def pushes(frame: str) -> list[Any]:
    """Return the pushes in a frame."""
    messages = [json.loads(line) for line in frame.splitlines()]
    return [message["push"] for message in messages if "push" in message]


@pytest.mark.parametrize("command", commands())
def test_the_tests_of_the_page_need_no_redis(project: Host, command: str) -> None:
    output = project.run(*command.split()[1:])
    assert re.search(r"Ran 5 tests|6 passed", output), output
    assert "OK" in output or "passed" in output


async def test_runserver_delivers_and_is_the_only_process(project: Host, tmp_path: Path) -> None:
    command = ("manage.py", "runserver", "--noreload")
    with project.served(tmp_path / "log", *command, probe="/live/livez") as url:
        async with connect(url.replace("http", "ws") + "/connection/websocket") as socket:
            await socket.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"orders:7"}}')
            while '"epoch"' not in str(await socket.recv()):
                continue
            async with httpx.AsyncClient(headers={"X-API-Key": "test-key"}) as client:
                body = {"channel": "orders:7", "data": {"n": 1}}
                answer = await client.post(f"{url}/live/api/publish", json=body)
            result = answer.json()["result"]
            assert result["offset"] == 1
            while '{"n":1}' not in str(await socket.recv()):
                continue
            await socket.send(
                '{"id":3,"unsubscribe":{"channel":"orders:7"}}\n{"id":4,"subscribe":{"channel":'
                f'"orders:7","recover":true,"offset":0,"epoch":"{result["epoch"]}"}}}}'
            )
            while '"gap"' not in (said := str(await socket.recv())):
                continue
            [gap] = [push["gap"] for push in pushes(said) if "gap" in push]
            assert (gap["from"], gap["to"], gap["reason"]) == (1, 1, "reconnect")
            # Commands whose publications would reach nobody are refused with a message.
            refused = output_of(project, "manage.py", "publish", "orders:7", "1")
            assert "REALTIME_REDIS_URL is memory://" in refused
            refused = output_of(project, "manage.py", "shell", "-c", PUBLISH)
            assert f"{ALONE}process " in refused
            assert "manage.py runserver" in refused, "it names the other process"
            assert "post to its API" in refused, "it names what works"


def output_of(project: Host, *command: str) -> str:
    """Return the output of a command that fails in the project."""
    done = subprocess.run(
        [sys.executable, *command], cwd=project.folder, env=project.env,
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode != 0
    return done.stderr


SECOND_WORKERS = {
    "uvicorn": "uvicorn mysite.asgi:application --workers 2 --port {port} "
    "--timeout-worker-healthcheck 60",
    "gunicorn": "gunicorn mysite.asgi:application --workers 2 --bind 127.0.0.1:{port} "
    "--worker-class uvicorn_worker.UvicornWorker --no-control-socket",
    "gunicorn that preloads": "gunicorn mysite.asgi:application --workers 2 --preload "
    "--bind 127.0.0.1:{port} --worker-class uvicorn_worker.UvicornWorker --no-control-socket",
}


@pytest.mark.parametrize("command", SECOND_WORKERS.values(), ids=SECOND_WORKERS)
def test_a_second_worker_is_refused(project: Host, tmp_path: Path, command: str) -> None:
    log = tmp_path / "log"
    with started(project, log, f"-m {command.format(port=free_port())}") as server:
        # Both start at once, so the first may have locked the file and not yet written its name.
        eventually_sync(lambda: ALONE in log.read_text(encoding="utf-8"), seconds=20)
        if command.startswith("gunicorn"):
            assert server.wait(timeout=60) == 3  # WORKER_BOOT_ERROR: it does not start at all


def test_one_worker_of_gunicorn_is_enough(project: Host, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    command = SECOND_WORKERS["gunicorn that preloads"].replace("--workers 2", "--workers 1")
    with started(project, log, f"-m {command.format(port=port)}"):
        wait_until_published(port, 1, log)
        wait_until_published(port, 2, log)


def test_the_autoreloader_of_runserver_is_no_second_process(project: Host, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with started(project, log, f"manage.py runserver 127.0.0.1:{port}"):
        wait_until_published(port, 1, log)
        wait_until_published(port, 2, log)
        # Whether the reloader watches the file already cannot be seen, so it changes until then.
        watched = project.folder / "orders/admin.py"
        wait_until_published(port, 1, log, before_each=watched.touch)  # by the next process
        assert ALONE not in log.read_text(encoding="utf-8")


@contextmanager
def started(project: Host, log: Path, command: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w", encoding="utf-8") as output:
        server = subprocess.Popen(
            [sys.executable, *command.split()], cwd=project.folder, env=project.env,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            # uvicorn's supervisor may wait for the health of a worker that has just ended, and
            # hears no signal meanwhile.
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(timeout=60)


def wait_until_published(
    port: int, offset: int, log: Path, *, before_each: Callable[[], object] = lambda: None
) -> None:
    """Publish until a publication has this offset."""

    def has_offset() -> bool:
        before_each()
        return publish_over_http(port) == offset

    try:
        eventually_sync(has_offset, seconds=20)
    except AssertionError:
        raise AssertionError(log.read_text(encoding="utf-8")) from None


def publish_over_http(port: int) -> int:
    """Publish; return the offset, or 0 if no server answers."""
    url = f"http://127.0.0.1:{port}/live/api/publish"
    try:
        answer = httpx.post(
            url, json={"channel": "orders:7", "data": 1}, headers={"X-API-Key": "test-key"}
        )
    except httpx.TransportError:
        return 0
    answer.raise_for_status()
    return int(answer.json()["result"]["offset"])


@pytest.mark.parametrize("command", [("runfallback",), ("fallback", "stats")])
def test_commands_that_would_reach_nothing_are_refused(
    project: Host, command: tuple[str, ...]
) -> None:
    assert "This command is a process of its own" in output_of(project, "manage.py", *command)


def test_redis_py_is_not_even_imported(project: Host) -> None:
    code = f"{PUBLISH}; import sys; print('redis' in sys.modules)"
    assert project.run("manage.py", "shell", "--no-imports", "-v", "0", "-c", code).endswith(
        "False\n"
    )


def test_a_project_in_production_is_warned(project: Host) -> None:
    with (project.folder / "mysite/production.py").open("w", encoding="utf-8") as file:
        file.write("from mysite.settings import *\nDEBUG = False\n")
    output = project.run("manage.py", "check", "--settings", "mysite.production")
    assert "realtime.W013" in output
    assert "realtime.W013" not in project.run("manage.py", "check")
