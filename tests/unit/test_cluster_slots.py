"""What the nodes of a cluster say: the newest answer wins, and a refusal says where to go."""

from __future__ import annotations

from typing import Any

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser

from realtime.brokers.cluster.slots import (
    NodeRefusal,
    RefusalKind,
    SlotMap,
    SlotOwners,
    newest,
    parse_slots,
    refusal_of,
)
from realtime.core.partitions import PARTITIONS

ASKED = ("10.0.0.9", 7000)


def info(state: str = "ok", epoch: int = 3) -> bytes:
    return f"cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n".encode()


def server(host: bytes | None, port: int) -> list[Any]:
    return [host, port, b"0" * 40, []]


def error(text: str) -> Exception:
    raised: Exception = BaseParser.parse_error(text)
    return raised


def test_each_partition_has_the_master_of_its_slot():
    ranges = [
        [0, 8191, server(b"10.0.0.1", 7001), server(b"10.0.0.2", 7002)],
        [8192, 12287, server(b"10.0.0.3", 7003)],
    ]
    found = parse_slots([info(), ranges], ASKED)
    assert found.is_ok
    assert found.epoch == 3
    assert {number for number, owner in found.owners.items() if owner[1] == 7001} == set(range(32))
    assert found.owners[32] == ("10.0.0.3", 7003)
    assert 48 not in found.owners
    assert found.nodes == (("10.0.0.1", 7001), ("10.0.0.2", 7002), ("10.0.0.3", 7003))


@pytest.mark.parametrize("host", [b"", b"?", None])
def test_a_node_that_does_not_know_its_host_is_the_one_that_was_asked(host: bytes | None):
    found = parse_slots([info(), [[0, 16383, server(host, 7001)]]], ASKED)
    assert set(found.owners.values()) == {("10.0.0.9", 7001)}


def test_a_server_that_is_no_node_is_refused():
    refusal = error("ERR This instance has cluster support disabled")
    with pytest.raises(exceptions.ResponseError, match="cluster support disabled"):
        parse_slots([refusal, refusal], ASKED)


def slot_map(*, is_ok: bool = True, epoch: int = 1, owners: int = 64) -> SlotMap:
    return SlotMap(is_ok, epoch, dict.fromkeys(range(owners), ASKED), (ASKED,))


def test_the_newest_answer_of_a_node_that_takes_commands_wins():
    old, new = slot_map(epoch=1), slot_map(epoch=2)
    minority = slot_map(is_ok=False, epoch=9)
    assert newest([old, minority, new], []) is new
    assert newest([minority], []) is minority
    assert newest([slot_map(epoch=2, owners=3), new], []) is new


def test_no_answer_says_why():
    with pytest.raises(exceptions.ConnectionError, match="no node of the cluster answered in time"):
        newest([], [])
    with pytest.raises(exceptions.ConnectionError, match="answered: refused"):
        newest([], [ConnectionRefusedError("refused")])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("MOVED 3999 10.0.0.1:7001", NodeRefusal(RefusalKind.MOVED, ("10.0.0.1", 7001))),
        ("MOVED 3999 :7001", NodeRefusal(RefusalKind.MOVED, ("10.0.0.9", 7001))),
        ("MOVED 3999 ?:7001", NodeRefusal(RefusalKind.MOVED, ("10.0.0.9", 7001))),
        ("MOVED 3999 ::1:7001", NodeRefusal(RefusalKind.MOVED, ("::1", 7001))),
        ("ASK 3999 10.0.0.1:7001", NodeRefusal(RefusalKind.ASK, ("10.0.0.1", 7001))),
        (
            "TRYAGAIN Multiple keys request during rehashing of slot",
            NodeRefusal(RefusalKind.LATER, None),
        ),
        ("CLUSTERDOWN The cluster is down", NodeRefusal(RefusalKind.LATER, None)),
        (
            "READONLY You can't write against a read only replica.",
            NodeRefusal(RefusalKind.LATER, None),
        ),
        ("NOREPLICAS Not enough good replicas to write.", NodeRefusal(RefusalKind.LATER, None)),
        ("LOADING Redis is loading the dataset in memory", NodeRefusal(RefusalKind.LATER, None)),
        ("OOM command not allowed", None),
        ("NOPERM no permissions", None),
        ("ERR something", None),
    ],
)
def test_a_refusal_says_where_to_go(said: str, expected: NodeRefusal | None):
    assert refusal_of([error(said)], ASKED) == expected
    # redis-py 5.2 has classes for most of them, but uses them only in its own cluster client.
    if not isinstance(error(said), exceptions.ReadOnlyError | exceptions.BusyLoadingError):
        assert refusal_of([exceptions.ResponseError(said)], ASKED) == expected


def test_no_error_is_no_redirection():
    assert refusal_of([], ASKED) is None


def owned_by(address: tuple[str, int]) -> SlotMap:
    return SlotMap(True, 1, {each.number: address for each in PARTITIONS}, (address,))


def test_a_redirection_during_a_question_outlives_its_answer():
    """It may be newer than the answer of a node that has not heard of the move yet."""
    one, two = ("10.0.0.1", 7001), ("10.0.0.2", 7002)
    before, during, *_ = PARTITIONS
    owners = SlotOwners()
    owners.note_question()
    assert owners.note_answer(owned_by(one))
    assert owners.note_moved(before, two)
    assert not owners.note_moved(before, two)
    owners.note_question()
    owners.note_moved(during, two)
    assert owners.note_answer(owned_by(one))
    assert owners.of(before) == one
    assert owners.of(during) == two
    assert owners.masters() == {one, two}
    owners.note_question()
    assert owners.note_answer(owned_by(one))
    assert owners.masters() == {one}
    owners.note_question()
    assert not owners.note_answer(owned_by(one))
