"""Where things are: positions, the cells of a grid, distances. Both sides speak of places."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, floor, hypot, radians

CELL_DEGREES = 0.01
_KM_PER_DEGREE = 111.2


@dataclass(frozen=True)
class Position:
    """A point on earth, in degrees."""

    lat: float
    lon: float

    @property
    def is_on_earth(self) -> bool:
        """Whether there is such a point."""
        return -90 <= self.lat <= 90 and -180 <= self.lon <= 180

    @property
    def cell(self) -> str:
        """The name of the grid cell it is in: about a kilometre wide."""
        return f"{floor(self.lat / CELL_DEGREES)}/{floor(self.lon / CELL_DEGREES)}"

    def km_to(self, other: Position) -> float:
        """Distance as a drone flies, for places of one town."""
        narrowing = cos(radians((self.lat + other.lat) / 2))
        return _KM_PER_DEGREE * hypot(self.lat - other.lat, (self.lon - other.lon) * narrowing)
