"""Parsers for environment variables: flags, numbers, lists, JSON, and secrets in files.

Pure functions over a mapping. Errors name the variable, and never show a secret.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from realtime.core.url_rules import is_line, read_url

DIGITS = 20  # int() rejects more than 4,300 with an error of its own
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off", ""})
_LINE_BREAKS = str.maketrans("", "", "\t\r\n")


class BadEnvironment(ImproperlyConfigured):
    """A variable of the environment is missing or invalid.

    Attributes:
        variable: Its name.
        problem: What is wrong with it and what to do, as the rest of a sentence.
    """

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(f"{variable} {problem}")
        self.variable = variable
        self.problem = problem


def check_texts(
    environ: Mapping[str, str], names: Iterable[str], may_have_lines: Iterable[str]
) -> None:
    """Reject variables that are blank or have control characters, which parsers drop silently.

    Args:
        environ: The environment.
        names: The names of all variables.
        may_have_lines: Names of those that may contain line breaks and tabs.

    Raises:
        BadEnvironment: A variable is invalid; its value is not shown, since it may be a secret.
    """
    for name in names:
        given = environ.get(name, "")
        if given and not given.strip():
            raise BadEnvironment(name, "contains only whitespace: unset it or set a value.")
        text = given.translate(_LINE_BREAKS) if name in may_have_lines else given
        if not is_line(text):
            raise BadEnvironment(
                name, "contains a line break or another control character: use a single line."
            )


def read_secret_files(environ: Mapping[str, str], secrets: Iterable[str]) -> Mapping[str, str]:
    """Return the environment with secrets from files replaced by their content.

    Args:
        environ: Has ``NAME_FILE`` instead of ``NAME`` for secrets in files.
        secrets: The names of the secrets.

    Raises:
        BadEnvironment: A file cannot be read or is empty, or a secret is given twice.
    """
    files = {name: f"{name}_FILE" for name in secrets if environ.get(f"{name}_FILE")}
    if not files:
        return environ
    rest = {name: text for name, text in environ.items() if name not in files.values()}
    return {**rest, **{name: _read_secret(environ, name, file) for name, file in files.items()}}


def _read_secret(environ: Mapping[str, str], name: str, variable: str) -> str:
    if environ.get(name):
        raise BadEnvironment(variable, f"and {name} are both set: unset one of them.")
    secret = read_file(variable, environ[variable]).rstrip("\r\n")
    if not secret:
        raise BadEnvironment(variable, "names an empty file.")
    return secret


def read_flag(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Return a variable as a boolean; an empty one counts as missing, as in files for Docker."""
    given = environ.get(name, "").strip()
    if not given:
        return default
    if given.lower() in _YES:
        return True
    if given.lower() in _NO:
        return False
    raise BadEnvironment(name, f"is {given!r}: use 1 or 0.")


def read_integer(
    environ: Mapping[str, str], name: str, *, default: int, least: int, most: int
) -> int:
    """Return a variable as an integer."""
    given = environ.get(name, "").strip()
    if not given:
        return default
    # isascii too: int() accepts digits of any script.
    is_number = given.isascii() and given.isdigit() and len(given) <= DIGITS
    if not is_number or not least <= int(given) <= most:
        raise BadEnvironment(name, f"is {given[:40]!r}: use a number from {least} to {most}.")
    return int(given)


def read_web_address(environ: Mapping[str, str], name: str) -> str:
    """Return a variable as the address of a web page, without a slash at the end; "" if unset."""
    given = environ.get(name, "").strip()
    parts = read_url(given) if given else None
    if given and (parts is None or parts.scheme not in {"http", "https"} or "@" in parts.netloc):
        raise BadEnvironment(name, f"is {given[:60]!r}: use an address that begins with https://.")
    return given.rstrip("/")


def read_list(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return a comma-separated variable as its items."""
    return split(environ.get(name, ""))


def split(text: str) -> tuple[str, ...]:
    """Split a text at its commas."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def parse_json(variable: str, text: str) -> Any:
    """Parse JSON, or the JSON in the file that is named as ``@path``."""
    try:
        return json.loads(file_or_text(variable, text))
    except ValueError as error:
        raise BadEnvironment(variable, f"is not JSON: {error}.") from error
    except RecursionError:
        raise BadEnvironment(variable, "is nested too deeply.") from None


def file_or_text(variable: str, text: str) -> str:
    """Return a text, or the content of the file that is named as ``@path``."""
    return read_file(variable, text[1:]) if text.startswith("@") else text


def read_file(variable: str, path: str) -> str:
    """Return the content of a file that a variable names."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadEnvironment(variable, f"names a file that cannot be read: {error}.") from error
