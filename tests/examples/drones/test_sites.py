"""Two sites and the cloud in one process: what goes up, what comes down, and that an outage changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from common.entity.decisions import Accepted
from common.testing import Service, World, open_world
from examples.drones import cloud, edge
from examples.drones.drone import Drones, Report
from examples.drones.overview import ROWS
from examples.drones.places import Position
from examples.drones.queue import Deliveries, Delivery
from examples.drones.restaurant import Open, Order, Restaurants

KITCHEN = Position(59.915, 10.745)
FAR_KITCHEN = Position(59.99, 10.99)
HOME = Position(59.925, 10.755)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A cloud, and the sites north and south."""
    async with open_world(edge_app=edge.app, cloud_app=cloud.app, edges=("north", "south")) as opened:
        restaurants = opened.cloud.of(Restaurants)
        await restaurants.ask("pizza", Open("north", KITCHEN))
        await restaurants.ask("sushi", Open("north", FAR_KITCHEN))
        await restaurants.ask("tacos", Open("south", KITCHEN))
        yield opened


async def order(world: World, restaurant: str, delivery_id: str) -> None:
    assert isinstance(await world.cloud.of(Restaurants).ask(restaurant, Order(delivery_id, HOME)), Accepted)


async def fly(site: Service, *positions: Position, drone: str = "d1") -> None:
    for position in positions:
        assert isinstance(await site.of(Drones).ask(drone, Report(position)), Accepted)


async def queue(site: Service) -> list[str]:
    return [one.entity_id for one in await site.of(Deliveries).query()]


async def test_each_site_has_the_deliveries_of_its_topic_and_no_others(autojump_clock: MockClock, world: World) -> None:
    for restaurant, delivery_id in (("pizza", "1"), ("tacos", "2"), ("sushi", "3")):
        await order(world, restaurant, delivery_id)
    await world.settled()
    assert await queue(world.edges["north"]) == ["1", "3"]
    assert await queue(world.edges["south"]) == ["2"]
    found = await world.edges["south"].of(Deliveries).get("2")
    assert found.value == Delivery("tacos", KITCHEN, HOME)


async def test_only_changes_of_cell_leave_the_site(autojump_clock: MockClock, world: World) -> None:
    north = world.edges["north"]
    await fly(north, KITCHEN, Position(59.916, 10.746), Position(59.917, 10.747), HOME)
    await fly(world.edges["south"], HOME)
    await order(world, "pizza", "1")
    await world.settled()
    assert await world.cloud.query(ROWS) == [("north/d1", HOME.cell, 2), ("south/d1", HOME.cell, 1)]
    stored = (await world.cloud.journal.log.read(0, max_events=1_000, max_bytes=1_000_000)).events
    assert set(stored.event_type) == {"CellEntered", "Opened", "DeliveryRegistered"}
    at = [place for place, name in enumerate(stored.persistence_id) if name == "Drone|north/d1"]
    assert [stored.origin_seq_nr[place] for place in at] == [2, 6]  # 1 and 3 to 5 are stated as withheld


async def test_the_nearest_delivery_is_found_without_the_cloud(autojump_clock: MockClock, world: World) -> None:
    north = world.edges["north"]
    assert (await north.http("GET", "/v1/drones/d1/nearest")).json()["error"]["code"] == "drones.unseen"
    await fly(north, KITCHEN)
    assert (await north.http("GET", "/v1/drones/d1/nearest")).json() == {"delivery": None}
    await order(world, "sushi", "1")
    await order(world, "pizza", "2")
    await world.settled()
    world.cut("north")
    near = (await north.http("GET", "/v1/drones/d1/nearest")).json()
    assert near == {"delivery": "2", "restaurant": "pizza", "km": 0.0}
    await fly(north, FAR_KITCHEN)
    assert (await north.http("GET", "/v1/drones/d1/nearest")).json()["delivery"] == "1"


async def test_a_report_over_http_is_checked_and_told_by_its_field(autojump_clock: MockClock, world: World) -> None:
    north = world.edges["north"]
    path = "/v1/entities/Drone/d1/Report"
    assert (await north.http("POST", path, {"position": {"lat": 59.9, "lon": 10.7}})).status == 200
    refused = await north.http("POST", path, {"position": {"lat": "59.9", "lon": 10.7}})
    assert (refused.status, refused.json()["error"]["details"]["field"]) == (400, "position.lat")
    assert (await north.http("POST", path, {"position": {"lat": 91, "lon": 0}})).json()["error"]["message"] == (
        "that is not on earth"
    )


async def test_an_outage_and_restarts_change_nothing(autojump_clock: MockClock, world: World) -> None:
    north = world.edges["north"]
    await fly(north, KITCHEN)
    await order(world, "pizza", "1")
    await world.settled()
    world.cut("north")
    await fly(north, HOME)
    await order(world, "pizza", "2")
    await trio.sleep(300)
    assert await queue(north) == ["1"]
    assert await world.cloud.query(ROWS) == [("north/d1", KITCHEN.cell, 1)]
    await north.stop()
    await world.cloud.stop()
    await world.cloud.start()
    await north.start()
    await fly(north, KITCHEN)
    world.mend("north")
    await world.settled()
    assert await queue(north) == ["1", "2"]
    assert await world.cloud.query(ROWS) == [("north/d1", KITCHEN.cell, 3)]
