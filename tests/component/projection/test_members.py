"""Ranges spread over nodes: who joins gets a share, who leaves or dies loses it in time, and nothing takes effect twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random

import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from common.core.events.ids import slice_ranges
from common.journal.memory import members as memory_members
from common.journal.memory.state import MemoryDatabase
from common.projection.latest import LATEST
from common.projection.tally import TALLY, all_tallies
from tests.support.members import Node, node
from tests.support.projections import expected_tallies, staged_journal, store

BOTH = (TALLY, LATEST)


async def until(condition: Callable[[], Awaitable[bool]], at_most_s: float) -> float:
    """Wait for it by the mock clock; returns the seconds that took."""
    began_s = trio.current_time()
    with trio.fail_after(at_most_s):
        while not await condition():  # noqa: ASYNC110  mock time
            await trio.sleep(0.05)
    return trio.current_time() - began_s


def shares(*nodes: Node, of: tuple[int, ...]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        rows = await nodes[0].journal.projections.rows()
        counts = sorted(sum(row.owner == one.instance for row in rows) for one in nodes)
        return counts == sorted(of) and not any(row.is_directed for row in rows)

    return holds


async def is_tallied(one: Node) -> bool:
    return await all_tallies(one.journal.projections) == await expected_tallies(one.journal)


async def test_a_node_that_joins_gets_its_share_and_each_takes_effect_once(autojump_clock: MockClock) -> None:
    database, random = MemoryDatabase(), Random(1)
    first_journal, second_journal = staged_journal(database), staged_journal(database)
    async with node(first_journal, "n1", handlers=BOTH) as first:
        await until(shares(first, of=(16,)), 5)
        await store(first_journal, random, 200)
        async with node(second_journal, "n2", handlers=BOTH) as second:
            took_s = await until(shares(first, second, of=(8, 8)), 5)
            assert took_s < 2
            for _ in range(20):
                await store(first_journal, random, 20)
                await trio.sleep(0.1)
            await until(lambda: is_tallied(first), 10)
            rows = await first_journal.projections.rows()
            held = {(row.name, row.slices): row.owner for row in rows}
            assert all(held["tally", row.slices] == held["latest", row.slices] for row in rows)
            assert first.commits.events + second.commits.events == 2 * 600
            assert second.commits.events > 0


async def test_a_node_gets_no_range_of_a_projection_whose_tables_it_has_not_seen_yet(autojump_clock: MockClock) -> None:
    database = MemoryDatabase()
    first_journal, second_journal = staged_journal(database), staged_journal(database)
    migrate, may_go_on = second_journal.projections.migrate, trio.Event()

    async def waiting(name: str, steps: Sequence[Sequence[str]]) -> None:
        if name == LATEST.name:
            await may_go_on.wait()
        await migrate(name, steps)

    second_journal.projections.migrate = waiting  # type: ignore[method-assign]
    async with node(first_journal, "n1", handlers=BOTH) as first:
        await until(shares(first, of=(16,)), 5)
        async with node(second_journal, "n2", handlers=BOTH) as second:
            await trio.sleep(10)
            assert not any(
                row.owner == second.instance
                for row in await first_journal.projections.rows()
                if row.name == LATEST.name
            )
            may_go_on.set()
            await until(shares(first, second, of=(8, 8)), 5)


async def test_a_killed_node_is_replaced_before_its_lease_lapses(autojump_clock: MockClock) -> None:
    database, random = MemoryDatabase(), Random(2)
    first_journal, second_journal = staged_journal(database), staged_journal(database)
    async with node(second_journal, "n2") as second:
        async with node(first_journal, "n1") as first:
            await until(shares(first, second, of=(4, 4)), 5)
            # Killed: the process gives nothing back, and its sessions close.
            first_journal.stage.is_cut_off = True
            memory_members.disconnect(first_journal.members._connections)  # type: ignore[attr-defined]
            first.work.cancel()
        took_s = await until(shares(second, of=(8,)), 10)
        assert took_s < 2.5
        await store(second_journal, random, 100)
        await until(lambda: is_tallied(second), 10)


async def test_a_stopped_node_is_replaced_after_its_lease_and_commits_nothing_when_it_goes_on(
    autojump_clock: MockClock,
) -> None:
    database, random = MemoryDatabase(), Random(3)
    first_journal, second_journal = staged_journal(database), staged_journal(database)
    async with node(second_journal, "n2") as second:
        async with node(first_journal, "n1") as first:
            await until(shares(first, second, of=(4, 4)), 5)
            first_journal.stage.is_cut_off = True  # its lock stays: the process is only stopped
            first.work.cancel()
        took_s = await until(shares(second, of=(8,)), 10)
        assert 2 < took_s < 5
        await store(second_journal, random, 100)
        await until(lambda: is_tallied(second), 10)


async def test_a_node_that_leaves_hands_everything_over_at_once(autojump_clock: MockClock) -> None:
    database, random = MemoryDatabase(), Random(4)
    first_journal, second_journal = staged_journal(database), staged_journal(database)
    async with node(second_journal, "n2", handlers=BOTH) as second:
        async with node(first_journal, "n1", handlers=BOTH) as first:
            await until(shares(first, second, of=(8, 8)), 5)

            async def is_prepared() -> bool:
                """The second node is a candidate for both projections, also in the eyes of the first."""
                return (
                    all(len(one.report.runs) == 2 for one in first.membership.live) and len(first.membership.live) == 2
                )

            await until(is_prepared, 5)
            await store(first_journal, random, 100)
            await first.assignment.leave()
            assert await second.ranges() == 16
            took_s = await until(shares(second, of=(16,)), 5)
            assert took_s < 0.3
        assert [one.instance for one in (await second_journal.members.look()).members] == ["n2/1"]
        await store(second_journal, random, 100)
        await until(lambda: is_tallied(second), 10)


async def test_a_commit_that_is_under_way_while_its_node_leaves_is_refused_and_is_no_warning(
    autojump_clock: MockClock,
) -> None:
    database, random = MemoryDatabase(), Random(4)
    first_journal, second_journal = staged_journal(database), staged_journal(database)
    with capture_logs() as lines:
        async with node(second_journal, "n2") as second, node(first_journal, "n1") as first:
            await until(shares(first, second, of=(4, 4)), 5)
            await first.assignment.leave()
            await store(first_journal, random, 100)  # its ranges run on until they are cancelled
            await until(lambda: is_tallied(second), 10)
    assert [line for line in lines if line["event"] == "projection.fenced"] == []


async def test_a_drained_node_gives_its_ranges_away_and_gets_them_back(autojump_clock: MockClock) -> None:
    database = MemoryDatabase()
    first_journal, second_journal = staged_journal(database), staged_journal(database)
    async with node(first_journal, "n1") as first, node(second_journal, "n2") as second:
        await until(shares(first, second, of=(4, 4)), 5)
        await first_journal.members.set_drained("n2", True)
        await until(shares(first, second, of=(8, 0)), 5)
        await first_journal.members.set_drained("n2", False)
        await until(shares(first, second, of=(4, 4)), 5)


async def test_a_range_stays_where_it_has_moved_to_for_its_minimum_stay(autojump_clock: MockClock) -> None:
    database = MemoryDatabase()
    first_journal, second_journal = staged_journal(database), staged_journal(database)
    async with node(first_journal, "n1", stay_s=30) as first:
        await until(shares(first, of=(8,)), 5)
        async with node(second_journal, "n2", stay_s=30) as second:
            await until(shares(first, second, of=(4, 4)), 5)
            await first_journal.members.set_drained("n2", True)
            await trio.sleep(20)
            assert await second.ranges() == 4
            await until(shares(first, second, of=(8, 0)), 20)


async def test_an_operators_pause_and_new_ranges_reach_ranges_that_are_idle(autojump_clock: MockClock) -> None:
    database, random = MemoryDatabase(), Random(5)
    first_journal, second_journal = staged_journal(database), staged_journal(database)
    async with node(first_journal, "n1", ranges=2) as first, node(second_journal, "n2", ranges=2) as second:
        await until(shares(first, second, of=(1, 1)), 5)
        await first_journal.projections.set_paused("tally", True)
        await store(first_journal, random, 50)
        await trio.sleep(10)
        assert first.commits.events + second.commits.events == 0
        await first_journal.projections.set_paused("tally", False)
        await until(lambda: is_tallied(first), 5)
        await first_journal.projections.reshape("tally", slice_ranges(4))
        await until(shares(first, second, of=(2, 2)), 10)
        await store(first_journal, random, 50)
        await until(lambda: is_tallied(first), 5)
        assert first.commits.events + second.commits.events == 100


async def test_idle_ranges_cost_a_node_nothing(autojump_clock: MockClock) -> None:
    """Renewals are of members, and rows are read when something has changed, and now and then."""
    journal = staged_journal()
    async with node(journal, "n1", ranges=64) as only:
        await until(shares(only, of=(64,)), 10)
        commits = list(journal.stage.commits)
        reads = 0
        rows = journal.projections.rows

        async def counted() -> object:
            nonlocal reads
            reads += 1
            return await rows()

        journal.projections.rows = counted  # type: ignore[method-assign,assignment]
        await trio.sleep(60)
        assert journal.stage.commits == commits
        assert reads <= 14
