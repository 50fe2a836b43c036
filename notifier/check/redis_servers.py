"""Judges what was found at each Redis (docs/deploy.md#redis)."""

from __future__ import annotations

import re

from notifier.check.findings import Finding, Level
from realtime.core.redis_facts import ServerDiagnosis
from realtime.errors import ConfigurationError
from realtime.identity.tokens import LEEWAY_SECONDS
from realtime.wiring.monitoring import diagnose_redis

AREA = "redis"
OLDEST = {"Redis": (7, 0), "Valkey": (7, 2)}
"""The oldest versions that have all commands of the scripts."""
FULL = 0.9
"""Of the memory: beyond it, Redis soon refuses what is published."""
CLOCK_SECONDS = 1.0
"""Clocks that are kept by NTP differ by milliseconds."""


def check_redis(*, has_fallbacks: bool) -> list[Finding]:
    """Examine each Redis of the settings.

    Args:
        has_fallbacks: Whether fallbacks are configured, whose queue needs persistence.
    """
    try:
        servers = diagnose_redis()
    except ConfigurationError as error:
        return [Finding(AREA, Level.WRONG, str(error))]
    return [finding for server in servers for finding in judge(server, has_fallbacks=has_fallbacks)]


def judge(server: ServerDiagnosis, *, has_fallbacks: bool) -> list[Finding]:
    """Return the findings about one server; arguments as for `check_redis`."""
    where = server.facts.address
    if server.is_sentinel:
        text = f"{where}: this sentinel does not answer, or not about the master: {server.failure}"
        return [Finding(AREA, Level.WARNING, text, "Others are asked; start or correct it.")]
    if server.facts.is_away:
        return [Finding(AREA, Level.WRONG, f"{where}: {server.failure}", _advise(server.failure))]
    findings = [
        *_judge_version(server),
        *_judge_role(server),
        *_judge_memory(server),
        *_judge_persistence(server, has_fallbacks=has_fallbacks),
        *_judge_permissions(server),
        *judge_clock(AREA, where, server.clock_offset_seconds),
    ]
    return [f._replace(text=f"{where}: {f.text}") for f in findings]


def _advise(failure: str) -> str:
    said = failure.lower()
    if "password" in said or "auth" in said:
        return "Correct user and password in REDIS_URL (docs/deploy.md#redis has the users)."
    if "certificate" in said or "ssl" in said:
        return "Correct the certificates, or the options ssl_… in REDIS_URL."
    return "Start Redis, or correct REDIS_URL; a firewall may be in between."


def _judge_version(server: ServerDiagnosis) -> list[Finding]:
    version = server.facts.version
    if not version:
        text = "its version is unknown: this user may not call INFO"
        return [Finding(AREA, Level.WARNING, text, "Permit +info (docs/deploy.md#redis).")]
    kind, _, number = version.partition(" ")
    found = re.match(r"(\d{1,9})\.(\d{1,9})", number)
    oldest = OLDEST[kind]
    if found and (int(found[1]), int(found[2])) < oldest:
        text = f"{version} is too old"
        wanted = " or ".join(f"{name} {major}.{minor}" for name, (major, minor) in OLDEST.items())
        return [Finding(AREA, Level.WRONG, text, f"Use {wanted}, or newer.")]
    text = f"{version}, answers in {server.seconds * 1000:.1f} ms"
    return [Finding(AREA, Level.OK, text)]


def _judge_role(server: ServerDiagnosis) -> list[Finding]:
    if server.facts.role == "slave":
        advice = "Set REDIS_URL to the master, or to its sentinels (docs/deploy.md#sentinel)."
        return [Finding(AREA, Level.WRONG, "is a replica, which refuses writes", advice)]
    if server.failure:
        advice = "Redis says what is missing; until then, nothing can be published."
        return [Finding(AREA, Level.WRONG, f"refuses commands: {server.failure}", advice)]
    return []


def _judge_memory(server: ServerDiagnosis) -> list[Finding]:
    facts = server.facts
    findings = []
    if facts.policy and facts.policy != "noeviction":
        text = f"maxmemory-policy {facts.policy}: when memory is full, it drops {_queue_of(server)}"
        findings.append(Finding(AREA, Level.WRONG, text, "Set maxmemory-policy noeviction."))
    if facts.max_bytes == 0:
        text = "maxmemory 0: it may grow until the machine has no memory left"
        findings.append(Finding(AREA, Level.WARNING, text, "Set maxmemory, such as 512mb."))
    elif facts.max_bytes and facts.used_bytes is not None:
        share = facts.used_bytes / facts.max_bytes
        is_full = share >= FULL
        text = f"uses {share:.0%} of maxmemory"
        advice = "When it is full, publishers get 503: raise maxmemory, or look at the queue."
        level = Level.WRONG if is_full else Level.OK
        findings.append(Finding(AREA, level, text, advice if is_full else ""))
    return findings


def _judge_persistence(server: ServerDiagnosis, *, has_fallbacks: bool) -> list[Finding]:
    facts = server.facts
    findings = []
    if facts.is_saved is False:
        text = "the latest snapshot or write to the append-only file failed"
        advice = "Look at its log and its disk; by default, it then refuses writes."
        findings.append(Finding(AREA, Level.WRONG, text, advice))
    if facts.has_aof is False:
        text = f"appendonly no: {_queue_of(server)} are lost when it stops"
        is_needed = has_fallbacks and server.has_tried_commands
        level = Level.WRONG if is_needed else Level.WARNING
        advice = "Set appendonly yes; live delivery alone needs no persistence."
        findings.append(Finding(AREA, level, text, advice))
    elif facts.has_aof:
        findings.append(Finding(AREA, Level.OK, "appendonly yes"))
    return findings


def _queue_of(server: ServerDiagnosis) -> str:
    """Return what waits in a Redis: in that of the jobs, no commands were tried."""
    return "queued fallbacks" if server.has_tried_commands else "queued jobs"


def _judge_permissions(server: ServerDiagnosis) -> list[Finding]:
    findings = []
    if server.refused_commands:
        missing = " ".join(f"+{name}" for name in server.refused_commands)
        text = "this user may not call all commands that a node uses"
        advice = f"Permit them with ACL SETUSER: {missing}"
        findings.append(Finding(AREA, Level.WRONG, text, advice))
    for refused, what, sign in (
        (server.refuses_keys, "keys", "~"),
        (server.refuses_channels, "channels", "&"),
    ):
        if refused:
            text = f"this user may not use {what} with the prefix of NOTIFIER_REDIS_PREFIX"
            advice = f"Permit them with ACL SETUSER: {sign}rt:*, with your prefix instead of rt."
            findings.append(Finding(AREA, Level.WRONG, text, advice))
    if server.has_tried_commands and not findings:
        findings.append(Finding(AREA, Level.OK, "this user has the permissions of a node"))
    return findings


def judge_clock(area: str, where: str, ahead_seconds: float | None) -> list[Finding]:
    """Return a finding about a clock, compared with that of this machine.

    Args:
        area: See `Finding`.
        where: The server, for the advice.
        ahead_seconds: By how much its clock is ahead; None is unknown.
    """
    if ahead_seconds is None:
        return []
    difference = abs(ahead_seconds)
    if difference < CLOCK_SECONDS:
        return [Finding(area, Level.OK, f"its clock and ours differ by {difference:.3f} s")]
    side = "ahead of" if ahead_seconds > 0 else "behind"
    level = Level.WRONG if difference > LEEWAY_SECONDS else Level.WARNING
    text = f"its clock is {difference:.1f} s {side} ours"
    advice = (
        f"One of the two is wrong: let NTP keep both (timedatectl on this machine and at {where}). "
        "Tokens are refused if our clock is wrong by more than "
        f"{LEEWAY_SECONDS:.0f} s."
    )
    return [Finding(area, level, text, advice)]
