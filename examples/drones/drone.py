"""A drone, as its site knows it: every report is an event, and so is every change of cell. Only the latter leave the site."""

from __future__ import annotations

from dataclasses import dataclass

from common.app import Decision, Envelope, EventSourced, accept, reject
from examples.drones.places import Position


@dataclass(frozen=True)
class Report:
    """Command: here I am."""

    position: Position


@dataclass(frozen=True)
class PositionReported:
    """The fine event, one for each report."""

    position: Position


@dataclass(frozen=True)
class CellEntered:
    """The coarse event: the drone is in another cell of the grid."""

    cell: str


@dataclass(frozen=True)
class Drone:
    """What is known of a drone."""

    position: Position | None = None
    cell: str = ""


class Drones(EventSourced[Drone, Report, PositionReported | CellEntered]):
    """Drones of a site."""

    entity_type = "Drone"
    empty = Drone()
    snapshot_every = 100  # so that retention may forget where it was long ago

    def decide(self, drone: Drone, command: Report) -> Decision:
        position = command.position
        if not position.is_on_earth:
            return reject("that is not on earth")
        if position.cell == drone.cell:
            return accept(PositionReported(position))
        return accept(PositionReported(position), CellEntered(position.cell))

    def evolve(self, drone: Drone, event: PositionReported | CellEntered) -> Drone:
        match event:
            case PositionReported(position):
                return Drone(position, drone.cell)
            case CellEntered(cell):
                return Drone(drone.position, cell)


def coarse_only(event: Envelope) -> Envelope | None:
    """What a site tells the cloud: changes of cell and nothing else."""
    return event if event.event_type == "CellEntered" else None
