"""The overview: a projection over given events."""

from trio.testing import MockClock

from common.app import EventTypes
from common.testing import projecting
from examples.drones.drone import CellEntered, PositionReported
from examples.drones.overview import ROWS, overview
from examples.drones.places import Position


async def test_a_drone_has_one_row_with_its_latest_cell(autojump_clock: MockClock) -> None:
    async with projecting(overview, registry=EventTypes([CellEntered, PositionReported])) as kit:
        await kit.given("Drone", "north/d1", CellEntered("1/1"), PositionReported(Position(0, 0)), CellEntered("1/2"))
        await kit.given("Drone", "south/d1", CellEntered("7/7"))
        assert await kit.rows(ROWS) == [("north/d1", "1/2", 2), ("south/d1", "7/7", 1)]
