"""Blocks that ranges of slices share: every range gets its part of the log once and in order, and what is kept is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.events.ids import SliceRange, slice_of, slice_ranges
from common.core.filters.selection import EVERYTHING, Selection
from common.core.firehose.catch_up import ReadPlan
from common.core.firehose.range_blocks import RangeBlocks, RangeCursor
from common.core.firehose.range_page import RangePage
from common.core.firehose.ring import LogSource, LogStretch
from common.core.firehose.slice_split import SliceSplit
from tests.support.growing_log import GrowingLog, plain_encoding

LOG = GrowingLog()
LOG.append(*[(f"Pump|{n * n % 97}", "") for n in range(600)])
SOURCE = LogSource("j", plain_encoding, "g")
BLOCK = 50


def answer(blocks: RangeBlocks, plan: ReadPlan, generation: str = "g") -> list[RangeCursor]:
    """Read for the plan."""
    through = min(LOG.head, plan.through or LOG.head, plan.after + plan.max_events)
    source = LogSource("j", plain_encoding, generation)
    stretch = LogStretch(source, plan.after, through, LOG.between(plan.after, through))
    return blocks.answered(plan, stretch, LOG.head)


def new_blocks(max_bytes: int = 1 << 30) -> RangeBlocks:
    return RangeBlocks(BLOCK, 1 << 20, max_bytes)


@given(st.lists(st.text(max_size=6), max_size=40), st.integers(0, 1023), st.integers(0, 1023))
def test_a_split_names_exactly_the_events_of_a_range(entities: list[str], one: int, other: int) -> None:
    slices = SliceRange(min(one, other), max(one, other))
    found = list(SliceSplit(entities).of(slices))
    assert found == [index for index, entity in enumerate(entities) if slice_of(entity) in slices]


@given(st.data())
def test_ranges_of_any_speed_get_all_of_theirs_in_order(data: st.DataObject) -> None:
    max_bytes = LOG.between(0, data.draw(st.sampled_from([BLOCK, 2 * BLOCK, 600]))).byte_size()
    blocks = new_blocks(max_bytes)
    ranges = slice_ranges(data.draw(st.sampled_from([1, 2, 4])))
    cursors = [RangeCursor(slices, "g") for slices in ranges]
    got: list[list[int]] = [[] for _ in cursors]
    for cursor in cursors:
        blocks.add(cursor)
    while any(cursor.position < LOG.head for cursor in cursors):
        at = data.draw(st.integers(0, len(cursors) - 1))
        if cursors[at].position == LOG.head:
            at = min(range(len(cursors)), key=lambda index: cursors[index].position)
        cursor = cursors[at]
        block = blocks.find(cursor)
        if block is None:
            blocks.ask(cursor)
            while blocks.is_asked(cursor):
                assert blocks.may_have_work
                plan = blocks.begin()
                assert plan is not None
                answer(blocks, plan)
            continue
        page = RangePage(cursor.slices, cursor.position, max_events=data.draw(st.integers(1, 60)), max_bytes=10_000)
        page.take(block)
        got[at] += page.events.position
        blocks.move(cursor, page.through, EVERYTHING)
        assert blocks.bytes <= max_bytes
        if not blocks.may_have_work:
            assert blocks.begin() is None
    for cursor, positions in zip(cursors, got, strict=True):
        rows = zip(LOG.events.position, LOG.events.persistence_id, strict=True)
        assert positions == [position for position, entity in rows if slice_of(entity) in cursor.slices]
        blocks.remove(cursor)
    assert blocks.bytes == 0


def test_one_range_alone_keeps_only_what_is_read_ahead() -> None:
    blocks, cursor = new_blocks(), RangeCursor(SliceRange(0, 1023), "g")
    blocks.add(cursor)
    blocks.ask(cursor)
    plans = []
    while plan := blocks.begin():
        plans.append(plan.after)
        answer(blocks, plan)
    assert plans == [0, 50, 100]
    assert blocks.bytes == LOG.between(50, 150).byte_size()


def test_a_block_of_another_history_answers_nobody() -> None:
    blocks, cursor = new_blocks(), RangeCursor(SliceRange(0, 1023), "new")
    blocks.add(cursor)
    blocks.ask(cursor)
    plan = blocks.begin()
    assert plan is not None
    assert answer(blocks, plan, "old") == []
    assert blocks.find(cursor) is None
    blocks.forget()
    assert not blocks.is_asked(cursor)
    assert blocks.bytes == 0


def test_an_error_is_only_for_those_who_wait_for_that_block() -> None:
    blocks = new_blocks()
    here, near, far = (RangeCursor(SliceRange(0, 1023), "g", position) for position in (0, 20, 400))
    for cursor in (here, near, far):
        blocks.add(cursor)
        blocks.ask(cursor)
    plan = blocks.begin()
    assert plan is not None
    assert blocks.failed(plan, BackhaulError("journal.unavailable", "cut")) == [here, near]
    assert blocks.is_asked(far)


def test_the_end_of_the_log_is_an_answer() -> None:
    blocks, cursor = new_blocks(), RangeCursor(SliceRange(0, 1023), "g", LOG.head)
    blocks.add(cursor)
    blocks.ask(cursor)
    plan = blocks.begin()
    assert plan is not None
    assert answer(blocks, plan) == [cursor]
    assert cursor.head == LOG.head


def test_few_types_are_looked_for_over_more_positions() -> None:
    blocks = new_blocks()
    cursor = RangeCursor(SliceRange(0, 1023), "g", 10, Selection(entity_types=frozenset({"Tank"})))
    blocks.add(cursor)
    blocks.ask(cursor)
    plan = blocks.begin()
    assert plan is not None
    assert (plan.through, plan.max_events) == (400, 50)


def test_what_the_ring_has_is_neither_read_ahead_nor_by_a_block_that_begins_before_it() -> None:
    blocks, cursor = new_blocks(), RangeCursor(SliceRange(0, 1023), "g")
    blocks.add(cursor)
    blocks.ring_after = 60
    blocks.ask(cursor)
    plans = []
    while plan := blocks.begin():
        plans.append((plan.after, plan.through))
        answer(blocks, plan)
    assert plans == [(0, 50), (50, 60)]
    blocks.move(cursor, 130, EVERYTHING)
    blocks.ask(cursor)
    plan = blocks.begin()
    assert plan is not None
    assert (plan.after, plan.through) == (130, 150), "it asks for what the ring has: it is gone from there by now"


def test_what_the_ring_is_about_to_read_is_not_read_ahead() -> None:
    blocks, cursor = new_blocks(), RangeCursor(SliceRange(0, 1023), "g", 40)
    blocks.add(cursor)
    blocks.ring_after = 100
    blocks.ask(cursor)
    plans = []
    while plan := blocks.begin():
        plans.append((plan.after, plan.through))
        answer(blocks, plan)
    assert plans == [(40, 50), (50, 100)], "the ring has nothing yet, and reads on from there"


def test_what_was_read_for_the_ring_is_found_by_ranges_that_are_behind() -> None:
    blocks = new_blocks(LOG.between(0, 130).byte_size())
    first, last = RangeCursor(SliceRange(0, 511), "g", 100), RangeCursor(SliceRange(512, 1023), "g", 30)
    blocks.add(first)
    blocks.give(LogStretch(SOURCE, 30, 100, LOG.between(30, 100)), LOG.head)
    assert blocks.bytes == 0, "one alone takes it from the ring"
    blocks.add(last)
    given = LogStretch(SOURCE, 30, 100, LOG.between(30, 100))
    blocks.give(given, LOG.head)
    assert blocks.find(last) is given
    assert blocks.at(99, "g") is given
    assert blocks.at(100, "g") is None
    assert blocks.at(99, "of another history") is None
    blocks.give(LogStretch(SOURCE, 100, 200, LOG.between(100, 200)), LOG.head)
    assert blocks.at(30, "g") is None, "the rearmost go first"
    for cursor in (first, last):
        blocks.move(cursor, LOG.head, EVERYTHING)
    assert blocks.bytes == 0
