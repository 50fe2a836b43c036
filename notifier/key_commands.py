"""``python -m notifier keys``: create, list and check API keys."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from notifier.app_variables import variable_of
from notifier.env import read_secrets
from notifier.variables import BadEnvironment, file_or_text, read_file
from realtime.api.key_entries import SETTING, describe_unlisted, read_keys
from realtime.api.keys import BY_DEFAULT, Keys
from realtime.errors import ConfigurationError

ONE, SEVERAL = variable_of("api_key"), variable_of("api_keys")


class KeyRow(NamedTuple):
    """What one key may do, as it is shown."""

    name: str
    methods: Sequence[str]
    channels: Sequence[str]
    rate: float | None
    fallbacks: Sequence[str]


ALL = ("all",)
MASTER = KeyRow("default", ALL, ALL, None, ALL)
"""The only key in NOTIFIER_API_KEY."""


def run_key_command(environ: Mapping[str, str], options: argparse.Namespace) -> int:
    """Run one of the commands; return the exit status."""
    commands = {"create": _create, "list": _list, "check": _check}
    try:
        return commands[options.key_command](environ, options)
    except (BadEnvironment, ConfigurationError) as error:
        print(f"notifier: {_say(error)}", file=sys.stderr)
        return 1


def _say(error: BadEnvironment | ConfigurationError) -> str:
    if isinstance(error, ConfigurationError):
        return f"the list of keys is not usable: {error.problem}"
    return str(error)


def _create(environ: Mapping[str, str], options: argparse.Namespace) -> int:
    """Do what `manage.py createapikey` does, which needs no settings either."""
    from django.core.management.base import CommandError

    from realtime.management.commands.createapikey import Command

    given = {name: getattr(options, name) for name in ("name", "channels", "rate", "file")}
    try:
        Command().handle(
            **given, methods=options.methods or list(BY_DEFAULT), fallbacks=options.fallbacks
        )
    except CommandError as error:
        print(f"notifier: {error}", file=sys.stderr)
        return 1
    return 0


def _list(environ: Mapping[str, str], options: argparse.Namespace) -> int:
    given = read_secrets(environ)
    if options.file:
        text = _read(options.file)
        rows: list[KeyRow] = []
    else:
        text = file_or_text(SEVERAL, given.get(SEVERAL, "").strip())
        rows = [MASTER] if given.get(ONE) else []
    flaws: list[ConfigurationError] = []
    if text:
        keys, flaws = read_keys(text)
        rows += _rows_of(keys, json.loads(text))
    print(json.dumps([row._asdict() for row in rows], indent=2) if options.json else _table(rows))
    for flaw in flaws:
        print(f"notifier: {flaw.problem}", file=sys.stderr)
    return int(bool(flaws))


def _check(environ: Mapping[str, str], options: argparse.Namespace) -> int:
    keys, flaws = read_keys(_read(options.file))
    for flaw in flaws:
        print(f"notifier: {options.file}: {flaw.problem}", file=sys.stderr)
    if flaws:
        return 1
    print(f"{options.file}: {len(keys)} {'key' if len(keys) == 1 else 'keys'}, all usable")
    if said := describe_unlisted(keys):
        print(f"notifier: {options.file}: {said}", file=sys.stderr)
    return 0


def _read(path: str) -> str:
    try:
        return read_file(SETTING, path)
    except BadEnvironment as error:
        cause = error.__cause__
        reason = getattr(cause, "strerror", None) or "it is not UTF-8"
        raise BadEnvironment(path, f"cannot be read: {reason}.") from error


def _rows_of(keys: Keys, entries: Sequence[Any]) -> list[KeyRow]:
    """Return a row for each usable entry, in the order of the list."""
    rows = []
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        key = next((key for key in keys if key.name == entry.get("name")), None)
        if key is not None:
            channels = entry.get("channels")
            rows.append(
                KeyRow(
                    key.name,
                    tuple(entry.get("methods") or BY_DEFAULT),
                    ALL if channels is None else tuple(channels),
                    key.rate,
                    tuple(entry.get("fallbacks") or ()),
                )
            )
    return rows


def _table(rows: Sequence[KeyRow]) -> str:
    cells = [
        ("name", "methods", "channels", "rate", "fallbacks"),
        *(
            (
                row.name,
                " ".join(row.methods),
                " ".join(row.channels),
                "no limit" if row.rate is None else f"{row.rate:g}/s",
                " ".join(row.fallbacks) or "none",
            )
            for row in rows
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines)
