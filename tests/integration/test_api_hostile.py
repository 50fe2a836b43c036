"""Requests that the HTTP API refuses on both rims: the exact response, and nothing reaches Redis.

Tests that need a real server (chunked bodies, incomplete requests, duplicate headers) run on
uvicorn and Daphne, with either rim, and on the service with its own server.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import socket
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import httpx
import pytest
from django.test import override_settings
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realtime import wiring
from realtime.api.answers import STATUSES, Response, failure
from realtime.api.backend import run_blocking
from realtime.api.keyring import Keyring
from realtime.api.methods import METHODS, admit_request, respond
from realtime.api.request import Request
from realtime.brokers import Survey
from realtime.core.limits import MANY_BYTES, PUBLISH_BYTES
from realtime.core.namespaces import Namespaces
from realtime.core.publication import Receipt
from realtime.errors import (
    BrokerUnavailable,
    IdempotencyConflict,
    OutcomeUnknown,
    RequestError,
)
from tests.support.backend import CannedBackend
from tests.support.eventually import eventually_sync
from tests.support.redis_server import RedisServer
from tests.support.rims import RIMS, Rim, headers, refused
from tests.support.service import DEPLOYED, Service


@pytest.fixture(params=RIMS)
def rim(request: pytest.FixtureRequest, node: Any) -> Rim:
    return Rim(request.param)


@pytest.fixture
def untouched(redis_server: RedisServer, wired: str) -> Iterator[None]:
    """Nothing in this test may reach Redis: neither a key nor a single command of ours."""
    before = _commands(redis_server)
    yield
    assert redis_server.client().keys(f"{wired}:*") == []
    assert _commands(redis_server) == before


def _commands(server: RedisServer) -> dict[str, int]:
    stats: dict[str, Any] = server.client().info("commandstats")
    ours = ("cmdstat_evalsha", "cmdstat_multi", "cmdstat_publish", "cmdstat_script|load")
    return {name: stat["calls"] for name, stat in stats.items() if name in ours}


def publish(**fields: Any) -> bytes:
    return json.dumps({"channel": "public:news", "data": 1} | fields).encode()


def with_data(raw: bytes) -> bytes:
    return b'{"channel":"public:news","data":%s}' % raw


NOT_JSON = {
    "nothing": b"",
    "a space": b" ",
    "words": b"hello",
    "a form": b"channel=public:news&data=1",
    "two values": b"{} {}",
    "a cut object": b'{"channel":"public:news","data":1',
    "single quotes": b"{'channel':'public:news','data':1}",
    "a trailing comma": b'{"channel":"public:news","data":1,}',
    "a comment": b'{"channel":"public:news","data":1}//',
    "a byte order mark": b"\xef\xbb\xbf" + publish(),
    "UTF-16": publish().decode().encode("utf-16"),
    "UTF-32": publish().decode().encode("utf-32"),
    "latin-1": '{"channel":"public:news","data":"ü"}'.encode("latin-1"),
    "a truncated sequence": with_data(b'"\xe2\x82"'),
    "an overlong sequence": with_data(b'"\xc0\xaf"'),
    "an encoded surrogate": with_data(b'"\xed\xa0\x80"'),
    "a lone high surrogate": with_data(rb'"\ud800"'),
    "a lone low surrogate": with_data(rb'"\udc00"'),
    "surrogates the wrong way round": with_data(rb'"\udc00\ud800"'),
    "a lone surrogate as a key": with_data(rb'{"\ud800":1}'),
    "a raw control character": with_data(b'"\x01"'),
    "a raw newline": with_data(b'"\n"'),
    "a raw NUL": with_data(b'"\x00"'),
    "NaN": with_data(b"NaN"),
    "Infinity": with_data(b"Infinity"),
    "-Infinity": with_data(b"-Infinity"),
    "nan": with_data(b"[nan]"),
    "1e999": with_data(b"1e999"),
    "-1e999": with_data(b"-1e999"),
    "a number of 5000 digits": with_data(b"9" * 5000),
    "a number of 60000 digits": with_data(b"9" * 60_000),
    "hexadecimal": with_data(b"0x10"),
    "an octal zero": with_data(b"010"),
    "a plus": with_data(b"+1"),
    "an array": b"[1]",
    "a string": b'"publish"',
    "null": b"null",
}


TOO_DEEP = {
    "1000 arrays": with_data(b"[" * 1000 + b"]" * 1000),
    "30000 arrays": with_data(b"[" * 30_000 + b"]" * 30_000),
    "70000 arrays that stay open": with_data(b"[" * 70_000),
    "8000 objects": with_data(b'{"a":' * 8000 + b"1" + b"}" * 8000),
}
"""Refused alike, whether this version of Python can decode them or not."""


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("method", ["publish", "broadcast", "batch"])
@pytest.mark.parametrize("raw", TOO_DEEP.values(), ids=TOO_DEEP)
async def test_a_body_that_is_nested_too_deeply_is_refused(
    rim: Rim, method: str, raw: bytes
) -> None:
    refused(await rim.post(method, raw), "invalid_data")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("method", ["publish", "broadcast", "batch"])
@pytest.mark.parametrize("raw", NOT_JSON.values(), ids=NOT_JSON)
async def test_non_portable_json_is_refused(rim: Rim, method: str, raw: bytes) -> None:
    refused(await rim.post(method, raw), "invalid_json")


NAMES = {
    "empty": "",
    "a space": "public:ne ws",
    "CRLF": "public:news\r\nPUBLISH x y",
    "a trailing newline": "public:news\n",
    "NUL": "public:\x00",
    "an escape sequence": "public:\x1b[31m",
    "a glob": "public:*",
    "a class": "public:[a-z]",
    "a question mark": "public:?",
    "a hash tag": "public:{a}",
    "a slash": "public/news",
    "a backslash": "public\\news",
    "a percent sign": "public%3anews",
    "right to left": "public:\u202enews",
    "zero width": "public:\u200bnews",
    "a homoglyph": "рublic:news",
    "fullwidth": "ｐublic:news",
    "256 characters": "a" * 256,
    "70000 characters": "a" * 70_000,
    "an unknown namespace": "nobody:news",
    "a namespace in capitals": "Public:news",
    "an empty namespace's neighbour": " :news",
    "null": None,
    "a number": 7,
    "a list": ["public:news"],
    "an object": {"public": "news"},
    "true": True,
    "a list of 300 levels": json.loads("[" * 300 + "]" * 300),
    "a number of 4000 digits": 10**4000,
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
async def test_illegal_channels(rim: Rim, name: Any) -> None:
    refused(await rim.post("publish", publish(channel=name)), "invalid_channel")


WRONG_FIELDS: dict[str, tuple[Any, str]] = {
    "no channel": ({"data": 1}, "invalid_channel"),
    "no data": ({"channel": "a"}, "invalid_data"),
    "nothing": ({}, "invalid_channel"),
    "an unknown field": ({"channel": "a", "data": 1, "colour": "red"}, "invalid_data"),
    "a misspelt field": ({"channel": "a", "data": 1, "idempotencykey": "k"}, "invalid_data"),
    "an unknown field with CRLF": ({"channel": "a", "data": 1, "\r\nx": 1}, "invalid_data"),
    "channels": ({"channels": ["a"], "data": 1}, "invalid_data"),
    "33 levels": ({"channel": "a", "data": json.loads("[" * 33 + "]" * 33)}, "invalid_data"),
    "33 levels of objects": (
        {"channel": "a", "data": json.loads('{"a":' * 33 + "1" + "}" * 33)},
        "invalid_data",
    ),
    "data of 64 KiB and a byte": ({"channel": "a", "data": "x" * 65_535}, "too_large"),
    "data of 64 KiB in UTF-8": ({"channel": "a", "data": "ü" * 32_768}, "too_large"),
    "event: a space": ({"channel": "a", "data": 1, "event": "a b"}, "invalid_event"),
    "event: CRLF": ({"channel": "a", "data": 1, "event": "a\r\ndata: x"}, "invalid_event"),
    "event: empty": ({"channel": "a", "data": 1, "event": ""}, "invalid_event"),
    "event: long": ({"channel": "a", "data": 1, "event": "e" * 65}, "invalid_event"),
    "event: a number": ({"channel": "a", "data": 1, "event": 1}, "invalid_event"),
    "tags: a list": ({"channel": "a", "data": 1, "tags": ["a"]}, "invalid_tags"),
    "tags: a string": ({"channel": "a", "data": 1, "tags": "a"}, "invalid_tags"),
    "tags: a number as value": ({"channel": "a", "data": 1, "tags": {"a": 1}}, "invalid_tags"),
    "tags: null as value": ({"channel": "a", "data": 1, "tags": {"a": None}}, "invalid_tags"),
    "tags: an object as value": ({"channel": "a", "data": 1, "tags": {"a": {}}}, "invalid_tags"),
    "tags: a bad name": ({"channel": "a", "data": 1, "tags": {"a b": ""}}, "invalid_tags"),
    "tags: an empty name": ({"channel": "a", "data": 1, "tags": {"": ""}}, "invalid_tags"),
    "tags: a long value": ({"channel": "a", "data": 1, "tags": {"a": "x" * 257}}, "invalid_tags"),
    "tags: an event with CRLF": (
        {"channel": "a", "data": 1, "tags": {"event": "a\r\ndata: x"}},
        "invalid_event",
    ),
    "tags: another event": (
        {"channel": "a", "data": 1, "tags": {"event": "a"}, "event": "b"},
        "invalid_tags",
    ),
    "tags: 17": (
        {"channel": "a", "data": 1, "tags": {f"t{n}": "" for n in range(17)}},
        "too_large",
    ),
    "key: empty": ({"channel": "a", "data": 1, "idempotency_key": ""}, "invalid_idempotency_key"),
    "key: a space": (
        {"channel": "a", "data": 1, "idempotency_key": "a b"},
        "invalid_idempotency_key",
    ),
    "key: long": (
        {"channel": "a", "data": 1, "idempotency_key": "k" * 65},
        "invalid_idempotency_key",
    ),
    "key: a number": ({"channel": "a", "data": 1, "idempotency_key": 1}, "invalid_idempotency_key"),
    "key: not ASCII": (
        {"channel": "a", "data": 1, "idempotency_key": "ü"},
        "invalid_idempotency_key",
    ),
    "a fallback": ({"channel": "a", "data": 1, "fallback": "mail"}, "invalid_fallback"),
    "a fallback of false": ({"channel": "a", "data": 1, "fallback": False}, "invalid_fallback"),
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("body", "reason"), WRONG_FIELDS.values(), ids=WRONG_FIELDS)
async def test_wrong_fields(rim: Rim, body: Any, reason: str) -> None:
    refused(await rim.post("publish", body), reason)


async def test_32_levels_are_allowed(rim: Rim) -> None:
    data = json.loads("[" * 32 + "]" * 32)
    assert (await rim.post("publish", {"channel": "a", "data": data})).status == 200


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("length", [0, 1, 10_000_000_000])
@pytest.mark.parametrize(
    ("method", "limit"), [("publish", PUBLISH_BYTES), ("broadcast", MANY_BYTES)]
)
async def test_a_body_over_its_limit(rim: Rim, method: str, limit: int, length: int) -> None:
    refused(await rim.post(method, with_data(b" " * limit + b"1")), "too_large")


WRONG_HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "no key": ({"x_api_key": None}, "unauthorized"),
    "an empty key": ({"x_api_key": ""}, "unauthorized"),
    "a wrong key": ({"x_api_key": "test-kez"}, "unauthorized"),
    "half a key": ({"x_api_key": "test"}, "unauthorized"),
    "a longer key": ({"x_api_key": "test-key2"}, "unauthorized"),
    "another case": ({"x_api_key": "TEST-KEY"}, "unauthorized"),
    "a key of 30 KB": ({"x_api_key": "k" * 30_000}, "unauthorized"),
    "a key in latin-1": ({"x_api_key": "schlüssel".encode("latin-1")}, "unauthorized"),
    "a key in UTF-8": ({"x_api_key": "schlüssel😀".encode()}, "unauthorized"),
    "all bytes": ({"x_api_key": bytes(range(128, 256))}, "unauthorized"),
    "a bearer token": (
        {"x_api_key": None, "authorization": "Bearer test-key"},
        "unauthorized",
    ),
    "a cookie": ({"x_api_key": None, "cookie": "X-API-Key=test-key"}, "unauthorized"),
    "no content type": ({"content_type": None}, "unsupported_media_type"),
    "text/plain": ({"content_type": "text/plain"}, "unsupported_media_type"),
    "text/json": ({"content_type": "text/json"}, "unsupported_media_type"),
    "a form": ({"content_type": "application/x-www-form-urlencoded"}, "unsupported_media_type"),
    "multipart": ({"content_type": "multipart/form-data; boundary=x"}, "unsupported_media_type"),
    "application/jsonx": ({"content_type": "application/jsonx"}, "unsupported_media_type"),
    "json as a parameter": (
        {"content_type": "text/plain; application/json"},
        "unsupported_media_type",
    ),
    "gzip": ({"content_encoding": "gzip"}, "unsupported_media_type"),
    "br": ({"content_encoding": "br"}, "unsupported_media_type"),
    "two encodings": ({"content_encoding": "identity, gzip"}, "unsupported_media_type"),
    "a key with a space": ({"idempotency_key": "a b"}, "invalid_idempotency_key"),
    "an idempotency key in latin-1": (
        {"idempotency_key": "ü".encode("latin-1")},
        "invalid_idempotency_key",
    ),
    "an empty idempotency key": ({"idempotency_key": ""}, "invalid_idempotency_key"),
    "a long idempotency key": ({"idempotency_key": "k" * 65}, "invalid_idempotency_key"),
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("changed", "reason"), WRONG_HEADERS.values(), ids=WRONG_HEADERS)
async def test_wrong_headers(rim: Rim, changed: dict[str, Any], reason: str) -> None:
    answer = await rim.post("publish", publish(), **changed)
    refused(answer, reason)
    if reason == "unauthorized":
        assert answer.headers["www-authenticate"] == 'ApiKey realm="X-API-Key"'


@pytest.mark.usefixtures("untouched")
async def test_all_wrong_keys_get_the_same_response(rim: Rim) -> None:
    answers = [await rim.post("publish", b"", x_api_key=key) for key in (None, "", "x", "test-ke")]
    assert len({answer.json["error"]["message"] for answer in answers}) == 1


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("key", ["", "test-key", None])
async def test_no_request_is_authorized_without_a_configured_key(rim: Rim, key: str | None) -> None:
    with override_settings(REALTIME_API_KEY=""):
        refused(await rim.post("publish", publish(), x_api_key=key), "unauthorized")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("verb", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_methods_other_than_post_are_refused(rim: Rim, verb: str) -> None:
    answer = await rim.send(verb, "/api/publish", publish(), headers())
    refused(answer, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "method", ["publis", "publishes", "PUBLISH", "history", "__class__", "%0d"]
)
async def test_unknown_methods(rim: Rim, method: str) -> None:
    refused(await rim.post(method, publish()), "method_not_found")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "wrong", [{"REALTIME_REDIS_URL": ""}, {"REALTIME_NAMESPACES": {"a": {"colour": True}}}]
)
async def test_an_invalid_setting_is_503_and_logged(
    rim: Rim, wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An invalid setting used to raise in the rim: 500, and a traceback."""
    caplog.set_level(logging.DEBUG, "realtime.api.answers")  # a warning only if it is the first
    with override_settings(**wrong):
        error = refused(await rim.post("publish", publish()), "configuration")
        await wiring.aclose()
    assert "REALTIME" not in error["message"]
    assert "REALTIME" in caplog.text


# --- the API itself, with arbitrary input ---


_keys = st.sampled_from(
    ["channel", "channels", "data", "event", "tags", "idempotency_key", "fallback", "commands",
     "publish", "broadcast", "skip_history", "pattern"]
)  # fmt: skip
_texts = st.one_of(
    st.sampled_from(["public:news", "a", "nobody:a", "", "k", "event"]), st.text(max_size=8)
)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), _texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(_keys, _texts), inner, max_size=4)
    ),
    max_leaves=12,
)
_publishes = st.fixed_dictionaries(
    {"channel": _texts, "data": _values},
    optional={"event": _texts, "tags": st.dictionaries(_texts, _texts), "idempotency_key": _texts},
)
_about_users = st.fixed_dictionaries(
    {"user": _texts},
    optional={
        "client": _texts,
        "channel": _texts,
        "expired": st.one_of(st.none(), st.booleans()),
        "expire_at": st.one_of(st.none(), st.integers()),
        "disconnect": st.fixed_dictionaries({"code": st.integers(2990, 5010), "reason": _texts}),
    },
)
_broadcasts = st.fixed_dictionaries({"channels": st.lists(_texts, max_size=4), "data": _values})
_commands_of_a_batch = st.one_of(
    st.fixed_dictionaries({"publish": _publishes}),
    st.fixed_dictionaries({"broadcast": _broadcasts}),
    _values,
)
_bodies = st.one_of(
    st.binary(max_size=60),
    st.one_of(
        _values,
        _publishes,
        _broadcasts,
        _about_users,
        st.fixed_dictionaries({"commands": st.lists(_commands_of_a_batch, max_size=4)}),
    ).map(lambda value: json.dumps(value).encode()),
)
_outcomes = st.sampled_from(
    [Receipt("0123456789abcdef", 1, 0), IdempotencyConflict(), BrokerUnavailable("Redis: \ud800")]
)
_namespaces = Namespaces({})


_keyring = Keyring(
    [
        {
            "name": "limited",
            "sha256": hashlib.sha256(b"l").hexdigest(),
            "channels": ["public:*", "a"],
            "methods": ["publish", "batch"],
            "rate": 1,
        }
    ],
    and_one="k",
)


def driven(request: Request, body: bytes, outcomes: Any, wait: Any = lambda: 0.0) -> Response:
    """Execute a request with a broker that returns arbitrary replies."""
    backend = CannedBackend(
        publish=outcomes,
        take=wait,
        members=lambda: BrokerUnavailable("Redis"),
        survey=lambda: Survey([b"{", b'{"channels":{"a":1,"b":2}}', b"\xff"], 1),
    )
    try:
        welcome = admit_request(request, _keyring.admit)
    except RequestError as error:
        return failure(error)
    return run_blocking(respond(welcome, body, backend, _namespaces))


@settings(max_examples=400, derandomize=True, deadline=None)
@given(
    method=st.sampled_from(sorted(METHODS)),
    body=_bodies,
    key=st.one_of(st.none(), st.text(max_size=5)),
    secret=st.sampled_from("kl"),
    data=st.data(),
)
def test_any_body_is_answered_without_an_exception(
    method: str, body: bytes, key: str | None, secret: str, data: st.DataObject
) -> None:
    def outcomes(publications: Any) -> Any:
        all_of_them = data.draw(st.sampled_from([None, None, OutcomeUnknown()]))
        return all_of_them or [data.draw(_outcomes) for _ in publications]

    def wait() -> Any:
        return data.draw(st.sampled_from([0.0, 0.0, 1e-6, 1e5, OutcomeUnknown()]))

    request = Request("POST", method, "", "application/json", "", secret, key)
    response = driven(request, body, outcomes, wait)
    answer = json.loads(response.body)
    if response.status == 200:
        assert set(answer) <= {"result", "replies"}
    else:
        assert (response.status, answer["error"]["code"]) == STATUSES[answer["error"]["reason"]]


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.builds(Request, *[st.text(max_size=9)] * 2, *[st.text()] * 5))
@example(Request("POST", "publish", "\u0660", "application/json", "", "\ud800", "\ud800"))
@example(Request("POST", "publish", "9" * 5000, "application/json", "", "k"))
@example(Request("POST", "publish", "²", "application/json", "", "k"))
def test_any_headers_are_answered_without_an_exception(request: Request) -> None:
    response = driven(request, b"{}", lambda publications: OutcomeUnknown())
    reason = json.loads(response.body)["error"]["reason"]
    assert response.status == STATUSES[reason][0]


# --- real servers ---


KINDS = [
    ("uvicorn", "tests.asgi:application"),
    ("uvicorn", "tests.asgi_endpoint:application"),
    ("daphne", "tests.asgi:application"),
    ("daphne", "tests.asgi_endpoint:application"),
]
if int(version("websockets").partition(".")[0]) >= 16:  # `make matrix` tries an older one
    KINDS.append((DEPLOYED, "tests.notifier serve"))


# Daphne reads the whole body before it calls an app, and Django before it calls a view.
reads_bodies_itself = pytest.mark.parametrize("service", [KINDS[1]], indirect=True)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}, {kind[1][6:]}")
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A server that all tests of this module attack.

    At the end its log must not contain a traceback.
    """
    redis = RedisServer().start()
    server, app = request.param
    service = Service(redis.url, server, app=app, TEST_BODY_SECONDS="0.5")
    try:
        service.start()
        yield service
        # The node's own commands: its canary, on a channel that no publisher can name; its lease,
        # the id of its service, and the positions of channels without publications.
        own = (b":pos:!", b":nodes", b":service", b":base")
        keys = [key for key in redis.client().keys("rt:*") if not any(o in key for o in own)]
        assert keys == [], "something reached Redis"
        log = service.log
    finally:
        service.stop()
        redis.stop()
    assert "Traceback" not in log
    assert "Exception" not in log
    assert "test-key" not in log, "a secret is in the log"


def raw(service: Service, request: bytes, *parts: bytes) -> bytes:
    """Send bytes on a socket; return everything that arrives until the server closes."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as peer:
        try:
            peer.sendall(request)
            for part in parts:
                peer.sendall(part)
        except ConnectionError:
            pass  # the server has closed; its response can still be read
        answer = b""
        try:
            while part := peer.recv(65_536):
                answer += part
        except ConnectionError:
            pass
    return answer


def told(answer: bytes, reason: str) -> None:
    """Check that the raw response is our error with this reason."""
    status, number = STATUSES[reason]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    error = json.loads(body)["error"]
    assert (error["reason"], error["code"]) == (reason, number)


HEAD = (
    b"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"X-API-Key: test-key\r\nContent-Type: application/json\r\n"
)


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_a_server_refuses_other_content_than_json(service: Service, body: bytes) -> None:
    given = {"X-API-Key": "test-key", "Content-Type": "application/json"}
    response = httpx.post(f"{service.http}/api/publish", content=body, headers=given)
    assert (response.status_code, response.json()["error"]["reason"]) == (400, "invalid_json")


@pytest.mark.parametrize("body", TOO_DEEP.values(), ids=TOO_DEEP)
def test_a_server_refuses_a_body_that_is_nested_too_deeply(service: Service, body: bytes) -> None:
    given = {"X-API-Key": "test-key", "Content-Type": "application/json"}
    response = httpx.post(f"{service.http}/api/publish", content=body, headers=given)
    assert (response.status_code, response.json()["error"]["reason"]) == (400, "invalid_data")


def test_a_body_that_is_announced_as_too_large(service: Service) -> None:
    body = with_data(b" " * PUBLISH_BYTES + b"1")
    told(raw(service, HEAD + b"Content-Length: %d\r\n\r\n" % len(body), body), "too_large")


def test_a_chunked_body_that_grows_too_large(service: Service) -> None:
    chunk = b" " * 16_384
    chunks = [b"%x\r\n%s\r\n" % (len(chunk), chunk)] * (PUBLISH_BYTES // len(chunk) + 1)
    told(
        raw(service, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"),
        "too_large",
    )


def test_a_chunked_body_that_fits_is_read(service: Service) -> None:
    chunks = [b'8\r\n{"data":\r\n', b"2\r\n1}\r\n", b"0\r\n\r\n"]
    answer = raw(service, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *chunks)
    told(answer, "invalid_channel")


def test_two_keys_in_one_request_are_refused(service: Service) -> None:
    """It must not depend on the rim which one is used: two keys together are a wrong key."""
    body = publish()
    head = HEAD + b"X-API-Key: other\r\nContent-Length: %d\r\n\r\n" % len(body)
    response = raw(service, head, body)
    if not response.startswith(b"HTTP/1.1 400 "):  # the endpoint ignores them
        told(response, "unauthorized")


def test_two_content_types_in_one_request_are_refused(service: Service) -> None:
    body = publish()
    head = HEAD + b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
    told(raw(service, head, body), "unsupported_media_type")


def test_a_cross_site_form_publishes_nothing(service: Service) -> None:
    """CSRF: a page can send this without a preflight, with cookies, but without X-API-Key."""
    given = {"Origin": "https://evil.example", "Content-Type": "text/plain", "Cookie": "a=b"}
    response = httpx.post(f"{service.http}/api/publish", content=publish(), headers=given)
    assert response.status_code == 401
    assert "access-control-allow-origin" not in response.headers


def test_head_gets_a_status_without_a_body(service: Service) -> None:
    response = httpx.head(f"{service.http}/api/publish", headers={"X-API-Key": "test-key"})
    assert (response.status_code, response.content) == (405, b"")


SMUGGLED = {
    "CL and TE": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a length with a plus": b"Content-Length: +2\r\n\r\n{}",
    "a length in words": b"Content-Length: two\r\n\r\n{}",
    "a folded header": b"X-A: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "a space before the colon": b"Content-Length : 2\r\n\r\n{}",
    "a vertical tab": b"X-A: a\x0bContent-Length: 9\r\nContent-Length: 2\r\n\r\n{}",
    "a NUL": b"X-A: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "a bare CR": b"X-A: a\rX-B: b\r\nContent-Length: 2\r\n\r\n{}",
    "a bad chunk": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "an unknown coding": b"Transfer-Encoding: chunked, x\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("rest", SMUGGLED.values(), ids=SMUGGLED)
def test_request_smuggling(service: Service, rest: bytes) -> None:
    """Whatever the server makes of it, it answers with a 4xx, and only once."""
    answer = raw(service, HEAD + rest + b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer
    assert b'"alive"' not in answer


FORGED = "\r\n127.0.0.1:1 - - [now] FORGED LINE \x1b[31m"


def test_log_injection(service: Service) -> None:
    """A log line whose beginning an attacker chooses would be forged evidence (CWE-117)."""
    quoted = "".join(f"%{byte:02x}" for byte in FORGED.encode())
    url = f"{service.http}/api/"
    given = {"X-API-Key": "test-key", "Content-Type": "application/json"}
    known = service.log.count("\n")
    httpx.post(f"{url}{quoted}", headers=given)
    httpx.post(f"{url}x/{quoted}", headers=given)
    httpx.post(f"{url}publish?{quoted}", headers=given, content=publish(channel=FORGED))
    httpx.post(f"{url}publish", headers=given, content=publish(event=FORGED))
    httpx.post(f"{url}publish", headers=given, content=publish(**{FORGED: 1}))
    httpx.post(f"{url}publish", headers=given, content=publish(tags={"a": FORGED * 20}))
    httpx.post(f"{url}publish", headers={**given, "User-Agent": "x FORGED LINE"}, content=b"")
    if service.server != DEPLOYED:  # that has no access log
        eventually_sync(lambda: service.log.count("\n") >= known + 7)
    for line in service.log.splitlines():
        assert not line.startswith("127.0.0.1:1 - - [now] FORGED")
        assert "\x1b[31m" not in line


def test_a_client_disconnects_while_sending_its_body(service: Service) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", service.port)) as peer:
            peer.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"channel":')
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert service.is_alive()


@reads_bodies_itself
def test_a_wrong_key_is_refused_before_the_body_arrives(service: Service) -> None:
    """Otherwise a client without a key could make us buffer a megabyte per connection."""
    head = HEAD.replace(b"test-key", b"wrong").replace(b"publish", b"batch")
    told(raw(service, head + b"Content-Length: 1000000\r\n\r\n"), "unauthorized")


@reads_bodies_itself
def test_a_slow_body_is_answered_with_408(service: Service) -> None:
    """Slowloris in the body; nginx in front would stop it too, but not every host has one."""
    told(raw(service, HEAD + b'Content-Length: 100\r\n\r\n{"channel":'), "request_timeout")


@pytest.mark.parametrize("n", range(3))
def test_a_server_survives_random_bytes(service: Service, n: int) -> None:
    raw(service, secrets.token_bytes(2000) + b"\r\n\r\n")
    assert service.is_alive()
