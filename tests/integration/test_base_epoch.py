"""The properties of positions without a key, on a real Redis, whatever happens to its keys."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realtime.brokers.commands import SCRIPTS, Commands
from realtime.core.positions import GapDetector, Position
from realtime.core.publication import Publication
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

CHANNELS = ("a", "b", "c")
DAY_SECONDS = 86400
CLOSING_SECONDS = 300

channels = st.sampled_from(CHANNELS)
lawful = st.one_of(
    st.tuples(st.sampled_from(["publish", "listen", "leave"]), channels),
    st.just(("batch", "")),  # several publications to several channels, in one script
    st.just(("day", "")),  # a day passes, then the time for which the base closes
)
faults = st.one_of(
    st.tuples(st.sampled_from(["delete", "expire", "miss"]), channels),
    st.tuples(st.sampled_from(["forget base", "flush"]), st.just("")),
)


@pytest.fixture(scope="module")
def direct() -> Iterator[redis.Redis]:
    server = RedisServer(port=free_port()).start()
    with server.client() as client:
        for script in (SCRIPTS.publish, SCRIPTS.read_position):
            client.script_load(script.text)
        yield client
    server.stop()


class Service:
    """One node that listens, a publisher, and the observations of both."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.prefix = secrets.token_hex(6)
        self.commands = Commands(self.prefix)
        self.handed_out: set[Position] = set()
        self.channel_of: dict[str, str] = {}
        """The only channel of each epoch: an entry's id consists of epoch and offset alone."""
        self.listening: dict[str, GapDetector] = {}
        self.unheard: dict[str, set[Position]] = {name: set() for name in CHANNELS}
        """Published while the node listened, and neither received nor in a gap."""
        self.gaps = 0

    def read(self, channel: str) -> Position:
        [command] = self.commands.read_positions([channel])
        epoch, offset = self.client.execute_command(*command)[0].split(b" ")
        return Position(epoch, int(offset))

    def do(self, action: str, channel: str) -> None:
        getattr(self, "do_" + action.replace(" ", "_"))(channel)

    def do_listen(self, channel: str) -> None:
        if channel not in self.listening:
            self.listening[channel] = GapDetector(self.read(channel))

    def do_leave(self, channel: str) -> None:
        self.listening.pop(channel, None)
        self.unheard[channel].clear()

    def published(self, *names: str) -> list[Position]:
        made = [Publication.of(channel, 1) for channel in names]
        reply = self.client.execute_command(*self.commands.publish(*made))
        receipts = [answer.split(b" ") for answer in reply]
        positions = [Position(epoch, int(offset)) for epoch, offset, *_ in receipts]
        for channel, position in zip(names, positions, strict=True):
            assert self.channel_of.setdefault(position.epoch, channel) == channel
            assert position not in self.handed_out, "assigned twice"
            self.handed_out.add(position)
        return positions

    def do_publish(self, channel: str) -> None:
        self.published_and_observed(channel)

    def do_batch(self, _: str) -> None:
        self.published_and_observed(*CHANNELS, *CHANNELS)

    def published_and_observed(self, *names: str) -> None:
        for channel, position in zip(names, self.published(*names), strict=True):
            if (detector := self.listening.get(channel)) is not None:
                gaps = detector.observe(position)
                assert gaps is not None, "taken for a known one"
                self.note(channel, gaps)

    def do_miss(self, channel: str) -> None:
        """The node's connection breaks, a publication is missed, and the node reads again."""
        [position] = self.published(channel)
        if channel in self.listening:
            self.unheard[channel].add(position)

    def note(self, channel: str, gaps: tuple) -> None:
        self.gaps += len(gaps)
        for gap in gaps:
            self.unheard[channel] -= {
                position
                for position in self.unheard[channel]
                # An open gap covers everything after it, in whatever epochs the node never learned
                # of.
                if gap.last is None
                or (gap.epoch == position.epoch and gap.first <= position.offset <= gap.last)
            }

    def do_delete(self, channel: str) -> None:
        self.client.delete(f"{self.prefix}:{{0}}:pos:{channel}")

    def do_expire(self, channel: str) -> None:
        self.client.pexpire(f"{self.prefix}:{{0}}:pos:{channel}", 0)

    def do_forget_base(self, _: str) -> None:
        self.client.delete(f"{self.prefix}:{{0}}:base")

    def do_flush(self, _: str) -> None:
        self.client.flushall()

    def do_day(self, _: str) -> None:
        base = f"{self.prefix}:{{0}}:base"
        if not self.client.exists(base):
            return
        self.client.hincrby(base, "born", -DAY_SECONDS)
        for channel in self.listening:  # as nodes do once a minute
            self.read(channel)
        self.read("nobody")  # anybody's
        if self.client.hexists(base, "closing"):
            self.client.hincrby(base, "closing", -CLOSING_SECONDS)

    def settle(self) -> None:
        """The node reads all positions after a break, as `Channel.go_live` does."""
        for channel, detector in self.listening.items():
            self.note(channel, detector.resume(self.read(channel)))


RUNS = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(st.lists(lawful, max_size=30))
@RUNS
def test_no_gap_is_reported_without_a_fault(direct: redis.Redis, actions: list) -> None:
    service = Service(direct)
    for action in actions:
        service.do(*action)
    service.settle()
    assert service.gaps == 0


@given(st.lists(st.one_of(lawful, faults), max_size=30))
@RUNS
def test_offsets_are_unique_and_every_loss_is_reported(direct: redis.Redis, actions: list) -> None:
    """Keys may expire, be evicted or be deleted at any time, including the base."""
    service = Service(direct)
    for action in actions:
        service.do(*action)
    service.settle()
    assert not any(service.unheard.values()), "lost silently"


def test_publications_missed_before_a_counter_deletion_are_announced(direct: redis.Redis) -> None:
    """The node was at offset 0 without a key; the publication and the counter are both gone."""
    service = Service(direct)
    for action in ("listen", "miss", "delete"):
        service.do(action, "a")
    service.settle()
    assert service.gaps
    assert not service.unheard["a"]


def test_an_evicting_redis_reuses_no_offset() -> None:
    """`volatile-lru` evicts counters, which have an expiry, but never the base, which has none."""
    server = RedisServer(
        "--maxmemory", "4mb", "--maxmemory-policy", "volatile-lru", port=free_port()
    ).start()
    try:
        with server.client() as client:
            for script in (SCRIPTS.publish, SCRIPTS.read_position):
                client.script_load(script.text)
            service = Service(client)
            for number in range(25_000):
                service.published(f"c{number % 15_000}")
            assert client.info("stats")["evicted_keys"] > 0
    finally:
        server.stop()


@pytest.mark.parametrize("lost", [False, True], ids=["the base begins", "counters were lost"])
def test_no_two_channels_share_an_epoch(direct: redis.Redis, lost: bool) -> None:
    """The id of an entry queued for a fallback consists of epoch and offset alone."""
    service = Service(direct)
    names = [f"news:{number}" for number in range(50)]
    if lost:
        service.published(*names)
        for name in names:
            service.do_delete(name)
    one_by_one = [service.published(name)[0].epoch for name in names[:25]]
    in_one_script = [position.epoch for position in service.published(*names[25:])]
    assert len({*one_by_one, *in_one_script}) == 50
    assert service.read("new").epoch not in {*one_by_one, *in_one_script}


def test_a_stranger_fills_redis_by_subscribing() -> None:
    """With 6 MiB of memory left, two clients made 122 of 124 publishes fail with 503."""
    server = RedisServer(port=free_port()).start()
    try:
        with server.client() as client:
            for script in (SCRIPTS.publish, SCRIPTS.read_position):
                client.script_load(script.text)
            service = Service(client)
            service.read("first")
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 6 * 1024**2)
            for number in range(10_000):
                service.read(f"stranger:{number}")
            assert client.dbsize() == 1
            service.published("news")
    finally:
        server.stop()
