"""The numbers of the page /monitor/: one question to the nodes serves all visitors of a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from notifier.monitor import read_state
from realtime.delivery.hub import Hub
from tests.support.overheard import overheard
from tests.support.redis_server import RedisServer


async def test_visitors_share_one_question(hub: Hub, redis_server: RedisServer, join: Any) -> None:
    await join("public:seen")
    with overheard(redis_server) as told:
        states = await asyncio.gather(*[read_state(with_past=False) for _ in range(10)])
    assert all(state is states[0] for state in states)
    asked = [each for each in told if each.startswith("PUBLISH") and each.endswith(" metrics 20")]
    assert len(asked) == 1
    assert [node["uid"] for node in states[0]["nodes"]] == [hub.uid]
    shown = msgspec.json.decode(msgspec.json.encode(states[0]))
    assert shown["silent_nodes"] == 0
    for numbers in (shown["sums"], shown["nodes"][0]["metrics"]):
        assert numbers["realtime_channels"] == [[["*"], 1.0]]


async def test_a_visitor_who_leaves_takes_no_answer_from_the_others(hub: Hub) -> None:
    leaving = asyncio.create_task(read_state(with_past=True))
    staying = asyncio.create_task(read_state(with_past=True))
    await asyncio.sleep(0)
    leaving.cancel()
    state = await staying
    assert state["is_complete"]
    assert [node["uid"] for node in state["nodes"]] == [hub.uid]
