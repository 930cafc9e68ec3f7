"""The deliveries of a site: durable state, filled by what the cloud publishes under the site's topic."""

from __future__ import annotations

from dataclasses import dataclass

from common.app import DurableState, Event, Follow, Handler, Running
from examples.drones.places import Position
from examples.drones.restaurant import DeliveryRegistered


@dataclass(frozen=True)
class Delivery:
    """Something that waits for a drone."""

    restaurant: str
    pick_up: Position
    to: Position


class Deliveries(DurableState[Delivery]):
    """The queue."""

    entity_type = "Delivery"


async def enqueue(running: Running, event: Event) -> None:
    """A registered delivery waits here from now on. It may be registered again after a crash: the value is then the same."""
    match event.value:
        case DeliveryRegistered(delivery_id, pick_up, to):
            await running.of(Deliveries).upsert(delivery_id, Delivery(event.entity_id, pick_up, to))


site_deliveries = Follow(
    stream="Restaurant",
    criteria=[{"exclude_all": True}, {"include_topics": ["site/{consumer_id}"]}],
    handler=Handler("deliveries", act=enqueue),
)
