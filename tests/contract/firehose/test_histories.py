"""Histories of single entities over every storage: read once for many, and never less than the log has up to a place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any, TypeVar, cast

import pytest
import trio

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.filters.predicates import EVERY_ENTITY
from common.core.journal.history import Generation, History
from common.core.journal.snapshot import NewSnapshot
from common.firehose.firehose import Firehose
from common.firehose.settings import FirehoseSettings
from common.journal.entity_history import TO_THE_LAST, HistoryRequest, read_history
from common.journal.feeds import SubscriberTier
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogStore, TrimLimit
from tests.contract.journals import Storage
from tests.support.builders import appended, local
from tests.support.firehose import ALL, NEXT, SMALL, running

LARGE = replace(SMALL, ring_max_events=1_000)
A = HistoryRequest("S|a", 1, TO_THE_LAST, 100, wants_snapshot=True, wants_tag_sets=False)
B = replace(A, persistence_id="S|b")
T = TypeVar("T")


class Counted:
    """A log whose reads of entities are counted, take a moment, and may fail; ``together`` are those of several."""

    history: History

    def __init__(self, journal: Journal) -> None:
        self._log = journal.log
        self.journal = replace(journal, log=cast(LogStore, self))
        self.reads = self.together = 0
        self.may_go_on = trio.Event()
        self.may_go_on.set()
        self.fails: BackhaulError | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (what the log has)
        return getattr(self._log, name)

    async def read_entity(self, *args: Any, **more: Any) -> EventBatch:  # noqa: ANN401
        return await self._counted(self._log.read_entity(*args, **more))

    async def read_histories(self, *args: Any, **more: Any) -> dict[str, EventBatch]:  # noqa: ANN401
        self.together += 1
        return await self._counted(self._log.read_histories(*args, **more))

    async def _counted(self, read: Awaitable[T]) -> T:
        self.reads += 1
        found = await read
        await self.may_go_on.wait()
        if self.fails is not None:
            raise self.fails
        return found

    async def until_read(self, reads: int = 1) -> None:
        """Wait until so many have begun."""
        with trio.fail_after(10):
            while self.reads < reads:  # noqa: ASYNC110  a read raises no event
                await trio.sleep(0.001)


@asynccontextmanager
async def followed(counted: Counted, settings: FirehoseSettings = LARGE) -> AsyncIterator[Firehose]:
    """A firehose whose ring is at the end of the log."""
    async with running(counted.journal, settings) as firehose:
        with firehose.subscribe("other", EVERY_ENTITY, ALL, 0) as feed:
            while feed.standing is not SubscriberTier.TAIL:
                await feed.next(**NEXT, at_most_s=0.01)
            yield firehose


async def _until_in_ring(firehose: Firehose, position: int) -> None:
    with trio.fail_after(10):
        while firehose.ring.through < position:  # noqa: ASYNC110  the ring tells its subscribers only
            await trio.sleep(0.01)


async def test_consumers_that_ask_at_once_or_soon_after_share_one_read(storage: Storage, journal: Journal) -> None:
    await appended(journal, local(*["S|a"] * 5))
    counted = Counted(journal)
    async with followed(counted) as firehose:
        found = []
        counted.may_go_on = trio.Event()

        async def ask() -> None:
            found.append(await firehose.history(A, 5))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
            await trio.sleep(0.02)
            counted.may_go_on.set()
        await ask()
        assert counted.reads == 1
        assert [history.events.seq_nr for history in found] == [[1, 2, 3, 4, 5]] * 21
        report = firehose.report()
        assert (report.history_reads, report.shared_histories) == (1, 20)


async def test_events_of_others_cost_no_read_and_a_newer_one_of_its_own_does(
    storage: Storage, journal: Journal
) -> None:
    await appended(journal, local("S|a", "S|b"))
    counted = Counted(journal)
    async with followed(counted) as firehose:
        await firehose.history(A, 2)
        await appended(journal, local("S|b", "S|b"))
        await _until_in_ring(firehose, 4)
        assert (await firehose.history(A, 4)).events.seq_nr == [1]
        assert counted.reads == 1
        await appended(journal, local("S|a"))
        await _until_in_ring(firehose, 5)
        assert (await firehose.history(A, 5)).events.seq_nr == [1, 2]
        assert counted.reads == 2


async def test_a_consumer_that_is_beyond_the_ring_has_it_read_anew(storage: Storage, journal: Journal) -> None:
    await appended(journal, local("S|a"))
    counted = Counted(journal)
    async with running(counted.journal) as firehose:  # nobody subscribes: the ring does not move
        await firehose.history(A, 1)
        await appended(journal, local("S|a"))
        assert (await firehose.history(A, 2)).events.seq_nr == [1, 2]


async def test_one_that_leaves_while_it_reads_leaves_the_others_to_read(storage: Storage, journal: Journal) -> None:
    await appended(journal, local("S|a"))
    counted = Counted(journal)
    async with followed(counted) as firehose:
        found = []

        async def ask() -> None:
            found.append((await firehose.history(A, 1)).events.seq_nr)

        counted.may_go_on = trio.Event()
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as reader:
                reader.start_soon(ask)
                await counted.until_read()
                nursery.start_soon(ask)
                nursery.start_soon(ask)
                await trio.sleep(0.01)
                reader.cancel_scope.cancel()
            counted.may_go_on.set()
        assert found == [[1], [1]]
        assert counted.reads == 2


AWAY = BackhaulError("journal.unavailable", "away", kind=ErrorKind.UNAVAILABLE)


@pytest.mark.parametrize("is_ahead", [False, True])
async def test_a_read_that_fails_fails_for_all_who_wait_and_is_tried_again_by_the_next(
    is_ahead: bool, storage: Storage, journal: Journal
) -> None:
    """Each trying by itself, one after the other, would hold up the last of a hundred for a hundred timeouts."""
    await appended(journal, local("S|a", "S|b"))
    counted = Counted(journal)
    async with followed(counted) as firehose:
        failed = []

        async def ask() -> None:
            try:
                await (firehose.read_ahead([A, B], 2, soon=2) if is_ahead else firehose.history(A, 2))
            except BackhaulError as error:
                failed.append(error.code)

        counted.may_go_on, counted.fails = trio.Event(), AWAY
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
            await counted.until_read()
            await trio.sleep(0.02)
            counted.may_go_on.set()
        assert failed == [AWAY.code] * 20
        assert counted.reads == 1
        counted.fails = None
        assert (await firehose.history(A, 2)).events.seq_nr == [1]
        assert firehose.report().history_reads == 1


@pytest.mark.parametrize("is_ahead", [False, True])
async def test_an_event_that_comes_while_its_history_is_read_has_the_next_one_read_it_anew(
    is_ahead: bool, storage: Storage, journal: Journal
) -> None:
    await appended(journal, local("S|a", "S|b"))
    counted = Counted(journal)
    async with followed(counted) as firehose:
        counted.may_go_on = trio.Event()

        async def read() -> None:
            await (firehose.read_ahead([A, B], 2, soon=2) if is_ahead else firehose.history(A, 2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await counted.until_read()
            await appended(journal, local("S|a"))
            await _until_in_ring(firehose, 3)
            counted.may_go_on.set()
        assert (await firehose.history(A, 3)).events.position == [1, 3]
        assert counted.reads == 2
        kept = firehose.histories._kept.values()
        assert firehose.histories._bytes == sum(one.weight for one in kept)


async def test_several_are_read_in_one_go_and_long_ones_alone(storage: Storage, journal: Journal) -> None:
    await appended(journal, local("S|a", "S|b", *["S|long"] * 6))
    counted = Counted(journal)
    long = replace(A, persistence_id="S|long")
    async with followed(counted, replace(LARGE, short_history_max_events=5)) as firehose:
        await firehose.read_ahead([long, A, B], 8, soon=3)
        assert (counted.reads, counted.together) == (1, 1)
        assert (await firehose.history(A, 8)).events.seq_nr == [1]
        assert (await firehose.history(B, 8)).events.seq_nr == [1]
        assert counted.reads == 1
        assert (await firehose.history(long, 8)).events.seq_nr == [1, 2, 3, 4, 5, 6]
        assert (counted.reads, counted.together) == (2, 1)
        report = firehose.report()
        assert (report.history_reads, report.shared_histories) == (3, 2)


async def test_what_is_read_in_one_go_is_bounded(storage: Storage, journal: Journal) -> None:
    names = [f"S|{number}" for number in range(20)]
    await appended(journal, local(*names, payload=b"x" * 880))
    counted = Counted(journal)
    asked = [replace(A, persistence_id=name) for name in names]
    async with followed(counted, replace(LARGE, histories_ahead_max_bytes=5_100)) as firehose:
        await firehose.read_ahead(asked, 20, soon=1)
        assert list(firehose.histories._kept) == asked[:5]


async def test_reading_ahead_begins_when_one_that_is_wanted_soon_is_missing(storage: Storage, journal: Journal) -> None:
    names = [f"S|{number}" for number in range(6)]
    await appended(journal, local(*names))
    counted = Counted(journal)
    asked = [replace(A, persistence_id=name) for name in names]
    async with followed(counted) as firehose:
        await firehose.read_ahead(asked[:4], 6, soon=2)
        await firehose.read_ahead(asked, 6, soon=4)
        assert counted.reads == 1
        await firehose.read_ahead(asked, 6, soon=5)
        assert counted.reads == 2
        assert set(firehose.histories._kept) == set(asked)
        assert firehose.report().history_reads == 6, "what is kept is not read again"


async def test_what_others_are_reading_is_waited_for(storage: Storage, journal: Journal) -> None:
    await appended(journal, local("S|a", "S|b", "S|c"))
    counted = Counted(journal)
    async with followed(counted) as firehose:
        counted.may_go_on = trio.Event()
        has = []

        async def other() -> None:
            await firehose.read_ahead([B, A], 3, soon=2)
            has.append((await firehose.history(B, 3)).events.seq_nr)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(firehose.history, A, 3)
            await counted.until_read(1)
            nursery.start_soon(lambda: firehose.read_ahead([A, B], 3, soon=2))
            await counted.until_read(2)
            nursery.start_soon(other)
            await trio.sleep(0.02)
            assert not has
            counted.may_go_on.set()
        assert has == [[1]]
        assert counted.reads == 2


async def test_one_that_leaves_while_it_reads_ahead_leaves_nothing_behind(storage: Storage, journal: Journal) -> None:
    await appended(journal, local("S|a", "S|b"))
    counted = Counted(journal)
    async with followed(counted) as firehose:
        counted.may_go_on = trio.Event()
        found = []

        async def ask() -> None:
            await firehose.read_ahead([A, B], 2, soon=2)
            found.append([(await firehose.history(one, 2)).events.seq_nr for one in (A, B)])

        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as reader:
                reader.start_soon(ask)
                await counted.until_read()
                nursery.start_soon(ask)
                nursery.start_soon(ask)
                await trio.sleep(0.01)
                reader.cancel_scope.cancel()
            assert not any(one.history for one in firehose.histories._kept.values())
            counted.may_go_on.set()
        assert found == [[[1], [1]]] * 2


async def test_one_that_is_large_is_not_kept_at_the_cost_of_all_others(storage: Storage, journal: Journal) -> None:
    await appended(journal, local("S|a", payload=b"x" * 3_000))
    await appended(journal, local("S|b"))
    counted = Counted(journal)
    async with followed(counted, replace(LARGE, histories_max_bytes=20_000)) as firehose:
        await firehose.history(B, 2)
        await firehose.history(A, 2)
        assert set(firehose.histories._kept) == {B}
        assert (await firehose.history(A, 2)).events.seq_nr == [1]
        assert counted.reads == 3


async def test_a_read_that_takes_long_is_not_begun_again(storage: Storage, journal: Journal) -> None:
    await appended(journal, local("S|a"))
    counted = Counted(journal)
    async with followed(counted, replace(LARGE, histories_keep_s=0.03)) as firehose:
        counted.may_go_on = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(firehose.history, A, 1)
            await trio.sleep(0.1)
            nursery.start_soon(firehose.history, A, 1)
            await trio.sleep(0.01)
            counted.may_go_on.set()
        assert counted.reads == 1


async def test_it_is_not_kept_longer_than_that(storage: Storage, journal: Journal) -> None:
    await appended(journal, local("S|a"))
    counted = Counted(journal)
    async with followed(counted, replace(LARGE, histories_keep_s=0.05, sweep_s=60.0)) as firehose:
        await firehose.history(A, 1)
        await trio.sleep(0.06)
        await firehose.history(A, 1)
        assert counted.reads == 2


async def test_what_is_kept_is_bounded_and_kept_for_a_while_only(storage: Storage, journal: Journal) -> None:
    await appended(journal, local(*[f"S|{number}" for number in range(20)]))
    counted = Counted(journal)
    settings = replace(LARGE, histories_max_bytes=20_000, histories_keep_s=60.0)
    async with followed(counted, settings) as firehose:
        for number in range(20):
            await firehose.history(replace(A, persistence_id=f"S|{number}"), 20)
        assert 0 < firehose.histories._bytes <= 20_000
        assert counted.reads == 20
        await firehose.history(replace(A, persistence_id="S|19"), 20)
        assert counted.reads == 20, "the last one is still there"
        firehose.histories.forget_old(trio.current_time() + 61.0)
        assert not firehose.histories._kept
        assert firehose.histories._bytes == 0
        await firehose.history(replace(A, persistence_id="S|19"), 20)
        assert counted.reads == 21


async def test_nothing_is_kept_across_a_change_of_the_logs_history(storage: Storage, journal: Journal) -> None:
    await appended(journal, local("S|a"))
    counted = Counted(journal)
    async with followed(counted) as firehose:
        await firehose.history(A, 1)
        firehose._change_log()
        await firehose.history(A, 1)
        assert counted.reads == 2
        firehose._restart(firehose.ring.through)
        await firehose.history(A, 1)
        assert counted.reads == 3


async def test_what_was_read_in_another_history_is_not_given_before_the_follower_has_seen_that_either(
    storage: Storage, journal: Journal
) -> None:
    await appended(journal, local("S|a"))
    counted = Counted(journal)
    async with followed(counted) as firehose:
        await firehose.history(A, 1)
        known = journal.log.history
        counted.history = replace(known, generations=(*known.generations, Generation("another", 2)))
        await firehose.history(A, 1)
        assert counted.reads == 2


async def test_whatever_comes_between_a_history_has_all_up_to_the_place(storage: Storage, journal: Journal) -> None:
    """Appends, deletions, snapshots and pauses by chance: each event up to the place is in it, or was deleted."""
    chance = Random(3)
    async with followed(Counted(journal)) as firehose:
        for _ in range(120):
            names = [f"S|{chance.choice('ab')}" for _ in range(chance.randint(1, 4))]
            await appended(journal, local(*names))
            if chance.random() < 0.2:
                await journal.log.trim(TrimLimit(max(0, journal.log.history.head_position - 20), 5))
            if chance.random() < 0.2:
                head = await journal.log.entity_head(names[0])
                assert head is not None
                await journal.snapshots.put([NewSnapshot(names[0], head.seq_nr, "State", "json", b"{}")])
            if chance.random() < 0.5:
                await trio.sleep(0.002)
            position = chance.choice([firehose.ring.through, journal.log.history.head_position])
            asked = replace(A, persistence_id=f"S|{chance.choice('ab')}", max_events=1_000)
            found, fresh = await firehose.history(asked, position), await read_history(journal, asked)
            missing = {
                seq_nr
                for seq_nr, at in zip(fresh.events.seq_nr, fresh.events.position, strict=True)
                if at <= position and seq_nr not in found.events.seq_nr
            }
            assert not missing
            first = found.events.seq_nr[0] if found.events else 1
            assert first == 1 or (found.head is not None and found.head.deleted_to == first - 1)
