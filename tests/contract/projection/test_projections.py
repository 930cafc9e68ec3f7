"""The built-in projections, run over every storage as a service runs them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import structlog
import trio

from common.core.errors import BackhaulError
from common.core.events.batch import UNIT_SEPARATOR, Envelope, new_events
from common.core.events.ids import ALL_SLICES, slice_ranges
from common.core.journal.append import LocalAppend
from common.journal.stores.journal import Journal
from common.projection.latest import LATEST, latest_of
from common.projection.progress import ProjectionSettings, ProjectionState
from common.projection.status import projection_status
from common.projection.tally import TALLY, all_tallies, fold_all, tally_of, tally_statements
from tests.contract.journals import Storage
from tests.support.projections import (
    SMALL_PAGES,
    Commits,
    Mendable,
    clock_us,
    expected_tallies,
    log_of,
    logged,
    running,
    store,
)


async def last_events(journal: Journal) -> dict[str, Envelope]:
    """What ``latest`` must say of the whole log."""
    return {event.persistence_id: event for event in (await log_of(journal)).envelopes()}


async def check_tables(journal: Journal) -> None:
    """Both tables say what the log says."""
    assert await all_tallies(journal.projections) == await expected_tallies(journal)
    for persistence_id, event in (await last_events(journal)).items():
        entity_type, _, entity_id = persistence_id.partition("|")
        assert await latest_of(journal.projections, entity_type, entity_id) == event


async def test_a_backlog_and_what_follows_it_take_effect_once(journal: Journal) -> None:
    commits, random = Commits(), Random(1)
    await store(journal, random, 505)
    settings = ProjectionSettings(ranges=2, page_max_events=50)
    async with running(journal, TALLY, LATEST, settings=settings, commits=commits):
        for _ in range(20):
            await store(journal, random, random.randrange(1, 20))
        await commits.reach(2 * len(await log_of(journal)))
    await check_tables(journal)
    assert sum(tally.out_of_order for tally in (await all_tallies(journal.projections)).values()) == 0


async def test_latest_returns_an_event_as_it_was_stored(journal: Journal) -> None:
    payload = bytes(range(256))
    entity_id = "日本 😀 'quoted'"
    event = new_events(
        [f"Sensor|{entity_id}"] * 2,
        ["Measured", "Moved"],
        [b"", payload],
        codec=["json", "raw"],
        event_time_us=[5, 6],
        tags=["", f"hot{UNIT_SEPARATOR}t:hall/7"],
        metadata=["", f"key{UNIT_SEPARATOR}value"],
    )
    await journal.log.append_group([LocalAppend(event)])
    commits = Commits()
    async with running(journal, LATEST, commits=commits):
        await commits.reach(2)
    latest = await latest_of(journal.projections, "Sensor", entity_id)
    assert latest == (await log_of(journal)).envelope(1)
    assert latest is not None
    assert (latest.seq_nr, latest.payload, latest.tags) == (2, payload, ("hot", "t:hall/7"))
    assert await latest_of(journal.projections, "Sensor", "unknown") is None
    with pytest.raises(BackhaulError) as refused:
        await latest_of(journal.projections, "Sensor", "a|b")
    assert refused.value.code == "entity.invalid_name"


async def test_checksums_wrap_around_alike_in_every_database(journal: Journal) -> None:
    # Pages of one event: each sum is the database's own. About one in two additions passes the largest checksum.
    commits = Commits()
    await store(journal, Random(2), 40, entities=1)
    async with running(journal, settings=ProjectionSettings(page_max_events=1), commits=commits):
        await commits.reach(40)
    [(persistence_id, expected)] = (await expected_tallies(journal)).items()
    assert await tally_of(journal.projections, persistence_id) == expected
    assert await tally_of(journal.projections, "Sensor|unknown") is None


async def test_the_table_joins_pages_as_a_fold_does(journal: Journal) -> None:
    # Committed by hand, so that pages can repeat events, leave some out and go back.
    random = Random(7)
    await store(journal, random, 60, entities=3)
    log = await log_of(journal)
    starts = [random.randrange(55) for _ in range(20)]
    pages = [log.slice(start, start + random.randrange(1, 6)) for start in starts]
    await journal.projections.migrate(TALLY.name, TALLY.migrations)
    lease = await journal.projections.acquire(TALLY.name, ALL_SLICES, "test", 60)
    assert lease is not None
    for position, page in enumerate(pages, start=1):
        lease = await journal.projections.commit(lease, position, tally_statements(page), 60)
    assert await all_tallies(journal.projections) == fold_all(pages)
    assert sum(tally.out_of_order for tally in fold_all(pages).values()) > 20


async def test_a_hundred_cancels_at_random_points_change_nothing_and_leave_nothing_behind(
    journal: Journal, storage_name: str
) -> None:
    random = Random(3)
    for number in range(100):
        await store(journal, random, 25)
        commits = Commits()
        async with running(journal, TALLY, LATEST, owner=f"start-{number}", settings=SMALL_PAGES, commits=commits):
            await commits.reach(random.choice((0, 0, 1, 11, 30)))
            await trio.sleep(random.random() * 0.01)
        assert [row.owner for row in await journal.projections.rows() if row.owner] == []
        if storage_name == "postgres":
            open_transactions = "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
            assert await journal.projections.query(open_transactions) == []
    positions = [row.position for row in await journal.projections.rows()]
    commits = Commits()
    async with running(journal, TALLY, LATEST, commits=commits):
        await commits.reach(2 * 2500 - sum(positions))
    await check_tables(journal)


async def test_a_second_node_takes_over_and_the_first_one_writes_nothing_more(storage: Storage) -> None:
    settings = ProjectionSettings(lease_s=0.5, poll_s=0.05, standby_poll_s=0.1, page_max_events=10)
    async with storage.open() as first:
        await store(first, Random(4), 100)
        await first.projections.migrate(TALLY.name, TALLY.migrations)
        stale = await first.projections.acquire(TALLY.name, ALL_SLICES, "stopped", 0.2)
        assert stale is not None
        commits = Commits()
        async with running(first, owner="heir", settings=settings, commits=commits) as [progress]:
            with trio.move_on_after(0.1):
                await commits.reach(1)
            assert (commits.events, progress.state) == (0, ProjectionState.WAITING)
            await storage.pass_time(0.3)
            await commits.reach(100)
            page = await first.log.read(0, max_events=10, max_bytes=1 << 20)
            with pytest.raises(BackhaulError) as refused:
                await first.projections.commit(stale, page.through, tally_statements(page.events), 1)
            assert refused.value.code == "projection.fenced"
        assert await all_tallies(first.projections) == await expected_tallies(first)


async def test_a_statement_the_database_refuses_stops_only_its_projection(journal: Journal) -> None:
    commits = Commits()
    await store(journal, Random(5), 100)
    poison = (await log_of(journal)).envelope(60)
    mendable = Mendable(poison.persistence_id, poison.seq_nr, bad_sql=True)
    settings = ProjectionSettings(backoff_min_s=0.01, backoff_max_s=0.05)
    with structlog.testing.capture_logs() as lines:
        async with running(journal, mendable.handler, LATEST, settings=settings, commits=commits):
            await commits.reach(160)
            await mendable.was_met_alone.wait()
            [latest, stopped] = await projection_status(journal, clock_us)
            assert (latest.lag.events, stopped.row.position, stopped.lag.events) == (0, poison.position - 1, 40)
            mendable.is_mended = True
            await commits.reach(200)
    failures = logged(lines, "projection.failed")
    assert {line["code"] for line in failures} == {"projection.statement_failed"}
    assert failures[-1]["details"]["seq_nr"] == poison.seq_nr
    await check_tables(journal)


async def test_pausing_stops_a_running_projection_until_it_is_resumed(journal: Journal) -> None:
    commits = Commits()
    settings = ProjectionSettings(standby_poll_s=0.05)
    async with running(journal, settings=settings, commits=commits) as [progress]:
        await store(journal, Random(6), 10)
        await commits.reach(10)
        await journal.projections.set_paused("tally", True)
        await store(journal, Random(6), 10)
        with trio.move_on_after(0.3):
            await commits.reach(11)
        assert (commits.events, progress.state) == (10, ProjectionState.PAUSED)
        await journal.projections.set_paused("tally", False)
        await commits.reach(20)
    assert await all_tallies(journal.projections) == await expected_tallies(journal)


async def test_ranges_that_cut_across_stored_ones_are_refused(journal: Journal) -> None:
    first = slice_ranges(2)[0]
    assert await journal.projections.acquire("tally", first, "node-a", 10) is not None
    for slices in (ALL_SLICES, slice_ranges(4)[1]):
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.acquire("tally", slices, "node-a", 10)
        assert refused.value.code == "projection.ranges_changed"
    assert [row.slices for row in await journal.projections.rows()] == [first]
    assert await journal.projections.acquire("latest", ALL_SLICES, "node-a", 10) is not None
    assert await journal.projections.acquire("tally", slice_ranges(2)[1], "node-a", 10) is not None


async def test_of_two_nodes_with_different_ranges_one_is_refused(storage: Storage) -> None:
    outcomes: list[str] = []

    async def acquire(journal: Journal, count: int) -> None:
        for slices in slice_ranges(count):
            try:
                await journal.projections.acquire("tally", slices, f"node-{count}", 10)
                outcomes.append(f"{count} ranges")
            except BackhaulError as error:
                outcomes.append(error.code)

    async with storage.open() as journal:
        if storage.shared:
            async with storage.open() as other, trio.open_nursery() as nursery:
                nursery.start_soon(acquire, journal, 1)
                nursery.start_soon(acquire, other, 2)
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(acquire, journal, 1)
                nursery.start_soon(acquire, journal, 2)
        counts = {"1 ranges": 1, "2 ranges": 2}
        [count] = {counts[outcome] for outcome in outcomes if outcome in counts}
        assert [row.slices for row in await journal.projections.rows()] == slice_ranges(count)


async def test_a_handler_of_few_events_reads_those_only_and_of_many_the_log_as_it_is(journal: Journal) -> None:
    async def add(*names: str) -> None:
        await journal.log.append_group(
            [LocalAppend(new_events([*names], ["Measured"] * len(names), [b""] * len(names)))]
        )

    await add(*(f"{'Common' if n % 50 else 'Rare'}|{n % 7}" for n in range(2_000)))
    await add(*(f"Rare|{n % 7}" for n in range(1_000)))
    before, commits = journal.log.read_counts.copy(), Commits()
    handler = replace(TALLY, entity_types=frozenset({"Rare"}))
    settings = ProjectionSettings(page_max_events=100)
    async with running(journal, handler, settings=settings, commits=commits, block_events=100):
        await commits.reach(1_040)
    read_counts = journal.log.read_counts - before  # as it is, it would be 30 blocks
    assert 0 < read_counts["selected"] < 10
    assert 5 < read_counts["log"] < 20
    log = await log_of(journal)
    rare = log.select([index for index, name in enumerate(log.persistence_id) if name.startswith("Rare|")])
    assert await all_tallies(journal.projections) == fold_all([rare])
