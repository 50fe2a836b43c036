"""Attacks without credentials, or with stolen ones."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from websockets import InvalidStatus

from tests.support.client import Client
from tests.support.overheard import overheard
from tests.support.raw import Raw, asked, handshake, request, status_of
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, KEY, Service
from tests.threats.conftest import ORIGIN, TOKEN_SECRET, Target

Attach = Callable[..., Awaitable[Client]]

# --- 1: cross-site WebSocket hijacking ---

FOREIGN = {
    "another site": "https://evil.example",
    "null": "null",
    "nothing": "",
    "ours as its beginning": f"{ORIGIN}.evil.example",
    "ours as its end": "https://evil-app.example.com",
    "a name below ours": "https://x.app.example.com",
    "the name above ours": "https://example.com",
    "another port": f"{ORIGIN}:8443",
    "another scheme": "http://app.example.com",
    "a scheme of its own": "app://app.example.com",
    "a user": "https://app.example.com@evil.example",
    "ours as a user": "https://evil.example@app.example.com",
    "a path": f"{ORIGIN}/",
    "a query": f"{ORIGIN}?",
    "a fragment": f"{ORIGIN}#https://evil.example",
    "two in one": f"{ORIGIN} https://evil.example",
    "two with a comma": f"{ORIGIN}, https://evil.example",
    "a file": "file://",
    "an extension": "chrome-extension://abcdefghijklmnop",
    "a script": "javascript:alert(1)",
    "another port of our host": "http://127.0.0.1:1",
    "our host without its port": "http://127.0.0.1",
    "localhost": "http://localhost:{port}",
    "our address as a number": "http://2130706433:{port}",
    "our address in IPv6": "http://[::1]:{port}",
    "our address as a name": "http://127.0.0.1.evil.example:{port}",
    "wide dots": "http://127\u30020\u30020\u30021:{port}",
    "a homoglyph": "https://\u0430pp.example.com",
    "punycode": "https://xn--pp-7kc.example.com",
    "a port beyond all": f"{ORIGIN}:99999",
    "a port in letters": f"{ORIGIN}:https",
}


@pytest.mark.parametrize("origin", FOREIGN.values(), ids=FOREIGN)
def test_a_page_of_another_site_opens_a_websocket_with_our_cookie(
    target: Target, origin: str
) -> None:
    origin = origin.format(port=target.port)
    attempt = handshake(
        f"Origin: {origin}", "Cookie: sessionid=victim", host=f"127.0.0.1:{target.port}"
    )
    answer = asked(target.port, attempt)
    assert status_of(answer) == 403, answer


@pytest.mark.parametrize("own", [ORIGIN, "http://127.0.0.1:{port}"])
def test_allowed_pages_connect(target: Target, own: str) -> None:
    """Otherwise everybody would be refused above, and for another reason."""
    host = f"127.0.0.1:{target.port}"
    own = own.format(port=target.port)
    with Raw(target.port) as peer:
        assert status_of(peer.send(handshake(f"Origin: {own}", host=host)).head()) == 101


SMUGGLED = {
    "two, ours first": [f"Origin: {ORIGIN}", "Origin: https://evil.example"],
    "two, ours last": ["Origin: https://evil.example", f"Origin: {ORIGIN}"],
    "twice ours": [f"Origin: {ORIGIN}", f"Origin: {ORIGIN}"],
    "another case": [f"ORIGIN: {ORIGIN}", "origin: https://evil.example"],
    "a vertical tab": [f"X-A: a\x0bOrigin: {ORIGIN}", "Origin: https://evil.example"],
    "a form feed": [f"X-A: a\x0cOrigin: {ORIGIN}", "Origin: https://evil.example"],
    "a file separator": [f"X-A: a\x1cOrigin: {ORIGIN}", "Origin: https://evil.example"],
    "a next line": [f"X-A: a\udc85Origin: {ORIGIN}", "Origin: https://evil.example"],
    "a tab after the name": [f"Origin\t: {ORIGIN}", "Origin: https://evil.example"],
    "a folded line": [f"Origin: https://evil.example\r\n {ORIGIN}"],
    "a bare CR": [f"Origin: https://evil.example\rOrigin: {ORIGIN}"],
}


@pytest.mark.parametrize("headers", SMUGGLED.values(), ids=SMUGGLED)
def test_a_page_of_another_site_smuggles_a_second_origin(
    target: Target, headers: list[str]
) -> None:
    answer = asked(target.port, handshake(*headers))
    assert status_of(answer) in {400, 403}, answer


def test_a_page_on_a_foreign_name_for_our_address_opens_a_websocket(target: Target) -> None:
    """DNS rebinding: for the browser, the page and the service have the same origin."""
    host = f"evil.example:{target.port}"
    answer = asked(target.port, handshake(f"Origin: http://{host}", host=host))
    assert status_of(answer) == 403, answer


def test_an_http_page_opens_a_websocket_of_an_https_site(target: Target) -> None:
    """An attacker on the network forges the page; the handshake itself goes through the proxy."""
    host = f"127.0.0.1:{target.port}"
    by_proxy = "X-Forwarded-Proto: https"
    answer = asked(target.port, handshake(f"Origin: http://{host}", by_proxy, host=host))
    assert status_of(answer) == 403, answer
    with Raw(target.port) as peer:
        own = handshake(f"Origin: https://{host}", by_proxy, host=host)
        assert status_of(peer.send(own).head()) == 101


# --- 2, 18: publishing without permission ---

BODIES = {
    "publish": {"channel": "public:stolen", "data": 1},
    "broadcast": {"channels": ["public:stolen"], "data": 1},
    "batch": {"commands": [{"publish": {"channel": "public:stolen", "data": 1}}]},
}
NO_KEYS = {
    "none": {},
    "an empty one": {"X-API-Key": ""},
    "another one": {"X-API-Key": "guess"},
    "half of it": {"X-API-Key": "test"},
    "more than it": {"X-API-Key": "test-key2"},
    "in capitals": {"X-API-Key": "TEST-KEY"},
    "its digest": {"X-API-Key": "62af8704764faf8ea82fc61ce9c4c3908b6cb97d463a634e9e587d7c885db0ef"},
    "as a cookie": {"Cookie": "X-API-Key=test-key; api_key=test-key"},
    "as a form of basic": {"Authorization": "Basic " + base64.b64encode(b"test-key:").decode()},
    "with an underscore": {"X_API_Key": "test-key"},
    "two of them": {"X-API-Key": "test-key, test-key"},
}


@pytest.mark.parametrize("given", NO_KEYS.values(), ids=NO_KEYS)
def test_a_stranger_without_a_key_publishes(target: Target, given: dict[str, str]) -> None:
    with overheard(target.redis) as told, httpx.Client(base_url=target.http) as http:
        for method, body in BODIES.items():
            answer = http.post(f"/api/{method}", json=body, headers=given)
            assert answer.status_code == 401, answer.text
            assert answer.json()["error"]["reason"] == "unauthorized"
            assert "www-authenticate" in answer.headers
    assert not [command for command in told if "stolen" in command]


def test_a_key_is_sent_in_the_url(target: Target) -> None:
    """Every proxy along the path logs URLs, so a key in a URL must not even work."""
    for name, status in {"api_key": 400, "X-API-Key": 400, "token": 400, "key": 401}.items():
        query = {name: "test-key"}
        answer = httpx.post(f"{target.http}/api/publish", params=query, json=BODIES["publish"])
        assert answer.status_code == status
        if status == 400:  # a developer who tries this must replace the key immediately
            assert answer.json()["error"]["reason"] == "token_in_url"


FORMS = {
    "text": "text/plain",
    "a form": "application/x-www-form-urlencoded",
    "a multipart form": "multipart/form-data; boundary=x",
    "no type": "",
    "a blob that says JSON first": "text/plain; application/json",
}


@pytest.mark.parametrize("kind", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("key", [{}, KEY], ids=["no key", "a key"])
def test_a_form_on_another_site_publishes(target: Target, kind: str, key: dict[str, str]) -> None:
    """CSRF: any page can make a browser send this, with our cookies."""
    given = {"Content-Type": kind, "Origin": "https://evil.example", "Cookie": "sessionid=victim"}
    with overheard(target.redis) as told:
        answer = httpx.post(
            f"{target.http}/api/publish", content=json.dumps(BODIES["publish"]), headers=given | key
        )
    assert answer.status_code in {401, 403, 415}
    assert not [command for command in told if "stolen" in command]


def test_a_page_of_another_site_asks_whether_it_may_publish(target: Target) -> None:
    """Allowing the preflight would undo the protection of the content type."""
    asks = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key,content-type",
    }
    for path in ("/api/publish", "/", "/readyz"):
        answer = httpx.options(target.http + path, headers=asks)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


# --- 3: enumeration ---

CHANNELS = {
    "a closed one that exists": "closed",
    "a closed one that does not": "never-used",
    "a namespace that does not exist": "nothing:here",
    "another user's": "news#42",
    "another user's in a public namespace": "public:news#42",
    "a user's who does not exist": "news#no-such-user",
    "two users'": "talk#1,2",
}


async def test_a_stranger_asks_which_channels_exist(target: Target, attach: Attach) -> None:
    target.publish("closed", "there is something here")
    client = await attach(target)
    answers = [
        json.dumps((await client.ask(subscribe={"channel": channel}))["error"])
        for channel in CHANNELS.values()
    ]
    assert len(set(answers)) == 1, answers
    assert json.loads(answers[0])["code"] == 103


async def test_a_stranger_asks_for_lists_of_channels_and_people(
    target: Target, attach: Attach
) -> None:
    client = await attach(target)
    for method in (
        "presence",
        "presence_stats",
        "history",
        "rpc",
        "channels",
        "connections",
        "info",
    ):
        reply = await client.ask(**{method: {"channel": "public:news"}})
        assert reply["error"]["code"] in {103, 104, 108}, reply
    for method in ("channels", "connections", "presence", "presence_stats", "history", "info"):
        answer = await asyncio.to_thread(asked, target.port, request("POST", f"/api/{method}"))
        assert status_of(answer) in {401, 404}, answer


# --- 4, 5: tokens ---


async def test_a_token_in_the_url_is_taken_for_an_identity(target: Target, attach: Attach) -> None:
    good = jwt.encode({"sub": "42", "exp": time.time() + 60}, TOKEN_SECRET, "HS256")
    for name in ("token", "access_token", "jwt"):
        with pytest.raises(InvalidStatus) as told:
            await Client.open(f"{target.ws}?{name}={good}")
        assert told.value.response.status_code == 400
    client = await Client.open(f"{target.ws}?connect={good}")
    refused = await client.ask(subscribe={"channel": "news#42"})
    assert refused["error"]["code"] == 103
    await client.close()
    assert good not in target.log
    shown = await attach(target, connect=False)
    await shown.ask(connect={"token": good})
    await shown.next()
    await shown.subscribe("news#42")


@pytest.fixture(scope="module")
def pair() -> tuple[bytes, bytes]:
    """A private key and its public key, as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    plain = serialization.NoEncryption()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public


@pytest.fixture(scope="module")
def strict(pair: tuple[bytes, bytes], redis_server: RedisServer) -> Iterator[Target]:
    """A service that has a public key and requires an audience."""
    _, public = pair
    target = Target(
        redis_server,
        NOTIFIER_TOKEN_PUBLIC_KEY=public.decode(),
        NOTIFIER_TOKEN_AUDIENCE="us",
    )
    target.start()
    yield target
    target.stop()


def forged(pair: tuple[bytes, bytes]) -> dict[str, str]:
    """Return tokens that are invalid, each for a different reason."""
    private, public = pair
    claims: dict[str, Any] = {"sub": "42", "exp": time.time() + 60, "aud": "us"}
    without = {name: {**claims} for name in claims}
    for name, rest in without.items():
        del rest[name]

    def signed(key: Any = TOKEN_SECRET, alg: str = "HS256", **changed: Any) -> str:
        headers = changed.pop("headers", None)
        return jwt.encode({**claims, **changed}, key, alg, headers=headers)

    head, body, signature = signed().split(".")

    def written(part: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")

    return {
        "not signed": f"{written({'alg': 'none'})}.{body}.",
        "not signed, in capitals": f"{written({'alg': 'NONE'})}.{body}.",
        "not signed, with a signature": f"{written({'alg': 'none'})}.{body}.{signature}",
        "signed with the public key as a secret": _hs256(claims, public),
        "signed with a key that it brings": signed(
            "x" * 32, headers={"jwk": {"kty": "oct", "k": "eHh4eA"}}
        ),
        "signed with a key from an address": signed(
            "x" * 32, headers={"jku": "http://127.0.0.1:1/keys", "kid": "../../../dev/null"}
        ),
        "signed with another secret": signed("another secret, which is as long as ours and not it"),
        "signed with nothing": _hs256(claims, b""),
        "of another algorithm of the same key": signed(alg="HS384"),
        "of a private key with another algorithm": signed(private, "PS256"),
        "another body": f"{head}.{written(claims | {'sub': '1'})}.{signature}",
        "without an end": jwt.encode(without["exp"], TOKEN_SECRET, "HS256"),
        "for nobody's audience": jwt.encode(without["aud"], TOKEN_SECRET, "HS256"),
        "for another audience": signed(aud="them"),
        "not yet valid": signed(nbf=time.time() + 3600),
        "valid until the end of time": signed(exp=1e300),
        "valid until true": signed(exp=True),
        "of a user who is a list": _hs256(claims | {"sub": ["42"]}, TOKEN_SECRET.encode()),
        "of a user who is a number": _hs256(claims | {"sub": 42}, TOKEN_SECRET.encode()),
        "a subscription token": signed(channel="public:news"),
        "no token": "x.y.z",
        "half a token": head,
        "a very long token": "x" * 70_000,
    }


def _hs256(claims: dict[str, Any], key: bytes) -> str:
    """Sign in a way that PyJWT itself refuses."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    text = part(b'{"alg":"HS256"}') + b"." + part(json.dumps(claims).encode())
    return (text + b"." + part(hmac.digest(key, text, hashlib.sha256))).decode()


async def test_a_forged_token_is_shown(
    strict: Target, pair: tuple[bytes, bytes], attach: Attach
) -> None:
    for kind, token in forged(pair).items():
        client = await attach(strict, connect=False)
        await client.tell(connect={"token": token})
        assert (await client.closed())[0] == 3500, kind
        subscriber = await attach(strict)
        refused = await subscriber.ask(subscribe={"channel": "closed", "token": token})
        assert refused["error"]["code"] == 103, kind
    private, _ = pair
    for key, algorithm in ((TOKEN_SECRET, "HS256"), (private, "RS256")):  # or all was refused
        claims = {"sub": "42", "exp": time.time() + 60, "aud": "us"}
        honest = await attach(strict, connect=False)
        assert "connect" in await honest.ask(connect={"token": jwt.encode(claims, key, algorithm)})


async def test_a_token_is_replayed_after_it_expired(strict: Target, attach: Attach) -> None:
    old = jwt.encode({"sub": "42", "exp": time.time() - 6, "aud": "us"}, TOKEN_SECRET, "HS256")
    client = await attach(strict, connect=False)
    assert (await client.ask(connect={"token": old}))["error"]["code"] == 109
    refused = await client.ask(subscribe={"channel": "public:news"})
    assert refused["error"]["code"] == 101


# --- 17: publishing over the WebSocket ---


async def test_a_client_publishes_where_it_may_only_listen(target: Target, attach: Attach) -> None:
    """One publish causes as many deliveries as there are listeners, so it is off by default."""
    client = await attach(target)
    await client.subscribe("public:news")
    with overheard(target.redis) as told:
        for channel in ("public:news", "closed", "nothing:here", "news#42", "chat:not-joined"):
            reply = await client.ask(publish={"channel": channel, "data": "amplified"})
            assert reply["error"]["code"] == 103, reply
    assert not [command for command in told if "amplified" in command]


# --- 36: public endpoints ---

DOORS = [
    *("/admin/", "/admin/login/", "/metrics", "/debug", "/debug/pprof/", "/server-status"),
    *("/.env", "/.git/config", "/.run/service.json", "/manage.py", "/static/../notifier/env.py"),
    *("/static/%2e%2e/notifier/env.py", "/static/..%2fnotifier/env.py", "/static/", "/static"),
    *("/api", "/api/", "/api/info", "/api/channels", "/api/publish", "/api/batch", "/api/x/y"),
    *("/api/../livez", "//api/publish", "/API/publish", "/api/publish/", "/graphql", "/openapi"),
    *("/connection/websocket", "/connection/sse", "/connection/emulation", "/emulation"),
    *("/connection/http_stream", "/connection/sockjs", "/connection", "/monitor/", "/swagger"),
    *("/monitor/state", "/monitor/letters", "/monitor/retry", "/monitor/purge"),
    *("/livez/", "/readyz/", "/health", "/__debug__/", "/silk/", "/media/", "/favicon.ico"),
    *("/console/", "/console", "/console/disconnect"),
    *("/chat/..%2f..%2fetc%2fpasswd/", "/chat/%00/", "/%ff", "/chat/LOBBY/", "/" + "a" * 4000),
]
PREFLIGHTED = ["/connection/http_stream", "/emulation"]
OPEN = [
    "/docs/",
    "/api/openapi.json",
    "/api/asyncapi.json",
    "/",
    "/chat/",
    "/chat/tea/",
    "/manifest.webmanifest",
    "/service-worker.js",
    "/livez",
    "/readyz",
]


@pytest.mark.parametrize("verb", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "X"])
def test_a_scanner_tries_every_endpoint(target: Target, verb: str) -> None:
    for path in [*DOORS, *OPEN]:
        answer = asked(target.port, request(verb, path, "X-Canary: c4n4ry", "Cookie: a=c4n4ry"))
        allowed = {301, 302, 400, 401, 403, 404, 405, 426} | ({200} if path in OPEN else set())
        if verb == "OPTIONS" and path in PREFLIGHTED:
            allowed.add(204)
        assert status_of(answer) in allowed, (verb, path, answer[:300])
        for word in (b"traceback", b"django", b"site-packages", b"uvicorn", b"c4n4ry"):
            if word == b"django" and path in ("/", "/docs/"):
                continue  # one of the languages of their samples
            assert word not in answer.lower(), (verb, path, answer)


def test_a_scanner_learns_about_users_from_the_probes(target: Target) -> None:
    """A load balancer learns whether to send traffic; nobody learns about users or channels."""
    known = {"status", "connections", "lag_ms", "reason"}
    for path in ("/livez", "/readyz"):
        assert set(httpx.get(target.http + path).json()) <= known


async def test_a_stranger_writes_in_an_unconfigured_chat(
    redis_server: RedisServer, serve: Callable[..., Service], attach: Attach
) -> None:
    """The chat belongs to the demo; a deployed service has none unless it is configured."""
    service = await asyncio.to_thread(
        serve, redis_server.url, DEPLOYED, NOTIFIER_NAMESPACES="", HTTPS="0"
    )
    client = await attach(service)
    for channel in ("chat:lobby", "typing:lobby"):
        assert (await client.ask(subscribe={"channel": channel}))["error"]["code"] == 103
        said = await client.ask(publish={"channel": channel, "data": "buy this"})
        assert said["error"]["code"] == 103
        answer = await asyncio.to_thread(
            service.post, "publish", {"channel": channel, "data": "buy this"}
        )
        assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "invalid_channel")
    page = await asyncio.to_thread(httpx.get, f"{service.http}/chat/")
    assert (page.status_code, "Chat is disabled" in page.text) == (404, True)
