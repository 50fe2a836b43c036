"""The files by which others take part: workflows, templates, editors, hooks."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.matrix import PYTHONS

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, re.M))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def each_workflow() -> Any:
    return pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = load(path)["jobs"]
    return found


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(path).values():
        yield from job["steps"]


def commands(path: Path) -> Iterator[list[str]]:
    """Yield each command of a workflow as words, once for each value of a matrix."""
    for job in jobs(path).values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            for text in expand(step.get("run", ""), matrix):
                for line in text.splitlines():
                    yield shlex.split(line)


def expand(text: str, matrix: dict[str, list[str]]) -> list[str]:
    texts = [text]
    for name, values in matrix.items():
        texts = [
            each.replace(f"${{{{ matrix.{name} }}}}", value) for each in texts for value in values
        ]
    return list(dict.fromkeys(texts))


def test_there_are_the_workflows_that_contributing_names() -> None:
    assert {path.stem for path in WORKFLOWS} == {"ci", "docs", "nightly", "release"}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in WORKFLOWS:
        assert f"`{path.relative_to(ROOT)}`" in text


@each_workflow()
def test_a_workflow_calls_only_targets_that_exist(path: Path) -> None:
    called = {words[1] for words in commands(path) if words[:1] == ["make"]}
    assert called <= TARGETS
    scripts = {words[0] for words in commands(path) if words and words[0].startswith(".ci/")}
    assert all((ROOT / script).is_file() for script in scripts)


def test_each_change_is_checked_like_on_the_machine_of_a_contributor() -> None:
    ci = list(commands(GITHUB / "workflows" / "ci.yml"))
    assert [".ci/run"] in ci
    assert {words[-1].split()[-1] for words in ci if words[:2] == ["make", "matrix"]} == set(
        PYTHONS
    )
    assert ["make", "package"] in ci


def test_what_takes_long_runs_at_night() -> None:
    called = {
        words[1] for words in commands(GITHUB / "workflows" / "nightly.yml") if "make" in words
    }
    assert called >= {"test-faults", "threats", "soak", "coverage", "foreign"}


PINNED = re.compile(r"[\w.-]+/[\w./-]+@(v\d+(\.\d+)*|[0-9a-f]{40})")


@each_workflow()
def test_each_action_is_pinned(path: Path) -> None:
    for step in steps(path):
        assert "uses" not in step or PINNED.fullmatch(step["uses"]), step["uses"]
    for job in jobs(path).values():
        assert re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"]), "not whatever is the latest"


@pytest.mark.parametrize("action", ["actions/checkout", "a/b@main", "a/b@release/v1", "a/b@v1x"])
def test_an_action_that_is_not_pinned_is_found(action: str) -> None:
    assert not PINNED.fullmatch(action)


MAY_WRITE = {("release", "pypi"): {"id-token"}, ("release", "npm"): {"id-token"}}
"""What jobs may write: an identity, which the registry of the packages verifies."""


@each_workflow()
def test_permissions_are_least(path: Path) -> None:
    assert load(path)["permissions"] == {"contents": "read"}
    for name, job in jobs(path).items():
        given = job.get("permissions", {})
        written = {scope for scope, access in given.items() if access == "write"}
        assert written == MAY_WRITE.get((path.stem, name), set())
        assert all(access in ("read", "write") for access in given.values())


@each_workflow()
def test_no_workflow_keeps_or_needs_a_secret(path: Path) -> None:
    """Publishing is by trusted publishing, and a checkout leaves no token for later steps."""
    text = path.read_text(encoding="utf-8")
    assert "secrets." not in text
    assert "pull_request_target" not in text
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@each_workflow()
def test_nothing_that_others_choose_becomes_part_of_a_script(path: Path) -> None:
    """A branch may be called `$(…)`."""
    for step in steps(path):
        used = re.findall(r"\$\{\{ *([\w.-]+)", step.get("run", ""))
        assert all(name.startswith("matrix.") for name in used)


@each_workflow()
def test_each_job_has_a_time_limit(path: Path) -> None:
    assert all(job["timeout-minutes"] <= 180 for job in jobs(path).values())


def test_templates_are_forms_that_ask_something() -> None:
    templates = [
        path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"
    ]
    assert len(templates) == 2
    for path in templates:
        form = load(path)
        assert form["name"]
        assert form["description"]
        asked = [each for each in form["body"] if each["type"] != "markdown"]
        assert all(each["attributes"]["label"] for each in asked)
        ids = [each["id"] for each in asked]
        assert len(ids) == len(set(ids))
        assert any(each.get("validations", {}).get("required") for each in asked)
    assert load(GITHUB / "ISSUE_TEMPLATE" / "config.yml")["blank_issues_enabled"]


def test_dependabot_looks_where_there_is_something() -> None:
    files = {"github-actions": ".github/workflows", "npm": "package.json", "uv": "uv.lock"}
    updates = load(GITHUB / "dependabot.yml")["updates"]
    assert {each["package-ecosystem"] for each in updates} == set(files)
    for each in updates:
        folder = ROOT / each["directory"].strip("/")
        assert (folder / files[each["package-ecosystem"]]).exists()


def test_hooks_are_what_make_check_calls_and_fetch_nothing() -> None:
    config = load(ROOT / ".pre-commit-config.yaml")
    recipe = MAKEFILE.partition("\ncheck-rest:")[2].partition("\nformat:")[0]
    [comparisons] = re.findall(r"^COMPARISONS := (.*)$", MAKEFILE, re.M)
    recipe = recipe.replace("$(COMPARISONS)", comparisons)
    called = re.findall(r'"\$\(BIN\)/([^"]+?)(?: \.)?"', recipe)
    for repository in config["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["language"] == "system"
            entry = hook["entry"].removeprefix(".venv/bin/")
            assert any(command.startswith(entry) for command in called)


def test_editors_agree_with_ruff() -> None:
    text = (ROOT / ".editorconfig").read_text(encoding="utf-8")
    parser = ConfigParser()
    parser.read_string(f"[top]\n{text}")
    assert parser["top"]["root"] == "true"
    python = {**parser["*"], **parser["*.py"]}
    ruff = PROJECT["tool"]["ruff"]
    assert int(python["max_line_length"]) == ruff["line-length"]
    format_ = ruff.get("format", {})
    assert python["indent_style"] == format_.get("indent-style", "space")
    assert int(python["indent_size"]) == ruff.get("indent-width", 4)
    assert python["end_of_line"] == "lf"
    assert format_.get("line-ending", "auto") in ("auto", "lf")


@pytest.mark.parametrize("name", ["SECURITY.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md"])
def test_a_page_that_hosts_of_repositories_show_exists(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8")) > 500


def test_the_floors_of_coverage_are_those_that_contributing_states() -> None:
    recipe = MAKEFILE.partition("\ncoverage:")[2].partition("\n\n")[0]
    rules, everything = re.findall(r"--fail-under=(\d+)", recipe)
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    assert f"at least {rules} % of `realtime/core` and {everything} % of all" in text
    assert PROJECT["tool"]["coverage"]["run"]["branch"] is True
