"""Generated from protos/backhaul/v1/events.proto by `make proto`: never edit.

Slotted classes that write themselves and are read with `decode`, which raises MessageUnreadable.
"""

from __future__ import annotations

from typing import Final

from common.transport.codec.framing import (
    blobs,
    delimited,
    has_same_fields,
    number,
    numbers,
    read_blobs,
    read_int32,
    read_int32s,
    read_int64,
    read_int64s,
    read_key,
    read_text,
    read_texts,
    shown,
    skip,
    texts,
    undecoded,
    unfit,
)

_EVENT_BATCH_KEYS: Final = frozenset({10, 18, 26, 34, 42, 50, 58, 66, 74, 82, 90, 98, 106, 114, 122})
EVENT_BATCH_POSITION: Final = b"\x0a"
EVENT_BATCH_TIMESTAMP_US: Final = b"\x12"
EVENT_BATCH_STORED_US: Final = b"\x1a"
EVENT_BATCH_EVENT_TIME_US: Final = b"\x22"
EVENT_BATCH_PERSISTENCE_ID: Final = b"\x2a"
EVENT_BATCH_SEQ_NR: Final = b"\x32"
EVENT_BATCH_PREV_SEQ_NR: Final = b"\x3a"
EVENT_BATCH_ORIGIN_SEQ_NR: Final = b"\x42"
EVENT_BATCH_EVENT_TYPE: Final = b"\x4a"
EVENT_BATCH_CODEC: Final = b"\x52"
EVENT_BATCH_PAYLOAD: Final = b"\x5a"
EVENT_BATCH_TAG_COUNT: Final = b"\x62"
EVENT_BATCH_TAG: Final = b"\x6a"
EVENT_BATCH_METADATA_COUNT: Final = b"\x72"
EVENT_BATCH_METADATA_KEY: Final = b"\x7a"
EVENT_BATCH_METADATA_VALUE: Final = b"\x82\x01"


class EventBatch:
    """n events in the order of the sender's log."""

    __slots__ = (
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
        "payload",
        "tag_count",
        "tag",
        "metadata_count",
        "metadata_key",
        "metadata_value",
    )

    def __init__(
        self,
        position: list[int] | None = None,
        timestamp_us: list[int] | None = None,
        stored_us: list[int] | None = None,
        event_time_us: list[int] | None = None,
        persistence_id: list[str] | None = None,
        seq_nr: list[int] | None = None,
        prev_seq_nr: list[int] | None = None,
        origin_seq_nr: list[int] | None = None,
        event_type: list[str] | None = None,
        codec: list[str] | None = None,
        payload: list[bytes] | None = None,
        tag_count: list[int] | None = None,
        tag: list[str] | None = None,
        metadata_count: list[int] | None = None,
        metadata_key: list[str] | None = None,
        metadata_value: list[str] | None = None,
    ) -> None:
        self.position = [] if position is None else position
        self.timestamp_us = [] if timestamp_us is None else timestamp_us
        self.stored_us = [] if stored_us is None else stored_us
        self.event_time_us = [] if event_time_us is None else event_time_us
        self.persistence_id = [] if persistence_id is None else persistence_id
        self.seq_nr = [] if seq_nr is None else seq_nr
        self.prev_seq_nr = [] if prev_seq_nr is None else prev_seq_nr
        self.origin_seq_nr = [] if origin_seq_nr is None else origin_seq_nr
        self.event_type = [] if event_type is None else event_type
        self.codec = [] if codec is None else codec
        self.payload = [] if payload is None else payload
        self.tag_count = [] if tag_count is None else tag_count
        self.tag = [] if tag is None else tag
        self.metadata_count = [] if metadata_count is None else metadata_count
        self.metadata_key = [] if metadata_key is None else metadata_key
        self.metadata_value = [] if metadata_value is None else metadata_value

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.position:
            out.append(numbers(b"\x0a", self.position))
        if self.timestamp_us:
            out.append(numbers(b"\x12", self.timestamp_us))
        if self.stored_us:
            out.append(numbers(b"\x1a", self.stored_us))
        if self.event_time_us:
            out.append(numbers(b"\x22", self.event_time_us))
        if self.persistence_id:
            out.append(texts(b"\x2a", self.persistence_id))
        if self.seq_nr:
            out.append(numbers(b"\x32", self.seq_nr))
        if self.prev_seq_nr:
            out.append(numbers(b"\x3a", self.prev_seq_nr))
        if self.origin_seq_nr:
            out.append(numbers(b"\x42", self.origin_seq_nr))
        if self.event_type:
            out.append(texts(b"\x4a", self.event_type))
        if self.codec:
            out.append(texts(b"\x52", self.codec))
        if self.payload:
            out.append(blobs(b"\x5a", self.payload))
        if self.tag_count:
            out.append(numbers(b"\x62", self.tag_count))
        if self.tag:
            out.append(texts(b"\x6a", self.tag))
        if self.metadata_count:
            out.append(numbers(b"\x72", self.metadata_count))
        if self.metadata_key:
            out.append(texts(b"\x7a", self.metadata_key))
        if self.metadata_value:
            out.append(texts(b"\x82\x01", self.metadata_value))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> EventBatch:
        """The message that these bytes are; fields that it does not know are left out."""
        position: list[int] = []
        timestamp_us: list[int] = []
        stored_us: list[int] = []
        event_time_us: list[int] = []
        persistence_id: list[str] = []
        seq_nr: list[int] = []
        prev_seq_nr: list[int] = []
        origin_seq_nr: list[int] = []
        event_type: list[str] = []
        codec: list[str] = []
        payload: list[bytes] = []
        tag_count: list[int] = []
        tag: list[str] = []
        metadata_count: list[int] = []
        metadata_key: list[str] = []
        metadata_value: list[str] = []
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    at = read_int64s(data, at + 1, position)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    at = read_int64s(data, at + 1, timestamp_us)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    at = read_int64s(data, at + 1, stored_us)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    at = read_int64s(data, at + 1, event_time_us)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    at = read_texts(data, at, persistence_id)
                    if at == end:
                        break
                    key = data[at]
                if key == 50:
                    at = read_int64s(data, at + 1, seq_nr)
                    if at == end:
                        break
                    key = data[at]
                if key == 58:
                    at = read_int64s(data, at + 1, prev_seq_nr)
                    if at == end:
                        break
                    key = data[at]
                if key == 66:
                    at = read_int64s(data, at + 1, origin_seq_nr)
                    if at == end:
                        break
                    key = data[at]
                if key == 74:
                    at = read_texts(data, at, event_type)
                    if at == end:
                        break
                    key = data[at]
                if key == 82:
                    at = read_texts(data, at, codec)
                    if at == end:
                        break
                    key = data[at]
                if key == 90:
                    at = read_blobs(data, at, payload)
                    if at == end:
                        break
                    key = data[at]
                if key == 98:
                    at = read_int32s(data, at + 1, tag_count)
                    if at == end:
                        break
                    key = data[at]
                if key == 106:
                    at = read_texts(data, at, tag)
                    if at == end:
                        break
                    key = data[at]
                if key == 114:
                    at = read_int32s(data, at + 1, metadata_count)
                    if at == end:
                        break
                    key = data[at]
                if key == 122:
                    at = read_texts(data, at, metadata_key)
                    if at == end:
                        break
                    key = data[at]
                if key not in _EVENT_BATCH_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number == 1 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        position.append(one_int64)
                    elif number == 2 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        timestamp_us.append(one_int64)
                    elif number == 3 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        stored_us.append(one_int64)
                    elif number == 4 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        event_time_us.append(one_int64)
                    elif number == 6 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        seq_nr.append(one_int64)
                    elif number == 7 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        prev_seq_nr.append(one_int64)
                    elif number == 8 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        origin_seq_nr.append(one_int64)
                    elif number == 12 and wire_type == 0:
                        one_int32, at = read_int32(data, at)
                        tag_count.append(one_int32)
                    elif number == 14 and wire_type == 0:
                        one_int32, at = read_int32(data, at)
                        metadata_count.append(one_int32)
                    elif number == 16 and wire_type == 2:
                        one_text, at = read_text(data, at)
                        metadata_value.append(one_text)
                    elif number in {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("EventBatch", error) from error
        return EventBatch(
            position,
            timestamp_us,
            stored_us,
            event_time_us,
            persistence_id,
            seq_nr,
            prev_seq_nr,
            origin_seq_nr,
            event_type,
            codec,
            payload,
            tag_count,
            tag,
            metadata_count,
            metadata_key,
            metadata_value,
        )


_STATED_RANGES_KEYS: Final = frozenset({10, 18, 26, 34})


class StatedRanges:
    """Stretches of an entity's numbering that the sender will not deliver, and why. Every column has one entry a stretch.
    The receiver moves its expectation past `to_seq_nr` and keeps the statement.
    """

    __slots__ = (
        "persistence_id",
        "from_seq_nr",
        "to_seq_nr",
        "reason",
    )

    def __init__(
        self,
        persistence_id: list[str] | None = None,
        from_seq_nr: list[int] | None = None,
        to_seq_nr: list[int] | None = None,
        reason: list[str] | None = None,
    ) -> None:
        self.persistence_id = [] if persistence_id is None else persistence_id
        self.from_seq_nr = [] if from_seq_nr is None else from_seq_nr
        self.to_seq_nr = [] if to_seq_nr is None else to_seq_nr
        self.reason = [] if reason is None else reason

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.persistence_id:
            out.append(texts(b"\x0a", self.persistence_id))
        if self.from_seq_nr:
            out.append(numbers(b"\x12", self.from_seq_nr))
        if self.to_seq_nr:
            out.append(numbers(b"\x1a", self.to_seq_nr))
        if self.reason:
            out.append(texts(b"\x22", self.reason))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> StatedRanges:
        """The message that these bytes are; fields that it does not know are left out."""
        persistence_id: list[str] = []
        from_seq_nr: list[int] = []
        to_seq_nr: list[int] = []
        reason: list[str] = []
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    at = read_texts(data, at, persistence_id)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    at = read_int64s(data, at + 1, from_seq_nr)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    at = read_int64s(data, at + 1, to_seq_nr)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    at = read_texts(data, at, reason)
                    if at == end:
                        break
                    key = data[at]
                if key not in _STATED_RANGES_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number == 2 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        from_seq_nr.append(one_int64)
                    elif number == 3 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        to_seq_nr.append(one_int64)
                    elif number in {1, 2, 3, 4}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("StatedRanges", error) from error
        return StatedRanges(persistence_id, from_seq_nr, to_seq_nr, reason)


_GENERATION_KEYS: Final = frozenset({10, 16})


class Generation:
    """One start of a journal's history: positions from first_position on were written by this incarnation."""

    __slots__ = (
        "id",
        "first_position",
    )

    def __init__(self, id: str = "", first_position: int = 0) -> None:
        self.id = id
        self.first_position = first_position

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.id:
            out.append(delimited(b"\x0a", self.id.encode()))
        if self.first_position:
            out.append(number(b"\x10", self.first_position))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Generation:
        """The message that these bytes are; fields that it does not know are left out."""
        id = ""
        first_position = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 16:
                    first_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _GENERATION_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Generation", error) from error
        return Generation(id, first_position)


_OFFSET_KEYS: Final = frozenset({10, 18, 24, 32, 42, 48})


class Offset:
    """A place in one journal's history, with the identity of the last event at or below it."""

    __slots__ = (
        "journal_id",
        "generation_id",
        "position",
        "timestamp_us",
        "persistence_id",
        "seq_nr",
    )

    def __init__(
        self,
        journal_id: str = "",
        generation_id: str = "",
        position: int = 0,
        timestamp_us: int = 0,
        persistence_id: str = "",
        seq_nr: int = 0,
    ) -> None:
        self.journal_id = journal_id
        self.generation_id = generation_id
        self.position = position
        self.timestamp_us = timestamp_us
        self.persistence_id = persistence_id
        self.seq_nr = seq_nr

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.journal_id:
            out.append(delimited(b"\x0a", self.journal_id.encode()))
        if self.generation_id:
            out.append(delimited(b"\x12", self.generation_id.encode()))
        if self.position:
            out.append(number(b"\x18", self.position))
        if self.timestamp_us:
            out.append(number(b"\x20", self.timestamp_us))
        if self.persistence_id:
            out.append(delimited(b"\x2a", self.persistence_id.encode()))
        if self.seq_nr:
            out.append(number(b"\x30", self.seq_nr))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Offset:
        """The message that these bytes are; fields that it does not know are left out."""
        journal_id = ""
        generation_id = ""
        position = 0
        timestamp_us = 0
        persistence_id = ""
        seq_nr = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    journal_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    generation_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 24:
                    position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 32:
                    timestamp_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    persistence_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 48:
                    seq_nr, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _OFFSET_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5, 6}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Offset", error) from error
        return Offset(journal_id, generation_id, position, timestamp_us, persistence_id, seq_nr)
