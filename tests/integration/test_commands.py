"""`manage.py publish` and `manage.py listen`, against a real Valkey and a real service."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings

from realtime import publish
from realtime.core.envelope import decode_envelope
from realtime.management.commands.listen import NEEDS_WEBSOCKETS
from tests.support.command import ROOT, Command
from tests.support.dispositions import IGNORED, dispositions
from tests.support.eventually import eventually_sync
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.service import Service

Run = Callable[..., Command]


@pytest.fixture
def run() -> Iterator[Run]:
    started: list[Command] = []

    def start(*arguments: str, **options: Any) -> Command:
        started.append(Command(*arguments, **options))
        return started[-1]

    yield start
    for command in started:
        command.stop()


# --- publish ---


def published(*arguments: str) -> Any:
    out = StringIO()
    call_command("publish", *arguments, stdout=out)
    [line] = out.getvalue().splitlines()
    return json.loads(line)


def test_publish_prints_its_receipt_as_one_line(wired: str) -> None:
    receipt = published("public:news", '{"n": 1}')
    assert receipt == {"offset": 1, "epoch": receipt["epoch"], "nodes": 0, "queued": False}


def test_publish_takes_event_tags_and_key(wired: str, redis_server: RedisServer) -> None:
    heard = redis_server.client().pubsub()
    heard.psubscribe(f"{wired}:*")
    heard.get_message(timeout=60)
    options = ["--event", "e", "--tag", "a=b=c", "--tag", "d=", "--idempotency-key", "k"]
    first = published("a", "[1]", *options)
    assert published("a", "[1]", *options) == first | {"repeated": True}
    envelope = decode_envelope(heard.get_message(timeout=60)["data"])
    assert json.loads(envelope.body) == {"data": [1], "tags": {"a": "b=c", "d": "", "event": "e"}}
    heard.close()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["public:news", "hello"], "not published: data: JSON is malformed"),
        (["public:news", ""], "not published: data: "),
        (["public:news", "NaN"], "not published: data: "),
        (["public:news", "\udcff"], "not published: data: "),
        (["not good", "1"], "not published: channel 'not good' is not valid"),
        (["nobody:a", "1"], "the namespace 'nobody' is not configured: correct the name, or add"),
        (["a", "1", "--tag", "x"], "not published: --tag: 'x' is not NAME=VALUE"),
        (["a", "1", "--event", "a b"], "not published: event 'a b' is not valid"),
        (["a", '"' + "x" * 65_535 + '"'], "not published: data has 65537 bytes"),
    ],
)
def test_publish_reports_invalid_arguments(wired: str, arguments: list[str], text: str) -> None:
    with pytest.raises(CommandError) as caught:
        published(*arguments)
    assert text in str(caught.value)
    assert caught.value.returncode == 1


def test_publish_reports_a_conflict(wired: str) -> None:
    published("a", "1", "--idempotency-key", "k")
    with pytest.raises(CommandError, match="different publication"):
        published("a", "2", "--idempotency-key", "k")


def test_publish_without_redis_exits_with_3(wired: str) -> None:
    with (
        override_settings(REALTIME_REDIS_URL="unix:///nowhere.sock"),
        pytest.raises(CommandError, match="not published: Redis") as caught,
    ):
        published("a", "1")
    assert caught.value.returncode == 3
    assert "Is Redis running, and REALTIME_REDIS_URL" in str(caught.value)


def test_publish_with_an_unknown_outcome_exits_with_4(own_redis: RedisServer) -> None:
    with override_settings(REALTIME_REDIS_URL=own_redis.url):
        publish("a", "warm")
        own_redis.freeze()
        with pytest.raises(CommandError, match="outcome unknown") as caught:
            published("a", "1")
        own_redis.thaw()
    assert caught.value.returncode == 4


def test_publish_without_a_redis_url_names_the_setting(run: Run) -> None:
    command = run("publish", "a", "1")
    assert "REALTIME_REDIS_URL" in command.said("CommandError")
    assert command.ended() == 1


def test_publish_reads_stdin(redis_server: RedisServer) -> None:
    env = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_REDIS_URL": redis_server.url,
    }  # fmt: skip
    command = [sys.executable, "-m", "django", "publish", "public:stdin", "-"]
    done = subprocess.run(command, cwd=ROOT, env=env, input=b'{ "n":\n1 }', capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["offset"] >= 1


def test_publish_prints_readable_output_on_a_terminal(run: Run, redis_server: RedisServer) -> None:
    command = run("publish", "public:pty", "1", terminal=True, TEST_REDIS_URL=redis_server.url)
    line = command.line() or ""
    assert line.startswith("published on public:pty at ")
    assert line.endswith("no subscribers; no one receives it later")
    assert command.ended() == 0


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale whose encoding is ASCII, as in cron and minimal containers (issue 15, C19)."""


def test_publish_accepts_any_text_in_an_ascii_locale(run: Run, redis_server: RedisServer) -> None:
    given = ("public:pty", '{"t": "Zoë"}', "--tag", "who=Zoë")
    command = run("publish", *given, TEST_REDIS_URL=redis_server.url, **ASCII)
    assert command.facts()["offset"]
    assert command.ended() == 0


# --- listen ---


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A service for all tests that do not break it."""
    redis = RedisServer().start()
    service = Service(redis.url)
    try:
        yield service.start()
    finally:
        service.stop()
        redis.stop()


@pytest.fixture
def mortal(own_redis: RedisServer, serve: Callable[..., Service]) -> Service:
    return serve(own_redis.url)


@pytest.fixture
def news() -> str:
    """A channel that only this test uses."""
    return f"public:{secrets.token_hex(4)}"


def test_listen_prints_each_publication_as_it_arrives(
    run: Run, service: Service, news: str
) -> None:
    command = run("listen", news, "chat:lobby", "--url", service.ws)
    assert command.said("live") == f"live: {news} from 0, chat:lobby from 0"
    first = service.publish(news, {"n": 1}, event="e", tags={"a": "ü"})
    assert command.facts() == {
        "type": "publication",
        "channel": news,
        "epoch": first["epoch"],
        "offset": 1,
        "data": {"n": 1},
        "tags": {"a": "ü", "event": "e"},
    }
    service.publish("chat:lobby", "x" * 60_000)
    assert command.facts()["data"] == "x" * 60_000
    assert command.interrupt() == 0
    assert command.line() is None


def test_listen_prints_readable_output_on_a_terminal(run: Run, service: Service, news: str) -> None:
    command = run("listen", news, "--url", service.http, terminal=True)
    command.said("live")
    service.publish(news, {"t": "ü\x1b[31m\u009b\u202e"}, event="order.shipped")
    line = command.line()
    assert line == rf'{news} 1  order.shipped  {{"t": "ü\u001b[31m\x9b\u202e"}}'


def test_listen_escapes_characters_that_an_ascii_locale_lacks(
    run: Run, service: Service, news: str
) -> None:
    command = run("listen", news, "--url", service.http, terminal=True, **ASCII)
    command.said("live")
    service.publish(news, "Zoë\u20ac")
    assert command.line() == rf'{news} 1  "Zo\xeb\u20ac"'


def test_listen_takes_the_address_from_the_environment(
    run: Run, service: Service, news: str
) -> None:
    command = run("listen", news, REALTIME_URL=service.http)
    command.said("live")


def test_listen_finds_the_service_of_make_run(run: Run, service: Service, news: str) -> None:
    """The launcher puts its address into NOTIFIER_URL; the service's settings pass it on."""
    env = {"DJANGO_SETTINGS_MODULE": "notifier.settings", "DEBUG": "1", "SECRET_KEY": "k" * 50}
    command = run("listen", news, NOTIFIER_URL=service.http, **env)
    command.said("live")


def test_listen_never_connects_to_redis(run: Run, service: Service, news: str) -> None:
    command = run("listen", news, "--url", service.ws, TEST_REDIS_URL="")
    command.said("live")


@pytest.mark.parametrize("channel", ["secret", "not good", "nobody:a", "public:a#42"])
def test_listen_says_which_channel_is_refused(
    run: Run, service: Service, news: str, channel: str
) -> None:
    command = run("listen", news, channel, "--url", service.ws)
    said = command.said("CommandError")
    assert channel in said
    assert "refused the subscription" in said
    assert command.ended() == 1


@pytest.mark.parametrize("url", ["ftp://host", "nonsense", "ws://", "ws://host:port", "http://["])
def test_listen_refuses_an_invalid_address(run: Run, url: str) -> None:
    command = run("listen", "public:news", "--url", url)
    assert "is not a URL" in command.said("CommandError")
    assert command.ended() == 1


@pytest.mark.parametrize("missing", ["websockets", "websockets.asyncio"])
def test_listen_says_what_to_install_and_all_else_works_without(
    run: Run, tmp_path: Path, missing: str
) -> None:
    """Its library is an extra. Releases before 13 have no `websockets.asyncio`."""
    error = f"raise ModuleNotFoundError('No module named {missing}', name={missing!r})"
    (tmp_path / "websockets.py").write_text(error, encoding="utf-8")
    without = {"PYTHONPATH": str(tmp_path)}
    command = run("listen", "public:news", **without)
    assert command.said("CommandError") == f"CommandError: {NEEDS_WEBSOCKETS}"
    assert command.ended() == 1
    for others in (["listen", "--help"], ["check"], ["publish", "--help"]):
        assert run(*others, **without).ended() == 0


def test_listen_passes_on_what_else_is_missing(run: Run, tmp_path: Path) -> None:
    error = "raise ModuleNotFoundError('No module named zlib', name='zlib')"
    (tmp_path / "websockets.py").write_text(error, encoding="utf-8")
    command = run("listen", "public:news", PYTHONPATH=str(tmp_path))
    command.said("ModuleNotFoundError: No module named zlib")
    assert command.ended() == 1


def test_listen_waits_for_a_service_that_has_not_started(
    run: Run, own_redis: RedisServer, serve: Callable[..., Service]
) -> None:
    port = free_port()
    command = run("listen", "public:news", "--url", f"http://127.0.0.1:{port}")
    command.said(f"no service at http://127.0.0.1:{port}: start it, or name another address")
    command.said("reconnecting in ")
    assert command.interrupt() == 0


def test_listen_keeps_running_when_started_with_sigint_ignored_and_says_so(
    run: Run, service: Service, news: str
) -> None:
    command = run("listen", news, "--url", service.ws, signals=IGNORED)
    assert command.said("SIGINT is ignored").endswith(f"kill {command.process.pid}")
    command.said("live")
    command.process.send_signal(signal.SIGINT)
    service.publish(news, 1)
    assert command.facts()["data"] == 1
    command.process.terminate()
    assert command.ended() == -signal.SIGTERM


def test_listen_reconnects_after_a_restart_and_reports_what_it_missed(
    run: Run, mortal: Service, own_redis: RedisServer
) -> None:
    command = run("listen", "public:news", "--url", mortal.ws)
    command.said("live")
    before = mortal.publish("public:news", 1)
    assert command.facts()["offset"] == 1
    mortal.kill()
    command.said("reconnecting")
    with override_settings(REALTIME_REDIS_URL=own_redis.url):
        for n in (2, 3, 4):
            publish("public:news", n)
    mortal.start()
    assert command.facts() == {
        "type": "gap",
        "channel": "public:news",
        "epoch": before["epoch"],
        "from": 2,
        "to": 4,
        "missed": 3,
        "reason": "reconnect",
    }
    assert command.said("live", seconds=30) == "live: public:news from 4"
    mortal.publish("public:news", 5)
    assert command.facts()["offset"] == 5


def test_listen_prints_the_gaps_of_a_redis_restart(
    run: Run, mortal: Service, own_redis: RedisServer
) -> None:
    command = run("listen", "public:news", "--url", mortal.ws)
    command.said("live")
    old = mortal.publish("public:news", 1)["epoch"]
    command.facts()
    own_redis.kill()
    command.said("not live: ")
    own_redis.start()
    with override_settings(REALTIME_REDIS_URL=own_redis.url):
        new = publish("public:news", "perhaps before the node is back").epoch
    command.said("live", seconds=30)
    eventually_sync(mortal.is_live)
    mortal.publish("public:news", "after")
    facts = [command.facts()]
    while facts[-1].get("data") != "after":
        facts.append(command.facts())
    assert (facts[0]["type"], facts[0]["epoch"], facts[0]["from"]) == ("gap", old, 2)
    assert facts[0]["to"] is facts[0]["missed"] is None
    assert {fact["epoch"] for fact in facts[1:]} == {new}
    covered = [n for f in facts[1:] for n in range(f.get("from", f.get("offset")),
               (f.get("to") or f.get("offset")) + 1)]  # fmt: skip
    assert covered == [1, 2]


def test_listen_answers_pings_and_stays_connected(
    run: Run, own_redis: RedisServer, serve: Callable[..., Service]
) -> None:
    """Without answers, it would be closed with 3012 after ten seconds."""
    service = serve(own_redis.url, TEST_PING_SECONDS="1")
    command = run("listen", "public:news", "--url", service.ws)
    command.said("live")
    for n in range(40):
        service.publish("public:news", "x" * 60_000)  # an early ping each 256 KiB
        assert command.facts()["offset"] == n + 1


def test_listen_ends_quietly_when_its_output_is_closed(
    run: Run, service: Service, news: str
) -> None:
    """`manage.py listen … | head -1`."""
    listen = f"{sys.executable} -m django listen {news} --url {service.ws}"
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    with dispositions():
        pipe = subprocess.Popen(
            ["bash", "-c", f"set -o pipefail; {listen} | head -1"],
            cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert pipe.stderr is not None
    assert pipe.stderr.readline().startswith("live")

    def ended() -> bool:
        service.publish(news, 1)
        return pipe.poll() is not None

    eventually_sync(ended)
    out, errors = pipe.communicate()
    assert out.count("\n") == 1
    assert (pipe.returncode, errors) == (0, "")


def test_listen_subscribes_to_a_repeated_channel_once(run: Run, service: Service) -> None:
    command = run("listen", "public:a", "public:a", "--url", service.ws)
    assert command.said("live") == "live: public:a from 0"
    service.publish("public:a", 1)
    service.publish("public:a", 2)
    assert [command.facts()["offset"] for _ in range(2)] == [1, 2]
