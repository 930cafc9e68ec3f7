"""What a policy's filter forbids a consumer never sees, on no lane and by no question, wherever an entity moves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from common.core.errors import BackhaulError
from common.core.events.batch import LEFT_TAGS
from common.core.events.leaving import LEAVING_TYPE
from common.core.journal.snapshot import NewSnapshot
from common.core.policy.parsing import parse_policy
from common.core.policy.rules import Policy
from common.core.subscription.messages import ENTITY_EVENTS_PATH, EVENT_PATH, Begin, EntityEvents, EntityQuery
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.journal.stores.subscriptions import InboxRow
from common.transport.subscription.catalogue import StreamCatalogue, StreamDefinition
from common.transport.subscription.sinks import Effect, InboxSink, Taken
from tests.support import questions
from tests.support.subscription.subscriptions import (
    SOURCE,
    SubscriptionWorld,
    publish,
    rows_of,
    wait_for_position,
    wait_until,
    whole_inbox,
)

WALL = '[{"exclude_all":true},{"include_topics":["site/{id}/#"]}]'
POLICY = parse_policy(f"[[rule]]\nwho = '*'\nread = {{stream = 'orders', filter = '{WALL}'}}", "policy")
HERE, THERE = "t:site/edge-1/door", "t:site/edge-2/door"
NAMES = [f"Order|{i}" for i in range(3)]
# Where an order is when its events happen.
STORIES = {
    "moves": [HERE, THERE],
    "returns": [HERE, THERE, HERE],
    "alternates": [HERE, THERE, HERE, THERE, HERE, THERE],
    "is away for long": [HERE, HERE, THERE, THERE, THERE, HERE, HERE],
    "comes": [THERE, THERE, HERE, HERE],
    "was never here": [THERE, THERE],
}


def world_with_wall() -> SubscriptionWorld:
    return SubscriptionWorld(
        catalogue=StreamCatalogue([StreamDefinition("orders", frozenset({"Order"}))]),
        source_settings=replace(SOURCE, policy=lambda: POLICY),
    )


@asynccontextmanager
async def reported(world: SubscriptionWorld, sites: Sequence[str]) -> AsyncIterator[Journal]:
    async with world.source() as (source, _):
        for site in sites:
            await publish(source, NAMES, tags=[site])
        yield source


def numbers(sites: Sequence[str]) -> list[int]:
    return [number for number, site in enumerate(sites, 1) if site == HERE]


def leavings(sites: Sequence[str]) -> list[int]:
    return [number for number in range(2, len(sites) + 1) if sites[number - 2] == HERE != sites[number - 1]]


def check(rows: list[InboxRow], sites: Sequence[str]) -> None:
    """Own events whole, marks where the entity left, in its order; nothing else."""
    for row in rows:
        is_mark = row.event.event_type == LEAVING_TYPE
        assert row.leaving == is_mark
        assert row.event.tags == (() if is_mark else (HERE,))
        if is_mark:
            assert (row.event.payload, row.event.metadata, row.event.event_time_us) == (b"", {}, 0)
    for name in NAMES:
        shown = [(row.event.seq_nr, row.leaving) for row in rows if row.event.persistence_id == name]
        wanted = [(number, False) for number in numbers(sites)] + [(number, True) for number in leavings(sites)]
        assert shown == sorted(wanted)


@pytest.mark.parametrize("sites", STORIES.values(), ids=STORIES.keys())
@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("asked", ["", f'[{{"exclude_all":true}},{{"include_tags":["{HERE}","{THERE}"]}}]'])
async def test_only_own_events_come(autojump_clock: MockClock, sites: list[str], *, is_live: bool, asked: str) -> None:
    world = world_with_wall()
    async with reported(world, [] if is_live else sites) as source:
        async with world.consumer(stream_id="orders", criteria=asked) as (consumer, state):
            for site in sites if is_live else []:
                await publish(source, NAMES, tags=[site])
            await wait_for_position(state, len(NAMES) * len(sites))
            check(await whole_inbox(consumer), sites)
            assert state.awaiting == 0


@pytest.mark.parametrize("sites", STORIES.values(), ids=STORIES.keys())
async def test_a_change_of_filter_fetches_nothing_that_is_forbidden(
    autojump_clock: MockClock, sites: list[str]
) -> None:
    world = world_with_wall()
    async with reported(world, sites), world.consumer(stream_id="orders", criteria='[{"exclude_all":true}]') as at:
        consumer, state = at
        await wait_for_position(state, len(NAMES) * len(sites))
        await consumer.subscriptions.set_requested("orders", json.dumps([{"exclude_tags": ["none"]}]))
        state.filter_changed()
        await wait_for_position(state, len(NAMES) * len(sites))
        await wait_until(lambda: state.applied_version == state.requested_version and state.backfill_position < 0)
        await trio.sleep(5)
        check(await whole_inbox(consumer), sites)


@pytest.mark.parametrize("sites", STORIES.values(), ids=STORIES.keys())
async def test_a_question_is_answered_with_own_events(autojump_clock: MockClock, sites: list[str]) -> None:
    world = world_with_wall()
    async with reported(world, sites):
        answer = await entity_events(world, NAMES[0])
        assert answer.events.seq_nr == sorted([*numbers(sites), *leavings(sites)])
        assert THERE not in answer.events.tags
        assert answer.events.tags.count(LEFT_TAGS) == len(leavings(sites))
        for number in range(1, len(sites) + 1):
            assert await is_shown(world, NAMES[0], number) == (number in numbers(sites))
        if not numbers(sites):
            assert answer == EntityEvents(type(answer.events)())


async def is_shown(world: SubscriptionWorld, name: str, number: int) -> bool:
    async with world.dial() as channel:
        request = questions.encode_event_request(EntityQuery("orders", "edge-1", name, number, number))
        try:
            reply = await channel.unary(EVENT_PATH, request, 5.0)
        except BackhaulError as error:
            return error.code != "subscription.no_such_event"
        event = questions.decode_event_reply(reply)
        assert event.tags == [HERE]
        return True


async def entity_events(world: SubscriptionWorld, name: str) -> EntityEvents:
    async with world.dial() as channel:
        query = EntityQuery("orders", "edge-1", name, 1)
        reply = await channel.unary(ENTITY_EVENTS_PATH, questions.encode_entity_events_request(query), 5.0)
        return questions.decode_entity_events(reply)


def policy_of(sites: Sequence[str]) -> Policy:
    topics = [site.removeprefix("t:") for site in sites]
    wall = json.dumps([{"exclude_all": True}, {"include_topics": topics}])
    return parse_policy(f"[[rule]]\nwho = '*'\nread = {{stream = 'orders', filter = '{wall}'}}", "policy")


OPEN = parse_policy("[[rule]]\nwho = '*'\nread = 'orders'", "policy")


@pytest.mark.parametrize("wider", [policy_of([HERE, THERE]), OPEN], ids=["wider", "open"])
@pytest.mark.parametrize("asked", ["", f'[{{"exclude_all":true}},{{"include_tags":["{HERE}","{THERE}"]}}]'])
async def test_what_a_wider_wall_permits_is_fetched(autojump_clock: MockClock, wider: Policy, asked: str) -> None:
    """A change of the policy is a change of the filter, also while the consumer is away and where nothing else happens."""
    held = {"policy": policy_of([HERE])}
    world = world_with_wall()
    world.source_settings = replace(SOURCE, policy=lambda: held["policy"])
    async with world.source() as (source, _):
        await publish(source, ["Order|here"] * 3, tags=[HERE])
        await publish(source, ["Order|there"] * 3, tags=[THERE])
        async with world.consumer(stream_id="orders", criteria=asked) as (consumer, state):
            await wait_for_position(state, 6)
            assert rows_of(await whole_inbox(consumer)) == {"Order|here": [1, 2, 3]}
        held["policy"] = wider
        async with world.consumer(stream_id="orders", criteria=asked) as (consumer, state):
            await wait_until(lambda: state.position == 6 and state.state == "connected")
            await trio.sleep(5)
            assert rows_of(await whole_inbox(consumer)) == {"Order|here": [1, 2, 3], "Order|there": [1, 2, 3]}
            received = state.received
        held["policy"] = policy_of([THERE])
        async with world.consumer(stream_id="orders", criteria=asked) as (consumer, state):
            await publish(source, ["Order|here"], tags=[HERE])
            await publish(source, ["Order|there"], tags=[THERE])
            await wait_for_position(state, 8)
            await trio.sleep(5)
            assert rows_of(await whole_inbox(consumer)) == {"Order|here": [1, 2, 3], "Order|there": [1, 2, 3, 4]}
            assert state.awaiting == 0
        assert received


async def snapshots_of(source: Journal, seq_nr: int, tags: str) -> None:
    await source.snapshots.put([NewSnapshot(name, seq_nr, "State", "json", b'"all"', tags) for name in NAMES])


@pytest.mark.parametrize("sites", [[THERE, THERE, HERE], [HERE, HERE, THERE]])
@pytest.mark.parametrize("is_trimmed", [False, True])
@pytest.mark.parametrize("start", [Begin.LOG, Begin.SNAPSHOTS])
async def test_a_snapshot_that_says_no_more_than_the_last_event_passes_if_that_may_be_seen(
    autojump_clock: MockClock, sites: list[str], *, is_trimmed: bool, start: Begin
) -> None:
    world = world_with_wall()
    async with reported(world, sites) as source:
        await source.snapshots.put(
            [NewSnapshot(name, 3, "State", "json", b'"last"', says_last_event=True) for name in NAMES]
        )
        if is_trimmed:
            await source.log.trim(TrimLimit(3 * len(NAMES), 100))
        may_pass = sites[-1] == HERE
        async with world.consumer(stream_id="orders", start=start) as (consumer, state):
            await wait_for_position(state, 3 * len(NAMES))
            await trio.sleep(5)
            rows = [row for row in await whole_inbox(consumer) if not row.is_deleted]
            assert state.awaiting == 0
        snapshots = [row for row in rows if row.replaces]
        assert len(snapshots) == (len(NAMES) if may_pass else 0)
        answer = await entity_events(world, NAMES[0])
        assert answer.begins_with_snapshot == (is_trimmed and may_pass)
        assert b'"last"' not in answer.events.payload or may_pass


@pytest.mark.parametrize("sites", [[HERE, HERE, HERE], [HERE, THERE, HERE], [THERE, HERE, HERE, HERE]])
@pytest.mark.parametrize("is_trimmed", [False, True])
@pytest.mark.parametrize("start", [Begin.LOG, Begin.SNAPSHOTS])
async def test_a_snapshot_that_folds_a_forbidden_event_does_not_pass(
    autojump_clock: MockClock, sites: list[str], *, is_trimmed: bool, start: Begin
) -> None:
    """Its own tags are permitted. What is stored and permitted comes in its place, the rest is stated."""
    world = world_with_wall()
    async with reported(world, sites) as source:
        await snapshots_of(source, len(sites), HERE)
        if is_trimmed:
            await source.log.trim(TrimLimit(2 * len(NAMES), 100))
        may_pass = set(sites) == {HERE}
        async with world.consumer(stream_id="orders", start=start) as (consumer, state):
            await wait_for_position(state, len(NAMES) * len(sites))
            await trio.sleep(5)
            rows = [row for row in await whole_inbox(consumer) if not row.is_deleted]
            assert state.awaiting == 0
        snapshots = [row for row in rows if row.replaces]
        assert len(snapshots) == (len(NAMES) if may_pass and (is_trimmed or start is Begin.SNAPSHOTS) else 0)
        if not may_pass and not is_trimmed:
            check(rows, sites)
        elif not may_pass:
            stored = [number for number in numbers(sites) if number > 2]
            for name in NAMES:
                assert [row.event.seq_nr for row in rows if row.event.persistence_id == name] == stored
        answer = await entity_events(world, NAMES[0])
        assert answer.begins_with_snapshot == (is_trimmed and may_pass)
        assert b'"all"' not in answer.events.payload or may_pass


class Passed(InboxSink):
    """Remembers of which entities numbers were led over."""

    def __init__(self) -> None:
        self.named: set[str] = set()

    async def prepare(self, taken: Taken) -> Effect:
        self.named.update(stated.persistence_id for stated in taken.passed)
        return await super().prepare(taken)


NO_SECRETS = parse_policy(
    """[[rule]]\nwho = '*'\nread = {stream = 'orders', filter = '[{"exclude_tags":["secret"]}]'}""", "policy"
)


@pytest.mark.parametrize("tags", ["secret", "open"])
async def test_of_an_entity_without_permitted_events_not_the_name_is_said(autojump_clock: MockClock, tags: str) -> None:
    """Nor that it is gone: what retention deleted is stated only of entities that may be seen."""
    world = world_with_wall()
    world.source_settings = replace(SOURCE, policy=lambda: NO_SECRETS)
    async with world.source() as (source, _):
        await publish(source, ["Order|hidden"] * 3, tags=[tags])
        await publish(source, ["Order|open"], tags=["open"])
        await source.log.trim(TrimLimit(3, 100))
        passed = Passed()
        async with world.consumer(stream_id="orders", sink=passed) as (_, state):
            await wait_for_position(state, 4)
        answer = await entity_events(world, "Order|hidden")
        may_be_named = tags == "open"
        assert bool(answer.ranges) == may_be_named
        assert ("Order|hidden" in passed.named) == may_be_named
