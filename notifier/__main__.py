"""``python -m notifier``: see `notifier.command_line`."""

from __future__ import annotations

import sys

try:
    import django  # noqa: F401 - tells whether the packages are installed

    from notifier.command_line import main
except ModuleNotFoundError as error:
    if error.name != "django":
        raise
    raise SystemExit(
        "notifier: Django is not installed: see docs/deploy.md, or run `make setup` and then"
        " .venv/bin/python -m notifier"
    ) from None

if __name__ == "__main__":
    sys.exit(main())
