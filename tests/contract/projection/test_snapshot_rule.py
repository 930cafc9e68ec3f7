"""The built-in rule that takes every N-th event as its entity's snapshot, on every storage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import trio

from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.projection.progress import ProjectionSettings
from common.projection.snapshot_rule import SNAPSHOT_RULE, run_snapshot_rule
from tests.contract.journals import Storage
from tests.support.builders import local

SETTINGS = ProjectionSettings(poll_s=0.02, standby_poll_s=0.02, page_max_events=4, backoff_min_s=0.01)


@asynccontextmanager
async def ruled(journal: Journal, owner: str = "node-1", **every: int) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        run = partial(run_snapshot_rule, journal, every, owner=owner, settings=SETTINGS, random=Random(1))
        nursery.start_soon(run)
        yield
        nursery.cancel_scope.cancel()


async def until_snapshot(journal: Journal, persistence_id: str, seq_nr: int) -> bytes:
    while True:
        found = await journal.snapshots.get(persistence_id)
        if found is not None and found.seq_nr == seq_nr:
            return found.payload
        await trio.sleep(0.01)


class TestTheRule:
    """The N-th, 2N-th … event of an entity of a named type, whole, soon after it was stored."""

    async def test_every_nth_event_is_taken_as_it_is(self, journal: Journal) -> None:
        await journal.log.append_group([local(*["Order|1", "Site|1"] * 7, payload=b"p")])
        async with ruled(journal, Order=3):
            assert await until_snapshot(journal, "Order|1", 6) == b"p10"
            await journal.log.append_group([local("Order|1", "Order|1", payload=b"q")])
            assert await until_snapshot(journal, "Order|1", 9) == b"q1"
        assert await journal.snapshots.get("Site|1") is None
        [row] = await journal.projections.rows()
        assert (row.name, row.position, row.owner) == (SNAPSHOT_RULE, 16, "")

    async def test_a_second_node_takes_over_what_the_first_left(self, storage: Storage) -> None:
        async with storage.open() as journal:
            await journal.log.append_group([local(*["Order|1"] * 5)])
            async with ruled(journal, Order=2):
                await until_snapshot(journal, "Order|1", 4)
        async with storage.open() as journal:
            await journal.log.append_group([local("Order|1")])
            async with ruled(journal, "node-2", Order=2):
                await until_snapshot(journal, "Order|1", 6)

    async def test_it_rests_while_it_is_paused(self, journal: Journal) -> None:
        async with ruled(journal, Order=1):
            await journal.log.append_group([local("Order|1")])
            await until_snapshot(journal, "Order|1", 1)
            assert await journal.projections.set_paused(SNAPSHOT_RULE, True) == 1
            await journal.log.append_group([local("Order|1")])
            await journal.projections.set_paused(SNAPSHOT_RULE, False)
            await until_snapshot(journal, "Order|1", 2)

    async def test_it_goes_on_behind_deleted_events_and_with_them_its_snapshots_make_more_deletable(
        self, journal: Journal
    ) -> None:
        await journal.log.append_group([local(*["Order|1"] * 5)])
        limit = TrimLimit(100, 100, covered_types=frozenset({"Order"}))
        assert await journal.log.trim(limit) == 0
        async with ruled(journal, Order=2):
            await until_snapshot(journal, "Order|1", 4)
        assert await journal.log.trim(limit) == 4
        await journal.log.append_group([local("Order|1")])
        async with ruled(journal, Order=2):
            await until_snapshot(journal, "Order|1", 6)
        assert await journal.log.trim(limit) == 2
