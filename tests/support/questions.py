"""Who asks a source once, without a stream: the asking side of ``common.transport.codec.query``."""

from __future__ import annotations

from dataclasses import astuple

from common.core.events.batch import EventBatch
from common.core.subscription.messages import EntityEvents, EntityQuery, LatestOffset
from common.transport.codec.events import decode_batch, ranges_from_wire
from common.transport.codec.wire import subscribe as wire


def encode_latest_offset_request(query: EntityQuery) -> bytes:
    """How far does a stream's log go?"""
    return wire.LatestOffsetRequest(query.stream_id, query.consumer_id).encode()


def decode_latest_offset(data: bytes) -> LatestOffset:
    """Raises ``link.malformed``."""
    message = wire.LatestOffsetReply.decode(data)
    return LatestOffset(
        message.journal_id,
        message.generation_id,
        message.head_position,
        message.floor_position,
        message.timestamp_us,
    )


def encode_entity_events_request(query: EntityQuery) -> bytes:
    """Which events does an entity have?"""
    return wire.EntityEventsRequest(*astuple(query)).encode()


def decode_entity_events(data: bytes) -> EntityEvents:
    """Raises ``link.malformed`` or ``events.ragged``."""
    message = wire.EntityEventsReply.decode(data)
    ranges = ranges_from_wire(message.ranges)
    return EntityEvents(decode_batch(message.events), message.begins_with_snapshot, ranges, message.next_seq_nr)


def encode_event_request(query: EntityQuery) -> bytes:
    """One event, by its number."""
    return wire.EventRequest(query.stream_id, query.consumer_id, query.persistence_id, query.from_seq_nr).encode()


def decode_event_reply(data: bytes) -> EventBatch:
    """Raises ``link.malformed`` or ``events.ragged``."""
    return decode_batch(wire.EventReply.decode(data).events)
