"""The programs of the simulation: pilots report where their drones are, customers order, and each drone looks for work.

Every request has a key and is repeated until it is answered, so what was answered for is exactly what must be found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from random import Random

import trio

from examples.demo.failure import DemoFailure
from examples.drones.places import Position
from examples.drones.simulation.town import Town, flight
from examples.support.http_client import Answer, HttpClient, Unanswered

Port = Callable[[], int]
_AGAIN_S = 0.1
_ANSWER_S = 5.0
_PATIENCE_S = 15.0
_LOOK_EVERY = 5


async def reported(client: HttpClient, path: str, body: Mapping[str, object], key: str) -> Answer:
    """The answer to a command, however often it must be repeated; once begun it is not cancelled.

    Raises DemoFailure when it is refused, or not answered for long.
    """
    with trio.move_on_after(_PATIENCE_S, shield=True):
        while True:
            try:
                with trio.fail_after(_ANSWER_S):
                    answer = await client.post(path, body, key=key)
            except (Unanswered, trio.TooSlowError):
                await trio.sleep(_AGAIN_S)
                continue
            if answer.status == 200:
                return answer
            if answer.status < 500:
                raise DemoFailure(f"{path} was refused: {answer.body}")
            await trio.sleep(_AGAIN_S)
    raise DemoFailure(f"{path} was not answered for {_PATIENCE_S:.0f} s")


@dataclass
class Site:
    """A town while it is played: what was answered for."""

    town: Town
    edge_port: Port
    reports: int = 0
    positions: dict[str, Position] = field(default_factory=dict)
    ordered: dict[str, str] = field(default_factory=dict)
    """Deliveries by id, with their restaurant."""
    read_counts: int = 0
    found: int = 0

    async def fly(self, drone: str, chance: Random, pace_s: float) -> None:
        """Report a drone's flight until cancelled, and now and then ask for the nearest delivery."""
        client, count = HttpClient(self.edge_port), 0
        try:
            for position in flight(self.town, chance):
                count += 1
                body = {"position": asdict(position)}
                await reported(client, f"/v1/entities/Drone/{drone}/Report", body, f"{drone}-{count}")
                self.reports += 1
                self.positions[drone] = position
                if count % _LOOK_EVERY == 0:
                    await self._look(client, drone)
                await trio.sleep(pace_s * (0.5 + chance.random()))
        finally:
            client.close()

    async def _look(self, client: HttpClient, drone: str) -> None:
        try:
            answer = await client.get(f"/v1/drones/{drone}/nearest")
        except Unanswered:
            return
        if answer.status == 200:
            self.read_counts += 1
            self.found += answer.body["delivery"] is not None

    async def open_restaurants(self, cloud_port: Port, chance: Random) -> None:
        """Each at a place of its own."""
        client = HttpClient(cloud_port)
        for restaurant in self.town.restaurants:
            body = {"site": self.town.site, "position": asdict(self.town.somewhere(chance))}
            await reported(client, f"/v1/entities/Restaurant/{restaurant}/Open", body, f"open-{restaurant}")
        client.close()

    async def order(self, cloud_port: Port, chance: Random, pace_s: float) -> None:
        """Order from the town's restaurants until cancelled."""
        client = HttpClient(cloud_port)
        try:
            while True:
                restaurant = chance.choice(self.town.restaurants)
                delivery_id = f"{self.town.site}-{len(self.ordered) + 1:04}"
                body = {"delivery_id": delivery_id, "to": asdict(self.town.somewhere(chance))}
                await reported(client, f"/v1/entities/Restaurant/{restaurant}/Order", body, delivery_id)
                self.ordered[delivery_id] = restaurant
                await trio.sleep(pace_s * (0.5 + chance.random()))
        finally:
            client.close()
