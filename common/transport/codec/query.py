"""The answering side of what a source is asked once, without a stream (protos/backhaul/v1/subscribe.proto).

Consumers written elsewhere ask; a service here follows streams and asks nothing.
"""

from __future__ import annotations

from dataclasses import astuple

from common.core.events.batch import EventBatch
from common.core.subscription.messages import EntityEvents, EntityQuery, LatestOffset
from common.generated.backhaul import v1 as wire
from common.transport.codec import fast_protobuf as small_messages
from common.transport.codec.decode import parse
from common.transport.codec.push import encode_batch, encode_ranges


def decode_latest_offset_request(data: bytes) -> EntityQuery:
    """Raises ``link.malformed``."""
    message = parse(wire.LatestOffsetRequest, data)
    return EntityQuery(message.stream_id, message.consumer_id)


def encode_latest_offset(offset: LatestOffset) -> bytes:
    """The answer to it."""
    return bytes(wire.LatestOffsetReply(*astuple(offset)))


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


def decode_event_request(data: bytes) -> EntityQuery:
    """Raises ``link.malformed``."""
    message = parse(wire.EventRequest, data)
    return EntityQuery(message.stream_id, message.consumer_id, message.persistence_id, message.seq_nr, message.seq_nr)


def encode_event_reply(events: EventBatch) -> bytes:
    """The answer to it."""
    return small_messages.write(wire.EventReply, events=encode_batch(events))
