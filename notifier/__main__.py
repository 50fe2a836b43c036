"""``python -m notifier run`` and ``python -m notifier serve``."""

from __future__ import annotations

import sys

from notifier.launcher import main

if __name__ == "__main__":
    sys.exit(main())
