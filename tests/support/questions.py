"""Who asks a source once, without a stream: the asking side of ``common.transport.codec.query``."""

from __future__ import annotations

from dataclasses import astuple

from common.core.events.batch import EventBatch
from common.core.subscription.messages import EntityEvents, EntityQuery, LatestOffset
from common.generated.backhaul import v1 as wire
from common.transport.codec.decode import parse
from common.transport.codec.push import batch_from_wire, ranges_from_wire


def encode_latest_offset_request(query: EntityQuery) -> bytes:
    """How far does a stream's log go?"""
    return bytes(wire.LatestOffsetRequest(query.stream_id, query.consumer_id))


def decode_latest_offset(data: bytes) -> LatestOffset:
    """Raises ``link.malformed``."""
    message = parse(wire.LatestOffsetReply, data)
    return LatestOffset(
        message.journal_id,
        message.generation_id,
        message.head_position,
        message.floor_position,
        message.timestamp_us,
    )


def encode_entity_events_request(query: EntityQuery) -> bytes:
    """Which events does an entity have?"""
    return bytes(wire.EntityEventsRequest(*astuple(query)))


def decode_entity_events(data: bytes) -> EntityEvents:
    """Raises ``link.malformed`` or ``events.ragged``."""
    message = parse(wire.EntityEventsReply, data)
    ranges = ranges_from_wire(message.ranges)
    return EntityEvents(batch_from_wire(message.events), message.begins_with_snapshot, ranges, message.next_seq_nr)


def encode_event_request(query: EntityQuery) -> bytes:
    """One event, by its number."""
    return bytes(wire.EventRequest(query.stream_id, query.consumer_id, query.persistence_id, query.from_seq_nr))


def decode_event_reply(data: bytes) -> EventBatch:
    """Raises ``link.malformed`` or ``events.ragged``."""
    return batch_from_wire(parse(wire.EventReply, data).events)
