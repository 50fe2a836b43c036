"""Attacks on the promise that no offset is handed out twice in one epoch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.test_positions import Pair
from tests.support.eventually import eventually_sync


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.stop()


def replication_id(pair: Pair, at: int) -> str:
    return str(pair.ask(at, "INFO", "replication")["master_replid"])


def test_a_monitor_that_resets_statistics_hides_no_failback(pair: Pair) -> None:
    """The master came back with less than it had handed out, and nobody read the channel since.

    What it heard from the other master is set to 0, and an hour later it has forgotten that there
    was one: it looks like a master that never was anything else. It was tried: (epoch, 2) twice.
    """
    pair.publish(0)
    pair.follow(1, 0)
    pair.ask(1, "REPLICAOF", "127.0.0.1", "1")  # hears no more: it lags
    handed_out = [pair.publish(0), pair.publish(0)]
    pair.ask(1, "REPLICAOF", "NO", "ONE")
    pair.follow(0, 1)
    pair.ask(0, "REPLICAOF", "NO", "ONE")
    pair.ask(0, "CONFIG", "RESETSTAT")
    promoted = replication_id(pair, 0)
    pair.ask(0, "CONFIG", "SET", "repl-backlog-ttl", "1")  # the hour
    eventually_sync(lambda: replication_id(pair, 0) != promoted)
    assert pair.publish(0).epoch not in {position.epoch for position in handed_out}
