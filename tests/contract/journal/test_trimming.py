"""What every journal promises about events that retention deletes, what is left of them, and what makes them old."""

from __future__ import annotations

import pytest

from common.core.errors import BackhaulError
from common.core.events.batch import EVENT_OVERHEAD_BYTES, LEFT_TAGS, new_events
from common.core.events.stated_range import StatedRange
from common.core.journal.ages import AGE_LEASE, AgeMark
from common.core.journal.append import Appended, LocalAppend
from common.core.journal.tag_sets import TAG_SETS_MAX
from common.journal.stores.journal import Journal
from common.journal.stores.leases import Lease
from common.journal.stores.log import TrimLimit
from tests.contract.journals import Storage
from tests.support.builders import Origin, appended, local, pass_age, whole_log

YEAR_S = 365 * 86_400
SECOND = 1_000_000


class TestTrimming:
    """What is removed leaves stated ranges, and nothing else changes."""

    async def test_the_oldest_go_first_in_chunks(self, journal: Journal) -> None:
        await appended(journal, local(*["A|1", "A|2"] * 3))
        limit = TrimLimit(through=5, max_events=2)
        assert [await journal.log.trim(limit) for _ in range(4)] == [2, 2, 1, 0]
        assert (await whole_log(journal)).position == [6]
        stats = await journal.log.stats()
        assert (stats.head_position, stats.deleted_through, stats.first_position) == (6, 5, 6)

    async def test_a_chunk_ends_with_the_event_that_makes_it_heavy_enough(self, journal: Journal) -> None:
        names = ["A|1", "B|1"] * 3
        await appended(journal, LocalAppend(new_events(names, ["E"] * 6, [bytes(1_000)] * 6)))
        weight = 1_000 + EVENT_OVERHEAD_BYTES
        assert await journal.log.trim(TrimLimit(6, 9, max_bytes=2 * weight)) == 2
        assert await journal.log.trim(TrimLimit(6, 9, max_bytes=1)) == 1
        assert await journal.log.trim(TrimLimit(6, 1, max_bytes=2 * weight)) == 1
        only_a = TrimLimit(6, 9, entity_types=frozenset({"A"}), max_bytes=2 * weight)
        assert await journal.log.trim(only_a) == 1
        assert (await whole_log(journal)).position == [6]

    async def test_only_the_named_types_go(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "B|1", "C|1", "AB|1"))
        types = frozenset({"A", "C"})
        limit = TrimLimit(4, 10, reason="dropped", entity_types=types)
        assert await journal.log.trim(limit) == 2
        assert (await whole_log(journal)).persistence_id == ["B|1", "AB|1"]
        assert await journal.log.deleted_ranges(0, 4) == [
            StatedRange("A|1", 1, 1, "dropped"),
            StatedRange("C|1", 1, 1, "dropped"),
        ]

    async def test_entities_that_are_to_be_kept_lose_nothing(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "B|1", "A|2", "A|1", "A|2"))
        limit = TrimLimit(5, 2, kept=frozenset({"A|1", "none|1"}))
        assert [await journal.log.trim(limit) for _ in range(3)] == [2, 1, 0]
        assert (await whole_log(journal)).position == [1, 4]
        both = TrimLimit(5, 9, entity_types=frozenset({"A"}), covered_types=frozenset({"B"}), kept=frozenset({"B|1"}))
        assert await journal.log.trim(both) == 2

    async def test_an_empty_log_keeps_its_head_and_numbers(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await appended(journal, local("A|1", "A|1", "A|2"))
            head_us = (await journal.log.stats()).head_timestamp_us
            assert await journal.log.trim(TrimLimit(3, 10)) == 3
        storage.clock.advance(-3_600)
        async with storage.open() as journal:
            stats = await journal.log.stats()
            assert (stats.head_position, stats.first_position, stats.head_timestamp_us) == (3, 4, head_us)
            page = await journal.log.read(0, max_events=5, max_bytes=1_000)
            assert (len(page.events), page.through, page.head) == (0, 3, 3)
            assert await appended(journal, local("A|1", "A|2", expected={"A|1": 2})) == Appended(4, [3, 2])
            assert (await whole_log(journal)).timestamp_us == [head_us + 1, head_us + 2]

    async def test_reading_passes_over_what_was_deleted(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "B|1", "A|1", "B|1"))
        await journal.log.trim(TrimLimit(4, 10, entity_types=frozenset({"B"})))
        page = await journal.log.read(0, max_events=10, max_bytes=1_000_000)
        assert (page.events.position, page.through, page.head) == ([1, 3], 4, 4)
        page = await journal.log.read(0, max_events=1, max_bytes=1_000_000)
        assert page.events.position == [1]
        assert 1 <= page.through <= 2
        assert len(await journal.log.read_entity("B|1", 1, 9, max_events=10)) == 0

    async def test_deleted_ranges_name_each_entity_at_its_last_removed_position(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|2", "A|1", "A|3"))
        await journal.log.trim(TrimLimit(3, 10))
        assert await journal.log.deleted_ranges(0, 4) == [
            StatedRange("A|2", 1, 1, "trimmed"),
            StatedRange("A|1", 1, 2, "trimmed"),
        ]
        assert await journal.log.deleted_ranges(2, 3) == [StatedRange("A|1", 1, 2, "trimmed")]
        assert await journal.log.deleted_ranges(1, 2) == [StatedRange("A|2", 1, 1, "trimmed")]
        assert await journal.log.deleted_ranges(3, 9) == []
        assert await journal.log.deleted_ranges(0, 4, max_rows=1) == [StatedRange("A|2", 1, 1, "trimmed")]
        head = await journal.log.entity_head("A|1")
        assert head is not None
        assert (head.deleted_to, head.deleted_position, head.deleted_reason) == (2, 3, "trimmed")

    async def test_a_later_trim_moves_an_entitys_range_on(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|1"))
        await journal.log.trim(TrimLimit(1, 10))
        await journal.log.trim(TrimLimit(2, 10, reason="dropped"))
        assert await journal.log.deleted_ranges(0, 1) == []
        assert await journal.log.deleted_ranges(0, 2) == [StatedRange("A|1", 1, 2, "dropped")]


async def leased(journal: Journal, owner: str = "node-1", lease_s: float = 60) -> Lease:
    lease = await journal.leases.acquire(AGE_LEASE, owner, lease_s)
    assert lease is not None
    return lease


async def test_a_new_journal_is_of_no_age(journal: Journal) -> None:
    assert (await journal.ages.load()).age_us == 0


async def test_running_time_adds_up_and_marks_the_head_when_it_has_moved(storage: Storage) -> None:
    async with storage.open() as journal:
        lease = await leased(journal)
        for events in (2, 0, 3):
            await appended(journal, local(*["A|1"] * events)) if events else None
            head = (await journal.log.stats()).head_position
            advanced = await journal.ages.advance(lease, SECOND, head, 60)
            assert await journal.ages.load() == advanced
    async with storage.open() as journal:
        age = await journal.ages.load()
        assert age.age_us == 3 * SECOND
        assert [mark for mark in age.marks if mark.position] == [AgeMark(SECOND, 2), AgeMark(3 * SECOND, 5)]
        assert (age.older_than(2), age.older_than(3)) == (2, 0)


async def test_marks_are_thinned_where_they_are_stored(journal: Journal) -> None:
    lease, expected = await leased(journal), await journal.ages.load()
    for head in range(1, 120):
        expected = expected.advanced(SECOND, head)
        assert await journal.ages.advance(lease, SECOND, head, 60) == expected
    assert len(expected.marks) < 119
    assert await journal.ages.load() == expected


async def test_one_owner_at_a_time_advances_it(journal: Journal) -> None:
    first = await leased(journal)
    await journal.leases.release(first)
    second = await leased(journal, "node-2")
    with pytest.raises(BackhaulError) as fenced:
        await journal.ages.advance(first, SECOND, 0, 60)
    assert fenced.value.code == "lease.fenced"
    await journal.ages.advance(second, 2 * SECOND, 0, 60)
    assert (await journal.ages.load()).age_us == 2 * SECOND


async def test_advancing_renews_the_lease(storage: Storage, journal: Journal) -> None:
    lease = await leased(journal, lease_s=0.3)
    await journal.ages.advance(lease, SECOND, 0, 60)
    await storage.pass_time(0.4)
    assert await journal.leases.acquire(AGE_LEASE, "node-2", 60) is None


async def test_the_wall_clock_ages_nothing(storage: Storage) -> None:
    """A start in 1970, a step to the right year, one back, and a restart in a wrong year."""
    for step_s in (50 * YEAR_S, -2 * YEAR_S, YEAR_S):
        async with storage.open() as journal:
            await appended(journal, local("A|1", append_id=f"before {step_s}"))
            await pass_age(journal, 10)
            storage.clock.advance(step_s)
            await appended(journal, local("A|1", append_id=f"after {step_s}"))
            head = (await journal.log.stats()).head_position
            age = await pass_age(journal, 1)
            assert (age.older_than(11), age.older_than(1)) == (head - 1, head)
            assert age.older_than(34) == 0
        storage.clock.advance(-step_s / 3)


def sets(*joined: str) -> frozenset[str] | None:
    return frozenset(joined)


class TestTagSets:
    """The distinct tag sets of an entity's events are kept when the events go, whatever way these came."""

    async def test_they_are_those_of_all_events_also_of_deleted_ones(self, journal: Journal) -> None:
        await appended(journal, local("A|plain", "A|one", "A|late", "A|mixed", tags=["", "t:a", "", "x\x1fy"]))
        await appended(journal, local("A|plain"))
        await appended(journal, local("A|one", "A|late", "A|mixed", "A|mixed", tags=["t:a", "t:b", "y\x1fx", ""]))
        expected = {
            "A|plain": sets(""),
            "A|one": sets("t:a"),
            "A|late": sets("", "t:b"),
            "A|mixed": sets("x\x1fy", ""),
        }
        for _ in range(2):
            found = await journal.log.tag_sets([*expected, "A|unheard"])
            mixed = sets(*(tags.replace("y\x1fx", "x\x1fy") for tags in found["A|mixed"] or ()))
            assert {**found, "A|mixed": mixed} == expected
            await journal.log.trim(TrimLimit(100, 100))
        await appended(journal, local("A|one", "A|plain", tags=["t:c", "t:d"]))
        assert await journal.log.tag_sets(["A|one", "A|plain"]) == {
            "A|one": sets("t:a", "t:c"),
            "A|plain": sets("", "t:d"),
        }

    async def test_pushed_and_retried_events_are_counted_and_parked_ones_not(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 4), tags=["t:a", LEFT_TAGS, "t:x"])
        assert await journal.log.tag_sets(["A|1"]) == {"A|1": sets("t:a", LEFT_TAGS)}
        assert await journal.parked.retry("A|1", accept_gap=True) == (1, "")
        assert await journal.log.tag_sets(["A|1"]) == {"A|1": sets("t:a", LEFT_TAGS, "t:x")}

    async def test_of_more_than_are_kept_all_are_unknown(self, journal: Journal) -> None:
        for number in range(TAG_SETS_MAX):
            await appended(journal, local("A|1", tags=[f"t:{number}"]))
        known = (await journal.log.tag_sets(["A|1"]))["A|1"]
        assert known == sets(*(f"t:{number}" for number in range(TAG_SETS_MAX)))
        for number in range(3):
            await appended(journal, local("A|1", tags=[f"t:more/{number}"]))
            assert await journal.log.tag_sets(["A|1"]) == {"A|1": None}
