"""`GET /v1/drones/{id}/nearest`: the delivery whose pick-up is nearest to where the drone is now."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.app import BackhaulError, ErrorKind, Running, Versioned, json_response
from examples.drones.drone import Drones
from examples.drones.places import Position
from examples.drones.queue import Deliveries, Delivery


async def nearest(running: Running, position: Position) -> tuple[str, Delivery] | None:
    """The id of the nearest delivery, and the delivery; None when nothing waits."""
    waiting: list[tuple[str, Delivery]] = []
    page: list[Versioned[Delivery]] = []
    while page := await running.of(Deliveries).query(after=page[-1].entity_id if page else "", max_rows=1_000):
        waiting += [(one.entity_id, one.value) for one in page if one.value is not None]
    return min(waiting, key=lambda one: (position.km_to(one[1].pick_up), one[0]), default=None)


def routes(running: Running) -> Sequence[BaseRoute]:
    """The route, for an `App`."""

    async def answer(request: Request) -> Response:
        drone = await running.of(Drones).state(request.path_params["drone"])
        if drone.position is None:
            raise BackhaulError("drones.unseen", "it has never reported", "fly it first", kind=ErrorKind.NOT_FOUND)
        found = await nearest(running, drone.position)
        if found is None:
            return json_response({"delivery": None})
        delivery_id, delivery = found
        km = round(drone.position.km_to(delivery.pick_up), 3)
        return json_response({"delivery": delivery_id, "restaurant": delivery.restaurant, "km": km})

    return [Route("/v1/drones/{drone}/nearest", answer, methods=["GET"])]
