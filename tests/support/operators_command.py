"""``python -m notifier …`` as an operator starts it, in an environment of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.database import migrated_url

ROOT = Path(__file__).resolve().parents[2]


def notifier(
    *arguments: str, before: Sequence[str] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends.

    Args:
        arguments: Its command line.
        before: A program that starts it: ``faketime``, or a shell that sets limits.
        variables: Its whole environment, except for PATH.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "PATH" or name.startswith("COVERAGE_")  # of `make coverage`
    }
    env = kept | {"NOTIFIER_RUN_DIR": "/nonexistent"} | variables
    return subprocess.run(
        [*before, sys.executable, "-m", "notifier", *arguments],
        cwd=ROOT, env=env, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL,
    )  # fmt: skip


def deployment(redis_url: str, **others: str) -> dict[str, str]:
    """Return variables in which nothing is wrong."""
    return {
        "REDIS_URL": redis_url,
        "SECRET_KEY": secrets.token_urlsafe(48),
        "NOTIFIER_API_KEY": secrets.token_urlsafe(24),
        "ALLOWED_HOSTS": "notify.example.com",
        "DATABASE_URL": migrated_url(),
        "PORT": "0",
        # A machine of tests may allow fewer open files than the default needs.
        "NOTIFIER_LIMITS": '{"connections": 100}',
    } | others


@dataclass
class Checked:
    """What ``check`` has found."""

    code: int
    findings: list[dict[str, str]]

    def texts(self, level: str) -> list[str]:
        return [each["text"] for each in self.findings if each["level"] == level]

    @property
    def wrong(self) -> list[str]:
        return self.texts("wrong")

    def advice_for(self, text: str) -> str:
        """Return what to do about the only finding with this text in it."""
        [advice] = [each["advice"] for each in self.findings if text in each["text"]]
        return advice


def check(before: Sequence[str] = (), **variables: str) -> Checked:
    """Run ``check``, which must print neither a traceback nor a secret."""
    ran = notifier("check", "--json", before=before, **variables)
    assert ran.returncode in (0, 1), ran.stderr
    said = ran.stdout + ran.stderr
    for name in ("SECRET_KEY", "NOTIFIER_API_KEY", "NOTIFIER_TOKEN_SECRET"):
        assert not variables.get(name) or variables[name] not in said
    assert "Traceback" not in said
    facts: dict[str, Any] = json.loads(ran.stdout)
    assert facts["ok"] is (ran.returncode == 0)
    return Checked(ran.returncode, facts["findings"])
