"""``python -m notifier run`` and ``python -m notifier serve``."""

from __future__ import annotations

import sys

try:
    from notifier.launcher import main
except ModuleNotFoundError as error:
    if error.name != "django":
        raise
    raise SystemExit(
        "notifier: Django is missing here: docs/deploy.md says how to install, or run `make setup`;"
        " then .venv/bin/python -m notifier"
    ) from None

if __name__ == "__main__":
    sys.exit(main())
