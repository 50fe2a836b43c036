"""`manage.py createapikey NAME`: create a key for another publisher."""

from __future__ import annotations

import json
import os
import secrets
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.files import locks
from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.api.key_entries import SETTING, keys_of
from realtime.api.keys import BY_DEFAULT, KEY_METHODS, digest_of
from realtime.auth.watched_file import read_file
from realtime.errors import ConfigurationError

SECRET_BYTES = 32
FRESH_MODE = 0o600


class Command(BaseCommand):
    help = "Create an API key: print its secret once, and the entry to configure it."
    requires_system_checks = ()  # the missing keys may be what a check would complain about

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "With --file, stdout has only the secret. Without it, the secret is the first line\n"
            "and the entry follows; add it to the list in REALTIME_API_KEYS (NOTIFIER_API_KEYS).\n"
            "Publishers send the secret as X-API-Key. It is not stored: the entry contains only\n"
            "its SHA-256. A running service reloads a changed file within two seconds.\n\n"
            "patterns match channel names segment by segment, split at colons:\n"
            "  orders:*     matches orders:7, not orders:7:lines\n"
            "  orders:**    matches both, not orders\n"
            "  *            every channel without a colon\n"
            "  **           every channel\n\n"
            "example:\n"
            "  manage.py createapikey shop --channels 'orders:*' public:news \\\n"
            "      --methods publish batch --rate 100 --file /etc/notifier/keys.json"
        )
        parser.add_argument("name", help="name of the key in logs: A-Z a-z 0-9 _ - .")
        parser.add_argument(
            "--channels",
            nargs="+",
            metavar="PATTERN",
            help="channels it may publish to; default: all",
        )
        parser.add_argument(
            "--methods",
            nargs="+",
            metavar="METHOD",
            default=list(BY_DEFAULT),
            help=f"methods it may call: {', '.join(KEY_METHODS)}; default: {' '.join(BY_DEFAULT)}",
        )
        parser.add_argument(
            "--fallbacks",
            nargs="*",
            metavar="NAME",
            default=[],
            help="fallbacks it may name; default: none",
        )
        parser.add_argument(
            "--rate",
            type=_number,
            metavar="N",
            help="publications per second across all nodes; default: no limit",
        )
        parser.add_argument(
            "--file",
            metavar="PATH",
            help="add the entry to this file; a missing file is created with mode 0600",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        secret = secrets.token_urlsafe(SECRET_BYTES)
        entry = _entry(secret, options)
        try:
            keys_of([entry])
            if options["file"]:
                _add(entry, Path(options["file"]))
        except ConfigurationError as error:
            raise CommandError(error.problem) from error
        except OSError as error:
            raise CommandError(f"{options['file']}: {error.strerror}") from error
        self.stdout.write(secret)
        if options["file"]:
            self.stderr.write(f"Added key {entry['name']} to {options['file']}.", str)
        else:
            self.stdout.write(json.dumps(entry))


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number  # 100, not 100.0 in the file


def _entry(secret: str, options: dict[str, Any]) -> dict[str, Any]:
    entry = {"name": options["name"], "sha256": digest_of(secret).hex()}
    chosen = {name: options[name] for name in ("channels", "methods", "rate", "fallbacks")}
    return entry | {name: value for name, value in chosen.items() if value is not None}


def _add(entry: dict[str, Any], path: Path) -> None:
    """Add an entry to a file atomically: no reader sees half of it, no other command loses it.

    Raises:
        ConfigurationError: The existing content is invalid, or has this name.
        OSError: The file cannot be read or written.
    """
    path = path.resolve()  # replaces the target of a symbolic link, not the link
    with _locked(path.parent):
        entries = []
        if path.exists():
            text, _ = read_file(str(path), SETTING)
            keys_of(text)
            entries = json.loads(text)
        entries.append(entry)
        keys_of(entries)
        _replace(path, json.dumps(entries, indent=2) + "\n")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a directory: the file itself is replaced by each command, so it cannot hold the lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locks.lock(descriptor, locks.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # also releases the lock


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FRESH_MODE)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            if path.exists():
                # Otherwise a service under another user could no longer read its keys.
                old = path.stat()
                os.fchown(descriptor, old.st_uid, old.st_gid)
                os.fchmod(descriptor, old.st_mode & 0o660)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
