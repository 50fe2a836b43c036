"""The image of `deploy/docker`, built by the steps of its Dockerfile, and run like a container.

`make image-check` runs it. It is no part of the tests, because it installs a Debian and all
packages (root, debootstrap, a mirror of Debian, PyPI). There is no container engine: each stage is
a folder (`tests.support.dockerfile`), and the service runs in a chroot of the last one, as the user
of the image, without privileges, with nothing writable except /tmp, against a Valkey with the
configuration of `deploy/compose.yaml`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.client import Client
from tests.support.dockerfile import Builder, Stage, read
from tests.support.eventually import eventually_sync
from tests.support.machine import within
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT

DOCKER = ROOT / "deploy" / "docker"
FOLDER = Path(os.environ.get("IMAGE_FOLDER", "/tmp/notifier-image"))
PASSWORD = "p" * 48
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot and mounts need root"),
]


@pytest.fixture(scope="module")
def image() -> Stage:
    began = time.monotonic()
    subprocess.run(["rm", "-rf", f"{FOLDER}/build", f"{FOLDER}/final"], check=True)
    FOLDER.mkdir(exist_ok=True)
    environ = {"PIP_CERT": CERTIFICATES}
    environ |= {
        name: os.environ[name] for name in ("HTTPS_PROXY", "https_proxy") if name in os.environ
    }
    stage = Builder(ROOT, FOLDER, environ).build(read(DOCKER / "Dockerfile"))
    size = subprocess.run(
        ["du", "-sm", f"{stage.root}/srv/notifier"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    print(f"built in {time.monotonic() - began:.0f} s; {size} MB besides Python and Debian")
    return stage


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey with deploy/docker/valkey.conf; returns its URL."""
    folder = tmp_path_factory.mktemp("valkey")
    (folder / "auth").write_text(f"requirepass {PASSWORD}\n", encoding="utf-8")
    text = (DOCKER / "valkey.conf").read_text(encoding="utf-8")
    text = text.replace("/run/secrets/valkey_auth", str(folder / "auth"))
    conf = folder / "valkey.conf"
    conf.write_text(text.replace("dir /data", f"dir {folder}"), encoding="utf-8")
    port = free_port()
    server = RedisServer(port=port, conf=conf, password=PASSWORD).start()
    yield f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    server.stop()


@contextmanager
def read_only(root: Path, writable: Path) -> Iterator[Path]:
    """Mount a file system so that nothing in it can be written, except /tmp."""
    view = root.with_name("view")
    view.mkdir(exist_ok=True)
    mounts = [
        ["--bind", str(root), str(view)],
        ["-o", "remount,ro,bind", str(view)],
        ["--bind", str(writable), f"{view}/tmp"],
        ["-t", "proc", "proc", f"{view}/proc"],
        ["--rbind", "/dev", f"{view}/dev"],
    ]
    try:
        for mount in mounts:
            subprocess.run(["mount", *mount], check=True)
        subprocess.run(["mount", "--make-rslave", f"{view}/dev"], check=True)
        yield view
    finally:
        for name in ("dev", "proc", "tmp", ""):
            subprocess.run(["umount", "--recursive", "--lazy", f"{view}/{name}"], check=False)


class Container:
    """Runs commands in the image as a container engine would."""

    def __init__(self, image: Stage, view: Path, environ: dict[str, str]) -> None:
        self._image = image
        self._view = view
        self._environ = image.environ | environ

    def popen(self, command: list[str], **options: object) -> subprocess.Popen[str]:
        line = [
            # chroot needs one of these, which go with the user.
            "setpriv",
            "--no-new-privs",
            "--inh-caps=-all",
            "--bounding-set=-all,+sys_chroot,+setuid,+setgid",
            *("chroot", f"--userspec={self._image.user}", "--groups=", str(self._view)),
            *("env", "-i", "-C", self._image.directory),
            *(f"{name}={value}" for name, value in self._environ.items()),
            *command,
        ]
        return subprocess.Popen(line, text=True, **options)  # type: ignore[call-overload, no-any-return]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        process = self.popen(list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said, _ = process.communicate(timeout=600)
        return subprocess.CompletedProcess(command, process.returncode, said)


async def test_the_image_serves_and_drains_on_a_read_only_root(
    image: Stage, redis: str, tmp_path: Path
) -> None:
    writable = tmp_path / "tmp"
    writable.mkdir()
    writable.chmod(0o1777)
    secrets = {
        "secret_key": "s" * 50,
        "api_key": "k" * 40,
        "redis_url": redis,
        "database_url": "sqlite:////tmp/db.sqlite3",  # in compose.yaml it is PostgreSQL
    }
    for name, value in secrets.items():
        (writable / name).write_text(value, encoding="utf-8")
    port = free_port()
    environ = {
        "PORT": str(port),
        "ALLOWED_HOSTS": "127.0.0.1",
        "HTTPS": "0",
        **{
            f"{variable}_FILE": f"/tmp/{name}"
            for variable, name in {
                "SECRET_KEY": "secret_key", "NOTIFIER_API_KEY": "api_key",
                "REDIS_URL": "redis_url", "DATABASE_URL": "database_url",
            }.items()
        },
    }  # fmt: skip
    log = tmp_path / "log"
    with read_only(image.root, writable) as view:
        container = Container(image, view, environ)
        assert "Read-only file system" in container.run("touch", "/srv/notifier/x").stdout
        assert container.run("id", "-u").stdout.strip() == image.user.partition(":")[0]
        migrated = container.run("python", "manage.py", "migrate", "--noinput")
        assert migrated.returncode == 0, migrated.stdout
        assert container.run(*image.probe).returncode != 0, "nothing serves yet"
        began = time.monotonic()
        with log.open("w") as output:
            service = container.popen(image.command, stdout=output, stderr=output)
        try:
            eventually_sync(
                lambda: container.run(*image.probe).returncode == 0 or service.poll() is not None,
                60,
            )
            assert service.poll() is None, log.read_text()
            print(f"ready {time.monotonic() - began:.1f} s after its start")
            start_workers(container, tmp_path)
            await publish_and_stop(service, port)
        finally:
            if service.poll() is None:
                service.kill()
                service.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    said = [line["message"] for line in lines]
    assert "all processes have stopped" in said, log.read_text()


def start_workers(container: Container, folder: Path) -> None:
    """Start the other commands of the image, see that they work, and stop them."""
    for name, ready in {"fallback": "handling fallbacks: ", "jobs": " ready."}.items():
        log = folder / name
        with log.open("w") as output:
            command = COMPOSE["services"][name]["command"]
            worker = container.popen(command, stdout=output, stderr=output)
        try:
            eventually_sync(lambda log=log, ready=ready: ready in log.read_text(), 60)
        finally:
            worker.send_signal(signal.SIGTERM)
            code = worker.wait(timeout=60)
        assert code == 0, log.read_text()


async def publish_and_stop(service: subprocess.Popen[str], port: int) -> None:
    async with within(60):
        client = await Client.open(f"ws://127.0.0.1:{port}/connection/websocket")
        await client.subscribe("public:news")
        async with httpx.AsyncClient(timeout=60) as http:
            answer = await http.post(
                f"http://127.0.0.1:{port}/api/publish",
                json={"channel": "public:news", "data": "from the image"},
                headers={"X-API-Key": "k" * 40},
            )
            page = await http.get(f"http://127.0.0.1:{port}/")
            [script] = [part for part in page.text.split('"') if "/realtime/client." in part][:1]
            file = await http.get(f"http://127.0.0.1:{port}{script}")
        assert answer.json()["result"]["nodes"] == 1, answer.text
        assert (await client.push("pub", passing_over="state"))["data"] == "from the image"
        assert file.headers["Content-Encoding"] == "gzip"
        began = time.monotonic()
        service.send_signal(signal.SIGTERM)
        code, _ = await client.closed(30)
        assert code == 3001
    assert service.wait(timeout=60) == 0
    print(f"stopped {time.monotonic() - began:.1f} s after SIGTERM")
