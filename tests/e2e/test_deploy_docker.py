"""The image and the composition of `deploy/`: the rules that can be checked without an engine.

`make image-check` builds and runs the image (tests/e2e/image.py).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from notifier.env import SECRETS, VARIABLES
from notifier.listening import STOP_SECONDS
from tests.conftest import NGINX
from tests.support.dockerfile import Step, is_ignored, read, rules_of
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT

DEPLOY = ROOT / "deploy"
STEPS = read(DEPLOY / "docker" / "Dockerfile")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {"migrate", "service", "fallback", "jobs"}


def last(name: str) -> Step:
    return [step for step in STEPS if step.name == name][-1]


def test_the_image_runs_as_a_user_without_privileges() -> None:
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", last("USER").rest)
    assert last("STOPSIGNAL").rest == "SIGTERM"
    assert "/readyz" in last("HEALTHCHECK").rest
    [install] = [step.rest for step in STEPS if "pip install" in step.rest]
    assert "--require-hashes -r requirements.txt" in install
    assert [step.words[0] for step in STEPS if step.name == "FROM"] == ["${PYTHON}"] * 2


def test_the_image_has_all_that_runs_and_nothing_else() -> None:
    """Neither secrets nor tests: what is not named in .dockerignore stays out."""
    rules = rules_of(ROOT / ".dockerignore")
    copied = {
        word for step in STEPS if step.name == "COPY" for word in step.words[:-1]
        if not word.startswith(("--", "/"))
    }  # fmt: skip
    assert {
        "requirements.txt",
        "manage.py",
        "docs",
        "notifier",
        "realtime",
        "static",
        "templates",
    } <= copied
    for name in copied:
        assert (ROOT / name).exists()
        assert not is_ignored(name, rules)
    for name in (".git", ".run/service.json", "db.sqlite3", "deploy/secrets/secret_key", "tests"):
        assert is_ignored(name, rules)
    assert is_ignored("notifier/__pycache__", rules)
    assert not is_ignored("notifier/settings.py", rules)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_has_no_privileges_and_can_write_nowhere(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in container["tmpfs"]
    assert re.fullmatch(r"\d+:\d+", container["user"])
    assert "privileged" not in container
    assert "healthcheck" in container or name == "service", "it has that of the image"
    assert ("ports" in container) == (name == "nginx")


def test_each_secret_is_a_file_and_comes_under_the_name_that_the_service_reads() -> None:
    for name in OURS:
        container = CONTAINERS[name]
        assert container["user"] == last("USER").rest
        for variable, value in container["environment"].items():
            assert variable in VARIABLES or variable == "FORWARDED_ALLOW_IPS"
            if str(value).startswith("/run/secrets/"):
                assert variable.removesuffix("_FILE") in SECRETS
                assert Path(value).name in container["secrets"]
    used = {name for container in CONTAINERS.values() for name in container.get("secrets", ())}
    assert used == set(COMPOSE["secrets"])


def test_the_commands_are_those_of_the_procfile() -> None:
    procfile = dict(re.findall(r"^(\w+): (.*)$", (ROOT / "Procfile").read_text("utf-8"), re.M))
    for process, name in {"web": "service", "fallback": "fallback", "jobs": "jobs"}.items():
        assert CONTAINERS[name]["command"] == shlex.split(procfile[process])
    assert last("CMD").words == shlex.split(procfile["web"])


def test_the_service_has_more_time_to_stop_than_it_needs() -> None:
    grace = CONTAINERS["service"]["stop_grace_period"]
    assert STOP_SECONDS < float(grace.removesuffix("s")) == 25


def test_each_file_that_is_mounted_exists() -> None:
    mounts = [
        volume.split(":")[0] for container in CONTAINERS.values()
        for volume in container.get("volumes", ()) if volume.startswith("./")
    ]  # fmt: skip
    assert mounts
    assert all((DEPLOY / mount).is_file() for mount in mounts)
    assert os.access(DEPLOY / "docker/nginx-start", os.X_OK)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder, with the secrets that its script makes."""
    folder = tmp_path_factory.mktemp("deploy")
    subprocess.run(["cp", "-r", str(DEPLOY / "docker"), str(folder)], check=True)
    script = folder / "docker" / "make-secrets"
    subprocess.run([script, "live.example.com"], check=True, capture_output=True)
    before = (folder / "secrets/secret_key").read_text()
    subprocess.run([script], check=True, capture_output=True)
    assert (folder / "secrets/secret_key").read_text() == before, "a second call changes nothing"
    return folder / "secrets"


def test_the_script_makes_each_secret_that_compose_wants(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    for secret in COMPOSE["secrets"].values():
        assert (secrets.parent / secret["file"]).stat().st_size > 0
    assert len((secrets / "secret_key").read_text().strip()) >= 50
    password = (secrets / "valkey_password").read_text().strip()
    assert (secrets / "redis_url").read_text() == f"redis://:{password}@valkey:6379/0\n"


def test_valkey_starts_with_its_file_and_keeps_the_queue(secrets: Path, tmp_path: Path) -> None:
    text = (DEPLOY / "docker/valkey.conf").read_text(encoding="utf-8")
    text = text.replace("/run/secrets/", f"{secrets}/").replace("dir /data", f"dir {tmp_path}")
    conf = tmp_path / "valkey.conf"
    conf.write_text(text, encoding="utf-8")
    password = (secrets / "valkey_password").read_text().strip()
    server = RedisServer(conf=conf, password=password).start()
    try:
        with server.client() as client:
            wanted = {"appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""}
            for name, value in wanted.items():
                assert client.config_get(name) == {name: value}
    finally:
        server.stop()


@pytest.mark.nginx
def test_nginx_accepts_what_its_container_makes_of_the_file(secrets: Path, tmp_path: Path) -> None:
    """The script of the container, in this file system instead of that of the container."""
    script = (DEPLOY / "docker/nginx-start").read_text(encoding="utf-8")
    for name in ("nginx.conf", "notifier-proxy.conf", "notifier.conf"):
        place = DEPLOY / ("docker" if name == "nginx.conf" else "nginx") / name
        text = place.read_text(encoding="utf-8").replace("/tmp/nginx", f"{tmp_path}/run")
        (tmp_path / name).write_text(text, encoding="utf-8")
    script = script.replace("/etc/notifier/", f"{tmp_path}/").replace(
        "/tmp/nginx", f"{tmp_path}/run"
    )
    script = script.replace("/run/secrets/tls_certificate", f"{secrets}/tls.pem")
    script = script.replace("/run/secrets/tls_key", f"{secrets}/tls.key")
    # It has no network of that name here, and must not open ports.
    script = script.replace("service:8000", "127.0.0.1:8000").replace(
        "exec nginx", f"exec {NGINX} -t"
    )
    found = subprocess.run(
        ["sh", "-c", script], env=os.environ | {"NOTIFIER_HOST": "live.example.com"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    made = (tmp_path / "run/notifier.conf").read_text(encoding="utf-8")
    made = re.sub(r"^#.*$", "", made, flags=re.M)
    assert made.count("server_name live.example.com;") == 2
    assert "/etc/ssl" not in made


def test_the_probe_of_the_image_is_a_program() -> None:
    words = json.loads(last("HEALTHCHECK").rest.partition(" CMD ")[2])
    compile(words[2], "probe", "exec")
