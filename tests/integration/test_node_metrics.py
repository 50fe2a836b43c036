"""The metrics of a process with several event loops, which come and go."""

from __future__ import annotations

import asyncio
from typing import Any

from realtime import apublish, publish, wiring
from realtime.core import metrics
from realtime.delivery.hub import Hub
from tests.support.eventually import eventually


def published() -> float:
    found = wiring.read_metrics()[metrics.PUBLISHES.name]
    return found.get(("public", "python", "published"), 0)


def test_what_an_ended_loop_has_published_is_still_counted(wired: str) -> None:
    """Under WSGI, `async_to_sync` has a loop for each call."""
    before = published()
    for _ in range(3):
        asyncio.run(apublish("public:loops", 1))
    publish("public:loops", 1)
    assert published() == before + 4


async def test_a_client_s_publications_have_their_own_method(hub: Hub, join: Any) -> None:
    def counted(method: str) -> float:
        found = wiring.read_metrics()[metrics.PUBLISHES.name]
        return found.get(("chat", method, "published"), 0)

    before = counted("client"), counted("python")
    member = await join("chat:metrics")
    member.say({"id": 9, "publish": {"channel": "chat:metrics", "data": 1}})
    await eventually(lambda: {"id": 9, "publish": {}} in member.lines)
    assert (counted("client"), counted("python")) == (before[0] + 1, before[1])


async def test_present_numbers_follow_the_clients(hub: Hub, join: Any) -> None:
    def shown(metric: metrics.Metric, *labels: str) -> float:
        return hub.read_metrics()[metric.name].get(labels, 0)

    assert shown(metrics.NODES_LIVE) == 1
    members = [await join("public:present") for _ in range(3)]
    assert shown(metrics.CONNECTIONS, "websocket") == 3
    assert shown(metrics.SUBSCRIPTIONS, "public") == 3
    assert shown(metrics.CHANNELS, "public") == 1
    for member in members:
        await member.leave()
    assert shown(metrics.CONNECTIONS, "websocket") == 0
    assert shown(metrics.SUBSCRIPTIONS, "public") == 0
    await eventually(lambda: shown(metrics.CHANNELS, "public") == 0)
