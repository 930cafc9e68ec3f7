"""Core types to bytes and back: generated messages are seen here and nowhere else.

Decoding trusts nothing: a message that is not protobuf, a ragged batch or a stream message without content is refused
with a code before anything of it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import common.border  # noqa: F401  (trio-asyncio must be imported before grpclib, which the generated code imports)

# isort: split
from common.core.errors import BackhaulError
from common.core.events.batch import UNIT_SEPARATOR, EventBatch
from common.core.events.stated_range import StatedRange
from common.core.flow.messages import Drain, Heartbeat
from common.core.journal.append import LocalAppend, ParkedEvent, PushLane
from common.core.push.filter_transition import PushFilterApplied
from common.core.push.messages import Ack, FromCloud, FromEdge, Hello, PushBatch, PushFilterUpdate, Start
from common.generated.backhaul import v1 as wire
from common.transport.codec import fast_protobuf as small_messages
from common.transport.codec import push_control as control
from common.transport.codec.decode import malformed, message_bytes, one_of, parse, ragged
from common.transport.codec.framing import length_delimited, repeated_bytes, same_text, zeros

_PLAIN_COLUMNS = (
    "position",
    "timestamp_us",
    "stored_us",
    "event_time_us",
    "persistence_id",
    "seq_nr",
    "prev_seq_nr",
    "origin_seq_nr",
    "event_type",
    "codec",
)
# Field numbers of what is framed by hand (protos/backhaul/v1); a test compares them with the generated messages.
_BATCH_PAYLOAD = 11
_BATCH_TAG_COUNT = 12
_BATCH_METADATA_COUNT = 14
_OFTEN_ZERO = {"event_time_us": 4, "origin_seq_nr": 8}
_OFTEN_SAME = {"event_type": 9, "codec": 10}
_PUSH_BATCH_EVENTS = 3
_FROM_EDGE_BATCH = 2
_APPEND_EVENTS = 1


def encode_from_edge(message: FromEdge) -> bytes:
    """A message of the edge's end of a push stream."""
    match message:
        case PushBatch():
            return length_delimited(_FROM_EDGE_BATCH, _encode_push_batch(message))
        case Heartbeat():
            return bytes(wire.FromEdge(heartbeat=_heartbeat_to_wire(message)))
        case Hello():
            return bytes(wire.FromEdge(hello=control.hello_to_wire(message)))
        case PushFilterApplied():
            return bytes(wire.FromEdge(filter_applied=control.applied_to_wire(message)))


def decode_from_edge(data: bytes) -> FromEdge:
    """Raises ``link.malformed`` or ``events.ragged``."""
    kind, content = one_of(wire.FromEdge, data)
    match kind:
        case "batch":
            return _push_batch_from_wire(content)
        case "heartbeat":
            return Heartbeat(content.bytes_received, content.clock_us)
        case "hello":
            return control.hello_from_wire(content)
        case "filter_applied":
            return control.applied_from_wire(content)
    raise malformed(f"unknown content {kind!r}")


def encode_from_cloud(message: FromCloud) -> bytes:
    """A message of the cloud's end of a push stream."""
    match message:
        case Ack():
            return small_messages.write(wire.FromCloud, ack=_ack_to_wire(message))
        case Heartbeat():
            return bytes(wire.FromCloud(heartbeat=_heartbeat_to_wire(message)))
        case Start():
            return bytes(wire.FromCloud(start=control.start_to_wire(message)))
        case PushFilterUpdate():
            return bytes(wire.FromCloud(filter_update=control.update_to_wire(message)))
        case Drain():
            return bytes(wire.FromCloud(drain=wire.Drain(retry_after_s=message.retry_after_s, reason=message.reason)))


def decode_from_cloud(data: bytes) -> FromCloud:
    """Raises ``link.malformed``."""
    kind, content = one_of(wire.FromCloud, data)
    match kind:
        case "ack":
            return _ack_from_wire(content)
        case "heartbeat":
            return Heartbeat(content.bytes_received, content.clock_us)
        case "start":
            return control.start_from_wire(content)
        case "drain":
            return Drain(content.retry_after_s, content.reason)
        case "filter_update":
            return control.update_from_wire(content)
    raise malformed(f"unknown content {kind!r}")


def decode_append_request(data: bytes) -> LocalAppend:
    """A program's append; columns it left empty are filled. Raises ``link.malformed`` or ``events.ragged``.

    The digest is left empty: the intake computes it when there is a key.
    """
    message = parse(wire.AppendRequest, data)
    events = message.events
    n = len(events.persistence_id)
    for name in (
        "position",
        "timestamp_us",
        "stored_us",
        "event_time_us",
        "seq_nr",
        "prev_seq_nr",
        "origin_seq_nr",
    ):
        if not getattr(events, name):
            setattr(events, name, [0] * n)
    events.codec = events.codec or ["json"] * n
    events.tag_count = events.tag_count or [0] * n
    events.metadata_count = events.metadata_count or [0] * n
    if len(message.expected_persistence_id) != len(message.expected_seq_nr):
        raise BackhaulError(
            "events.ragged",
            "expected_persistence_id and expected_seq_nr differ in length",
            "give one expected number for each named entity",
        )
    expected = dict(zip(message.expected_persistence_id, message.expected_seq_nr, strict=True))
    return LocalAppend(batch_from_wire(events), expected, message.idempotency_key)


def encode_append_request(request: LocalAppend) -> bytes:
    """The client's side of ``decode_append_request``."""
    beside = small_messages.write(
        wire.AppendRequest,
        expected_persistence_id=list(request.expected),
        expected_seq_nr=list(request.expected.values()),
        idempotency_key=request.append_id,
    )
    return beside + length_delimited(_APPEND_EVENTS, encode_batch(request.events))


def encode_append_reply(first_position: int, seq_nr: list[int], repeated: bool) -> bytes:
    """The answer to a stored append."""
    return message_bytes(
        wire.AppendReply, len(seq_nr), first_position=first_position, seq_nr=seq_nr, repeated_append=repeated
    )


def encode_append_error(error: BackhaulError) -> bytes:
    """The answer to a refused append: on a stream one refusal must not end the others."""
    return bytes(wire.AppendReply(error_code=error.code, error_message=error.message, error_hint=error.hint))


def decode_append_reply(data: bytes) -> tuple[int, list[int], bool]:
    """First position, numbers, repeated; raises the refusal as a ``BackhaulError``."""
    message = parse(wire.AppendReply, data)
    if message.error_code:
        raise BackhaulError(message.error_code, message.error_message, message.error_hint)
    return message.first_position, message.seq_nr, message.repeated_append


def encode_batch(batch: EventBatch) -> bytes:
    """Columns to bytes: tags and metadata become flat columns with counts. Encoded batches may be concatenated."""
    n = len(batch)
    by_hand = [repeated_bytes(_BATCH_PAYLOAD, batch.payload)]
    columns: dict[str, Any] = {}
    for name in _PLAIN_COLUMNS:
        column = getattr(batch, name)
        if name in _OFTEN_ZERO and not any(column):
            by_hand.append(zeros(_OFTEN_ZERO[name], n))
        elif name in _OFTEN_SAME and n and column.count(column[0]) == n:
            by_hand.append(same_text(_OFTEN_SAME[name], column[0], n))
        else:
            columns[name] = column
    if any(batch.tags):
        columns["tag_count"], columns["tag"] = _flat(batch.tags)
    else:
        by_hand.append(zeros(_BATCH_TAG_COUNT, n))
    if any(batch.metadata):
        part_count, parts = _flat(batch.metadata)
        columns["metadata_count"] = [count // 2 for count in part_count]
        columns["metadata_key"], columns["metadata_value"] = parts[::2], parts[1::2]
    else:
        by_hand.append(zeros(_BATCH_METADATA_COUNT, n))
    return b"".join([message_bytes(wire.EventBatch, n, **columns), *by_hand])


def batch_from_wire(message: wire.EventBatch) -> EventBatch:
    """Checks all lengths. Raises ``events.ragged``."""
    if len(message.metadata_key) != len(message.metadata_value):
        raise ragged("metadata_key and metadata_value differ in length")
    parts = [part for item in zip(message.metadata_key, message.metadata_value, strict=True) for part in item]
    batch = EventBatch(
        **{name: getattr(message, name) for name in _PLAIN_COLUMNS},
        payload=message.payload,
        tags=_joined(message.tag_count, message.tag, "tag"),
        metadata=_joined([2 * count for count in message.metadata_count], parts, "metadata"),
        prev_tags=[""] * len(message.persistence_id),
    )
    batch.check()
    return batch


def _flat(column: list[str]) -> tuple[list[int], list[str]]:
    joined = UNIT_SEPARATOR.join(filter(None, column))
    counts = [entry.count(UNIT_SEPARATOR) + 1 if entry else 0 for entry in column]
    return counts, joined.split(UNIT_SEPARATOR) if joined else []


def _joined(counts: list[int], flat: list[str], name: str) -> list[str]:
    if not flat and not any(counts):
        return [""] * len(counts)
    if any(count < 0 for count in counts) or sum(counts) != len(flat):
        raise ragged(f"{name}_count adds up to {sum(counts)}, there are {len(flat)} entries")
    if any(UNIT_SEPARATOR in part for part in flat):
        raise BackhaulError("events.invalid", f"a {name} contains a control character", "remove it")
    joined, start = [], 0
    for count in counts:
        joined.append(UNIT_SEPARATOR.join(flat[start : start + count]))
        start += count
    return joined


def encode_ranges(ranges: Sequence[StatedRange]) -> bytes:
    """The bytes of a ``StatedRanges`` message; none for none."""
    return small_messages.write(
        wire.StatedRanges,
        persistence_id=[stated.persistence_id for stated in ranges],
        from_seq_nr=[stated.from_seq_nr for stated in ranges],
        to_seq_nr=[stated.to_seq_nr for stated in ranges],
        reason=[stated.reason for stated in ranges],
    )


def ranges_from_wire(columns: wire.StatedRanges) -> tuple[StatedRange, ...]:
    """Checks all lengths. Raises ``events.ragged``."""
    if not (len(columns.persistence_id) == len(columns.from_seq_nr) == len(columns.to_seq_nr) == len(columns.reason)):
        raise ragged("the columns of the stated ranges differ in length")
    rows = zip(columns.persistence_id, columns.from_seq_nr, columns.to_seq_nr, columns.reason, strict=True)
    return tuple(StatedRange(*row) for row in rows)


def _encode_push_batch(batch: PushBatch) -> bytes:
    beside = small_messages.write(
        wire.PushBatch,
        after_position=batch.after_position,
        through_position=batch.through_position,
        ranges=encode_ranges(batch.ranges),
        generation_id=batch.generation_id,
        backfill=batch.lane is PushLane.BACKFILL,
    )
    return beside + length_delimited(_PUSH_BATCH_EVENTS, encode_batch(batch.events))


def _push_batch_from_wire(message: wire.PushBatch) -> PushBatch:
    return PushBatch(
        message.after_position,
        message.through_position,
        message.generation_id,
        batch_from_wire(message.events),
        ranges_from_wire(message.ranges),
        _lane(message.backfill),
    )


def _ack_to_wire(ack: Ack) -> bytes:
    return small_messages.write(
        wire.Ack,
        position=ack.position,
        parked_position=[parked.position for parked in ack.parked],
        parked_persistence_id=[parked.persistence_id for parked in ack.parked],
        parked_seq_nr=[parked.seq_nr for parked in ack.parked],
        parked_code=[parked.code for parked in ack.parked],
        backfill=ack.lane is PushLane.BACKFILL,
    )


def _ack_from_wire(message: wire.Ack) -> Ack:
    columns = (
        message.parked_position,
        message.parked_persistence_id,
        message.parked_seq_nr,
        message.parked_code,
    )
    if len({len(column) for column in columns}) > 1:
        raise ragged("the parked columns of an ack differ in length")
    return Ack(message.position, tuple(map(ParkedEvent, *columns)), _lane(message.backfill))


def _lane(backfill: bool) -> PushLane:
    return PushLane.BACKFILL if backfill else PushLane.LIVE


def _heartbeat_to_wire(heartbeat: Heartbeat) -> wire.Heartbeat:
    return wire.Heartbeat(heartbeat.bytes_received, heartbeat.clock_us)
