"""The rules of ``check`` at their limits; tests/e2e/test_check.py makes real things wrong."""

from __future__ import annotations

import resource

import pytest

from notifier.check.findings import Finding, Level, is_anything_wrong, write_findings
from notifier.check.machine import judge_open_files, judge_somaxconn, judge_workers
from notifier.check.redis_servers import judge, judge_clock
from notifier.counting import SPARE_CONNECTIONS
from notifier.file_limit import OWN_FILES
from notifier.listening import BACKLOG
from realtime.core.redis_facts import RedisFacts, ServerDiagnosis

OWN = OWN_FILES + SPARE_CONNECTIONS


@pytest.mark.parametrize(
    ("files", "level"),
    [
        (OWN + 100, Level.OK),
        (OWN + 99, Level.WRONG),
        (resource.RLIM_INFINITY, Level.OK),
    ],
)
def test_each_connection_needs_an_open_file(files: int, level: Level) -> None:
    [finding] = judge_open_files(files, 100)
    assert finding.level == level


@pytest.mark.parametrize(
    ("most", "levels"), [(BACKLOG, [Level.OK]), (BACKLOG - 1, [Level.WARNING]), (None, [])]
)
def test_the_queue_of_connections_should_be_as_long_as_we_ask(
    most: int | None, levels: list[Level]
) -> None:
    assert [finding.level for finding in judge_somaxconn(most)] == levels


@pytest.mark.parametrize(("workers", "level"), [(2, Level.OK), (3, Level.WARNING)])
def test_each_worker_has_a_processor(workers: int, level: Level) -> None:
    [finding] = judge_workers(workers, 2)
    assert finding.level == level


@pytest.mark.parametrize(
    ("seconds", "levels"),
    [
        (None, []),
        (0.99, [Level.OK]),
        (-0.99, [Level.OK]),
        (1.0, [Level.WARNING]),
        (-5.0, [Level.WARNING]),
        (5.1, [Level.WRONG]),
        (-5.1, [Level.WRONG]),
    ],
)
def test_clocks_may_differ_by_less_than_a_second(
    seconds: float | None, levels: list[Level]
) -> None:
    found = judge_clock("redis", "here", seconds)
    assert [finding.level for finding in found] == levels
    if seconds is not None and levels != [Level.OK]:
        assert ("ahead of ours" if seconds > 0 else "behind ours") in found[0].text


def diagnosed(**facts: object) -> ServerDiagnosis:
    known = {"version": "Valkey 8.1.1", "role": "master", "policy": "noeviction"} | facts
    return ServerDiagnosis(facts=RedisFacts(address="here", **known))  # type: ignore[arg-type]


def level_of(server: ServerDiagnosis, text: str) -> Level:
    [finding] = [each for each in judge(server, has_fallbacks=False) if text in each.text]
    return finding.level


@pytest.mark.parametrize(
    ("version", "level"),
    [
        *(("Redis 6.2.14", Level.WRONG), ("Redis 7.0.0", Level.OK), ("Redis 10.0.1", Level.OK)),
        *(("Valkey 7.2.4", Level.OK), ("Redis unstable", Level.OK)),
    ],
)
def test_redis_must_have_the_commands_of_the_scripts(version: str, level: Level) -> None:
    assert level_of(diagnosed(version=version), version) == level


@pytest.mark.parametrize(
    ("used", "most", "level"), [(89, 100, Level.OK), (90, 100, Level.WRONG), (1, 0, Level.WARNING)]
)
def test_redis_should_have_memory_left_and_a_limit(used: int, most: int, level: Level) -> None:
    server = diagnosed(used_bytes=used, max_bytes=most)
    assert level_of(server, "uses" if most else "maxmemory 0") == level


def test_unknown_facts_are_not_reported_as_wrong() -> None:
    """A managed Redis may forbid INFO, or leave parts out."""
    found = judge(diagnosed(version="", role="", policy=""), has_fallbacks=True)
    assert not is_anything_wrong(found)


def test_findings_are_printed_in_groups_and_counted() -> None:
    findings = [
        Finding("redis", Level.OK, "good"),
        Finding("redis", Level.WARNING, "odd", "Look."),
        Finding("machine", Level.WRONG, "bad"),
    ]
    assert write_findings(findings) == (
        "redis\n  ok       good\n  warning  odd\n           Look.\n\n"
        "machine\n  wrong    bad\n\n1 wrong, 1 warning."
    )
    assert write_findings(findings[:1]).endswith("\nNothing is wrong, no warnings.")
