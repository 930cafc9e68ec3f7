"""A subscription that begins from now is given nothing of before, on no lane, whatever storage the source has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from common.core.journal.snapshot import NewSnapshot
from common.core.subscription.messages import Begin, OrderTime
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.transport.subscription.catalogue import StreamCatalogue
from tests.support.projections import log_of
from tests.support.subscription.subscriptions import (
    SOURCE,
    SubscriptionWorld,
    criteria,
    publish,
    rows_of,
    serving,
    wait_until,
    whole_inbox,
)

QUICK = replace(SOURCE, heartbeat_s=0.2)


async def tell(journal: Journal, tag: str, names: Sequence[str], times: int = 1) -> None:
    for _ in range(times):
        await publish(journal, [f"Order|{name}" for name in names], tags=[tag])


@pytest.mark.parametrize("is_now", [True, False])
async def test_only_what_comes_behind_the_beginning_is_sent(journal: Journal, *, is_now: bool) -> None:
    """The beginning is the log's end, or the last event up to an order time, that of the log's end."""
    await tell(journal, "red", "ab", 20)
    await tell(journal, "blue", "c", 5)
    await tell(journal, "blue", "f", 2)
    start = Begin.NOW if is_now else OrderTime((await log_of(journal)).timestamp_us[-1])
    await journal.snapshots.put([NewSnapshot("Order|a", 10, "State", "json", b"{}", "red")])
    await journal.log.trim(TrimLimit(10, 100))
    world = SubscriptionWorld()
    async with (
        serving(journal, StreamCatalogue(), QUICK) as endpoint,
        world.network.serve(
            endpoint.methods, host="source", port=7443, message_max_bytes=4_000_000, connections_max=100
        ),
    ):
        async with world.consumer(start=start, criteria=criteria("red")) as (consumer, state):
            await wait_until(lambda: state.position == 47)
            await tell(journal, "red", "ad")
            await tell(journal, "blue", "c", 2)
            await tell(journal, "red", "c")
            await wait_until(lambda: state.position == 52 and not state.awaiting)
            rows = await whole_inbox(consumer)
            assert rows_of(rows) == {"Order|a": [21], "Order|d": [1], "Order|c": [6, 7, 8]}
            assert not any(row.replaces or row.is_deleted for row in rows)
        async with world.consumer(start=start, criteria=criteria("red")) as (consumer, state):
            requested = await consumer.subscriptions.set_requested("orders", criteria("red", "blue"))
            state.filter_changed()
            await wait_until(lambda: state.applied_version == requested.version and state.backfill_position < 0)
            await tell(journal, "blue", "be")
            await wait_until(lambda: state.position == 54 and not state.awaiting)
            found = rows_of(await whole_inbox(consumer))
            assert found == {"Order|a": [21], "Order|d": [1], "Order|c": [6, 7, 8], "Order|b": [21], "Order|e": [1]}
            stored = await consumer.subscriptions.get("orders")
            assert stored is not None
            assert stored.place.begin == 47


async def test_an_order_time_in_the_middle_of_the_log_is_the_beginning(journal: Journal) -> None:
    await tell(journal, "red", "ab", 5)
    log, world = await log_of(journal), SubscriptionWorld()
    async with (
        serving(journal, StreamCatalogue(), QUICK) as endpoint,
        world.network.serve(
            endpoint.methods, host="source", port=7443, message_max_bytes=4_000_000, connections_max=100
        ),
        world.consumer(start=OrderTime(log.timestamp_us[6]), criteria=criteria("red")) as (consumer, state),
    ):
        await wait_until(lambda: state.position == 10 and not state.awaiting)
        assert rows_of(await whole_inbox(consumer)) == {"Order|a": [5], "Order|b": [4, 5]}
        stored = await consumer.subscriptions.get("orders")
        assert stored is not None
        assert stored.place.begin == 7
