"""The run loop of projections over the memory journal: what it promises, and what it does when it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
import structlog
import trio
import trio.testing
from trio.testing import MockClock

from common.core.events.batch import EventBatch
from common.core.events.ids import slice_of, slice_ranges
from common.core.journal.statement import Statement
from common.journal.head_signal import HeadSignal
from common.journal.memory.members import MemoryMembers
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionRow
from common.projection.latest import LATEST, latest_of
from common.projection.progress import ProjectionSettings, ProjectionState
from common.projection.tally import TALLY, all_tallies, tally_statements
from tests.support.projections import (
    SMALL_PAGES,
    UNAVAILABLE,
    Commits,
    StagedJournal,
    expected_tallies,
    log_of,
    logged,
    running,
    staged_journal,
    store,
)


async def only_row(journal: Journal) -> ProjectionRow:
    [row] = await journal.projections.rows()
    return row


def assert_nothing_left_behind(journal: StagedJournal) -> None:
    assert not journal.database.lock.locked()  # held through every transaction
    assert [row.owner for row in journal.database.state.projections.values() if row.owner] == []


# -- exactly once ------------------------------------------------------------------------------------------------
async def test_a_backlog_of_many_pages_is_tallied_exactly_once(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    await store(journal, Random(1), 505)
    async with running(journal, settings=SMALL_PAGES, commits=commits):
        await commits.reach(505)
    assert commits.pages == 51
    assert await all_tallies(journal.projections) == await expected_tallies(journal)
    assert sum(tally.out_of_order for tally in (await all_tallies(journal.projections)).values()) == 0
    assert_nothing_left_behind(journal)


async def test_a_hundred_cancels_at_random_points_change_nothing_and_leave_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    random, database = Random(2), MemoryDatabase()
    journal = staged_journal(database)
    stopped_at = set()
    for number in range(100):
        await store(journal, random, 25)
        steps = random.randrange(1, 60)
        async with running(journal, TALLY, LATEST, owner=f"start-{number}", settings=SMALL_PAGES) as progress:
            for _ in range(steps):  # each lets every other task take one step
                await trio.lowlevel.checkpoint()
            stopped_at.add(tuple(one.position for one in progress))
        assert_nothing_left_behind(journal)
    assert len(stopped_at) > 20, "the cancels did not hit the work at different places"
    commits = Commits()
    rows = {row.name: row.position for row in await journal.projections.rows()}
    left = 2 * 2500 - rows["tally"] - rows["latest"]
    async with running(journal, TALLY, LATEST, commits=commits):
        await commits.reach(left)
    assert await all_tallies(journal.projections) == await expected_tallies(journal)
    for event in {event.persistence_id: event for event in (await log_of(journal)).envelopes()}.values():
        entity_type, _, entity_id = event.persistence_id.partition("|")
        assert await latest_of(journal.projections, entity_type, entity_id) == event
    assert [task.name for task in tasks_of_projections()] == []


def tasks_of_projections() -> list[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found, waiting = [], [root]
    while waiting:
        task = waiting.pop()
        waiting.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
        found.extend([task] if task.name.startswith("projection ") else [])
    return found


async def test_a_commit_of_unknown_outcome_is_not_repeated_when_it_was_stored(autojump_clock: MockClock) -> None:
    journal, random = staged_journal(), Random(3)

    async def lose_the_answer() -> None:
        if random.random() < 0.4:
            raise UNAVAILABLE

    journal.stage.after_commit = lose_the_answer
    await store(journal, random, 300)
    with structlog.testing.capture_logs() as lines:
        async with running(journal, settings=SMALL_PAGES):
            await trio.sleep(300)
            assert (await only_row(journal)).position == 300
    assert len(logged(lines, "projection.failed")) > 5
    assert await all_tallies(journal.projections) == await expected_tallies(journal)


async def test_pages_are_prepared_at_most_one_ahead_of_the_commit(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(commit_s=0.01), Commits()
    await store(journal, Random(4), 100)
    ahead: list[int] = []
    prepared = 0

    def count(batch: EventBatch) -> Sequence[Statement]:
        nonlocal prepared
        prepared += bool(batch)
        return tally_statements(batch)

    async def note() -> None:
        await trio.testing.wait_all_tasks_blocked()
        ahead.append(prepared - len(journal.stage.commits))

    journal.stage.before_commit = note
    async with running(journal, replace(TALLY, statements=count), settings=SMALL_PAGES, commits=commits):
        await commits.reach(100)
    assert ahead == [2] * 9 + [1]  # the page that commits and the one after it; at the end of the log only that


# -- leases ------------------------------------------------------------------------------------------------------
async def test_an_owner_that_slept_through_its_lease_writes_nothing_when_it_wakes(autojump_clock: MockClock) -> None:
    database = MemoryDatabase()
    slow, quick = staged_journal(database), staged_journal(database)
    wake = trio.Event()
    slow.stage.before_commit = wake.wait
    await store(slow, Random(5), 30)
    commits = Commits()
    with structlog.testing.capture_logs() as lines:
        async with running(slow, owner="slow"):
            await trio.testing.wait_all_tasks_blocked()
            async with running(quick, owner="quick", commits=commits):
                await commits.reach(30)
                await store(quick, Random(6), 30)
                await commits.reach(60)
                wake.set()
                await trio.sleep(20)
    assert slow.stage.commits == []
    assert len(logged(lines, "projection.fenced")) == 1
    assert [line["owner"] for line in logged(lines, "projection.started")] == ["slow", "quick"]
    assert await all_tallies(slow.projections) == await expected_tallies(slow)


async def test_a_dead_owners_range_is_taken_over_when_its_lease_has_lapsed_and_not_before(
    autojump_clock: MockClock,
) -> None:
    database = MemoryDatabase()
    dead, heir = staged_journal(database), staged_journal(database)
    dead.stage.is_cut_off = True  # it cannot give its lease back
    await store(dead, Random(7), 10)
    commits = Commits()
    async with running(dead, owner="dead", commits=commits):
        await commits.reach(10)
    with structlog.testing.capture_logs() as lines:
        async with running(heir, owner="heir", commits=commits) as [progress]:
            await store(heir, Random(8), 10)
            await trio.sleep(8)
            assert (commits.events, progress.state) == (10, ProjectionState.WAITING)
            await trio.sleep(4)
            assert (commits.events, progress.state) == (20, ProjectionState.LIVE)
    assert [line["holder"] for line in logged(lines, "projection.waiting")] == ["dead"]
    assert await all_tallies(heir.projections) == await expected_tallies(heir)


async def test_a_clean_stop_hands_over_without_waiting_for_the_lease(autojump_clock: MockClock) -> None:
    database = MemoryDatabase()
    first, second = staged_journal(database), staged_journal(database)
    async with running(second, owner="second") as progress:
        async with running(first, owner="first"):
            await trio.sleep(5)
        await trio.sleep(1.1)
        assert [one.state for one in progress] == [ProjectionState.LIVE]


async def test_an_idle_owner_keeps_its_lease(autojump_clock: MockClock) -> None:
    database = MemoryDatabase()
    first, second = staged_journal(database), staged_journal(database)
    async with running(first, owner="first"):
        await trio.sleep(1)
        async with running(second, owner="second") as progress:
            await trio.sleep(200)
            assert [one.state for one in progress] == [ProjectionState.WAITING]
            assert (await only_row(first)).epoch == 1


async def test_paused_projections_rest_and_go_on_where_they_were(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    with structlog.testing.capture_logs() as lines:
        async with running(journal, commits=commits) as [progress]:
            await store(journal, Random(9), 10)
            await commits.reach(10)
            assert await journal.projections.set_paused("tally", True) == 1
            await store(journal, Random(9), 10)
            await trio.sleep(60)
            assert (commits.events, progress.state) == (10, ProjectionState.PAUSED)
            await journal.projections.set_paused("tally", False)
            await commits.reach(20)
    assert len(logged(lines, "projection.paused")) == 1
    assert await all_tallies(journal.projections) == await expected_tallies(journal)


async def test_an_idle_range_with_a_long_lease_hears_at_once_what_an_operator_decides(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryMembers, "holds_leases", False)
    journal, commits = staged_journal(), Commits()
    await store(journal, Random(9), 10)
    async with running(journal, settings=ProjectionSettings(lease_s=600), commits=commits) as [progress]:
        await commits.reach(10)
        await trio.sleep(60)
        await journal.projections.set_paused("tally", True)
        await trio.sleep(2)
        assert progress.state is ProjectionState.PAUSED
        await journal.projections.set_paused("tally", False)
        await trio.sleep(60)
        await journal.projections.intervene("tally", [Statement("DELETE FROM tally")], restart=True)
        await trio.sleep(2)
        assert commits.events == 20, "it has begun again"


# -- ranges ------------------------------------------------------------------------------------------------------
async def test_ranges_share_the_work_and_together_tally_every_event_once(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    random = Random(13)
    settings = ProjectionSettings(ranges=4, page_max_events=10)
    async with running(journal, settings=settings, commits=commits) as progress:
        await store(journal, random, 300, entities=200)
        await commits.reach(300)
        assert [one.slices for one in progress] == slice_ranges(4)
        assert all(one.events for one in progress)
        assert await all_tallies(journal.projections) == await expected_tallies(journal)


async def test_the_offset_of_a_range_without_events_moves_on(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    async with running(journal, settings=ProjectionSettings(ranges=4), commits=commits):
        await store(journal, Random(14), 20, entities=1)
        [busy] = {slice_of(persistence_id) // 256 for persistence_id in (await log_of(journal)).persistence_id}
        await trio.sleep(10)
        assert [row.position for row in await journal.projections.rows()] == [20] * 4
        assert journal.stage.commits.count(20) >= 4
        assert busy in range(4)


async def test_a_lease_that_is_renewed_rarely_keeps_no_offset_back(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    async with running(journal, settings=ProjectionSettings(ranges=4, lease_s=600), commits=commits):
        await trio.sleep(10)
        await store(journal, Random(14), 20, entities=1)
        await trio.sleep(10)
        assert [row.position for row in await journal.projections.rows()] == [20] * 4


async def test_an_idle_range_commits_only_to_renew_its_lease(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    await store(journal, Random(14), 20)
    async with running(journal, settings=ProjectionSettings(lease_s=600), commits=commits):
        await commits.reach(20)
        await trio.sleep(2)
        before = len(journal.stage.commits)
        await trio.sleep(190)
        assert len(journal.stage.commits) == before
        await trio.sleep(20)
        assert len(journal.stage.commits) == before + 1


async def test_the_stored_ranges_are_run_whatever_the_setting_says(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    await store(journal, Random(15), 100, entities=50)
    async with running(journal, settings=ProjectionSettings(ranges=4), commits=commits):
        await commits.reach(100)
    async with running(journal, settings=ProjectionSettings(ranges=2), commits=commits) as progress:
        await trio.sleep(60)
        assert [one.slices for one in progress] == slice_ranges(4)
    assert len(await journal.projections.rows()) == 4
    assert commits.events == 100


# -- waiting -----------------------------------------------------------------------------------------------------
async def test_an_event_takes_effect_as_soon_as_the_prompt_says_so(autojump_clock: MockClock) -> None:
    database, commits = MemoryDatabase(), Commits()
    journal, other = staged_journal(database), staged_journal(database)
    async with running(journal, commits=commits):
        await trio.sleep(0.1)
        reads, since = journal.stage.reads, trio.current_time()
        await store(other, Random(16), 1)
        await commits.reach(1)
        assert trio.current_time() == since
        assert (journal.stage.reads - reads, journal.stage.commits) == (1, [1])


async def test_without_any_prompt_events_are_found_by_polling(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    journal.log.head_signal = silent = HeadSignal()
    journal.database.head_signals.clear()
    async with running(journal, commits=commits):
        for number in range(1, 11):
            since = trio.current_time()
            await store(journal, Random(17), 1)
            await commits.reach(number)
            assert trio.current_time() - since <= ProjectionSettings().poll_s
    assert silent.position == 0


async def test_a_prompt_that_promises_too_much_does_not_make_it_spin(autojump_clock: MockClock) -> None:
    journal = staged_journal()
    await store(journal, Random(18), 10)
    async with running(journal):
        journal.log.head_signal.raise_to(1_000_000)
        await trio.sleep(10)
    assert journal.stage.reads < 40


# -- the short way -------------------------------------------------------------------------------------------------
async def test_what_was_just_committed_takes_effect_without_being_read(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    ranges = ProjectionSettings(ranges=4, poll_s=1_000, lease_s=10_000)
    async with running(journal, settings=ranges, commits=commits):
        await store(journal, Random(3), 20)
        await commits.reach(20)
        reads = journal.stage.reads
        for number in range(30):
            await store(journal, Random(number), 5)
            await commits.reach(20 + 5 * (number + 1))
        assert journal.stage.reads == reads
        assert await all_tallies(journal.projections) == await expected_tallies(journal)


async def test_what_another_node_commits_in_between_is_read(autojump_clock: MockClock) -> None:
    database, commits = MemoryDatabase(), Commits()
    journal, other = staged_journal(database), staged_journal(database)
    async with running(journal, commits=commits):
        for number in range(20):
            await store(journal if number % 3 else other, Random(number), 5)
            if number % 4 == 0:
                await commits.reach(5 * (number + 1))
        await commits.reach(100)
    assert await all_tallies(journal.projections) == await expected_tallies(journal)


async def test_commits_that_come_faster_than_pages_are_all_taken(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(commit_s=0.05), Commits()
    async with running(journal, settings=SMALL_PAGES, commits=commits):
        for number in range(40):
            await store(journal, Random(number), 3 + number % 14)
            await trio.sleep(0.01)
        await commits.reach((await journal.log.stats()).head_position)
    assert await all_tallies(journal.projections) == await expected_tallies(journal)
