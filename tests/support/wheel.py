"""The wheel of this checkout."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT

_NO_BACKEND = re.compile(r"failed to (resolve|fetch)|no matching distribution|connection", re.I)


def build_wheel(folder: Path) -> Path:
    """Build the wheel into an empty directory; skip the test where the tools are out of reach."""
    if shutil.which("uv"):
        command = ["uv", "build", "--wheel", "--out-dir", str(folder), str(ROOT)]
    else:
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "hatchling" in done.stderr and _NO_BACKEND.search(done.stderr):
        pytest.skip("the wheel cannot be built here: hatchling cannot be fetched")
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    return built
