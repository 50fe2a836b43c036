"""Channels follow their partitions from master to master, and no loss of one is kept silent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from redis import exceptions
from redis._parsers.base import BaseParser

from realtime.brokers import ChannelsLost, Message, Subscribed, Unsubscribed
from realtime.brokers.cluster.placement import PlacementRequest, ShardPlacement
from realtime.core.partitions import PARTITIONS, partition_of

A, B, C = MASTERS = [("10.0.0.1", 7001), ("10.0.0.2", 7002), ("10.0.0.3", 7003)]
NAMES = ["chat:lobby", "chat:1", "!node.05", "public:news"]
PARTITIONS_OF_NAMES = sorted({partition_of(name).number for name in NAMES})


def raw_name(name: str) -> bytes:
    return f"rt:{{{partition_of(name).tag}}}:ch:{name}".encode()


@dataclass
class Master:
    """A simulated master: executes commands in order, and answers late."""

    commands: deque[PlacementRequest] = field(default_factory=deque)
    replies: deque[Any] = field(default_factory=deque)
    subscribed: set[str] = field(default_factory=set)


class Cluster:
    """Simulated masters, each partition at one of them."""

    def __init__(self) -> None:
        self.masters = {address: Master() for address in MASTERS}
        self.owners = dict.fromkeys(PARTITIONS_OF_NAMES, A)

    def do_one(self, address: tuple[str, int]) -> None:
        master = self.masters[address]
        request = master.commands.popleft()
        owner = self.owners[request.partition]
        if owner != address:
            slot = PARTITIONS[request.partition].slot
            text = f"MOVED {slot} {owner[0]}:{owner[1]}"
            master.replies.append(BaseParser.parse_error(text))
        else:
            kind = b"ssubscribe" if request.is_subscribe else b"sunsubscribe"
            change = master.subscribed.add if request.is_subscribe else master.subscribed.discard
            for name in request.names:
                change(name)
                master.replies.append([kind, raw_name(name), len(master.subscribed)])
        number = b"%d" % request.number
        master.replies.append([b"pong", number] if master.subscribed else number)

    def publish(self, name: str) -> None:
        master = self.masters[self.owners[partition_of(name).number]]
        if name in master.subscribed:
            master.replies.append([b"smessage", raw_name(name), b"data"])

    def move(self, number: int, to: tuple[str, int]) -> None:
        former = self.masters[self.owners[number]]
        self.owners[number] = to
        for name in sorted(former.subscribed):
            if partition_of(name).number == number:
                former.subscribed.discard(name)
                former.replies.append([b"sunsubscribe", raw_name(name), len(former.subscribed)])

    def cut(self, address: tuple[str, int]) -> None:
        self.masters[address] = Master()


class PlacementMachine(RuleBasedStateMachine):
    """A node whose channels come and go, at masters whose partitions do."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.placement = ShardPlacement()
        self.wanted: dict[str, str] = {}
        """The state of each channel for the node: due, live, or leaving after one of these."""

    def send(self, requests: list[PlacementRequest]) -> None:
        for request in requests:
            self.cluster.masters[request.master].commands.append(request)

    def hear(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, Subscribed):
                assert self.wanted[event.channel] in ("due", "leaving due")
                self.wanted[event.channel] = self.wanted[event.channel].replace("due", "live")
            elif isinstance(event, Unsubscribed):
                assert self.wanted.pop(event.channel) == "leaving live"
            elif isinstance(event, ChannelsLost):
                for name in event.channels:
                    assert not self.wanted[name].startswith("leaving")
                    self.wanted[name] = "due"
            else:
                assert isinstance(event, Message)
                assert self.wanted[event.channel] in ("live", "leaving live")

    @rule(name=st.sampled_from(NAMES))
    def a_channel_comes_or_goes(self, name: str) -> None:
        if name not in self.wanted:
            self.wanted[name] = "due"
            self.send(self.placement.subscribe([name]))
        elif not self.wanted[name].startswith("leaving"):
            self.wanted[name] = f"leaving {self.wanted[name]}"
            requests, events = self.placement.unsubscribe([name])
            self.send(requests)
            self.hear(events)

    @precondition(lambda self: self.placement.unplaced)
    @rule(believed=st.sampled_from([None, *MASTERS]))
    def a_partition_is_placed(self, believed: tuple[str, int] | None) -> None:
        """At its master, or where an old answer says."""
        number = self.placement.unplaced[0]
        self.send(self.placement.place(number, believed or self.cluster.owners[number]))

    @rule()
    def nothing_more_can_be_placed(self) -> None:
        """Their masters are away: the channels are lost, which is said once."""
        self.hear(self.placement.report_lost(self.placement.unplaced, "away"))
        assert self.placement.report_lost(self.placement.unplaced, "away") == []

    @rule(address=st.sampled_from(MASTERS), count=st.integers(1, 3))
    def a_master_works(self, address: tuple[str, int], count: int) -> None:
        for _ in range(min(count, len(self.cluster.masters[address].commands))):
            self.cluster.do_one(address)

    @rule(address=st.sampled_from(MASTERS), count=st.integers(1, 4))
    def replies_are_read(self, address: tuple[str, int], count: int) -> None:
        replies = self.cluster.masters[address].replies
        for _ in range(min(count, len(replies))):
            self.hear(self.placement.take(address, replies.popleft()))

    @rule(name=st.sampled_from(NAMES))
    def somebody_publishes(self, name: str) -> None:
        self.cluster.publish(name)

    @rule(number=st.sampled_from(PARTITIONS_OF_NAMES), to=st.sampled_from(MASTERS))
    def a_slot_moves(self, number: int, to: tuple[str, int]) -> None:
        self.cluster.move(number, to)

    @rule(address=st.sampled_from(MASTERS))
    def a_connection_breaks(self, address: tuple[str, int]) -> None:
        self.cluster.cut(address)
        self.hear(self.placement.lose(address, "cut"))

    @invariant()
    def nothing_is_live_where_it_is_not_subscribed(self) -> None:
        """What a node calls live is subscribed, or the reply that ends it is on its way."""
        masters = self.cluster.masters.values()
        subscribed = {name for master in masters for name in master.subscribed}
        ending = {
            reply[1]
            for master in masters
            for reply in master.replies
            if type(reply) is list and reply[0] == b"sunsubscribe"
        }
        for name, state in self.wanted.items():
            assert "live" not in state or name in subscribed or raw_name(name) in ending

    def teardown(self) -> None:
        """Complete everything in progress: then each channel is subscribed at its master only."""
        for _ in range(6):
            for number in self.placement.unplaced:
                self.send(self.placement.place(number, self.cluster.owners[number]))
            for address, master in self.cluster.masters.items():
                while master.commands:
                    self.cluster.do_one(address)
                while master.replies:
                    self.hear(self.placement.take(address, master.replies.popleft()))
        assert set(self.wanted.values()) <= {"live"}
        for address, master in self.cluster.masters.items():
            here = {
                n for n in self.wanted if self.cluster.owners[partition_of(n).number] == address
            }
            assert master.subscribed == here


TestChannelsFollowTheirPartitions = PlacementMachine.TestCase


def test_a_refusal_for_good_is_raised():
    placement = ShardPlacement()
    placement.subscribe(["chat:1"])
    placement.place(partition_of("chat:1").number, A)
    with pytest.raises(exceptions.NoPermissionError):
        placement.take(A, BaseParser.parse_error("NOPERM no permissions"))


def test_a_reply_that_nobody_expects_is_an_error():
    with pytest.raises(exceptions.ConnectionError, match="to a subscriber"):
        ShardPlacement().take(A, [b"message", b"rt:{14}:ch:a", b"x"])


def test_a_refusal_names_the_new_master():
    placement = ShardPlacement()
    number = partition_of("chat:1").number
    placement.subscribe(["chat:1"])
    placement.place(number, A)
    error = BaseParser.parse_error("MOVED 1 10.0.0.2:7002")
    assert placement.take(A, error) == [ChannelsLost(("chat:1",), "1 10.0.0.2:7002")]
    assert placement.moved == [(number, B)]
    assert placement.unplaced == [number]


def test_a_refusal_of_what_has_ended_meanwhile_says_nothing():
    """The slot leaves while the node leaves the channel: the master ends it, then refuses that."""
    placement = ShardPlacement()
    number = partition_of("chat:1").number
    placement.subscribe(["chat:1"])
    placement.place(number, A)
    name = raw_name("chat:1")
    assert placement.take(A, [b"ssubscribe", name, 1]) == [Subscribed("chat:1")]
    placement.take(A, [b"pong", b"1"])
    placement.unsubscribe(["chat:1"])
    assert placement.take(A, [b"sunsubscribe", name, 0]) == [Unsubscribed("chat:1")]
    moved = BaseParser.parse_error("MOVED 1 10.0.0.2:7002")
    placement.subscribe(["chat:1"])
    placement.place(number, B)
    assert placement.take(A, moved) == []
    assert placement.unplaced == []
