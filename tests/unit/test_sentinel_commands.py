"""What the answers of sentinels mean together."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from realtime.brokers.sentinel_commands import (
    EPOCH_SECONDS,
    MasterAnswer,
    MasterChoice,
    parse_answer,
    refuse_replica,
)

OLD, NEW = ("10.0.0.1", 6379), ("10.0.0.2", 6379)
FACTS = [b"name", b"m", b"ip", b"10.0.0.1", b"port", b"6379", b"config-epoch", b"7"]


def test_the_newest_configuration_wins_whoever_answers_first():
    answers = [MasterAnswer(3, OLD), MasterAnswer(3, OLD), MasterAnswer(4, NEW)]
    for each in (answers, answers[::-1]):
        assert MasterChoice("m").choose(each, [], 0.0) == NEW


def test_of_equally_new_configurations_the_majority_wins():
    """As after sentinels were told to watch another server under the same name."""
    answers = [MasterAnswer(3, NEW), MasterAnswer(3, OLD), MasterAnswer(3, NEW)]
    for each in (answers, answers[::-1]):
        assert MasterChoice("m").choose(each, [], 0.0) == NEW


@pytest.mark.parametrize(
    ("errors", "reason"), [([], "'m' in time"), ([OSError("refused")], "'m': refused")]
)
def test_without_an_answer_the_first_error_is_the_reason(errors, reason):
    with pytest.raises(RedisConnectionError, match=f"no sentinel named the master {reason}"):
        MasterChoice("m").choose([], errors, 0.0)


def test_who_has_followed_a_failover_is_not_drawn_back():
    """Of three sentinels, the two that have not heard of the failover may answer first.

    And the former master says that it is one.
    """
    choice = MasterChoice("m")
    assert choice.choose([MasterAnswer(4, NEW)], [], 0.0) == NEW
    with pytest.raises(RedisConnectionError, match="out of date"):
        choice.choose([MasterAnswer(3, OLD)] * 2, [], 1.0)
    assert choice.choose([MasterAnswer(4, NEW)], [], 2.0) == NEW


def test_sentinels_that_were_set_up_anew_are_believed_after_a_while():
    choice = MasterChoice("m")
    choice.choose([MasterAnswer(4, NEW)], [], 0.0)
    with pytest.raises(RedisConnectionError):
        choice.choose([MasterAnswer(0, OLD)], [], EPOCH_SECONDS - 1)
    assert choice.choose([MasterAnswer(0, OLD)], [], EPOCH_SECONDS) == OLD


def test_an_address_is_ahead_of_the_facts_until_the_failover_has_ended():
    assert parse_answer([[b"10.0.0.2", b"6379"], FACTS]) == MasterAnswer(7, NEW)


@pytest.mark.parametrize("replies", [[None, ResponseError("No such master")], [None, FACTS]])
def test_a_sentinel_that_does_not_know_the_master_gives_no_answer(replies):
    with pytest.raises(ResponseError, match="No such master"):
        parse_answer(replies)


def test_who_may_not_ask_for_the_role_is_told():
    with pytest.raises(ResponseError, match="NOPERM"):
        refuse_replica(ResponseError("NOPERM"), OLD)


@pytest.mark.parametrize("role", [[b"slave", b"h", 1], [b"sentinel", []]])
def test_only_a_master_is_one(role):
    with pytest.raises(RedisConnectionError, match=r"10\.0\.0\.1:6379, named by the sentinels"):
        refuse_replica(role, OLD)
    refuse_replica([b"master", 0, []], OLD)
