"""``.run/service.json`` directs commands to the running service, and to no other."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

from notifier import servicefile

SERVICE = {
    "NOTIFIER_URL": "http://127.0.0.1:8000",
    "REDIS_URL": "unix:///tmp/valkey.sock",
    "SECRET_KEY": "invented",
    "NOTIFIER_API_KEY": "key",
    "HOME": "/nobody",
}


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_the_owner_can_read_the_service_file(tmp_path):
    path = tmp_path / "run" / "service.json"
    servicefile.write(path, SERVICE, pid=os.getpid())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert "/nobody" not in path.read_text()


def test_a_command_finds_the_running_service(tmp_path):
    path = tmp_path / "service.json"
    servicefile.write(path, SERVICE, pid=os.getpid())
    environ: dict[str, str] = {}
    servicefile.adopt(environ, path)
    known = {k: v for k, v in SERVICE.items() if k != "HOME"}
    assert environ == known | {"DEBUG": "1", "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3"}


def test_an_environment_that_names_a_service_is_unchanged(tmp_path):
    path = tmp_path / "service.json"
    servicefile.write(path, SERVICE, pid=os.getpid())
    for variable in ("SECRET_KEY", "REDIS_URL", "DEBUG"):
        environ = {variable: "mine"}
        servicefile.adopt(environ, path)
        assert environ == {variable: "mine"}


def test_without_a_service_a_command_gets_a_throw_away_key_and_no_redis(tmp_path):
    environ: dict[str, str] = {}
    servicefile.adopt(environ, tmp_path / "service.json")
    assert environ.keys() == {"DEBUG", "SECRET_KEY", "DATABASE_URL"}


def test_the_file_of_a_killed_launcher_is_ignored(tmp_path):
    path = tmp_path / "service.json"
    servicefile.write(path, SERVICE, pid=dead_pid())
    assert servicefile.read(path) is None


def test_a_broken_file_is_ignored(tmp_path):
    path = tmp_path / "service.json"
    for content in ("", "[]", "{}", '{"pid": "x"}', "\xff"):
        path.write_text(content, encoding="latin-1")
        assert servicefile.read(path) is None
        servicefile.remove(path, pid=os.getpid())


def test_a_launcher_does_not_remove_the_file_of_a_later_one(tmp_path):
    path = tmp_path / "service.json"
    servicefile.write(path, SERVICE, pid=os.getpid())
    servicefile.remove(path, pid=os.getpid() + 1)
    assert path.exists()
    servicefile.remove(path, pid=os.getpid())
    assert not path.exists()
