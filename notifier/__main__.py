"""``python -m notifier run`` and ``python -m notifier serve``."""

from __future__ import annotations

import sys

try:
    from notifier.launcher import main
except ModuleNotFoundError as error:
    if error.name != "django":
        raise
    raise SystemExit(
        "notifier: Django is not installed: see docs/deploy.md, or run `make setup` and then"
        " .venv/bin/python -m notifier"
    ) from None

if __name__ == "__main__":
    sys.exit(main())
