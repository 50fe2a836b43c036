"""Collecting the static files of the service, and noticing that it was forgotten."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command
from django.test import override_settings

from notifier.static_files import MISSING, OUTDATED, NotCollected, check_collected

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The folder that a fresh clone does not have."""
    root = tmp_path / "staticfiles"
    backend = "notifier.static_files.StaticFilesStorage"
    with override_settings(
        STATIC_ROOT=root,
        STATICFILES_DIRS=[ROOT / "static"],
        STORAGES={"staticfiles": {"BACKEND": backend}},
    ):
        yield root


def collect() -> None:
    call_command("collectstatic", clear=True, interactive=False, verbosity=0)


def test_forgetting_to_collect_is_noticed(root: Path) -> None:
    with pytest.raises(NotCollected) as refused:
        check_collected(root)
    assert str(refused.value) == MISSING
    collect()
    check_collected(root)


@pytest.mark.parametrize("name", ["notifier/live.js", "realtime/client.js"])
def test_files_of_another_version_are_noticed(root: Path, name: str) -> None:
    collect()
    before = (root / name).stat()
    (root / name).write_text("export {}", encoding="utf-8")
    os.utime(root / name, (before.st_atime, before.st_mtime))
    with pytest.raises(NotCollected, match=re.escape(OUTDATED)):
        check_collected(root)
    collect()  # although the copy is no older than its source
    check_collected(root)
    (root / name).unlink()
    with pytest.raises(NotCollected, match=re.escape(OUTDATED)):
        check_collected(root)


def test_an_interrupted_collection_is_noticed(root: Path) -> None:
    collect()
    later = (root / "staticfiles.json").stat().st_mtime + 1
    os.utime(root / "notifier/page.js", (later, later))
    with pytest.raises(NotCollected, match=re.escape(OUTDATED)):
        check_collected(root)


def test_modules_import_each_other_by_their_hashed_names(root: Path) -> None:
    """A plain name would load a module twice, and be asked for again each minute."""
    collect()
    hashed = [path for path in root.rglob("*.js") if re.search(r"\.[0-9a-f]{12}\.js$", path.name)]
    ours = [path for path in hashed if path.parent.name in {"notifier", "realtime"}]
    count = 0
    for module in ours:
        for target in re.findall(r'^import .* from "([^"]+)"', module.read_text("utf-8"), re.M):
            assert re.search(r"\.[0-9a-f]{12}\.js$", target), (module.name, target)
            assert (module.parent / target).resolve() in hashed, (module.name, target)
            count += 1
    assert count > 40
