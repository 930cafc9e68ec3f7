"""The proof of `make demo-drones` finds what it is there to find."""

from __future__ import annotations

from dataclasses import replace

from examples.drones.drone import CellEntered, PositionReported
from examples.drones.places import Position
from examples.drones.queue import Delivery
from examples.drones.restaurant import DeliveryRegistered
from examples.drones.simulation.proof import CloudStore, Facts, SiteStore, Stored, compare

HERE, THERE = Position(1, 1), Position(2, 2)


def flown(site: str, *cells: str) -> list[Stored]:
    fine = Stored("Drone", f"{site}/d1", PositionReported(HERE), ())
    return [event for cell in cells for event in (fine, Stored("Drone", f"{site}/d1", CellEntered(cell), ()))]


def ordered(site: str, *names: str) -> list[Stored]:
    return [Stored("Restaurant", site, DeliveryRegistered(name, HERE, THERE), (f"t:site/{site}",)) for name in names]


SITES = {
    "a": SiteStore(flown("a", "1/1", "1/2"), {"a1": Delivery("a", HERE, THERE), "a2": Delivery("a", HERE, THERE)}),
    "b": SiteStore(flown("b", "1/1"), {"b1": Delivery("b", HERE, THERE)}),
}
CLOUD = CloudStore([*ordered("a", "a1", "a2"), *ordered("b", "b1")], {"a/d1": ("1/2", 2), "b/d1": ("1/1", 1)})


def found(cloud: CloudStore = CLOUD, **sites: SiteStore) -> Facts:
    return compare(cloud, SITES | sites, {"a": 2, "b": 1}, {"a": {"a1": "a", "a2": "a"}, "b": {"b1": "b"}})


def test_what_is_as_it_must_be_holds() -> None:
    facts = found()
    assert facts.problems == ()
    assert [(line.fine_events, line.coarse_events, line.queued) for line in facts.sites] == [(2, 2, 2), (1, 1, 1)]


def test_a_wrong_cell_and_a_cell_counted_twice_are_found() -> None:
    for wrong in (("1/1", 2), ("1/2", 3)):
        [problem] = found(replace(CLOUD, overview={**CLOUD.overview, "a/d1": wrong})).problems
        assert problem == "the overview is not the fold of the edges' journals: a/d1"


def test_an_order_that_is_missing_foreign_or_different_is_found() -> None:
    queue = SITES["b"].queue
    missing = found(b=replace(SITES["b"], queue={}))
    foreign = found(b=replace(SITES["b"], queue={**queue, "a1": Delivery("a", HERE, THERE)}))
    different = found(b=replace(SITES["b"], queue={"b1": Delivery("b", THERE, THERE)}))
    assert (missing.sites[1].missing, foreign.sites[1].foreign, different.sites[1].different) == (
        ("b1",), ("a1",), ("b1",),
    )  # fmt: skip
    for facts in (missing, foreign, different):
        assert facts.problems == ("b: its queue is not the orders of its topic",)


def test_a_report_that_was_answered_for_and_is_not_there_is_found() -> None:
    [problem, *_] = found(a=replace(SITES["a"], events=SITES["a"].events[1:])).problems
    assert problem == "a: 2 reports were answered for, 1 are in the journal"


def test_a_fine_event_in_the_cloud_is_found() -> None:
    stray = Stored("Drone", "a/d1", PositionReported(HERE), ())
    assert "PositionReported" in found(replace(CLOUD, events=[*CLOUD.events, stray])).problems[0]
