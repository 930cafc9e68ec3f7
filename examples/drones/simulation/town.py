"""The towns of the two sites, and how a drone flies over one: from one place to the next, in steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from examples.drones.places import CELL_DEGREES, Position

WIDTH: Final = 22
HEIGHT: Final = 9
_STEP_DEGREES: Final = CELL_DEGREES / 3


@dataclass(frozen=True, slots=True)
class Town:
    """A site's part of the world: ``HEIGHT`` by ``WIDTH`` cells from its south-west corner."""

    site: str
    south: float
    west: float
    restaurants: tuple[str, ...]

    def somewhere(self, chance: Random) -> Position:
        """Any place in it, away from the edges of cells, where two computers might round apart."""
        return Position(
            round(self.south + (chance.randrange(HEIGHT) + 0.5) * CELL_DEGREES, 5),
            round(self.west + (chance.randrange(WIDTH) + 0.5) * CELL_DEGREES, 5),
        )

    def row_and_column(self, cell: str) -> tuple[int, int]:
        """Where a cell is on the map of the town, from its south-west corner."""
        lat, lon = (int(part) for part in cell.split("/"))
        return lat - round(self.south / CELL_DEGREES), lon - round(self.west / CELL_DEGREES)


TOWNS: Final = (
    Town("north", 59.85, 10.65, ("pizza", "sushi")),
    Town("south", 57.65, 11.85, ("tacos", "ramen", "curry")),
)


def flight(town: Town, chance: Random) -> Iterator[Position]:
    """Positions of a drone without end, each a step from the one before."""
    here = town.somewhere(chance)
    while True:
        there = town.somewhere(chance)
        steps = max(1, round(max(abs(there.lat - here.lat), abs(there.lon - here.lon)) / _STEP_DEGREES))
        for step in range(steps):
            part = step / steps
            yield Position(
                round(here.lat + (there.lat - here.lat) * part, 6), round(here.lon + (there.lon - here.lon) * part, 6)
            )
        here = there
