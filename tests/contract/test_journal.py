"""What every journal promises about its log: order, numbers, appends that are all or nothing, reading and trimming.

Pushed events, sessions and parking are in test_journal_origins.py, projections in test_journal_projections.py, and
test_journal_model.py compares storages request by request.
"""

from __future__ import annotations

import pytest
import trio

from common.core.append import Appended, AppendOutcome, AppendRefused, LocalAppend, StatedRange
from common.core.batch import COLUMNS, EVENT_OVERHEAD_BYTES, new_events
from common.core.history import Offset
from common.core.ids import SliceRange, slice_of, slice_ranges
from common.core.selection import Selection
from common.journal.group_commit import GroupCommit
from common.journal.interface import Journal, TrimLimit
from tests.contract.journals import Storage
from tests.support.builders import append, appended, local, seq_nrs, whole_log

FAR_US = 2**60


def of_type(entity_type: str | None) -> Selection:
    return Selection(frozenset({entity_type} if entity_type else ()))


class TestOrderAndTime:
    """Positions are dense and in order; timestamps always increase."""

    async def test_an_empty_journal_has_head_zero(self, journal: Journal) -> None:
        stats = await journal.stats()
        assert (stats.head_position, stats.deleted_through, stats.first_position, stats.parked) == (0, 0, 1, 0)
        page = await journal.read(0, max_events=10, max_bytes=1_000)
        assert (len(page.events), page.through, page.head) == (0, 0, 0)

    async def test_positions_count_on_through_groups_and_reopening(self, storage: Storage) -> None:
        async with storage.open() as journal:
            outcomes = await journal.append_group([local("A|1", "A|2"), local("A|1")])
            assert outcomes == [Appended(1, [1, 1]), Appended(3, [2])]
        async with storage.open() as journal:
            assert await appended(journal, local("A|2")) == Appended(4, [2])
            assert (await whole_log(journal)).position == [1, 2, 3, 4]
            assert (await journal.stats()).head_position == 4
            assert journal.history.head_position == 4

    async def test_a_refused_append_takes_no_position(self, journal: Journal) -> None:
        await appended(journal, local("A|1"))
        refused = await append(journal, local("A|1", expected={"A|1": 7}))
        assert isinstance(refused, AppendRefused)
        assert (await appended(journal, local("A|1"))).first_position == 2

    @pytest.mark.parametrize("step_s", [0.0, -3_600.0, 86_400.0])
    async def test_timestamps_increase_whatever_the_clock_does(
        self, storage: Storage, journal: Journal, step_s: float
    ) -> None:
        before_us = storage.clock.us
        await appended(journal, local("A|1", "A|1", "A|1"))
        storage.clock.advance(step_s)
        await journal.append_group([local("A|1", "A|2"), local("A|3")])
        log = await whole_log(journal)
        assert log.timestamp_us[:3] == [before_us, before_us + 1, before_us + 2]
        # Each is above the one before, and no further off the clock than that needs.
        first_us = max(storage.clock.us, before_us + 3)
        assert log.timestamp_us[3:] == [first_us, first_us + 1, first_us + 2]
        assert log.stored_us == [before_us] * 3 + [storage.clock.us] * 3
        assert (await journal.stats()).head_timestamp_us == log.timestamp_us[-1]

    async def test_a_clock_that_was_a_day_ahead_does_not_stop_time_after_reopening(self, storage: Storage) -> None:
        storage.clock.advance(86_400)
        async with storage.open() as journal:
            await appended(journal, local("A|1"))
            ahead_us = storage.clock.us
        storage.clock.advance(-86_400)
        async with storage.open() as journal:
            await appended(journal, local("A|1"))
            log = await whole_log(journal)
        assert log.timestamp_us == [ahead_us, ahead_us + 1]
        assert log.stored_us == [ahead_us, ahead_us - 86_400_000_000]

    async def test_what_was_given_comes_back_column_by_column(self, journal: Journal) -> None:
        given = new_events(
            ["Ärger|日本 😀", "B|2"],
            ["Gemessen", "b"],
            [b"\x00\xff" * 10, b""],
            codec=["json", "raw"],
            event_time_us=[123_456, 0],
            tags=["t:a/b\x1fhot", ""],
            metadata=["", "trace\x1fabc\x1fempty\x1f"],
        )
        await appended(journal, LocalAppend(given))
        log = await whole_log(journal)
        for name in ("persistence_id", "event_type", "payload", "codec", "event_time_us", "tags", "metadata"):
            assert getattr(log, name) == getattr(given, name), name
        assert (log.seq_nr, log.prev_seq_nr, log.origin_seq_nr) == ([1, 1], [0, 0], [0, 0])
        log.check()

    async def test_the_prompt_is_raised_by_a_commit_that_moved_the_head(self, journal: Journal) -> None:
        assert journal.prompt.position == 0
        await appended(journal, local("A|1", "A|2"))
        assert journal.prompt.position == 2

    async def test_the_prompt_of_a_reopened_journal_knows_the_head(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await appended(journal, local("A|1"))
        async with storage.open() as journal:
            assert journal.prompt.position == 1


class TestExpectedNumbers:
    """An append that names expected numbers is stored only if they are the present ones."""

    async def test_numbers_go_on_per_entity(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|2", "A|1"))
        assert (await appended(journal, local("A|2", "A|1", "A|3"))).seq_nr == [2, 3, 1]
        head = await journal.entity_head("A|1")
        assert head is not None
        assert (head.seq_nr, head.owner, head.parked) == (3, "", 0)
        assert await journal.entity_head("A|4") is None

    async def test_the_expected_number_is_accepted_and_any_other_refused(self, journal: Journal) -> None:
        assert (await appended(journal, local("A|1", expected={"A|1": 0}))).seq_nr == [1]
        assert (await appended(journal, local("A|1", "A|1", expected={"A|1": 1}))).seq_nr == [2, 3]
        for wrong in (0, 2, 4):
            refused = await append(journal, local("A|1", expected={"A|1": wrong}))
            assert isinstance(refused, AppendRefused)
            assert refused.code == "append.wrong_expected_seq_nr"
            assert (refused.persistence_id, refused.expected, refused.actual) == ("A|1", wrong, 3)

    async def test_an_append_of_several_entities_is_stored_whole_or_not_at_all(self, journal: Journal) -> None:
        await appended(journal, local("A|1"))
        refused = await append(journal, local("A|2", "A|1", "A|3", expected={"A|2": 0, "A|1": 5}))
        assert isinstance(refused, AppendRefused)
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1)]
        assert await journal.entity_head("A|2") is None
        assert await journal.entity_head("A|3") is None

    async def test_an_expectation_may_be_about_an_entity_that_is_only_looked_at(self, journal: Journal) -> None:
        await appended(journal, local("A|1"))
        assert isinstance(await append(journal, local("A|2", expected={"A|1": 0})), AppendRefused)
        assert isinstance(await append(journal, local("A|2", expected={"A|9": 1})), AppendRefused)
        assert isinstance(await append(journal, local("A|2", expected={"A|1": 1, "A|9": 0})), Appended)
        assert await journal.entity_head("A|9") is None

    async def test_a_refused_request_leaves_the_others_of_its_group(self, journal: Journal) -> None:
        first, refused, last = await journal.append_group(
            [local("A|1"), local("A|2", expected={"A|2": 9}), local("A|3", expected={"A|3": 0})]
        )
        assert isinstance(refused, AppendRefused)
        assert (first, last) == (Appended(1, [1]), Appended(2, [1]))
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("A|3", 1)]

    async def test_of_two_appenders_for_one_number_exactly_one_wins(self, storage: Storage) -> None:
        rounds = 10
        won: list[list[AppendOutcome]] = [[], []]

        async def appender(commit: GroupCommit, results: list[AppendOutcome]) -> None:
            results.extend([await commit.append(local("A|1", expected={"A|1": number})) for number in range(rounds)])

        async def race(first: Journal, second: Journal) -> None:
            async with trio.open_nursery() as writers:
                commits = [GroupCommit(first)]
                if second is not first:
                    commits.append(GroupCommit(second))
                for commit in commits:
                    writers.start_soon(commit.run)
                async with trio.open_nursery() as appenders:
                    appenders.start_soon(appender, commits[0], won[0])
                    appenders.start_soon(appender, commits[-1], won[1])
                writers.cancel_scope.cancel()

        async with storage.open() as journal:
            if storage.shared:
                async with storage.open() as other:
                    await race(journal, other)
            else:
                await race(journal, journal)
            log = await whole_log(journal)
        for number, both in enumerate(zip(*won, strict=True)):
            assert sorted(type(outcome).__name__ for outcome in both) == ["AppendRefused", "Appended"]
            [stored] = [outcome for outcome in both if isinstance(outcome, Appended)]
            assert stored.seq_nr == [number + 1]
        assert log.seq_nr == list(range(1, rounds + 1))
        assert log.position == list(range(1, rounds + 1))


class TestAppendIds:
    """A repeat with the same id is answered like the first one, once and for all."""

    async def test_a_repeat_is_answered_the_same_and_stores_nothing(self, journal: Journal) -> None:
        request = local("A|1", "A|2", append_id="key-1")
        first = await appended(journal, request)
        await appended(journal, local("A|1"))
        again = await appended(journal, request)
        assert again == Appended(first.first_position, first.seq_nr, repeated=True)
        assert (await journal.stats()).head_position == 3

    async def test_the_same_id_with_another_body_is_refused(self, journal: Journal) -> None:
        await appended(journal, local("A|1", append_id="key-1"))
        refused = await append(journal, local("A|1", "A|1", append_id="key-1"))
        assert isinstance(refused, AppendRefused)
        assert refused.code == "append.id_reused"
        assert (await journal.stats()).head_position == 1

    async def test_ids_survive_a_restart(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await appended(journal, local("A|1", "A|1", append_id="key-1"))
        async with storage.open() as journal:
            again = await appended(journal, local("A|1", "A|1", append_id="key-1"))
            assert again == Appended(1, [1, 2], repeated=True)

    async def test_a_repeat_is_answered_though_its_expectation_no_longer_holds(self, journal: Journal) -> None:
        request = local("A|1", expected={"A|1": 0}, append_id="key-1")
        await appended(journal, request)
        assert (await appended(journal, request)).repeated

    async def test_a_refused_append_leaves_its_id_free(self, journal: Journal) -> None:
        request = local("A|1", expected={"A|1": 1}, append_id="key-1")
        assert isinstance(await append(journal, request), AppendRefused)
        await appended(journal, local("A|1"))
        assert await appended(journal, request) == Appended(2, [2])

    async def test_a_repeat_is_answered_after_its_events_were_deleted(self, journal: Journal) -> None:
        request = local("A|1", "A|1", append_id="key-1")
        await appended(journal, request)
        assert await journal.trim(TrimLimit(through=2, stored_before_us=FAR_US, max_events=10)) == 2
        assert await appended(journal, request) == Appended(1, [1, 2], repeated=True)

    async def test_a_group_may_hold_new_and_repeated_ids(self, journal: Journal) -> None:
        await appended(journal, local("A|1", append_id="key-1"))
        outcomes = await journal.append_group(
            [local("A|2", append_id="key-2"), local("A|1", append_id="key-1"), local("A|3", append_id="key-3")]
        )
        assert outcomes == [Appended(2, [1]), Appended(1, [1], repeated=True), Appended(3, [1])]

    async def test_old_ids_are_forgotten_oldest_first(self, storage: Storage, journal: Journal) -> None:
        for number in range(4):
            await appended(journal, local("A|1", append_id=f"key-{number}"))
            storage.clock.advance(10)
        before_us = storage.clock.us - 15_000_000
        assert await journal.forget_append_ids(before_us, max_rows=2) == 2
        assert await journal.forget_append_ids(before_us, max_rows=2) == 1
        assert await journal.forget_append_ids(before_us, max_rows=2) == 0
        assert not (await appended(journal, local("A|1", append_id="key-2"))).repeated
        assert (await appended(journal, local("A|1", append_id="key-3"))).repeated


class TestReading:
    """Reading by position, entity, slice and type, within bounds."""

    async def test_a_reader_goes_on_after_what_it_has_seen(self, journal: Journal) -> None:
        await appended(journal, local(*["A|1"] * 5))
        page = await journal.read(2, max_events=2, max_bytes=1_000_000)
        assert (page.events.position, page.through, page.head) == ([3, 4], 4, 5)
        page = await journal.read(4, max_events=2, max_bytes=1_000_000)
        assert (page.events.position, page.through, page.head) == ([5], 5, 5)
        page = await journal.read(5, max_events=2, max_bytes=1_000_000)
        assert (len(page.events), page.through, page.head) == (0, 5, 5)

    async def test_bytes_bound_a_page_but_one_event_always_comes(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|1", "A|1", payload=b"x" * 1_000))
        weight = 1_001 + EVENT_OVERHEAD_BYTES
        for bound, wanted in [(1, 1), (weight, 1), (2 * weight - 1, 1), (2 * weight, 2), (9 * weight, 3)]:
            page = await journal.read(0, max_events=10, max_bytes=bound)
            assert len(page.events) == wanted, bound
            assert page.through == wanted

    async def test_slices_and_type_choose_events_and_the_rest_is_passed_over(self, journal: Journal) -> None:
        persistence_ids = [f"{entity_type}|{number}" for number in range(40) for entity_type in ("A", "B")]
        await appended(journal, local(*persistence_ids))
        for slices in slice_ranges(4):
            for entity_type in (None, "A", "B", "C"):
                found, position = [], 0
                while position < 80:
                    page = await journal.read(
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
        page = await journal.read(0, max_events=5, max_bytes=1_000_000, selection=of_type("B"))
        assert (len(page.events), page.head) == (0, 50)
        assert page.through == 50
        empty = SliceRange(slice_of("A|1"), slice_of("A|1"))
        page = await journal.read(2, max_events=5, max_bytes=1_000_000, slices=empty)
        assert (len(page.events), page.through) == (0, 50)

    async def test_an_entity_type_is_not_a_prefix(self, journal: Journal) -> None:
        await appended(journal, local("Sensor|1", "SensorGroup|1", "Sensor%|1", "Sens_r|1"))
        for entity_type in ("Sensor", "Sensor%", "Sens_r"):
            page = await journal.read(0, max_events=9, max_bytes=1_000_000, selection=of_type(entity_type))
            assert page.events.persistence_id == [f"{entity_type}|1"]

    async def test_one_entity_is_read_by_number(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|2", "A|1", "A|1", "A|2", "A|1"))
        batch = await journal.read_entity("A|1", 2, 3, max_events=10)
        assert (batch.seq_nr, batch.position, batch.prev_seq_nr) == ([2, 3], [3, 4], [1, 2])
        assert (await journal.read_entity("A|1", 1, 99, max_events=2)).seq_nr == [1, 2]
        assert len(await journal.read_entity("A|9", 1, 99, max_events=10)) == 0

    async def test_both_ways_of_reading_give_the_same_columns(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|1"))
        by_position = await whole_log(journal)
        by_entity = await journal.read_entity("A|1", 1, 2, max_events=10)
        for name in COLUMNS:
            assert getattr(by_position, name) == getattr(by_entity, name), name

    async def test_a_tailing_reader_sees_every_event_once_and_in_order(self, storage: Storage) -> None:
        wanted = 60
        seen: list[int] = []

        async def tail(journal: Journal) -> None:
            position = 0
            while position < wanted:
                page = await journal.read(position, max_events=7, max_bytes=1_000_000)
                assert page.events.position == list(range(position + 1, position + 1 + len(page.events)))
                seen.extend(page.events.position)
                position = page.through
                await journal.prompt.wait_above(position, 0.05)

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
            assert (await journal.entity_head("A|both")).seq_nr == wanted // 3  # type: ignore[union-attr]


class TestTrimming:
    """What is removed leaves stated ranges, and nothing else changes."""

    async def test_the_oldest_go_first_in_chunks(self, journal: Journal) -> None:
        await appended(journal, local(*["A|1", "A|2"] * 3))
        limit = TrimLimit(through=5, stored_before_us=FAR_US, max_events=2)
        assert [await journal.trim(limit) for _ in range(4)] == [2, 2, 1, 0]
        assert (await whole_log(journal)).position == [6]
        stats = await journal.stats()
        assert (stats.head_position, stats.deleted_through, stats.first_position) == (6, 5, 6)

    async def test_young_events_stay(self, storage: Storage, journal: Journal) -> None:
        await appended(journal, local("A|1"))
        storage.clock.advance(60)
        await appended(journal, local("A|1"))
        before_us = storage.clock.us
        assert await journal.trim(TrimLimit(through=2, stored_before_us=before_us, max_events=9)) == 1
        assert (await whole_log(journal)).position == [2]
        assert await journal.trim(TrimLimit(through=2, stored_before_us=before_us + 1, max_events=9)) == 1

    async def test_a_clock_that_stepped_back_does_not_cost_an_entity_its_middle(
        self, storage: Storage, journal: Journal
    ) -> None:
        await appended(journal, local("A|1"))
        storage.clock.advance(86_400)
        await appended(journal, local("A|1"))
        storage.clock.advance(-86_400)
        await appended(journal, local("A|1"))
        limit = TrimLimit(through=3, stored_before_us=storage.clock.us + 1, max_events=9)
        assert await journal.trim(limit) == 1
        assert (await whole_log(journal)).position == [2, 3]

    async def test_only_the_named_types_go(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "B|1", "C|1", "AB|1"))
        types = frozenset({"A", "C"})
        limit = TrimLimit(4, FAR_US, 10, reason="dropped", entity_types=types)
        assert await journal.trim(limit) == 2
        assert (await whole_log(journal)).persistence_id == ["B|1", "AB|1"]
        assert await journal.deleted_ranges(0, 4) == [
            StatedRange("A|1", 1, 1, "dropped"),
            StatedRange("C|1", 1, 1, "dropped"),
        ]

    async def test_an_empty_log_keeps_its_head_and_numbers(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await appended(journal, local("A|1", "A|1", "A|2"))
            head_us = (await journal.stats()).head_timestamp_us
            assert await journal.trim(TrimLimit(3, FAR_US, 10)) == 3
        storage.clock.advance(-3_600)
        async with storage.open() as journal:
            stats = await journal.stats()
            assert (stats.head_position, stats.first_position, stats.head_timestamp_us) == (3, 4, head_us)
            page = await journal.read(0, max_events=5, max_bytes=1_000)
            assert (len(page.events), page.through, page.head) == (0, 3, 3)
            assert await appended(journal, local("A|1", "A|2", expected={"A|1": 2})) == Appended(4, [3, 2])
            assert (await whole_log(journal)).timestamp_us == [head_us + 1, head_us + 2]

    async def test_reading_passes_over_what_was_deleted(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "B|1", "A|1", "B|1"))
        await journal.trim(TrimLimit(4, FAR_US, 10, entity_types=frozenset({"B"})))
        page = await journal.read(0, max_events=10, max_bytes=1_000_000)
        assert (page.events.position, page.through, page.head) == ([1, 3], 4, 4)
        page = await journal.read(0, max_events=1, max_bytes=1_000_000)
        assert page.events.position == [1]
        assert 1 <= page.through <= 2
        assert len(await journal.read_entity("B|1", 1, 9, max_events=10)) == 0

    async def test_deleted_ranges_name_each_entity_at_its_last_removed_position(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|2", "A|1", "A|3"))
        await journal.trim(TrimLimit(3, FAR_US, 10))
        assert await journal.deleted_ranges(0, 4) == [
            StatedRange("A|2", 1, 1, "trimmed"),
            StatedRange("A|1", 1, 2, "trimmed"),
        ]
        assert await journal.deleted_ranges(2, 3) == [StatedRange("A|1", 1, 2, "trimmed")]
        assert await journal.deleted_ranges(1, 2) == [StatedRange("A|2", 1, 1, "trimmed")]
        assert await journal.deleted_ranges(3, 9) == []
        assert await journal.deleted_ranges(0, 4, max_rows=1) == [StatedRange("A|2", 1, 1, "trimmed")]
        head = await journal.entity_head("A|1")
        assert head is not None
        assert (head.deleted_to, head.deleted_position, head.deleted_reason) == (2, 3, "trimmed")

    async def test_a_later_trim_moves_an_entitys_range_on(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|1"))
        await journal.trim(TrimLimit(1, FAR_US, 10))
        await journal.trim(TrimLimit(2, FAR_US, 10, reason="dropped"))
        assert await journal.deleted_ranges(0, 1) == []
        assert await journal.deleted_ranges(0, 2) == [StatedRange("A|1", 1, 2, "dropped")]


class TestRestart:
    """Who the journal is, and what survives."""

    async def test_every_journal_has_an_id_of_its_own_that_stays(self, storage: Storage) -> None:
        async with storage.open() as journal:
            journal_id = journal.history.journal_id
            assert journal_id
        async with storage.open() as journal:
            assert journal.history.journal_id == journal_id

    async def test_generations_cover_the_log_from_its_first_position(self, storage: Storage) -> None:
        async with storage.open() as journal:
            assert journal.history.generations[0].first_position == 1
            first = journal.history.generation_id
            await appended(journal, local("A|1", "A|1"))
        async with storage.open() as journal:
            assert journal.history.generation_at(2) == first
            assert journal.history.head_position == 2
            assert journal.history.generations[-1].first_position <= 3

    async def test_what_another_node_has_begun_is_known_after_a_look(self, storage: Storage) -> None:
        if not storage.shared:
            return
        async with storage.open() as first, storage.open() as second:
            await appended(second, local("A|1"))
            await first.stats()
            assert first.history.generation_at(1) == second.history.generation_at(1)

    async def test_cursors_are_kept(self, storage: Storage) -> None:
        first = Offset("j", "g", 7, 123, "A|ü", 3)
        second = Offset("j2", "", 0)
        async with storage.open() as journal:
            assert await journal.load_cursor("push") is None
            await journal.save_cursor("push", second)
            await journal.save_cursor("push", first)
            await journal.save_cursor("pull", second)
        async with storage.open() as journal:
            assert await journal.load_cursor("push") == first
            assert await journal.load_cursor("pull") == second


class TestCancellation:
    """A cancelled append happened or it did not; never half."""

    async def test_an_append_cancelled_at_any_moment_is_whole_or_absent(self, storage: Storage) -> None:
        names = ("A|1", "A|2", "A|3")
        happened = 0
        async with storage.open() as journal:
            for number in range(30):
                with trio.move_on_after(number * 0.000_2):
                    await append(journal, local(*names, append_id=f"key-{number}"))
                again = await appended(journal, local(*names, append_id=f"key-{number}"))
                happened += again.repeated
            log = await whole_log(journal)
        assert seq_nrs(log) == [(name, number) for number in range(1, 31) for name in names]
        assert log.position == list(range(1, 91))

    async def test_what_was_cancelled_leaves_the_journal_usable(self, journal: Journal) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await append(journal, local("A|1"))
        stored = (await journal.stats()).head_position
        assert stored in {0, 1}
        assert (await appended(journal, local("A|1"))).first_position == stored + 1
