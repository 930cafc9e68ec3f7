"""What every journal promises about local appends: order and time, expected numbers, append ids, all or nothing.

Pushed events, sessions and parking are in test_journal_origins.py, projections in test_journal_projections.py, and
test_journal_model.py compares storages request by request.
"""

from __future__ import annotations

import pytest
import trio

from common.core.events.batch import EventBatch, new_events
from common.core.journal.append import Appended, AppendOutcome, AppendRefused, LocalAppend
from common.journal.group_commit import GroupCommit
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.contract.journals import Storage
from tests.support.builders import append, appended, local, seq_nrs, whole_log


class TestOrderAndTime:
    """Positions are dense and in order; timestamps always increase."""

    async def test_an_empty_journal_has_head_zero(self, journal: Journal) -> None:
        stats = await journal.log.stats()
        assert (stats.head_position, stats.deleted_through, stats.first_position, stats.parked) == (0, 0, 1, 0)
        page = await journal.log.read(0, max_events=10, max_bytes=1_000)
        assert (len(page.events), page.through, page.head) == (0, 0, 0)

    async def test_positions_count_on_through_groups_and_reopening(self, storage: Storage) -> None:
        async with storage.open() as journal:
            outcomes = await journal.log.append_group([local("A|1", "A|2"), local("A|1")])
            assert outcomes == [Appended(1, [1, 1]), Appended(3, [2])]
        async with storage.open() as journal:
            assert await appended(journal, local("A|2")) == Appended(4, [2])
            assert (await whole_log(journal)).position == [1, 2, 3, 4]
            assert (await journal.log.stats()).head_position == 4
            assert journal.log.history.head_position == 4

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
        await journal.log.append_group([local("A|1", "A|2"), local("A|3")])
        log = await whole_log(journal)
        assert log.timestamp_us[:3] == [before_us, before_us + 1, before_us + 2]
        # Each is above the one before, and no further off the clock than that needs.
        first_us = max(storage.clock.us, before_us + 3)
        assert log.timestamp_us[3:] == [first_us, first_us + 1, first_us + 2]
        assert log.stored_us == [before_us] * 3 + [storage.clock.us] * 3
        assert (await journal.log.stats()).head_timestamp_us == log.timestamp_us[-1]

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
        assert journal.log.head_signal.position == 0
        await appended(journal, local("A|1", "A|2"))
        assert journal.log.head_signal.position == 2

    async def test_the_prompt_of_a_reopened_journal_knows_the_head(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await appended(journal, local("A|1"))
        async with storage.open() as journal:
            assert journal.log.head_signal.position == 1


class TestExpectedNumbers:
    """An append that names expected numbers is stored only if they are the present ones."""

    async def test_numbers_go_on_per_entity(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|2", "A|1"))
        assert (await appended(journal, local("A|2", "A|1", "A|3"))).seq_nr == [2, 3, 1]
        head = await journal.log.entity_head("A|1")
        assert head is not None
        assert (head.seq_nr, head.owner, head.parked) == (3, "", 0)
        assert await journal.log.entity_head("A|4") is None

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
        assert await journal.log.entity_head("A|2") is None
        assert await journal.log.entity_head("A|3") is None

    async def test_an_expectation_may_be_about_an_entity_that_is_only_looked_at(self, journal: Journal) -> None:
        await appended(journal, local("A|1"))
        assert isinstance(await append(journal, local("A|2", expected={"A|1": 0})), AppendRefused)
        assert isinstance(await append(journal, local("A|2", expected={"A|9": 1})), AppendRefused)
        assert isinstance(await append(journal, local("A|2", expected={"A|1": 1, "A|9": 0})), Appended)
        assert await journal.log.entity_head("A|9") is None

    async def test_who_only_asks_is_told_the_truth_and_nothing_is_stored(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|1", "B|1"))
        before = await journal.log.stats()
        expectations = [{"A|1": 2}, {"A|1": 1}, {"C|1": 0}, {"C|1": 1}, {"A|1": 2, "B|1": 1}, {"B|1": 1, "A|1": 3}, {}]
        answer = await journal.log.append_group([LocalAppend(EventBatch(), expected) for expected in expectations])
        refused = [
            (each.persistence_id, each.expected, each.actual) for each in answer if isinstance(each, AppendRefused)
        ]
        assert refused == [("A|1", 1, 2), ("C|1", 1, 0), ("A|1", 3, 2)]
        assert [each for each in answer if isinstance(each, Appended)] == [Appended(4, [])] * 4
        assert {each.code for each in answer if isinstance(each, AppendRefused)} == {"append.wrong_expected_seq_nr"}
        assert (await journal.log.stats()).head_position == before.head_position == 3
        assert await journal.log.entity_head("C|1") is None
        assert await appended(journal, local("A|1", expected={"A|1": 2})) == Appended(4, [3])

    async def test_a_refused_request_leaves_the_others_of_its_group(self, journal: Journal) -> None:
        first, refused, last = await journal.log.append_group(
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
                commits = [GroupCommit(first.log)]
                if second is not first:
                    commits.append(GroupCommit(second.log))
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
        assert (await journal.log.stats()).head_position == 3

    async def test_the_same_id_with_another_body_is_refused(self, journal: Journal) -> None:
        await appended(journal, local("A|1", append_id="key-1"))
        refused = await append(journal, local("A|1", "A|1", append_id="key-1"))
        assert isinstance(refused, AppendRefused)
        assert refused.code == "append.id_reused"
        assert (await journal.log.stats()).head_position == 1

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
        assert await journal.log.trim(TrimLimit(through=2, max_events=10)) == 2
        assert await appended(journal, request) == Appended(1, [1, 2], repeated=True)

    async def test_a_group_may_hold_new_and_repeated_ids(self, journal: Journal) -> None:
        await appended(journal, local("A|1", append_id="key-1"))
        outcomes = await journal.log.append_group(
            [local("A|2", append_id="key-2"), local("A|1", append_id="key-1"), local("A|3", append_id="key-3")]
        )
        assert outcomes == [Appended(2, [1]), Appended(1, [1], repeated=True), Appended(3, [1])]

    async def test_old_ids_are_forgotten_oldest_first(self, journal: Journal) -> None:
        for number in range(4):
            await appended(journal, local("A|1", append_id=f"key-{number}"))
        assert [await journal.log.forget_append_ids(3, max_rows=2) for _ in range(3)] == [2, 1, 0]
        assert not (await appended(journal, local("A|1", append_id="key-2"))).repeated
        assert (await appended(journal, local("A|1", append_id="key-3"))).repeated


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
        stored = (await journal.log.stats()).head_position
        assert stored in {0, 1}
        assert (await appended(journal, local("A|1"))).first_position == stored + 1
