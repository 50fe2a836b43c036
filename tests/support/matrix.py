"""`make matrix`: the app in foreign projects, on each Python and Django that it supports.

Each combination has an environment of its own below `.matrix/`: the packages that
requirements-dev.txt locks, with their hashes, and one that is exchanged, Django. The last
combination exchanges all that pyproject.toml lets a host choose for the oldest that it allows, and
takes the oldest patch release of its Python that the machine has (Debian 12 has 3.11.2).
Later runs use an environment again, until something of this changes. Only the standard library is
imported, so that each Python of ours can start it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, TextIO

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".matrix"
LOCK = ROOT / "requirements-dev.txt"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
UNTRIED = {"3.14"}
"""Pythons that no machine of ours has had yet; pyproject.toml does not claim them."""
DJANGOS = {"5.2": "3.11", "6.0": "3.12", "6.1": "3.12"}
"""Each Django in the order of release, and the oldest of these Pythons that it runs on."""

PROJECTS = {
    "tests/e2e/test_admin.py": "the pages in Django's admin",
    "tests/e2e/test_bell.py": "the bell, its rows from a project",
    "tests/e2e/test_bell_howto.py": "a notification center on a project's own model",
    "tests/e2e/test_beside_the_service.py": "a project beside the service, each with its users",
    "tests/e2e/test_celery.py": "the tasks of a project",
    "tests/e2e/test_django_ways.py": "checks, lazy text, mailers, Django's own policy",
    "tests/e2e/test_foreign_project.py": "hashed static files, a content security policy",
    "tests/e2e/test_foreign_users.py": "users with other primary keys",
    "tests/e2e/test_host_paths.py": "a project keeps its own addresses",
    "tests/e2e/test_howtos.py": "all pages of docs/howto in one project",
    "tests/e2e/test_live_pages.py": "pages that miss nothing while they load",
    "tests/e2e/test_no_database.py": "a project without a database",
    "tests/e2e/test_prefix.py": "a project below a path of nginx",
    "tests/e2e/test_servers.py": "each server that a project can run on",
    "tests/e2e/test_sessions.py": "users by Django's sessions",
    "tests/e2e/test_template_tag.py": "template tags",
    "tests/e2e/test_testing.py": "a project's own tests, without Redis",
    "tests/e2e/test_tutorial.py": "the tutorial, from an empty folder",
    "tests/e2e/test_wheel.py": "the wheel in a new project",
}
"""The app in projects that know nothing of this repository, as real processes."""
FEW = [
    f"tests/e2e/test_{name}.py"
    for name in (
        *("admin", "django_ways", "foreign_project", "foreign_users", "host_paths"),
        *("live_pages", "template_tag", "testing"),
    )
]
"""Those of them in which Django takes part most, for each commit."""
NEED_CELERY = {"tests/e2e/test_celery.py", "tests/e2e/test_howtos.py"}
"""Not for the lowest bounds: the extra `celery` needs a newer redis-py than the app alone."""
NEED_OUR_SERVER = {
    f"tests/integration/{name}.py"
    for name in (
        *("test_declined_offers", "test_hand_over", "test_http_lane", "test_http_protocol"),
        *("test_plain_handshake", "test_transport_limits"),
        *("test_websocket_floods", "test_websocket_protocol"),
    )
}
"""Not for the lowest bounds: the service's own server needs a newer websockets than `listen`."""
APP = {
    "tests/unit": "rules, which rely on the standard library",
    "tests/contract": "the brokers and the wire protocols",
    "tests/integration": "the app in the project of tests/settings.py",
}
"""The app in the process of the tests: what it uses of Django, asyncio, Channels and redis-py."""

ASK = "import ensurepip, sys, venv; print('%d.%d.%d' % sys.version_info[:3])"
"""Asked before use: shims of pyenv may fail, and Debian's Python may lack venv."""
KEPT_OUT = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYTHONDEVMODE", "MAKEFLAGS", "MAKELEVEL")
"""Variables of the caller that would change an environment or its tests."""
ENVIRON = {name: value for name, value in os.environ.items() if name not in KEPT_OUT}
INSTALL_SECONDS = 1800  # for one call of pip, on a slow network


class Combination(NamedTuple):
    """A Python and a Django, by their first two numbers."""

    python: str
    django: str
    is_lowest: bool = False

    @property
    def name(self) -> str:
        """The name of its environment and of its log."""
        return f"python{self.python}-{'lowest' if self.is_lowest else f'django{self.django}'}"

    def exchanged(self) -> dict[str, str]:
        """Return the packages that it does not take from the lock, as requirements of pip."""
        return lowest_bounds() if self.is_lowest else {"django": f"django=={self.django}.*"}


class Interpreter(NamedTuple):
    """A Python that can make environments."""

    path: Path
    version: str


@dataclass
class Row:
    """What became of a combination."""

    combination: Combination
    python: str = ""
    django: str = ""
    outcome: str = ""
    seconds: float = 0.0
    has_run: bool = False
    has_failed: bool = False
    failures: list[str] = field(default_factory=list)


def numbers(version: str) -> tuple[int, ...]:
    """Return a version in a form that can be compared: 3.9 is older than 3.11."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def combinations() -> list[Combination]:
    """Return all combinations that exist; the last one has the lowest bounds."""
    pairs = [
        Combination(python, django)
        for python in PYTHONS
        for django, oldest in DJANGOS.items()
        if numbers(python) >= numbers(oldest)
    ]
    return [*pairs, pairs[0]._replace(is_lowest=True)]


def newest() -> Combination | None:
    """Return the newest Python of this machine with the newest Django that it carries."""
    pairs = [each for each in combinations() if not each.is_lowest and each.python not in UNTRIED]
    for python in reversed(PYTHONS):
        carried = [each for each in pairs if each.python == python]
        if carried and isinstance(find_interpreter(python), Interpreter):
            return carried[-1]
    return None


def lowest_bounds() -> dict[str, str]:
    """Return what pyproject.toml lets a host choose, each in the oldest version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["listen"]]
    found = [re.match(r"([\w-]+)(\[\w+\])?>=([\d.]+)", requirement) for requirement in wanted]
    return {match[1]: f"{match[1]}{match[2] or ''}=={match[3]}" for match in found if match}


# --- interpreters ---


def candidates(python: str, env: Mapping[str, str]) -> Iterator[Path]:
    """Yield where a Python may be: in PATH, of pyenv, of uv."""
    for folder in env.get("PATH", os.defpath).split(os.pathsep):
        yield Path(folder) / f"python{python}"
    home = Path(env.get("HOME") or Path.home())
    pyenv = Path(env.get("PYENV_ROOT") or home / ".pyenv")
    yield from newest_first(pyenv.glob(f"versions/{python}.*/bin/python"))
    data = Path(env.get("XDG_DATA_HOME") or home / ".local/share")
    uv = Path(env.get("UV_PYTHON_INSTALL_DIR") or data / "uv/python")
    yield from newest_first(uv.glob(f"cpython-{python}.*/bin/python{python}"))


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """Sort interpreters by the version in the name of their directory."""
    return sorted(paths, key=lambda path: numbers(path.parent.parent.name), reverse=True)


def find_interpreter(
    python: str, env: Mapping[str, str] = os.environ, *, oldest: bool = False
) -> Interpreter | str:
    """Return the first interpreter that works, or the oldest; or why there is none."""
    found: list[Interpreter] = []
    hint = ""
    for path in candidates(python, env):
        answer = ask(path) if path.is_file() else ""
        if re.fullmatch(rf"{re.escape(python)}\.\d+", answer):
            found.append(Interpreter(path, answer))
            if not oldest:
                break
        if "No module named" in answer:
            hint = f"; {path.name} has no venv module"
    if not found:
        return f"no Python {python} in PATH, of pyenv or of uv{hint}"
    return min(found, key=lambda each: numbers(each.version))


def ask(path: Path) -> str:
    """Return what a Python answers: its version, or an error."""
    try:
        done = subprocess.run(
            [path, "-c", ASK], capture_output=True, text=True, encoding="utf-8", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout if done.returncode == 0 else done.stderr).strip()


# --- environments ---


def without(packages: Iterable[str], lock: str) -> str:
    """Return a lock without the lines of some packages."""
    for package in packages:
        kept = re.sub(rf"^{package}(\[\w+\])?==.*?(?=^\S|\Z)", "", lock, flags=re.M | re.S)
        assert kept != lock, f"{package} is not locked"
        lock = kept
    return lock


def prepare(combination: Combination, interpreter: Interpreter, log: Path) -> Path | None:
    """Return the Python of an environment with all packages; None if that fails."""
    exchanged = combination.exchanged()
    lock = without(exchanged, LOCK.read_text(encoding="utf-8"))
    made_of = f"{interpreter}\n{exchanged}\n{hashlib.sha256(lock.encode()).hexdigest()}\n"
    folder = CACHE / combination.name
    python, stamp, rest = folder / "bin/python", folder / "made-of.txt", folder / "lock.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == made_of:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rest.write_text(lock, encoding="utf-8")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    install = [*pip, "install", "--quiet", "--no-compile"]
    commands = (
        [interpreter.path, "-m", "venv", folder],
        # The lock names all that its packages need, so pip has nothing to choose.
        [*install, "--no-deps", "--require-hashes", "-r", rest],
        [*install, *exchanged.values()],
        [*pip, "check"],
    )
    with log.open("a", encoding="utf-8") as output:
        if not all(succeeds(command, output) for command in commands):
            return None
    stamp.write_text(made_of, encoding="utf-8")
    return python


def succeeds(command: Sequence[str | Path], output: TextIO) -> bool:
    """Run one step of an installation; tell whether it succeeded in time."""
    try:
        done = subprocess.run(
            command, stdout=output, stderr=output, env=ENVIRON, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        print(error, file=output)
        return False
    return done.returncode == 0


# --- runs ---


def run(combination: Combination, tests: Iterable[str], workers: int, said: str) -> Row:
    """Run tests in the environment of a combination; without tests, only prepare it.

    Each line of progress begins with `said`.
    """
    row = Row(combination, combination.python, combination.django)
    found = find_interpreter(combination.python, oldest=combination.is_lowest)
    if isinstance(found, str):
        row.outcome = f"left out: {found}"
        required = os.environ.get("NOTIFIER_REQUIRE", "").split(",")
        row.has_failed = f"python{combination.python}" in required
        say(f"{said}: {row.outcome}")
        return row
    row.has_run, row.python = True, found.version
    began = time.monotonic()
    log = CACHE / f"{combination.name}.log"
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    say(f"{said}: preparing its environment, log in {log.relative_to(ROOT)}")
    python = prepare(combination, found, log)
    if python is None:
        row.has_failed, row.outcome = True, "cannot be installed"
        row.failures = log.read_text(encoding="utf-8").splitlines()[-5:]
    elif not tests:
        row.outcome = "is ready"
    else:
        run_pytest(python, tests, workers, log, row, said)
    row.seconds = time.monotonic() - began
    say(f"{said}: {row.outcome}")
    return row


def run_pytest(
    python: Path, tests: Iterable[str], workers: int, log: Path, row: Row, said: str
) -> None:
    """Run the tests, and note what becomes of them."""
    code = "import django; print(django.__version__)"
    row.django = subprocess.check_output([python, "-c", code], text=True, encoding="utf-8").strip()
    say(f"{said}: testing on Python {row.python}, Django {row.django}")
    process = subprocess.Popen(
        [python, "-m", "pytest", "-q", "-n", str(workers), "--dist", "worksteal", *tests],
        cwd=ROOT, env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    assert process.stdout is not None
    with process, log.open("a", encoding="utf-8") as output:
        try:
            for line in process.stdout:
                output.write(line)
                output.flush()
                note(line.rstrip(), row, said)
        except BaseException:  # Ctrl-C, or SIGTERM
            process.terminate()
            raise
    row.has_failed = process.returncode != 0
    row.outcome = row.outcome or f"pytest ended with {process.returncode}"


def note(line: str, row: Row, said: str) -> None:
    """Read a line of pytest's."""
    if percent := re.search(r"\[ *(\d+%)\]$", line):
        say(f"{said}: {percent[1]}")
    elif line.startswith(("FAILED ", "ERROR ")):
        row.failures.append(line.partition(" - ")[0])
    elif counts := re.fullmatch(r"=* ?(\d.*) in \d[\d.]*s\b.*", line):
        row.outcome = counts[1]


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def report(rows: Iterable[Row]) -> str:
    """Return a table of what became of each combination, then the failures."""
    lines = [f"{'Python':9}{'Django':18}{'time':>7}  result"]
    failures = []
    for row in rows:
        django = f"{row.django}, lowest" if row.combination.is_lowest else row.django
        spent = f"{int(row.seconds) // 60}:{int(row.seconds) % 60:02}" if row.has_run else ""
        verdict = "FAILED: " if row.has_failed else ""
        lines.append(f"{row.python:9}{django:18}{spent:>7}  {verdict}{row.outcome}")
        failures += [f"{row.combination.name}: {failure}" for failure in row.failures]
    return "\n".join([*lines, *failures])


# --- the command ---


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="make matrix",
        description=f"Run the tests of the app in foreign projects on Python {', '.join(PYTHONS)} "
        f"and Django {', '.join(DJANGOS)}, and once with the oldest packages that a host may have. "
        'Options go into MATRIX: make matrix MATRIX="--python 3.13 --django 6.1".',
        epilog="A Python that is missing is named in the table and is no failure, unless "
        "NOTIFIER_REQUIRE names it (NOTIFIER_REQUIRE=python3.12,python3.13).",
    )
    parser.add_argument("--python", action="append", choices=PYTHONS, help="only this one")
    parser.add_argument("--django", action="append", choices=[*DJANGOS], help="only this one")
    parser.add_argument("--lowest", action="store_true", help="only the oldest packages")
    parser.add_argument(
        "--newest",
        action="store_true",
        help="only the newest Python of this machine with its newest Django, and only a few "
        "projects as real processes; nothing if `make test` has used these already",
    )
    parser.add_argument(
        "--prepare", action="store_true", help="only install the packages of the environments"
    )
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="instead of all")
    parser.add_argument("--workers", type=int, default=default_workers(), help="of pytest-xdist")
    return parser.parse_args(arguments)


def default_workers() -> int:
    """Return the number that the Makefile uses, too."""
    return min(2 * (os.cpu_count() or 1), 4)


def chosen(options: argparse.Namespace) -> list[Combination]:
    """Return the combinations that the options name."""
    return [
        each
        for each in combinations()
        if each.python in (options.python or PYTHONS)
        and each.django in (options.django or DJANGOS)
        and (each.is_lowest or not options.lowest)
    ]


def usual_tests(combination: Combination) -> list[str]:
    """Return what pytest runs for a combination, unless `--tests` names something else."""
    tests = [*APP, *PROJECTS]
    if combination.is_lowest:
        tests = [test for test in tests if test not in NEED_CELERY]
        tests += [f"--ignore={path}" for path in sorted(NEED_OUR_SERVER)]
    return tests


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    options = parse(arguments)
    todo = chosen(options)
    if options.newest:
        only = newest()
        if only is None or is_this_one(only):
            say("No Python of this machine carries a newer Django than the tests above had")
            return 0
        todo, options.tests = [only], FEW
    rows = []
    for number, each in enumerate(todo, 1):
        what = "lowest bounds" if each.is_lowest else f"Django {each.django}"
        said = f"[{number}/{len(todo)}] Python {each.python}, {what}"
        tests = options.tests or usual_tests(each)
        rows.append(run(each, [] if options.prepare else tests, options.workers, said))
    say(f"\n{report(rows)}")
    nothing = not any(row.has_run for row in rows)
    return int(nothing or any(row.has_failed for row in rows))


def is_this_one(combination: Combination) -> bool:
    """Tell whether this Python and its Django are those of a combination."""
    try:
        django = numbers(metadata.version("django"))[:2]
    except metadata.PackageNotFoundError:
        return False
    return (sys.version_info[:2], django) == (
        numbers(combination.python),
        numbers(combination.django),
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
