"""The fallback `webhook` against a real server: signatures, deadlines and private networks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from realtime.core.fallback_entry import Queued
from realtime.errors import ConfigurationError, GiveUp
from realtime.fallbacks.handlers.webhook import Webhook, WebhookFailed, webhook_of
from realtime.fallbacks.posting import LOOK_UPS_LIMIT
from tests.support.machine import allowed
from tests.support.receivers import Hooks, answering, hook_server
from tests.support.tls import Authority

SECRET = "a secret of the tests, long enough"
NEW = "whsec_" + base64.b64encode(b"another secret, 24 bytes or more").decode()
QUEUED = Queued(
    "00ff-7",
    "hook",
    "orders:7",
    {"n": 1, "text": "ü"},
    tags={"event": "order.shipped"},
    options={"to": "nobody's business"},
    published_at=1_700_000_000.5,
)


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with hook_server() as server:
        yield server


def webhook(hooks: Hooks, **options: Any) -> Webhook:
    given = {"url": f"http://127.0.0.1:{hooks.port}/hook?a=b", "secret": SECRET}
    return webhook_of({**given, "allow_private": True, "seconds": 2, **options})


def test_a_receiver_can_verify_the_signature(hooks: Hooks) -> None:
    """Exactly as the specification of Standard Webhooks says."""
    webhook(hooks, secret=[NEW, SECRET])(QUEUED)
    [post] = hooks.got
    assert post.path == "/hook?a=b"
    assert post.headers["host"] == f"127.0.0.1:{hooks.port}"
    assert post.headers["content-type"] == "application/json"
    assert json.loads(post.body) == {
        "type": "order.shipped",
        "timestamp": "2023-11-14T22:13:20.500000Z",
        "id": "00ff-7",
        "channel": "orders:7",
        "data": {"n": 1, "text": "ü"},
        "tags": {"event": "order.shipped"},
    }
    identity, timestamp = post.headers["webhook-id"], post.headers["webhook-timestamp"]
    assert identity == QUEUED.id
    assert abs(int(timestamp) - time.time()) < 60
    signed = f"{identity}.{timestamp}.".encode() + post.body
    new, old = post.headers["webhook-signature"].split()
    for signature, secret in (
        (new, base64.b64decode(NEW.removeprefix("whsec_"))),
        (old, SECRET.encode()),
    ):
        expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
        assert signature == f"v1,{expected}"


def test_a_receiver_gets_the_trace_if_there_is_one(hooks: Hooks) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    webhook(hooks)(replace(QUEUED, trace=trace))
    webhook(hooks)(QUEUED)
    assert [post.headers.get("traceparent") for post in hooks.got] == [trace, None]


@pytest.mark.parametrize("status", [400, 401, 404, 408, 409, 425, 429, 500, 503])
def test_a_webhook_that_fails_is_retried(hooks: Hooks, status: int) -> None:
    hooks.answer = answering(status)
    with pytest.raises(WebhookFailed, match=f"answered {status}"):
        webhook(hooks)(QUEUED)


def test_a_receiver_that_is_gone_is_not_called_again(hooks: Hooks) -> None:
    hooks.answer = answering(410)
    with pytest.raises(GiveUp, match="permanently gone"):
        webhook(hooks)(QUEUED)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(hooks: Hooks, status: int) -> None:
    hooks.answer = answering(status, Location="http://169.254.169.254/latest/meta-data")
    with pytest.raises(
        WebhookFailed, match=r"169.254.169.254/latest/meta-data, which is not followed"
    ):
        webhook(hooks)(QUEUED)
    assert len(hooks.got) == 1


def drip_head(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(1000):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.02)  # this is the behaviour under test, not a wait


def test_a_receiver_that_answers_byte_by_byte_gets_no_extra_time(hooks: Hooks) -> None:
    hooks.answer = drip_head
    started = time.monotonic()
    with pytest.raises(WebhookFailed, match=r"no response within 0.3 s"):
        webhook(hooks, seconds=0.3)(QUEUED)
    assert time.monotonic() - started < allowed(2, started)


def test_a_receiver_that_never_answers_gets_no_extra_time(hooks: Hooks) -> None:
    hooks.answer = lambda handler: hooks.let_go.wait()
    with pytest.raises(WebhookFailed, match=r"no response within 0.2 s"):
        webhook(hooks, seconds=0.2)(QUEUED)


class HungResolver:
    """A resolver that answers when the test says so, or after half a minute."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.asked = 0

    def __call__(self, *arguments: Any, **options: Any) -> list[tuple[Any, ...]]:
        self.asked += 1
        self.let_go.wait(30)
        return socket.getaddrinfo(*arguments, **options)


@pytest.fixture
def hung() -> Iterator[HungResolver]:
    resolver = HungResolver()
    yield resolver
    resolver.let_go.set()
    for thread in threading.enumerate():
        if thread.name == "realtime resolver":
            thread.join()


def test_a_hanging_resolver_gets_no_extra_time(hooks: Hooks, hung: HungResolver) -> None:
    """`getaddrinfo` was not covered by the deadline, and occupied a hand of the worker."""
    with pytest.raises(WebhookFailed, match=r"resolving 127.0.0.1 took longer than 0.2 s"):
        replace(webhook(hooks, seconds=0.2), look_up=hung)(QUEUED)
    assert not hung.let_go.is_set()
    hung.let_go.set()
    webhook(hooks)(QUEUED)
    assert len(hooks.got) == 1


def test_a_hanging_resolver_fills_the_process_with_threads(
    hooks: Hooks, hung: HungResolver
) -> None:
    hook = replace(webhook(hooks, seconds=0.3), look_up=hung)
    with ThreadPoolExecutor(LOOK_UPS_LIMIT) as callers:
        ends = [callers.submit(hook, QUEUED) for _ in range(2 * LOOK_UPS_LIMIT)]
    assert all(isinstance(end.exception(), WebhookFailed) for end in ends)
    assert hung.asked == LOOK_UPS_LIMIT
    with pytest.raises(WebhookFailed, match=r"took longer than 0.2 s"):
        webhook(hooks, seconds=0.2)(QUEUED)  # although the system's resolver would answer
    hung.let_go.set()
    webhook(hooks, seconds=20)(QUEUED)
    assert len(hooks.got) == 1


def test_many_addresses_leave_a_receiver_less_time_to_answer(hooks: Hooks) -> None:
    """The connect timeout, a share for each address, stayed in effect for later reads."""
    hooks.answer = answer_late

    def twenty(*arguments: Any, **options: Any) -> list[tuple[Any, ...]]:
        [found] = socket.getaddrinfo("127.0.0.1", hooks.port, **options)
        return [(*found[:4], (f"127.0.0.{last}", hooks.port)) for last in range(1, 21)]

    replace(webhook(hooks, seconds=6), look_up=twenty)(QUEUED)


def answer_late(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.6)  # twice the share: the behaviour under test
    answering(204)(handler)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65_536)


def test_the_response_body_is_not_read(hooks: Hooks) -> None:
    hooks.answer = endless
    webhook(hooks)(QUEUED)


@pytest.mark.parametrize(
    "raw",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200],
)
def test_an_invalid_response_is_reported(hooks: Hooks, raw: bytes) -> None:
    hooks.answer = lambda handler: handler.wfile.write(raw)
    with pytest.raises(WebhookFailed, match="no response: "):
        webhook(hooks)(QUEUED)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
def test_an_address_in_our_own_network_is_refused(hooks: Hooks, host: str) -> None:
    with pytest.raises(WebhookFailed, match=r"private network|no response: "):
        webhook(hooks, url=f"http://{host}:{hooks.port}/", allow_private=False)(QUEUED)
    assert not hooks.got


def test_an_unreachable_receiver_is_reported() -> None:
    with pytest.raises(WebhookFailed, match="no response: ConnectionRefusedError"):
        webhook_of({"url": "http://127.0.0.1:1/", "secret": SECRET, "allow_private": True})(QUEUED)
    with pytest.raises(WebhookFailed, match="no response: gaierror"):
        webhook_of({"url": "http://nobody.invalid/", "secret": SECRET})(QUEUED)


def test_a_receiver_without_a_valid_certificate_gets_nothing(tmp_path: Path) -> None:
    with hook_server(Authority(tmp_path, "theirs").server()) as hooks:
        with pytest.raises(WebhookFailed, match="CERTIFICATE_VERIFY_FAILED"):
            webhook(hooks, url=f"https://127.0.0.1:{hooks.port}/")(QUEUED)
        assert not hooks.got


def test_a_receiver_with_a_valid_certificate_gets_the_webhook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, "ours")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with hook_server(authority.server()) as hooks:
        webhook(hooks, url=f"https://127.0.0.1:{hooks.port}/")(QUEUED)
        assert len(hooks.got) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "url must be"),
        ({"url": "ftp://example.com", "secret": SECRET}, "url must be"),
        ({"url": "https://", "secret": SECRET}, "url must be"),
        ({"url": "https://user:password@example.com", "secret": SECRET}, "no user or"),
        ({"url": "https://example.com:x", "secret": SECRET}, "url must be"),
        *[
            ({"url": f"http://{user}@example.com/"}, "url must have no user or password")
            for user in ("ada", "ada:pw", ":pw", ":", "")
        ],
        ({"url": "https://example.com:0/"}, "from 1 to 65535"),
        ({"url": "https://example.com:65536/"}, "from 1 to 65535"),
        ({"url": "https://example.com"}, "secret must be"),
        ({"url": "https://example.com", "secret": "short"}, "secret must have 24 to 64"),
        ({"url": "https://example.com", "secret": "whsec_!"}, "secret must have 24 to 64"),
        ({"url": "https://example.com", "secret": [SECRET] * 5}, "a list of up to 4"),
        ({"url": "https://example.com", "secret": SECRET, "secret_file": "x"}, "exactly one"),
        ({"url": "https://example.com", "secret_file": "/nowhere"}, "cannot be read"),
        ({"url": "https://example.com", "secret": SECRET, "seconds": 0}, "seconds must"),
        ({"url": "https://example.com", "secret": SECRET, "allow_private": 1}, "true or false"),
        ({"url": "https://example.com", "secret": SECRET, "method": "GET"}, "unknown option"),
    ],
)
def test_an_invalid_configuration_is_reported_without_secrets(options: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        webhook_of(options)
    assert SECRET not in str(caught.value)
    assert "pw" not in str(caught.value)
    assert "short" not in str(caught.value)


def test_the_secret_may_be_in_a_file(tmp_path: Path, hooks: Hooks) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{NEW}\n{SECRET}\n")
    hook = webhook_of({"url": "https://example.com", "secret_file": str(path)})
    assert len(hook.secrets) == 2
    assert SECRET not in repr(hook)
