"""Snapshots that stand in for events on the way up: of what an edge lost before it was sent, and of a long backlog."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from common.core.events.batch import FOLDS_TAG, join_metadata, join_tags, new_events, split_tags
from common.core.events.replacing import REPLACES_KEY, replacing
from common.core.events.stated_range import StatedRange
from common.core.journal.append import LocalAppend
from common.core.journal.snapshot import NewSnapshot, SnapshotsBeside
from common.journal.memory.log import MemoryLog
from common.journal.memory.snapshots import MemorySnapshots
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.transport.memory.line import Direction, MemoryConnection
from common.transport.push.stand_ins import StandIns
from tests.component.transport.push.test_filters import settled, stories
from tests.component.transport.push.test_past import NOT_SECRET, grow, in_force, stated
from tests.support.push import PushWorld, append, whole_log


async def take(
    edge: Journal, name: str, seq_nr: int, payload: bytes = b"state", *, says_last_event: bool = False
) -> None:
    await edge.snapshots.put([NewSnapshot(name, seq_nr, "State", "json", payload, says_last_event=says_last_event)])


async def drop(edge: Journal, through: int, after: int = 0) -> None:
    """What the byte cap does: the events of these positions are gone, though the cloud does not have them."""
    await edge.log.trim(TrimLimit(through, 1_000, "dropped", after=after))


async def snapshots_in(cloud: Journal) -> dict[str, list[int]]:
    """By entity, the edge's numbers of what the cloud has as snapshots."""
    log, found = await whole_log(cloud), dict[str, list[int]]()
    for index in replacing(log):
        found.setdefault(log.persistence_id[index], []).append(log.origin_seq_nr[index])
    return found


@pytest.mark.parametrize("is_known_place", [True, False])
async def test_a_snapshot_stands_in_at_the_place_of_its_deleted_event(
    autojump_clock: MockClock, *, is_known_place: bool
) -> None:
    world = PushWorld()
    async with world.edge() as (edge, link):
        await append(edge, ["S|a", "S|b"] * 5)
        if is_known_place:
            await take(edge, "S|a", 3, b"three")
        await drop(edge, 6)
        if not is_known_place:
            await take(edge, "S|a", 3, b"three")
        async with world.cloud() as (cloud, _):
            await settled(cloud, 10)
            assert await stories(cloud) == {"S|a": [3, 4, 5], "S|b": [4, 5]}
            assert await snapshots_in(cloud) == {"S|a": [3]}
            assert (await whole_log(cloud)).payload[0] == b"three"
            assert await stated(cloud, "S|a") == [StatedRange("S|a", 1, 2, "snapshot")]
            assert await stated(cloud, "S|b") == [StatedRange("S|b", 1, 3, "dropped")]
            assert await cloud.parked.rows() == []
            assert (link.connects, link.withheld) == (1, 0)


async def test_a_snapshot_stands_in_for_what_is_deleted_and_for_what_is_stored_below_it(
    autojump_clock: MockClock,
) -> None:
    world = PushWorld(batch_events=4)
    async with world.edge() as (edge, link):
        await append(edge, ["S|a", "S|b"] * 10)
        await take(edge, "S|a", 7, b"seven")
        await take(edge, "S|b", 2, b"below what is gone")
        await drop(edge, 6)
        async with world.cloud() as (cloud, _):
            await settled(cloud, 20)
            assert await stories(cloud) == {"S|a": [7, 8, 9, 10], "S|b": [4, 5, 6, 7, 8, 9, 10]}
            assert await snapshots_in(cloud) == {"S|a": [7]}
            reasons = {one.reason for one in await stated(cloud, "S|a")}
            assert reasons == {"snapshot"}, "nothing of it is lost"
            assert await stated(cloud, "S|b") == [StatedRange("S|b", 1, 3, "dropped")]
            assert await cloud.parked.rows() == []
            assert (link.connects, link.withheld) == (1, 0)
            await append(edge, ["S|a"] * 3)
            await settled(cloud, 23)
            assert (await stories(cloud))["S|a"] == [*range(7, 14)]


async def test_what_is_trimmed_before_a_restored_cloud_has_it_is_replaced_too(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge() as (edge, _):
        async with world.cloud() as (cloud, _endpoint):
            await append(edge, ["S|a"] * 3)
            await settled(cloud, 3)
            backup = world.cloud_disk.copy()
            await append(edge, ["S|a"] * 7)
            await take(edge, "S|a", 8, b"eight")
            await settled(cloud, 10)
        await edge.log.trim(TrimLimit(5, 100))
        world.cloud_disk = backup
        async with world.cloud() as (cloud, _endpoint):
            await settled(cloud, 10)
            assert await stories(cloud) == {"S|a": [1, 2, 3, 8, 9, 10]}
            assert await cloud.parked.rows() == []


async def test_an_edge_far_behind_brings_latest_snapshots_and_what_came_after(autojump_clock: MockClock) -> None:
    world = PushWorld(batch_events=7)
    async with world.edge() as (edge, _):
        await append(edge, ["S|a", "S|b", "S|c"] * 20)
        await take(edge, "S|a", 18)
        await take(edge, "S|b", 20)
    async with world.edge(snapshots_if_behind=59) as (edge, link), world.cloud() as (cloud, _):
        await settled(cloud, 60)
        assert await stories(cloud) == {"S|a": [18, 19, 20], "S|b": [20], "S|c": [*range(1, 21)]}
        assert await snapshots_in(cloud) == {"S|a": [18], "S|b": [20]}
        assert {one.reason for name in ("S|a", "S|b") for one in await stated(cloud, name)} == {"snapshot"}
        assert link.withheld == 0
        await append(edge, ["S|a", "S|b"] * 3)
        await take(edge, "S|a", 22)
        await append(edge, ["S|a"])
        await settled(cloud, 67)
        assert (await stories(cloud))["S|a"] == [*range(18, 25)], "it is not far behind any more"


async def test_an_edge_that_is_not_so_far_behind_brings_everything(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge(snapshots_if_behind=60) as (edge, _):
        await append(edge, ["S|a"] * 60)
        await take(edge, "S|a", 18)
        async with world.cloud() as (cloud, _):
            await settled(cloud, 60)
            assert await stories(cloud) == {"S|a": [*range(1, 61)]}


async def test_a_wall_lets_no_snapshot_through_that_folds_what_it_forbids(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge(own_filter=NOT_SECRET, snapshots_if_behind=1) as (edge, _):
        for name, tags in (("S|a", ["secret", "blue", "blue"]), ("S|b", ["blue", "", "blue"])):
            await grow(edge, name, *tags)
            await take(edge, name, 3, b"folds " + name.encode())
        async with world.cloud() as (cloud, _):
            await settled(cloud, 6)
            log = await whole_log(cloud)
            assert await stories(cloud) == {"S|a": [2, 3], "S|b": [3]}
            assert b"folds S|a" not in log.payload
            assert "secret" not in log.tags
            [index] = replacing(log)
            assert split_tags(log.tags[index]) == ("blue", FOLDS_TAG), "walls of the cloud must know"


async def test_a_snapshot_that_is_not_selected_stands_for_nothing(autojump_clock: MockClock) -> None:
    world = PushWorld()
    async with world.edge(snapshots_if_behind=3) as (edge, _):
        async with world.cloud() as (cloud, endpoint):
            await in_force(cloud, endpoint)
        await grow(edge, "S|a", "red", "red", "blue", "blue")
        await grow(edge, "S|b", "red", "blue", "red", "red")
        await take(edge, "S|a", 4)
        await take(edge, "S|b", 3, says_last_event=True)
        async with world.cloud() as (cloud, endpoint):
            await settled(cloud, 8)
            assert await stories(cloud) == {"S|a": [1, 2, 3], "S|b": [3, 4]}
            assert await snapshots_in(cloud) == {"S|b": [3]}
            assert await cloud.parked.rows() == []


async def test_one_that_is_taken_meanwhile_behind_the_end_stands_in_as_well(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = PushWorld(batch_events=5)
    read = StandIns.read
    async with world.edge() as (edge, _):
        await append(edge, ["S|a", "S|b"] * 10)
        await take(edge, "S|a", 8)

    async def growing(self: StandIns, *args: object) -> object:
        made = await read(self, *args)  # type: ignore[arg-type]
        if edge.log.history.head_position < 40:
            await append(edge, ["S|a", "S|b"] * 2)
            head = await edge.log.entity_head("S|a")
            assert head is not None
            await take(edge, "S|a", head.seq_nr)
        return made

    monkeypatch.setattr(StandIns, "read", growing)
    async with world.edge(snapshots_if_behind=10) as (edge, _), world.cloud() as (cloud, _):
        await settled(cloud, 40)
        found = (await stories(cloud))["S|a"]
        assert found == sorted(found)
        [last] = (await snapshots_in(cloud))["S|a"]
        assert found == [*range(last, 21)], "no event of it came before its snapshot"
        assert (await stories(cloud))["S|b"] == [*range(1, 21)]
        assert await cloud.parked.rows() == []


async def test_what_is_dropped_between_the_two_reads_of_a_page_is_no_gap(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page whose snapshots were looked up before events behind one of them went would bring it, and then what is left."""
    world = PushWorld(batch_events=30)
    async with world.edge() as (edge, _):
        await append(edge, ["S|a", "S|b"] * 10)
        await take(edge, "S|a", 3)
    beside = MemorySnapshots.beside

    async def dropping(self: MemorySnapshots, *args: int, **kwargs: int | None) -> SnapshotsBeside:
        found = await beside(self, *args, **kwargs)  # type: ignore[arg-type]
        await drop(edge, 12)
        return found

    monkeypatch.setattr(MemorySnapshots, "beside", dropping)
    async with world.edge(snapshots_if_behind=10) as (edge, _), world.cloud() as (cloud, _):
        await settled(cloud, 20)
        assert await cloud.parked.rows() == []
        assert await stories(cloud) == {name: [7, 8, 9, 10] for name in ("S|a", "S|b")}


async def test_many_that_are_gone_are_looked_up_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = PushWorld(batch_events=4)
    asked = list[int]()
    async with world.edge() as (edge, _):
        await append(edge, [f"S|{n}" for n in range(20)] * 3)
        for n in range(20):
            await take(edge, f"S|{n}", 3)
        await drop(edge, 40)
    deleted_entities = MemoryLog.deleted_entities

    async def counted(self: MemoryLog, after: int, through: int, *, max_rows: int) -> list[tuple[StatedRange, int]]:
        asked.append(after)
        return await deleted_entities(self, after, through, max_rows=max_rows)

    monkeypatch.setattr(MemoryLog, "deleted_entities", counted)
    async with world.edge() as (edge, _), world.cloud() as (cloud, _):
        await settled(cloud, 60)
        assert asked == [0]
        assert await stories(cloud) == {f"S|{n}": [3] for n in range(20)}
        await append(edge, ["S|0"] * 4)
        await drop(edge, 62, after=60)
        await settled(cloud, 64)
        assert await cloud.parked.rows() == []


async def test_one_with_as_many_tags_and_metadata_as_an_event_may_have_is_taken(autojump_clock: MockClock) -> None:
    world = PushWorld()
    tags, metadata = join_tags(f"tag-{n}" for n in range(32)), join_metadata({f"key-{n}": "x" for n in range(32)})
    async with world.edge(snapshots_if_behind=1) as (edge, _):
        await grow(edge, "S|a", "blue")
        await edge.log.append_group([LocalAppend(new_events(["S|a"], ["Read"], [b"{}"], tags=[tags]))])
        await edge.snapshots.put([NewSnapshot("S|a", 2, "State", "json", b"{}", metadata=metadata)])
        async with world.cloud() as (cloud, _):
            await settled(cloud, 2)
            log = await whole_log(cloud)
            assert await cloud.parked.rows() == []
            assert replacing(log) == [0]
            assert log.metadata[0].count(REPLACES_KEY) == 1


class Breaking(list[MemoryConnection]):
    """The connections of a line of which each breaks after a few messages of one direction."""

    def __init__(self, direction: Direction, messages: int) -> None:
        super().__init__()
        self._direction: Direction = direction
        self._messages = messages

    def append(self, line: MemoryConnection) -> None:
        line.cut_after(self._direction, messages=self._messages)
        super().append(line)


async def check_whole(cloud: Journal) -> None:
    """Each number once, in order, and what is missing is stated; what is replaced has its snapshot behind it."""
    assert await cloud.parked.rows() == []
    snapshots = await snapshots_in(cloud)
    for name, numbers in (await stories(cloud)).items():
        assert numbers == sorted(set(numbers))
        missing = set(range(1, numbers[-1] + 1)) - set(numbers)
        for one in await stated(cloud, name):
            missing -= set(range(one.from_seq_nr, one.to_seq_nr + 1))
            if one.reason == "snapshot":
                assert min(number for number in numbers if number > one.to_seq_nr) in snapshots[name]
        assert not missing, name


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("is_lost", [True, False])
@pytest.mark.parametrize("messages", [2, 3])
async def test_a_line_that_breaks_again_and_again_loses_and_repeats_nothing(
    direction: Direction, messages: int, autojump_clock: MockClock, *, is_lost: bool
) -> None:
    world = PushWorld(batch_events=4)
    async with world.edge() as (edge, _):
        names = ["S|a", "S|b", "S|c", "S|b"] * 15
        await append(edge, names)
        await take(edge, "S|a", 14)
        await take(edge, "S|b", 20)
        if is_lost:
            await drop(edge, 30)
    world.network.connections = Breaking(direction, messages)
    async with world.cloud() as (cloud, _), world.edge(snapshots_if_behind=0 if is_lost else 20) as (edge, link):
        await append(edge, ["S|a", "S|c"])
        await settled(cloud, 62)
        assert link.connects > 1
        await check_whole(cloud)
        assert await snapshots_in(cloud) == {"S|a": [14], "S|b": [20]}


@pytest.mark.parametrize("is_lost", [True, False])
async def test_an_edge_that_starts_again_in_the_middle_goes_on_with_the_snapshot(
    autojump_clock: MockClock, *, is_lost: bool
) -> None:
    """Part of what it stands for has been stated, and the entity's last loss lies behind the place by then."""
    world = PushWorld(batch_events=4)
    async with world.edge() as (edge, _):
        await append(edge, ["S|a", "S|b"] * 20)
        await take(edge, "S|a", 18, b"eighteen")
        if is_lost:
            await drop(edge, 4)
    connections = world.network.connections
    async with world.cloud() as (cloud, _):
        world.network.connections = Breaking("up", 4)
        async with world.edge(snapshots_if_behind=0 if is_lost else 39):
            await trio.sleep(0.1)
        [state] = await cloud.origins.rows()
        assert 0 < state.stored.position < 35, "the test is to end the edge in the middle"
        world.network.connections = connections
        async with world.edge(snapshots_if_behind=0 if is_lost else 39):
            await settled(cloud, 40)
            assert (await stories(cloud))["S|a"] == [18, 19, 20]
            await check_whole(cloud)


@pytest.mark.parametrize("is_lost", [True, False])
async def test_a_restored_copy_of_the_edge_goes_on_without_a_parked_event(
    autojump_clock: MockClock, *, is_lost: bool
) -> None:
    """It does not know that a snapshot was to come, and still has what was stated as replaced."""
    world = PushWorld(batch_events=4)
    async with world.edge() as (edge, _):
        await append(edge, ["S|a", "S|b"] * 20)
        backup = world.edge_disk.copy()
        await take(edge, "S|a", 18, b"eighteen")
        if is_lost:
            await drop(edge, 12)
    connections = world.network.connections
    async with world.cloud() as (cloud, _):
        world.network.connections = Breaking("up", 5)
        async with world.edge(snapshots_if_behind=0 if is_lost else 39):
            await trio.sleep(0.1)
        [state] = await cloud.origins.rows()
        assert 0 < state.stored.position < 35, "the test is to end the edge in the middle"
        world.network.connections = connections
        world.edge_disk = backup
        async with world.edge() as (edge, _):
            await append(edge, ["S|a"])
            await settled(cloud, 41)
            assert await cloud.parked.rows() == []
            assert (await stories(cloud))["S|a"][-3:] == [19, 20, 21]
