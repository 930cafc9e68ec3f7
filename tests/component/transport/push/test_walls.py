"""An edge's own filter is a wall: what it forbids never reaches the cloud, whatever the entity's events were before."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from common.core.events.leaving import is_mark, mark_problem
from common.core.filters.predicates import parse_filter
from tests.component.transport.push.test_filters import ask, settled
from tests.support.push import PushWorld, append, wait_for_head, whole_log

NO_SECRETS = parse_filter('[{"exclude_tags":["secret"]}]').criteria
NOTHING = '[{"exclude_all":true}]'
NAMES = [f"S|{i}" for i in range(5)]


@pytest.mark.parametrize("forbidden_events", [1, 3])
async def test_what_the_own_filter_forbids_is_not_pushed(autojump_clock: MockClock, forbidden_events: int) -> None:
    """Not the event with which an entity comes under it, but a mark; none that follows; the way back is stated."""
    world = PushWorld()
    async with world.cloud() as (cloud, _), world.edge(own_filter=NO_SECRETS) as (edge, _):
        await append(edge, NAMES, tags="open")
        await append(edge, NAMES * forbidden_events, tags="secret")
        await settled(cloud, 5 + 5 * forbidden_events)
        await append(edge, NAMES, tags="open")
        await settled(cloud, 10 + 5 * forbidden_events)
        log = await whole_log(cloud)
        forbidden = (await whole_log(edge)).payload[5:-5]
        assert not set(forbidden) & set(log.payload)
        assert "secret" not in log.tags
        numbers = [origin or own for origin, own in zip(log.origin_seq_nr, log.seq_nr, strict=True)]
        assert sorted(numbers) == [1] * 5 + [2] * 5 + [forbidden_events + 2] * 5
        marks = [index for index in range(len(log)) if is_mark(log, index)]
        assert [numbers[index] for index in marks] == [2] * 5
        assert not any(mark_problem(log, index) for index in marks)
        assert set(log.event_time_us[5:10]) == {0}
        assert await cloud.parked.rows() == []


async def test_a_wider_filter_of_the_cloud_fetches_nothing_that_is_forbidden(autojump_clock: MockClock) -> None:
    """The backfill lane asks the same of an event as the live lane does."""
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint):
        await ask(cloud, endpoint, NOTHING)
        async with world.edge(own_filter=NO_SECRETS) as (edge, _):
            for tags in ("open", "secret", "open", "secret"):
                await append(edge, NAMES, tags=tags)
            await settled(cloud, 20)
            await ask(cloud, endpoint, "[]")
            await wait_for_head(cloud, 10)
            await settled(cloud, 20)
            log = await whole_log(cloud)
            assert "secret" not in log.tags
            assert not {*(await whole_log(edge)).payload[5:10]} & set(log.payload)
