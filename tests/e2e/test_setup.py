"""Setup of a fresh clone: with uv, without it, and with missing tools. All offline.

The Makefile runs in a temporary directory, with a PATH that contains only what the test puts there.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import prose
from tests.support.chat import NOTIFIER_NAMESPACES

CHECKOUT = Path(__file__).resolve().parents[2]
VERBS = {"run", "test", "check", "format", "bench"}

NPM_LOCK = "tests/e2e/sdk/package-lock.json"
SITE_LOCK = "docs/site/requirements.txt"
LOCKS = ("uv.lock", "requirements.txt", "requirements-dev.txt", NPM_LOCK, SITE_LOCK)
# A fake command: it records how it was called.
NOTE = 'echo "$(basename "$0") $*" >> "$CALLS"\n'
# A Python that has everything it needs, and creates environments that contain a Python like itself.
GOOD_PYTHON = NOTE + (
    'if [ "$2" = venv ]; then\n'
    "    for directory; do :; done\n"
    '    mkdir -p "$directory/bin" && cp "$0" "$directory/bin/python"\n'
    "fi\n"
)
OLD_PYTHON = 'case "$2" in *version_info*) exit 1;; esac\n'
PYTHON_WITHOUT_VENV = 'case "$2" in *ensurepip*) exit 1;; esac\n'

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


class FreshClone:
    """A directory with the Makefile and the locks, and a PATH with the essentials."""

    def __init__(self, directory: Path, commands: Mapping[str, str]) -> None:
        self.directory = directory / "clone"
        self.directory.mkdir()
        for name in ("Makefile", *LOCKS):
            (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, self.directory / name)
        self.bin = directory / "bin"
        self.bin.mkdir()
        for name in ("sh", "make", "touch", "mkdir", "cp", "rm", "basename", "awk", "env", "diff"):
            (self.bin / name).symlink_to(shutil.which(name) or f"/bin/{name}")
        for name, script in commands.items():
            self.bin.joinpath(name).write_text(f"#!/bin/sh\n{script}")
            self.bin.joinpath(name).chmod(0o755)
        self.calls_file = directory / "calls.txt"

    def make(self, *goals: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": str(self.bin), "CALLS": str(self.calls_file)} | variables
        return subprocess.run(
            ["make", "--no-print-directory", *goals],
            cwd=self.directory, env=environ, capture_output=True, text=True,
        )  # fmt: skip

    def calls(self) -> str:
        return self.calls_file.read_text() if self.calls_file.exists() else ""


def fake_uv() -> str:
    return NOTE + 'mkdir -p .venv/bin; [ "$1" = --version ] || : > .venv/bin/python\n'


def test_make_without_a_target_lists_the_targets(tmp_path):
    printed = FreshClone(tmp_path, {}).make().stdout
    assert set(re.findall(r"(?m)^  make (\w+) +\S", printed)) >= VERBS


def test_uv_installs_the_exact_lock_once(tmp_path):
    clone = FreshClone(tmp_path, {"uv": fake_uv(), "python3": GOOD_PYTHON})
    assert clone.make("setup").returncode == 0
    assert "uv sync --locked --no-install-project" in clone.calls()
    assert "python3" not in clone.calls()

    clone.calls_file.unlink()
    assert clone.make("setup").returncode == 0
    assert clone.calls() == ""


def test_a_changed_lock_is_installed_again(tmp_path):
    clone = FreshClone(tmp_path, {"uv": fake_uv()})
    clone.make("setup")
    clone.calls_file.unlink()
    later = (clone.directory / ".venv/.ready-to-develop").stat().st_mtime + 10
    os.utime(clone.directory / "uv.lock", (later, later))
    clone.make("setup")
    assert "uv sync" in clone.calls()


def test_without_uv_pip_installs_with_hash_verification(tmp_path):
    clone = FreshClone(tmp_path, {"python3": GOOD_PYTHON})
    done = clone.make("setup")
    assert done.returncode == 0, done.stderr
    assert "-m venv --clear .venv" in clone.calls()
    assert re.search(r"python -m pip install .*--require-hashes -r requirements-dev", clone.calls())


def test_running_installs_no_development_tools(tmp_path):
    clone = FreshClone(tmp_path, {"python3": GOOD_PYTHON})
    done = clone.make("run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"--require-hashes -r requirements\.txt\n", clone.calls())
    assert clone.calls().splitlines()[-1] == "python -m notifier run --stop-with-parent"
    assert "requirements-dev" not in clone.calls()


SITE_PYTHON = ".docs/venv/bin/python"
STRICT = "python -m sphinx -W --keep-going "


def test_the_site_is_built_strictly_in_an_environment_of_its_own(tmp_path):
    installs = f'mkdir -p .docs/venv/bin; cp "$(command -v python3)" {SITE_PYTHON}\n'
    uv = NOTE + f'[ "$1" = --version ] || {{ {installs.strip()}; }}\n'
    clone = FreshClone(tmp_path, {"uv": uv, "python3": GOOD_PYTHON})
    done = clone.make("docs-build")
    assert done.returncode == 0, done.stderr
    assert "uv sync --locked --no-install-project --only-group docs\n" in clone.calls()
    assert STRICT in clone.calls().splitlines()[-1]
    assert not (clone.directory / ".venv").exists()

    clone.calls_file.unlink()
    assert clone.make("docs-build").returncode == 0
    assert "uv" not in clone.calls()


def test_without_uv_pip_installs_the_packages_of_the_site(tmp_path):
    clone = FreshClone(tmp_path, {"python3": GOOD_PYTHON})
    done = clone.make("docs-build")
    assert done.returncode == 0, done.stderr
    assert "-m venv --clear .docs/venv\n" in clone.calls()
    assert re.search(rf"pip install .*--require-hashes -r {SITE_LOCK}\n", clone.calls())
    assert STRICT in clone.calls().splitlines()[-1]


def test_a_failing_uv_counts_as_absent(tmp_path):
    clone = FreshClone(tmp_path, {"uv": "exit 127\n", "python3": GOOD_PYTHON})
    assert clone.make("setup").returncode == 0
    assert "-m pip install" in clone.calls()


def test_a_newer_python_is_found_after_an_unusable_one(tmp_path):
    commands = {"python3": OLD_PYTHON, "python3.13": "exit 127\n", "python3.12": GOOD_PYTHON}
    clone = FreshClone(tmp_path, commands)
    assert clone.make("setup").returncode == 0
    assert "python3.12 -m venv" in clone.calls()


@pytest.mark.parametrize("commands", [{}, {"python3": OLD_PYTHON}])
def test_a_missing_python_is_reported_in_one_sentence(tmp_path, commands):
    done = FreshClone(tmp_path, commands).make("run")
    assert done.returncode != 0
    assert done.stdout == ""
    sentence, failure = done.stderr.splitlines()
    assert sentence.startswith("Python 3.11 or newer is required: install it")
    assert failure.startswith("make: ***")


def test_a_python_without_venv_is_reported_in_one_sentence(tmp_path):
    done = FreshClone(tmp_path, {"python3": PYTHON_WITHOUT_VENV}).make("test")
    assert done.returncode != 0
    assert done.stderr.startswith("python3 has no venv module: install it (on Debian")


def with_a_test_of_node(tmp_path: Path, **commands: str) -> FreshClone:
    """A clone whose Python tests all pass, and which has one test that needs Node."""
    clone = FreshClone(tmp_path, {"uv": fake_uv(), **commands})
    programs = clone.directory / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("pytest", "python"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    script = clone.directory / "tests/e2e/js/client.test.mjs"
    script.parent.mkdir(parents=True)
    script.touch()
    return clone


FAKE_NPM = NOTE + '[ "$1" = --version ] || mkdir -p "$3/node_modules"\n'


def test_make_test_installs_the_npm_packages_itself_and_only_once(tmp_path):
    clone = with_a_test_of_node(tmp_path, node=NOTE, npm=FAKE_NPM)
    done = clone.make("test", NOTIFIER_REQUIRE="node")
    assert done.returncode == 0, done.stderr
    assert "npm ci --prefix tests/e2e/sdk" in clone.calls()
    assert "node --test tests/e2e/js/client.test.mjs" in clone.calls()

    clone.calls_file.unlink()
    assert clone.make("test").returncode == 0
    assert clone.calls() == "node --test tests/e2e/js/client.test.mjs\n"


def test_make_test_ends_with_what_failed_in_any_of_its_parts(tmp_path):
    """CI shows the end of the output only, and a failure of the first part is minutes above it."""
    real = f'exec {shutil.which("cat")} "$@"\n'
    node = '[ "$1" != --test ]\n'
    clone = with_a_test_of_node(tmp_path, node=node, npm=FAKE_NPM, cat=real)
    first_part = (
        'case "$*" in *--ignore=tests/e2e*) echo "a: why" >>"$NOTIFIER_FAILURES"; exit 1; esac'
    )
    (clone.directory / ".venv/bin/pytest").write_text(f"#!/bin/sh\n{first_part}\n")
    for _ in range(2):  # the second run does not repeat what failed in the first
        done = clone.make("test")
        assert done.returncode != 0
        end = "a: why\nthe first part failed\nthe tests of Node failed\n"
        assert end in done.stderr
        assert done.stderr.count("a: why") == 1


@pytest.mark.node
def test_the_installed_node_is_recognized(tmp_path):
    """Asking for its version once raised an error in Node 20, so Node was taken for missing."""
    real = f'exec {shutil.which("node")} "$@"\n'
    clone = with_a_test_of_node(tmp_path, node=NOTE + real, npm=FAKE_NPM)
    clone.make("setup")
    assert "npm ci --prefix tests/e2e/sdk" in clone.calls()


def test_a_failed_npm_install_is_an_error(tmp_path):
    """Otherwise nothing would say why the tests that need Node were skipped."""
    clone = with_a_test_of_node(tmp_path, node=NOTE, npm='[ "$1" = --version ]\n')
    assert clone.make("test").returncode != 0


@pytest.mark.parametrize(("required", "code"), [("", 0), ("browser", 0), ("browser,node", 2)])
@pytest.mark.parametrize("commands", [{}, {"node": "exit 1\n", "npm": FAKE_NPM}, {"node": NOTE}])
def test_without_node_its_tests_are_listed_as_skipped_unless_required(
    tmp_path, commands, required, code
):
    done = with_a_test_of_node(tmp_path, **commands).make("test", NOTIFIER_REQUIRE=required)
    left_out = "skipped: tests/e2e/js/client.test.mjs (requires Node 20.19 and npm)"
    assert done.stdout.splitlines()[-1] == left_out
    assert done.returncode == code


TYPES = "realtime/static/realtime/client.d.ts"
# A compiler whose declarations of client.js are what the test has put into `generated`.
FAKE_TSC = NOTE + (
    "mkdir -p tests/e2e/sdk/node_modules/.types\n"
    "cp generated tests/e2e/sdk/node_modules/.types/client.d.ts\n"
)


def with_types_to_check(tmp_path: Path, generated: str = "", **commands: str) -> FreshClone:
    """A clone in which all other checks succeed; it ships an empty client.d.ts."""
    clone = FreshClone(tmp_path, {"uv": fake_uv(), **commands})
    for name in ("python", "ruff", "mypy", "pytest", "codespell"):
        command = clone.directory / ".venv/bin" / name
        command.parent.mkdir(parents=True, exist_ok=True)
        command.write_text("#!/bin/sh\n")
        command.chmod(0o755)
    clone.directory.joinpath(TYPES).parent.mkdir(parents=True)
    clone.directory.joinpath(TYPES).touch()
    clone.directory.joinpath("generated").write_text(generated)
    compiler = clone.directory / "tests/e2e/sdk/node_modules/.bin/tsc"
    compiler.parent.mkdir(parents=True)
    compiler.write_text(f"#!/bin/sh\n{FAKE_TSC}")
    compiler.chmod(0o755)
    return clone


def test_make_check_installs_the_compiler_itself_and_only_once(tmp_path):
    clone = with_types_to_check(tmp_path, node=NOTE, npm=FAKE_NPM)
    done = clone.make("check", CI="true")
    assert done.returncode == 0, done.stderr
    assert "npm ci --prefix tests/e2e/sdk" in clone.calls()
    assert "tsc --project tests/e2e/sdk\ntsc --project tsconfig.json\n" in clone.calls()

    clone.calls_file.unlink()
    assert clone.make("check").returncode == 0
    assert "npm" not in clone.calls()


def test_outdated_client_types_fail_the_check(tmp_path):
    clone = with_types_to_check(tmp_path, "export {};\n", node=NOTE, npm=FAKE_NPM)
    done = clone.make("check")
    assert done.returncode != 0
    assert "+export {};" in done.stdout
    assert f"{TYPES} is not what tsc generates from client.js: run make types." in done.stderr

    assert clone.make("types").returncode == 0
    assert clone.make("check").returncode == 0


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({}, 0),
        ({"NOTIFIER_REQUIRE": "browser"}, 0),
        ({"NOTIFIER_REQUIRE": "browser,node"}, 2),
        ({"CI": "true"}, 2),
    ],
)
@pytest.mark.parametrize("commands", [{}, {"node": "exit 1\n", "npm": FAKE_NPM}, {"node": NOTE}])
def test_without_node_the_type_check_is_skipped_unless_required(
    tmp_path, commands, variables, code
):
    done = with_types_to_check(tmp_path, **commands).make("check", **variables)
    left_out = "skipped: the types of client.js (requires Node 20.19 and npm)"
    assert done.stdout.splitlines()[-1] == left_out
    assert done.returncode == code


# --- manage.py ---


def manage(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=CHECKOUT, env=environ | variables, capture_output=True, text=True,
    )  # fmt: skip


def documented() -> dict[str, str]:
    """Return the environment that docs/deploy.md tells operators to set; … stands for a secret."""
    text = prose.read(CHECKOUT / "docs/deploy.md")
    [block] = re.findall(r"^It needs .*?^```\n(.*?)^```$", text, re.M | re.S)
    lines = [shlex.split(line, comments=True)[0].partition("=") for line in block.splitlines()]
    return {name: secrets.token_urlsafe(48) if value == "…" else value for name, _, value in lines}


def deployment_check(**variables: str) -> subprocess.CompletedProcess[str]:
    return manage("check", "--deploy", "--fail-level", "WARNING", **documented() | variables)


def test_the_deployment_check_has_no_warning_and_silences_none():
    checked = deployment_check()
    assert checked.returncode == 0, checked.stderr
    assert "no issues (0 silenced)" in checked.stdout


def test_the_deployment_check_reports_dangerous_settings():
    """This proves that the test above can fail."""
    checked = deployment_check(
        NOTIFIER_NAMESPACES=NOTIFIER_NAMESPACES,
        NOTIFIER_API_KEY="key",
        REDIS_URL="redis://redis.example",
    )
    assert checked.returncode == 1
    assert set(re.findall(r"realtime\.\w+", checked.stderr)) == {
        "realtime.W002",
        "realtime.W003",
        "realtime.W005",
    }


def test_without_any_environment_a_command_prints_its_help(tmp_path):
    helped = manage("help", "runserver", NOTIFIER_RUN_DIR=str(tmp_path))
    assert helped.returncode == 0, helped.stderr


def test_a_missing_variable_is_reported_without_a_traceback():
    refused = manage("check", DEBUG="0")
    assert refused.returncode == 1
    assert re.fullmatch(r"manage\.py: [A-Z_]+ is missing: .*\n", refused.stderr)


@pytest.mark.parametrize("command", [["migrate"], ["createsuperuser"], ["changepassword", "ada"]])
def test_a_command_without_a_service_names_the_variables(tmp_path, command):
    """It ended in the traceback of SQLite, which could not open a file that nobody had named."""
    refused = manage(*command, NOTIFIER_RUN_DIR=str(tmp_path / "none"))
    assert refused.returncode == 1
    assert re.fullmatch(r"manage\.py: SECRET_KEY is missing: set .*\n", refused.stderr)


def test_a_database_that_cannot_be_opened_is_reported_without_a_traceback(tmp_path):
    url = f"sqlite:///{tmp_path}/none/db.sqlite3"
    refused = manage("migrate", **documented(), DATABASE_URL=url)
    assert refused.returncode == 1
    assert refused.stderr == "manage.py: DATABASE_URL: unable to open database file\n"


def test_stored_data_is_json_and_never_pickled():
    """Otherwise anyone who can write to Redis, or forge a cookie, could run code here (CWE-502)."""
    code = (
        "import json; from django.conf import settings as s;"
        "print(json.dumps([s.CHANNEL_LAYERS['default']['CONFIG']['serializer_format'],"
        " s.SESSION_SERIALIZER, [c['BACKEND'] for c in s.CACHES.values()],"
        " [name for name in dir(s) if name.startswith('CELERY')]]))"
    )
    shown = manage("shell", "--no-imports", "--command", code, **documented())
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == [
        "json",
        "django.contrib.sessions.serializers.JSONSerializer",
        ["django.core.cache.backends.locmem.LocMemCache"],  # pickles, inside its own process
        [],
    ]
