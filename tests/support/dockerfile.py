"""Builds what a Dockerfile describes without a container engine: a stage is a Debian in a folder.

Follows the instructions that ours uses, and refuses any other. Needs root, debootstrap and a mirror
of Debian.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

RELEASES = {"python:3.13-slim-trixie": "trixie"}
"""The Debian below an image of Python, whose own Python has the same version there."""
PACKAGES = "ca-certificates,python3,python3-venv"


@dataclass(frozen=True)
class Step:
    """One instruction: `RUN`, `COPY` and so on, with the rest of its line."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The rest as a list: in JSON, or split like a command line."""
        return list(json.loads(self.rest)) if self.rest.startswith("[") else shlex.split(self.rest)


def read(path: Path) -> list[Step]:
    """Return the instructions of a Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.M)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [Step(*line.split(maxsplit=1)) for line in lines]


def is_ignored(name: str, rules: list[str]) -> bool:
    """Return whether `.dockerignore` keeps a path out; the last rule that fits decides."""
    ignored = False
    parts = name.split("/")
    ways = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/")
        fits = any(fnmatch(way, pattern) for way in ways) or (
            "**/" in rule and any(fnmatch(part, pattern) for part in parts)
        )
        if fits:
            ignored = not rule.startswith("!")
    return ignored


def rules_of(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@dataclass
class Stage:
    """A file system that is being built, and what is said about its processes."""

    root: Path
    directory: str = "/"
    environ: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    command: list[str] = field(default_factory=list)
    probe: list[str] = field(default_factory=list)
    signal: str = ""


class Builder:
    """Builds the stages of a Dockerfile in a folder."""

    def __init__(self, context: Path, folder: Path, build_environ: dict[str, str]) -> None:
        """Prepare a build.

        Args:
            context: The checkout, whose `.dockerignore` counts.
            folder: Where the file systems are made.
            build_environ: Variables for `RUN` on this machine (certificates, proxies).
        """
        self._context = context
        self._folder = folder
        self._build_environ = build_environ
        self._ignored = rules_of(context / ".dockerignore")
        self._stages: dict[str, Stage] = {}
        self._arguments: dict[str, str] = {}

    def build(self, steps: list[Step]) -> Stage:
        """Take all steps and return the last stage."""
        stage: Stage | None = None
        for step in steps:
            print(f"{step.name} {step.rest[:100]}", flush=True)
            if step.name == "ARG":
                name, _, value = step.rest.partition("=")
                self._arguments[name] = value
            elif step.name == "FROM":
                stage = self._start(step.words)
            else:
                assert stage is not None
                self._take(stage, step)
        assert stage is not None
        return stage

    def _start(self, words: list[str]) -> Stage:
        image = re.sub(r"\$\{(\w+)\}", lambda found: self._arguments[found[1]], words[0])
        base = self._folder / "base"
        if not base.exists():
            subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASES[image],
                 str(base)],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            for file in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"):
                shutil.copy(file, f"{base}{file}")
        name = words[2] if "AS" in words else "final"
        root = self._folder / name
        subprocess.run(["cp", "-a", str(base), str(root)], check=True)
        self._stages[name] = Stage(root)
        return self._stages[name]

    def _take(self, stage: Stage, step: Step) -> None:
        match step.name:
            case "WORKDIR":
                stage.directory = step.rest
                self._inside(stage, step.rest).mkdir(parents=True, exist_ok=True)
            case "RUN":
                self._run(stage, step.rest)
            case "COPY":
                self._copy(stage, step.words)
            case "ENV":
                stage.environ |= dict(word.split("=", 1) for word in step.words)
            case "USER":
                stage.user = step.rest
            case "CMD":
                stage.command = step.words
            case "HEALTHCHECK":
                stage.probe = Step("CMD", step.rest.partition(" CMD ")[2]).words
            case "STOPSIGNAL":
                stage.signal = step.rest
            case "EXPOSE":
                pass  # says only which port the service uses
            case _:
                raise NotImplementedError(step.name)

    def _run(self, stage: Stage, command: str) -> None:
        script = f"cd {stage.directory} && {command}"
        environ = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"}
        subprocess.run(
            ["chroot", str(stage.root), "/bin/sh", "-ec", script],
            env=environ | stage.environ | self._build_environ, check=True,
        )  # fmt: skip

    def _copy(self, stage: Stage, words: list[str]) -> None:
        source_root = self._context
        if words[0].startswith("--from="):
            source_root = self._stages[words.pop(0).removeprefix("--from=")].root
        *sources, target = words
        for source in sources:
            found = source_root / source.lstrip("/")
            goal = self._inside(stage, target)
            if found.is_dir():
                ignore = self._ignore if source_root == self._context else None
                shutil.copytree(found, goal, symlinks=True, dirs_exist_ok=True, ignore=ignore)
            else:
                assert source_root != self._context or not is_ignored(source, self._ignored)
                shutil.copy2(found, goal / found.name if target.endswith("/") else goal)

    def _ignore(self, folder: str, names: list[str]) -> set[str]:
        below = Path(folder).relative_to(self._context)
        return {name for name in names if is_ignored(str(below / name), self._ignored)}

    def _inside(self, stage: Stage, path: str) -> Path:
        whole = path if path.startswith("/") else f"{stage.directory}/{path}"
        return stage.root / whole.lstrip("/")
