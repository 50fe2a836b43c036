"""A node records its own past, and reports it with its numbers to whoever asks all nodes."""

from __future__ import annotations

import time
from typing import Any

from realtime import apublish
from realtime.core import metrics
from realtime.core.history import STEP_SECONDS
from realtime.core.node_report import NodeReport, reports_of
from realtime.core.survey import Question
from realtime.delivery.hub import Hub
from realtime.delivery.liveness import UNHEARD
from realtime.wiring import Node
from tests.support.eventually import eventually

EPOCH = "0123456789abcdef"


async def ask(node: Node, seconds: str = "") -> NodeReport:
    survey = await node.broker.survey(Question(EPOCH, "metrics", seconds))
    [report] = reports_of(survey.answers)
    return report


async def test_a_node_answers_with_its_numbers_and_its_past(
    hub: Hub, node: Node, join: Any
) -> None:
    member = await join("public:reported")
    await apublish("public:reported", 1)
    await eventually(lambda: member.offsets())
    hub.reporter.tick()
    report = await ask(node)
    assert report.facts.uid == hub.uid
    assert report.facts.live
    assert report.snapshot[metrics.CONNECTIONS.name] == {("websocket",): 1}
    assert report.snapshot[metrics.DELIVERIES.name] == {("*",): 1}
    assert sum(report.snapshot[metrics.PUBLISHES.name].values()) >= 1
    assert metrics.CPU_SECONDS.name in report.snapshot
    latest = report.history[-1]
    assert latest.at % STEP_SECONDS == 0
    assert abs(latest.at - time.time()) < 60
    assert [change.live for change in report.changes] == [True]


async def test_a_change_of_state_has_the_reason_that_probes_may_show(hub: Hub, node: Node) -> None:
    """The error itself names hosts, ports and paths (CWE-209)."""
    hub._liveness.lose("Redis: Error 111 connecting to 10.0.0.7:6379")
    report = hub.reporter.report(0)
    assert [(change.live, change.reason) for change in report.changes] == [
        (True, ""),
        (False, UNHEARD),
    ]
    assert report.facts.reason == UNHEARD
    assert report.history == []
