"""Collects the state of all nodes for the page ``/monitor/``.

All pages that are open on a worker share one question to the nodes, which takes a second if one of
them hangs. While Redis is away, the page shows the sums over the workers of this launcher instead.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from notifier.measuring import read_all_workers
from realtime.core.metrics import Snapshot, add_up, encode_snapshot, fold_namespaces
from realtime.wiring.monitoring import (
    HISTORY_SECONDS,
    NodeSurvey,
    read_queue,
    read_servers,
    survey_nodes,
)

NEWS_SECONDS = 20
"""How much of the past a page gets that has the rest already: it gets news every two seconds."""
SHARED_SECONDS = 1.0
"""How long an answer serves all pages."""
NODES_LIMIT = 100
"""Nodes that are shown one by one; the sums have all of them."""

_asked: dict[int, tuple[float, asyncio.Task[dict[str, Any]]]] = {}
"""The latest answer, or the question that is under way, by the seconds of the past."""


async def read_state(*, with_past: bool) -> dict[str, Any]:
    """Return the state of the nodes and of Redis, which may be a second old.

    Args:
        with_past: Whether to include the last quarter of an hour, or the latest news only.
    """
    seconds = HISTORY_SECONDS if with_past else NEWS_SECONDS
    loop = asyncio.get_running_loop()
    at, task = _asked.get(seconds, (0.0, None))
    if (
        task is None
        or task.get_loop() is not loop
        or (task.done() and loop.time() >= at + SHARED_SECONDS)
    ):
        task = loop.create_task(_collect(seconds), name="question of the page /monitor/")
        _asked[seconds] = loop.time(), task
    # A visitor who leaves must not cancel the question of the others.
    return await asyncio.shield(task)


async def _collect(seconds: int) -> dict[str, Any]:
    survey, servers, queue = await asyncio.gather(
        survey_nodes(seconds), read_servers(), read_queue()
    )
    return {
        "at": time.time(),
        "is_complete": survey.is_complete,
        "silent_nodes": survey.silent,
        "hidden_nodes": max(0, len(survey.reports) - NODES_LIMIT),
        "nodes": [
            {
                **msgspec.structs.asdict(report.facts),
                "metrics": _encode(report.snapshot),
                "history": report.history,
                "changes": report.changes,
            }
            for report in survey.reports[:NODES_LIMIT]
        ],
        "sums": _encode(await _sums_of(survey)),
        "redis": servers,
        "queue": None if queue is None else queue._asdict(),
    }


async def _sums_of(survey: NodeSurvey) -> Snapshot:
    workers = None if survey.is_complete else await read_all_workers()
    return workers or add_up(report.snapshot for report in survey.reports)


def _encode(snapshot: Snapshot) -> msgspec.Raw:
    return msgspec.Raw(encode_snapshot(fold_namespaces(snapshot)))
