"""Event batches and stated ranges to bytes and back (protos/backhaul/v1/events.proto).

A batch is encoded once, and its bytes are joined with those of others and put into the messages that carry it. Batches of
a few events go through the generated classes of ``wire``, large ones through ``large``. Decoding checks all lengths
before anything is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from common.core.errors import BackhaulError
from common.core.events.batch import UNIT_SEPARATOR, EventBatch
from common.core.events.stated_range import StatedRange
from common.transport.codec.wire import events as wire

FEW_EVENTS: Final = 200
"""Columns with more entries are large."""
_SMALL_BYTES: Final = 48 * 1024


def encode_batch(batch: EventBatch) -> bytes:
    """Columns to bytes: tags and metadata become flat columns with counts. Encoded batches may be concatenated."""
    n = len(batch)
    tag_count, tag = _flat(batch.tags) if any(batch.tags) else ([0] * n, [])
    if any(batch.metadata):
        part_count, parts = _flat(batch.metadata)
        metadata_count = [count // 2 for count in part_count]
        key, value = parts[::2], parts[1::2]
    else:
        metadata_count, key, value = [0] * n, [], []
    message = wire.EventBatch(
        batch.position,
        batch.timestamp_us,
        batch.stored_us,
        batch.event_time_us,
        batch.persistence_id,
        batch.seq_nr,
        batch.prev_seq_nr,
        batch.origin_seq_nr,
        batch.event_type,
        batch.codec,
        batch.payload,
        tag_count,
        tag,
        metadata_count,
        key,
        value,
    )
    if n <= FEW_EVENTS:
        return message.encode()
    from common.transport.codec import large  # noqa: PLC0415  (a calm service does without it)

    return large.write_batch(message)


def decode_batch(data: bytes) -> EventBatch:
    """Checks all lengths. Raises ``link.malformed``, ``events.ragged`` or ``events.invalid``."""
    return batch_of(read_batch(data))


def read_batch(data: bytes) -> wire.EventBatch:
    """The columns as they were sent. Raises ``link.malformed``."""
    if len(data) <= _SMALL_BYTES:
        return wire.EventBatch.decode(data)
    from common.transport.codec import large  # noqa: PLC0415  (a calm service does without it)

    return large.read_batch(data)


def batch_of(message: wire.EventBatch) -> EventBatch:
    """Checks all lengths. Raises ``events.ragged`` or ``events.invalid``."""
    n = len(message.persistence_id)
    if len(message.metadata_key) != len(message.metadata_value):
        raise ragged("metadata_key and metadata_value differ in length")
    if message.metadata_key or any(message.metadata_count):
        parts = [part for item in zip(message.metadata_key, message.metadata_value, strict=True) for part in item]
        metadata = _joined([2 * count for count in message.metadata_count], parts, "metadata")
    else:
        metadata = [""] * len(message.metadata_count)
    batch = EventBatch(
        message.position,
        message.timestamp_us,
        message.stored_us,
        message.event_time_us,
        message.persistence_id,
        message.seq_nr,
        message.prev_seq_nr,
        message.origin_seq_nr,
        message.event_type,
        message.codec,
        message.payload,
        _joined(message.tag_count, message.tag, "tag"),
        metadata,
        [""] * n,
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


def ranges_to_wire(ranges: Sequence[StatedRange]) -> wire.StatedRanges:
    """As columns."""
    if not ranges:
        return wire.StatedRanges()
    return wire.StatedRanges(
        [stated.persistence_id for stated in ranges],
        [stated.from_seq_nr for stated in ranges],
        [stated.to_seq_nr for stated in ranges],
        [stated.reason for stated in ranges],
    )


def ranges_from_wire(columns: wire.StatedRanges) -> tuple[StatedRange, ...]:
    """Checks all lengths. Raises ``events.ragged``."""
    names, first, last, reasons = columns.persistence_id, columns.from_seq_nr, columns.to_seq_nr, columns.reason
    if not (len(names) == len(first) == len(last) == len(reasons)):
        raise ragged("the columns of the stated ranges differ in length")
    return tuple(map(StatedRange, names, first, last, reasons))


def ragged(what: str) -> BackhaulError:
    """The refusal of columns that do not fit together."""
    return BackhaulError("events.ragged", what, "give every column exactly one entry an event")
