"""The launcher starts in every `make run`: it loads no server and no models."""

from __future__ import annotations

import json
import subprocess
import sys

# What workers and the preparation of the database load, next to the launcher.
HEAVY = ("uvicorn", "websockets", "channels", "django.db.models", "redis")
PRINT_LOADED = "import json, sys, notifier.launcher; print(json.dumps(sorted(sys.modules)))"


def test_the_launcher_loads_neither_server_nor_models():
    done = subprocess.run(
        [sys.executable, "-c", PRINT_LOADED], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "notifier.fleet" in loaded
    assert loaded.isdisjoint(HEAVY)
