"""A restaurant, in the cloud: it belongs to a site and registers deliveries, which that site's topic publishes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from common.app import Decision, EventSourced, accept, reject
from examples.drones.places import Position


@dataclass(frozen=True)
class Open:
    """Command: the restaurant is there, and this site's drones serve it."""

    site: str
    position: Position


@dataclass(frozen=True)
class Order:
    """Command: something is to be flown to a customer."""

    delivery_id: str
    to: Position


@dataclass(frozen=True)
class Opened:
    """It was opened."""

    site: str
    position: Position


@dataclass(frozen=True)
class DeliveryRegistered:
    """Event: a drone is to fly this."""

    delivery_id: str
    pick_up: Position
    to: Position


@dataclass(frozen=True)
class Restaurant:
    """What is known of a restaurant."""

    site: str = ""
    position: Position | None = None
    deliveries: tuple[str, ...] = ()


class Restaurants(EventSourced[Restaurant, Open | Order, Opened | DeliveryRegistered]):
    """All restaurants."""

    entity_type = "Restaurant"
    empty = Restaurant()

    def decide(self, restaurant: Restaurant, command: Open | Order) -> Decision:
        match command:
            case Open() if restaurant.position is not None:
                return reject("it is open already")
            case Open(site, position):
                return accept(Opened(site, position))
            case Order() if restaurant.position is None:
                return reject("open the restaurant first")
            case Order(delivery_id) if delivery_id in restaurant.deliveries:
                return accept()  # a repeated order is the same order
            case Order(delivery_id, to):
                return accept(DeliveryRegistered(delivery_id, restaurant.position, to))

    def evolve(self, restaurant: Restaurant, event: Opened | DeliveryRegistered) -> Restaurant:
        match event:
            case Opened(site, position):
                return Restaurant(site, position)
            case DeliveryRegistered(delivery_id):
                return replace(restaurant, deliveries=(*restaurant.deliveries, delivery_id))

    def tags(self, restaurant: Restaurant, event: Opened | DeliveryRegistered) -> Iterable[str]:
        return (f"t:site/{restaurant.site}",)
