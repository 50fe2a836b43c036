"""The units of `deploy/systemd`: valid, and confined."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from notifier.env import SECRETS
from notifier.listening import STOP_SECONDS
from tests.support.service import ROOT

pytestmark = pytest.mark.systemd

UNITS = ROOT / "deploy" / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
PROGRAMS = "/srv/notifier/.venv/bin"
EXPOSURE_AT_MOST = 3.0
"""Of 10, by the measure of systemd-analyze; without confinement it is 9.2."""


def analyze(*arguments: str, units: Path = UNITS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{units}:"},  # with the units of the system
        capture_output=True, text=True,
    )  # fmt: skip


def lines_of(name: str) -> dict[str, str]:
    text = (UNITS / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.M))


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """With the programs of this environment; systemd looks whether they are there."""
    units = tmp_path / "system"
    shutil.copytree(UNITS, units)
    for unit in units.glob("*.service"):
        text = unit.read_text(encoding="utf-8").replace(PROGRAMS, str(Path(sys.executable).parent))
        unit.write_text(text, encoding="utf-8")
    names = [*units.glob("*.target"), *units.glob("*.service")]
    found = analyze("verify", *map(str, names), units=units)
    ours = [line for line in found.stderr.splitlines() if "notifier" in line]
    assert (found.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_a_unit_is_confined(unit: Path) -> None:
    found = analyze("security", "--offline=true", str(unit))
    [exposure] = re.findall(r"Overall exposure level for \S+: ([\d.]+)", found.stdout)
    assert float(exposure) <= EXPOSURE_AT_MOST, found.stdout


def test_the_units_run_what_the_procfile_runs() -> None:
    procfile = dict(re.findall(r"^(\w+): (.*)$", (ROOT / "Procfile").read_text("utf-8"), re.M))
    for process, unit in {"web": "web", "fallback": "fallback", "jobs": "jobs"}.items():
        command = lines_of(f"notifier-{unit}.service")["ExecStart"].replace(f"{PROGRAMS}/", "")
        assert shlex.split(command) == shlex.split(procfile[process])


def test_secrets_come_as_credentials_and_under_the_names_that_the_service_reads() -> None:
    text = (UNITS / "notifier-.service.d/shared.conf").read_text(encoding="utf-8")
    loaded = dict(re.findall(r"^LoadCredential=(\w+):(.*)$", text, re.M))
    named = dict(re.findall(r"^Environment=(\w+)_FILE=%d/(\w+)$", text, re.M))
    assert set(named) <= set(SECRETS)
    assert set(named.values()) == set(loaded)
    [hidden] = re.findall(r"^InaccessiblePaths=(.*)$", text, re.M)
    assert all(file == f"{hidden}/{name}" for name, file in loaded.items())


def test_the_service_has_more_time_to_stop_than_it_needs_and_is_told_once() -> None:
    """systemd tells each process of a unit by default; twice told, a worker exits immediately."""
    assert STOP_SECONDS < float(lines_of("notifier-web.service")["TimeoutStopSec"]) == 25
    assert lines_of("notifier-.service.d/shared.conf")["KillMode"] == "mixed"
