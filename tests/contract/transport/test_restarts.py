"""An include by id with a lower number is a new beginning of that entity, whatever storage the consumer has."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from common.core.errors import BackhaulError
from common.core.filters.predicates import parse_filter
from common.journal.stores.journal import Journal
from common.runtime.http.subscriptions import check_restarts
from common.transport.subscription.sinks import InboxSink
from common.transport.subscription.state import SubscriptionState
from tests.support.subscription.subscriptions import (
    CONSUMER,
    SOURCE,
    SubscriptionWorld,
    criteria,
    publish,
    rows_of,
    subscribed,
    wait_until,
    whole_inbox,
)

QUICK = replace(SOURCE, heartbeat_s=0.2)
RED = criteria("red")


class Firm(InboxSink):
    """Takes no restarts."""

    takes_restarts = False


def red_and(*ids: object) -> str:
    wanted = [{"exclude_all": True}, {"include_tags": ["red"]}, {"include_ids": list(ids)}]
    return parse_filter(json.dumps(wanted)).criteria


@asynccontextmanager
async def following(journal: Journal, sink: InboxSink) -> AsyncIterator[tuple[Journal, SubscriptionState]]:
    """A consumer of red over ``journal``, and its source, in which two orders have five and three events."""
    world = SubscriptionWorld(source_settings=QUICK)
    async with (
        world.source() as (source, _),
        subscribed(journal, world.dial, replace(CONSUMER, criteria=RED), sink=sink) as state,
    ):
        for names in (["Order|a", "Order|b"],) * 3 + (["Order|a"],) * 2:
            await publish(source, names, tags=["red"])
        await wait_until(lambda: state.position == 8)
        yield source, state


async def change(journal: Journal, state: SubscriptionState, wanted: str) -> None:
    requested = await journal.subscriptions.set_requested("orders", wanted)
    state.filter_changed()
    await wait_until(lambda: state.applied_version == requested.version and state.backfill_position < 0)


@pytest.mark.parametrize("name", ["Order|a", "a"])
async def test_what_is_known_comes_again_behind_a_mark(journal: Journal, name: str) -> None:
    async with following(journal, InboxSink()) as (source, state):
        await change(journal, state, red_and({"id": name, "from_seq_nr": 3}))
        await publish(source, ["Order|a", "Order|b"], tags=["red"])
        await wait_until(lambda: state.position == 10 and not state.awaiting)
        rows = await whole_inbox(journal)
        marks = [(row.event.persistence_id, row.event.seq_nr) for row in rows if row.is_restart]
        assert marks == [("Order|a", 2)]
        assert rows_of(rows) == {"Order|a": [1, 2, 3, 4, 5, 2, 3, 4, 5, 6], "Order|b": [1, 2, 3, 4]}
        assert await journal.subscriptions.known("orders", ["a", "Order|b"]) == {"Order|a": 6, "Order|b": 4}
        await change(journal, state, red_and({"id": name, "from_seq_nr": 3}, "Order|b"))
        await publish(source, ["Order|a"], tags=["red"])
        await wait_until(lambda: state.position == 11)
        assert rows_of(await whole_inbox(journal))["Order|a"][-3:] == [5, 6, 7], "the same start again is no news"


async def test_where_restarts_are_not_taken_what_is_known_stays_and_the_filter_is_refused(journal: Journal) -> None:
    async with following(journal, Firm()) as (source, state):
        state.takes_restarts = False
        wanted = red_and({"id": "Order|a", "from_seq_nr": 1})
        with pytest.raises(BackhaulError, match=r"subscription\.restart_refused"):
            await check_restarts(journal, {"orders": state}, "orders", parse_filter(wanted))
        await check_restarts(journal, {"orders": state}, "orders", parse_filter(red_and("Order|a")))
        await change(journal, state, wanted)
        await publish(source, ["Order|a"], tags=["red"])
        await wait_until(lambda: state.position == 9)
        assert rows_of(await whole_inbox(journal)) == {"Order|a": [1, 2, 3, 4, 5, 6], "Order|b": [1, 2, 3]}
