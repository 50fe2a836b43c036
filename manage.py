#!/usr/bin/env python
"""Django's command line for the service.

Without an environment it finds the service that ``make run`` started in another terminal.
"""

from __future__ import annotations

import os
import sys

NOT_CONFIGURED = (
    "SECRET_KEY is missing: set the variables of docs/deploy.md, or start the service with"
    " `make run` in another terminal."
)


def needs_database(arguments: list[str]) -> bool:
    """Return whether a command would only fail without a database, or create an unwanted one."""
    commands = {"migrate", "createsuperuser", "changepassword"}
    return not commands.isdisjoint(arguments[1:2]) and "--help" not in arguments


def main() -> None:
    """Run a management command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
        from django.db import OperationalError
    except ImportError:
        sys.exit(
            "manage.py: Django is not installed: run `make setup`, then .venv/bin/python manage.py"
        )
    from notifier import servicefile
    from notifier.private import NotPrivate

    path = servicefile.default_path()
    try:
        is_configured = servicefile.adopt(os.environ, path)
        if not is_configured and needs_database(sys.argv) and not path.parent.exists():
            sys.exit(f"manage.py: {NOT_CONFIGURED}")
        execute_from_command_line(sys.argv)
    except (ImproperlyConfigured, NotPrivate) as error:
        # A sentence that names the variable or setting; a traceback would only hide it.
        sys.exit(f"manage.py: {error}")
    except OperationalError as error:
        # The first line names host and user, never the password.
        sys.exit(f"manage.py: DATABASE_URL: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()
