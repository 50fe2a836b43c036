"""Clients that send much share a part of each turn of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from notifier.fair_turns import TURN_SECONDS, FairTurns
from tests.support.eventually import eventually

CLIENTS = 20


class Flooder:
    """A client that always has more to process; each call takes half of the time."""

    def __init__(self, name: int, turns: FairTurns, went: Callable[[int], None]) -> None:
        self._name, self._turns, self._went = name, turns, went
        self.is_done = False

    def go_on(self) -> None:
        if self.is_done:
            return
        self._went(self._name)
        time.sleep(TURN_SECONDS / 2)  # work that blocks the loop; this waits for nothing
        self._turns.later(asyncio.get_running_loop(), self.go_on)


async def test_many_flooding_clients_take_one_share_of_each_turn() -> None:
    """Each used to get 2 ms per iteration, so twenty of them took 40 ms."""
    turns, order = FairTurns(), []
    flooders = [Flooder(name, turns, order.append) for name in range(CLIENTS)]
    for flooder in flooders:
        turns.later(asyncio.get_running_loop(), flooder.go_on)
    in_turns = []
    while len(order) < 4 * CLIENTS:
        before = len(order)
        await asyncio.sleep(0)
        in_turns.append(len(order) - before)
    assert max(in_turns) <= 3
    assert order[: 3 * CLIENTS] == [*range(CLIENTS)] * 3, "each in its turn"
    assert set(Counter(order).values()) <= {4, 5}
    for flooder in flooders:
        flooder.is_done = True
    for _ in range(CLIENTS):
        await asyncio.sleep(0)
    assert not turns._waiting
    assert not turns._is_scheduled, "an idle loop has nothing to do"


async def test_a_client_that_fails_costs_the_others_nothing() -> None:
    loop, turns, went = asyncio.get_running_loop(), FairTurns(), []
    failures: list[Any] = []
    loop.set_exception_handler(lambda loop, context: failures.append(context["exception"]))

    def fail() -> None:
        raise LookupError("a bug")

    for go_on in (lambda: went.append(1), fail, lambda: went.append(2)):
        turns.later(loop, go_on)
    await eventually(lambda: len(went) == 2)
    assert [type(failure) for failure in failures] == [LookupError]
    assert went == [1, 2]
