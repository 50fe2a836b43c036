"""Recognisable secrets must not appear in anything that the service outputs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from websockets import ConnectionClosed, InvalidStatus

from tests.support.client import Client
from tests.support.database import manage, migrated_url
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service, needs_proc

ROOT = Path(__file__).resolve().parents[2]
Attach = Callable[..., Awaitable[Client]]


class Marks:
    """Creates secrets, and finds them again."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}

    def secret(self, what: str, length: int = 56) -> str:
        return self.mark(what, secrets.token_hex(length // 2))

    def mark(self, what: str, secret: str) -> str:
        self.made[what] = secret
        return secret

    def token(self, what: str, key: str, **claims: Any) -> str:
        """Return a token; its header is not secret, but the rest is."""
        whole = jwt.encode({"sub": "42", "exp": time.time() + 60, **claims}, key, "HS256")
        _, claimed, signature = whole.split(".")
        self.mark(f"{what}: claims", claimed)
        self.mark(f"{what}: signature", signature)
        return whole

    def found_in(self, text: str) -> list[str]:
        """Return the secrets in a text, either whole or their most characteristic half."""
        return [what for what, secret in self.made.items() if secret[: len(secret) // 2] in text]


@pytest.fixture
def marks() -> Marks:
    return Marks()


def test_a_leaked_secret_is_found(marks: Marks) -> None:
    """This proves that the tests below can fail."""
    key = marks.secret("key")
    token = marks.token("token", key)
    assert marks.found_in(f"… {key} …") == ["key"]
    assert marks.found_in(f"shortened: {token[:-20]}…") == ["token: claims", "token: signature"]
    assert marks.found_in("nothing") == []


# --- a service that is used, attacked and broken ---


class Said:
    """All responses of the service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.texts: list[str] = []

    async def ask(self, method: str, path: str, status: int | None = None, **kwargs: Any) -> None:
        async with httpx.AsyncClient(base_url=self._service.http, timeout=60) as client:
            response = await client.request(method, path, **kwargs)
        self.texts.append(response.text + str(response.headers.get("location", "")))
        assert status in (None, response.status_code), (path, response.status_code, response.text)

    async def shown(self, attach: Attach, token: str, then: str = "") -> None:
        """Send a token at connect, and another one at refresh; record the replies."""
        client = await attach(self._service, connect=False)
        await client.tell(connect={"token": token})
        if then:
            self.texts.append(json.dumps(await client.next()))
            await client.next()
            await client.tell(refresh={"token": then})
        try:
            self.texts.append(json.dumps(await client.next()))
        except ConnectionClosed as closed:
            self.texts.append(str(closed))


def command_lines(pid: int) -> str:
    """Return the titles and arguments of a process and all of its descendants."""
    texts = [
        Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8") for name in ("cmdline", "comm")
    ]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return " ".join([*texts, *(command_lines(int(child)) for child in children)])


@needs_proc
async def test_no_secret_is_ever_exposed(
    own_redis: RedisServer,
    serve: Callable[..., Service],
    attach: Attach,
    marks: Marks,
    tmp_path: Path,
) -> None:
    key, token_secret = marks.secret("API key"), marks.secret("token secret")
    password, redis_password = marks.secret("a user's password"), marks.secret("Redis password")
    with own_redis.client() as admin:
        admin.config_set("requirepass", redis_password)
    (tmp_path / "redis").write_text(f"unix://:{redis_password}@{own_redis.socket}\n")
    (tmp_path / "key").write_text(key)
    database = f"sqlite:///{tmp_path / 'users.sqlite3'}"
    session = await asyncio.to_thread(_logged_in, database, password, marks)
    service = await asyncio.to_thread(
        serve,
        "",
        DEPLOYED,
        REDIS_URL_FILE=str(tmp_path / "redis"),
        NOTIFIER_API_KEY="",
        NOTIFIER_API_KEY_FILE=str(tmp_path / "key"),
        NOTIFIER_TOKEN_SECRET=token_secret,
        NOTIFIER_TOKEN_AUDIENCE="notifier",
        SECRET_KEY=session.secret_key,
        DATABASE_URL=database,
        HTTPS="0",
    )
    said = Said(service)
    titles = await asyncio.to_thread(command_lines, service.pid)

    good = {"X-API-Key": key}
    body = {"channel": "public:news", "data": 1}
    await said.ask("POST", "/api/publish", 200, json=body, headers=good)
    await said.ask("GET", "/", 200, headers={"Cookie": f"sessionid={session.cookie}"})
    await said.ask("GET", "/livez", 200)
    await said.ask("GET", "/readyz", 200)
    assert not re.search("ada|42", "".join(said.texts[-2:])), "probes tell nothing about users"

    wrong = {"X-API-Key": marks.secret("a wrong key")}
    await said.ask("POST", "/api/publish", 401, json=body, headers=wrong)
    await said.ask(
        "POST", "/api/publish", 401, json=body, headers={"Authorization": f"apikey {key}"}
    )
    await said.ask("POST", f"/api/publish?api_key={key}", 400, json=body)
    await said.ask("POST", "/api/publish", 400, content=f'{{"a": "{key}', headers=good | _JSON)
    await said.ask("POST", "/api/publish", 400, json={"api_key": key, "data": 1}, headers=good)
    await said.ask("GET", f"/{key}", 404)
    said.texts.pop()  # the page offers to log in and come back to this address; the log must not
    await said.ask("POST", "/login/", 403, data={"username": "ada", "password": password})

    expired = marks.token("expired", token_secret, exp=1, aud="notifier")
    forged = marks.token("forged", "x" * 40, aud="notifier")
    elsewhere = marks.token("elsewhere", token_secret, aud="others")
    fine = marks.token("fine", token_secret, aud="notifier")
    other = marks.token("somebody else's", token_secret, aud="notifier", sub="43")
    subscription = marks.token("subscription", token_secret, aud="notifier", channel="closed")
    for token in (expired, forged, elsewhere, fine[:-5], subscription, f"{fine}\n{key}"):
        await said.shown(attach, token)
    await said.shown(attach, fine, then=other)
    with pytest.raises(InvalidStatus) as refused:
        await Client.open(f"{service.ws}?token={fine}")
    assert refused.value.response.status_code == 400
    assert (refused.value.response.body or b"").startswith(b"token_in_url")
    said.texts.append(str(refused.value.response.body))
    await said.ask("POST", f"/api/publish?token={fine}", 400, json=body)

    await asyncio.to_thread(service.kill_worker)
    await eventually(lambda: asyncio.to_thread(service.is_live), seconds=20)
    titles += await asyncio.to_thread(command_lines, service.pid)
    await asyncio.to_thread(own_redis.kill)
    await eventually(lambda: "not live: " in service.log)
    await said.ask("POST", "/api/publish", 503, json=body, headers=good)
    await said.ask("GET", "/readyz", 503)
    await asyncio.to_thread(own_redis.start)
    with own_redis.client() as admin:
        admin.config_set("requirepass", marks.secret("another password"))
    await eventually(lambda: "invalid username-password pair" in service.log, seconds=20)
    await said.ask("POST", "/api/publish", 503, json=body, headers=good)
    await said.ask("GET", "/readyz", 503)
    service.terminate()
    await asyncio.to_thread(service.wait, 30)

    log = service.log
    assert "refused a token" in log
    assert "a worker exited" in log
    assert marks.found_in(log) == []
    assert [text for text in said.texts if marks.found_in(text)] == []
    assert marks.found_in(titles) == []


_JSON = {"Content-Type": "application/json"}


class _LoggedIn:
    def __init__(self, secret_key: str, cookie: str) -> None:
        self.secret_key, self.cookie = secret_key, cookie


def _logged_in(database: str, password: str, marks: Marks) -> _LoggedIn:
    """Make a user with a session."""
    secret_key = marks.secret("SECRET_KEY")
    code = (
        "import sys; from django.core.management import call_command;"
        "call_command('migrate', verbosity=0);"
        "from django.contrib.auth.models import User; from django.test import Client;"
        f"user = User.objects.create_user('ada', password='{password}'); client = Client();"
        "client.force_login(user); print(client.cookies['sessionid'].value)"
    )
    printed = manage(database, "shell", "--no-imports", "--command", code, SECRET_KEY=secret_key)
    return _LoggedIn(secret_key, marks.mark("session", printed.strip()))


# --- invalid settings ---


def private_pem() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem.decode()


def private_jwks() -> str:
    key = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    return json.dumps({"keys": [{**key, "kid": "mine"}]})


def body_of(pem: str) -> str:
    return pem.splitlines()[1]


MISTAKES: dict[str, Callable[[Marks], dict[str, str]]] = {
    "a short key": lambda m: {"SECRET_KEY": m.secret("x", 40)},
    "a short fallback": lambda m: {"SECRET_KEY_FALLBACKS": m.secret("x", 40)},
    "a short token secret": lambda m: {"NOTIFIER_TOKEN_SECRET": m.secret("x", 30)},
    "two lines of a key": lambda m: {"NOTIFIER_API_KEY": f"a\n{m.secret('x')}"},
    "no scheme": lambda m: {"REDIS_URL": f"user:{m.secret('x')}@redis:6379"},
    "another scheme": lambda m: {"REDIS_URL": f"http://:{m.secret('x')}@redis:6379"},
    "no port": lambda m: {"REDIS_URL": f"redis://:{m.secret('x')}@redis:port"},
    "a password with a slash": lambda m: {"REDIS_URL": f"redis://:/{m.secret('x')}@redis:1"},
    "no option of ours": lambda m: {"REDIS_URL": f"redis://:{m.secret('x')}@127.0.0.1?max=1"},
    "a database's password": lambda m: {"DATABASE_URL": f"mysql://a:{m.secret('x')}@db/a"},
    "a database's port": lambda m: {"DATABASE_URL": f"postgres://a:{m.secret('x')}@db:port/a"},
    "a private key": lambda m: {"NOTIFIER_TOKEN_PUBLIC_KEY": _marked(m, private_pem(), body_of)},
    "a private key in a set": lambda m: {
        "NOTIFIER_TOKEN_JWKS": _marked(m, private_jwks(), lambda s: json.loads(s)["keys"][0]["d"])
    },
    "a set that is a secret": lambda m: {"NOTIFIER_TOKEN_JWKS": m.secret("x")},
    "keys that are secrets": lambda m: {
        "NOTIFIER_API_KEYS": json.dumps([{"name": "a", "sha256": m.secret("x")}])
    },
    "keys that are one secret": lambda m: {"NOTIFIER_API_KEYS": m.secret("x")},
    "namespaces that are a secret": lambda m: {"NOTIFIER_NAMESPACES": m.secret("x")},
}


def _marked(marks: Marks, text: str, secret: Callable[[str], str]) -> str:
    marks.mark("x", secret(text))
    return text


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_wrong_setting_is_named_and_not_shown(
    mistake: Callable[[Marks], dict[str, str]], marks: Marks
) -> None:
    environ = {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "NOTIFIER_API_KEY": secrets.token_urlsafe(24),
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DATABASE_URL": migrated_url(),
        "ALLOWED_HOSTS": "127.0.0.1",
    }
    wrong = mistake(marks)
    for command in (["manage.py", "check"], ["-m", "notifier", "serve"]):
        ran = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT, env={"PATH": os.environ["PATH"], "PORT": "0", **environ, **wrong},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        said = ran.stdout + ran.stderr
        assert ran.returncode != 0, said
        assert marks.found_in(said) == [], said
        [variable] = wrong
        assert re.search(variable.replace("NOTIFIER_", "(NOTIFIER|REALTIME)_?"), said), said


# --- the repository ---

LOOKS_SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s*[A-Za-z0-9+/=]{20}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|\bxox[abprs]-[0-9A-Za-z-]{10,}"
    r"|\bsk_live_[0-9A-Za-z]{16,}|\bAIza[0-9A-Za-z_-]{35}|\bglpat-[0-9A-Za-z_-]{20}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"
)


def test_the_repository_contains_no_secrets() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no clone")
    found = [
        f"{name}: {match[0][:12]}…"
        for name in listed.stdout.split("\0")
        if name and (ROOT / name).is_file()
        for match in LOOKS_SECRET.finditer((ROOT / name).read_text(errors="replace"))
    ]
    assert found == []


def test_the_search_for_secrets_finds_planted_ones(marks: Marks) -> None:
    for secret in (private_pem(), marks.token("a", "k" * 40), "ghp_" + "a" * 36):
        assert LOOKS_SECRET.search(secret)
