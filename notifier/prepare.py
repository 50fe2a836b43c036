"""``python -m notifier.prepare``: prepares the database in a process next to the starting workers.

The launcher starts it, so that neither the launcher nor the workers have to load what it needs
(Django with all models, and a third of a second for each new password). It prints the reason why
the service cannot start, if there is one.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from notifier import private, run_secrets, servicefile
from notifier.database import file_of
from notifier.preparation import NO_REDIS_YET
from notifier.static_files import NotCollected, check_collected

logger = logging.getLogger("notifier.prepare")


def main(arguments: list[str] | None = None) -> int:
    """Prepare or check what the settings name; return 0 if the service may continue."""
    parser = argparse.ArgumentParser(prog="notifier.prepare", description=__doc__)
    parser.add_argument("--migrate", action="store_true", help="apply missing migrations")
    parser.add_argument("--demo", action="store_true", help="create the demo users of `make run`")
    options = parser.parse_args(arguments)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier.settings")
    django.setup()
    if settings.REALTIME_REDIS_URL == NO_REDIS_YET:
        settings.REALTIME_REDIS_URL = ""  # no node exists yet that must know of new passwords
    # One connection is enough, and a pool would wait and log where we need the error.
    connection.settings_dict["OPTIONS"].pop("pool", None)
    try:
        if options.migrate:
            migrate(demo=options.demo)
        else:
            check()
        check_static_files(are_required=not options.migrate)
    except (DatabaseError, NotReady, NotCollected) as error:
        # The first line names host and user, never the password.
        reason = str(error).splitlines()[0]
        reason = f"{reason}\n" if isinstance(error, NotCollected) else f"DATABASE_URL: {reason}\n"
        # UTF-8 in any locale, as the launcher expects: PostgreSQL has a locale of its own.
        sys.stdout.buffer.write(reason.encode("utf-8", "backslashreplace"))
        return 1
    return 0


class NotReady(Exception):
    """The database cannot be used; the text says what to do."""


def migrate(*, demo: bool) -> None:
    """Apply the migrations and, with ``demo``, set up the demo users.

    Raises:
        DatabaseError: The database cannot be reached or written.
    """
    _make_directory(is_own=demo)
    if has_pending_migrations():
        call_command("migrate", verbosity=0, interactive=False)
    if demo:
        _demo_users()


def check() -> None:
    """Check that the tables exist.

    An unreachable database is not an error: everything but the pages of users works without it, and
    it may be back before one is requested.

    Raises:
        NotReady: Tables are missing.
    """
    path = file_of(connection.settings_dict)
    if path is not None and not path.exists():  # connecting would create it
        raise NotReady(_MIGRATE)
    try:
        missing = has_pending_migrations()
    except DatabaseError as error:
        logger.error(
            "the database is unreachable, users cannot log in: %s", str(error).splitlines()[0]
        )
        return
    if missing:
        raise NotReady(_MIGRATE)


def check_static_files(*, are_required: bool) -> None:
    """Check that the collected static files are those of this version.

    Args:
        are_required: Whether they must be there; `make run` does without, also when DEBUG is off.

    Raises:
        NotCollected: They are not.
    """
    are_used = are_required or not getattr(settings, "WHITENOISE_USE_FINDERS", True)
    if settings.STATIC_ROOT and are_used and not settings.DEBUG:
        check_collected(Path(settings.STATIC_ROOT))


_MIGRATE = "the tables are missing; create them with: python manage.py migrate"


def has_pending_migrations() -> bool:
    """Return whether tables are missing.

    Raises:
        DatabaseError: The database cannot be reached.
    """
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _make_directory(*, is_own: bool) -> None:
    """Create the directory of the database file; `notifier.sqlite` makes the file itself private.

    Args:
        is_own: Whether it is the database of `make run`, as opposed to a configured one.
    """
    path = file_of(connection.settings_dict)
    if path is None:
        return
    path.parent.mkdir(mode=private.DIRECTORY_MODE, parents=True, exist_ok=True)
    if is_own:  # an earlier version left it to umask if another command ran before `make run`
        for suffix in ("", "-wal", "-shm", "-journal"):
            private.tighten(path.with_name(path.name + suffix))


def _demo_users() -> None:
    from notifier.accounts import remove_demo_users, set_demo_users

    passwords = run_secrets.load(servicefile.default_path().parent).passwords
    if settings.DEBUG:
        set_demo_users(passwords)
    else:
        remove_demo_users(passwords)


if __name__ == "__main__":
    sys.exit(main())
