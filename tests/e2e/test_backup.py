"""The commands for backups in docs/deploy.md, typed as they are written."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.support.eventually import eventually_sync
from tests.support.ports import free_port
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import DEBIAN, RedisServer
from tests.support.service import ROOT
from tests.test_docs import section

TEXT = section((ROOT / "docs" / "deploy.md").read_text(encoding="utf-8"), "## Backup")
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S)
    for line in block.splitlines()
]  # fmt: skip


def command(start: str, **replaced: str) -> str:
    """Return the command that begins so, with other places in it."""
    [found] = [each for each in COMMANDS if each.startswith(start)]
    for old, new in replaced.items():
        assert REPLACED[old] in found
        found = found.replace(REPLACED[old], new)
    return found


REPLACED = {
    "database": "/var/lib/notifier/db.sqlite3",
    "copy": "backup.sqlite3",
    "python": "python3",
    "postgres": "postgres://notifier@db.internal/notifier",
    "redis": "redis-cli",
    "files": "/var/lib/redis/appendonlydir",
}


def run(line: str, folder: Path) -> str:
    done = subprocess.run(["sh", "-ec", line], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_copy_of_sqlite_has_what_is_not_yet_in_the_file_itself(tmp_path: Path) -> None:
    database = tmp_path / "db.sqlite3"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE users (name)")
        connection.execute("INSERT INTO users VALUES ('ada')")
        connection.commit()
        run(command("python3", database=str(database), python=sys.executable), tmp_path)
    with sqlite3.connect(tmp_path / "backup.sqlite3") as copy:
        assert copy.execute("SELECT name FROM users").fetchall() == [("ada",)]


@pytest.mark.postgres
def test_a_dump_of_postgresql_is_restored(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE users AS SELECT 'ada' AS name")
        run(command("pg_dump", postgres=url), tmp_path)
        connection.execute("DELETE FROM users")
        run(command("pg_restore", postgres=url), tmp_path)
        assert connection.execute("SELECT name FROM users").fetchall() == [("ada",)]


@pytest.mark.redis
def test_a_copy_of_the_append_only_files_has_the_queue(tmp_path: Path) -> None:
    port = free_port()
    conf = tmp_path / "redis.conf"
    conf.write_text("appendonly yes\n", encoding="utf-8")
    server = RedisServer(port=port, conf=conf, program=str(DEBIAN)).start()
    client = f"redis-cli -p {port}"
    try:
        with server.client() as redis:
            redis.rpush("queue", "one", "two")
            run(
                command("redis-cli config set auto-aof-rewrite-percentage 0", redis=client),
                tmp_path,
            )
            waiting = command("redis-cli info", redis=client)
            eventually_sync(lambda: "progress:0" in run(waiting, tmp_path))
            files = str(server.folder / "appendonlydir")
            run(command("cp -r", files=files), tmp_path)
            run(
                command("redis-cli config set auto-aof-rewrite-percentage 100", redis=client),
                tmp_path,
            )
            redis.flushall()
    finally:
        server.stop()
    again = RedisServer(port=free_port(), conf=conf, program=str(DEBIAN))
    shutil.copytree(tmp_path / "backup-appendonlydir", again.folder / "appendonlydir")
    again.start()
    try:
        with again.client() as redis:
            assert redis.lrange("queue", 0, -1) == [b"one", b"two"]
    finally:
        again.stop()
