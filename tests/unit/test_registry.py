"""Channels come and go while the broker is late or fails, and every gap is reported."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realtime.core.envelope import Envelope, decode_envelope, encode_envelope
from realtime.core.namespaces import Namespace
from realtime.core.positions import Gap, Position
from realtime.delivery.registry import (
    KEPT_ARRIVALS_LIMIT,
    Arrival,
    Channel,
    Registry,
    State,
    UnexpectedConfirmation,
)

EPOCHS = [f"{number:016x}" for number in range(300)]
OLD, NEW = EPOCHS[:2]
NAMESPACE = Namespace()


def envelope(offset: int, epoch: str = OLD) -> Envelope:
    return decode_envelope(encode_envelope(Position(epoch, offset), b'{"data":1}'))


def nothing() -> None:
    """A callback for tests in which nobody waits."""


# ------------------------------------------------------------------ case by case


@pytest.fixture
def registry() -> Registry[str]:
    return Registry()


def wanted(registry: Registry[str], name: str = "c", waiter: object = "w") -> Channel[str]:
    return registry.want(name, NAMESPACE, waiter, nothing)


def confirmed(registry: Registry[str], name: str = "c") -> Channel[str]:
    """A channel whose position is being read."""
    channel = wanted(registry, name)
    registry.take_wishes(100)
    assert registry.note_subscribed(name)
    return channel


def live(registry: Registry[str], offset: int = 5, name: str = "c") -> Channel[str]:
    """A live channel with one listener."""
    channel = confirmed(registry, name)
    channel.go_live(Position(OLD, offset))
    channel.listeners["l"] = None
    channel.waiting.clear()
    return channel


def broken(registry: Registry[str]) -> Channel[str]:
    """A channel that was live at 5, confirmed again after a break."""
    channel = live(registry)
    channel.note_arrival(envelope(6))
    registry.note_lost()
    registry.take_wishes(100)
    assert registry.note_subscribed("c")
    return channel


def left(registry: Registry[str], channel: Channel[str]) -> None:
    channel.listeners.clear()
    channel.waiting.clear()
    registry.release(channel)


def test_a_channel_is_subscribed_when_it_is_wanted(registry):
    channel = wanted(registry)
    assert registry.has_wishes
    assert registry.take_wishes(100) == (["c"], [])
    assert not registry.has_wishes
    assert channel.state is State.SUBSCRIBING
    assert (registry.get("c"), len(registry), list(registry)) == (channel, 1, [channel])


def test_a_channel_that_is_wanted_twice_is_subscribed_once(registry):
    assert wanted(registry, waiter="a") is wanted(registry, waiter="b")
    assert registry.take_wishes(100) == (["c"], [])


def test_wanted_channels_are_taken_in_order_and_in_batches(registry):
    for name in "abc":
        wanted(registry, name)
    assert registry.take_wishes(2) == (["a", "b"], [])
    assert registry.take_wishes(2) == (["c"], [])


def test_an_absent_channel_has_no_state(registry):
    assert registry.get("c") is None


def test_a_channel_has_no_position_before_it_was_live(registry):
    with pytest.raises(LookupError, match="c was never live"):
        _ = wanted(registry).position


def test_a_confirmed_channel_is_not_live_until_its_position_is_read(registry):
    channel = confirmed(registry)
    assert not channel.is_live
    assert channel.go_live(Position(OLD, 5)) == []
    assert channel.is_live
    assert channel.position == Position(OLD, 5)
    assert channel.announced_epoch == OLD


def test_arrivals_before_the_confirmation_are_ignored(registry):
    channel = wanted(registry)
    assert channel.note_arrival(envelope(5)) is None
    registry.take_wishes(100)
    registry.note_subscribed("c")
    channel.go_live(Position(OLD, 5))
    assert channel.position == Position(OLD, 5)


def test_arrivals_during_the_position_read_are_kept(registry):
    channel = confirmed(registry)
    assert channel.note_arrival(envelope(5)) is None
    assert channel.note_arrival(envelope(6)) is None
    assert channel.go_live(Position(OLD, 5)) == [Arrival((), envelope(6))]
    assert channel.position == Position(OLD, 6)


def test_arrivals_that_the_position_includes_are_not_delivered_again(registry):
    channel = confirmed(registry)
    channel.go_live(Position(OLD, 6))
    assert channel.note_arrival(envelope(6)) is None
    assert channel.note_arrival(envelope(7)) == Arrival((), envelope(7))


def test_a_live_channel_delivers_arrivals_and_gaps(registry):
    channel = live(registry)
    assert channel.note_arrival(envelope(6)) == Arrival((), envelope(6))
    assert channel.note_arrival(envelope(9)) == Arrival((Gap(OLD, 7, 8),), envelope(9))


def test_after_a_break_the_first_arrival_reveals_the_gap(registry):
    channel = broken(registry)
    channel.note_arrival(envelope(9))
    assert channel.go_live(Position(OLD, 20)) == [Arrival((Gap(OLD, 7, 8),), envelope(9))]
    assert channel.position == Position(OLD, 9)


def test_after_a_break_without_arrivals_the_position_reveals_the_gap(registry):
    channel = broken(registry)
    assert channel.go_live(Position(OLD, 8)) == [Arrival((Gap(OLD, 7, 8),), None)]


def test_after_a_break_without_loss_no_gap_is_reported(registry):
    assert broken(registry).go_live(Position(OLD, 6)) == []


def test_after_a_restart_the_old_epoch_ends_and_the_new_one_has_a_gap(registry):
    channel = broken(registry)
    gaps = (Gap(OLD, 7, None), Gap(NEW, 1, 3))
    assert channel.go_live(Position(NEW, 3)) == [Arrival(gaps, None)]
    assert channel.announced_epoch == OLD  # so that the next publication names the new one


def returned(registry: Registry[str]) -> Channel[str]:
    """A channel at NEW 3 whose node returns to the former master, where it left OLD at 6."""
    channel = broken(registry)
    channel.go_live(Position(NEW, 3))
    registry.note_lost()
    registry.take_wishes(100)
    assert registry.note_subscribed("c")
    return channel


def test_a_former_master_that_goes_on_is_heard_again(registry):
    """Its epoch had ended, so all that it sent was ignored, and no gap said so."""
    channel = returned(registry)
    assert channel.note_arrival(envelope(10)) is None
    assert channel.note_arrival(envelope(11)) is None
    assert channel.go_live(Position(OLD, 11)) == [
        Arrival((Gap(NEW, 4, None),), None),
        Arrival((), envelope(10)),
        Arrival((), envelope(11)),
    ]
    assert channel.note_arrival(envelope(12)) == Arrival((), envelope(12))


def test_late_arrivals_of_a_former_master_hide_no_gap(registry):
    """They were kept, so the position that was read was not compared."""
    channel = returned(registry)
    assert channel.note_arrival(envelope(10)) is None
    assert channel.go_live(Position(NEW, 8)) == [Arrival((Gap(NEW, 4, 8),), None)]
    assert channel.note_arrival(envelope(9, NEW)) == Arrival((), envelope(9, NEW))


def test_a_channel_of_a_lost_part_of_the_broker_is_confirmed_once_more(registry):
    channel = live(registry)
    registry.lose(["c"])
    assert not channel.is_live
    assert not registry.has_wishes, "the broker subscribes again by itself"
    assert registry.note_subscribed("c")
    assert channel.note_arrival(envelope(9)) is None
    assert channel.go_live(Position(OLD, 9)) == [Arrival((Gap(OLD, 6, 8),), envelope(9))]


def test_a_lost_channel_that_is_being_left_ends_all_the_same(registry):
    channel = live(registry)
    channel.listeners.clear()
    registry.release(channel)
    registry.lose(["c"])
    assert registry.take_wishes(1) == ([], ["c"])
    assert not registry.note_subscribed("c")
    registry.note_unsubscribed("c")
    assert registry.get("c") is None


def test_arrivals_that_cannot_be_kept_become_a_gap(registry):
    channel = broken(registry)
    for offset in range(7, 7 + KEPT_ARRIVALS_LIMIT + 10):
        channel.note_arrival(envelope(offset))
    [first, *rest] = channel.go_live(Position(OLD, 6))
    assert first == Arrival((Gap(OLD, 7, 16),), envelope(17))
    assert len(rest) == KEPT_ARRIVALS_LIMIT - 1


def test_an_unwanted_channel_is_left_at_once(registry):
    channel = live(registry)
    left(registry, channel)
    assert registry.take_wishes(100) == ([], ["c"])
    assert channel.state is State.LEAVING
    registry.note_unsubscribed("c")
    assert len(registry) == 0


def test_a_wanted_channel_is_not_left(registry):
    channel = live(registry)
    registry.release(channel)
    assert not registry.has_wishes
    assert channel.is_live


def test_a_channel_that_was_not_yet_subscribed_is_simply_forgotten(registry):
    left(registry, wanted(registry))
    assert not registry.has_wishes
    assert len(registry) == 0


def test_a_channel_left_while_subscribing_is_not_confirmed(registry):
    channel = wanted(registry)
    registry.take_wishes(100)
    left(registry, channel)
    assert registry.take_wishes(100) == ([], ["c"])
    assert not registry.note_subscribed("c")
    registry.note_unsubscribed("c")
    assert len(registry) == 0


def test_a_left_channel_forgets_its_position(registry):
    """Publications from now on, until it is subscribed again, are nobody's gap."""
    channel = live(registry)
    left(registry, channel)
    assert channel.note_arrival(envelope(6)) is None
    with pytest.raises(LookupError):
        _ = channel.position


def test_a_channel_left_twice_is_unsubscribed_once(registry):
    channel = live(registry)
    left(registry, channel)
    assert registry.take_wishes(100) == ([], ["c"])
    wanted(registry)
    left(registry, channel)
    assert not registry.has_wishes


def test_a_leaving_channel_that_is_wanted_again_is_resubscribed(registry):
    channel = live(registry)
    left(registry, channel)
    registry.take_wishes(100)
    assert wanted(registry) is channel
    assert not registry.has_wishes
    registry.note_unsubscribed("c")
    assert registry.take_wishes(100) == (["c"], [])
    assert registry.note_subscribed("c")
    assert channel.go_live(Position(NEW, 9)) == []
    assert channel.announced_epoch == NEW


def test_every_wanted_channel_is_resubscribed_after_a_break(registry):
    live(registry, name="a")
    wanted(registry, "b")
    confirmed(registry, "c")
    left(registry, live(registry, name="d"))
    registry.note_lost()
    assert registry.take_wishes(100) == (["a", "b", "c"], [])


def test_a_channel_that_was_leaving_at_the_break_has_no_gap(registry):
    channel = live(registry)
    left(registry, channel)
    wanted(registry)
    registry.note_lost()
    registry.take_wishes(100)
    registry.note_subscribed("c")
    assert channel.go_live(Position(OLD, 50)) == []


def test_confirmations_from_before_a_break_are_no_longer_expected(registry):
    wanted(registry)
    registry.take_wishes(100)
    registry.note_lost()
    with pytest.raises(UnexpectedConfirmation):
        registry.note_subscribed("c")


@pytest.mark.parametrize("kind", ["note_subscribed", "note_unsubscribed"])
@pytest.mark.parametrize("state", ["absent", "live"])
def test_an_unexpected_confirmation_is_an_error(registry, kind, state):
    """The broker's connection was re-established without our knowledge (channels_redis#256)."""
    if state == "live":
        live(registry)
    with pytest.raises(UnexpectedConfirmation):
        getattr(registry, kind)("c")


# ------------------------------------------------------------------ the law


@dataclass(eq=False)
class Told:
    """The reports to one listener since it joined, checked as they arrive.

    `due` is what must come next: an epoch (by number) and an offset in it. After an open gap it is
    the beginning of some later epoch, or an earlier epoch goes on, whose open gap covers the rest.
    """

    due: tuple[int, int]
    open_gap: bool = False
    ended: dict[int, int] = field(default_factory=dict)
    """The offset that was due in each epoch that has ended with an open gap."""

    def take(self, arrival: Arrival) -> None:
        for gap in arrival.gaps:
            self.step(gap.epoch, gap.first, gap.last)
        if arrival.envelope is not None:
            position = arrival.envelope.position
            self.step(position.epoch, position.offset, position.offset)

    def step(self, epoch: str, first: int, last: int | None) -> None:
        number = EPOCHS.index(epoch)
        if self.open_gap:
            self.ended[self.due[0]] = self.due[1]
            if number in self.ended:
                assert first >= self.ended[number], "a publication returned"
            else:
                assert number > self.due[0], "an epoch that was passed over returned"
                assert first == 1, "the beginning of an epoch is missing"
        else:
            assert (number, first) == self.due, f"{(number, first)} came, {self.due} was due"
        assert last is None or last >= first, "an empty gap"
        self.open_gap = last is None
        self.due = (number, first if last is None else last + 1)

    def covers(self, published: tuple[int, int]) -> bool:
        return self.open_gap or published < self.due or published[0] in self.ended


@dataclass
class Broker:
    """A simulated Redis: executes commands in order, counts, and delivers to subscribers."""

    commands: deque[tuple[str, str]] = field(default_factory=deque)
    events: deque[tuple[str, str, Envelope | None]] = field(default_factory=deque)
    subscribed: set[str] = field(default_factory=set)
    at: dict[str, tuple[int, int]] = field(default_factory=dict)
    ends: dict[str, dict[int, int]] = field(default_factory=dict)
    latest: dict[str, int] = field(default_factory=dict)
    published: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def read(self, name: str) -> Position:
        epoch, offset = self.at.setdefault(name, (0, 0))
        return Position(EPOCHS[epoch], offset)

    def publish(self, name: str) -> None:
        epoch, offset = self.at.get(name, (0, 0))
        self.at[name] = (epoch, offset + 1)
        self.published.setdefault(name, []).append((epoch, offset + 1))
        if name in self.subscribed:
            self.events.append(("message", name, envelope(offset + 1, EPOCHS[epoch])))

    def do_one(self) -> None:
        kind, name = self.commands.popleft()
        (self.subscribed.add if kind == "subscribed" else self.subscribed.discard)(name)
        self.events.append((kind, name, None))

    def begin_epoch(self, name: str) -> None:
        epoch, offset = self.at.get(name, (0, 0))
        self.ends.setdefault(name, {})[epoch] = offset
        self.at[name] = (self.latest.get(name, 0) + 1, 0)
        self.latest[name] = self.at[name][0]

    def return_to(self, name: str, epoch: int) -> None:
        """Go on with an earlier epoch: sentinels have returned to a former master."""
        now, offset = self.at[name]
        self.ends[name][now] = offset
        self.at[name] = (epoch, self.ends[name][epoch])

    def cut(self) -> None:
        self.commands.clear()
        self.events.clear()
        self.subscribed.clear()


NAMES = st.sampled_from(["a", "b"])


class RegistryMachine(RuleBasedStateMachine):
    """A node between its clients and a broker that is always late, and that breaks.

    The rules do what the hub and its conversations do with a registry, and nothing else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.registry: Registry[Told] = Registry()
        self.to_settle: dict[str, None] = {}
        self.reading: dict[str, Position] | None = None
        self.joined: dict[str, list[Told]] = {"a": [], "b": []}
        self.waiters: dict[str, list[object]] = {"a": [], "b": []}
        self.faults = 0

    # clients

    @rule(name=NAMES)
    def somebody_wants(self, name: str) -> None:
        waiter = object()
        channel = self.registry.want(name, NAMESPACE, waiter, nothing)
        self.waiters[name].append(waiter)
        if channel.is_live:
            self.join(channel)

    def join(self, channel: Channel[Told]) -> None:
        name = channel.name
        epoch, offset = channel.position
        for waiter in self.waiters[name]:
            told = Told((EPOCHS.index(epoch), offset + 1))
            channel.listeners[told] = None
            self.joined[name].append(told)
            del channel.waiting[waiter]
            self.registry.release(channel)
        self.waiters[name].clear()

    @precondition(lambda self: any(self.joined.values()))
    @rule(data=st.data())
    def somebody_leaves(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([n for n, told in self.joined.items() if told]))
        told = self.joined[name].pop(data.draw(st.integers(0, len(self.joined[name]) - 1)))
        channel = self.registry.get(name)
        del channel.listeners[told]
        self.registry.release(channel)

    @precondition(lambda self: any(self.waiters.values()))
    @rule(data=st.data())
    def somebody_gives_up(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([n for n, waiters in self.waiters.items() if waiters]))
        channel = self.registry.get(name)
        del channel.waiting[self.waiters[name].pop()]
        self.registry.release(channel)

    # the node

    @precondition(lambda self: self.registry.has_wishes)
    @rule(limit=st.integers(1, 2))
    def wishes_are_sent(self, limit: int) -> None:
        subscribe, unsubscribe = self.registry.take_wishes(limit)
        self.broker.commands.extend(("subscribed", name) for name in subscribe)
        self.broker.commands.extend(("unsubscribed", name) for name in unsubscribe)

    @precondition(lambda self: self.broker.events)
    @rule(count=st.integers(1, 4))
    def events_are_read(self, count: int) -> None:
        for _ in range(min(count, len(self.broker.events))):
            kind, name, message = self.broker.events.popleft()
            if kind == "unsubscribed":
                self.registry.note_unsubscribed(name)
            elif kind == "subscribed":
                if self.registry.note_subscribed(name):
                    self.to_settle[name] = None
            elif channel := self.registry.get(name):
                self.tell(channel, channel.note_arrival(message))

    def tell(self, channel: Channel[Told], arrival: Arrival | None) -> None:
        if arrival is None:
            return
        assert self.faults or not arrival.gaps, "a gap without a fault"
        note(f"{channel.name}: {arrival.gaps} {arrival.envelope and arrival.envelope.position}")
        for told in channel.listeners:
            told.take(arrival)

    @precondition(lambda self: self.to_settle and self.reading is None)
    @rule()
    def positions_are_asked_for(self) -> None:
        self.reading = {name: self.broker.read(name) for name in self.to_settle}
        self.to_settle.clear()

    @precondition(lambda self: self.reading is not None)
    @rule()
    def positions_are_answered(self) -> None:
        answers, self.reading = self.reading, None
        for name, position in answers.items():
            channel = self.registry.get(name)
            if channel and channel.state is State.SETTLING and name not in self.to_settle:
                for arrival in channel.go_live(position):
                    self.tell(channel, arrival)
                self.join(channel)

    # the broker

    @rule(name=NAMES, count=st.integers(1, 3))
    def somebody_publishes(self, name: str, count: int) -> None:
        for _ in range(count):
            self.broker.publish(name)

    @precondition(lambda self: self.broker.commands)
    @rule()
    def the_broker_does_a_command(self) -> None:
        self.broker.do_one()

    @rule(restarted=st.booleans(), returned=st.booleans(), missed=st.integers(0, 2))
    def the_connection_breaks(self, restarted: bool, returned: bool, missed: int) -> None:
        self.faults += 1
        former = {name: self.former_epoch(name) for name in "ab"} if returned else {}
        self.broker.cut()
        self.registry.note_lost()
        self.to_settle.clear()
        self.reading = None
        for name in "ab":
            if former.get(name) is not None:
                self.broker.return_to(name, former[name])
            elif restarted:
                self.broker.begin_epoch(name)
            for _ in range(missed):
                self.broker.publish(name)

    def former_epoch(self, name: str) -> int | None:
        """Return the last epoch that has ended, if all of it and of its successor was heard.

        A node that was never at the second master cannot know of it when it is back at the first.
        """
        channel = self.registry.get(name)
        if channel is None or not channel.is_live or not channel.detector.ended:
            return None
        epoch, _ = self.broker.at.get(name, (0, 0))
        if channel.position.epoch != EPOCHS[epoch]:
            return None
        return EPOCHS.index(channel.detector.ended[0].epoch)

    @precondition(lambda self: not self.is_settling())
    @rule(name=NAMES)
    def a_counter_is_lost(self, name: str) -> None:
        """FLUSHALL or eviction; the connection survives.

        Not while a channel settles: its position could be read in the new epoch while publications
        of the old one are still in flight. Their epoch would then seem to have returned.
        """
        self.faults += 1
        self.broker.begin_epoch(name)

    def is_settling(self) -> bool:
        return any(not channel.is_live for channel in self.registry)

    # what must hold

    @invariant()
    def listeners_are_where_they_belong(self) -> None:
        for name in "ab":
            channel = self.registry.get(name)
            assert list(channel.listeners if channel else []) == self.joined[name]
            assert list(channel.waiting if channel else []) == self.waiters[name]

    def teardown(self) -> None:
        """Complete everything in progress: then nobody waits, and every gap has been reported."""
        for _ in range(4):
            while self.registry.has_wishes:
                self.wishes_are_sent(2)
            while self.broker.commands:
                self.broker.do_one()
            self.events_are_read(len(self.broker.events))
            if self.reading is not None:
                self.positions_are_answered()
            if self.to_settle:
                self.positions_are_asked_for()
                self.positions_are_answered()
        assert not any(self.waiters.values()), "a subscriber waits forever"
        wanted = {name for name, listeners in self.joined.items() if listeners}
        assert {channel.name for channel in self.registry} == wanted == self.broker.subscribed
        for name in wanted:
            for told in self.joined[name]:
                missing = [p for p in self.broker.published.get(name, []) if not told.covers(p)]
                assert not missing, "published, but neither received nor reported"
                epoch, offset = self.broker.at.get(name, (0, 0))
                is_there = told.due == (epoch, offset + 1) or told.open_gap or offset == 0
                assert is_there, "left behind in silence"


TestNothingIsMissedInSilence = RegistryMachine.TestCase


VISITS = st.tuples(st.integers(0, 2), *[st.integers(0, 2)] * 4)


@given(st.lists(VISITS, max_size=8))
def test_nothing_is_missed_in_silence_between_masters_that_take_turns(visits):
    """Hypothesis: of several masters that were never demoted, each goes on with its epoch."""
    broker, registry, told = Broker(), Registry[Told](), Told((0, 1))
    channel = registry.want("c", NAMESPACE, told, nothing)

    def publish(count: int) -> None:
        for _ in range(count):
            broker.publish("c")

    def read() -> None:
        while broker.events:
            kind, _, message = broker.events.popleft()
            if kind == "subscribed":
                assert registry.note_subscribed("c")
            elif arrival := channel.note_arrival(message):
                told.take(arrival)

    for back, missed, kept, late, heard in [(0, 0, 0, 0, 0), *visits]:
        broker.cut()
        registry.note_lost()
        if channel.detector is not None:
            ended = [each.epoch for each in channel.detector.ended][:back]
            if ended and back:
                broker.return_to("c", EPOCHS.index(ended[-1]))
            elif back:
                broker.begin_epoch("c")
        publish(missed)
        registry.take_wishes(1)
        broker.commands.append(("subscribed", "c"))
        broker.do_one()
        publish(kept)
        read()
        position = broker.read("c")
        publish(late)
        read()
        for arrival in channel.go_live(position):
            told.take(arrival)
        if told not in channel.listeners:
            channel.listeners[told] = None
        publish(heard)
        read()
        epoch, offset = broker.at["c"]
        is_there = told.due == (epoch, offset + 1) or told.open_gap
        assert is_there, "left behind in silence"
        assert all(map(told.covers, broker.published.get("c", [])))
