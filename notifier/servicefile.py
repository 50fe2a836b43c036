"""``.run/service.json``: where the service of ``make run`` is, for commands in another terminal.

The launcher writes it (0600, as it holds secrets generated for one run), ``manage.py`` reads it. A
file whose launcher is no longer running is ignored. Standard library only: the guardian, which must
start fast, uses it as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from urllib.parse import quote

from notifier import private

# What a command needs as a client of the running service: name in the file, variable.
_VARIABLES = {
    "url": "NOTIFIER_URL",
    "redis_url": "REDIS_URL",
    "secret_key": "SECRET_KEY",
    "api_key": "NOTIFIER_API_KEY",
    "token_secret": "NOTIFIER_TOKEN_SECRET",
    "namespaces": "NOTIFIER_NAMESPACES",
    "database_url": "DATABASE_URL",
}


_SAID_OTHERWISE = ("SECRET_KEY", "SECRET_KEY_FILE", "REDIS_URL", "REDIS_URL_FILE", "DEBUG")


def default_path() -> Path:
    """Return the path of the file: in the checkout, or in NOTIFIER_RUN_DIR (used by tests)."""
    directory = (
        os.environ.get("NOTIFIER_RUN_DIR") or Path(__file__).resolve().parent.parent / ".run"
    )
    return Path(directory) / "service.json"


def database_path(path: Path) -> Path:
    """Return the path of the users' database of ``make run``, which commands use, too."""
    return path.with_name("db.sqlite3")


def database_url(path: Path) -> str:
    """Return the same as a value for DATABASE_URL."""
    return f"sqlite:///{quote(str(database_path(path)))}"


def write(path: Path, environ: Mapping[str, str], *, pid: int) -> None:
    """Write the file atomically, and so that no other user ever sees it.

    Raises:
        NotPrivate: Others can access its directory.
    """
    facts = {
        name: environ[variable] for name, variable in _VARIABLES.items() if variable in environ
    }
    private.write(path, json.dumps({"pid": pid} | facts, indent=2))


def read(path: Path) -> dict[str, str] | None:
    """Return what a running launcher wrote, or None.

    Raises:
        NotPrivate: Someone else may have written it, and would receive what a command sends.
    """
    try:
        content = json.loads(private.read(path))
        os.kill(int(content.pop("pid")), 0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {str(name): str(value) for name, value in content.items()}


def remove(path: Path, *, pid: int) -> None:
    """Remove the file, unless another launcher has written its own in the meantime."""
    try:
        if json.loads(private.read(path))["pid"] == pid:
            path.unlink()
    except (OSError, ValueError, KeyError, TypeError, private.NotPrivate):
        return


def adopt(environ: MutableMapping[str, str], path: Path) -> bool:
    """Let a command find the service of ``make run``, if the environment names none.

    Without a running service the command still gets what Django needs to print its help: DEBUG, and
    a key whose signatures are never verified.

    Returns:
        Whether there is a service: in the environment, or running.

    Raises:
        NotPrivate: Someone else may have written the file.
    """
    if any(environ.get(name) for name in _SAID_OTHERWISE):
        return True
    running = read(path)
    facts = running or {"secret_key": "signs-nothing-" + os.urandom(24).hex()}
    environ["DEBUG"] = "1"
    for name, variable in _VARIABLES.items():
        if name in facts and not environ.get(variable):
            environ[variable] = facts[name]
    environ.setdefault("DATABASE_URL", database_url(path))
    return running is not None
