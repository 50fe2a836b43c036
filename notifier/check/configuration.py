"""Checks the variables of the environment, and the Django settings that follow from them.

The service stops at the first faulty variable. Here, each one is replaced by a value that is valid,
so that all of them are found, and the other checks can run.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from notifier.app_variables import LIMITS, LIMITS_VARIABLE, variable_of
from notifier.check.findings import Finding, Level
from notifier.env import SECRETS, BadEnvironment, Environment, read_environment, read_secrets
from notifier.preparation import NO_REDIS_YET
from realtime.core.secret_strength import ADVICE, is_weak

AREA = "configuration"
STRONG = tuple(name for name in SECRETS if not name.endswith(("_URL", "_FALLBACKS")))
"""Secrets that are all random, unlike URLs with a password."""
LEFT_OUT = {
    "realtime.W003",  # weak secrets: here, those that only the service has are checked as well
    "realtime.W009",  # keys without lists, and key sets without keys: the service's own notices
    "realtime.W017",  # Redis did not answer: that has a line of its own
    "security.W009",  # SECRET_KEY, likewise
}
"""System checks whose subject is checked here already."""
SERIOUS = {"realtime.W004"}  # one secret for two purposes
"""System checks that Django has as warnings, and whose subject lets an attacker in."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """An environment in which no variable is faulty."""

    environment: Environment | None
    """None if it could not be repaired."""
    variables: Mapping[str, str] = field(repr=False)
    findings: list[Finding]
    faulty: frozenset[str]
    """The variables that were replaced, without ``_FILE``."""


def repair(environ: Mapping[str, str]) -> Repaired:
    """Replace each faulty variable, and report it."""
    variables = dict(environ)
    findings: list[Finding] = []
    faulty: set[str] = set()
    stand_ins = {
        "REDIS_URL": NO_REDIS_YET,
        "SECRET_KEY": secrets.token_urlsafe(48),
        "NOTIFIER_API_KEY": secrets.token_urlsafe(24),
        "ALLOWED_HOSTS": "localhost",
    }
    while True:
        try:
            environment = read_environment(variables)
        except BadEnvironment as error:
            findings.append(Finding(AREA, Level.WRONG, str(error)))
            name = error.variable.removesuffix("_FILE")
            if name in faulty:
                return Repaired(None, variables, findings, frozenset(faulty))
            faulty.add(name)
            variables = {
                each: value
                for each, value in variables.items()
                if each not in (name, f"{name}_FILE")
            }
            if name in stand_ins:
                variables[name] = stand_ins[name]
        else:
            return Repaired(environment, variables, findings, frozenset(faulty))


def check_variables(repaired: Repaired) -> list[Finding]:
    """Return which secrets are set and how strong they are, and what looks unintended."""
    environment = repaired.environment
    assert environment is not None  # noqa: S101 - the caller has looked
    given = read_secrets(repaired.variables)
    findings = [
        _judge_secret(name, given[name])
        for name in STRONG
        if given.get(name) and name not in repaired.faulty
    ]
    findings += [
        _judge_secret(f"SECRET_KEY_FALLBACKS, key {number}", key)
        for number, key in enumerate(environment.secret_key_fallbacks, 1)
    ]
    findings += [Finding(AREA, Level.WARNING, notice) for notice in environment.notices]
    tokens = [
        n for n in ("TOKEN_SECRET", "TOKEN_PUBLIC_KEY", "TOKEN_JWKS") if environment.app[n.lower()]
    ]
    if not tokens:
        text = "no key for tokens: clients are anonymous, unless they have a session"
        findings.append(Finding(AREA, Level.OK, text))
    if environment.debug:
        text = "DEBUG is on, which is for development: checks for deployment are left out"
        findings.append(Finding(AREA, Level.WARNING, text, "Unset DEBUG in production."))
    return findings


def _judge_secret(name: str, secret: str) -> Finding:
    if is_weak(secret):
        problem = "can be guessed: it is short, repetitive, or contains a common word"
        return Finding(AREA, Level.WRONG, f"{name} {problem}", ADVICE)
    return Finding(AREA, Level.OK, f"{name} is set and strong ({len(secret)} characters)")


def check_settings(*, is_debug: bool) -> list[Finding]:
    """Return what Django's system checks report, with the names of variables.

    Args:
        is_debug: Whether to leave out the checks for deployment.
    """
    from django.core import checks

    messages = checks.run_checks(include_deployment_checks=not is_debug)
    found = [_finding_of(m) for m in messages if m.id not in LEFT_OUT and not m.is_silenced()]
    return found or [Finding(AREA, Level.OK, "Django's system checks find nothing")]


def _finding_of(message: object) -> Finding:
    from django.core import checks

    assert isinstance(message, checks.CheckMessage)  # noqa: S101 - `run_checks` returns no others
    is_wrong = message.level >= checks.ERROR or message.id in SERIOUS
    text = f"{' '.join(message.msg.split())} ({message.id})"
    return Finding(
        AREA,
        Level.WRONG if is_wrong else Level.WARNING,
        _name_variables(text),
        _name_variables(" ".join((message.hint or "").split())),
    )


def _name_variables(text: str) -> str:
    """Replace the names of settings by those of their variables."""
    return re.sub(r"\bREALTIME_([A-Z_]+[A-Z])", _variable_in, text)


def _variable_in(setting: re.Match[str]) -> str:
    name = setting[1].lower()
    return f"{name} in {LIMITS_VARIABLE}" if name in LIMITS else variable_of(name)
