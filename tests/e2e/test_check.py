"""``python -m notifier check`` finds each thing that is wrong, and says what to do.

Each test makes one thing wrong. `tests/unit/notifier/test_check_rules.py` has the limits of the
rules.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from notifier import servicefile
from realtime.brokers.diagnosis import commands_of_node, name_in_acl
from realtime.core.partitions import PARTITIONS
from tests.e2e.test_redis_access import USERS, as_user
from tests.faults.test_clock import Clock
from tests.support import prose
from tests.support.database import migrate
from tests.support.eventually import eventually_sync
from tests.support.operators_command import ROOT, check, deployment, notifier
from tests.support.postgres_server import PostgresServer
from tests.support.redis_cluster import cluster_set
from tests.support.redis_server import RedisServer
from tests.support.reply_proxy import ReplyProxy
from tests.support.sentinels import NAME, sentinel_set

DEPLOY = prose.read(ROOT / "docs" / "deploy.md")


@pytest.fixture(scope="module")
def good() -> Iterator[RedisServer]:
    """A Redis as docs/deploy.md describes it."""
    server = RedisServer("--maxmemory", "512mb", "--appendonly", "yes").start()
    yield server
    server.stop()


@pytest.fixture
def start() -> Iterator[Any]:
    """Start servers with options, and stop them in the end."""
    servers: list[RedisServer] = []

    def start_one(*options: str, **settings: Any) -> RedisServer:
        servers.append(RedisServer("--appendonly", "yes", *options, **settings))
        return servers[-1].start()

    yield start_one
    for server in servers:
        server.stop()


def test_nothing_is_wrong_with_what_the_documentation_describes(good: RedisServer) -> None:
    checked = check(**deployment(good.url))
    assert (checked.code, checked.wrong, checked.texts("warning")) == (0, [], [])
    assert {each["area"] for each in checked.findings} == {
        *("configuration", "redis", "database", "machine")
    }


def test_the_result_is_also_written_for_people(good: RedisServer) -> None:
    ran = notifier("check", **deployment(good.url, NOTIFIER_API_KEY="key"))
    assert ran.returncode == 1
    assert "\n  wrong    NOTIFIER_API_KEY can be guessed" in ran.stdout
    assert "\n           python -c 'import secrets" in ran.stdout
    assert ran.stdout.startswith("configuration\n")
    assert ran.stdout.endswith("\n1 wrong, no warnings.\n")
    assert ran.stderr == ""


def test_all_missing_variables_are_named_at_once() -> None:
    checked = check()
    assert checked.code == 1
    for name in ("REDIS_URL", "SECRET_KEY", "NOTIFIER_API_KEY", "ALLOWED_HOSTS"):
        assert any(text.startswith(f"{name} is missing") for text in checked.wrong), name


def test_several_invalid_variables_are_named_at_once(good: RedisServer) -> None:
    given = deployment(
        good.url,
        PORT="http",
        NOTIFIER_NAMESPACES='{"orders": {"overflow": "sometimes"}}',
        SECRET_KEY_FILE="/nonexistent/key",
        DATABASE_URL="mysql://db",
    )
    del given["SECRET_KEY"]
    checked = check(**given)
    for name in ("PORT", "NOTIFIER_NAMESPACES", "SECRET_KEY_FILE", "DATABASE_URL"):
        assert any(text.startswith(f"{name} ") for text in checked.wrong), name
    assert "database" not in {each["area"] for each in checked.findings}
    assert "redis" in {each["area"] for each in checked.findings}


SECRETS = ("SECRET_KEY", "NOTIFIER_API_KEY", "NOTIFIER_METRICS_KEY", "NOTIFIER_TOKEN_SECRET")


def test_weak_secrets_are_found(good: RedisServer) -> None:
    weak = dict.fromkeys(SECRETS, "changeme" * 8)
    weak["SECRET_KEY_FALLBACKS"] = "x" * 64
    checked = check(**deployment(good.url, **weak))
    guessed = [text.partition(" can be guessed")[0] for text in checked.wrong]
    assert set(guessed) >= {*SECRETS, "SECRET_KEY_FALLBACKS, key 1"}
    assert "token_urlsafe" in checked.advice_for("NOTIFIER_TOKEN_SECRET can be guessed")


def test_one_secret_for_two_purposes_is_found(good: RedisServer) -> None:
    given = deployment(good.url)
    given["NOTIFIER_TOKEN_SECRET"] = given["NOTIFIER_API_KEY"]
    [text] = check(**given).wrong
    assert text.startswith("NOTIFIER_API_KEY and NOTIFIER_TOKEN_SECRET are the same")


def test_warnings_of_djangos_system_checks_are_included(good: RedisServer) -> None:
    checked = check(**deployment(good.url, NOTIFIER_TOKEN_EXPIRY="optional", HTTPS="0"))
    assert checked.code == 0
    warnings = " ".join(checked.texts("warning"))
    assert "NOTIFIER_TOKEN_EXPIRY is optional" in warnings
    assert "security.W008" in warnings


def test_debug_is_noticed_and_checks_for_deployment_are_left_out(good: RedisServer) -> None:
    checked = check(**deployment(good.url, DEBUG="1"))
    assert checked.code == 0
    [warning] = checked.texts("warning")
    assert warning.startswith("DEBUG is on")


def test_a_key_without_lists_is_noticed(good: RedisServer) -> None:
    given = deployment(good.url, NOTIFIER_API_KEYS=f'[{{"name":"a","sha256":"{"1" * 64}"}}]')
    [warning] = check(**given).texts("warning")
    assert "keys without `methods`" in warning


# --- Redis ---


def test_a_redis_that_is_not_there_is_found() -> None:
    checked = check(**deployment("redis://127.0.0.1:1/0"))
    [text] = checked.wrong
    assert text.startswith("127.0.0.1:1: ")
    assert "refused" in text
    assert checked.advice_for(text).startswith("Start Redis, or correct REDIS_URL")


def test_a_wrong_password_is_found(start: Any) -> None:
    server = start("--maxmemory", "64mb", password="right")
    checked = check(**deployment(f"unix://:wrong@{server.socket}"))
    [text] = checked.wrong
    assert checked.advice_for(text).startswith("Correct user and password")


def test_the_redis_of_the_jobs_is_checked_as_well(good: RedisServer, start: Any) -> None:
    given = deployment(good.url, JOBS_REDIS_URL="redis://127.0.0.1:1/0")
    [text] = check(**given).wrong
    assert text.startswith("127.0.0.1:1: ")
    given["JOBS_REDIS_URL"] = start("--appendonly", "no", "--maxmemory", "64mb").url
    checked = check(**given)
    assert checked.code == 0
    [warning] = checked.texts("warning")
    assert "appendonly no: queued jobs" in warning
    assert len([text for text in checked.texts("ok") if "permissions of a node" in text]) == 1


def test_a_replica_is_found(start: Any) -> None:
    server = start("--replicaof", "127.0.0.1", "1", "--maxmemory", "64mb")
    wrong = check(**deployment(server.url)).wrong
    assert "unix socket: is a replica, which refuses writes" in wrong


def test_memory_settings_that_lose_data_are_found(start: Any) -> None:
    server = start("--maxmemory-policy", "allkeys-lru", "--maxmemory", "64mb")
    [text] = check(**deployment(server.url)).wrong
    assert "maxmemory-policy allkeys-lru" in text


def test_a_redis_without_a_memory_limit_is_noticed(start: Any) -> None:
    checked = check(**deployment(start().url))
    assert checked.code == 0
    [warning] = checked.texts("warning")
    assert "maxmemory 0" in warning


def test_a_full_redis_is_found(start: Any) -> None:
    wrong = check(**deployment(start("--maxmemory", "1").url)).wrong
    assert any("of maxmemory" in text for text in wrong)
    assert any("refuses commands" in text for text in wrong)


def test_missing_persistence_is_wrong_only_where_something_is_queued(start: Any) -> None:
    url = start("--appendonly", "no", "--maxmemory", "64mb").url
    checked = check(**deployment(url))
    assert checked.code == 0
    [warning] = checked.texts("warning")
    assert "appendonly no" in warning
    hook = '{"hook": {"use": "webhook", "url": "https://a.example/", "secret": "%s"}}' % ("5" * 40)
    [text] = check(**deployment(url, NOTIFIER_FALLBACKS=hook)).wrong
    assert "appendonly no" in text


def test_a_disk_that_cannot_be_written_is_found(start: Any, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    server = start("--appendonly", "no", "--dir", str(folder), "--maxmemory", "64mb")
    shutil.rmtree(folder)
    with server.client() as client:
        client.bgsave()
        eventually_sync(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    wrong = check(**deployment(server.url)).wrong
    assert any("the latest snapshot" in text for text in wrong)


@pytest.mark.faketime
def test_a_wrong_clock_is_found(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(tmp_path)
    with monkeypatch.context() as environment:
        for name, value in clock.env.items():
            environment.setenv(name, value)
        server = start("--maxmemory", "64mb")
    clock.jump(1)
    checked = check(**deployment(server.url))
    [text] = checked.wrong
    assert "its clock is 86" in text
    assert "ahead of ours" in text
    assert "NTP" in checked.advice_for(text)


def test_missing_permissions_are_named_and_nothing_is_executed(start: Any) -> None:
    server = start("--maxmemory", "64mb")
    rules = [rule for rule in USERS["notifier"].split() if rule not in ("+hset", "+spublish")]
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "notifier", *rules, "-publish", "-script|load")
        checked = check(**deployment(as_user(server, "notifier")))
        [text] = checked.wrong
        assert checked.advice_for(text).endswith("+script|load +hset +publish")
        assert admin.keys("*") == []


def test_a_prefix_that_may_not_be_used_is_found(start: Any) -> None:
    server = start("--maxmemory", "64mb")
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "notifier", *USERS["notifier"].split())
    given = deployment(as_user(server, "notifier"), NOTIFIER_REDIS_PREFIX="other")
    wrong = " ".join(check(**given).wrong)
    assert "may not use keys" in wrong
    assert "may not use channels" in wrong


def test_a_user_who_may_call_no_info_is_told_so(start: Any) -> None:
    server = start("--maxmemory", "64mb")
    with server.client() as admin:
        rules = [*USERS["notifier"].split(), "-info", "-multi"]
        admin.execute_command("ACL", "SETUSER", "notifier", *rules)
    checked = check(**deployment(as_user(server, "notifier")))
    assert "may not call INFO" in " ".join(checked.texts("warning"))
    [text] = checked.wrong
    assert checked.advice_for(text).endswith(" +multi")


def test_the_documented_user_has_exactly_the_permissions_that_are_checked() -> None:
    """CLIENT SETINFO is left out: docs/deploy.md says which servers know it."""
    tried = {name_in_acl(command) for command in commands_of_node("rt")} | {"multi", "exec"}
    told = {rule[1:] for rule in USERS["notifier"].split() if rule.startswith("+")}
    assert told == tried
    [added] = [line for line in DEPLOY.splitlines() if line.startswith("notifier +ssubscribe")]
    of_cluster = {name_in_acl(each) for each in commands_of_node("rt", PARTITIONS[0])} - tried
    assert {rule[1:] for rule in added.split()[1:]} == of_cluster


class OldRedis(ReplyProxy):
    """Says that the server behind it is a Redis 6.2."""

    def _replies(self, client: socket.socket, server: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        self._sockets += [ours, theirs]
        self._start(self._rewrite, ours, server)
        super()._replies(client, theirs)

    def _rewrite(self, source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(1 << 20):
            data = data.replace(b"valkey_version:", b"other_version: ")
            target.sendall(data.replace(b"redis_version:7", b"redis_version:6"))


def test_an_old_redis_is_found(good: RedisServer) -> None:
    proxy = OldRedis(good)
    try:
        [text] = check(**deployment(proxy.url)).wrong
    finally:
        proxy.close()
    assert "Redis 6" in text
    assert "is too old" in text


def test_a_silent_sentinel_and_a_master_that_needs_no_replica_are_noticed() -> None:
    with sentinel_set() as found:
        ports = [sentinel.port for sentinel in found.sentinels]
        hosts = ",".join(f"127.0.0.1:{port}" for port in [*ports, 1])
        checked = check(**deployment(f"redis+sentinel://{hosts}/{NAME}"))
    assert checked.code == 0
    warnings = " ".join(checked.texts("warning"))
    assert "127.0.0.1:1: this sentinel does not answer" in warnings
    assert "realtime.W016" in warnings


def test_sentinels_that_know_no_master_are_found() -> None:
    checked = check(**deployment("redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster"))
    [text] = checked.wrong
    assert "the master mymaster: no sentinel named the master" in text


def test_each_master_of_a_cluster_is_checked() -> None:
    with cluster_set() as found:
        url, masters = found.url, len(found.masters())
        checked = check(**deployment(url, JOBS_REDIS_URL="redis://127.0.0.1:1/0"))
        assert len([text for text in checked.texts("ok") if "permissions of a node" in text]) == (
            masters
        )
    away = check(**deployment(url, JOBS_REDIS_URL="redis://127.0.0.1:1/0"))
    assert any(text.startswith("the cluster: ") for text in away.wrong)


# --- the database ---


def test_a_database_without_tables_is_found(good: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "new.sqlite3"
    given = deployment(good.url, DATABASE_URL=f"sqlite:///{file}")
    [text] = check(**given).wrong
    assert f"{file} does not exist" in text
    assert not file.exists()
    file.touch(mode=0o600)
    checked = check(**given)
    assert checked.wrong == ["tables or columns are missing"]
    assert "manage.py migrate" in checked.advice_for("tables or columns are missing")


def test_a_database_file_that_others_can_read_is_found(good: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "open.sqlite3"
    url = migrate(f"sqlite:///{file}")
    file.chmod(0o644)
    checked = check(**deployment(good.url, DATABASE_URL=url))
    [text] = checked.wrong
    assert "mode 0644" in text
    assert checked.advice_for(text) == f"chmod 600 {file}*"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644, "it changes nothing"


def test_a_database_that_this_user_cannot_write_is_found(good: RedisServer, tmp_path: Path) -> None:
    """SQLite writes other files beside its own, so its directory matters as well."""
    url = migrate(f"sqlite:///{tmp_path}/mine.sqlite3")
    before: tuple[str, ...] = ()
    if os.getuid() == 0:  # who may write anywhere
        before = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--")
    given = deployment(good.url, DATABASE_URL=url)
    tmp_path.chmod(0o500)
    try:
        [text] = check(before=before, **given).wrong
    finally:
        tmp_path.chmod(0o700)
    assert "cannot be written by this user" in text


def test_a_database_that_is_not_there_is_found(good: RedisServer) -> None:
    url = "postgres://notifier:hunter2@127.0.0.1:1/notifier"
    ran = notifier("check", **deployment(good.url, DATABASE_URL=url))
    assert ran.returncode == 1
    assert "\n  wrong    cannot be reached: " in ran.stdout
    assert "hunter2" not in ran.stdout + ran.stderr


@pytest.mark.postgres
def test_a_postgresql_is_checked(good: RedisServer, postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    assert check(**deployment(good.url, DATABASE_URL=url)).wrong == [
        "tables or columns are missing"
    ]
    migrate(url)
    checked = check(**deployment(good.url, DATABASE_URL=url))
    assert checked.wrong == []
    assert any(text.startswith("PostgreSQL ") for text in checked.texts("ok"))
    assert any(text.startswith("its clock and ours") for text in checked.texts("ok"))


@pytest.mark.postgres
@pytest.mark.faketime
def test_the_clock_of_postgresql_is_compared(
    good: RedisServer, postgres_server: PostgresServer
) -> None:
    """Here it is ours that is wrong, by a minute."""
    url = migrate(postgres_server.new_database())
    before = ("faketime", "-f", "-60s")
    checked = check(before=before, **deployment(good.url, DATABASE_URL=url))
    clocks = [each for each in checked.findings if "its clock is " in each["text"]]
    assert {each["area"] for each in clocks} == {"redis", "database"}
    assert {each["level"] for each in clocks} == {"wrong"}


# --- the machine ---


def test_a_low_limit_on_open_files_is_found(good: RedisServer) -> None:
    limited = ("sh", "-c", 'ulimit -n 1000; exec "$0" "$@"')
    checked = check(before=limited, **deployment(good.url))
    [text] = checked.wrong
    assert text.startswith("open files: 1,000, enough for 0 connections, not for the 100")
    assert "LimitNOFILE" in checked.advice_for(text)


def test_a_short_queue_of_connections_is_noticed(good: RedisServer) -> None:
    apart = ["unshare", "--user", "--map-root-user", "--net"]
    if os.getuid() == 0:
        apart = ["unshare", "--net"]
    shorten = 'echo 16 >/proc/sys/net/core/somaxconn; exec "$0" "$@"'
    probe = [*apart, "sh", "-c", shorten, "true"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a network namespace")
    checked = check(before=(*apart, "sh", "-c", shorten), **deployment(good.url))
    assert "sysctl -w net.core.somaxconn=4096" in checked.advice_for("net.core.somaxconn: 16")


def test_more_workers_than_processors_are_noticed(good: RedisServer) -> None:
    checked = check(**deployment(good.url, WEB_CONCURRENCY="256"))
    assert checked.code == 0
    [warning] = checked.texts("warning")
    assert warning.startswith("WEB_CONCURRENCY=256 ")


def test_an_address_in_use_is_noticed(good: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        checked = check(**deployment(good.url, PORT=str(port)))
    assert checked.code == 0, "the service itself may be running"
    [warning] = checked.texts("warning")
    assert warning.startswith(f"127.0.0.1:{port} is in use")


def test_an_address_of_another_machine_is_found(good: RedisServer) -> None:
    [text] = check(**deployment(good.url, HOST="192.0.2.1")).wrong
    assert text.startswith("cannot listen on 192.0.2.1:0")


# --- the service of `make run` ---


def test_a_running_service_is_found_without_variables(good: RedisServer, tmp_path: Path) -> None:
    given = deployment(good.url)
    tmp_path.chmod(0o700)
    servicefile.write(tmp_path / "service.json", given, pid=os.getpid())
    checked = check(NOTIFIER_RUN_DIR=str(tmp_path), NOTIFIER_LIMITS=given["NOTIFIER_LIMITS"])
    assert checked.wrong == []
    assert any("service that runs here" in text for text in checked.texts("ok"))


def test_a_file_of_a_service_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    servicefile.write(tmp_path / "service.json", {}, pid=os.getpid())
    tmp_path.chmod(0o777)
    [text] = check(NOTIFIER_RUN_DIR=str(tmp_path)).wrong
    assert "accessible to other users" in text
