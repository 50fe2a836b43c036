"""``python -m notifier``: its help, wrong use, tokens and keys, as real processes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from notifier.command_help import PAGES
from notifier.env import VARIABLES
from realtime import __version__
from realtime.api.keys import BY_DEFAULT, KEY_METHODS
from tests.support.client import Client
from tests.support.keys import entry
from tests.support.operators_command import ROOT, notifier
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service

DOCS = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
TOKEN_SECRET = "5f0e6a1c9b8d47723e1fa4c0d96b58e2"
CLAIMS = {"NOTIFIER_TOKEN_SECRET": TOKEN_SECRET}


@pytest.mark.parametrize("command", PAGES, ids=lambda command: command or "the program")
def test_the_documentation_shows_what_help_prints(command: str) -> None:
    printed = notifier(*command.split(), "--help")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert f"```\n{printed.stdout}```" in DOCS
    assert max(map(len, printed.stdout.splitlines())) <= 95


def test_help_lists_the_variables_of_the_service() -> None:
    named = set(re.findall(r"^  ([A-Z][A-Z_]+(?:, [A-Z]+)?)  ", PAGES["serve"], re.M))
    told = {name for names in named for name in names.split(", ")}
    internal = {"NOTIFIER_DEMO_KEY", "NOTIFIER_URL", "NOTIFIER_RUN_DIR"}
    read = {name for name in VARIABLES if not name.endswith("_FILE")}
    assert told | internal == read | {"FORWARDED_ALLOW_IPS"}


def test_help_of_keys_names_the_methods_that_are_the_default() -> None:
    assert f"({' '.join(BY_DEFAULT)})" in PAGES["keys create"]


def test_version_names_what_the_service_runs_on() -> None:
    printed = notifier("--version")
    assert printed.returncode == 0
    python = ".".join(map(str, sys.version_info[:3]))
    assert printed.stdout.startswith(f"notifier {__version__} (Python {python}, Django ")


WRONG = [
    "",
    "serv",
    "serve now",
    "serve --port 8001",
    "run --stop",
    "check --jsn",
    "token",
    "token ada --expires 0",
    "token ada --expires 1e3",
    "token ada --expires 99999999",
    "token ada --channel",
    "keys",
    "keys show",
    "keys create",
    "keys create shop --rate fast",
    "keys create shop --methods",
    "keys check",
    "keys check a b",
]


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_use_gets_one_sentence(arguments: str) -> None:
    ran = notifier(*arguments.split())
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.fullmatch(r"notifier: .+: see `python -m notifier[a-z ]* --help`\.\n", ran.stderr)


def test_a_wrong_argument_in_several_lines_gets_one_line() -> None:
    ran = notifier("serve\n\nnotifier: all is fine")
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1


# --- token ---


async def test_a_token_connects_its_user_and_one_of_a_channel_subscribes_them(
    redis_server: RedisServer,
    serve: Callable[..., Service],
    attach: Callable[..., Awaitable[Client]],
) -> None:
    audience = {"NOTIFIER_TOKEN_AUDIENCE": "notifier"}
    closed = {"NOTIFIER_NAMESPACES": '{"closed": {}}'}
    service = serve(redis_server.url, DEPLOYED, **CLAIMS, **audience, **closed)
    made = notifier("token", "ada", "--expires", "60", **CLAIMS, **audience)
    assert made.returncode == 0, made.stderr
    assert made.stderr.count("\n") == 1
    assert '"connect":{"token":"…"}' in made.stderr
    assert made.stdout.strip() not in made.stderr
    of_channel = notifier("token", "ada", "--channel", "closed:7", **CLAIMS, **audience)
    client = await attach(service, connect=False)
    await client.ask(connect={"token": made.stdout.strip()})
    for _ in ("its personal channel", "the state"):
        await client.next()
    refused = await client.ask(subscribe={"channel": "closed:7"})
    assert refused["error"]["code"] == 103
    token = of_channel.stdout.strip()
    reply = await client.ask(subscribe={"channel": "closed:7", "token": token})
    assert "subscribe" in reply
    service.publish("user:#ada", "for ada")
    assert await client.data() == "for ada"


def test_a_token_without_a_secret_says_what_is_missing() -> None:
    ran = notifier("token", "ada")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("notifier: NOTIFIER_TOKEN_SECRET is missing: set the secret")
    assert ran.stderr.count("\n") == 1


def test_the_secret_of_tokens_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{TOKEN_SECRET}\n")
    made = notifier("token", "ada", NOTIFIER_TOKEN_SECRET_FILE=str(file))
    assert made.stdout.count(".") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ada", "--channel", "no such channel"], "channel"),
        (["service.1"], "they have a session"),
        (["x" * 10_000], "the token"),
    ],
)
def test_a_token_for_an_impossible_name_is_refused(arguments: list[str], said: str) -> None:
    ran = notifier("token", *arguments, **CLAIMS)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1


# --- keys ---


def test_a_key_is_created_listed_and_accepted(
    tmp_path: Path, redis_server: RedisServer, serve: Callable[..., Service]
) -> None:
    file = tmp_path / "keys.json"
    created = notifier(
        *("keys", "create", "shop", "--channels", "orders:*", "public:news"),
        *("--methods", "publish", "batch", "--rate", "100", "--file", str(file)),
    )
    assert created.returncode == 0, created.stderr
    secret = created.stdout.strip()
    assert notifier("keys", "create", "other", "--file", str(file)).returncode == 0
    several = {"NOTIFIER_API_KEYS": f"@{file}"}
    listed = notifier("keys", "list", NOTIFIER_API_KEY="the-only-one", **several)
    assert listed.returncode == 0, listed.stderr
    header, *rows = [re.split(r"  +", line) for line in listed.stdout.splitlines()]
    assert header == ["name", "methods", "channels", "rate", "fallbacks"]
    assert rows == [
        ["default", "all", "all", "no limit", "all"],
        ["shop", "publish batch", "orders:* public:news", "100/s", "none"],
        ["other", " ".join(BY_DEFAULT), "all", "no limit", "none"],
    ]
    digest = json.loads(file.read_text())[0]["sha256"]
    for hidden in (secret, digest, "the-only-one"):
        assert hidden not in listed.stdout
    checked = notifier("keys", "check", str(file))
    assert (checked.returncode, checked.stdout) == (0, f"{file}: 2 keys, all usable\n")

    service = serve(redis_server.url, DEPLOYED, **several)
    body = {"channel": "public:news", "data": 1}
    url, headers = f"{service.http}/api/publish", {"X-API-Key": secret}
    assert httpx.post(url, json=body, headers=headers, timeout=60).status_code == 200
    body["channel"] = "public:other"
    assert httpx.post(url, json=body, headers=headers, timeout=60).status_code == 403


def test_a_key_is_printed_with_its_entry() -> None:
    secret, said = notifier("keys", "create", "shop").stdout.splitlines()
    shop = json.loads(said)
    assert (shop["name"], shop["methods"]) == ("shop", list(BY_DEFAULT))
    assert secret not in said
    listed = notifier("keys", "list", "--json", NOTIFIER_API_KEYS=json.dumps([shop]))
    assert json.loads(listed.stdout) == [
        {"name": "shop", "methods": list(BY_DEFAULT), "channels": ["all"], "rate": None,
         "fallbacks": []},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["two words"], "name must be 1 to 64 characters"),
        (["shop", "--methods", "fly"], f"methods must be a list of any of {KEY_METHODS[0]}"),
        (["shop", "--rate", "nan"], "rate must be a number"),
        (["shop", "--file", "/nonexistent/keys.json"], "/nonexistent/keys.json"),
    ],
)
def test_a_key_that_cannot_be_created_says_why(arguments: list[str], said: str) -> None:
    ran = notifier("keys", "create", *arguments)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_each_unusable_entry_of_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    entries: list[Any] = [entry("good"), entry("bad", rate=0), entry("good"), 5]
    file.write_text(json.dumps(entries))
    checked = notifier("keys", "check", str(file))
    assert (checked.returncode, checked.stdout) == (1, "")
    assert [line.partition(": key ")[2][:1] for line in checked.stderr.splitlines()] == [
        *("2", "3", "4")
    ]
    assert entries[0]["sha256"] not in checked.stderr
    listed = notifier("keys", "list", str(file))
    assert listed.returncode == 1
    assert listed.stdout.splitlines()[1:] == [], "two entries with one name are both refused"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff", "cannot be read: it is not UTF-8"),
        (b"[", "is not JSON"),
        (b"{}", "must be a list of keys"),
    ],
)
def test_a_file_that_is_no_list_of_keys_is_refused(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_bytes(content)
    for command in (["check", str(file)], ["list", str(file)]):
        ran = notifier("keys", *command)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert said in ran.stderr
        assert ran.stderr.count("\n") == 1


def test_a_file_whose_keys_list_no_methods_is_usable_and_noticed(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([entry("shop", methods=None)]))
    checked = notifier("keys", "check", str(file))
    assert checked.returncode == 0
    assert "1 key, all usable" in checked.stdout
    assert "Set both lists for: shop" in checked.stderr
