"""A source is put back to an older state while a consumer knows more of some entities than its place says."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from common.core.journal.snapshot import NewSnapshot
from common.core.subscription.messages import Begin, StreamLimits
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.support.subscription.subscriptions import (
    SubscriptionWorld,
    log_of,
    parted,
    publish,
    rows_of,
    wait_for_position,
    whole_inbox,
    whole_log,
)

NAMES = [f"Order|{i % 7}" for i in range(100)]
PAYLOAD_BYTES = 1_000
FEW_AT_ONCE = StreamLimits(window_bytes=6_000, batch_bytes=3_000, batch_events=40)


async def take_snapshots(source: Journal) -> None:
    """Of the last events of all entities but the one that keeps the log's beginning."""
    log = await whole_log(source)
    last = dict(zip(log.persistence_id, log.seq_nr, strict=True))
    new = [NewSnapshot(name, nr, "State", "json", b"{}") for name, nr in last.items() if name != "Order|0"]
    await source.snapshots.put(new)


@pytest.mark.parametrize("brought_by", ["a start from snapshots", "snapshots in the place of deleted events"])
async def test_a_consumer_that_snapshots_brought_beyond_its_place_is_told_and_misses_nothing(
    brought_by: str, autojump_clock: MockClock
) -> None:
    """Its live lane is below where the source goes another way, numbers that it knows are above."""
    is_start = brought_by == "a start from snapshots"
    world = SubscriptionWorld(commit_s=0.1)
    async with world.source() as (source, _):
        await publish(source, NAMES, payload_bytes=PAYLOAD_BYTES)
    backup = world.source_disk.copy()
    async with world.source() as (source, _):
        await publish(source, NAMES, payload_bytes=PAYLOAD_BYTES)
        await take_snapshots(source)
        if not is_start:
            await source.log.trim(TrimLimit(20, 20))
        start = Begin.SNAPSHOTS if is_start else Begin.LOG
        async with world.consumer(start=start, limits=FEW_AT_ONCE) as (consumer, state):
            await wait_for_position(state, 1)
            assert state.position < 80
            numbers = rows_of(await whole_inbox(consumer))
            assert numbers["Order|1"] == [30], "it knows more than its place tells"
    world.source_disk = backup
    async with world.source() as (source, _):
        await publish(source, NAMES, payload_bytes=PAYLOAD_BYTES - 1)
        async with world.consumer() as (_, state):
            await trio.sleep(5)
            assert state.last_code == "subscription.diverged"
        async with world.consumer(on_diverged="restart") as (consumer, state):
            await wait_for_position(state, 200)
            old, new = parted(await whole_inbox(consumer), log_of(await whole_log(source)))
            assert rows_of(new) == log_of(await whole_log(source))
            assert old, "nobody has acknowledged them"


async def test_deleted_events_that_were_passed_before_they_were_stated_come_when_they_are_there_again(
    autojump_clock: MockClock,
) -> None:
    """Of an entity that emits nothing any more: no gap would show that they are missing."""
    world = SubscriptionWorld(commit_s=0.1)
    async with world.source() as (source, _):
        await publish(source, ["Order|silent", *NAMES[:59]], payload_bytes=PAYLOAD_BYTES)
    backup = world.source_disk.copy()
    async with world.source() as (source, _):
        await publish(source, [*NAMES, "Order|silent"], payload_bytes=PAYLOAD_BYTES)
        await source.snapshots.put([NewSnapshot("Order|silent", 2, "State", "json", b"{}")])
        await source.log.trim(TrimLimit(161, 161, covered_types=frozenset({"Order"})))
        assert (await source.log.stats()).deleted_through == 161
        async with world.consumer(limits=FEW_AT_ONCE) as (consumer, state):
            await wait_for_position(state, 2)
            assert state.position < 60
            assert "Order|silent" not in rows_of(await whole_inbox(consumer))
    world.source_disk = backup
    async with world.source() as (source, _):
        async with world.consumer() as (consumer, state):
            await wait_for_position(state, 60)
            assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source))
