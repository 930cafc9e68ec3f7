"""What a node keeps of its edges: in one batch, little for idle ones, and nothing is missed between two looks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cloud_service.fleet import FleetKeeper
from common.core.errors import BackhaulError, ErrorKind
from common.core.fleet.facts import from_json
from common.core.flow.messages import EdgeHealth
from common.journal.stores.fleet import FleetNote, FleetRow
from common.transport.push.endpoint_stream import OriginStream

SECOND = 1_000_000


class CountingFleet:
    """Rows in memory; counts what is written."""

    def __init__(self) -> None:
        self.stored: dict[str, FleetRow] = {}
        self.notes: list[FleetNote] = []
        self.calls = 0
        self.rows_written = 0
        self.fails = False

    async def rows(self, origin_ids: Collection[str] | None = None) -> list[FleetRow]:
        return [row for name, row in self.stored.items() if origin_ids is None or name in origin_ids]

    async def record(self, node: str, now_us: int, rows: Sequence[FleetRow], notes: Sequence[FleetNote]) -> None:
        if self.fails:
            raise BackhaulError("journal.unavailable", "away", "wait", kind=ErrorKind.UNAVAILABLE)
        self.calls += 1
        self.rows_written += len(rows)
        self.stored |= {row.origin_id: row for row in rows}
        self.notes += notes


class World:
    def __init__(self, *, is_alone: bool = False) -> None:
        self.now_us = 3_600 * 1_000 * SECOND
        self.fleet = CountingFleet()
        endpoint: Any = SimpleNamespace(streams=[], on_end=None)
        fleet: Any = self.fleet
        self.endpoint = endpoint
        self.keeper = FleetKeeper(fleet, endpoint, lambda: self.now_us, node="n1", is_alone=is_alone)

    def connect(self, name: str, session: int = 1) -> OriginStream:
        state = OriginStream(name, session, "", self.now_us, "resume", 5, stored_position=5, journal_id="j")
        self.endpoint.streams.append(state)
        return state

    def disconnect(self, state: OriginStream, code: str = "link.lost") -> None:
        self.endpoint.streams.remove(state)
        self.endpoint.on_end(state, code, "reason")

    async def look(self, after_s: float = 2.0) -> None:
        self.now_us += round(after_s * SECOND)
        await self.keeper.look()

    def what(self, name: str) -> list[str]:
        return [note.kind for note in self.fleet.notes if note.origin_id == name and note.kind not in ("day", "hour")]


@pytest.fixture
def world() -> World:
    return World()


async def test_a_thousand_idle_edges_cost_five_rows_a_second_in_one_batch(world: World) -> None:
    streams = [world.connect(f"e{number}") for number in range(1_000)]
    await world.look()
    calls, rows = world.fleet.calls, world.fleet.rows_written
    for step in range(300):  # ten minutes, with heartbeats whose numbers move a little
        for state in streams:
            state.health = EdgeHealth(5, used_bytes=step, free_bytes=10_000 - step, version="1")
            state.clock_skew_s = step / 1000
        await world.look()
    assert (world.fleet.calls - calls) / 600 < 1
    assert (world.fleet.rows_written - rows) / 600 < 5


async def test_a_node_writes_that_it_is_alive_only_where_another_one_may_look() -> None:
    for is_alone, calls in ((False, 12), (True, 0)):
        world = World(is_alone=is_alone)
        for _ in range(60):
            await world.look()
        assert world.fleet.calls == calls


async def test_a_stream_that_came_and_went_between_two_looks_is_kept(world: World) -> None:
    world.disconnect(world.connect("e1"), "link.stalled")
    await world.look()
    assert world.what("e1") == ["connected", "disconnected"]
    facts = from_json(world.fleet.stored["e1"].facts)
    assert (facts.state, facts.end_code, facts.connects) == ("offline", "link.stalled", 1)


async def test_a_reconnect_between_two_looks_is_two_changes(world: World) -> None:
    first = world.connect("e1")
    await world.look()
    world.disconnect(first)
    world.connect("e1", 2)
    await world.look()
    assert world.what("e1") == ["connected", "disconnected", "connected"]
    assert from_json(world.fleet.stored["e1"].facts).connects == 2


async def test_an_end_is_dated_when_it_was_and_not_when_it_was_written(world: World) -> None:
    """Else the timeline has the end of a short cut, or of one while the database was away, behind the next beginning."""
    first = world.connect("e1")
    await world.look()
    ended_us = world.now_us = world.now_us + SECOND
    world.disconnect(first)
    world.now_us += SECOND // 2
    world.connect("e1", 2)
    world.fleet.fails = True
    with pytest.raises(BackhaulError):
        await world.look()
    world.fleet.fails = False
    await world.look()
    dated = {note.kind: note.at_us for note in world.fleet.notes}
    assert dated["disconnected"] == ended_us
    assert dated["connected"] == ended_us + SECOND // 2


async def test_an_edge_that_comes_from_another_node_goes_on_with_what_was_known(world: World) -> None:
    before = World()
    before.disconnect(before.connect("e1"))
    await before.look()
    world.fleet.stored = before.fleet.stored
    world.connect("e1", 2)
    await world.look()
    facts = from_json(world.fleet.stored["e1"].facts)
    assert (facts.state, facts.connects, facts.end_code) == ("connected", 2, "link.lost")


async def test_what_could_not_be_written_is_written_later(world: World) -> None:
    world.fleet.fails = True
    state = world.connect("e1")
    for _ in range(3):
        with pytest.raises(BackhaulError):
            await world.look()
    world.disconnect(state)
    with pytest.raises(BackhaulError):
        await world.look()
    world.fleet.fails = False
    await world.look()
    assert world.what("e1") == ["connected", "disconnected"]
    assert from_json(world.fleet.stored["e1"].facts).state == "offline"
