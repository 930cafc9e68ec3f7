"""What every journal promises about events that retention deletes, and what is left of them."""

from __future__ import annotations

from common.core.events.stated_range import StatedRange
from common.core.journal.append import Appended
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.contract.journals import Storage
from tests.support.builders import FAR_US, appended, local, whole_log


class TestTrimming:
    """What is removed leaves stated ranges, and nothing else changes."""

    async def test_the_oldest_go_first_in_chunks(self, journal: Journal) -> None:
        await appended(journal, local(*["A|1", "A|2"] * 3))
        limit = TrimLimit(through=5, stored_before_us=FAR_US, max_events=2)
        assert [await journal.log.trim(limit) for _ in range(4)] == [2, 2, 1, 0]
        assert (await whole_log(journal)).position == [6]
        stats = await journal.log.stats()
        assert (stats.head_position, stats.deleted_through, stats.first_position) == (6, 5, 6)

    async def test_young_events_stay(self, storage: Storage, journal: Journal) -> None:
        await appended(journal, local("A|1"))
        storage.clock.advance(60)
        await appended(journal, local("A|1"))
        before_us = storage.clock.us
        assert await journal.log.trim(TrimLimit(through=2, stored_before_us=before_us, max_events=9)) == 1
        assert (await whole_log(journal)).position == [2]
        assert await journal.log.trim(TrimLimit(through=2, stored_before_us=before_us + 1, max_events=9)) == 1

    async def test_a_clock_that_stepped_back_does_not_cost_an_entity_its_middle(
        self, storage: Storage, journal: Journal
    ) -> None:
        await appended(journal, local("A|1"))
        storage.clock.advance(86_400)
        await appended(journal, local("A|1"))
        storage.clock.advance(-86_400)
        await appended(journal, local("A|1"))
        limit = TrimLimit(through=3, stored_before_us=storage.clock.us + 1, max_events=9)
        storage.clock.advance(2 * 86_400)
        assert await journal.log.trim(limit) == 1
        assert (await whole_log(journal)).position == [2, 3]

    async def test_what_was_stored_while_the_clock_stood_ahead_goes_with_the_next_that_is_old_enough(
        self, storage: Storage, journal: Journal
    ) -> None:
        day_s = 86_400
        await appended(journal, local("A|1"))
        storage.clock.advance(365 * day_s)
        await appended(journal, local("A|1", "A|2"))
        storage.clock.advance(-364 * day_s)
        await appended(journal, local("A|1"))
        young_us = storage.clock.us
        assert await journal.log.trim(TrimLimit(through=4, stored_before_us=young_us, max_events=9)) == 1
        storage.clock.advance(day_s)
        await appended(journal, local("A|1"))
        assert await journal.log.trim(TrimLimit(through=5, stored_before_us=young_us + 1, max_events=9)) == 3
        assert (await whole_log(journal)).position == [5]

    async def test_only_the_named_types_go(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "B|1", "C|1", "AB|1"))
        types = frozenset({"A", "C"})
        limit = TrimLimit(4, FAR_US, 10, reason="dropped", entity_types=types)
        assert await journal.log.trim(limit) == 2
        assert (await whole_log(journal)).persistence_id == ["B|1", "AB|1"]
        assert await journal.log.deleted_ranges(0, 4) == [
            StatedRange("A|1", 1, 1, "dropped"),
            StatedRange("C|1", 1, 1, "dropped"),
        ]

    async def test_an_empty_log_keeps_its_head_and_numbers(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await appended(journal, local("A|1", "A|1", "A|2"))
            head_us = (await journal.log.stats()).head_timestamp_us
            assert await journal.log.trim(TrimLimit(3, FAR_US, 10)) == 3
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
        await journal.log.trim(TrimLimit(4, FAR_US, 10, entity_types=frozenset({"B"})))
        page = await journal.log.read(0, max_events=10, max_bytes=1_000_000)
        assert (page.events.position, page.through, page.head) == ([1, 3], 4, 4)
        page = await journal.log.read(0, max_events=1, max_bytes=1_000_000)
        assert page.events.position == [1]
        assert 1 <= page.through <= 2
        assert len(await journal.log.read_entity("B|1", 1, 9, max_events=10)) == 0

    async def test_deleted_ranges_name_each_entity_at_its_last_removed_position(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|2", "A|1", "A|3"))
        await journal.log.trim(TrimLimit(3, FAR_US, 10))
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
        await journal.log.trim(TrimLimit(1, FAR_US, 10))
        await journal.log.trim(TrimLimit(2, FAR_US, 10, reason="dropped"))
        assert await journal.log.deleted_ranges(0, 1) == []
        assert await journal.log.deleted_ranges(0, 2) == [StatedRange("A|1", 1, 2, "dropped")]
