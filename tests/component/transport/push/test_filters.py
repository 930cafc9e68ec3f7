"""A cloud's filter for an edge, over memory pipes and a mock clock: changed while everything runs, cut and restarted."""

from __future__ import annotations

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.filters.permission import match_batch
from common.core.filters.predicates import parse_filter
from common.core.push.filter_transition import EVERYTHING
from common.core.push.requested_filter import RequestedFilter
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.transport.memory.line import Direction
from common.transport.push.endpoint import PushEndpoint
from tests.support.push import PushWorld, append, live_connection, wait_for_head, whole_log

NOTHING = '[{"exclude_all":true}]'
ONLY_A = '[{"exclude_all":true},{"include_ids":["a"]}]'
A_AND_B = '[{"exclude_all":true},{"include_ids":["a","b"]}]'
RED = '[{"exclude_all":true},{"include_tags":["red"]}]'
NOT_B = '[{"exclude_ids":["b"]}]'


async def stories(journal: Journal) -> dict[str, list[int]]:
    """By entity, the edge's numbers of its events in the order they are stored."""
    log = await whole_log(journal)
    found: dict[str, list[int]] = {}
    for name, own, origin in zip(log.persistence_id, log.seq_nr, log.origin_seq_nr, strict=True):
        found.setdefault(name, []).append(origin or own)
    return found


async def ask(journal: Journal, endpoint: PushEndpoint, criteria: str, pattern: str = "edge-1") -> None:
    """As the operator's route does it."""
    await journal.push_filters.ask(pattern, parse_filter(criteria).criteria)
    await endpoint.refresh_filters()


async def settled(cloud: Journal, head: int, at_most_s: float = 600.0) -> None:
    """Until the cloud has looked through the edge's log up to ``head`` and no change is under way."""
    with trio.fail_after(at_most_s):
        while True:
            states, place = await cloud.origins.rows(), await cloud.push_filters.state("edge-1")
            if states and states[0].stored.position >= head and place.is_settled:
                return
            await trio.sleep(0.1)


async def test_what_is_not_asked_for_stays_and_a_wider_filter_fetches_it_on_an_idle_stream(
    autojump_clock: MockClock,
) -> None:
    world = PushWorld(poll_s=60.0)
    async with world.cloud() as (cloud, endpoint):
        await cloud.push_filters.ask("edge-*", ONLY_A)
        async with world.edge() as (edge, link):
            await append(edge, ["S|a", "S|b", "S|c"] * 100)
            await settled(cloud, 300)
            assert await stories(cloud) == {"S|a": [*range(1, 101)]}
            await trio.sleep(30)
            assert link.acked_position == 300, "acks cover what is withheld"

            began_s = trio.current_time()
            await ask(cloud, endpoint, A_AND_B, "edge-1")
            await wait_for_head(cloud, 200)
            assert trio.current_time() - began_s < 0.5, "at once, for entities too that never emit again"
            await settled(cloud, 300)
            assert await stories(cloud) == {"S|a": [*range(1, 101)], "S|b": [*range(1, 101)]}
            await trio.sleep(0.1)
            assert (link.filter_version, link.backfill_left) == (2, 0)
            [stream] = endpoint.streams
            assert (stream.filter_version, stream.backfill_left) == (2, 0)


async def test_an_entity_that_is_taken_out_and_put_back_has_no_hole_and_no_repeat(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        for round_, criteria in enumerate([EVERYTHING, NOT_B, EVERYTHING, ONLY_A, A_AND_B, EVERYTHING], 1):
            await ask(cloud, endpoint, criteria)
            await append(edge, ["S|a", "S|b", "S|c"] * 20)
            await settled(cloud, 60 * round_)
        await trio.sleep(1)
        assert await stories(cloud) == await stories(edge)
        assert await cloud.origins.stored_ranges("S|b") == []
        assert await cloud.parked.rows() == []


async def test_without_a_past_tags_move_an_entity_in_and_out_and_what_it_jumps_over_is_stated(
    autojump_clock: MockClock,
) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge(own_past=Past.NONE) as (edge, _):
        await ask(cloud, endpoint, RED)
        for tags in ("", "red", "red", "blue", "", "red"):
            await append(edge, ["S|a"], tags=tags)
        await settled(cloud, 6)
        assert await stories(cloud) == {"S|a": [2, 3, 4, 6]}
        stated = [kept.stated for kept in await cloud.origins.stored_ranges("S|a")]
        assert stated == [StatedRange("S|a", 1, 1, "withheld"), StatedRange("S|a", 5, 5, "withheld")]


async def test_the_edges_own_filter_always_wins(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint):
        async with world.edge(own_filter=NOT_B) as (edge, _):
            await append(edge, ["S|a", "S|b", "S|c"] * 10)
            await ask(cloud, endpoint, A_AND_B)
            await settled(cloud, 30)
            await ask(cloud, endpoint, EVERYTHING)
            await settled(cloud, 30)
            await trio.sleep(2)
            assert set(await stories(cloud)) == {"S|a", "S|c"}
        async with world.edge() as (edge, _):
            await wait_for_head(cloud, 30)
            await settled(cloud, 30)
            assert await stories(cloud) == await stories(edge)


async def test_what_was_deleted_before_it_was_wanted_is_stated(autojump_clock: MockClock) -> None:
    """Two entities lose events while nobody asks for them: one has a later event, one has none."""
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        await ask(cloud, endpoint, NOTHING)
        await append(edge, ["S|a", "S|b", "S|c", "S|a", "S|b"], tags="red")
        await append(edge, ["S|a"], tags="red")
        await settled(cloud, 6)
        await edge.log.trim(TrimLimit(5, 10))
        await ask(cloud, endpoint, RED)
        await settled(cloud, 6)
        await append(edge, ["S|a", "S|b"], tags="red")
        await settled(cloud, 8)
        assert await cloud.parked.rows() == []
        assert await stories(cloud) == {"S|a": [3, 4], "S|b": [3]}
        for name, through in (("S|a", 2), ("S|b", 2), ("S|c", 1)):
            assert [kept.stated for kept in await cloud.origins.stored_ranges(name)] == [
                StatedRange(name, 1, through, "trimmed")
            ]


async def test_events_deleted_after_the_backfill_looked_do_not_make_a_gap(autojump_clock: MockClock) -> None:
    """The predecessor of a live event was selected by no filter that was ever in force while it was there."""
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        await ask(cloud, endpoint, NOTHING)
        await append(edge, ["S|b", "S|a", "S|a"], tags="red")
        await settled(cloud, 3)
        await edge.log.trim(TrimLimit(3, 10))
        await append(edge, ["S|a"], tags="red")
        await ask(cloud, endpoint, RED)
        await settled(cloud, 4)
        assert await cloud.parked.rows() == []
        assert await stories(cloud) == {"S|a": [3]}


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_cuts_at_every_message_of_a_change_lose_and_repeat_nothing(
    direction: Direction, autojump_clock: MockClock
) -> None:
    world = PushWorld(batch_events=10)
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        await append(edge, ["S|a", "S|b"] * 30)
        for messages in range(1, 14):
            await ask(cloud, endpoint, NOT_B)
            await append(edge, ["S|a", "S|b"] * 30)
            await settled(cloud, 60 * (messages + 1))
            line = await live_connection(world.network)
            line.cut_after(direction, messages=messages)
            await ask(cloud, endpoint, EVERYTHING)
            await settled(cloud, 60 * (messages + 1))
            await trio.sleep(0.5)
        await trio.sleep(60)
        await settled(cloud, 60 * 14)
        assert await stories(cloud) == await stories(edge)
        assert await cloud.parked.rows() == []


async def test_either_side_may_restart_anywhere_in_a_backfill(autojump_clock: MockClock) -> None:
    world = PushWorld(batch_events=7, commit_s=0.01)
    async with world.edge() as (edge, _), world.cloud() as (cloud, endpoint):
        await ask(cloud, endpoint, NOTHING)
        await append(edge, [f"S|{name}" for name in "abcdef"] * 60)
        await settled(cloud, 360)
        await ask(cloud, endpoint, EVERYTHING)
        await trio.sleep(0.05)
    for _ in range(12):
        async with world.cloud(), world.edge():
            await trio.sleep(0.0437)
        async with world.edge(), world.cloud():
            await trio.sleep(0.081)
    async with world.cloud() as (cloud, _endpoint), world.edge() as (edge, _link):
        await settled(cloud, 360)
        assert await stories(cloud) == await stories(edge)


async def test_a_flood_of_changes_is_one_change_at_a_time_and_the_last_one_counts(autojump_clock: MockClock) -> None:
    world = PushWorld(commit_s=0.05)
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, link):
        await ask(cloud, endpoint, NOTHING)
        await append(edge, ["S|a", "S|b", "S|c"] * 200)
        await settled(cloud, 600)
        with capture_logs() as logs:
            for number in range(200):
                await ask(cloud, endpoint, f'[{{"exclude_all":true}},{{"include_ids":["x{number}"]}}]')
            await ask(cloud, endpoint, A_AND_B)
            await wait_for_head(cloud, 400)
            await settled(cloud, 600)
        assert set(await stories(cloud)) == {"S|a", "S|b"}
        assert link.connects == 1
        changes = [entry for entry in logs if entry["event"] == "push.filter_changed"]
        assert 2 <= len(changes) < 200


async def test_a_node_hears_of_what_was_asked_of_another(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with (
        world.cloud() as (cloud, endpoint),
        world.cloud("other:7443") as (other, _),
        world.edge() as (edge, _link),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(endpoint.follow_filters, 2.0)
        await trio.sleep(1)
        await other.push_filters.ask("*", ONLY_A)
        await trio.sleep(3)
        await append(edge, ["S|a", "S|b"])
        await settled(cloud, 2)
        assert set(await stories(cloud)) == {"S|a"}
        nursery.cancel_scope.cancel()


async def test_a_node_without_edges_does_not_look_for_what_is_asked_of_them(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, looks = PushWorld(), 0
    async with world.cloud() as (cloud, endpoint), trio.open_nursery() as nursery:
        requested = cloud.push_filters.requested

        async def counted() -> list[RequestedFilter]:
            nonlocal looks
            looks += 1
            return await requested()

        monkeypatch.setattr(cloud.push_filters, "requested", counted)
        nursery.start_soon(endpoint.follow_filters, 1.0)
        await trio.sleep(20)
        assert looks == 0
        async with world.edge():
            await trio.sleep(10)
            assert looks >= 5
        nursery.cancel_scope.cancel()


async def test_a_filter_that_withholds_all_costs_no_commit_for_each_event(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, link):
        await ask(cloud, endpoint, NOTHING)
        await trio.sleep(1)
        seen = set()
        for _ in range(100):
            await append(edge, ["S|a"])
            await trio.sleep(0.1)
            seen.add(link.sent_position)
        assert len(seen) <= 13
        await trio.sleep(2)
        assert link.acked_position == 100


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_changes_cuts_and_restarts_end_where_a_walk_over_the_history_does(data: st.DataObject) -> None:
    async def story() -> None:
        world = PushWorld(batch_events=data.draw(st.integers(1, 9)))
        filters = st.sampled_from([EVERYTHING, NOTHING, ONLY_A, A_AND_B, NOT_B])
        own = EVERYTHING
        wanted, position = EVERYTHING, 0
        for _ in range(data.draw(st.integers(1, 4))):
            if data.draw(st.booleans()):
                own = data.draw(filters)
            async with world.cloud() as (cloud, endpoint), world.edge(own_filter=own) as (edge, _):
                for _ in range(data.draw(st.integers(1, 5))):
                    names = data.draw(st.lists(st.sampled_from(["S|a", "S|b", "S|c"]), min_size=1, max_size=12))
                    await append(edge, names)
                    position += len(names)
                    if data.draw(st.booleans()):
                        wanted = data.draw(filters)
                        await ask(cloud, endpoint, wanted)
                    if data.draw(st.booleans()) and world.network.connections:
                        direction: Direction = data.draw(st.sampled_from(["up", "down"]))
                        world.network.connections[-1].cut_after(direction, messages=data.draw(st.integers(1, 4)))
                    await trio.sleep(data.draw(st.sampled_from([0.0, 0.002, 0.01, 1.0])))
        async with world.cloud() as (cloud, _endpoint), world.edge(own_filter=own) as (edge, _):
            with trio.fail_after(600):
                while True:
                    await settled(cloud, position)
                    place = await cloud.push_filters.state("edge-1")
                    if (place.new.criteria, place.new.producer) == (parse_filter(wanted).criteria, own):
                        break
                    await trio.sleep(0.1)
            log, there = await whole_log(edge), await stories(cloud)
            for criteria in (wanted, own):
                log = log.select(match_batch(parse_filter(criteria), log).indexes)
            for name in set(log.persistence_id):
                numbers = [number for who, number in zip(log.persistence_id, log.seq_nr, strict=True) if who == name]
                assert there[name] == numbers
            for numbers in there.values():
                assert numbers == list(range(1, len(numbers) + 1))
            assert await cloud.parked.rows() == []

    trio.run(story, clock=MockClock(autojump_threshold=0))
