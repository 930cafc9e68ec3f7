"""Applications that change events on their way: what an edge sends, and what two cloud versions make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import orjson

from common.core.events.batch import Envelope
from common.runtime.app.application import App, Transformations


def double(event: Envelope) -> Envelope | None:
    """Twice the value; negative ones stay here."""
    content = orjson.loads(event.payload)
    if content["value"] < 0:
        return None
    return replace(event, payload=orjson.dumps({"value": 2 * content["value"]}))


def belongs_to(plant: str) -> Callable[[Envelope], Envelope | None]:
    """Puts a plant before the entity's id and tags the event; a value of 14 is withheld, 1332 cannot be digested."""

    def receive(event: Envelope) -> Envelope | None:
        value = orjson.loads(event.payload)["value"]
        if value == 14:
            return None
        if value == 1332:
            raise ValueError(value)
        entity_type, _, entity_id = event.persistence_id.partition("|")
        return replace(event, persistence_id=f"{entity_type}|plant-{plant}/{entity_id}", tags=(f"t:{plant}",))

    return receive


doubling = App(transformations=Transformations(on_push=double))
plant_a = App(transformations=Transformations(on_receive=belongs_to("a"), maps_ids=True))
plant_b = App(transformations=Transformations(on_receive=belongs_to("b"), maps_ids=True))
