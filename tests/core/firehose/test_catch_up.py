"""Whose turn it is to have the journal read, who shares a page, and what is stated in place of what was deleted."""

from __future__ import annotations

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.filters.predicates import EVERY_ENTITY, parse_filter
from common.core.filters.selection import EVERYTHING, Selection
from common.core.firehose.catch_up import (
    PAGE_LEAST_BYTES,
    CatchUpRequest,
    CatchUps,
    DeletedEntity,
    FoundPage,
    ReadPlan,
    cap_to_stored,
    stated_for,
)
from common.core.firehose.ring import LogSource, LogStretch
from tests.support.growing_log import GrowingLog, plain_encoding

SOURCE = LogSource("j", plain_encoding)
NARROW = Selection(tags=frozenset({"t:a"}))
OTHER = Selection(tags=frozenset({"t:b"}))
LOG = GrowingLog()
LOG.append(*[(f"Pump|{n % 7}", "") for n in range(1_000)])


def catch_ups(*, in_hand: int = 100_000_000, shelf: int = 100_000_000, block: int = 100) -> CatchUps:
    return CatchUps(in_hand_max_bytes=in_hand, shelf_max_bytes=shelf, block_events=block)


def wish(
    after: int, selection: Selection = EVERYTHING, *, bound: int | None = None, max_bytes: int = 10**6
) -> CatchUpRequest:
    return CatchUpRequest(selection, selection is not EVERYTHING, after, bound, 50, max_bytes, lambda: None)


def read(look: ReadPlan) -> FoundPage:
    through = min(LOG.head, look.through or LOG.head, look.after + look.max_events)
    return FoundPage(LogStretch(SOURCE, look.after, through, LOG.between(look.after, through)), (), LOG.head)


def serve(queue: CatchUps) -> list[CatchUpRequest]:
    """Do the next read."""
    begun = queue.begin()
    assert begun is not None
    request, look = begun
    return queue.answered(request, read(look))


def test_first_come_first_served_and_who_asks_again_is_last() -> None:
    queue = catch_ups()
    first, second, third = wish(0, NARROW), wish(0, OTHER), wish(500)
    for one in (first, second, third):
        queue.ask(one)
    assert serve(queue) == [first]
    again = wish(50, NARROW)
    queue.ask(again)

    assert [serve(queue), serve(queue), serve(queue)] == [[second], [third], [again]]
    assert queue.waiting == 0


def test_one_page_serves_all_whose_place_is_in_it() -> None:
    queue = catch_ups()
    near = [wish(0), wish(0), wish(40), wish(99)]
    far = wish(100)
    for one in [*near, far]:
        queue.ask(one)

    assert serve(queue) == near
    assert serve(queue) == [far]
    late = wish(70)
    assert queue.ask(late)
    assert late.found is near[0].found
    assert (queue.counts.reads, queue.counts.shared) == (2, 4)


def test_blocks_end_at_the_same_places_for_all() -> None:
    queue = catch_ups()
    for after in (37, 237):
        queue.ask(wish(after))
    read_counts = [queue.begin(), queue.begin()]

    assert [(look.after, look.through) for begun in read_counts if begun for look in [begun[1]]] == [
        (37, 100),
        (237, 300),
    ]


def test_what_is_being_read_for_another_is_waited_for() -> None:
    queue = catch_ups()
    first, second, elsewhere = wish(0), wish(10), wish(200)
    for one in (first, second, elsewhere):
        queue.ask(one)
    begun = queue.begin()
    assert begun is not None
    other = queue.begin()
    assert other is not None
    assert other[0] is elsewhere
    assert queue.begin() is None

    assert queue.answered(begun[0], read(begun[1])) == [first, second]


def test_a_bound_is_never_passed() -> None:
    queue = catch_ups()
    free, bounded = wish(0), wish(0, bound=30)
    queue.ask(free)
    queue.ask(bounded)

    assert serve(queue) == [free]
    assert serve(queue) == [bounded]
    assert bounded.found is not None
    assert bounded.found.page.through == 30


def test_pages_get_smaller_the_more_wait() -> None:
    queue = catch_ups(in_hand=1_000_000)
    for number in range(10):
        queue.ask(wish(0, Selection(tags=frozenset({f"t:{number}"}))))
    begun = queue.begin()
    assert begun is not None
    assert begun[1].max_bytes == 100_000
    for number in range(100):
        queue.ask(wish(0, Selection(tags=frozenset({f"u:{number}"}))))
    begun = queue.begin()
    assert begun is not None
    assert begun[1].max_bytes == PAGE_LEAST_BYTES


def test_an_index_is_asked_for_no_more_events_than_will_fit() -> None:
    queue = catch_ups()
    queue.ask(wish(0, NARROW))
    serve(queue)
    each = LOG.between(0, 50).byte_size() // 50
    queue.ask(wish(50, NARROW, max_bytes=10 * each))
    begun = queue.begin()
    assert begun is not None
    assert begun[1] == ReadPlan(begun[0].selection, 50, None, 11, 10 * each)


def test_the_shelf_is_bounded_and_keeps_what_was_wanted_last() -> None:
    page_bytes = read(ReadPlan(EVERYTHING, 0, 100, 100, 10**6)).page.weight
    queue = catch_ups(shelf=3 * page_bytes + 100)
    for after in range(0, 500, 100):
        queue.ask(wish(after))
        serve(queue)

    assert queue.shelf_bytes <= 3 * page_bytes + 100
    assert not queue.ask(wish(0))
    assert queue.ask(wish(450))


def test_pages_of_another_log_are_not_kept() -> None:
    queue = catch_ups()
    queue.ask(wish(0))
    begun = queue.begin()
    assert begun is not None
    queue.forget_pages()
    queue.answered(begun[0], read(begun[1]))

    assert not queue.ask(wish(0))


def test_a_wish_in_the_new_log_neither_waits_for_a_read_of_the_one_before_nor_gets_its_page() -> None:
    queue = catch_ups()
    old, new, later = wish(0), wish(0), wish(10)
    queue.ask(old)
    begun = queue.begin()
    assert begun is not None
    queue.forget_pages()
    queue.ask(new)
    again = queue.begin()
    assert again is not None
    assert again[0] is new
    queue.ask(later)
    assert queue.answered(begun[0], read(begun[1])) == [old]
    assert queue.answered(again[0], read(again[1])) == [new, later]


def test_a_wish_that_cannot_be_read_now_is_first_again_and_one_that_never_can_is_told() -> None:
    queue = catch_ups()
    first, second = wish(0, NARROW), wish(0, OTHER)
    queue.ask(first)
    queue.ask(second)
    begun = queue.begin()
    assert begun is not None
    queue.put_back(first)
    begun = queue.begin()
    assert begun is not None
    assert begun[0] is first
    error = BackhaulError("journal.broken", "damaged")
    queue.failed(first, error)

    assert first.error is error
    assert serve(queue) == [second]


def test_nobody_is_served_who_has_left() -> None:
    queue = catch_ups()
    gone = wish(0)
    queue.ask(gone)
    queue.withdraw(gone)

    assert queue.begin() is None
    assert queue.waiting == 0

    being_read = wish(0)
    queue.ask(being_read)
    queue.begin()
    queue.withdraw(being_read)
    queue.put_back(being_read)
    assert queue.waiting == 0


def test_what_was_still_there_is_not_stated_as_gone() -> None:
    page = LOG.between(0, 20)  # Pump|0 has numbers 1, 2, 3 here
    gone = [StatedRange("Pump|0", 1, 2, "trimmed"), StatedRange("Valve|1", 1, 4, "trimmed")]

    assert cap_to_stored(gone, page) == [gone[1]]
    assert cap_to_stored([StatedRange("Pump|0", 1, 2, "trimmed")], LOG.between(7, 20)) == [
        StatedRange("Pump|0", 1, 1, "trimmed")
    ]


def snapshot(seq_nr: int, tags: str = "") -> EventBatch:
    batch = LOG.between(0, 1)
    batch.seq_nr, batch.tags = [seq_nr], [tags]
    return batch


def test_a_snapshot_that_reaches_far_enough_stands_for_what_is_gone() -> None:
    gone = StatedRange("Pump|0", 1, 5, "trimmed")
    deleted = [
        DeletedEntity(gone, "", snapshot(5)),
        DeletedEntity(gone, "", snapshot(4)),
        DeletedEntity(gone, "", EventBatch()),
    ]
    stated = stated_for(EVERY_ENTITY, frozenset(), deleted, plain_encoding)

    assert stated.snapshots.seq_nr == [5]
    assert stated.ranges == [gone, gone]
    assert stated.encoded == plain_encoding(snapshot(5))


def test_a_snapshot_of_after_an_entity_left_the_filter_is_not_for_its_eyes() -> None:
    gone = StatedRange("Pump|0", 1, 5, "trimmed")
    wanted = parse_filter('[{"exclude_all": true}, {"include_topics": ["a"]}]')
    for tags, is_told in (("t:a", True), ("t:b", False), ("", False)):
        stated = stated_for(wanted, frozenset(), [DeletedEntity(gone, "t:a", snapshot(7, tags))], plain_encoding)
        assert (len(stated.snapshots), stated.ranges) == ((1, []) if is_told else (0, [gone])), tags


def test_only_what_is_selected_is_told() -> None:
    gone = StatedRange("Pump|0", 1, 5, "trimmed")
    by_topic = parse_filter('[{"exclude_all": true}, {"include_topics": ["a"]}]')
    cases = [
        (by_topic, frozenset(), "t:a", True),
        (by_topic, frozenset(), "t:b", False),
        (by_topic, frozenset(), "", False),
        (EVERY_ENTITY, frozenset(), "", True),
        (EVERY_ENTITY, frozenset({"Pump"}), "", True),
        (EVERY_ENTITY, frozenset({"Valve"}), "", False),
    ]
    for predicate, entity_types, tags, is_told in cases:
        stated = stated_for(predicate, entity_types, [DeletedEntity(gone, tags, EventBatch())], plain_encoding)
        assert bool(stated.ranges) is is_told, (predicate, entity_types, tags)


def test_while_nobody_waits_one_block_is_read_ahead_and_answers_the_next_wish_at_once() -> None:
    queue = catch_ups()
    first = wish(0)
    queue.ask(first)
    begun = queue.begin()
    assert begun is not None
    assert queue.begin() is None, "until it is known how far the log goes"
    queue.answered(begun[0], read(begun[1]))

    queue.ask(wish(100))
    begun = queue.begin()
    assert begun is not None
    assert queue.begin() is None, "not before the page in front of it: retention may take something between the two"
    queue.answered(begun[0], read(begun[1]))
    ahead = queue.begin()
    assert ahead is not None
    assert (begun[1].after, ahead[1].after, ahead[1].through) == (100, 200, 300)
    assert queue.begin() is None, "one block, not the whole log"
    queue.answered(ahead[0], read(ahead[1]))
    assert queue.begin() is None

    third = wish(200)
    assert queue.ask(third)
    assert third.found is not None
    assert third.found.page.after == 200
    ahead = queue.begin()
    assert ahead is not None
    assert (ahead[1].after, ahead[1].through) == (300, 400)
    fourth = wish(300)
    queue.ask(fourth)
    assert queue.answered(ahead[0], read(ahead[1])) == [ahead[0], fourth], "who wants it meanwhile gets it"


def test_reading_ahead_is_last_and_only_where_it_may_be_wanted() -> None:
    queue = catch_ups()
    queue.ask(wish(850))
    serve(queue)
    queue.ask(wish(910))
    serve(queue)
    assert queue.begin() is None, "the log ends in this block"
    for one in (wish(100, bound=150), wish(100, NARROW)):
        queue.ask(one)
        assert serve(queue) == [one]
        assert queue.begin() is None, "an index or a bound says what is wanted"
    gone = wish(200)
    queue.ask(gone)
    serve(queue)
    queue.withdraw(gone)
    assert queue.begin() is None, "nobody goes on there"
    queue.ask(wish(300))
    waiting = wish(600)
    queue.ask(waiting)
    assert [begun[0].after for begun in (queue.begin(), queue.begin()) if begun] == [300, 600], "who waits is first"


def test_types_that_are_most_of_the_log_are_found_by_reading_it_whole() -> None:
    most, few = Selection(entity_types=frozenset({"Pump"})), Selection(entity_types=frozenset({"Valve"}))
    queue = catch_ups()

    def looked_with(selection: Selection, after: int, share: float) -> Selection:
        request = CatchUpRequest(selection, False, after, None, 100, 10**6, lambda: None)
        queue.ask(request)
        begun = queue.begin()
        assert begun is not None
        events = LOG.between(after, after + int(100 * share))
        queue.answered(request, FoundPage(LogStretch(SOURCE, after, after + 100, events), (), LOG.head))
        return begun[1].selection

    assert looked_with(most, 0, 0.9) == most
    assert looked_with(few, 0, 0.1) == few
    assert looked_with(most, 100, 0.2) == EVERYTHING
    assert looked_with(few, 100, 0.9) == few
    assert looked_with(most, 200, 0.9) == most
    assert looked_with(few, 200, 0.9) == EVERYTHING
    queue.forget_pages()
    assert looked_with(few, 300, 0.9) == few
