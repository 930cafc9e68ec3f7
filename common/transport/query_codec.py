"""What a consumer asks a source once, without a stream, to bytes and back (protos/backhaul/v1/subscribe.proto)."""

from __future__ import annotations

from dataclasses import astuple

from common.core.batch import EventBatch
from common.core.subscription_messages import EntityEvents, EntityQuery, LatestOffset
from common.generated.backhaul import v1 as wire
from common.transport import small_messages
from common.transport.codec import batch_from_wire, encode_batch, encode_ranges, ranges_from_wire
from common.transport.parsing import parse


def encode_latest_offset_request(query: EntityQuery) -> bytes:
    """How far does a stream's log go?"""
    return bytes(wire.LatestOffsetRequest(query.stream_id, query.consumer_id))


def decode_latest_offset_request(data: bytes) -> EntityQuery:
    """Raises ``link.malformed``."""
    message = parse(wire.LatestOffsetRequest, data)
    return EntityQuery(message.stream_id, message.consumer_id)


def encode_latest_offset(offset: LatestOffset) -> bytes:
    """The answer to it."""
    return bytes(wire.LatestOffsetReply(*astuple(offset)))


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


def decode_entity_events_request(data: bytes) -> EntityQuery:
    """Raises ``link.malformed``."""
    message = parse(wire.EntityEventsRequest, data)
    return EntityQuery(
        message.stream_id, message.consumer_id, message.persistence_id, message.from_seq_nr, message.to_seq_nr
    )


def encode_entity_events(found: EntityEvents) -> bytes:
    """The answer to it."""
    return small_messages.write(
        wire.EntityEventsReply,
        events=encode_batch(found.events) if found.events else b"",
        begins_with_snapshot=found.begins_with_snapshot,
        ranges=encode_ranges(found.ranges),
        next_seq_nr=found.next_seq_nr,
    )


def decode_entity_events(data: bytes) -> EntityEvents:
    """Raises ``link.malformed`` or ``events.ragged``."""
    message = parse(wire.EntityEventsReply, data)
    ranges = ranges_from_wire(message.ranges)
    return EntityEvents(batch_from_wire(message.events), message.begins_with_snapshot, ranges, message.next_seq_nr)


def encode_event_request(query: EntityQuery) -> bytes:
    """One event, by its number."""
    return bytes(wire.EventRequest(query.stream_id, query.consumer_id, query.persistence_id, query.from_seq_nr))


def decode_event_request(data: bytes) -> EntityQuery:
    """Raises ``link.malformed``."""
    message = parse(wire.EventRequest, data)
    return EntityQuery(message.stream_id, message.consumer_id, message.persistence_id, message.seq_nr, message.seq_nr)


def encode_event_reply(events: EventBatch) -> bytes:
    """The answer to it."""
    return small_messages.write(wire.EventReply, events=encode_batch(events))


def decode_event_reply(data: bytes) -> EventBatch:
    """Raises ``link.malformed`` or ``events.ragged``."""
    return batch_from_wire(parse(wire.EventReply, data).events)
