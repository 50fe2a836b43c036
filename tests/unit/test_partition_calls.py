"""Which commands of a call are sent again, and where, after a master has refused some."""

from __future__ import annotations

from typing import Any

import pytest
from redis._parsers.base import BaseParser

from realtime.brokers import Stats
from realtime.brokers.cluster.partition_calls import PartitionCall
from realtime.brokers.cluster.queue_sums import sum_stats
from realtime.brokers.cluster.slots import ASKING
from realtime.brokers.commands import SCRIPTS
from realtime.core.partitions import PARTITIONS
from realtime.errors import BrokerUnavailable, OutcomeUnknown

OWNER, TARGET = ("10.0.0.1", 7001), ("10.0.0.2", 7002)
A, B, C = ("GET", "a"), ("GET", "b"), ("GET", "c")
SCRIPT = SCRIPTS.read_position
PUBLISH = ("EVALSHA", "x", 0)


def error(text: str) -> Any:
    return BaseParser.parse_error(text)


MOVED = error("MOVED 93 10.0.0.2:7002")
ASK = error("ASK 93 10.0.0.2:7002")
TRYAGAIN = error("TRYAGAIN Multiple keys request during rehashing of slot")
NOSCRIPT = error("NOSCRIPT No matching script.")
OOM = error("OOM command not allowed when used memory > 'maxmemory'.")


def call(*commands: Any, script: Any = None) -> PartitionCall:
    return PartitionCall(PARTITIONS[0], commands, script)


def test_replies_in_their_order_end_a_call():
    asked = call(A, B)
    assert asked.outgoing() == [A, B]
    assert not asked.is_done
    assert asked.receive([1, 2], OWNER) is None
    assert asked.is_done
    assert asked.result() == [1, 2]


def test_a_call_without_commands_is_done():
    assert call().is_done
    assert call().result() == []


def test_what_is_refused_for_good_is_a_reply():
    asked = call(A, B)
    asked.outgoing()
    asked.receive([OOM, 2], OWNER)
    assert asked.is_done
    assert asked.result() == [OOM, 2]


def test_only_what_was_refused_is_sent_again():
    asked = call(A, B, C)
    asked.outgoing()
    moved = asked.receive([1, MOVED, 3], OWNER)
    assert moved is not None
    assert moved.address == TARGET
    assert not asked.can_continue
    assert asked.outgoing() == [B]
    asked.receive([2], TARGET)
    assert asked.result() == [1, 2, 3]


def test_the_importing_master_gets_only_what_was_redirected_to_it():
    """Another command would create a key that the owner still has."""
    asked = call(A, B, C)
    asked.outgoing()
    asked.receive([ASK, TRYAGAIN, ASK], OWNER)
    assert asked.target == TARGET
    assert asked.outgoing() == [ASKING, A, ASKING, C]
    asked.receive([b"OK", 1, b"OK", 3], TARGET)
    assert not asked.is_done
    assert asked.target is None
    assert asked.outgoing() == [B]
    asked.receive([2], OWNER)
    assert asked.result() == [1, 2, 3]


def test_a_redirection_is_followed_at_once_and_only_once():
    asked = call(A)
    asked.outgoing()
    asked.receive([ASK], OWNER)
    assert asked.can_continue
    asked.outgoing()
    asked.receive([b"OK", TRYAGAIN], TARGET)
    assert not asked.can_continue
    assert asked.target is None
    asked.outgoing()
    asked.receive([ASK], OWNER)
    asked.outgoing()
    asked.receive([b"OK", ASK], TARGET)
    assert not asked.can_continue


def test_a_missing_script_is_loaded_before_what_lacked_it():
    asked = call(A, B, script=SCRIPT)
    asked.outgoing()
    asked.receive([NOSCRIPT, 2], OWNER)
    assert asked.can_continue
    assert asked.outgoing() == [SCRIPT.load, A]
    asked.receive([b"digest", 1], OWNER)
    assert asked.result() == [1, 2]


def test_a_script_that_cannot_be_loaded_is_refused():
    asked = call(A, script=SCRIPT)
    asked.outgoing()
    asked.receive([NOSCRIPT], OWNER)
    asked.outgoing()
    asked.receive([OOM, NOSCRIPT], OWNER)
    assert asked.is_done
    assert asked.result() == [NOSCRIPT]


def test_the_importing_master_gets_the_script_first():
    asked = call(A, script=SCRIPT)
    asked.outgoing()
    asked.receive([ASK], OWNER)
    assert asked.outgoing() == [SCRIPT.load, ASKING, A]
    asked.receive([b"digest", b"OK", 1], TARGET)
    assert asked.result() == [1]


def test_a_refusal_is_the_result_if_nothing_follows():
    asked = call(A, B)
    asked.outgoing()
    asked.receive([1, TRYAGAIN], OWNER)
    assert asked.result() == [1, TRYAGAIN]


@pytest.mark.parametrize(
    ("reply", "is_done"), [([TRYAGAIN, TRYAGAIN], False), ([b"e 1 0 0 0", TRYAGAIN], True)]
)
def test_a_script_that_has_published_something_does_not_run_again(reply: Any, is_done: bool):
    asked = call(PUBLISH, script=SCRIPT)
    asked.outgoing()
    asked.receive([reply], OWNER)
    assert asked.is_done is is_done


def test_what_was_certainly_not_sent_can_be_sent_to_the_owner():
    asked = call(A)
    asked.outgoing()
    asked.receive([ASK], OWNER)
    asked.fail(BrokerUnavailable("gone"))
    assert not asked.is_done
    assert not asked.can_continue
    assert asked.target is None
    with pytest.raises(BrokerUnavailable, match="gone"):
        asked.result()
    asked.outgoing()
    asked.receive([1], OWNER)
    assert asked.result() == [1]


def test_what_may_have_been_executed_is_not_sent_again():
    asked = call(A)
    asked.outgoing()
    asked.fail(OutcomeUnknown("silent"))
    assert asked.is_done
    with pytest.raises(OutcomeUnknown, match="silent"):
        asked.result()


def test_workers_with_a_lease_in_each_partition_count_once():
    parts = [
        Stats(
            1,
            0,
            2,
            3,
            hands=8,
            oldest_seconds=1.5,
            handled=4,
            retried=5,
            taken_over=6,
            given_up=7,
            bytes=8,
        ),
        Stats(
            10,
            1,
            20,
            30,
            hands=8,
            oldest_seconds=0.0,
            handled=40,
            retried=50,
            taken_over=60,
            given_up=70,
            bytes=80,
        ),
    ]
    assert sum_stats(parts) == Stats(11, 1, 22, 33, 8, 1.5, 44, 55, 66, 77, bytes=88)
