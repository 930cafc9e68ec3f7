"""What every journal promises to who reads its log: pages with bounds, selections, and the same after a restart."""

from __future__ import annotations

import trio

from common.core.events.batch import COLUMNS, EVENT_OVERHEAD_BYTES, new_events
from common.core.events.ids import SliceRange, slice_of, slice_ranges
from common.core.filters.selection import Selection
from common.core.journal.append import LocalAppend
from common.core.journal.history import Offset
from common.journal.stores.journal import Journal
from tests.contract.journals import Storage
from tests.support.builders import appended, local, whole_log


def of_type(entity_type: str | None) -> Selection:
    return Selection(frozenset({entity_type} if entity_type else ()))


class TestReading:
    """Reading by position, entity, slice and type, within bounds."""

    async def test_a_reader_goes_on_after_what_it_has_seen(self, journal: Journal) -> None:
        await appended(journal, local(*["A|1"] * 5))
        page = await journal.log.read(2, max_events=2, max_bytes=1_000_000)
        assert (page.events.position, page.through, page.head) == ([3, 4], 4, 5)
        page = await journal.log.read(4, max_events=2, max_bytes=1_000_000)
        assert (page.events.position, page.through, page.head) == ([5], 5, 5)
        page = await journal.log.read(5, max_events=2, max_bytes=1_000_000)
        assert (len(page.events), page.through, page.head) == (0, 5, 5)

    async def test_bytes_bound_a_page_but_one_event_always_comes(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|1", "A|1", payload=b"x" * 1_000))
        weight = 1_001 + EVENT_OVERHEAD_BYTES
        for bound, wanted in [(1, 1), (weight, 1), (2 * weight - 1, 1), (2 * weight, 2), (9 * weight, 3)]:
            page = await journal.log.read(0, max_events=10, max_bytes=bound)
            assert len(page.events) == wanted, bound
            assert page.through == wanted

    async def test_slices_and_type_choose_events_and_the_rest_is_passed_over(self, journal: Journal) -> None:
        persistence_ids = [f"{entity_type}|{number}" for number in range(40) for entity_type in ("A", "B")]
        await appended(journal, local(*persistence_ids))
        for slices in slice_ranges(4):
            for entity_type in (None, "A", "B", "C"):
                found, position = [], 0
                while position < 80:
                    page = await journal.log.read(
                        position, max_events=3, max_bytes=1_000_000, slices=slices, selection=of_type(entity_type)
                    )
                    assert len(page.events) <= 3
                    assert position < page.through <= page.head == 80
                    assert all(position < p <= page.through for p in page.events.position)
                    found += page.events.persistence_id
                    position = page.through
                assert found == [
                    name
                    for name in persistence_ids
                    if slice_of(name) in slices and name.partition("|")[0] == (entity_type or name[0])
                ]

    async def test_a_condition_that_leaves_nothing_still_moves_the_reader_on(self, journal: Journal) -> None:
        await appended(journal, local(*[f"A|{number}" for number in range(50)]))
        page = await journal.log.read(0, max_events=5, max_bytes=1_000_000, selection=of_type("B"))
        assert (len(page.events), page.head) == (0, 50)
        assert page.through == 50
        empty = SliceRange(slice_of("A|1"), slice_of("A|1"))
        page = await journal.log.read(2, max_events=5, max_bytes=1_000_000, slices=empty)
        assert (len(page.events), page.through) == (0, 50)

    async def test_an_entity_type_is_not_a_prefix(self, journal: Journal) -> None:
        await appended(journal, local("Sensor|1", "SensorGroup|1", "Sensor%|1", "Sens_r|1"))
        for entity_type in ("Sensor", "Sensor%", "Sens_r"):
            page = await journal.log.read(0, max_events=9, max_bytes=1_000_000, selection=of_type(entity_type))
            assert page.events.persistence_id == [f"{entity_type}|1"]

    async def test_one_entity_is_read_by_number(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|2", "A|1", "A|1", "A|2", "A|1"))
        batch = await journal.log.read_entity("A|1", 2, 3, max_events=10)
        assert (batch.seq_nr, batch.position, batch.prev_seq_nr) == ([2, 3], [3, 4], [1, 2])
        assert (await journal.log.read_entity("A|1", 1, 99, max_events=2)).seq_nr == [1, 2]
        assert len(await journal.log.read_entity("A|9", 1, 99, max_events=10)) == 0

    async def test_an_event_is_read_as_it_was_stored(self, journal: Journal) -> None:
        texts = ["", "\x1f".join(["t:a/b", 'say "no"', "back\\slash"]), "日本 😀\u2028"]
        payloads = [b"", bytes(range(256)), b'{"text":"\\u0000 \xff"}']
        given = new_events(
            ["A|1", 'B|"\\ 😀', "A|1"],
            ["Filled", "Füllung", "Filled"],
            payloads,
            codec=["json", "protobuf", ""],
            event_time_us=[2**62 + 1, 0, 1],
            tags=texts,
            metadata=["key\x1fvalue", "", 'a\x1f"b"'],
        )
        await appended(journal, LocalAppend(given))
        stored = await whole_log(journal)
        for name in ("persistence_id", "event_type", "payload", "codec", "event_time_us", "tags", "metadata"):
            assert getattr(stored, name) == getattr(given, name), name
        assert [type(payload) for payload in stored.payload] == [bytes] * 3

    async def test_both_ways_of_reading_give_the_same_columns(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|1"))
        by_position = await whole_log(journal)
        by_entity = await journal.log.read_entity("A|1", 1, 2, max_events=10)
        for name in COLUMNS:
            assert getattr(by_position, name) == getattr(by_entity, name), name

    async def test_a_tailing_reader_sees_every_event_once_and_in_order(self, storage: Storage) -> None:
        wanted = 60
        seen: list[int] = []

        async def tail(journal: Journal) -> None:
            position = 0
            while position < wanted:
                page = await journal.log.read(position, max_events=7, max_bytes=1_000_000)
                assert page.events.position == list(range(position + 1, position + 1 + len(page.events)))
                seen.extend(page.events.position)
                position = page.through
                await journal.log.head_signal.wait_above(position, 0.05)

        async def write(journal: Journal, name: str) -> None:
            for _ in range(wanted // 6):
                await appended(journal, local(name, name, "A|both"))

        async with storage.open() as journal:
            if storage.shared:
                async with storage.open() as other, trio.open_nursery() as nursery:
                    nursery.start_soon(tail, journal)
                    nursery.start_soon(write, journal, "A|1")
                    nursery.start_soon(write, other, "A|2")
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(tail, journal)
                    await write(journal, "A|1")
                    await write(journal, "A|2")
            assert seen == list(range(1, wanted + 1))
            assert (await journal.log.entity_head("A|both")).seq_nr == wanted // 3  # type: ignore[union-attr]


class TestRestart:
    """Who the journal is, and what survives."""

    async def test_every_journal_has_an_id_of_its_own_that_stays(self, storage: Storage) -> None:
        async with storage.open() as journal:
            journal_id = journal.log.history.journal_id
            assert journal_id
        async with storage.open() as journal:
            assert journal.log.history.journal_id == journal_id

    async def test_generations_cover_the_log_from_its_first_position(self, storage: Storage) -> None:
        async with storage.open() as journal:
            assert journal.log.history.generations[0].first_position == 1
            first = journal.log.history.generation_id
            await appended(journal, local("A|1", "A|1"))
        async with storage.open() as journal:
            assert journal.log.history.generation_at(2) == first
            assert journal.log.history.head_position == 2
            assert journal.log.history.generations[-1].first_position <= 3

    async def test_what_another_node_has_begun_is_known_after_a_look(self, storage: Storage) -> None:
        if not storage.shared:
            return
        async with storage.open() as first, storage.open() as second:
            await appended(second, local("A|1"))
            await first.log.stats()
            assert first.log.history.generation_at(1) == second.log.history.generation_at(1)

    async def test_a_probe_leaves_no_trace(self, journal: Journal) -> None:
        await appended(journal, local("A|1"))
        before = await journal.log.stats()
        for append_bytes in (0, 1, 1_000_000):
            await journal.log.probe(append_bytes)
        after = await journal.log.stats()
        assert (after.head_position, after.head_timestamp_us) == (before.head_position, before.head_timestamp_us)
        assert journal.log.head_signal.position == 1
        assert (await appended(journal, local("A|1"))).first_position == 2

    async def test_cursors_are_kept(self, storage: Storage) -> None:
        first = Offset("j", "g", 7, 123, "A|ü", 3)
        second = Offset("j2", "", 0)
        async with storage.open() as journal:
            assert await journal.log.load_cursor("push") is None
            await journal.log.save_cursor("push", second)
            await journal.log.save_cursor("push", first)
            await journal.log.save_cursor("pull", second)
        async with storage.open() as journal:
            assert await journal.log.load_cursor("push") == first
            assert await journal.log.load_cursor("pull") == second
