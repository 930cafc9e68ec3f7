"""The answering side of what a source is asked once, without a stream (protos/backhaul/v1/subscribe.proto).

Consumers written elsewhere ask; a service here follows streams and asks nothing.
"""

from __future__ import annotations

from common.core.events.batch import EventBatch
from common.core.subscription.messages import EntityEvents, EntityQuery, LatestOffset
from common.transport.codec.events import encode_batch, ranges_to_wire
from common.transport.codec.wire import subscribe as wire


def decode_latest_offset_request(data: bytes) -> EntityQuery:
    """Raises ``link.malformed``."""
    message = wire.LatestOffsetRequest.decode(data)
    return EntityQuery(message.stream_id, message.consumer_id)


def encode_latest_offset(offset: LatestOffset) -> bytes:
    """The answer to it."""
    return wire.LatestOffsetReply(
        offset.journal_id, offset.generation_id, offset.head_position, offset.floor_position, offset.timestamp_us
    ).encode()


def decode_entity_events_request(data: bytes) -> EntityQuery:
    """Raises ``link.malformed``."""
    message = wire.EntityEventsRequest.decode(data)
    return EntityQuery(
        message.stream_id, message.consumer_id, message.persistence_id, message.from_seq_nr, message.to_seq_nr
    )


def encode_entity_events(found: EntityEvents) -> bytes:
    """The answer to it."""
    events = encode_batch(found.events) if found.events else b""
    return wire.EntityEventsReply(
        events, found.begins_with_snapshot, ranges_to_wire(found.ranges), found.next_seq_nr
    ).encode()


def decode_event_request(data: bytes) -> EntityQuery:
    """Raises ``link.malformed``."""
    message = wire.EventRequest.decode(data)
    return EntityQuery(message.stream_id, message.consumer_id, message.persistence_id, message.seq_nr, message.seq_nr)


def encode_event_reply(events: EventBatch) -> bytes:
    """The answer to it."""
    return wire.EventReply(encode_batch(events)).encode()
