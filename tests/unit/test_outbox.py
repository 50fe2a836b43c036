"""The outbox keeps its order and reports every drop as a gap: cases and properties."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from random import Random

from hypothesis import given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from realtime.connection.entries import GapEntry, Pushes, Undroppable
from realtime.connection.outbox import UNDROPPABLE_BYTES, Outbox
from realtime.core.meters import NodeMeters
from realtime.core.overflow import Overflow
from realtime.core.positions import Gap, GapReason

LIMIT = 400
EPOCH = "e0"


def gap_text(channel: str, gap: Gap, reason: str) -> str:
    return f"gap {channel} {gap.epoch} {gap.first} {gap.last} {reason}"


def pushes(
    channel: str = "c",
    first: int = 1,
    last: int | None = None,
    *,
    epoch: str = EPOCH,
    overflow: Overflow = Overflow.GAP,
    pad: int = 20,
) -> Pushes:
    numbers = range(first, (last or first) + 1)
    texts = [f"pub {channel} {epoch} {n} {'x' * pad}" for n in numbers]
    text = "\n".join(texts)
    return Pushes(channel, epoch, first, numbers[-1], text, len(text), texts[-1], overflow)


def missed(
    channel: str = "c",
    first: int = 1,
    last: int | None = None,
    *,
    epoch: str = EPOCH,
    overflow: Overflow = Overflow.GAP,
) -> GapEntry:
    gap = Gap(epoch, first, last)
    return GapEntry(channel, gap, "broker", gap_text(channel, gap, "broker"), overflow)


def control(text: str) -> Undroppable:
    return Undroppable(text, len(text.encode()))


def outbox(*entries: Pushes | GapEntry | Undroppable, limit: int = LIMIT) -> Outbox:
    box = Outbox(limit, gap_text, NodeMeters())
    for entry in entries:
        assert box.add(entry)
    return box


def lines(box: Outbox, limit: int = 10_000) -> list[str]:
    """Empty the outbox; return each line without its padding."""
    taken = []
    while box:
        taken += [line.rstrip("x").rstrip() for line in box.take(limit).split("\n")]
    return taken


# ------------------------------------------------------------------ case by case


def test_an_outbox_that_is_closed_is_not_measured_and_counts_what_it_still_had():
    meters = NodeMeters()
    box = Outbox(LIMIT, gap_text, meters)
    box.add(pushes(first=1, last=3))
    box.add(missed(first=4, last=9))
    box.close()
    assert not meters.outboxes
    assert meters.of("c").discarded == 3


def test_entries_that_fit_wait_in_order():
    box = outbox(
        pushes(first=1), control("reply"), missed(first=2, last=3), pushes(first=4, last=5)
    )
    assert lines(box) == [
        "pub c e0 1",
        "reply",
        "gap c e0 2 3 broker",
        "pub c e0 4",
        "pub c e0 5",
    ]
    assert not box
    assert box.bytes == 0


def test_a_frame_takes_only_entries_that_fit():
    box = outbox(control("aaaa"), control("bbbb"), control("cccc"))
    assert box.take(9) == "aaaa\nbbbb"
    assert box.take(9) == "cccc"


def test_a_frame_one_byte_too_small_takes_fewer_entries():
    box = outbox(control("aaaa"), control("bbbb"), control("cccc"))
    assert box.take(13) == "aaaa\nbbbb"
    assert box.take(3) == "cccc"


def test_an_entry_larger_than_a_frame_goes_alone():
    box = outbox(control("a" * 20), control("b"))
    assert box.take(9) == "a" * 20


def test_a_frame_is_measured_in_bytes():
    box = outbox(control("éé"), control("éé"))
    assert box.take(8) == "éé"


def test_gaps_are_counted_with_their_real_length():
    """A gap used to count as 160 bytes, but has 350 on a channel with a long name.

    Frames of many gaps were twice as large as the limit that stock clients accept.
    """
    long = "x" * 255
    box = outbox(*(missed(long, n, n) for n in range(1, 11)), limit=10_000)
    assert box.bytes == sum(len(gap_text(long, Gap(EPOCH, n, n), "broker")) for n in range(1, 11))
    while box:
        assert len(box.take(1000)) <= 1000


def test_an_overflow_turns_waiting_publications_into_one_gap():
    box = outbox(*(pushes(first=n) for n in range(1, 50)))
    [only] = [line for line in lines(box) if line.startswith("gap")]
    assert only.startswith("gap c e0 1 ")


def test_an_overflow_drops_the_oldest_and_keeps_the_newest():
    """An overflow used to drop everything that waited, which took 2 ms.

    A hundred clients that had stalled at the same moment all did this at the same moment, five
    seconds later.
    """
    box = outbox(*(pushes(first=n) for n in range(1, 50)))
    [gap, *pubs] = lines(box)
    assert [pub.split()[3] for pub in pubs] == [str(n) for n in range(50 - len(pubs), 50)]
    assert gap == f"gap c e0 1 {49 - len(pubs)} slow"
    assert len(pubs) * pushes(first=49).size > LIMIT / 2


def test_a_gap_takes_the_place_of_the_oldest_publication():
    box = outbox(control("before"), pushes(first=1), control("between"))
    for n in range(2, 40):
        box.add(pushes(first=n))
    assert [line.split()[0] for line in lines(box)][:3] == ["before", "gap", "between"]


def test_a_gap_grows_with_later_drops():
    box = outbox(pushes(first=1, last=20, pad=30))
    assert lines(outbox(pushes(first=1, last=20, pad=30))) == ["gap c e0 1 20 slow"]
    box.add(pushes(first=21, last=40, pad=30))
    assert lines(box) == ["gap c e0 1 40 slow"]


def test_publications_after_an_overflow_are_delivered():
    box = outbox(pushes(first=1, last=20), pushes(first=21))
    assert lines(box) == ["gap c e0 1 20 slow", "pub c e0 21"]


def test_each_channel_and_epoch_has_its_own_gap():
    box = outbox(
        pushes("a", 1, pad=90),
        pushes("b", 1, pad=90),
        missed("a", 2, None),
        pushes("a", 1, 3, epoch="e1", pad=90),
        limit=300,
    )
    assert lines(box) == ["gap a e0 1 None slow", "gap b e0 1 1 slow", "gap a e1 1 3 slow"]


def test_a_broker_gap_that_is_only_moved_keeps_its_reason():
    """It was announced again as `slow`, which blamed the client for a restart of Redis."""
    box = outbox(missed("a", 5, 7), pushes("b", 1, 20))
    assert lines(box) == ["gap a e0 5 7 broker", "gap b e0 1 20 slow"]


def test_a_broker_gap_keeps_its_reason_through_many_overflows():
    box = outbox(missed("a", 5, 7), pushes("b", 1, 20), pushes("b", 21, 40))
    assert lines(box) == ["gap a e0 5 7 broker", "gap b e0 1 40 slow"]


def test_broker_gaps_that_merge_keep_their_reason():
    box = outbox(missed("a", 5, 7), missed("a", 8, None), pushes("b", 1, 20))
    assert lines(box)[0] == "gap a e0 5 None broker"


def test_a_broker_gap_merged_with_drops_has_the_reason_slow():
    box = outbox(missed("a", 5, 7), pushes("a", 8, 20))
    assert lines(box) == ["gap a e0 5 20 slow"]


def test_an_open_gap_stays_open_even_after_a_rollback():
    box = outbox(missed("c", 6, None), pushes("c", 3, 20))
    assert lines(box) == ["gap c e0 3 None slow"]


def latest(first: int, last: int | None = None, *, epoch: str = EPOCH, pad: int = 20) -> Pushes:
    return pushes("l", first, last, epoch=epoch, overflow=Overflow.LATEST, pad=pad)


def test_latest_keeps_the_newest_and_reports_the_rest():
    assert lines(outbox(latest(1, 20))) == ["gap l e0 1 19 slow", "pub l e0 20"]


def test_latest_keeps_one_of_each_channel():
    other = pushes("m", 1, 20, overflow=Overflow.LATEST)
    assert lines(outbox(latest(1), other)) == ["pub l e0 1", "gap m e0 1 19 slow", "pub m e0 20"]


def test_latest_again_keeps_only_the_newest():
    assert lines(outbox(latest(1, 20), latest(21, 40))) == ["gap l e0 1 39 slow", "pub l e0 40"]


def test_latest_works_again_after_the_kept_publication_was_taken():
    """The second overflow of a `latest` channel raised KeyError, and its client was closed."""
    for newer in (latest(21), missed("l", 21, 22, overflow=Overflow.LATEST)):
        box = outbox(latest(1, 20))
        assert box.take(1) == "gap l e0 1 19 slow"
        assert box.add(newer)
        assert box.take(1).startswith("pub l e0 20 ")
        assert box.add(latest(23, 43))
        assert lines(box)[-1] == "pub l e0 43"


def test_latest_keeps_the_newest_of_the_newest_epoch():
    box = outbox(
        latest(1, 2),
        missed("l", 3, None, overflow=Overflow.LATEST),
        latest(1, 20, epoch="e1"),
    )
    assert lines(box) == ["gap l e0 1 None slow", "gap l e1 1 19 slow", "pub l e1 20"]


def test_latest_keeps_no_publication_that_a_gap_has_outdated():
    box = outbox(latest(1, 5), missed("l", 6, 7, overflow=Overflow.LATEST), pushes("c", 1, 20))
    assert lines(box) == ["gap l e0 1 7 slow", "gap c e0 1 20 slow"]


def test_latest_drops_the_newest_when_it_does_not_fit():
    assert lines(outbox(latest(1, 3, pad=LIMIT))) == ["gap l e0 1 3 slow"]


def strict(first: int, last: int | None = None) -> Pushes:
    return pushes("d", first, last, overflow=Overflow.DISCONNECT)


def test_disconnect_drops_nothing_and_asks_to_be_closed():
    box = outbox(strict(1))
    assert not box.add(strict(2, 20))


def test_disconnect_channels_keep_their_entries_while_others_make_room():
    box = outbox(strict(1), pushes("c", 1, 20), strict(2))
    assert lines(box) == ["pub d e0 1", "gap c e0 1 20 slow", "pub d e0 2"]


def test_gaps_of_a_strict_channel_are_never_merged():
    strict_gaps = [missed("d", n, n, overflow=Overflow.DISCONNECT) for n in (1, 3)]
    box = outbox(*strict_gaps, pushes("c", 1, 20))
    assert lines(box)[:2] == ["gap d e0 1 1 broker", "gap d e0 3 3 broker"]


def test_control_is_never_dropped_and_does_not_count_as_publications():
    replies = [control(f"{n:0100}") for n in range(100)]
    box = outbox(*replies, pushes(first=1, last=20))
    assert lines(box)[:100] == [reply.text for reply in replies]


def test_too_much_control_asks_to_be_closed():
    box = outbox(control("x" * UNDROPPABLE_BYTES))
    assert not box.add(control("x"))


def test_taken_control_messages_make_room_for_more():
    box = outbox(control("x" * UNDROPPABLE_BYTES))
    box.take(1)
    assert box.add(control("x" * UNDROPPABLE_BYTES))


def test_more_channels_than_there_is_room_for_gaps_asks_to_be_closed():
    box = Outbox(LIMIT, gap_text, NodeMeters())
    assert not all(box.add(pushes(f"c{n}", pad=1)) for n in range(100))


def test_an_unsubscribed_channel_leaves_nothing_behind():
    box = outbox(pushes("a"), control("r"), missed("a", 2, 3), pushes("b"))
    box.forget("a")
    assert box.bytes == pushes("b").size
    assert lines(box) == ["r", "pub b e0 1"]


def test_no_gap_spans_the_time_without_a_subscription():
    box = outbox(pushes("a", 1, 5))
    box.forget("a")
    box.add(control("subscribed at 9"))
    box.add(pushes("a", 10, 30))
    assert lines(box) == ["subscribed at 9", "gap a e0 10 30 slow"]


# ------------------------------------------------------------------ the law


class Model:
    """One channel as its client should see it since subscribing."""

    def __init__(self, policy: Overflow) -> None:
        self.policy = policy
        self.arrived: dict[
            str, dict[int | None, str]
        ] = {}  # epoch -> offset (None: open) -> pub/gap
        self.told: dict[str, dict[int | None, str]] = {}
        self.ends: dict[str, int] = {}  # epoch -> where its open gap begins

    def arrive(self, epoch: str, offsets: list[int | None], kind: str) -> None:
        self.arrived.setdefault(epoch, {}).update(dict.fromkeys(offsets, kind))

    def tell(self, line: str) -> None:
        kind, _, epoch, first, *rest = line.split()
        offsets: list[int | None] = [int(first)]
        if kind == "gap":
            end = None if rest[0] == "None" else int(rest[0])
            known = [n for n in self.arrived[epoch] if n is not None]
            last = max([*known, int(first) - 1]) if end is None else end
            offsets = [*range(int(first), last + 1)]
            assert offsets or end is None, "an empty gap"
            if end is None:
                offsets.append(None)
        told = self.told.setdefault(epoch, {})
        assert list(self.told)[-1] == epoch, "an ended epoch returned"
        assert None not in told, "an entry after the end of an epoch"
        for offset in offsets:
            assert offset not in told, "told twice"
            told[offset] = kind
        numbers = [offset for offset in told if offset is not None]
        assert all(before < after for before, after in pairwise(numbers)), "out of order"

    def check_all_told(self) -> None:
        assert list(self.told) == list(self.arrived)
        for epoch, arrived in self.arrived.items():
            assert list(self.told[epoch]) == list(arrived)
            for offset, kind in arrived.items():
                assert kind == "pub" or self.told[epoch][offset] == "gap"

    def least_bytes(self, channel: str, waiting: list[Pushes | GapEntry]) -> int:
        """Return the bytes that remain if everything that may be dropped is dropped."""
        if self.policy is Overflow.DISCONNECT:
            return sum(len(entry.text) for entry in waiting)
        size = 0
        for epoch, arrived in self.arrived.items():
            left = [n for n in arrived if n not in self.told.get(epoch, {})]
            if left:
                first = self.ends[epoch] if left[0] is None else left[0]
                gap = Gap(epoch, first, left[-1])
                size += len(gap_text(channel, gap, "broker"))
        return size


class OutboxMachine(RuleBasedStateMachine):
    """Arrivals of three channels and replies, drained occasionally, within a bound."""

    @initialize(limit=st.integers(100, 700))
    def connect(self, limit: int) -> None:
        self.start(limit)

    def start(self, limit: int) -> None:
        self.meters = NodeMeters()
        self.box = Outbox(limit, gap_text, self.meters)
        self.handed = self.received = 0
        self.limit = limit
        self.models = {
            "g": Model(Overflow.GAP),
            "l": Model(Overflow.LATEST),
            "d": Model(Overflow.DISCONNECT),
        }
        self.next = dict.fromkeys(self.models, ("e0", 1))
        self.strict: deque[Pushes | GapEntry] = deque()  # the waiting entries of "d"
        self.replies: deque[str] = deque()
        self.count = 0
        self.closed = False

    @precondition(lambda self: self.closed)
    @rule(limit=st.integers(100, 700))
    def the_client_comes_back(self, limit: int) -> None:
        self.start(limit)

    def add(self, entry: Pushes | GapEntry | Undroppable) -> None:
        if isinstance(entry, Pushes | GapEntry) and entry.overflow is Overflow.DISCONNECT:
            self.strict.append(entry)
        if self.box.add(entry):
            assert self.box.bytes <= self.limit
            return
        self.closed = True
        needed = sum(
            model.least_bytes(name, list(self.strict)) for name, model in self.models.items()
        )
        assert needed > self.limit, f"closed, although {needed} bytes would do"

    @precondition(lambda self: not self.closed)
    @rule(channel=st.sampled_from("ggld"), count=st.integers(1, 4), pad=st.integers(0, 60))
    def publications_arrive(self, channel: str, count: int, pad: int) -> None:
        epoch, first = self.next[channel]
        last = first + count - 1
        self.next[channel] = (epoch, last + 1)
        self.models[channel].arrive(epoch, [*range(first, last + 1)], "pub")
        policy = self.models[channel].policy
        self.handed += count
        self.add(pushes(channel, first, last, epoch=epoch, overflow=policy, pad=pad))

    @precondition(lambda self: not self.closed)
    @rule(channel=st.sampled_from("ggld"), count=st.integers(1, 4))
    def the_hub_missed_some(self, channel: str, count: int) -> None:
        epoch, first = self.next[channel]
        last = first + count - 1
        self.next[channel] = (epoch, last + 1)
        self.models[channel].arrive(epoch, [*range(first, last + 1)], "gap")
        policy = self.models[channel].policy
        self.add(missed(channel, first, last, epoch=epoch, overflow=policy))

    @precondition(lambda self: not self.closed)
    @rule(channel=st.sampled_from("ggld"), late=st.integers(0, 3))
    def an_epoch_ends(self, channel: str, late: int) -> None:
        epoch, first = self.next[channel]
        self.count += 1
        new = f"e{self.count}"
        self.next[channel] = (new, late + 1)
        model = self.models[channel]
        model.arrive(epoch, [None], "gap")
        model.ends[epoch] = first
        self.add(missed(channel, first, None, epoch=epoch, overflow=model.policy))
        if late and not self.closed:
            model.arrive(new, [*range(1, late + 1)], "gap")
            self.add(missed(channel, 1, late, epoch=new, overflow=model.policy))

    @precondition(lambda self: not self.closed)
    @rule(size=st.integers(1, 80))
    def a_reply_is_due(self, size: int) -> None:
        self.count += 1
        text = f"reply {self.count} ".ljust(size, "x")
        self.replies.append(text)
        assert self.box.add(control(text))

    @precondition(lambda self: not self.closed and self.box)
    @rule(limit=st.integers(1, 500))
    def a_frame_is_taken(self, limit: int) -> None:
        waiting = len(self.waiting)
        frame = self.box.take(limit)
        assert len(frame) <= limit or waiting - len(self.waiting) == 1
        self.hear(frame)

    @invariant()
    def each_publication_is_counted_as_received_missed_discarded_or_waiting(self) -> None:
        meter = self.meters.of("g")
        waits = sum(e.last - e.first + 1 for e in self.waiting if isinstance(e, Pushes))
        missed = meter.missed[GapReason.SLOW]
        assert self.handed == self.received + missed + meter.discarded + waits
        assert list(self.meters.outboxes) == [self.box]

    @property
    def waiting(self) -> list[Pushes | GapEntry | Undroppable]:
        return [*self.box._front.values(), *self.box._entries]

    def hear(self, frame: str) -> None:
        note(frame)
        for line in frame.split("\n"):
            if line.startswith("reply"):
                assert line == self.replies.popleft()
                continue
            channel = line.split()[1]
            self.received += line.startswith("pub")
            self.models[channel].tell(line)
            if channel == "d" and line == self.strict[0].text.split("\n")[-1]:
                self.strict.popleft()

    @precondition(lambda self: not self.closed)
    @rule(channel=st.sampled_from("gld"))
    def a_channel_is_left_and_joined_again(self, channel: str) -> None:
        self.box.forget(channel)
        self.models[channel] = Model(self.models[channel].policy)
        if channel == "d":
            self.strict.clear()

    @invariant()
    def what_is_kept_stands_in_front(self) -> None:
        for channel, key in self.box._kept.items():
            entry = self.box._front[key]
            assert isinstance(entry, Pushes)
            assert entry.channel == channel

    @invariant()
    def bytes_are_what_waits(self) -> None:
        waiting = [entry for entry in self.waiting if not isinstance(entry, Undroppable)]
        assert self.box.bytes == sum(len(entry.text.encode()) for entry in waiting)

    def teardown(self) -> None:
        if not hasattr(self, "box") or self.closed:
            return
        while self.box:
            self.hear(self.box.take(200))
        assert self.box.bytes == 0
        assert not self.replies
        for model in self.models.values():
            model.check_all_told()


TestReceivedAndGapsAreWhatArrived = OutboxMachine.TestCase


@given(st.randoms(use_true_random=False), st.integers(100, 700))
@settings(max_examples=300)
def test_many_overflows_and_small_frames(random: Random, limit: int) -> None:
    """The machine above rarely overflows twice; this test does nothing else."""
    machine = OutboxMachine()
    machine.connect(limit=limit)
    for _ in range(random.randint(20, 120)):
        if machine.closed:
            return
        chance, channel = random.random(), random.choice("gll")
        if chance < 0.55:
            machine.publications_arrive(channel, random.randint(1, 4), random.randint(0, 60))
        elif chance < 0.62:
            machine.the_hub_missed_some(channel, random.randint(1, 4))
        elif machine.box:
            machine.a_frame_is_taken(random.randint(1, 200))
        machine.bytes_are_what_waits()
        machine.what_is_kept_stands_in_front()
    machine.teardown()
