"""The load of the way down: a program beside the cloud that publishes orders by site, and never gives one up.

Most entities stay at one site for life. Movers go between `home`, which every filter has, and `away`, which none has;
rovers go between sites. One, `late`, is wanted by its id from some number on. So what a consumer has to have follows
from the log alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, NamedTuple

import trio

from examples.support.http_client import HttpClient, Unanswered
from tests.crash.failure import CrashFailure
from tests.crash.service_process import ServiceProcess

ENTITY_TYPE: Final = "Order"
SITES: Final = ("site/1", "site/2", "site/3", "site/4", "site/5")
HOME: Final = "home"
AWAY: Final = "away"
LATE: Final = "late"
_EVENTS_MAX: Final = 12
_PAUSE_S: Final = 0.08
_RETRY_S: Final = 0.05
_ANSWER_TIMEOUT_S: Final = 10.0
_NEW_ENTITY_SHARE: Final = 0.15


class Order(NamedTuple):
    """An event as it was published and answered; ``before`` is the topic of its entity's event before, '' = none."""

    position: int
    entity_id: str
    seq_nr: int
    topic: str
    before: str
    payload: object


@dataclass(slots=True)
class Published:
    """The log as the publisher knows it: every event was acknowledged."""

    orders: list[Order] = field(default_factory=list)
    lost_answers: int = 0


class Publisher:
    """One program; it asks any node."""

    def __init__(self, nodes: Sequence[ServiceProcess], published: Published, chance: Random) -> None:
        self._published = published
        self._chance = chance
        self._clients = [HttpClient(_port_of(node)) for node in nodes]
        self._topics: dict[str, str] = {}
        self._requests = 0

    async def run(self, stop: trio.Event) -> None:
        """Until ``stop``. Raises CrashFailure for a wrong answer."""
        try:
            while not stop.is_set():
                await self._publish(self._some())
                await trio.sleep(self._chance.uniform(0, _PAUSE_S))
        finally:
            for client in self._clients:
                client.close()

    def _some(self) -> list[tuple[str, str]]:
        """Entities and topics of the next events."""
        chance, found = self._chance, []
        for _ in range(chance.randint(1, _EVENTS_MAX)):
            kind = chance.choices(("stays", "mover", "rover", LATE), (8, 2, 2, 1))[0]
            match kind:
                case "mover":
                    found.append((f"mover{chance.randrange(3)}", chance.choice((HOME, AWAY))))
                case "rover":
                    found.append((f"rover{chance.randrange(3)}", chance.choice(SITES)))
                case "stays":
                    site = chance.choice(SITES)
                    fresh = chance.random() < _NEW_ENTITY_SHARE
                    name = f"new{self._requests}-{len(found)}" if fresh else f"old{chance.randrange(3)}"
                    found.append((f"{site}/{name}", site))
                case _:
                    found.append((LATE, LATE))
        return found

    async def _publish(self, events: list[tuple[str, str]]) -> None:
        self._requests += 1
        key = f"orders:{self._requests}"
        payloads = [
            {"key": key, "index": index, "value": self._chance.randbytes(20).hex()} for index in range(len(events))
        ]
        body = {
            "events": [
                {
                    "entity_type": ENTITY_TYPE,
                    "entity_id": name,
                    "event_type": "Changed",
                    "payload": payload,
                    "tags": [f"t:{topic}"],
                }
                for (name, topic), payload in zip(events, payloads, strict=True)
            ]
        }
        answer = await self._answer(key, body)
        first = int(answer["first_position"])
        numbers = [event["seq_nr"] for event in answer["events"]]
        for index, ((name, topic), number) in enumerate(zip(events, numbers, strict=True)):
            before = self._topics.get(name, "")
            self._published.orders.append(Order(first + index, name, number, topic, before, payloads[index]))
            self._topics[name] = topic

    async def _answer(self, key: str, body: object) -> dict[str, Any]:
        """POST until it is answered, to one node or another."""
        while True:
            client = self._chance.choice(self._clients)
            try:
                with trio.fail_after(_ANSWER_TIMEOUT_S):
                    answer = await client.post("/v1/events", body, key=key)
            except (Unanswered, trio.TooSlowError):
                self._published.lost_answers += 1
                await trio.sleep(_RETRY_S)
                continue
            if 400 <= answer.status < 500:
                raise CrashFailure(f"{key} was refused with status {answer.status}: {answer.body}")
            if answer.status < 300:
                return answer.body
            await trio.sleep(_RETRY_S)


def _port_of(node: ServiceProcess) -> Callable[[], int]:
    return lambda: node.http_port
