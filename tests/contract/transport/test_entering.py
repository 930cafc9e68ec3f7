"""An entity that enters a subscription's filter brings its past, whatever storage the source has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from common.core.events.deleted import DELETED_TYPE
from common.core.filters.past import Past
from common.core.journal.snapshot import NewSnapshot
from common.core.subscription.messages import StreamLimits
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.journal.stores.subscriptions import InboxRow
from common.transport.subscription.catalogue import StreamCatalogue
from tests.support.subscription.subscriptions import (
    SOURCE,
    SubscriptionWorld,
    criteria,
    publish,
    serving,
    wait_until,
    whole_inbox,
)

NAME = "Order|a"
# Pages of a replay are short: an entity is out of the filter for several of them.
LIMITS = StreamLimits(window_bytes=1_000_000, batch_bytes=100_000, batch_events=3)

# What is not selected is told with heartbeats.
QUICK = replace(SOURCE, heartbeat_s=0.2)


async def tell(journal: Journal, tags: Sequence[str]) -> None:
    for tag in tags:
        await publish(journal, [NAME], tags=[tag])


def numbers(rows: Sequence[InboxRow]) -> list[tuple[int, bool, bool]]:
    return [(row.event.seq_nr, row.replaces, row.leaving) for row in rows]


def plain(*seq_nrs: int) -> list[tuple[int, bool, bool]]:
    return [(seq_nr, False, False) for seq_nr in seq_nrs]


async def followed(journal: Journal, before: int, after: Sequence[str], past: Past) -> list[InboxRow]:
    """What a consumer of red has in the end, when ``after`` happens once it has followed up to ``before``."""
    world = SubscriptionWorld()
    async with (
        serving(journal, StreamCatalogue(), QUICK) as endpoint,
        world.network.serve(
            endpoint.methods, host="source", port=7443, message_max_bytes=4_000_000, connections_max=100
        ),
        world.consumer(limits=LIMITS, criteria=criteria("red"), past=past) as (consumer, state),
    ):
        await wait_until(lambda: state.position == before)
        await tell(journal, after)
        await wait_until(lambda: state.position == before + len(after) and not state.awaiting)
        return await whole_inbox(consumer)


@pytest.mark.parametrize("is_live", [True, False], ids=["live", "behind"])
@pytest.mark.parametrize(
    ("past", "wanted"),
    [
        (Past.FULL, plain(1, 2, 3, 4, 5, 6, 7, 8, 9)),
        (Past.SNAPSHOT, [(6, True, False), *plain(7, 8, 9)]),
        (Past.NONE, plain(9)),
    ],
    ids=["full", "snapshot", "none"],
)
async def test_the_past_comes_before_the_event_that_enters(
    journal: Journal, past: Past, wanted: list[tuple[int, bool, bool]], *, is_live: bool
) -> None:
    await tell(journal, ["blue"] * 8)
    await journal.snapshots.put([NewSnapshot(NAME, 6, "State", "json", b"{}", "blue")])
    if not is_live:
        await tell(journal, ["red", "blue", "blue"])
    rows = await followed(journal, 8 if is_live else 11, ["red", "blue", "blue"] if is_live else [], past)
    assert numbers(rows) == [*wanted, (10, False, True)]


async def test_a_return_brings_what_happened_since(journal: Journal) -> None:
    await tell(journal, ["red", "blue"])
    rows = await followed(journal, 2, ["green"] * 5 + ["red"], Past.SNAPSHOT)
    assert numbers(rows) == [(1, False, False), (2, False, True), *plain(3, 4, 5, 6, 7, 8)]


@pytest.mark.parametrize("has_snapshot", [True, False])
async def test_what_is_deleted_of_a_past_is_led_over(journal: Journal, *, has_snapshot: bool) -> None:
    await tell(journal, ["blue"] * 6)
    if has_snapshot:
        await journal.snapshots.put([NewSnapshot(NAME, 4, "State", "json", b"{}", "blue")])
    await journal.log.trim(TrimLimit(4, 100))
    rows = await followed(journal, 6, ["red"], Past.FULL)
    assert numbers(rows) == [(4, has_snapshot, False), *plain(5, 6, 7)]
    assert (rows[0].event.event_type == DELETED_TYPE) != has_snapshot
