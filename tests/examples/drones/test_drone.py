"""A drone: given events, when it reports, then events."""

from common.testing import given
from examples.drones.drone import CellEntered, Drone, Drones, PositionReported, Report
from examples.drones.places import Position

HARBOUR = Position(59.9065, 10.7385)
PIER = Position(59.9069, 10.7391)  # of the same cell
PARK = Position(59.9181, 10.7386)


def test_the_first_report_enters_a_cell() -> None:
    answer = given(Drones).when(Report(HARBOUR))
    assert answer.events == [PositionReported(HARBOUR), CellEntered("5990/1073")]
    assert answer.state == Drone(HARBOUR, "5990/1073")


def test_a_report_within_the_cell_is_a_fine_event_only() -> None:
    answer = given(Drones, PositionReported(HARBOUR), CellEntered("5990/1073")).when(Report(PIER))
    assert answer.events == [PositionReported(PIER)]


def test_another_cell_is_a_coarse_event_as_well() -> None:
    answer = given(Drones, PositionReported(HARBOUR), CellEntered("5990/1073")).when(Report(PARK))
    assert answer.events == [PositionReported(PARK), CellEntered("5991/1073")]


def test_a_position_that_is_none_is_rejected() -> None:
    answer = given(Drones).when(Report(Position(91.0, 0.0)))
    assert (answer.rejection, answer.events) == ("that is not on earth", [])


def test_distances_are_those_of_a_map() -> None:
    assert 1.2 < HARBOUR.km_to(PARK) < 1.3
    assert Position(60.0, 10.0).km_to(Position(60.0, 11.0)) < Position(0.0, 10.0).km_to(Position(0.0, 11.0)) / 1.9
