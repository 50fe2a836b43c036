"""`make matrix`: which combinations there are, what they are made of, and what is said of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import matrix
from tests.support.matrix import ROOT, Interpreter, find_interpreter

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def classified(beginning: str) -> list[str]:
    """Return the versions with two numbers that pyproject.toml names."""
    pattern = re.compile(rf"{re.escape(beginning)} :: (\d+\.\d+)$")
    return [match[1] for each in PROJECT["classifiers"] if (match := pattern.match(each))]


def test_the_matrix_has_what_the_package_says_of_itself() -> None:
    tried = [each for each in matrix.PYTHONS if each not in matrix.UNTRIED]
    assert tried == classified("Programming Language :: Python")
    assert list(matrix.DJANGOS) == classified("Framework :: Django")
    assert PROJECT["requires-python"] == f">={matrix.PYTHONS[0]}"


def test_django_6_is_not_combined_with_a_python_that_it_refuses() -> None:
    pairs = [(each.python, each.django) for each in matrix.combinations() if not each.is_lowest]
    assert ("3.11", "5.2") in pairs
    assert not {("3.11", "6.0"), ("3.11", "6.1")} & set(pairs)
    assert {("3.12", "6.0"), ("3.13", "6.1"), ("3.14", "5.2")} <= set(pairs)
    assert len(pairs) == len(set(pairs)) == 10


def test_the_lowest_bounds_are_those_of_every_package_but_celery() -> None:
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["listen"]
    assert matrix.lowest_bounds().keys() == {re.split(r"[\[>=<]", each)[0] for each in wanted}
    assert matrix.lowest_bounds()["redis"] == "redis[hiredis]==5.2.1"


def test_an_environment_takes_the_whole_lock_but_for_what_is_exchanged() -> None:
    lock = matrix.LOCK.read_text(encoding="utf-8")
    for combination in matrix.combinations():
        names = combination.exchanged()
        kept = matrix.without(names, lock)
        before, after = (re.findall(r"^([\w.-]+).*?==", text, re.M) for text in (lock, kept))
        assert set(before) - set(after) == set(names)
        assert "django-htmx" in after
        assert kept.count("--hash") > 1000, "and its hashes"
    with pytest.raises(AssertionError, match="nothing-of-ours is not locked"):
        matrix.without(["nothing-of-ours"], lock)


def test_every_module_with_a_foreign_project_is_in_the_matrix() -> None:
    assert all((ROOT / path).exists() for path in [*matrix.PROJECTS, *matrix.APP])
    assert matrix.PROJECTS.keys() >= matrix.NEED_CELERY
    assert matrix.PROJECTS.keys() > set(matrix.FEW)
    foreign = re.compile(r"^from tests\.(support\.host|own_api|page_site|live_site)\b", re.M)
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests/e2e").glob("test_*.py")
        if foreign.search(path.read_text(encoding="utf-8"))
    }
    assert len(found) >= 8
    assert found <= matrix.PROJECTS.keys()


def test_every_module_with_the_server_of_the_service_is_named() -> None:
    """These rely on packages of the service, in versions that a host need not have."""
    served = re.compile(r"^from notifier\.(counting|http\w*|plain_\w+|websocket) ", re.M)
    assert {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if path.parent.name in ("unit", "contract", "integration")
        and served.search(path.read_text(encoding="utf-8"))
    } == matrix.NEED_OUR_SERVER


# --- interpreters ---

# What a fake Python does: it notes how it was called, and makes environments with itself in them.
FAKE = """#!/bin/sh
echo "{version} $*" >> "$CALLS"
case "$*" in
    *ensurepip*) echo {version};;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
    *__version__*) echo 6.1.2;;
    "-m pytest "*) echo "..F [ 50%]"; {tests};;
    *" check") {check};;
esac
"""
PASS = 'echo "12 passed, 1 skipped in 3.41s"'
FAIL = (
    "echo 'FAILED tests/a.py::b - no'; echo '== 1 failed, 11 passed in 63.41s (0:01:03) =='; exit 1"
)
SHIM = "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n"
NO_VENV = "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'ensurepip'\" >&2\nexit 1\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def fake(path: Path, version: str, tests: str = PASS, check: str = ":") -> Path:
    return write(path, FAKE.format(version=version, tests=tests, check=check))


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose PATH and home have only what a test puts there."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "mkdir", "cp"):
        (programs / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    env = {
        "PATH": str(programs), "HOME": str(tmp_path / "home"), "CALLS": str(tmp_path / "calls"),
    }  # fmt: skip
    monkeypatch.setenv("CALLS", env["CALLS"])
    return env


def test_an_interpreter_is_found_after_a_shim_that_fails(
    env: dict[str, str], tmp_path: Path
) -> None:
    write(tmp_path / "programs/python3.12", SHIM)
    pyenv = tmp_path / "home/.pyenv/versions"
    fake(pyenv / "3.12.9/bin/python", "3.12.9")
    wanted = fake(pyenv / "3.12.10/bin/python", "3.12.10")
    fake(pyenv / "3.1.2/bin/python", "3.1.2")
    assert find_interpreter("3.12", env) == Interpreter(wanted, "3.12.10")
    in_path = fake(tmp_path / "programs/python3.12", "3.12.3")
    assert find_interpreter("3.12", env) == Interpreter(in_path, "3.12.3"), "PATH comes first"


def test_the_oldest_interpreter_is_found_wherever_it_is(
    env: dict[str, str], tmp_path: Path
) -> None:
    pyenv = tmp_path / "home/.pyenv/versions"
    fake(pyenv / "3.12.10/bin/python", "3.12.10")
    wanted = fake(pyenv / "3.12.9/bin/python", "3.12.9")
    fake(tmp_path / "programs/python3.12", "3.12.11")
    assert find_interpreter("3.12", env, oldest=True) == Interpreter(wanted, "3.12.9")


def test_an_interpreter_of_uv_is_found_and_one_of_another_version_is_not(
    env: dict[str, str], tmp_path: Path
) -> None:
    name = "uv/python/cpython-3.14.2-linux-x86_64-gnu/bin/python3.14"
    wanted = fake(tmp_path / "home/.local/share" / name, "3.14.2")
    assert find_interpreter("3.14", env) == Interpreter(wanted, "3.14.2")
    fake(tmp_path / "programs/python3.13", "3.14.2")
    assert find_interpreter("3.13", env) == "no Python 3.13 in PATH, of pyenv or of uv"


def test_an_interpreter_without_venv_is_named(env: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "programs/python3.13", NO_VENV)
    assert str(find_interpreter("3.13", env)).endswith("; python3.13 has no venv module")


# --- the command, in a checkout with fake interpreters ---


class Checkout:
    """A directory with the program and what it reads."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder / "checkout"
        self.programs = folder / "programs"
        self.calls_file = Path(env["CALLS"])
        self._env = env
        (self.folder / "tests/support").mkdir(parents=True)
        for name in ("tests/support/matrix.py", "requirements-dev.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder / name)

    def run(self, *options: str, **env: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "tests/support/matrix.py", *options],
            cwd=self.folder, env=self._env | env, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stderr == ""
        return done.returncode, done.stdout

    def calls(self) -> list[str]:
        lines = self.calls_file.read_text(encoding="utf-8").splitlines()
        self.calls_file.unlink()
        return [line for line in lines if "ensurepip" not in line and "__version__" not in line]


@pytest.fixture
def checkout(tmp_path: Path, env: dict[str, str]) -> Checkout:
    return Checkout(tmp_path, env)


def row(python: str, django: str, time: str, result: str) -> str:
    return f"{python:9}{django:18}{time:>7}  {result}"


def test_each_combination_is_a_row_of_the_table(checkout: Checkout) -> None:
    for version in ("3.11.9", "3.12.4"):
        fake(checkout.programs / f"python{version[:4]}", version)
    code, output = checkout.run()
    assert code == 0
    assert "[2/11] Python 3.12, Django 5.2: 50%\n" in output
    missing = "left out: no Python 3.14 in PATH, of pyenv or of uv"
    table = output.partition("\n\n")[2].splitlines()
    assert len(table) == 1 + 11
    assert table[0] == row("Python", "Django", "time", "result")
    assert table[1] == row("3.11.9", "6.1.2", "0:00", "12 passed, 1 skipped")
    assert table[-2] == row("3.14", "6.1", "", missing)
    assert table[-1] == row("3.11.9", "6.1.2, lowest", "0:00", "12 passed, 1 skipped")


def test_an_environment_is_made_of_the_lock_with_another_django_and_used_again(
    checkout: Checkout,
) -> None:
    fake(checkout.programs / "python3.13", "3.13.1")
    only = ("--python", "3.13", "--django", "6.0", "--tests", "tests/x.py", "--workers", "3")
    assert checkout.run(*only)[0] == 0
    folder = checkout.folder / ".matrix/python3.13-django6.0"
    pytest_call = "3.13.1 -m pytest -q -n 3 --dist worksteal tests/x.py"
    venv, locked, django, check, tests = checkout.calls()
    assert venv == f"3.13.1 -m venv {folder}"
    assert locked.endswith(
        f"install --quiet --no-compile --no-deps --require-hashes -r {folder}/lock.txt"
    )
    assert django.endswith("install --quiet --no-compile django==6.0.*")
    assert (check.split()[-1], tests) == ("check", pytest_call)
    checkout.run(*only)
    assert checkout.calls() == [pytest_call]
    lock = checkout.folder / "requirements-dev.txt"
    lock.write_text(lock.read_text(encoding="utf-8") + "more==1\n", encoding="utf-8")
    checkout.run(*only)
    assert len(checkout.calls()) == 5, "the lock has changed"


def test_the_lowest_bounds_are_tried_on_the_oldest_python_without_what_needs_more(
    checkout: Checkout,
) -> None:
    fake(checkout.programs / "python3.11", "3.11.9")
    fake(checkout.folder.parent / "home/.pyenv/versions/3.11.2/bin/python", "3.11.2")
    code, output = checkout.run("--lowest", "--python", "3.11")
    assert (code, output.splitlines()[-1][:6]) == (0, "3.11.2")
    tests = checkout.calls()[-1].split()
    assert {"tests/unit", "tests/e2e/test_wheel.py"} <= set(tests)
    assert {f"--ignore={path}" for path in matrix.NEED_OUR_SERVER} <= set(tests)
    assert not {*matrix.NEED_CELERY, *matrix.NEED_OUR_SERVER} & set(tests)


def test_the_newest_is_the_newest_python_here_that_is_supported_with_its_newest_django(
    checkout: Checkout,
) -> None:
    code, output = checkout.run("--newest")
    nothing = "No Python of this machine carries a newer Django than the tests above had\n"
    assert (code, output) == (0, nothing)
    # Not this one: with Django 6.1, there would be nothing left to try.
    python = "3.12" if sys.version_info[:2] == (3, 13) else "3.13"
    for version in ("3.11.9", f"{python}.4", "3.14.1"):
        fake(checkout.programs / f"python{version[:4]}", version)
    code, output = checkout.run("--newest")
    assert (code, output.splitlines()[-1][:6]) == (0, f"{python}.4")
    calls = checkout.calls()
    assert calls[-2].endswith(" check")
    assert any(call.endswith(" django==6.1.*") for call in calls)
    assert calls[-1].split()[-len(matrix.FEW) :] == matrix.FEW


def test_a_failed_test_is_named_and_fails_the_matrix(checkout: Checkout) -> None:
    fake(checkout.programs / "python3.12", "3.12.4", FAIL)
    code, output = checkout.run("--python", "3.12", "--django", "6.1")
    assert code == 1
    *_, result, failure = output.splitlines()
    assert result.endswith("  FAILED: 1 failed, 11 passed")
    assert failure == "python3.12-django6.1: FAILED tests/a.py::b"


def test_tests_that_end_without_a_result_fail_the_matrix(checkout: Checkout) -> None:
    fake(checkout.programs / "python3.12", "3.12.4", "exit 4")
    code, output = checkout.run("--python", "3.12", "--django", "6.1")
    assert (code, output.splitlines()[-1].split("  ")[-1]) == (1, "FAILED: pytest ended with 4")


def test_an_environment_that_cannot_be_made_fails_the_matrix_and_is_made_again(
    checkout: Checkout,
) -> None:
    broken = "echo 'x 1 requires y, which is not installed.'; exit 1"
    fake(checkout.programs / "python3.12", "3.12.4", check=broken)
    for _ in range(2):
        code, output = checkout.run("--python", "3.12", "--django", "6.1")
        assert code == 1
        assert "FAILED: cannot be installed\n" in output
        assert output.splitlines()[-1].endswith("x 1 requires y, which is not installed.")
        assert len(checkout.calls()) == 4


def test_a_missing_python_fails_the_matrix_if_it_is_required_or_the_only_one(
    checkout: Checkout,
) -> None:
    fake(checkout.programs / "python3.12", "3.12.4")
    both = ("--python", "3.12", "--python", "3.13", "--django", "6.1")
    assert checkout.run(*both)[0] == 0
    assert checkout.run(*both, NOTIFIER_REQUIRE="browser,python3.13")[0] == 1
    assert checkout.run("--python", "3.13")[0] == 1


def test_the_help_explains_each_option(checkout: Checkout) -> None:
    code, output = checkout.run("--help", COLUMNS="100")
    assert code == 0
    assert 'make matrix MATRIX="--python 3.13 --django 6.1"' in " ".join(output.split())
    assert {"--python", "--django", "--lowest", "--newest", "--tests", "--workers"} <= set(
        re.findall(r"--\w+", output)
    )


def test_the_makefile_ignores_and_removes_the_environments() -> None:
    assert ".matrix/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^clean:.*\n\trm -rf .*\.matrix\b", makefile, re.M)
    assert matrix.CACHE == ROOT / ".matrix"
