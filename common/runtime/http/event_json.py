"""An event as HTTP answers show it.

A payload whose codec is `json` is shown as it was stored, byte for byte, if it is JSON of
few enough levels for a reader: what came over gRPC is not checked, and one bad payload must not spoil the answer around
it. Every other payload is shown in base64.
"""

from __future__ import annotations

import base64

import orjson

from common.core.events.batch import Envelope
from common.core.events.ids import SEPARATOR
from common.core.events.json_text import is_readable
from common.core.events.stated_range import StatedRange


def event_as_json(event: Envelope) -> dict[str, object]:
    """The event for `json_response`; times in UTC microseconds, `event_time_us` null when the source gave none."""
    shown = event_place_as_json(event)
    payload = _fragment(event)
    if payload is not None:
        shown["payload"] = payload
    else:
        shown["payload_base64"] = base64.b64encode(event.payload).decode()
    return shown


def event_place_as_json(event: Envelope) -> dict[str, object]:
    """The event without its payload."""
    entity_type, _, entity_id = event.persistence_id.partition(SEPARATOR)
    return {
        "entity_type": entity_type,
        "entity_id": entity_id,
        "seq_nr": event.seq_nr,
        "origin_seq_nr": event.origin_seq_nr,
        "position": event.position,
        "event_type": event.event_type,
        "stored_us": event.stored_us,
        "event_time_us": event.event_time_us or None,
        "tags": list(event.tags),
        "metadata": dict(event.metadata),
        "codec": event.codec,
    }


def stated_as_json(stated: StatedRange) -> dict[str, object]:
    """Numbers of an entity that are not here, and why."""
    entity_type, _, entity_id = stated.persistence_id.partition(SEPARATOR)
    return {
        "entity_type": entity_type,
        "entity_id": entity_id,
        "from_seq_nr": stated.from_seq_nr,
        "to_seq_nr": stated.to_seq_nr,
        "reason": stated.reason,
    }


def _fragment(event: Envelope) -> orjson.Fragment | None:
    if event.codec != "json":
        return None
    return orjson.Fragment(event.payload) if is_readable(event.payload) else None
