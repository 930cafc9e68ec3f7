"""Generated from protos/backhaul/v1/push.proto by `make proto`: never edit.

Slotted classes that write themselves and are read with `decode`, which raises MessageUnreadable.
"""

from __future__ import annotations

from typing import Final

from common.transport.codec.framing import (
    delimited,
    double,
    has_same_fields,
    number,
    numbers,
    prefix,
    read_blob,
    read_bool,
    read_double,
    read_int64,
    read_int64s,
    read_key,
    read_one_of,
    read_text,
    read_texts,
    read_uint32,
    shown,
    skip,
    texts,
    undecoded,
    unfit,
)
from common.transport.codec.wire.events import Generation, Offset, StatedRanges

_HELLO_KEYS: Final = frozenset({8, 18, 26, 34, 42, 48, 58, 64})


class Hello:
    """First message of the edge, exactly once."""

    __slots__ = (
        "protocol_version",
        "origin_id",
        "instance",
        "journal_id",
        "generation",
        "head_position",
        "entity_type",
        "clock_us",
    )

    def __init__(
        self,
        protocol_version: int = 0,
        origin_id: str = "",
        instance: str = "",
        journal_id: str = "",
        generation: list[Generation] | None = None,
        head_position: int = 0,
        entity_type: list[str] | None = None,
        clock_us: int = 0,
    ) -> None:
        self.protocol_version = protocol_version
        self.origin_id = origin_id
        self.instance = instance
        self.journal_id = journal_id
        self.generation = [] if generation is None else generation
        self.head_position = head_position
        self.entity_type = [] if entity_type is None else entity_type
        self.clock_us = clock_us

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.protocol_version:
            out.append(number(b"\x08", self.protocol_version))
        if self.origin_id:
            out.append(delimited(b"\x12", self.origin_id.encode()))
        if self.instance:
            out.append(delimited(b"\x1a", self.instance.encode()))
        if self.journal_id:
            out.append(delimited(b"\x22", self.journal_id.encode()))
        out += [delimited(b"\x2a", each.encode()) for each in self.generation]
        if self.head_position:
            out.append(number(b"\x30", self.head_position))
        if self.entity_type:
            out.append(texts(b"\x3a", self.entity_type))
        if self.clock_us:
            out.append(number(b"\x40", self.clock_us))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Hello:
        """The message that these bytes are; fields that it does not know are left out."""
        protocol_version = 0
        origin_id = ""
        instance = ""
        journal_id = ""
        generation: list[Generation] = []
        head_position = 0
        entity_type: list[str] = []
        clock_us = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    protocol_version, at = read_uint32(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    origin_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    instance, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    journal_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    part, at = read_blob(data, at + 1)
                    generation.append(Generation.decode(part))
                    if at == end:
                        break
                    key = data[at]
                if key == 48:
                    head_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 58:
                    at = read_texts(data, at, entity_type)
                    if at == end:
                        break
                    key = data[at]
                if key == 64:
                    clock_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _HELLO_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5, 6, 7, 8}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Hello", error) from error
        return Hello(
            protocol_version, origin_id, instance, journal_id, generation, head_position, entity_type, clock_us
        )


_PUSH_BATCH_KEYS: Final = frozenset({8, 16, 26, 34, 42, 48, 56})
PUSH_BATCH_EVENTS: Final = b"\x1a"


class PushBatch:
    """Positions after_position < p <= through_position of the edge's journal, without what is stated as missing. Equal positions:
    ranges alone, of what is gone ahead.
    """

    __slots__ = (
        "after_position",
        "through_position",
        "events",
        "ranges",
        "generation_id",
        "backfill",
        "past",
    )

    def __init__(
        self,
        after_position: int = 0,
        through_position: int = 0,
        events: bytes = b"",
        ranges: StatedRanges | None = None,
        generation_id: str = "",
        backfill: bool = False,
        past: bool = False,
    ) -> None:
        self.after_position = after_position
        self.through_position = through_position
        self.events = events
        self.ranges = StatedRanges() if ranges is None else ranges
        self.generation_id = generation_id
        self.backfill = backfill
        self.past = past

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.after_position:
            out.append(number(b"\x08", self.after_position))
        if self.through_position:
            out.append(number(b"\x10", self.through_position))
        if self.events:
            out += (prefix(b"\x1a", len(self.events)), self.events)
        if ranges := self.ranges.encode():
            out.append(delimited(b"\x22", ranges))
        if self.generation_id:
            out.append(delimited(b"\x2a", self.generation_id.encode()))
        if self.backfill:
            out.append(b"\x30\x01")
        if self.past:
            out.append(b"\x38\x01")
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> PushBatch:
        """The message that these bytes are; fields that it does not know are left out."""
        after_position = 0
        through_position = 0
        events: list[bytes] = []
        ranges: list[bytes] = []
        generation_id = ""
        backfill = False
        past = False
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    after_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 16:
                    through_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    part, at = read_blob(data, at + 1)
                    events.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    part, at = read_blob(data, at + 1)
                    ranges.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    generation_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 48:
                    backfill, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 56:
                    past, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _PUSH_BATCH_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5, 6, 7}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("PushBatch", error) from error
        return PushBatch(
            after_position,
            through_position,
            b"".join(events),
            StatedRanges.decode(b"".join(ranges)) if ranges else StatedRanges(),
            generation_id,
            backfill,
            past,
        )


_EDGE_HEALTH_KEYS: Final = frozenset({8, 16, 24, 32, 40, 48, 58, 64})


class EdgeHealth:
    """How an edge is, for the cloud's view of the fleet; nothing depends on it. 0 and '' = not known."""

    __slots__ = (
        "head_position",
        "lag_us",
        "lag_bytes",
        "used_bytes",
        "cap_bytes",
        "free_bytes",
        "version",
        "certificate_expires_us",
    )

    def __init__(
        self,
        head_position: int = 0,
        lag_us: int = 0,
        lag_bytes: int = 0,
        used_bytes: int = 0,
        cap_bytes: int = 0,
        free_bytes: int = 0,
        version: str = "",
        certificate_expires_us: int = 0,
    ) -> None:
        self.head_position = head_position
        self.lag_us = lag_us
        self.lag_bytes = lag_bytes
        self.used_bytes = used_bytes
        self.cap_bytes = cap_bytes
        self.free_bytes = free_bytes
        self.version = version
        self.certificate_expires_us = certificate_expires_us

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.head_position:
            out.append(number(b"\x08", self.head_position))
        if self.lag_us:
            out.append(number(b"\x10", self.lag_us))
        if self.lag_bytes:
            out.append(number(b"\x18", self.lag_bytes))
        if self.used_bytes:
            out.append(number(b"\x20", self.used_bytes))
        if self.cap_bytes:
            out.append(number(b"\x28", self.cap_bytes))
        if self.free_bytes:
            out.append(number(b"\x30", self.free_bytes))
        if self.version:
            out.append(delimited(b"\x3a", self.version.encode()))
        if self.certificate_expires_us:
            out.append(number(b"\x40", self.certificate_expires_us))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> EdgeHealth:
        """The message that these bytes are; fields that it does not know are left out."""
        head_position = 0
        lag_us = 0
        lag_bytes = 0
        used_bytes = 0
        cap_bytes = 0
        free_bytes = 0
        version = ""
        certificate_expires_us = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    head_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 16:
                    lag_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 24:
                    lag_bytes, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 32:
                    used_bytes, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 40:
                    cap_bytes, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 48:
                    free_bytes, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 58:
                    version, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 64:
                    certificate_expires_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _EDGE_HEALTH_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5, 6, 7, 8}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("EdgeHealth", error) from error
        return EdgeHealth(
            head_position, lag_us, lag_bytes, used_bytes, cap_bytes, free_bytes, version, certificate_expires_us
        )


_HEARTBEAT_KEYS: Final = frozenset({8, 16, 26})


class Heartbeat:
    """The message Heartbeat."""

    __slots__ = (
        "bytes_received",
        "clock_us",
        "health",
    )

    def __init__(self, bytes_received: int = 0, clock_us: int = 0, health: EdgeHealth | None = None) -> None:
        self.bytes_received = bytes_received
        self.clock_us = clock_us
        self.health = EdgeHealth() if health is None else health

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.bytes_received:
            out.append(number(b"\x08", self.bytes_received))
        if self.clock_us:
            out.append(number(b"\x10", self.clock_us))
        if health := self.health.encode():
            out.append(delimited(b"\x1a", health))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Heartbeat:
        """The message that these bytes are; fields that it does not know are left out."""
        bytes_received = 0
        clock_us = 0
        health: list[bytes] = []
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    bytes_received, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 16:
                    clock_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    part, at = read_blob(data, at + 1)
                    health.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key not in _HEARTBEAT_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Heartbeat", error) from error
        return Heartbeat(bytes_received, clock_us, EdgeHealth.decode(b"".join(health)) if health else EdgeHealth())


_PUSH_FILTER_KEYS: Final = frozenset({8, 18, 26, 34})


class PushFilter:
    """What of an edge's journal is pushed. Criteria are JSON, canonical; empty = everything."""

    __slots__ = (
        "version",
        "criteria",
        "producer",
        "history",
    )

    def __init__(self, version: int = 0, criteria: str = "", producer: str = "", history: str = "") -> None:
        self.version = version
        self.criteria = criteria
        self.producer = producer
        self.history = history

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.version:
            out.append(number(b"\x08", self.version))
        if self.criteria:
            out.append(delimited(b"\x12", self.criteria.encode()))
        if self.producer:
            out.append(delimited(b"\x1a", self.producer.encode()))
        if self.history:
            out.append(delimited(b"\x22", self.history.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> PushFilter:
        """The message that these bytes are; fields that it does not know are left out."""
        version = 0
        criteria = ""
        producer = ""
        history = ""
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    version, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    criteria, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    producer, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    history, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _PUSH_FILTER_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("PushFilter", error) from error
        return PushFilter(version, criteria, producer, history)


_PUSH_FILTER_APPLIED_KEYS: Final = frozenset({10, 16, 24})


class PushFilterApplied:
    """Sent when everything before it is acknowledged. After `position` the live lane obeys `filter`."""

    __slots__ = (
        "filter",
        "position",
        "needs_backfill",
    )

    def __init__(self, filter: PushFilter | None = None, position: int = 0, needs_backfill: bool = False) -> None:
        self.filter = PushFilter() if filter is None else filter
        self.position = position
        self.needs_backfill = needs_backfill

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if filter := self.filter.encode():
            out.append(delimited(b"\x0a", filter))
        if self.position:
            out.append(number(b"\x10", self.position))
        if self.needs_backfill:
            out.append(b"\x18\x01")
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> PushFilterApplied:
        """The message that these bytes are; fields that it does not know are left out."""
        filter: list[bytes] = []
        position = 0
        needs_backfill = False
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    part, at = read_blob(data, at + 1)
                    filter.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 16:
                    position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 24:
                    needs_backfill, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _PUSH_FILTER_APPLIED_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("PushFilterApplied", error) from error
        return PushFilterApplied(
            PushFilter.decode(b"".join(filter)) if filter else PushFilter(), position, needs_backfill
        )


_PAST_QUESTION_KEYS: Final = frozenset({10})


class PastQuestion:
    """Up to which number are these entities known? One question at a time."""

    __slots__ = ("persistence_id",)

    def __init__(self, persistence_id: list[str] | None = None) -> None:
        self.persistence_id = [] if persistence_id is None else persistence_id

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.persistence_id:
            out.append(texts(b"\x0a", self.persistence_id))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> PastQuestion:
        """The message that these bytes are; fields that it does not know are left out."""
        persistence_id: list[str] = []
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    at = read_texts(data, at, persistence_id)
                    if at == end:
                        break
                    key = data[at]
                if key not in _PAST_QUESTION_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("PastQuestion", error) from error
        return PastQuestion(persistence_id)


FROM_EDGE_HELLO: Final = b"\x0a"
FROM_EDGE_BATCH: Final = b"\x12"
FROM_EDGE_HEARTBEAT: Final = b"\x1a"
FROM_EDGE_FILTER_APPLIED: Final = b"\x22"
FROM_EDGE_PAST_QUESTION: Final = b"\x2a"


class FromEdge:
    """The message FromEdge."""

    __slots__ = ("message",)

    def __init__(self, message: Hello | PushBatch | Heartbeat | PushFilterApplied | PastQuestion | None = None) -> None:
        self.message = message

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes; none when nothing is set."""
        message = self.message
        if isinstance(message, Hello):
            return delimited(FROM_EDGE_HELLO, message.encode())
        if isinstance(message, PushBatch):
            return delimited(FROM_EDGE_BATCH, message.encode())
        if isinstance(message, Heartbeat):
            return delimited(FROM_EDGE_HEARTBEAT, message.encode())
        if isinstance(message, PushFilterApplied):
            return delimited(FROM_EDGE_FILTER_APPLIED, message.encode())
        if isinstance(message, PastQuestion):
            return delimited(FROM_EDGE_PAST_QUESTION, message.encode())
        return b""

    @staticmethod
    def decode(data: bytes) -> FromEdge:
        """None is set when it is one that this version does not know."""
        try:
            number, content = read_one_of(data, 5)
        except (IndexError, ValueError) as error:
            raise undecoded("FromEdge", error) from error
        if number == 1:
            return FromEdge(Hello.decode(content))
        if number == 2:
            return FromEdge(PushBatch.decode(content))
        if number == 3:
            return FromEdge(Heartbeat.decode(content))
        if number == 4:
            return FromEdge(PushFilterApplied.decode(content))
        if number == 5:
            return FromEdge(PastQuestion.decode(content))
        return FromEdge()


_START_KEYS: Final = frozenset({8, 18, 26, 34, 42, 48, 56, 64, 72, 80, 90, 98, 104, 112, 122})


class Start:
    """First message of the cloud, exactly once."""

    __slots__ = (
        "session",
        "stored",
        "resume",
        "cloud_journal_id",
        "cloud_generation_id",
        "window_events",
        "window_bytes",
        "batch_bytes",
        "event_bytes",
        "clock_us",
        "old_filter",
        "new_filter",
        "change_position",
        "backfill_position",
        "desired_filter",
    )

    def __init__(
        self,
        session: int = 0,
        stored: Offset | None = None,
        resume: str = "",
        cloud_journal_id: str = "",
        cloud_generation_id: str = "",
        window_events: int = 0,
        window_bytes: int = 0,
        batch_bytes: int = 0,
        event_bytes: int = 0,
        clock_us: int = 0,
        old_filter: PushFilter | None = None,
        new_filter: PushFilter | None = None,
        change_position: int = 0,
        backfill_position: int = 0,
        desired_filter: PushFilter | None = None,
    ) -> None:
        self.session = session
        self.stored = Offset() if stored is None else stored
        self.resume = resume
        self.cloud_journal_id = cloud_journal_id
        self.cloud_generation_id = cloud_generation_id
        self.window_events = window_events
        self.window_bytes = window_bytes
        self.batch_bytes = batch_bytes
        self.event_bytes = event_bytes
        self.clock_us = clock_us
        self.old_filter = PushFilter() if old_filter is None else old_filter
        self.new_filter = PushFilter() if new_filter is None else new_filter
        self.change_position = change_position
        self.backfill_position = backfill_position
        self.desired_filter = PushFilter() if desired_filter is None else desired_filter

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.session:
            out.append(number(b"\x08", self.session))
        if stored := self.stored.encode():
            out.append(delimited(b"\x12", stored))
        if self.resume:
            out.append(delimited(b"\x1a", self.resume.encode()))
        if self.cloud_journal_id:
            out.append(delimited(b"\x22", self.cloud_journal_id.encode()))
        if self.cloud_generation_id:
            out.append(delimited(b"\x2a", self.cloud_generation_id.encode()))
        if self.window_events:
            out.append(number(b"\x30", self.window_events))
        if self.window_bytes:
            out.append(number(b"\x38", self.window_bytes))
        if self.batch_bytes:
            out.append(number(b"\x40", self.batch_bytes))
        if self.event_bytes:
            out.append(number(b"\x48", self.event_bytes))
        if self.clock_us:
            out.append(number(b"\x50", self.clock_us))
        if old_filter := self.old_filter.encode():
            out.append(delimited(b"\x5a", old_filter))
        if new_filter := self.new_filter.encode():
            out.append(delimited(b"\x62", new_filter))
        if self.change_position:
            out.append(number(b"\x68", self.change_position))
        if self.backfill_position:
            out.append(number(b"\x70", self.backfill_position))
        if desired_filter := self.desired_filter.encode():
            out.append(delimited(b"\x7a", desired_filter))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Start:
        """The message that these bytes are; fields that it does not know are left out."""
        session = 0
        stored: list[bytes] = []
        resume = ""
        cloud_journal_id = ""
        cloud_generation_id = ""
        window_events = 0
        window_bytes = 0
        batch_bytes = 0
        event_bytes = 0
        clock_us = 0
        old_filter: list[bytes] = []
        new_filter: list[bytes] = []
        change_position = 0
        backfill_position = 0
        desired_filter: list[bytes] = []
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    session, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    part, at = read_blob(data, at + 1)
                    stored.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    resume, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    cloud_journal_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    cloud_generation_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 48:
                    window_events, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 56:
                    window_bytes, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 64:
                    batch_bytes, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 72:
                    event_bytes, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 80:
                    clock_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 90:
                    part, at = read_blob(data, at + 1)
                    old_filter.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 98:
                    part, at = read_blob(data, at + 1)
                    new_filter.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 104:
                    change_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 112:
                    backfill_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 122:
                    part, at = read_blob(data, at + 1)
                    desired_filter.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key not in _START_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Start", error) from error
        return Start(
            session,
            Offset.decode(b"".join(stored)) if stored else Offset(),
            resume,
            cloud_journal_id,
            cloud_generation_id,
            window_events,
            window_bytes,
            batch_bytes,
            event_bytes,
            clock_us,
            PushFilter.decode(b"".join(old_filter)) if old_filter else PushFilter(),
            PushFilter.decode(b"".join(new_filter)) if new_filter else PushFilter(),
            change_position,
            backfill_position,
            PushFilter.decode(b"".join(desired_filter)) if desired_filter else PushFilter(),
        )


_ACK_KEYS: Final = frozenset({8, 18, 26, 34, 42, 48, 56})


class Ack:
    """Every position <= position of the lane is durable in the cloud, or was withheld. Cumulative."""

    __slots__ = (
        "position",
        "parked_position",
        "parked_persistence_id",
        "parked_seq_nr",
        "parked_code",
        "backfill",
        "past",
    )

    def __init__(
        self,
        position: int = 0,
        parked_position: list[int] | None = None,
        parked_persistence_id: list[str] | None = None,
        parked_seq_nr: list[int] | None = None,
        parked_code: list[str] | None = None,
        backfill: bool = False,
        past: bool = False,
    ) -> None:
        self.position = position
        self.parked_position = [] if parked_position is None else parked_position
        self.parked_persistence_id = [] if parked_persistence_id is None else parked_persistence_id
        self.parked_seq_nr = [] if parked_seq_nr is None else parked_seq_nr
        self.parked_code = [] if parked_code is None else parked_code
        self.backfill = backfill
        self.past = past

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.position:
            out.append(number(b"\x08", self.position))
        if self.parked_position:
            out.append(numbers(b"\x12", self.parked_position))
        if self.parked_persistence_id:
            out.append(texts(b"\x1a", self.parked_persistence_id))
        if self.parked_seq_nr:
            out.append(numbers(b"\x22", self.parked_seq_nr))
        if self.parked_code:
            out.append(texts(b"\x2a", self.parked_code))
        if self.backfill:
            out.append(b"\x30\x01")
        if self.past:
            out.append(b"\x38\x01")
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Ack:
        """The message that these bytes are; fields that it does not know are left out."""
        position = 0
        parked_position: list[int] = []
        parked_persistence_id: list[str] = []
        parked_seq_nr: list[int] = []
        parked_code: list[str] = []
        backfill = False
        past = False
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    at = read_int64s(data, at + 1, parked_position)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    at = read_texts(data, at, parked_persistence_id)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    at = read_int64s(data, at + 1, parked_seq_nr)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    at = read_texts(data, at, parked_code)
                    if at == end:
                        break
                    key = data[at]
                if key == 48:
                    backfill, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 56:
                    past, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _ACK_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number == 2 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        parked_position.append(one_int64)
                    elif number == 4 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        parked_seq_nr.append(one_int64)
                    elif number in {1, 2, 3, 4, 5, 6, 7}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Ack", error) from error
        return Ack(position, parked_position, parked_persistence_id, parked_seq_nr, parked_code, backfill, past)


_DRAIN_KEYS: Final = frozenset({9, 18})


class Drain:
    """The node stops, or has too many: send nothing new, wait for the acks, end the stream, dial again within that time."""

    __slots__ = (
        "redial_within_s",
        "reason",
    )

    def __init__(self, redial_within_s: float = 0.0, reason: str = "") -> None:
        self.redial_within_s = redial_within_s
        self.reason = reason

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.redial_within_s:
            out.append(double(b"\x09", self.redial_within_s))
        if self.reason:
            out.append(delimited(b"\x12", self.reason.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Drain:
        """The message that these bytes are; fields that it does not know are left out."""
        redial_within_s = 0.0
        reason = ""
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 9:
                    redial_within_s, at = read_double(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    reason, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _DRAIN_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Drain", error) from error
        return Drain(redial_within_s, reason)


_PUSH_FILTER_UPDATE_KEYS: Final = frozenset({10})


class PushFilterUpdate:
    """The cloud asks for another filter. A later one takes the place of one that was not begun yet."""

    __slots__ = ("filter",)

    def __init__(self, filter: PushFilter | None = None) -> None:
        self.filter = PushFilter() if filter is None else filter

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if filter := self.filter.encode():
            out.append(delimited(b"\x0a", filter))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> PushFilterUpdate:
        """The message that these bytes are; fields that it does not know are left out."""
        filter: list[bytes] = []
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    part, at = read_blob(data, at + 1)
                    filter.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key not in _PUSH_FILTER_UPDATE_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("PushFilterUpdate", error) from error
        return PushFilterUpdate(PushFilter.decode(b"".join(filter)) if filter else PushFilter())


_PAST_KNOWN_KEYS: Final = frozenset({10})


class PastKnown:
    """One entry an entity of the question: the last number that is stored, stated or parked; -1 = nothing is wanted of it."""

    __slots__ = ("seq_nr",)

    def __init__(self, seq_nr: list[int] | None = None) -> None:
        self.seq_nr = [] if seq_nr is None else seq_nr

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.seq_nr:
            out.append(numbers(b"\x0a", self.seq_nr))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> PastKnown:
        """The message that these bytes are; fields that it does not know are left out."""
        seq_nr: list[int] = []
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    at = read_int64s(data, at + 1, seq_nr)
                    if at == end:
                        break
                    key = data[at]
                if key not in _PAST_KNOWN_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number == 1 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        seq_nr.append(one_int64)
                    elif number in {1}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("PastKnown", error) from error
        return PastKnown(seq_nr)


FROM_CLOUD_START: Final = b"\x0a"
FROM_CLOUD_ACK: Final = b"\x12"
FROM_CLOUD_HEARTBEAT: Final = b"\x1a"
FROM_CLOUD_DRAIN: Final = b"\x22"
FROM_CLOUD_FILTER_UPDATE: Final = b"\x2a"
FROM_CLOUD_PAST_KNOWN: Final = b"\x32"


class FromCloud:
    """The message FromCloud."""

    __slots__ = ("message",)

    def __init__(self, message: Start | Ack | Heartbeat | Drain | PushFilterUpdate | PastKnown | None = None) -> None:
        self.message = message

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes; none when nothing is set."""
        message = self.message
        if isinstance(message, Start):
            return delimited(FROM_CLOUD_START, message.encode())
        if isinstance(message, Ack):
            return delimited(FROM_CLOUD_ACK, message.encode())
        if isinstance(message, Heartbeat):
            return delimited(FROM_CLOUD_HEARTBEAT, message.encode())
        if isinstance(message, Drain):
            return delimited(FROM_CLOUD_DRAIN, message.encode())
        if isinstance(message, PushFilterUpdate):
            return delimited(FROM_CLOUD_FILTER_UPDATE, message.encode())
        if isinstance(message, PastKnown):
            return delimited(FROM_CLOUD_PAST_KNOWN, message.encode())
        return b""

    @staticmethod
    def decode(data: bytes) -> FromCloud:
        """None is set when it is one that this version does not know."""
        try:
            number, content = read_one_of(data, 6)
        except (IndexError, ValueError) as error:
            raise undecoded("FromCloud", error) from error
        if number == 1:
            return FromCloud(Start.decode(content))
        if number == 2:
            return FromCloud(Ack.decode(content))
        if number == 3:
            return FromCloud(Heartbeat.decode(content))
        if number == 4:
            return FromCloud(Drain.decode(content))
        if number == 5:
            return FromCloud(PushFilterUpdate.decode(content))
        if number == 6:
            return FromCloud(PastKnown.decode(content))
        return FromCloud()


_CHECK_REQUEST_KEYS: Final = frozenset({8, 18})


class CheckRequest:
    """The message CheckRequest."""

    __slots__ = (
        "protocol_version",
        "origin_id",
    )

    def __init__(self, protocol_version: int = 0, origin_id: str = "") -> None:
        self.protocol_version = protocol_version
        self.origin_id = origin_id

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.protocol_version:
            out.append(number(b"\x08", self.protocol_version))
        if self.origin_id:
            out.append(delimited(b"\x12", self.origin_id.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> CheckRequest:
        """The message that these bytes are; fields that it does not know are left out."""
        protocol_version = 0
        origin_id = ""
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    protocol_version, at = read_uint32(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    origin_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _CHECK_REQUEST_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("CheckRequest", error) from error
        return CheckRequest(protocol_version, origin_id)


_CHECK_REPLY_KEYS: Final = frozenset({8, 18, 26, 34, 42, 50, 56, 64})


class CheckReply:
    """The message CheckReply."""

    __slots__ = (
        "clock_us",
        "error_code",
        "error_message",
        "error_hint",
        "version",
        "rule",
        "may_write",
        "connected",
    )

    def __init__(
        self,
        clock_us: int = 0,
        error_code: str = "",
        error_message: str = "",
        error_hint: str = "",
        version: str = "",
        rule: str = "",
        may_write: bool = False,
        connected: bool = False,
    ) -> None:
        self.clock_us = clock_us
        self.error_code = error_code
        self.error_message = error_message
        self.error_hint = error_hint
        self.version = version
        self.rule = rule
        self.may_write = may_write
        self.connected = connected

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.clock_us:
            out.append(number(b"\x08", self.clock_us))
        if self.error_code:
            out.append(delimited(b"\x12", self.error_code.encode()))
        if self.error_message:
            out.append(delimited(b"\x1a", self.error_message.encode()))
        if self.error_hint:
            out.append(delimited(b"\x22", self.error_hint.encode()))
        if self.version:
            out.append(delimited(b"\x2a", self.version.encode()))
        if self.rule:
            out.append(delimited(b"\x32", self.rule.encode()))
        if self.may_write:
            out.append(b"\x38\x01")
        if self.connected:
            out.append(b"\x40\x01")
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> CheckReply:
        """The message that these bytes are; fields that it does not know are left out."""
        clock_us = 0
        error_code = ""
        error_message = ""
        error_hint = ""
        version = ""
        rule = ""
        may_write = False
        connected = False
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    clock_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    error_code, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    error_message, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    error_hint, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    version, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 50:
                    rule, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 56:
                    may_write, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 64:
                    connected, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _CHECK_REPLY_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5, 6, 7, 8}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("CheckReply", error) from error
        return CheckReply(clock_us, error_code, error_message, error_hint, version, rule, may_write, connected)
