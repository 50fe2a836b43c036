"""``python -m notifier.prepare``: is the database ready? A process beside the workers that start.

The launcher starts it, so that what it needs (Django with all models, and a third of a second for
each new password) is neither in the launcher nor in the way of the workers. What it prints is the
reason why the service cannot start.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

import django
from django.conf import settings
from django.core.management import call_command
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from notifier import kept, private, servicefile
from notifier.database import file_of
from notifier.preparation import NO_REDIS_YET

logger = logging.getLogger("notifier.prepare")


def main(arguments: list[str] | None = None) -> int:
    """Prepare or check the database that the settings name; 0 if the service may go on."""
    parser = argparse.ArgumentParser(prog="notifier.prepare", description=__doc__)
    parser.add_argument("--migrate", action="store_true", help="make what is missing")
    parser.add_argument("--demo", action="store_true", help="it is the database of `make run`")
    options = parser.parse_args(arguments)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier.settings")
    django.setup()
    if settings.REALTIME_REDIS_URL == NO_REDIS_YET:
        settings.REALTIME_REDIS_URL = ""  # no node is there to be told of a new password
    # One connection is enough; and a pool waits and logs where we want to know what is wrong.
    connection.settings_dict["OPTIONS"].pop("pool", None)
    try:
        if options.migrate:
            migrate(demo=options.demo)
        else:
            check()
    except (DatabaseError, NotReady) as error:
        # The first line names host and user, never the password.
        reason = f"DATABASE_URL: {str(error).splitlines()[0]}\n"
        # UTF-8 in any locale, as the launcher reads it: PostgreSQL speaks the language of its own.
        sys.stdout.buffer.write(reason.encode("utf-8", "backslashreplace"))
        return 1
    return 0


class NotReady(Exception):
    """The database cannot be used; the text says what to do."""


def migrate(*, demo: bool) -> None:
    """Bring the tables up to date; with ``demo``, the demo users too.

    Raises:
        DatabaseError: It cannot be reached or written.
    """
    _make_directory(is_own=demo)
    if _pending():
        call_command("migrate", verbosity=0, interactive=False)
    if demo:
        _demo_users()


def check() -> None:
    """Look for the tables.

    A database that is away stops nobody: all but the pages of users works without, and it may come
    back before one is asked for.

    Raises:
        NotReady: Tables are missing.
    """
    path = file_of(connection.settings_dict)
    if path is not None and not path.exists():  # to look into it would create it
        raise NotReady(_MIGRATE)
    try:
        missing = _pending()
    except DatabaseError as error:
        logger.error("the database is away, so nobody is logged in: %s", str(error).splitlines()[0])
        return
    if missing:
        raise NotReady(_MIGRATE)


_MIGRATE = "tables of users and sessions are missing there; make them: python manage.py migrate"


def _pending() -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _make_directory(*, is_own: bool) -> None:
    """Make the place of the file, which `notifier.sqlite` creates so that only we can read it.

    Args:
        is_own: Whether it is the database of `make run`, and not one that somebody has chosen.
    """
    path = file_of(connection.settings_dict)
    if path is None:
        return
    path.parent.mkdir(mode=private.DIRECTORY_MODE, parents=True, exist_ok=True)
    if is_own:  # an earlier version left it to umask, where a command came before `make run`
        for suffix in ("", "-wal", "-shm", "-journal"):
            private.tighten(path.with_name(path.name + suffix))


def _demo_users() -> None:
    from notifier.accounts import remove_demo_users, set_demo_users

    passwords = kept.recall(servicefile.default_path().parent).passwords
    if settings.DEBUG:
        set_demo_users(passwords)
    else:
        remove_demo_users(passwords)


if __name__ == "__main__":
    sys.exit(main())
