#!/usr/bin/env python
"""Django's command line for the service.

Without an environment it finds the service that ``make run`` started in another terminal.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run a management command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit(
            "manage.py: Django is not installed: run `make setup`, then .venv/bin/python manage.py"
        )
    from notifier import servicefile
    from notifier.private import NotPrivate

    try:
        servicefile.adopt(os.environ, servicefile.default_path())
        execute_from_command_line(sys.argv)
    except (ImproperlyConfigured, NotPrivate) as error:
        # A sentence that names the variable or setting; a traceback would only hide it.
        sys.exit(f"manage.py: {error}")


if __name__ == "__main__":
    main()
