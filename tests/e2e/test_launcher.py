"""The launcher and its processes start together and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import pytest

from notifier.embedded import EmbeddedValkey
from notifier.guardian import SOCKET_PATH_BYTES, answers, private_directory
from notifier.launcher import COMPANIONS
from tests.support.database import manage, migrated_url
from tests.support.dispositions import IGNORED, ORDINARY, dispositions
from tests.support.static_files import collect

CHECKOUT = Path(__file__).resolve().parents[2]
# Variables that a developer may have set and that would affect the tests.
SETTINGS_OF_THE_SERVICE = {
    "ALLOWED_HOSTS",
    "ALLOWED_ORIGINS",
    "DATABASE_URL",
    "DEBUG",
    "DJANGO_SETTINGS_MODULE",
    "HOST",
    "HTTPS",
    "NOTIFIER_API_KEY",
    "NOTIFIER_DEMO_KEY",
    "NOTIFIER_NAMESPACES",
    "NOTIFIER_URL",
    "PORT",
    "REDIS_URL",
    "SECRET_KEY",
    "WEB_CONCURRENCY",
}

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

T = TypeVar("T")


def eventually(look: Callable[[], T], *, seconds: float = 30.0) -> T:
    """Return the first true value that ``look`` returns."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)
    return found


def clean_environ(**variables: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in SETTINGS_OF_THE_SERVICE
    }
    return kept | variables


def parents() -> dict[int, int]:
    """Return the parent of each living process (zombies do not count)."""
    table = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = directory.joinpath("stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                table[int(directory.name)] = int(parent)
    return table


def descendants(pid: int) -> set[int]:
    table, found = parents(), {pid}
    while more := {child for child, parent in table.items() if parent in found} - found:
        found |= more
    return found - {pid}


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


READY = {"manage": "handling fallbacks: ", "celery": " ready."}
"""The log line of a companion that has started, by its module."""


class Launched:
    """A running ``python -m notifier …``, with its output in files."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        signals: Mapping[signal.Signals, Any] = ORDINARY,
        **variables: str,
    ) -> None:
        self.out, self.err = directory / "out.txt", directory / "err.txt"
        self.run_directory = directory / "run"
        if any("serve" in word for word in arguments):
            collect()
        settings = {"PORT": "0", "NOTIFIER_RUN_DIR": str(self.run_directory)} | variables
        with self.out.open("w") as out, self.err.open("w") as err, dispositions(signals):
            self.process = subprocess.Popen(
                arguments or [sys.executable, "-m", "notifier", "run"],
                cwd=CHECKOUT, env=clean_environ(**settings), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip

    def text(self) -> str:
        return self.out.read_text()

    def wait_until_live(self) -> str:
        """Wait until the service is live; return the URL that it prints."""
        live = re.compile(r"http://[0-9.:]+")
        eventually(lambda: live.search(self.text()) or self.process.poll() is not None)
        found = live.search(self.text())
        assert found, self.err.read_text()
        return found[0]

    def service(self) -> dict[str, str]:
        return json.loads((self.run_directory / "service.json").read_text())

    def workers(self) -> set[int]:
        return {
            pid for pid in descendants(self.process.pid) if "notifier.server" in command_line(pid)
        }

    def wait_for_companions(self) -> None:
        """Wait until all companions work: a starting process does not watch its lifeline yet."""
        for companion in COMPANIONS:
            eventually(lambda ready=READY[companion.module]: ready in self.err.read_text())

    def pid_of(self, name: str) -> int:
        (pid,) = (pid for pid in descendants(self.process.pid) if name in command_line(pid))
        return pid

    def valkey(self) -> int:
        # Its process title shows the socket; the guardian's command line shows only the binary.
        return self.pid_of("valkey.sock")

    def guardian(self) -> int:
        return self.pid_of("notifier.guardian")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class Launch(Protocol):
    def __call__(self, *arguments: str, **options: Any) -> Launched: ...


@pytest.fixture
def launch(tmp_path) -> Iterator[Launch]:
    """Start launchers, and stop them at the end of the test in any case."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **options: Any) -> Launched:
            service = Launched(tmp_path, *arguments, **options)
            stack.callback(service.stop)
            return service

        yield start


@pytest.fixture
def launched(launch) -> Launched:
    return launch()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """One live service for all tests that only use it: starting six processes takes seconds."""
    service = Launched(tmp_path_factory.mktemp("live"))
    try:
        service.wait_until_live()
        yield service
    finally:
        service.stop()
    assert "Traceback" not in service.err.read_text()


def get(url: str) -> int:
    return httpx.get(url, timeout=60).status_code


def refuses(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return True
    return False


def test_the_printed_addresses_work(live):
    url = live.wait_until_live()
    assert get(f"{url}/livez") == 200
    for page in re.findall(r"http://\S+/$", live.text(), flags=re.MULTILINE):
        assert get(page) == 200
    assert live.service()["url"] == url
    assert live.service()["api_key"] in live.text()


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory with a path that is short enough for a Unix socket in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.parametrize(
    "locale",
    [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["the locale of the tests", "an ASCII locale"],
)
def test_the_service_starts_in_any_locale(launch, short_directory, locale):
    """Issue 15, C19: the Lua scripts were read in the locale's encoding, and the import failed.

    The address of Valkey's socket is a URL, so it must be ASCII.

    dissemin/wikiciteparser#17: a packaged file is opened without an encoding, so the import fails.
    """
    directory = short_directory / "Zoë"
    directory.mkdir()
    service = launch(TMPDIR=str(directory), **locale)
    url = service.wait_until_live()
    key = {"X-API-Key": service.service()["api_key"]}
    body = {"channel": "public:news", "data": "Zoë", "tags": {"who": "Zoë"}}
    assert httpx.post(f"{url}/api/publish", json=body, headers=key).status_code == 200
    for path in ("/", "/htmx/", "/docs/", "/login/", "/api/openapi.json"):
        assert get(f"{url}{path}") == 200
    service.wait_for_companions()
    service.stop()
    assert "Traceback" not in service.err.read_text()


def test_a_websocket_to_an_unknown_path_is_refused_without_a_traceback(live):
    url = live.wait_until_live()
    key = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    response = httpx.get(f"{url}/nowhere", headers=upgrade | key)
    assert response.status_code == 404
    assert get(f"{url}/livez") == 200
    assert "Traceback" not in live.err.read_text()


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_printed_curl_line_works_when_pasted(live):
    line = next(line for line in live.text().splitlines() if "curl" in line)
    answer = subprocess.run(["sh", "-c", f"{line} -sS"], capture_output=True, check=True)
    assert json.loads(answer.stdout)["result"]["offset"] == 1, "no other test publishes there"


def test_the_api_key_in_the_environment_is_used(launch):
    service = launch(NOTIFIER_API_KEY="mine")
    service.wait_until_live()
    assert "X-API-Key: mine" in service.text()


@needs_proc
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_no_process_or_file_is_left_behind(launched, ending):
    url = launched.wait_until_live()
    service_file = launched.run_directory / "service.json"
    valkey_directory = Path(launched.service()["redis_url"].removeprefix("unix://")).parent
    launched.wait_for_companions()
    processes = descendants(launched.process.pid)
    # A worker, the guardian, Valkey, the companions, and the pool of the companion that runs jobs.
    assert len(processes) == 3 + len(COMPANIONS) + 2
    assert stat.S_IMODE(service_file.stat().st_mode) == 0o600

    launched.process.send_signal(ending)

    code = launched.process.wait(30)
    assert code == (-signal.SIGKILL if ending == signal.SIGKILL else 0)
    eventually(lambda: not processes & parents().keys())
    assert not valkey_directory.exists()
    assert not service_file.exists()
    assert refuses(url)
    assert "Traceback" not in launched.err.read_text()


@needs_proc
def test_a_signal_that_was_ignored_at_its_start_stays_ignored(launch):
    """`nohup make run &` survives the terminal, and says which signal stops it."""
    service = launch(signals=IGNORED)
    url = service.wait_until_live()
    pid = service.process.pid
    assert service.err.read_text().startswith("notifier: SIGINT and SIGHUP are ignored")
    assert f"stop this process with: kill {pid}\n" in service.err.read_text()
    service.process.send_signal(signal.SIGHUP)
    service.process.send_signal(signal.SIGINT)
    assert get(f"{url}/livez") == 200
    service.process.terminate()
    assert service.process.wait(30) == 0


@needs_proc
def test_the_launcher_ends_when_make_is_killed(launch):
    shell = f"{sys.executable} -m notifier run --stop-with-parent; exit 0"
    service = launch("sh", "-c", shell)
    service.wait_until_live()
    service.wait_for_companions()
    processes = descendants(service.process.pid)
    service.process.kill()
    service.process.wait()
    eventually(lambda: not processes & parents().keys())


@needs_proc
def test_a_worker_that_dies_is_replaced(launched):
    url = launched.wait_until_live()
    (before,) = launched.workers()
    os.kill(before, signal.SIGKILL)
    eventually(lambda: launched.workers() - {before})
    assert get(f"{url}/livez") == 200


@needs_proc
def test_a_companion_that_dies_is_replaced(launched):
    launched.wait_until_live()
    launched.wait_for_companions()
    before = launched.pid_of("runfallback")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: "the fallback worker exited with code -9" in launched.err.read_text())
    eventually(lambda: launched.err.read_text().count(READY["manage"]) == 2)
    assert launched.pid_of("runfallback") != before


QUEUE = """
import django; django.setup()
from realtime import publish
from tests.shop.celery import count
assert publish("public:news", 1, fallback="ledger").queued
count.start(1)
"""
OWN_JOB = """
import time
from notifier.jobs import import_payments
from realtime.contrib.celery import task_states
job = import_payments.start()  # of no row of the database: it fails
while (state := task_states([job])[0]["state"]) != "failed":
    time.sleep(0.05)
print(state)
"""


def test_on_a_redis_of_others_nothing_that_a_project_has_queued_is_taken(launch, own_redis):
    """Its fallback worker mailed what was the project's, and its job worker discarded tasks."""
    settings = {"DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_REDIS_URL": own_redis.url}
    subprocess.run(
        [sys.executable, "-c", QUEUE], cwd=CHECKOUT, env=clean_environ(**settings), check=True
    )
    service = launch(REDIS_URL=own_redis.url)
    url = service.wait_until_live()
    assert "Fallbacks      wait for `manage.py runfallback`" in service.text()
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "--no-imports", "-v", "0", "-c", OWN_JOB],
        cwd=CHECKOUT, env=clean_environ(NOTIFIER_RUN_DIR=str(service.run_directory)),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == "failed\n", done.stderr
    headers = {"X-API-Key": service.service()["api_key"]}
    info = httpx.post(f"{url}/api/info", json={}, headers=headers, timeout=60).json()
    queue = info["result"]["fallback"]
    assert (queue["waiting"], queue["hands"]) == (1, 0)
    with own_redis.client() as client:
        assert client.llen("rt:celery:celery") == 1


@needs_proc
def test_a_valkey_that_dies_is_restarted_at_the_same_address(launched):
    launched.wait_until_live()
    before = launched.valkey()
    os.kill(before, signal.SIGKILL)
    path = Path(launched.service()["redis_url"].removeprefix("unix://"))
    eventually(lambda: before not in parents() and answers(path))
    assert launched.valkey() != before


@needs_proc
def test_valkey_stops_without_its_guardian_and_the_service_says_why(launched):
    launched.wait_until_live()
    valkey = launched.valkey()
    directory = Path(launched.service()["redis_url"].removeprefix("unix://")).parent
    os.kill(launched.guardian(), signal.SIGKILL)
    assert launched.process.wait(30) == 1
    eventually(lambda: valkey not in parents())
    assert not directory.exists()
    assert "notifier: the private Valkey stopped" in launched.err.read_text()


def test_a_port_in_use_is_reported_in_one_sentence(launch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = launch(PORT=str(port))
        assert service.process.wait(30) == 1
    assert service.err.read_text().startswith(f"notifier: 127.0.0.1:{port} is already in use: ")
    assert len(service.err.read_text().splitlines()) == 1
    assert not service.run_directory.exists()


def test_serve_generates_no_configuration(launch):
    service = launch(sys.executable, "-m", "notifier", "serve")
    assert service.process.wait(30) == 1
    assert re.fullmatch(r"notifier: [A-Z_]+ is missing: .*\n", service.err.read_text())


@needs_proc
def test_serve_runs_several_workers_on_one_socket(launch, valkey):
    service = launch(
        sys.executable, "-m", "notifier", "serve",
        REDIS_URL=valkey.url, SECRET_KEY="s" * 50, NOTIFIER_API_KEY="key",
        ALLOWED_HOSTS="127.0.0.1", WEB_CONCURRENCY="2", DATABASE_URL=migrated_url(),
    )  # fmt: skip
    url = service.wait_until_live()
    assert len(service.workers()) == 2
    assert get(f"{url}/livez") == 200
    assert not service.run_directory.exists()
    service.stop()
    assert service.process.returncode == 0
    assert valkey.is_alive()


@needs_proc
def test_stopping_is_logged_as_json_by_launcher_and_worker(launch, valkey):
    service = launch(
        sys.executable, "-m", "notifier", "serve",
        REDIS_URL=valkey.url, DATABASE_URL=migrated_url(), **SERVE,
    )  # fmt: skip
    service.wait_until_live()
    service.stop()
    lines = [json.loads(line) for line in service.err.read_text().splitlines()]
    said = [(line["logger"], line["message"]) for line in lines if "stop" in line["message"]]
    assert said[:2] == [
        ("notifier.fleet", "stopping 1 processes, which have 18 s"),
        ("notifier.server", "stopping: not ready any more, draining 0 connections"),
    ]
    assert re.fullmatch(r"stopped after \d+\.\d s", said[2][1])
    assert said[3:] == [("notifier.fleet", "all processes have stopped")]


SERVE = {
    "SECRET_KEY": "s" * 50,
    "NOTIFIER_API_KEY": "key",
    "ALLOWED_HOSTS": "127.0.0.1",
}


def test_serve_without_tables_says_what_to_do_and_makes_no_file(launch, valkey, tmp_path):
    url = f"sqlite:///{tmp_path}/new.sqlite3"
    command = [sys.executable, "-m", "notifier", "serve"]
    service = launch(*command, REDIS_URL=valkey.url, DATABASE_URL=url, **SERVE)
    assert service.process.wait(30) == 1
    [sentence] = service.err.read_text().splitlines()[-1:]
    assert sentence.startswith("notifier: DATABASE_URL: the tables are missing")
    assert sentence.endswith("python manage.py migrate")
    assert not (tmp_path / "new.sqlite3").exists()


def demo_passwords(service: Launched) -> dict[str, str]:
    return dict(re.findall(r"Log in as +(\w+), password (\w+)", service.text()))


def log_in(url: str, name: str, password: str) -> int:
    with httpx.Client(base_url=url, headers={"Origin": url}, timeout=60) as browser:
        form = browser.get("/login/").text
        token = re.search('name="csrfmiddlewaretoken" value="([^"]+)"', form)[1]
        fields = {"csrfmiddlewaretoken": token, "username": name, "password": password}
        return browser.post("/login/", data=fields).status_code


def test_the_two_demo_users_survive_a_restart(launch):
    first = launch()
    url = first.wait_until_live()
    passwords = demo_passwords(first)
    assert set(passwords) == {"ada", "ben"}
    assert "could not send" not in first.err.read_text(), "no node is there to be told yet"
    assert [log_in(url, *user) for user in passwords.items()] == [302, 302]
    assert log_in(url, "ada", "another") == 200
    database = first.run_directory / "db.sqlite3"
    assert stat.S_IMODE(first.run_directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    key = first.service()["secret_key"]
    first.stop()

    again = launch()
    url = again.wait_until_live()
    assert demo_passwords(again) == passwords
    assert log_in(url, "ada", passwords["ada"]) == 302
    assert again.service()["secret_key"] == key, "logged-in users stay logged in"


def test_a_run_directory_that_others_can_enter_is_refused(launch, tmp_path):
    """For example in /tmp: others could read the secrets, or plant a key that they know."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    service = launch(NOTIFIER_RUN_DIR=str(shared))
    assert service.process.wait(60) == 1
    assert service.err.read_text() == (
        f"notifier: {shared} holds secrets but is accessible to other users (mode 1777): "
        "set NOTIFIER_RUN_DIR to a directory that you own.\n"
    )
    command = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=CHECKOUT, env=clean_environ(NOTIFIER_RUN_DIR=str(shared)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert command.returncode == 1
    assert command.stderr.startswith(f"manage.py: {shared} holds secrets but is accessible")
    assert list(shared.iterdir()) == []


def test_a_database_readable_by_others_is_made_private(launch):
    first = launch()
    first.wait_until_live()
    first.stop()
    database = first.run_directory / "db.sqlite3"
    database.chmod(0o644)
    launch().wait_until_live()
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in database.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_a_public_address_gets_no_demo_users(launch):
    launched = launch()
    launched.wait_until_live()
    passwords = demo_passwords(launched)
    launched.stop()
    public = launch(DEBUG="0")
    url = public.wait_until_live()
    assert demo_passwords(public) == {}
    assert "make run" not in httpx.get(f"{url}/login/").text
    assert [log_in(url, *user) for user in passwords.items()] == [200, 200]


def test_a_custom_database_gets_tables_but_no_demo_users(launch, tmp_path):
    url = f"sqlite:///{tmp_path}/own.sqlite3"
    service = launch(DATABASE_URL=url)
    service.wait_until_live()
    assert demo_passwords(service) == {}
    code = "from django.contrib.auth.models import User; print(User.objects.count())"
    assert manage(url, "shell", "--no-imports", "--command", code) == "0\n"


def test_a_service_that_cannot_start_reports_the_reason_and_ends(launch):
    service = launch(DJANGO_SETTINGS_MODULE="tests.broken_settings")
    assert service.process.wait(60) == 1
    assert "REALTIME_PING_SECONDS" in service.err.read_text()
    assert "exited with code" in service.err.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NOTIFIER_REDIS_PREFIX", "no {braces}"),
        ("NOTIFIER_LIMITS", '{"connections": 0}'),
        ("REDIS_URL", "rediss://127.0.0.1?ssl_cert_reqs=CERT_NONE"),
    ],
)
def test_the_launcher_reports_an_invalid_value_in_one_sentence(launch, variable, value):
    service = launch(**{variable: value})
    assert service.process.wait(60) != 0
    [said] = service.err.read_text().splitlines()
    assert said.startswith(f"notifier: {variable} ")


def test_a_command_in_another_terminal_finds_the_service(live):
    code = "from django.conf import settings; print(settings.REALTIME_REDIS_URL)"
    found = subprocess.run(
        [sys.executable, "manage.py", "shell", "--no-imports", "-c", code],
        cwd=CHECKOUT, env=clean_environ(NOTIFIER_RUN_DIR=str(live.run_directory)),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == live.service()["redis_url"]


# --- the private Valkey on its own ---


@pytest.fixture
def valkey(tmp_path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path / "service.json")
    try:
        yield server
    finally:
        server.stop()


def test_valkey_listens_in_a_private_directory_and_ends_with_the_launcher(valkey):
    assert answers(valkey.directory / "valkey.sock")
    assert stat.S_IMODE(valkey.directory.stat().st_mode) == 0o700
    valkey.stop()
    assert not valkey.directory.exists()
    assert not valkey.is_alive()


def test_the_socket_path_is_short_in_a_deep_temporary_directory(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    directory = private_directory()
    try:
        assert len(bytes(directory / "valkey.sock")) <= SOCKET_PATH_BYTES
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert not list(deep.iterdir())
    finally:
        directory.rmdir()
