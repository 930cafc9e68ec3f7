"""The ring: bounds, places, and bytes that are made once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.events.batch import EventBatch
from common.core.firehose.ring import PAGE_MAX_EVENTS, LogSource, Ring
from common.core.journal.place_digest import place_digest
from tests.support.growing_log import GrowingLog, plain_encoding

ALL: frozenset[str] = frozenset()


class CountingEncoder:
    """Counts how many events it was given."""

    def __init__(self) -> None:
        self.events = 0

    def __call__(self, events: EventBatch) -> bytes:
        self.events += len(events)
        return plain_encoding(events)


def ring(
    *, after: int = 0, max_events: int = 1_000, max_bytes: int = 10_000_000, encode: CountingEncoder | None = None
) -> Ring:
    return Ring(LogSource("j", encode or plain_encoding), after, max_events=max_events, max_bytes=max_bytes)


def grown(log: GrowingLog, n: int, entity: str = "Pump|1", payload_bytes: int = 20) -> EventBatch:
    return log.append(*[(entity, "")] * n, payload_bytes=payload_bytes)


def test_oldest_pages_make_room_in_events_and_bytes() -> None:
    by_events, by_bytes, log = ring(max_events=25), ring(max_bytes=3 * 25 * 140), GrowingLog()
    for _ in range(10):
        batch = grown(log, 10)
        by_events.extend(batch)
        by_bytes.extend(batch)

    for one in (by_events, by_bytes):
        assert (one.after, one.through, one.events) == (80, 100, 20)
        assert one.holds(80)
        assert not one.holds(79)
        assert one.evicted == 80


def test_one_page_stays_however_large() -> None:
    small, log = ring(max_bytes=1), GrowingLog()
    small.extend(grown(log, 3))
    small.extend(grown(log, 2))

    assert (small.after, small.through) == (3, 5)


def test_large_batches_become_pages_of_bounded_size() -> None:
    one, log = ring(max_events=10_000), GrowingLog()
    pages = one.extend(grown(log, 3 * PAGE_MAX_EVENTS + 1))

    assert [len(page.events) for page in pages] == [PAGE_MAX_EVENTS] * 3 + [1]
    assert [page.after for page in pages] == [0, 500, 1000, 1500]


def test_a_hole_is_refused() -> None:
    one, log = ring(), GrowingLog()
    first, second = grown(log, 2), grown(log, 2)
    with pytest.raises(AssertionError):
        one.extend(second)
    one.extend(first)
    with pytest.raises(AssertionError):
        one.extend(second.slice(1, 2))


def test_each_event_is_encoded_once_however_many_want_it() -> None:
    encode = CountingEncoder()
    one, log = ring(encode=encode), GrowingLog()
    [page] = one.extend(grown(log, 20))
    for _ in range(5):
        assert page.encode([3, 7], shared=True) == plain_encoding(log.events.select([3, 7]))
        assert page.encode(range(20), shared=False) == plain_encoding(log.events)
    assert encode.events == 2 + 20


def test_joining_small_pages_keeps_places_events_and_encodings() -> None:
    encode = CountingEncoder()
    one, log = ring(encode=encode), GrowingLog()
    for number in range(200):
        [page] = one.extend(grown(log, 1, f"Pump|{number}"))
        page.encode([0], shared=True)

    pages = list(one.pages_after(0))
    assert len(pages) < 80
    assert b"".join(page.encode(page.of_types(ALL), shared=False) for page in pages) == plain_encoding(log.events)
    assert encode.events == 200
    assert one.place(77) == (log.events.timestamp_us[76], place_digest("j", log.events.timestamp_us[76], "Pump|76", 1))


@given(st.lists(st.integers(1, 70), min_size=1, max_size=40), st.integers(20, 300), st.data())
def test_what_is_located_and_walked_is_what_was_put_in(sizes: list[int], max_events: int, data: st.DataObject) -> None:
    one, log = ring(max_events=max_events), GrowingLog()
    for size in sizes:
        one.extend(grown(log, size))
        position = data.draw(st.integers(one.after, one.through))
        walked = EventBatch()
        for page in one.pages_after(position):
            walked.extend(page.select(page.of_types(ALL)).slice(page.index_after(position), len(page.events)))
        assert walked == log.between(position, log.head)
        assert one.events == one.through - one.after
        wanted = sorted(data.draw(st.sets(st.integers(one.after + 1, one.through), max_size=10)))
        found = [page.events.position[index] for page, indexes in one.locate(wanted) for index in indexes]
        assert found == wanted


def test_events_of_a_type_are_chosen_once_for_all() -> None:
    one, log = ring(), GrowingLog()
    [page] = one.extend(log.append(("Pump|1", ""), ("Valve|1", ""), ("Pump|2", "")))

    assert page.of_types(frozenset({"Pump"})) == [0, 2]
    assert page.of_types(frozenset({"Pump"})) is page.of_types(frozenset({"Pump"}))
    assert list(page.of_types(frozenset({"Pump", "Valve"}))) == [0, 1, 2]
