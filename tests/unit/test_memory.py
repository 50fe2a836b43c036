"""The rules of the broker inside the process: its bounds and expiry times.

tests/contract/test_broker.py tests what it has in common with the broker on Redis.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.brokers.bounds import (
    ANSWERS_SECONDS,
    IDEMPOTENCY_SECONDS,
    KNOWN_SECONDS,
    MEMBERS_KEPT_SECONDS,
    NODE_COMMAND_BYTES,
    NODE_COMMANDS_SECONDS,
    QUEUE_LOT,
)
from realtime.brokers.memory.counters import PositionCounters
from realtime.brokers.memory.entry_queue import EntryQueue, EntryQueueLimits
from realtime.brokers.memory.exchange import MailboxClosed, MemoryExchange, SubscriberMailbox
from realtime.brokers.memory.roster import MemberRoster
from realtime.brokers.memory.store import MemoryStore, StoreLimits
from realtime.brokers.node_messages import Moment
from realtime.core.fallback_entry import decode_entry
from realtime.core.members import LEASE_SECONDS, MEMBERS_LIMIT, Member, MemberUpdate, TooManyMembers
from realtime.core.publication import Publication, Receipt
from realtime.errors import BrokerUnavailable

NOW = 1_700_000_000.0
MS = int(NOW * 1000)
ROOM = EntryQueueLimits()


def store(**limits: int) -> MemoryStore:
    return MemoryStore("base", StoreLimits(**limits))


def publish(to: MemoryStore, data: Any = 1, now: float = NOW, **options: Any) -> Any:
    publication = Publication.of(options.pop("channel", "c"), data, **options)
    return to.publish(publication, now, "fresh", ROOM)


# Positions


@given(
    st.lists(
        st.tuples(st.sampled_from(["publish", "read", "listen", "leave"]), st.integers(0, 9)),
        max_size=200,
    )
)
def test_no_offset_is_used_twice_and_listeners_keep_their_epoch(steps: list[Any]) -> None:
    """With room for only four counters, most channels are forgotten repeatedly."""
    counters = PositionCounters("base", most=4)
    used: set[Any] = set()
    listened: dict[str, Any] = {}
    for number, (step, channel) in enumerate(steps):
        name = f"c{channel}"
        if step == "publish":
            position = counters.advance(name, f"base {number}", listened)
            assert (name, position) not in used
            used.add((name, position))
            if name in listened:
                assert position == listened[name]._replace(offset=listened[name].offset + 1)
                listened[name] = position
        elif step == "listen":
            listened.setdefault(name, counters.read(name))
        elif step == "leave":
            listened.pop(name, None)
        else:
            assert counters.read(name) == counters.read(name)
        for each, position in listened.items():
            assert counters.read(each) == position, "a listener would see a gap"
        assert len(counters) <= 4 + len(listened) + 1


def test_the_channels_used_last_are_remembered() -> None:
    counters = PositionCounters("base", most=4)
    kept = [counters.advance(f"c{n}", "fresh", ()) for n in range(4)]
    counters.read("c0")
    counters.advance("new", "fresh", ())
    assert counters.read("c0") == kept[0]
    assert counters.read("c1").epoch != kept[1].epoch
    assert counters.read("c1").offset == 0


# Idempotency keys


def test_a_key_is_remembered_for_five_minutes() -> None:
    broker = store()
    first = publish(broker, idempotency_key="k")
    again = publish(broker, idempotency_key="k", now=NOW + IDEMPOTENCY_SECONDS - 0.1)
    assert again == first._replace(repeated=True)
    assert publish(broker, idempotency_key="k", now=NOW + IDEMPOTENCY_SECONDS).offset == 2


def test_more_keys_than_it_can_remember_are_refused_and_nothing_is_published() -> None:
    broker = store(remembered=2)
    for key in ("a", "b"):
        assert isinstance(publish(broker, idempotency_key=key), Receipt)
    refused = publish(broker, idempotency_key="c")
    assert isinstance(refused, BrokerUnavailable)
    assert "at most 2 idempotency keys" in str(refused)
    assert publish(broker, idempotency_key="a").repeated
    assert publish(broker).offset == 3, "without a key it can be published"
    assert publish(broker, idempotency_key="c", now=NOW + IDEMPOTENCY_SECONDS).offset == 4


# Rates


@given(
    st.floats(0.1, 100),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 200)), max_size=60),
)
def test_no_more_is_taken_than_a_rate_allows(rate: float, takes: list[Any]) -> None:
    """Except for one batch, which is accepted if there is no debt."""
    broker, now, taken, largest = store(), NOW, 0, 0
    for pause, count in takes:
        now += pause
        wait = broker.take_from_rate("key", rate, count, now)
        if wait == 0.0:
            taken, largest = taken + count, max(largest, count)
        else:
            assert 0 < wait <= 200 / rate + 1
    assert taken <= (now - NOW) * rate + max(1.0, rate) + largest + 1


def test_after_the_wait_it_is_taken() -> None:
    broker = store()
    assert broker.take_from_rate("key", 2.0, 2, NOW) == 0.0
    wait = broker.take_from_rate("key", 2.0, 1, NOW)
    assert wait == pytest.approx(0.5)
    assert broker.take_from_rate("key", 2.0, 1, NOW + wait) == 0.0


def test_names_without_a_debt_are_forgotten() -> None:
    broker = store()
    for number in range(5000):
        assert broker.take_from_rate(f"key-{number}", 10.0, 1, NOW + number) == 0.0
    assert len(broker._paid) <= 1025


# Commands and answers


def test_the_time_of_commands_never_goes_back() -> None:
    broker = store()
    for now in (NOW, NOW, NOW - 60, NOW + 1):
        broker.send_node_command(b"x", now)
    moments = [at for at, _ in broker.read_node_commands(Moment(0, 0), 10, NOW)]
    assert moments == [(MS, 0), (MS, 1), (MS, 2), (MS + 1000, 0)]
    assert len(broker.read_node_commands(moments[1], 10, NOW)) == 2
    assert len(broker.read_node_commands(Moment(0, 0), 3, NOW)) == 3


def test_kept_commands_are_bounded_by_their_size_and_expire() -> None:
    broker = store(node_commands=10)
    for number in range(20):
        broker.send_node_command(b"%d" % number, NOW)
    assert broker.read_node_commands(Moment(0, 0), 1, NOW)[0][1] == b"10"
    broker.send_node_command(b"x" * (8 * NODE_COMMAND_BYTES), NOW)
    assert len(broker.read_node_commands(Moment(0, 0), 99, NOW)) == 2, "it counts as nine"
    assert not broker.read_node_commands(Moment(0, 0), 99, NOW + NODE_COMMANDS_SECONDS)
    broker.send_node_command(b"new", NOW + NODE_COMMANDS_SECONDS)
    assert len(broker.read_node_commands(Moment(0, 0), 99, NOW + NODE_COMMANDS_SECONDS)) == 1


def test_answers_are_kept_for_a_few_seconds() -> None:
    broker = store()
    broker.answer("q", b"1", NOW)
    broker.answer("q", b"2", NOW)
    assert broker.answers("q", NOW) == [b"1", b"2"]
    assert broker.answers("q", NOW + ANSWERS_SECONDS) == []
    broker.answer("r", b"3", NOW + ANSWERS_SECONDS)
    assert list(broker._answers) == ["r"]


def test_between_two_tests_nodes_keep_what_they_know() -> None:
    broker = store()
    box = SubscriberMailbox()
    broker.exchange.subscribe(box, ["c"])
    first = publish(broker, idempotency_key="k")
    broker.send_node_command(b"x", NOW + 60)
    publish(broker, channel="d", fallback="f")
    broker.forget()
    assert not broker.read_node_commands(Moment(0, 0), 9, NOW)
    assert not broker.queue.has_waiting
    assert publish(broker, idempotency_key="k") == first._replace(offset=2)
    broker.send_node_command(b"y", NOW)
    [(at, _)] = broker.read_node_commands(Moment(0, 0), 9, NOW)
    assert at == (MS + 60_000, 1)


# Subscribers


def test_a_subscriber_that_does_not_read_is_disconnected_and_others_are_not() -> None:
    exchange = MemoryExchange(mailbox_bytes=1000)
    slow, quick = SubscriberMailbox(), SubscriberMailbox()
    exchange.subscribe(slow, ["c"])
    exchange.subscribe(quick, ["c"])
    for _ in range(20):
        exchange.publish("c", b"x" * 100)
        exchange.read(quick)
    with pytest.raises(MailboxClosed, match="did not read 1000 bytes"):
        exchange.read(slow)
    assert not slow.delivered
    assert exchange.publish("c", b"x") == 1
    for step in (exchange.subscribe, exchange.unsubscribe):
        with pytest.raises(MailboxClosed):
            step(slow, ["d"])
    assert list(exchange.channels) == ["c"]


def test_a_long_backlog_takes_several_reads_in_order() -> None:
    exchange, box = MemoryExchange(), SubscriberMailbox()
    exchange.subscribe(box, ["c"])
    for number in range(10):
        exchange.publish("c", b"%d" % number)
    read = []
    while some := exchange.read(box, most_bytes=200):
        assert len(some) <= 4
        read += some
    assert [each.raw for each in read[1:]] == [b"%d" % number for number in range(10)]
    assert box.size == 0


def test_a_reader_is_woken_once_and_only_if_it_waits() -> None:
    exchange, box = MemoryExchange(), SubscriberMailbox()
    exchange.subscribe(box, ["c"])
    assert exchange.take_woken() == []
    exchange.read(box)
    assert exchange.read(box) == []
    exchange.publish("c", b"1")
    exchange.publish("c", b"2")
    assert exchange.take_woken() == [box]
    exchange.read(box)
    exchange.read(box)
    exchange.close(box)
    assert exchange.take_woken() == [box], "the reader must be told that the mailbox is closed"


# The queue


def entry(number: int = 0) -> bytes:
    said = b'{"epoch":"e","offset":%d,"at":1,"channel":"c","fallback":"f","data":%d}'
    return b"0 " + said % (number, number)


class Moves:
    """Moves entries in any order; the count of bytes must match the contents."""

    def __init__(self) -> None:
        self.queue, self.number, self.now = EntryQueue(), 0, MS

    def do(self, move: str) -> None:
        queue, held = self.queue, self.queue.peek("h")
        self.now += 1000
        if move == "add":
            self.number += 1
            queue.add(entry(self.number))
        elif move == "take":
            queue.take("h")
            queue.renew_leases(["h"], self.now)
        elif move == "tend":
            queue.tend(self.now, 2, "why")
        elif move == "leave":
            queue.release(["h"], self.now)
        elif move in ("handled", "retried", "dead") and held:
            written = decode_entry(held).encode_failed("why", 1.0) if move != "handled" else b""
            assert queue.end_attempt("h", held, move, written, self.now)[0]
        elif move in ("purge", "again"):
            for place in ("dead", "later"):
                for raw in queue.page(place, 0, 1):
                    assert queue.move(place, raw, raw if move == "again" else b"")

    @property
    def there(self) -> list[bytes]:
        places = ("waiting", "later", "dead")
        entries = [raw for place in places for raw in self.queue.page(place, 0, 999)]
        return [*entries, *self.queue._held.get("h", ())]


MOVES = ["add", "take", "tend", "leave", "handled", "retried", "dead", "purge", "again"]


@given(st.lists(st.sampled_from(MOVES), max_size=60))
def test_the_size_of_the_queue_is_that_of_its_entries(moves: list[str]) -> None:
    model = Moves()
    for move in moves:
        model.do(move)
        assert model.queue.state(model.now).bytes == sum(map(len, model.there))
    state = model.queue.state(model.now)
    gone = model.queue.counts["handled"]
    assert state.waiting + state.in_hand + state.later + state.dead <= model.number - gone
    numbers = [decode_entry(raw).said.offset for raw in model.there]
    assert len(numbers) == len(set(numbers)), "an entry was doubled"


def test_one_tend_moves_a_hundred_at_most() -> None:
    queue = EntryQueue()
    for number in range(QUEUE_LOT + 20):
        queue.add(entry(number))
        queue.take("h")
        queue.end_attempt("h", entry(number), "retried", entry(number), MS)
    assert queue.tend(MS, 3, "why")[0] == QUEUE_LOT
    assert queue.tend(MS, 3, "why")[0] == 20
    for _ in range(QUEUE_LOT + 20):
        queue.take("h")
    queue.renew_leases(["h"], MS)
    assert queue.tend(MS, 3, "why")[1] == QUEUE_LOT
    assert queue.tend(MS, 3, "why")[1] == 20


def test_a_hand_is_forgotten_an_hour_after_its_lease() -> None:
    queue = EntryQueue()
    queue.renew_leases(["h"], MS)
    queue.tend(MS + KNOWN_SECONDS * 1000, 3, "why")
    assert queue._leases
    queue.tend(MS + KNOWN_SECONDS * 1000 + 1, 3, "why")
    assert not queue._leases


def test_an_entry_that_cannot_be_read_is_dead() -> None:
    queue = EntryQueue()
    queue.add(b"nonsense")
    queue.take("h")
    queue.renew_leases(["h"], MS)
    assert queue.tend(MS, 3, "why") == (0, 1, 1)
    assert queue.page("dead", 0, 9) == [b"nonsense"]
    assert not queue.move("later", b"nonsense", b"")


# Members


def member(number: int, user: str = "ada") -> Member:
    return Member(f"{number:08x}", user, f'{{"user":"{user}","client":"{number:08x}"}}')


def update(*members: Member, channel: str = "hall", has_members: bool = True) -> MemberUpdate:
    return MemberUpdate(channel, {each.client: each for each in members}, True, has_members)


@pytest.fixture
def roster() -> MemberRoster:
    made = MemberRoster(lambda channel, raw: None)
    assert made.lease("aa", MS, is_new=True).is_known
    return made


AFTER_LEASE = MS + int(LEASE_SECONDS * 1000)
AFTER_ALL = MS + MEMBERS_KEPT_SECONDS * 1000


def test_members_of_a_node_without_a_lease_are_nobody(roster: MemberRoster) -> None:
    roster.lease("bb", MS + 1000, is_new=True)
    roster.change("aa", update(member(1)), MS)
    roster.change("bb", update(member(2, "bob")), MS)
    assert roster.headcount("hall", AFTER_LEASE) == (1, 1)
    assert list(roster.members("hall", 9999, AFTER_LEASE)) == [member(2).client]
    assert roster.lease("bb", AFTER_LEASE, is_new=False) == (True, ("aa",))
    assert not roster.sweep("aa", AFTER_LEASE, is_leaving=False)
    assert roster.lease("bb", AFTER_LEASE, is_new=False) == (True, ())
    assert not roster.lease("aa", AFTER_LEASE, is_new=False).is_known


def test_members_that_nobody_keeps_expire(roster: MemberRoster) -> None:
    roster.change("aa", update(member(1)), MS)
    assert roster.keep("aa", ["hall"], MS + 1000) == []
    roster.lease("aa", AFTER_ALL, is_new=False)
    assert roster.headcount("hall", AFTER_ALL + 999).clients == 1
    assert roster.headcount("hall", AFTER_ALL + 1000).clients == 0
    assert roster.keep("aa", ["hall"], AFTER_ALL + 1000) == ["hall"]
    roster.lease("aa", AFTER_ALL + 1000, is_new=True)
    assert not roster._rooms


def test_a_member_that_joins_again_with_another_user_is_counted_once(roster: MemberRoster) -> None:
    roster.change("aa", update(member(1, "ada")), MS)
    roster.change("aa", update(member(1, "bob")), MS)
    assert roster.headcount("hall", MS) == (1, 1)
    roster.change("aa", MemberUpdate("hall", {member(1).client: None}, True, False), MS)
    assert roster.headcount("hall", MS) == (0, 0)
    assert not roster._rooms
    assert not roster._places


def test_a_sweep_handles_a_hundred_channels_at_a_time(roster: MemberRoster) -> None:
    for number in range(150):
        roster.change("aa", update(member(1), channel=f"c{number}"), MS)
    assert roster.sweep("aa", MS, is_leaving=True)
    assert not roster.sweep("aa", MS, is_leaving=True)
    assert not roster._rooms


def test_too_many_members_are_counted_but_not_listed(roster: MemberRoster) -> None:
    roster.change("aa", update(*map(member, range(MEMBERS_LIMIT + 1))), MS)
    assert roster.headcount("hall", AFTER_LEASE) == (MEMBERS_LIMIT + 1, 1)
    with pytest.raises(TooManyMembers, match="10001 members"):
        roster.members("hall", 10**9, MS)
