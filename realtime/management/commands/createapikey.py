"""`manage.py createapikey NAME`: a key for one more publisher."""

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

from realtime.errors import ConfigurationError
from realtime.keys import BY_DEFAULT, METHODS, SETTING, digest_of, keys_of
from realtime.watched import read_file

SECRET_BYTES = 32
FRESH_MODE = 0o600


class Command(BaseCommand):
    help = "Make an API key: print its secret, once, and the entry that makes it known."
    requires_system_checks = ()  # it is needed where the keys are what is missing

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "The secret is all that is printed to stdout with --file, and the first line without;\n"
            "then the entry follows, for the list in REALTIME_API_KEYS (NOTIFIER_API_KEYS).\n"
            "Whoever publishes sends the secret as X-API-Key. It is stored nowhere: an entry has\n"
            "only its SHA-256. A running service reads a changed file within two seconds.\n\n"
            "patterns are held against a channel part by part, between the colons:\n"
            "  orders:*     orders:7, not orders:7:lines\n"
            "  orders:**    both of them, not orders\n"
            "  *            every channel without a colon\n"
            "  **           every channel\n\n"
            "example:\n"
            "  manage.py createapikey shop --channels 'orders:*' public:news \\\n"
            "      --methods publish batch --rate 100 --file /etc/notifier/keys.json"
        )
        parser.add_argument("name", help="who will have it, as the log says it: A-Z a-z 0-9 _ - .")
        parser.add_argument(
            "--channels", nargs="+", metavar="PATTERN", help="what it may publish to; default: all"
        )
        parser.add_argument(
            "--methods",
            nargs="+",
            metavar="METHOD",
            default=list(BY_DEFAULT),
            help=f"out of {', '.join(METHODS)}; default: {' '.join(BY_DEFAULT)}",
        )
        parser.add_argument(
            "--fallbacks",
            nargs="*",
            metavar="NAME",
            default=[],
            help="which fallbacks it may name; default: none",
        )
        parser.add_argument(
            "--rate", type=_number, metavar="N", help="publications a second, over all nodes"
        )
        parser.add_argument(
            "--file",
            metavar="PATH",
            help="add the entry to this file, which is made (0600) where it is missing",
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
            self.stderr.write(f"The key {entry['name']} is in {options['file']}.", str)
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
    """Add an entry to a file so that no reader sees half of it and no other command loses it.

    Raises:
        ConfigurationError: What is there cannot be used, or has this name.
        OSError: It cannot be read or written.
    """
    path = path.resolve()  # what a symbolic link leads to is replaced, not the link
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
    """Let one command at a time into a folder: the file itself is another one after each."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locks.lock(descriptor, locks.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FRESH_MODE)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            if path.exists():
                # Or a service that runs as somebody else could not read its keys any more.
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
