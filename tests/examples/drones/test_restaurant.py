"""A restaurant: what it registers, what it refuses, and the topic under which it is published."""

from common.testing import given
from examples.drones.places import Position
from examples.drones.restaurant import DeliveryRegistered, Open, Opened, Order, Restaurants

KITCHEN = Position(59.91, 10.74)
HOME = Position(59.92, 10.75)


def test_a_delivery_is_registered_under_the_topic_of_the_site() -> None:
    answer = given(Restaurants, Opened("north", KITCHEN)).when(Order("d1", HOME))
    assert answer.events == [DeliveryRegistered("d1", KITCHEN, HOME)]
    assert answer.tags == [("t:site/north",)]


def test_an_order_that_is_repeated_is_one_delivery() -> None:
    restaurant = given(Restaurants, Opened("north", KITCHEN), DeliveryRegistered("d1", KITCHEN, HOME))
    assert restaurant.when(Order("d1", HOME)).events == []
    assert len(restaurant.when(Order("d2", HOME)).events) == 1


def test_what_is_not_open_delivers_nothing_and_is_opened_once() -> None:
    restaurant = given(Restaurants)
    assert restaurant.when(Order("d1", HOME)).rejection == "open the restaurant first"
    assert restaurant.when(Open("north", KITCHEN)).events == [Opened("north", KITCHEN)]
    assert restaurant.when(Open("south", KITCHEN)).rejection == "it is open already"
