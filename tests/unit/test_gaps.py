"""Gaps are exactly what is missing: compared with set subtraction, and case by case."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.core.positions import (
    ENDED_EPOCHS,
    Gap,
    GapDetector,
    Position,
    find_missed,
)

OLD, NEW = "0" * 16, "1" * 16


def detector(offset: int = 5, *, settled: bool = True) -> GapDetector:
    started = GapDetector(Position(OLD, offset - 1 if settled else offset))
    if settled:
        started.observe(Position(OLD, offset))
    return started


def at(offset: int, epoch: str = OLD) -> Position:
    return Position(epoch, offset)


def test_the_next_offset_reveals_no_gap():
    counting = detector(5)
    assert counting.observe(at(6)) == ()
    assert counting.last == at(6)


def test_a_jump_reveals_the_missing_offsets():
    assert detector(5).observe(at(9)) == (Gap(OLD, 6, 8),)


def test_a_gap_is_reported_once():
    counting = detector(5)
    counting.observe(at(9))
    assert counting.observe(at(10)) == ()


def test_a_new_epoch_leaves_the_end_of_the_old_one_open():
    assert detector(5).observe(at(1, NEW)) == (Gap(OLD, 6, None),)


def test_a_new_epoch_that_begins_late_misses_its_beginning():
    assert detector(5).observe(at(4, NEW)) == (Gap(OLD, 6, None), Gap(NEW, 1, 3))


def test_a_new_epoch_is_counted_from_its_first_arrival():
    counting = detector(5)
    counting.observe(at(4, NEW))
    assert counting.observe(at(5, NEW)) == ()


def test_arrivals_that_the_start_position_includes_are_ignored():
    settling = detector(5, settled=False)
    assert settling.observe(at(4)) is None
    assert settling.observe(at(5)) is None
    assert settling.last == at(5)


def test_an_arrival_above_the_start_position_is_new():
    assert detector(5, settled=False).observe(at(6)) == ()
    assert detector(5, settled=False).observe(at(1, NEW)) == (Gap(OLD, 6, None),)


def test_once_settled_the_same_position_again_is_a_rollback():
    assert detector(5).observe(at(5)) == (Gap(OLD, 6, None),)
    counting = detector(5)
    assert counting.observe(at(3)) == (Gap(OLD, 6, None),)
    assert counting.last == at(3)


def test_after_a_rollback_counting_goes_on_from_the_lower_position():
    counting = detector(5)
    counting.observe(at(3))
    assert counting.observe(at(4)) == ()


def test_a_jump_settles_like_a_step():
    jumping = detector(5, settled=False)
    jumping.observe(at(8))
    assert jumping.observe(at(8)) is not None


def test_a_new_epoch_settles():
    changing = detector(5, settled=False)
    changing.observe(at(2, NEW))
    assert changing.observe(at(2, NEW)) is not None


def test_resuming_at_the_same_position_reveals_no_gap():
    assert detector(5).resume(at(5)) == ()


def test_resuming_at_a_later_position_reveals_the_offsets_between():
    counting = detector(5)
    assert counting.resume(at(9)) == (Gap(OLD, 6, 9),)
    assert counting.last == at(9)


def test_resuming_ignores_arrivals_that_the_read_position_overtook():
    counting = detector(5)
    counting.resume(at(9))
    assert counting.observe(at(9)) is None
    assert counting.observe(at(10)) == ()


def test_resuming_in_a_new_epoch_misses_all_of_it_so_far():
    counting = detector(5)
    assert counting.resume(at(3, NEW)) == (Gap(OLD, 6, None), Gap(NEW, 1, 3))
    assert counting.observe(at(3, NEW)) is None
    assert counting.observe(at(4, NEW)) == ()


def test_resuming_in_a_new_epoch_that_is_empty_misses_nothing_of_it():
    counting = detector(5)
    assert counting.resume(at(0, NEW)) == (Gap(OLD, 6, None),)
    assert counting.observe(at(1, NEW)) == ()


def test_a_read_position_never_lowers_a_known_one():
    counting = detector(5)
    assert counting.resume(at(3)) == ()
    assert counting.last == at(5)


def test_a_rollback_shows_after_a_break_that_missed_nothing():
    """`resume` used to settle again even if the read position was not new.

    Everything up to the old offset was then ignored silently.
    """
    counting = detector(5)
    counting.resume(at(3))
    assert counting.observe(at(4)) == (Gap(OLD, 6, None),)


def test_arrivals_of_an_ended_epoch_are_ignored_its_open_gap_covers_them():
    """A frozen master of a cluster woke up: its old publications came between the new ones."""
    counting = detector(5)
    counting.resume(at(1, NEW))
    assert counting.observe(at(6)) is None
    assert counting.observe(at(3)) is None
    assert counting.observe(at(2, NEW)) == ()


def test_a_late_message_of_an_epoch_that_nobody_saw_does_not_silence_the_channel():
    counting = detector(5)
    counting.resume(at(7, NEW))
    unseen = "2" * 16
    assert counting.observe(at(3, unseen)) == (Gap(NEW, 8, None), Gap(unseen, 1, 2))
    assert counting.observe(at(8, NEW)) is not None, "the open gap is not the end of it"
    assert counting.observe(at(4, unseen)) is not None, "nor can this be known to be late"
    assert counting.resume(at(9, NEW)) == (Gap(unseen, 5, None),)
    assert counting.observe(at(5, unseen)) is None


def test_an_epoch_that_began_with_an_arrival_displaces_no_other():
    """Which of the two is the current one, only a position that is read tells."""
    counting = detector(5)
    counting.observe(at(1, NEW))
    assert counting.observe(at(7)) is not None
    assert counting.observe(at(8)) == ()


def test_a_read_position_resumes_an_ended_epoch():
    """The name led to another Redis for a while, and back to the first one."""
    counting = detector(5)
    counting.resume(at(2, NEW))
    assert counting.resume(at(8)) == (Gap(NEW, 3, None),), "the gap after 5 covers 6 to 8"
    assert counting.observe(at(8)) is None
    assert counting.observe(at(9)) == ()
    assert counting.observe(at(3, NEW)) is None


def test_a_read_position_of_an_ended_epoch_never_lowers_the_known_one():
    counting = detector(5)
    counting.resume(at(2, NEW))
    counting.resume(at(4))
    assert counting.observe(at(5)) is None
    assert counting.observe(at(6)) == ()


def test_few_ended_epochs_are_remembered():
    counting = detector(5)
    for number in range(2, 30):
        counting.resume(at(1, f"{number:016x}"))
    assert len(counting.ended) == ENDED_EPOCHS
    assert counting.observe(at(9, f"{29 - ENDED_EPOCHS:016x}")) is None
    assert counting.observe(at(9)) is not None


def test_a_gap_has_its_number_of_missing_publications():
    assert Gap(OLD, 5, 7).missed == 3
    assert Gap(OLD, 5, None).missed is None


# The law: a stream loses some of its publications, and its epochs end without a word.


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[Position, bool]]:
    """Everything that was published after the start, and whether it arrived."""
    stream = []
    for number in range(draw(st.integers(1, 3))):
        start = 0 if number else 5
        for offset, arrived in enumerate(draw(st.lists(st.booleans(), max_size=8)), start + 1):
            stream.append((Position(f"{number:016x}", offset), arrived))
    return stream


def walked(first: Position, told: list[Position | Gap]) -> set[Position]:
    """Return what the reports cover, if they are disjoint and in order; open gaps cover nothing."""
    covered: list[Position] = []
    for thing in told:
        if isinstance(thing, Position):
            covered.append(thing)
        elif thing.last is not None:
            assert thing.first <= thing.last, "an empty gap"
            covered.extend(Position(thing.epoch, n) for n in range(thing.first, thing.last + 1))
    assert all(before < after for before, after in zip([first, *covered], covered, strict=False))
    return set(covered)


@given(streams())
def test_received_and_gaps_are_everything_up_to_the_last_arrival(stream):
    start = Position("0" * 16, 5)
    counting = GapDetector(start)
    told: list[Position | Gap] = []
    for position, arrived in stream:
        if arrived:
            told += [*counting.observe(position), position]
    received = {position for position, arrived in stream if arrived}
    covered = walked(start, told)
    last = max(received, default=start)
    ended = {gap.epoch: gap.first for gap in told if isinstance(gap, Gap) and gap.last is None}
    for position, arrived in stream:
        if position > last:
            assert position not in covered  # nobody can know about it yet
        elif position not in covered:
            assert not arrived
            # Only what was lost with the end of its epoch, or a whole epoch of which nothing came.
            epoch = max((e for e in ended if e <= position.epoch), default=None)
            assert epoch is not None
            assert epoch < position.epoch or ended[epoch] <= position.offset


@given(streams(), st.data())
def test_after_a_break_the_read_position_covers_the_tail(stream, data):
    """Cut the stream at two points: nothing arrives in between, and then its position is read."""
    start = Position("0" * 16, 5)
    counting = GapDetector(start)
    told: list[Position | Gap] = []
    cut = data.draw(st.integers(0, len(stream)))
    read_at = data.draw(st.integers(cut, len(stream)))
    for position, _ in stream[:cut]:
        told += [*counting.observe(position), position]
    read = stream[read_at - 1][0] if read_at else start
    told += counting.resume(read)
    overtaken = data.draw(st.integers(cut, read_at))  # these are still in flight
    for position, _ in stream[overtaken:]:
        if position.epoch == read.epoch:
            gaps = counting.observe(position)
            told += [] if gaps is None else [*gaps, position]
    covered = walked(start, told)
    ended = {gap.epoch for gap in told if isinstance(gap, Gap) and gap.last is None}
    for position, _ in stream:
        if position.epoch in (start.epoch, read.epoch) and position.epoch <= read.epoch:
            assert position in covered or position.epoch in ended


@given(streams(), st.data())
def test_what_an_ended_epoch_still_sends_is_neither_received_nor_announced_twice(stream, data):
    """Publications of ended epochs come late, in any order, between those of later ones."""
    start = Position("0" * 16, 5)
    counting = GapDetector(start)
    told: list[Position | Gap] = []
    ended: list[Position] = []
    arrived = [position for position, has_arrived in stream if has_arrived]
    lost = [position for position, has_arrived in stream if not has_arrived]
    for position in arrived:
        if position.epoch != counting.last.epoch:
            ended += [each for each in lost if each.epoch <= counting.last.epoch]
            told += counting.resume(Position(position.epoch, 0))
        gaps = counting.observe(position)
        assert gaps is not None
        told += [*gaps, position]
        known = {start.epoch, *(each.epoch for each in told if isinstance(each, Position))}
        late = [each for each in ended if each.epoch in known]
        for each in data.draw(st.lists(st.sampled_from(late), max_size=3)) if late else ():
            assert counting.observe(each) is None
    walked(start, told)  # disjoint, and in order
    assert {each for each in told if isinstance(each, Position)} == set(arrived)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_the_epoch_that_was_read_is_never_silent(steps):
    """Whatever comes between: each new publication of that epoch is received."""
    counting = GapDetector(Position("0" * 16, 0))
    read = "0" * 16
    offsets = dict.fromkeys(range(6), 0)
    for number, is_read in steps:
        epoch = f"{number:016x}"
        offsets[number] += 1
        if is_read:
            read = epoch
            counting.resume(Position(epoch, offsets[number]))
            offsets[number] += 1
        heard = counting.observe(Position(epoch, offsets[number]))
        assert heard is not None or epoch != read


# ------------------------------------------------- a client that has listened for a while


def test_later_publications_are_not_missed():
    assert find_missed(at(2), at(5), at(9)) == (Gap(OLD, 3, 5),)
    assert find_missed(at(5), at(5), at(9)) == ()
    assert find_missed(at(7), at(5), at(9)) == ()


def test_a_client_in_a_later_epoch_missed_nothing():
    assert find_missed(at(1, NEW), at(5), at(3, NEW)) == ()


def test_a_client_in_an_ended_epoch_also_gets_the_gap_of_the_later_one():
    assert find_missed(at(2), at(5, NEW), at(6, NEW)) == (Gap(OLD, 3, None), Gap(NEW, 1, 5))


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.data())
def test_every_loss_between_a_position_and_the_start_is_reported(sizes, data):
    """Several epochs with some publications each; a client begins at any point."""
    line = [Position(str(n), offset) for n, size in enumerate(sizes) for offset in range(size + 1)]
    began = data.draw(st.integers(0, len(line) - 1))
    since = data.draw(st.integers(0, len(line) - 1))
    gaps = find_missed(line[since], line[began], line[-1])
    told = {
        position
        for position in line
        for gap in gaps
        if position.epoch == gap.epoch and gap.first <= position.offset <= (gap.last or 99)
    }
    ends = {line[since].epoch, line[began].epoch}  # nobody knows what was between them
    missed = {each for each in line[since + 1 : began + 1] if each.offset and each.epoch in ends}
    assert missed <= told
    if since <= began or line[since].epoch in (line[began].epoch, line[-1].epoch):
        assert told == missed
