"""Ranges of a projection, split and merged on every storage, at rest and while they run: nothing lost, nothing twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import structlog
import trio

from common.core.errors import BackhaulError
from common.core.events.ids import ALL_SLICES, SliceRange, slice_ranges
from common.core.journal.slice_ranges import Ahead
from common.core.journal.statement import Statement
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease
from common.projection.progress import ProjectionSettings
from tests.contract.journals import Storage
from tests.support.ledgers import Ledger, decode, fold
from tests.support.projections import Commits, log_of, logged, running, store, until

QUICK = ProjectionSettings(page_max_events=7, standby_poll_s=0.02, poll_s=0.02, backoff_min_s=0.01, backoff_max_s=0.05)
LOW, HIGH = slice_ranges(2)


async def take(journal: Journal, slices: SliceRange, owner: str = "node") -> ProjectionLease:
    lease = await journal.projections.acquire("tally", slices, owner, 60)
    assert lease is not None
    return lease


class TestOffsets:
    """What the store does with offsets when ranges change."""

    async def test_declared_ranges_are_made_once_for_all_nodes(self, journal: Journal) -> None:
        assert await journal.projections.declare("tally", slice_ranges(2)) == [LOW, HIGH]
        assert await journal.projections.declare("tally", slice_ranges(4)) == [LOW, HIGH]
        assert [(row.slices, row.position) for row in await journal.projections.rows()] == [(LOW, 0), (HIGH, 0)]

    async def test_ranges_that_are_missing_are_made(self, journal: Journal) -> None:
        await take(journal, slice_ranges(4)[1])
        assert await journal.projections.declare("tally", [ALL_SLICES]) == [
            SliceRange(0, 255), SliceRange(256, 511), SliceRange(512, 1023),
        ]  # fmt: skip

    async def test_a_split_keeps_the_offset_and_takes_the_range_from_its_owner(self, journal: Journal) -> None:
        old = await journal.projections.commit(await take(journal, ALL_SLICES), 9, [], 60)
        await journal.projections.reshape("tally", slice_ranges(4))
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.commit(old, 10, [], 60)
        assert refused.value.code == "projection.fenced"
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.acquire("tally", ALL_SLICES, "node", 60)
        assert refused.value.code == "projection.ranges_changed"
        for slices in slice_ranges(4):
            lease = await take(journal, slices, "other")
            assert (lease.position, lease.ahead) == (9, ())
            assert lease.epoch > old.epoch

    async def test_a_range_that_stays_as_it_is_keeps_its_owner(self, journal: Journal) -> None:
        await journal.projections.declare("tally", [LOW, HIGH])
        stays, goes = await take(journal, LOW), await take(journal, HIGH)
        await journal.projections.reshape("tally", [LOW, SliceRange(512, 700), SliceRange(701, 1023)])
        assert (await journal.projections.commit(stays, 1, [], 60)).position == 1
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.commit(goes, 1, [], 60)
        assert refused.value.code == "projection.fenced"
        assert await journal.projections.acquire("tally", LOW, "another", 60) is None

    async def test_a_merge_begins_at_the_last_one_and_knows_what_the_others_have(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await journal.projections.declare("tally", slice_ranges(4))
            for slices, position in zip(slice_ranges(4), (5, 9, 9, 7), strict=True):
                await journal.projections.commit(await take(journal, slices), position, [], 60)
            await journal.projections.reshape("tally", [ALL_SLICES])
            ahead = (Ahead(SliceRange(256, 767), 9), Ahead(SliceRange(768, 1023), 7))
            lease = await take(journal, ALL_SLICES)
            assert (lease.position, lease.ahead) == (5, ahead)
            lease = await journal.projections.commit(lease, 7, [], 60)
            assert lease.ahead == ahead[:1]
        async with storage.open() as journal:
            assert [(row.position, row.ahead) for row in await journal.projections.rows()] == [(7, ahead[:1])]
            lease = await journal.projections.commit(await take(journal, ALL_SLICES), 9, [], 60)
            assert lease.ahead == ()
            assert [row.ahead for row in await journal.projections.rows()] == [()]

    async def test_a_split_of_what_was_merged_before_it_was_level_loses_nothing(self, journal: Journal) -> None:
        await journal.projections.declare("tally", [LOW, HIGH])
        await journal.projections.commit(await take(journal, HIGH), 8, [], 60)
        await journal.projections.reshape("tally", [ALL_SLICES])
        await journal.projections.reshape("tally", [LOW, HIGH])
        assert [(row.slices, row.position, row.ahead) for row in await journal.projections.rows()] == [
            (LOW, 0, ()),
            (HIGH, 8, ()),
        ]

    async def test_a_pause_outlives_a_change_of_ranges(self, journal: Journal) -> None:
        await journal.projections.declare("tally", [ALL_SLICES])
        await journal.projections.set_paused("tally", True)
        await journal.projections.reshape("tally", [LOW, HIGH])
        assert [row.paused for row in await journal.projections.rows()] == [True, True]
        assert await journal.projections.acquire("tally", LOW, "node", 60) is None

    async def test_wrong_ranges_change_nothing(self, journal: Journal) -> None:
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.reshape("tally", [ALL_SLICES])
        assert refused.value.code == "projection.unknown"
        lease = await take(journal, ALL_SLICES)
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.reshape("tally", [LOW])
        assert refused.value.code == "projection.other_slices"
        assert (await journal.projections.commit(lease, 1, [], 60)).position == 1


class TestDecisions:
    """Reset and forget: statements and offsets together."""

    async def test_a_restart_empties_and_goes_back_in_one_step(self, journal: Journal) -> None:
        await journal.projections.migrate("tally", [["CREATE TABLE tally (n BIGINT)"]])
        await journal.projections.declare("tally", [LOW, HIGH])
        insert = Statement("INSERT INTO tally VALUES (1)")
        old = await journal.projections.commit(await take(journal, LOW), 5, [insert], 60)
        with pytest.raises(BackhaulError):
            await journal.projections.intervene("tally", [Statement("DELETE FROM nowhere")], restart=True)
        assert [row.position for row in await journal.projections.rows()] == [5, 0]
        assert await journal.projections.intervene("tally", [Statement("DELETE FROM tally")], restart=True) == 2
        assert await journal.projections.query("SELECT n FROM tally") == []
        assert [(row.position, row.owner) for row in await journal.projections.rows()] == [(0, ""), (0, "")]
        with pytest.raises(BackhaulError):
            await journal.projections.commit(old, 6, [insert], 60)
        assert (await take(journal, LOW)).position == 0

    async def test_only_a_paused_one_is_moved_and_its_owner_commits_no_more(self, journal: Journal) -> None:
        assert await journal.projections.move("tally", 3) == 0
        await journal.projections.declare("tally", [LOW, HIGH])
        lease = await journal.projections.commit(await take(journal, LOW), 5, [], 60)
        with pytest.raises(BackhaulError, match=r"projection\.not_paused"):
            await journal.projections.move("tally", 3)
        await journal.projections.set_paused("tally", True)
        assert await journal.projections.move("tally", 3) == 2
        with pytest.raises(BackhaulError, match=r"projection\.fenced"):
            await journal.projections.commit(lease, 6, [], 60)
        await journal.projections.set_paused("tally", False)
        assert [row.position for row in await journal.projections.rows()] == [3, 3]
        moved = await take(journal, LOW)
        assert (moved.position, (await journal.projections.commit(moved, 4, [], 60)).position) == (3, 4)

    async def test_what_runs_is_not_forgotten(self, journal: Journal) -> None:
        assert await journal.projections.forget("tally", []) == 0
        lease = await take(journal, ALL_SLICES)
        with pytest.raises(BackhaulError) as refused:
            await journal.projections.forget("tally", [])
        assert refused.value.code == "projection.in_use"
        await journal.projections.release(lease)
        assert await journal.projections.forget("tally", []) == 1
        assert await journal.projections.rows() == []


@pytest.mark.parametrize("form", ["statements", "in_transaction"])
async def test_one_to_four_to_two_ranges_while_running_lose_and_repeat_nothing(journal: Journal, form: str) -> None:
    ledger, commits, random = Ledger(form), Commits(), Random(1)
    is_over = False

    async def append() -> None:
        while not is_over:
            await store(journal, random, 12, entities=40)
            await trio.sleep(0.005)

    async with (
        running(journal, ledger.handler, settings=QUICK, commits=commits, decode=decode, in_threads=True) as progress,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(append)
        for count in (4, 2, 8, 1, 4, 2):
            goal = commits.events + 40
            await until(lambda goal=goal: commits.events >= goal)  # type: ignore[misc]
            await journal.projections.reshape(ledger.name, slice_ranges(count))
            ranges = slice_ranges(count)
            await until(lambda ranges=ranges: [one.slices for one in progress] == ranges)  # type: ignore[misc]
        is_over = True
        nursery.cancel_scope.cancel()
    head = (await journal.log.stats()).head_position
    async with running(journal, ledger.handler, settings=QUICK, decode=decode, in_threads=True) as progress:
        await until(lambda: all(one.position >= head for one in progress))
    assert await ledger.accounts(journal) == fold(await log_of(journal))


async def test_a_change_of_ranges_restarts_only_those_that_changed(journal: Journal) -> None:
    four = slice_ranges(4)
    three = [SliceRange(0, 511), *four[2:]]
    random, commits, ledger = Random(3), Commits(), Ledger("statements")
    with structlog.testing.capture_logs() as lines:
        async with running(
            journal, ledger.handler, settings=replace(QUICK, ranges=4), commits=commits, decode=decode, in_threads=True
        ) as progress:
            await store(journal, random, 100, entities=80)
            await commits.reach(100)
            kept = [one for one in progress if one.slices in three]
            await journal.projections.reshape(ledger.name, three)
            await until(lambda: [one.slices for one in progress] == three)
            await store(journal, random, 100, entities=80)
            await commits.reach(200)
            assert progress[1:] == kept
            assert [one.slices for one in progress] == three
    started = Counter(line["slices"] for line in logged(lines, "projection.started"))
    assert started == dict.fromkeys(map(str, [*four, three[0]]), 1)
    assert await ledger.accounts(journal) == fold(await log_of(journal))


async def test_two_nodes_go_on_with_the_ranges_that_one_of_them_was_told(storage: Storage) -> None:
    if not storage.shared:
        return
    async with storage.open() as first, storage.open() as second:
        ledger, commits, random = Ledger("statements"), Commits(), Random(2)
        async with (
            running(first, ledger.handler, owner="one", settings=QUICK, commits=commits, in_threads=True) as here,
            running(second, ledger.handler, owner="two", settings=QUICK, commits=commits, in_threads=True) as there,
        ):
            total = 0
            for count in (4, 2, 1):
                await store(first, random, 100, entities=40)
                total += 100
                await first.projections.reshape(ledger.name, slice_ranges(count))
                with trio.fail_after(20):
                    await commits.reach(total)
                await until(lambda count=count: len(here) == len(there) == count)  # type: ignore[misc]
        assert await ledger.accounts(first) == fold(await log_of(first))
