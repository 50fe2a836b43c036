"""`manage.py runfallback` and `manage.py fallback`: as processes, against a real Valkey."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings

from realtime import publish
from tests.support.command import Command
from tests.support.dispositions import IGNORED
from tests.support.eventually import eventually_sync
from tests.support.redis_server import RedisServer

Run = Callable[..., Command]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger"
    path.touch()
    return path


@pytest.fixture
def run(redis_server: RedisServer, wired: str, ledger: Path) -> Iterator[Run]:
    started: list[Command] = []
    env = {
        "TEST_REDIS_URL": redis_server.url,
        "TEST_REDIS_PREFIX": wired,
        "TEST_LEDGER": str(ledger),
    }

    def start(*arguments: str, **options: Any) -> Command:
        started.append(Command(*arguments, **{**env, **options}))
        return started[-1]

    yield start
    for command in started:
        command.stop()


def queued(n: int = 1, fallback: str = "ledger", **options: Any) -> str:
    receipt = publish("c", {"n": n}, fallback=fallback, **options)
    assert receipt.queued
    return f"{receipt.epoch}-{receipt.offset}"


def fallback(*arguments: str) -> str:
    out = StringIO()
    call_command("fallback", *arguments, stdout=out)
    return out.getvalue()


def listed(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fallback("list", *arguments).splitlines()]


def stats() -> dict[str, Any]:
    return json.loads(fallback("stats"))


# --- runfallback ---


@pytest.mark.parametrize("name", ["ledger", "async-ledger"])
def test_a_worker_calls_the_handler_that_the_host_registered(
    run: Run, ledger: Path, name: str
) -> None:
    ids = [queued(n, name) for n in range(3)]
    worker = run("runfallback")
    eventually_sync(lambda: len(ledger.read_text(encoding="utf-8").splitlines()) == 3)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert sorted(ledger.read_text(encoding="utf-8").splitlines()) == sorted(
        f"{one} 1" for one in ids
    )
    assert (stats()["handled"], stats()["hands"]) == (3, 0)


def test_a_worker_keeps_running_when_started_with_sigint_ignored_and_says_so(
    run: Run, ledger: Path
) -> None:
    worker = run("runfallback", signals=IGNORED)
    worker.said("SIGINT is ignored")
    worker.process.send_signal(signal.SIGINT)
    ours = queued()
    eventually_sync(lambda: ledger.read_text(encoding="utf-8") == f"{ours} 1\n")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.ended() == 0


def test_another_worker_finishes_the_items_of_a_killed_one(run: Run, ledger: Path) -> None:
    ours = queued(fallback="hang")
    first = run("runfallback", "--lease", "3")
    eventually_sync(lambda: ledger.read_text(encoding="utf-8") == f"{ours} 1\n")
    first.process.kill()
    run("runfallback", "--lease", "3")
    eventually_sync(lambda: ledger.read_text(encoding="utf-8") == f"{ours} 1\n{ours} 2\n")


def test_an_item_that_kills_its_workers_is_dead_lettered(run: Run, wired: str) -> None:
    ours = queued(fallback="die")
    for _ in range(2):
        assert run("runfallback", "--lease", "3", "--attempts", "2").ended() == 9
    worker = run("runfallback", "--lease", "3", "--attempts", "2")
    eventually_sync(lambda: stats()["dead"] == 1)
    [dead] = listed()
    assert (dead["id"], dead["attempts"]) == (ours, 2)
    assert dead["reason"].startswith("its worker died during the attempt")
    assert worker.interrupt() == 0


def test_a_worker_with_hanging_handlers_ends_so_that_another_can_start(
    run: Run, ledger: Path
) -> None:
    queued(fallback="hang")
    worker = run("runfallback", "--hands", "1", "--timeout", "0.2")
    assert worker.ended() == 70
    assert stats()["later"] == 1


def test_a_second_signal_stops_a_worker_at_once(run: Run, ledger: Path) -> None:
    ours = queued(fallback="hang")
    worker = run("runfallback")
    eventually_sync(ledger.read_text)
    worker.process.send_signal(signal.SIGTERM)
    eventually_sync(lambda: stats()["in_hand"] == 1)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.ended() == 0
    [waiting] = listed("--where", "waiting")
    assert (waiting["id"], waiting["attempts"]) == (ours, 0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--hands", "0"], "'0' is not a number from 1 to 1000"),
        (["--hands", "x"], "'x' is not a number from 1 to 1000"),
        (["--lease", "1"], "'1' is not a number from 3 to 86400"),
        (["--timeout", "nan"], "'nan' is not a number from 0.1 to 86400"),
    ],
)
def test_a_worker_reports_invalid_options(arguments: list[str], text: str) -> None:
    with pytest.raises(CommandError, match=text):
        call_command("runfallback", *arguments)


@override_settings(REALTIME_REDIS_URL="")
def test_without_redis_the_command_names_the_setting() -> None:
    for arguments in (["runfallback"], ["fallback", "stats"]):
        with pytest.raises(CommandError, match="REALTIME_REDIS_URL: is not set"):
            call_command(*arguments)


# --- fallback ---


def test_the_operator_sees_the_queued_items(wired: str) -> None:
    ours = queued(5, "refuse", fallback_options={"to": "ada@example.com"}, tags={"a": "b"})
    found = stats()
    assert found.pop("oldest_seconds") >= 0.0
    assert found.pop("bytes") > 0
    assert found == {
        **dict.fromkeys(("in_hand", "later", "dead", "hands", "handled"), 0),
        **dict.fromkeys(("retried", "taken_over", "given_up"), 0),
        "waiting": 1,
    }
    [entry] = listed("--where", "waiting")
    assert entry == {
        "id": ours,
        "fallback": "refuse",
        "channel": "c",
        "attempts": 0,
        "published_at": entry["published_at"],
        "failed_at": None,
        "reason": None,
    }
    [entry] = listed("--where", "waiting", "--data")
    assert entry["data"] == {"n": 5}
    assert entry["options"] == {"to": "ada@example.com"}
    assert not listed()


def test_dead_letters_are_listed_retried_and_discarded(run: Run, ledger: Path) -> None:
    ids = [queued(n, "refuse") for n in range(3)]
    worker = run("runfallback", "--hands", "1")
    eventually_sync(lambda: stats()["dead"] == 3)
    assert [entry["id"] for entry in listed("--limit", "2")] == ids[:2]
    assert {entry["reason"] for entry in listed()} == {"never"}
    assert fallback("retry", ids[0]) == "queued again: 1\n"
    eventually_sync(lambda: stats()["given_up"] == 4)
    assert [entry["id"] for entry in listed()] == [ids[1], ids[2], ids[0]]
    assert worker.interrupt() == 0
    assert fallback("purge", ids[1], "--no-input") == "deleted: 1\n"
    assert fallback("retry", "--all") == "queued again: 2\n"
    assert [entry["attempts"] for entry in listed("--where", "waiting")] == [0, 0]
    assert not listed()
    assert fallback("purge", "--all", "--where", "waiting", "--no-input") == "deleted: 2\n"


def test_a_delayed_item_can_be_retried_now(run: Run) -> None:
    ours = queued(fallback="fail")
    worker = run("runfallback")
    [later] = eventually_sync(lambda: listed("--where", "later"))
    assert (later["id"], later["reason"]) == (ours, "ConnectionError: not now")
    assert worker.interrupt() == 0
    assert fallback("retry", "--where", "later", ours) == "queued again: 1\n"
    assert [entry["id"] for entry in listed("--where", "waiting")] == [ours]


def test_garbage_is_shown_and_can_be_discarded(redis_server: RedisServer, wired: str) -> None:
    with redis_server.client() as client:
        client.rpush(f"{wired}:{{0}}:fallback:dead", b"\x1b[31m garbage\n")
    [entry] = listed()
    assert entry == {
        "id": None,
        "reason": "unreadable entry",
        "starts": r"b'\x1b[31m garbage\n'",
    }
    assert fallback("retry", "--all") == "queued again: 0\n"
    assert fallback("purge", "--all", "--no-input") == "deleted: 1\n"


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        (["retry"], "give IDs", 2),
        (["retry", "--all", "x-1"], "give IDs", 2),
        (["purge", "x-1", "--no-input"], "not found among dead entries: x-1", 1),
    ],
)
def test_a_missing_item_is_reported(wired: str, arguments, text, code) -> None:
    with pytest.raises(CommandError, match=text) as caught:
        call_command("fallback", *arguments)
    assert caught.value.returncode == code


def test_nothing_is_discarded_without_confirmation(run: Run, wired: str) -> None:
    queued()
    command = run("fallback", "purge", "--all", "--where", "waiting")
    assert command.ended() == 1
    command.said("CommandError: cancelled; nothing was deleted")
    assert stats()["waiting"] == 1


def test_the_output_on_a_terminal_is_readable(run: Run, wired: str) -> None:
    queued()
    command = run("fallback", "stats", terminal=True)
    assert command.line().startswith("waiting   1, oldest ")
    assert "no worker is running; start runfallback" in command.line()
    command = run("fallback", "list", "--where", "waiting", terminal=True)
    assert "  ledger  c  " in command.line()
    assert run("fallback", "list", terminal=True).line() == "no dead entries"


def test_an_unreachable_redis_has_its_own_exit_code() -> None:
    with (
        override_settings(REALTIME_REDIS_URL="unix:///nowhere/redis.sock"),
        pytest.raises(CommandError) as caught,
    ):
        call_command("fallback", "stats")
    assert caught.value.returncode == 3
