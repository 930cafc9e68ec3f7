"""An entity that comes into what is pushed brings its past: over memory pipes and a mock clock, cut and restarted anywhere."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from common.core.events.batch import FOLDS_TAG, new_events, split_tags
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.filters.permission import match_batch, within
from common.core.filters.predicates import EVERY_ENTITY, parse_filter
from common.core.journal.append import LocalAppend
from common.core.journal.snapshot import NewSnapshot
from common.core.policy.parsing import parse_policy
from common.core.push.messages import PastQuestion
from common.core.push.past import PastBatch
from common.core.push.receiver import Endpoint
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.transport.memory.line import Direction, MemoryConnection
from common.transport.push.endpoint import PushEndpoint
from common.transport.push.past import PastLane
from tests.component.transport.push.test_filters import NOTHING, RED, ask, settled, stories
from tests.support.push import PushWorld, append, live_connection, wait_for_head, whole_log

NOT_SECRET = parse_filter('[{"exclude_tags":["secret"]}]').criteria
ONLY_RED = parse_filter(RED).criteria


async def stated(cloud: Journal, name: str) -> list[StatedRange]:
    return [kept.stated for kept in await cloud.origins.stored_ranges(name)]


async def in_force(cloud: Journal, endpoint: PushEndpoint, criteria: str = RED, past: Past = Past.SNAPSHOT) -> None:
    """Asked for, and obeyed by the edge: what is appended now comes under it."""
    await cloud.push_filters.ask("edge-1", parse_filter(criteria).criteria, past)
    await endpoint.refresh_filters()
    with trio.fail_after(600):
        while (await cloud.push_filters.state("edge-1")).new.criteria != parse_filter(criteria).criteria:  # noqa: ASYNC110 - under a mock clock a look now and then costs nothing
            await trio.sleep(0.1)


async def grow(edge: Journal, name: str, *tags: str) -> None:
    for one in tags:
        await append(edge, [name], tags=one)


async def test_an_entity_that_enters_by_its_tags_brings_its_past(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, link):
        await in_force(cloud, endpoint)
        await grow(edge, "S|a", *["blue"] * 120, "red", "blue", "blue", "", "red")
        await append(edge, ["S|b"], tags="blue")
        await settled(cloud, 126)
        assert await stories(cloud) == {"S|a": [*range(1, 126)]}
        assert await stated(cloud, "S|a") == []
        assert await cloud.parked.rows() == []
        log, own = await whole_log(cloud), await whole_log(edge)
        assert log.payload == own.payload[:125]
        assert log.tags == own.tags[:125]
        assert link.connects == 1


@pytest.mark.parametrize(
    ("asked", "own", "numbers"),
    [
        (Past.SNAPSHOT, Past.FULL, [2, 3]),
        (Past.FULL, Past.FULL, [1, 2, 3]),
        (Past.NONE, Past.FULL, [3]),
        (Past.FULL, Past.SNAPSHOT, [2, 3]),
        (Past.FULL, Past.NONE, [3]),
    ],
)
async def test_how_much_past_asks_the_cloud_and_limits_the_edge(
    autojump_clock: MockClock, asked: Past, own: Past, numbers: list[int]
) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge(own_past=own) as (edge, _):
        await in_force(cloud, endpoint, past=asked)
        await grow(edge, "S|a", "blue", "blue")
        await edge.snapshots.put([NewSnapshot("S|a", 2, "State", "json", b"{}")])
        await grow(edge, "S|a", "red")
        await settled(cloud, 3)
        assert await stories(cloud) == {"S|a": numbers}
        reason = "withheld" if Past.NONE in (asked, own) else "snapshot"
        missing = numbers[0] - 1
        assert await stated(cloud, "S|a") == ([StatedRange("S|a", 1, missing, reason)] if missing else [])


async def test_the_latest_snapshot_stands_for_what_is_before_it(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        await in_force(cloud, endpoint)
        await grow(edge, "S|a", *["blue"] * 5)
        await edge.snapshots.put([NewSnapshot("S|a", 4, "State", "json", b"four")])
        await grow(edge, "S|a", "red")
        await settled(cloud, 6)
        assert await stories(cloud) == {"S|a": [4, 5, 6]}
        assert (await whole_log(cloud)).payload[0] == b"four"
        assert await stated(cloud, "S|a") == [StatedRange("S|a", 1, 3, "snapshot")]


async def test_a_snapshot_that_folds_other_tags_passes_no_wall_of_the_cloud(autojump_clock: MockClock) -> None:
    """It stands in the cloud's log like an event, with the tags of its last one."""
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        await in_force(cloud, endpoint)
        for name, last in (("S|a", NewSnapshot("S|a", 2, "State", "json", b"folds a secret")), ("S|b", None)):
            await grow(edge, name, "secret", "blue")
            said = last or NewSnapshot(name, 2, "State", "json", b"says blue", says_last_event=True)
            await edge.snapshots.put([said])
            await grow(edge, name, "red")
        await settled(cloud, 6)
        assert await stories(cloud) == {"S|a": [2, 3], "S|b": [2, 3]}
        log, wall = await whole_log(cloud), within(parse_filter('[{"exclude_tags":["secret"]}]'), EVERY_ENTITY)
        seen = [log.payload[index] for index in match_batch(wall, log).indexes]
        assert b"says blue" in seen
        assert b"folds a secret" not in seen
        tags = dict(zip(log.payload, map(split_tags, log.tags), strict=True))
        assert (tags[b"folds a secret"], tags[b"says blue"]) == (("blue", FOLDS_TAG), ("blue",))


async def test_a_snapshot_of_the_entering_event_or_above_stands_for_nothing(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, _):
        await grow(edge, "S|a", "blue", "blue", "red", "red")
        await grow(edge, "S|b", "blue", "red")
        await grow(edge, "S|c", "blue", "blue", "blue", "red")
        await edge.snapshots.put([NewSnapshot("S|c", 2, "State", "json", b"{}")])
        await edge.snapshots.put([NewSnapshot("S|c", 4, "State", "json", b"{}")], keep=2)
        await edge.snapshots.put([NewSnapshot("S|a", 4, "State", "json", b"{}")])
        await edge.snapshots.put([NewSnapshot("S|b", 2, "State", "json", b"{}")])
        async with world.cloud() as (cloud, _endpoint):
            await cloud.push_filters.ask("edge-1", ONLY_RED)
            await settled(cloud, 10)
            assert await stories(cloud) == {"S|a": [1, 2, 3, 4], "S|b": [1, 2], "S|c": [2, 3, 4]}, "an older one does"
            assert await cloud.parked.rows() == []


async def test_a_snapshot_stands_for_what_retention_deleted_and_the_rest_is_stated(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        await in_force(cloud, endpoint)
        for name in ("S|a", "S|b"):
            await grow(edge, name, *["blue"] * 5)
        await edge.snapshots.put([NewSnapshot("S|a", 3, "State", "json", b"three")])
        await settled(cloud, 10)
        await edge.log.trim(TrimLimit(2, 10))
        await edge.log.trim(TrimLimit(7, 10, after=5))
        await append(edge, ["S|a", "S|b"], tags="red")
        await settled(cloud, 12)
        assert await stories(cloud) == {"S|a": [3, 4, 5, 6], "S|b": [3, 4, 5, 6]}
        assert await stated(cloud, "S|a") == [StatedRange("S|a", 1, 2, "snapshot")]
        assert await stated(cloud, "S|b") == [StatedRange("S|b", 1, 2, "trimmed")]


async def test_a_wall_lets_neither_events_nor_snapshots_through_that_it_forbids(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge(own_filter=NOT_SECRET) as (edge, _):
        await in_force(cloud, endpoint)
        await grow(edge, "S|a", "blue", "secret", "blue", "secret", "red")
        await edge.snapshots.put([NewSnapshot("S|a", 3, "State", "json", b"folds a secret")])
        await grow(edge, "S|b", "blue", "blue")
        await edge.snapshots.put([NewSnapshot("S|b", 2, "State", "json", b"folds none")])
        await append(edge, ["S|a", "S|b"], tags="red")
        await settled(cloud, 9)
        log = await whole_log(cloud)
        assert "secret" not in log.tags
        assert b"folds a secret" not in log.payload
        assert await stories(cloud) == {"S|a": [1, 3, 5, 6], "S|b": [2, 3]}
        assert [(one.from_seq_nr, one.to_seq_nr) for one in await stated(cloud, "S|a")] == [(2, 2), (4, 4)]


async def test_a_wider_filter_brings_the_past_of_what_it_selects(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        await ask(cloud, endpoint, NOTHING)
        await grow(edge, "S|a", "blue", "blue", "red", "blue")
        await settled(cloud, 4)
        await ask(cloud, endpoint, RED)
        await settled(cloud, 4)
        await wait_for_head(cloud, 4)
        assert await stories(cloud) == {"S|a": [1, 2, 3, 4]}


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_cuts_at_every_message_lose_and_repeat_nothing(direction: Direction, autojump_clock: MockClock) -> None:
    world = PushWorld(batch_events=5)
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        await in_force(cloud, endpoint)
        head = 0
        for messages in range(1, 14):
            await append(edge, [f"S|{messages}", "S|a"] * 11, tags="blue")
            await settled(cloud, head + 22)
            line = await live_connection(world.network)
            line.cut_after(direction, messages=messages)
            await append(edge, [f"S|{messages}", "S|a"], tags="red")
            head += 24
            await settled(cloud, head)
        await trio.sleep(60)
        assert await stories(cloud) == await stories(edge)
        assert await cloud.parked.rows() == []


async def test_a_snapshot_taken_when_its_event_was_deleted_stands_for_it(autojump_clock: MockClock) -> None:
    """Where its event stood is not known then: the place where it was taken may be behind the entering event."""
    world = PushWorld()
    async with world.edge() as (edge, link):
        async with world.cloud() as (cloud, endpoint):
            await ask(cloud, endpoint, RED)
            await grow(edge, "S|a", "blue", "blue")
            await settled(cloud, 2)
            await edge.log.trim(TrimLimit(2, 10))
        await grow(edge, "S|a", "red")
        await edge.snapshots.put([NewSnapshot("S|a", 2, "State", "json", b"two")])
        async with world.cloud() as (cloud, _):
            await settled(cloud, 3)
            assert await stories(cloud) == {"S|a": [2, 3]}
            assert await stated(cloud, "S|a") == [StatedRange("S|a", 1, 1, "snapshot")]
            assert link.last_code != "link.protocol"


async def test_an_entering_event_may_be_dropped_while_its_past_is_asked_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, link):
        ask_cloud, questions = PastLane._ask, list[list[str]]()

        async def slow(self: PastLane, names: list[str]) -> tuple[int, ...]:
            known = await ask_cloud(self, names)
            if not questions:
                await grow(edge, "S|a", "blue", "blue")
                await edge.log.trim(TrimLimit(5, 10, reason="dropped"))
            questions.append(names)
            return known

        monkeypatch.setattr(PastLane, "_ask", slow)
        await ask(cloud, endpoint, RED)
        await grow(edge, "S|a", "blue", "blue")
        await settled(cloud, 2)
        await grow(edge, "S|a", "red")
        await settled(cloud, 5)
        await grow(edge, "S|a", "blue", "red")
        await settled(cloud, 7)
        assert (await stories(cloud))["S|a"][-2:] == [6, 7]
        assert await cloud.parked.rows() == []
        assert link.connects == 1


class Breaking(list[MemoryConnection]):
    """The connections of a line of which each breaks after a few messages of the edge."""

    def append(self, line: MemoryConnection) -> None:
        line.cut_after("up", messages=8)
        super().append(line)


async def test_a_long_past_goes_on_where_a_cut_left_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that breaks again and again: what was brought is not brought again, so it is whole in the end."""
    brought: Counter[int] = Counter()
    add = PastBatch.add

    def counted(self: PastBatch, part: object, covered: int) -> int:
        brought.update(part.events.seq_nr)  # type: ignore[attr-defined]
        return add(self, part, covered)  # type: ignore[arg-type]

    monkeypatch.setattr(PastBatch, "add", counted)
    world = PushWorld(batch_events=10)
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, link):
        await in_force(cloud, endpoint)
        await append(edge, ["S|a"] * 600, tags="blue")
        await settled(cloud, 600)
        line = await live_connection(world.network)
        world.network.connections = Breaking(world.network.connections)
        line.cut_after("up", messages=8)
        await append(edge, ["S|a"], tags="red")
        await settled(cloud, 601)
        assert link.connects > 5
        assert (await stories(cloud))["S|a"] == [*range(1, 602)]
        assert max(brought.values()) <= 3, "only what was under way at a cut is sent twice"


async def test_a_storm_of_entities_is_asked_for_together(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[int] = []
    receive = Endpoint.receive_question

    def counted(self: Endpoint, question: PastQuestion) -> None:
        questions.append(len(question.persistence_ids))
        receive(self, question)

    monkeypatch.setattr(Endpoint, "receive_question", counted)
    world = PushWorld(batch_events=200)
    names = [f"S|{index}" for index in range(1000)]
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        await in_force(cloud, endpoint)
        await append(edge, names * 3, tags="blue")
        await settled(cloud, 3000)
        await append(edge, names, tags="red")
        await settled(cloud, 4000)
        assert await stories(cloud) == await stories(edge)
        assert sum(questions) == 1000
        assert len(questions) <= 10


async def test_an_entity_that_comes_and_goes_on_one_stream_is_asked_for_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    ask_cloud = PastLane._ask

    async def counted(self: PastLane, names: list[str]) -> tuple[int, ...]:
        asked.append(tuple(names))
        return await ask_cloud(self, names)

    monkeypatch.setattr(PastLane, "_ask", counted)
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        await in_force(cloud, endpoint)
        await grow(edge, "S|a", *["blue", "blue", "red", "blue", "blue", "blue"] * 10)
        await settled(cloud, 60)
        await grow(edge, "S|a", "red")
        await settled(cloud, 61)
        assert (await stories(cloud))["S|a"] == [*range(1, 62)]
        assert asked == [("S|a",)]


async def test_of_an_entity_that_another_owns_nothing_is_brought(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, _):
        await cloud.log.append_group([LocalAppend(new_events(["S|a"], ["Read"], [b"own"]))])
        await in_force(cloud, endpoint)
        await grow(edge, "S|a", "blue", "blue", "red")
        await settled(cloud, 3)
        rows = await cloud.parked.rows()
        assert [(row.code, row.event.seq_nr) for row in rows] == [("parked.foreign_owner", 3)]


async def test_of_an_entity_that_the_edge_may_not_write_nothing_is_brought_nor_said(autojump_clock: MockClock) -> None:
    """The first thing that a stream brings may be a question: the policy of that moment answers it."""
    policy = parse_policy("[[rule]]\nwho = '*'\nwrite = '*|{id}/*'", "policy")
    world = PushWorld().with_endpoint(policy=lambda: policy)
    async with world.cloud() as (cloud, _):
        await cloud.push_filters.ask("edge-1", ONLY_RED)
        async with world.edge() as (edge, link):
            await grow(edge, "S|other/a", "blue", "blue")
            await settled(cloud, 2)
            line = await live_connection(world.network)
            line.cut_after("down", messages=0)
            await grow(edge, "S|other/a", "red")
            await settled(cloud, 3)
            rows = await cloud.parked.rows()
            assert [(row.code, row.event.seq_nr) for row in rows] == [("parked.not_allowed", 3)]
            assert link.connects > 1


async def test_the_past_of_an_entity_with_parked_events_queues_behind_them(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, link):
        await in_force(cloud, endpoint)
        await append(edge, ["S|a"], tags="red", payload_bytes=400_000)  # larger than an event may be
        await grow(edge, "S|a", "blue", "blue", "blue", "red")
        await settled(cloud, 5)
        with capture_logs():
            rows = await cloud.parked.rows()
        assert [row.event.seq_nr for row in rows] == [1, 2, 3, 4, 5]
        assert rows[0].code != "parked.behind"
        assert {row.code for row in rows[1:]} == {"parked.behind"}
        await trio.sleep(60)
        assert link.connects == 1


async def test_either_side_may_restart_anywhere_in_a_past(autojump_clock: MockClock) -> None:
    world = PushWorld(batch_events=7, commit_s=0.01)
    async with world.edge() as (edge, _), world.cloud() as (cloud, endpoint):
        await in_force(cloud, endpoint)
        await append(edge, [f"S|{name}" for name in "abcdef"] * 60, tags="blue")
        await settled(cloud, 360)
        await append(edge, [f"S|{name}" for name in "abcdef"], tags="red")
        await trio.sleep(0.03)
    for _ in range(12):
        async with world.cloud(), world.edge():
            await trio.sleep(0.0437)
        async with world.edge(), world.cloud():
            await trio.sleep(0.081)
    async with world.cloud() as (cloud, _endpoint), world.edge() as (edge, _link):
        await settled(cloud, 366)
        assert await stories(cloud) == await stories(edge)
        assert await cloud.parked.rows() == []


@settings(
    max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_happens_each_number_is_there_or_said_to_be_gone(data: st.DataObject) -> None:
    """Moves between sites, changes of the filter, snapshots, retention, cuts and restarts of both sides."""
    tags = st.sampled_from(["", "red", "blue", "secret"])
    names = st.sampled_from(["S|a", "S|b", "S|c"])
    filters = st.sampled_from([RED, NOTHING, "[]", '[{"exclude_all":true},{"include_tags":["red","blue"]}]'])
    own = data.draw(st.sampled_from(["[]", NOT_SECRET]))

    async def story() -> None:
        world = PushWorld(batch_events=data.draw(st.integers(1, 9)))
        position = 0
        for _ in range(data.draw(st.integers(1, 3))):
            async with world.cloud() as (cloud, endpoint), world.edge(own_filter=own) as (edge, link):
                for _ in range(data.draw(st.integers(1, 6))):
                    for name, tag in data.draw(st.lists(st.tuples(names, tags), min_size=1, max_size=10)):
                        await append(edge, [name], tags=tag)
                        position += 1
                    if data.draw(st.booleans()):
                        await ask(cloud, endpoint, data.draw(filters))
                    if data.draw(st.booleans()):
                        name = data.draw(names)
                        head = await edge.log.entity_head(name)
                        if head:
                            await edge.snapshots.put([NewSnapshot(name, head.seq_nr, "State", "json", b"{}")])
                    if data.draw(st.booleans()) and link.acked_position:
                        await edge.log.trim(TrimLimit(link.acked_position, data.draw(st.integers(1, 5))))
                    if data.draw(st.booleans()) and world.network.connections:
                        direction: Direction = data.draw(st.sampled_from(["up", "down"]))
                        world.network.connections[-1].cut_after(direction, messages=data.draw(st.integers(1, 6)))
                    await trio.sleep(data.draw(st.sampled_from([0.0, 0.002, 0.01, 1.0])))
        async with world.cloud() as (cloud, endpoint), world.edge(own_filter=own) as (edge, _):
            await ask(cloud, endpoint, "[]")
            await append(edge, ["S|a", "S|b", "S|c"], tags="red")
            await settled(cloud, position + 3)
            await trio.sleep(5)
            await settled(cloud, position + 3)
            assert await cloud.parked.rows() == []
            there = await stories(cloud)
            log = await whole_log(cloud)
            if own == NOT_SECRET:
                assert "secret" not in log.tags
            for name, numbers in there.items():
                said = [n for one in await stated(cloud, name) for n in range(one.from_seq_nr, one.to_seq_nr + 1)]
                head = await edge.log.entity_head(name)
                assert head is not None
                assert numbers == sorted(set(numbers))
                assert sorted(numbers + said) == list(range(1, head.seq_nr + 1))
                for one in await stated(cloud, name):
                    kept = await edge.log.read_entity(name, one.from_seq_nr, one.to_seq_nr, max_events=1000)
                    if one.reason == "withheld":
                        assert set(kept.tags) <= {"secret"}, "what may be seen is brought"

    trio.run(story, clock=MockClock(autojump_threshold=0))
