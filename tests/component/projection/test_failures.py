"""Projections when something goes wrong, and what their logs and status say of it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import structlog
import trio
from trio.testing import MockClock

from common.core.events.batch import new_events
from common.core.events.ids import slice_of
from common.core.journal.append import LocalAppend
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.log import TrimLimit
from common.projection.handlers import Handler
from common.projection.latest import LATEST
from common.projection.progress import ProjectionState
from common.projection.status import projection_status
from common.projection.tally import all_tallies, fold
from tests.support.projections import (
    SMALL_PAGES,
    UNAVAILABLE,
    Commits,
    Mendable,
    clock_us,
    expected_tallies,
    log_of,
    logged,
    running,
    staged_journal,
    store,
)

IDLE = Handler("idle", (), lambda _batch: ())


# -- failures ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad_sql", [False, True])
async def test_a_poison_event_stops_its_projection_just_before_it_and_no_other(
    autojump_clock: MockClock, bad_sql: bool
) -> None:
    journal, commits = staged_journal(), Commits()
    await store(journal, Random(10), 300)
    log = await log_of(journal)
    poison = log.envelope(123)
    mendable = Mendable(poison.persistence_id, poison.seq_nr, bad_sql=bad_sql)
    with structlog.testing.capture_logs() as lines:
        async with running(journal, mendable.handler, LATEST, commits=commits) as [failing, latest]:
            await trio.sleep(100)
            assert (latest.state, latest.position) == (ProjectionState.LIVE, 300)
            assert (failing.state, failing.position) == (ProjectionState.FAILING, poison.position - 1)
            assert await all_tallies(journal.projections) == fold(log.slice(0, 123))
            mendable.is_mended = True
            await commits.reach(600)
            await trio.sleep(1)
            assert (failing.state, failing.error_code) == (ProjectionState.LIVE, "")
    code = "projection.statement_failed" if bad_sql else "projection.handler_failed"
    last = logged(lines, "projection.failed")[-1]
    assert (last["code"], last["position"]) == (code, poison.position - 1)
    named = (last["details"]["persistence_id"], last["details"]["seq_nr"])
    assert named == (poison.persistence_id, poison.seq_nr)
    assert "secret" not in str(lines)
    assert await all_tallies(journal.projections) == await expected_tallies(journal)


async def test_after_a_poison_event_pages_grow_again(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    await store(journal, Random(10), 2_000)
    poison = (await log_of(journal)).envelope(0)
    mendable = Mendable(poison.persistence_id, poison.seq_nr, bad_sql=False)
    async with running(journal, mendable.handler, commits=commits):
        await mendable.was_met_alone.wait()
        mendable.is_mended = True
        await commits.reach(2_000)
    assert commits.pages == 12  # 1, 1, 2, 4 … 512, and the rest: while one commits, the next one is read already


async def test_retries_back_off_until_there_is_progress(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    await store(journal, Random(11), 1)
    mendable = Mendable((await log_of(journal)).persistence_id[0], 1, bad_sql=False)
    with structlog.testing.capture_logs() as lines:
        async with running(journal, mendable.handler, commits=commits) as [progress]:
            await trio.sleep(600)
            assert 20 < progress.failures < 100  # at 30 s at most, and half of that on average
            mendable.is_mended = True
            await commits.reach(1)
            journal.stage.before_read = fail
            await trio.sleep(10)
    failures = logged(lines, "projection.failed")
    assert [line["failures_in_a_row"] for line in failures[: progress.failures]] == [
        *range(1, 1 + sum(line["code"] == "projection.handler_failed" for line in failures)),
        *range(1, 1 + sum(line["code"] == "journal.unavailable" for line in failures)),
    ]


async def fail() -> None:
    raise UNAVAILABLE


async def test_a_journal_that_cannot_be_reached_is_tried_again(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    random = Random(12)

    async def fail_often() -> None:
        if random.random() < 0.5:
            raise UNAVAILABLE

    journal.stage.before_read = journal.stage.before_commit = fail_often
    with structlog.testing.capture_logs() as lines:
        async with running(journal, settings=SMALL_PAGES, commits=commits):
            for _ in range(10):
                await store(journal, random, 30)
                await trio.sleep(1)
            await commits.reach(300)
    journal.stage.before_read = None
    assert {line["code"] for line in logged(lines, "projection.failed")} == {"journal.unavailable"}
    assert await all_tallies(journal.projections) == await expected_tallies(journal)


async def test_a_store_that_does_not_answer_does_not_hold_up_a_stop(autojump_clock: MockClock) -> None:
    journal = staged_journal()
    async with running(journal):
        await trio.sleep(1)
        await journal.database.lock.acquire()
        stopping_since = trio.current_time()
    assert trio.current_time() - stopping_since < 6
    journal.database.lock.release()


# -- what is told ------------------------------------------------------------------------------------------------
async def test_summaries_measure_lag_from_the_journal(autojump_clock: MockClock) -> None:
    journal = staged_journal()
    await store(journal, Random(19), 10)
    await trio.sleep(100)
    await store(journal, Random(19), 10)
    poison = (await log_of(journal)).envelope(4)
    mendable = Mendable(poison.persistence_id, poison.seq_nr, bad_sql=False)
    with structlog.testing.capture_logs() as lines:
        async with running(journal, mendable.handler, IDLE):
            await trio.sleep(61)
    live, failing = sorted(logged(lines, "projection.summary"), key=lambda line: line["projection"])
    assert (failing["state"], failing["position"], failing["head"], failing["lag_events"]) == ("failing", 4, 20, 16)
    assert failing["lag_s"] == pytest.approx(160, abs=1)
    assert (live["state"], live["lag_events"], live["lag_s"]) == ("live", 0, 0.0)
    assert live["events_per_s"] == pytest.approx(20 / 60, abs=0.1)
    [idle, other] = await projection_status(journal, clock_us)
    assert (idle.row.name, idle.lag.events, other.row.name, other.lag.events) == ("idle", 0, "mendable", 16)


async def test_a_start_behind_retention_stops_and_says_so(autojump_clock: MockClock) -> None:
    journal = staged_journal()
    await store(journal, Random(20), 10)
    await trio.sleep(1)
    await journal.log.trim(TrimLimit(through=5, max_events=100))
    with structlog.testing.capture_logs() as lines:
        async with running(journal) as [progress]:
            await trio.sleep(10)
            assert (progress.position, progress.events) == (0, 0)
    assert {line["code"] for line in logged(lines, "projection.failed")} == {"projection.trimmed"}


async def test_an_offset_beyond_the_log_is_refused_instead_of_leaving_out_what_comes(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    await store(journal, Random(21), 10)
    async with running(journal, commits=commits):
        await commits.reach(10)
    stored = journal.database.state
    journal.database.state = replace(MemoryDatabase().state, projections=stored.projections, migrated=stored.migrated)
    await store(journal, Random(21), 5)
    with structlog.testing.capture_logs() as lines:
        async with running(journal, commits=commits):
            await trio.sleep(10)
    assert {line["code"] for line in logged(lines, "projection.failed")} == {"projection.ahead_of_log"}
    assert commits.events == 10


async def test_the_story_of_a_normal_life_is_told_once_a_step(autojump_clock: MockClock) -> None:
    journal, commits = staged_journal(), Commits()
    with structlog.testing.capture_logs() as lines:
        async with running(journal, commits=commits):
            for number in range(1, 50):
                await store(journal, Random(22), 1)
                await commits.reach(number)
    events = [line["event"] for line in lines]
    assert events == ["projection.started", "projection.caught_up", "projection.stopped"]
    assert {(line["projection"], line["slices"]) for line in lines} == {("tally", "0-1023")}


async def test_a_slice_that_holds_a_range_back_is_named(autojump_clock: MockClock) -> None:
    journal = staged_journal(commit_s=0.5)
    await journal.log.append_group([LocalAppend(new_events(["Pump|hot"] * 2_000, ["ran"] * 2_000, [b""] * 2_000))])
    settings = replace(SMALL_PAGES, summary_s=60.0)
    with structlog.testing.capture_logs() as lines:
        async with running(journal, settings=settings):
            await trio.sleep(130)
    [first, *_] = logged(lines, "projection.hot_slice")
    assert (first["slice"], first["persistence_id"]) == (slice_of("Pump|hot"), "Pump|hot")
    assert first["events"] == first["of_events"] == first["entity_events"] >= 1_000
    assert first["lag_s"] >= 60
