"""The requirements files match uv.lock, and name neither a host nor a machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
FILES = {
    "requirements.txt": ["service"],
    "requirements-dev.txt": ["service", "dev"],
    "docs/site/requirements.txt": ["docs"],
}
ALONE = {"docs"}
"""Groups that are installed without the project."""
PROJECT = "django-realtime-notifier"


def locked() -> dict[tuple[str, str], dict]:
    packages = tomllib.loads((CHECKOUT / "uv.lock").read_text())["package"]
    return {(package["name"], package["version"]): package for package in packages}


def pinned(name: str) -> dict[tuple[str, str], set[str]]:
    """Return the hashes of each pinned package."""
    pins: dict[tuple[str, str], set[str]] = {}
    for line in (CHECKOUT / name).read_text().splitlines():
        if match := re.match(r"([a-z0-9.-]+)(?:\[[a-z,]+\])?==(\S+)", line):
            pins[(match[1], match[2])] = hashes = set()
        hashes.update(re.findall(r"--hash=(sha256:[0-9a-f]{64})", line))
    return pins


def reachable(groups: list[str]) -> set[tuple[str, str]]:
    """Walk uv.lock from the project and its groups to everything that they need."""
    packages = locked()
    by_name: dict[str, list[tuple[str, str]]] = {}
    for key in packages:
        by_name.setdefault(key[0], []).append(key)
    project = packages[by_name[PROJECT][0]]
    todo = [] if ALONE.issuperset(groups) else list(project["dependencies"])
    for group in groups:
        todo += project["dev-dependencies"][group]
    seen: set[tuple[str, str]] = set()
    while todo:
        wanted = todo.pop()
        for key in by_name[wanted["name"]]:
            if wanted.get("version", key[1]) != key[1]:
                continue
            extras = packages[key].get("optional-dependencies", {})
            todo += [need for extra in wanted.get("extra", []) for need in extras[extra]]
            if key not in seen:
                seen.add(key)
                todo += packages[key].get("dependencies", [])
    return seen


def asked_for(requirements: list[str]) -> set[tuple[str, str]]:
    """Return name and versions of each requirement, the versions in any order."""
    read = [re.match(r"([\w.-]+)(?:\[[\w,-]+\])?([^;]*)", each) for each in requirements]
    return {(match[1].lower(), ordered(match[2])) for match in read if match}


def ordered(specifier: str) -> str:
    return ",".join(sorted(part.strip() for part in specifier.split(",")))


def test_the_lock_asks_for_what_the_project_asks_for():
    """`uv sync --locked` refuses any other, so that no verb works where uv is installed.

    If this fails, run ``make lock``.
    """
    toml = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    [locked_project] = [each for key, each in locked().items() if key[0] == PROJECT]
    metadata = locked_project["metadata"]
    named = {"": toml["project"]["dependencies"], **toml["project"]["optional-dependencies"]}
    wanted = {each for requirements in named.values() for each in asked_for(requirements)}
    found = metadata["requires-dist"]
    assert {(each["name"], ordered(each.get("specifier", ""))) for each in found} == wanted
    assert metadata["requires-dev"].keys() == toml["dependency-groups"].keys()
    for group, requirements in toml["dependency-groups"].items():
        found = metadata["requires-dev"][group]
        assert {(each["name"], ordered(each.get("specifier", ""))) for each in found} == asked_for(
            requirements
        )


@pytest.mark.parametrize(("name", "groups"), FILES.items())
def test_the_export_agrees_with_the_lock(name, groups):
    """If this fails, run ``make lock``."""
    pins, packages = pinned(name), locked()
    assert set(pins) == reachable(groups)
    for key, hashes in pins.items():
        files = [*packages[key].get("wheels", []), packages[key].get("sdist", {})]
        assert hashes == {file["hash"] for file in files if file}, key


@pytest.mark.parametrize("name", FILES)
def test_the_export_names_no_host_and_no_path(name):
    text = (CHECKOUT / name).read_text()
    assert "://" not in text
    assert not re.search(r"(?m)^\s*(-i|-f|-e|/|\.|--index|--extra|--find|--trusted)", text)


def test_the_lock_refers_only_to_the_public_index():
    hosts = set(re.findall(r"https?://([^/\"]+)", (CHECKOUT / "uv.lock").read_text()))
    assert hosts <= {"pypi.org", "files.pythonhosted.org"}


def test_vulnerable_versions_are_excluded():
    versions = dict(pinned("requirements.txt").keys())
    # daphne < 4.2.2: CVE-2026-44545, CVE-2026-44546. uvicorn < 0.52.1: no write flow control.
    assert numbers(versions["daphne"]) >= (4, 2, 3)
    assert numbers(versions["uvicorn"]) >= (0, 52, 1)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
