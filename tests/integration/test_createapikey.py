"""`manage.py createapikey`: it prints a secret once, and the entry for the key file."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from realtime.api.keyring import Keyring
from realtime.api.keys import Key
from tests.support.command import ROOT, Command


def created(*arguments: str) -> list[str]:
    out = StringIO()
    call_command("createapikey", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue().splitlines()


def key(keys: Any, secret: str) -> Key:
    return Keyring(keys).admit(secret)


def test_it_prints_the_secret_and_the_entry() -> None:
    secret, entry = created("shop")
    assert len(secret) == 43, "256 bits"
    assert json.loads(entry).keys() == {"name", "sha256", "methods", "fallbacks"}
    assert json.loads(entry)["methods"] == ["publish", "broadcast", "batch"]
    assert json.loads(entry)["fallbacks"] == []
    assert key(f"[{entry}]", secret).name == "shop"
    assert created("shop")[0] != secret


def test_the_options_appear_in_the_entry() -> None:
    options = ["--channels", "orders:*", "public:news", "--methods", "publish", "--rate", "100"]
    secret, entry = created("shop", *options)
    fields = json.loads(entry)
    assert fields == {
        "name": "shop",
        "sha256": fields["sha256"],
        "channels": ["orders:*", "public:news"],
        "methods": ["publish"],
        "rate": 100,
        "fallbacks": [],
    }
    assert '"rate": 100,' in entry
    assert key([fields], secret).may_name("orders:1")


def test_a_new_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    [first] = created("shop", "--file", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [second] = created("till", "--rate", "0.5", "--file", str(path))
    assert key(f"@{path}", first).name == "shop"
    assert key(f"@{path}", second).rate == 0.5
    assert first not in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["keys.json"], "and nothing else is left"


def test_existing_file_permissions_are_kept(tmp_path: Path) -> None:
    """When root added a key, the service under another user could no longer read its keys."""
    path = tmp_path / "keys.json"
    path.write_text("[]")
    path.chmod(0o644)
    created("shop", "--file", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "but nobody else"


def test_the_target_of_a_link_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, path = tmp_path / "keys.json", tmp_path / "there" / "keys.json"
    link.symlink_to(path)
    [secret] = created("shop", "--file", str(link))
    assert link.is_symlink()
    assert key(f"@{path}", secret).name == "shop"


@pytest.mark.parametrize(
    ("before", "arguments", "problem"),
    [
        ("[]", ["a b"], "name must be"),
        ("[]", ["a", "--channels", "ord*"], "segments between : must be names"),
        ("[]", ["a", "--methods", "publis"], "methods must be a list of any of publish"),
        ("[]", ["a", "--rate", "0"], "rate must be a number from"),
        ("[]", ["a", "--rate", "nan"], "rate must be a number from"),
        ("[", ["a"], "is not JSON: line 1"),
        ("{}", ["a"], "must be a list of keys"),
        (json.dumps([{"name": "a", "sha256": "0" * 64}]), ["a"], "another key has the same name"),
    ],
)
def test_invalid_options_change_nothing(
    tmp_path: Path, before: str, arguments: list[str], problem: str
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(before)
    out = StringIO()
    with pytest.raises(CommandError, match=problem.replace("(", r"\(")):
        call_command("createapikey", *arguments, "--file", str(path), stdout=out)
    assert out.getvalue() == "", "a secret that nobody knows of"
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("where", ["a folder", "no folder", "a file for a folder"])
def test_an_unwritable_path_is_an_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    path = {
        "a folder": tmp_path,
        "no folder": tmp_path / "none" / "keys.json",
        "a file for a folder": tmp_path / "file" / "keys.json",
    }[where]
    with pytest.raises(CommandError):
        created("shop", "--file", str(path))


def test_four_concurrent_commands_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    code = (
        "import sys, django; django.setup();"
        "from django.core.management import call_command;"
        "[call_command('createapikey', f'{sys.argv[1]}-{n}', file=sys.argv[2]) for n in range(10)]"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"key{n}", str(path)],
            cwd=ROOT,
            env={"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for n in range(4)
    ]
    secrets = [line for process in running for line in process.communicate(timeout=60)[0].split()]
    assert len(secrets) == 40
    assert {key(f"@{path}", secret).name for secret in secrets} == {
        f"key{n}-{m}" for n in range(4) for m in range(10)
    }


@pytest.fixture
def run() -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*arguments: str, **options: Any) -> Command:
        started.append(Command(*arguments, **options))
        return started[-1]

    yield start
    for command in started:
        command.stop()


def test_only_the_secret_goes_to_stdout(run: Callable[..., Command], tmp_path: Path) -> None:
    """`SECRET=$(manage.py createapikey shop --file keys.json)` must work."""
    path = tmp_path / "keys.json"
    command = run("createapikey", "shop", "--file", str(path))
    secret = command.line()
    assert secret is not None
    assert command.line() is None
    assert key(f"@{path}", secret).name == "shop"
    assert command.said("Added key shop") == f"Added key shop to {path}."


def test_the_help_has_an_example(run: Callable[..., Command]) -> None:
    command = run("createapikey", "--help")
    lines = []
    while (line := command.line()) is not None:
        lines.append(line)
    assert any("createapikey shop --channels" in line for line in lines)
    assert not any("%" in line for line in lines)
