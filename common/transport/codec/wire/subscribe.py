"""Generated from protos/backhaul/v1/subscribe.proto by `make proto`: never edit.

Slotted classes that write themselves and are read with `decode`, which raises MessageUnreadable.
"""

from __future__ import annotations

from typing import Final

from common.transport.codec.framing import (
    delimited,
    has_same_fields,
    number,
    numbers,
    prefix,
    read_blob,
    read_bool,
    read_int32,
    read_int64,
    read_int64s,
    read_key,
    read_one_of,
    read_text,
    read_uint32,
    shown,
    skip,
    undecoded,
    unfit,
)
from common.transport.codec.wire.events import Generation, StatedRanges
from common.transport.codec.wire.push import Drain, Heartbeat

_STREAM_CURSOR_KEYS: Final = frozenset({8, 18, 24, 32, 40, 48, 58})


class StreamCursor:
    """A place of one lane in the source's log. Everything at or below position was dealt with."""

    __slots__ = (
        "position",
        "digest",
        "timestamp_us",
        "in_snapshots",
        "scan_head",
        "scan_low",
        "scan_after",
    )

    def __init__(
        self,
        position: int = 0,
        digest: str = "",
        timestamp_us: int = 0,
        in_snapshots: bool = False,
        scan_head: int = 0,
        scan_low: int = 0,
        scan_after: str = "",
    ) -> None:
        self.position = position
        self.digest = digest
        self.timestamp_us = timestamp_us
        self.in_snapshots = in_snapshots
        self.scan_head = scan_head
        self.scan_low = scan_low
        self.scan_after = scan_after

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.position:
            out.append(number(b"\x08", self.position))
        if self.digest:
            out.append(delimited(b"\x12", self.digest.encode()))
        if self.timestamp_us:
            out.append(number(b"\x18", self.timestamp_us))
        if self.in_snapshots:
            out.append(b"\x20\x01")
        if self.scan_head:
            out.append(number(b"\x28", self.scan_head))
        if self.scan_low:
            out.append(number(b"\x30", self.scan_low))
        if self.scan_after:
            out.append(delimited(b"\x3a", self.scan_after.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> StreamCursor:
        """The message that these bytes are; fields that it does not know are left out."""
        position = 0
        digest = ""
        timestamp_us = 0
        in_snapshots = False
        scan_head = 0
        scan_low = 0
        scan_after = ""
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
                    digest, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 24:
                    timestamp_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 32:
                    in_snapshots, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 40:
                    scan_head, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 48:
                    scan_low, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 58:
                    scan_after, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _STREAM_CURSOR_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5, 6, 7}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("StreamCursor", error) from error
        return StreamCursor(position, digest, timestamp_us, in_snapshots, scan_head, scan_low, scan_after)


_STREAM_FILTER_KEYS: Final = frozenset({8, 18, 26})


class StreamFilter:
    """A filter as canonical JSON and the number of its version; version 0 = no filter."""

    __slots__ = (
        "version",
        "criteria",
        "wall",
    )

    def __init__(self, version: int = 0, criteria: str = "", wall: str = "") -> None:
        self.version = version
        self.criteria = criteria
        self.wall = wall

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.version:
            out.append(number(b"\x08", self.version))
        if self.criteria:
            out.append(delimited(b"\x12", self.criteria.encode()))
        if self.wall:
            out.append(delimited(b"\x1a", self.wall.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> StreamFilter:
        """The message that these bytes are; fields that it does not know are left out."""
        version = 0
        criteria = ""
        wall = ""
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
                    wall, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _STREAM_FILTER_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("StreamFilter", error) from error
        return StreamFilter(version, criteria, wall)


_STREAM_PLACE_KEYS: Final = frozenset({10, 18, 26, 34, 42, 50, 56, 64, 72, 80, 88, 98})


class StreamPlace:
    """The message StreamPlace."""

    __slots__ = (
        "journal_id",
        "generation_id",
        "live",
        "applied",
        "backfill",
        "next",
        "change_position",
        "reached_position",
        "begin_position",
        "unstated_after",
        "unstated_to",
        "unstated_generation_id",
    )

    def __init__(
        self,
        journal_id: str = "",
        generation_id: str = "",
        live: StreamCursor | None = None,
        applied: StreamFilter | None = None,
        backfill: StreamCursor | None = None,
        next: StreamFilter | None = None,
        change_position: int = 0,
        reached_position: int = 0,
        begin_position: int = 0,
        unstated_after: int = 0,
        unstated_to: int = 0,
        unstated_generation_id: str = "",
    ) -> None:
        self.journal_id = journal_id
        self.generation_id = generation_id
        self.live = StreamCursor() if live is None else live
        self.applied = StreamFilter() if applied is None else applied
        self.backfill = StreamCursor() if backfill is None else backfill
        self.next = StreamFilter() if next is None else next
        self.change_position = change_position
        self.reached_position = reached_position
        self.begin_position = begin_position
        self.unstated_after = unstated_after
        self.unstated_to = unstated_to
        self.unstated_generation_id = unstated_generation_id

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.journal_id:
            out.append(delimited(b"\x0a", self.journal_id.encode()))
        if self.generation_id:
            out.append(delimited(b"\x12", self.generation_id.encode()))
        if live := self.live.encode():
            out.append(delimited(b"\x1a", live))
        if applied := self.applied.encode():
            out.append(delimited(b"\x22", applied))
        if backfill := self.backfill.encode():
            out.append(delimited(b"\x2a", backfill))
        if next := self.next.encode():
            out.append(delimited(b"\x32", next))
        if self.change_position:
            out.append(number(b"\x38", self.change_position))
        if self.reached_position:
            out.append(number(b"\x40", self.reached_position))
        if self.begin_position:
            out.append(number(b"\x48", self.begin_position))
        if self.unstated_after:
            out.append(number(b"\x50", self.unstated_after))
        if self.unstated_to:
            out.append(number(b"\x58", self.unstated_to))
        if self.unstated_generation_id:
            out.append(delimited(b"\x62", self.unstated_generation_id.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> StreamPlace:
        """The message that these bytes are; fields that it does not know are left out."""
        journal_id = ""
        generation_id = ""
        live: list[bytes] = []
        applied: list[bytes] = []
        backfill: list[bytes] = []
        next: list[bytes] = []
        change_position = 0
        reached_position = 0
        begin_position = 0
        unstated_after = 0
        unstated_to = 0
        unstated_generation_id = ""
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
                if key == 26:
                    part, at = read_blob(data, at + 1)
                    live.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    part, at = read_blob(data, at + 1)
                    applied.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    part, at = read_blob(data, at + 1)
                    backfill.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 50:
                    part, at = read_blob(data, at + 1)
                    next.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 56:
                    change_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 64:
                    reached_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 72:
                    begin_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 80:
                    unstated_after, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 88:
                    unstated_to, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 98:
                    unstated_generation_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _STREAM_PLACE_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("StreamPlace", error) from error
        return StreamPlace(
            journal_id,
            generation_id,
            StreamCursor.decode(b"".join(live)) if live else StreamCursor(),
            StreamFilter.decode(b"".join(applied)) if applied else StreamFilter(),
            StreamCursor.decode(b"".join(backfill)) if backfill else StreamCursor(),
            StreamFilter.decode(b"".join(next)) if next else StreamFilter(),
            change_position,
            reached_position,
            begin_position,
            unstated_after,
            unstated_to,
            unstated_generation_id,
        )


_SUBSCRIBE_KEYS: Final = frozenset({8, 18, 26, 34, 42, 50, 58, 66, 72, 80, 88, 96, 104, 114})


class Subscribe:
    """First message of the consumer, exactly once."""

    __slots__ = (
        "protocol_version",
        "stream_id",
        "consumer_id",
        "subscription",
        "place",
        "desired",
        "start",
        "on_trimmed",
        "snapshots_if_behind",
        "window_bytes",
        "batch_bytes",
        "batch_events",
        "clock_us",
        "history",
    )

    def __init__(
        self,
        protocol_version: int = 0,
        stream_id: str = "",
        consumer_id: str = "",
        subscription: str = "",
        place: StreamPlace | None = None,
        desired: StreamFilter | None = None,
        start: str = "",
        on_trimmed: str = "",
        snapshots_if_behind: int = 0,
        window_bytes: int = 0,
        batch_bytes: int = 0,
        batch_events: int = 0,
        clock_us: int = 0,
        history: str = "",
    ) -> None:
        self.protocol_version = protocol_version
        self.stream_id = stream_id
        self.consumer_id = consumer_id
        self.subscription = subscription
        self.place = StreamPlace() if place is None else place
        self.desired = StreamFilter() if desired is None else desired
        self.start = start
        self.on_trimmed = on_trimmed
        self.snapshots_if_behind = snapshots_if_behind
        self.window_bytes = window_bytes
        self.batch_bytes = batch_bytes
        self.batch_events = batch_events
        self.clock_us = clock_us
        self.history = history

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.protocol_version:
            out.append(number(b"\x08", self.protocol_version))
        if self.stream_id:
            out.append(delimited(b"\x12", self.stream_id.encode()))
        if self.consumer_id:
            out.append(delimited(b"\x1a", self.consumer_id.encode()))
        if self.subscription:
            out.append(delimited(b"\x22", self.subscription.encode()))
        if place := self.place.encode():
            out.append(delimited(b"\x2a", place))
        if desired := self.desired.encode():
            out.append(delimited(b"\x32", desired))
        if self.start:
            out.append(delimited(b"\x3a", self.start.encode()))
        if self.on_trimmed:
            out.append(delimited(b"\x42", self.on_trimmed.encode()))
        if self.snapshots_if_behind:
            out.append(number(b"\x48", self.snapshots_if_behind))
        if self.window_bytes:
            out.append(number(b"\x50", self.window_bytes))
        if self.batch_bytes:
            out.append(number(b"\x58", self.batch_bytes))
        if self.batch_events:
            out.append(number(b"\x60", self.batch_events))
        if self.clock_us:
            out.append(number(b"\x68", self.clock_us))
        if self.history:
            out.append(delimited(b"\x72", self.history.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Subscribe:
        """The message that these bytes are; fields that it does not know are left out."""
        protocol_version = 0
        stream_id = ""
        consumer_id = ""
        subscription = ""
        place: list[bytes] = []
        desired: list[bytes] = []
        start = ""
        on_trimmed = ""
        snapshots_if_behind = 0
        window_bytes = 0
        batch_bytes = 0
        batch_events = 0
        clock_us = 0
        history = ""
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
                    stream_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    consumer_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    subscription, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    part, at = read_blob(data, at + 1)
                    place.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 50:
                    part, at = read_blob(data, at + 1)
                    desired.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 58:
                    start, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 66:
                    on_trimmed, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 72:
                    snapshots_if_behind, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 80:
                    window_bytes, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 88:
                    batch_bytes, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 96:
                    batch_events, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 104:
                    clock_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 114:
                    history, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _SUBSCRIBE_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Subscribe", error) from error
        return Subscribe(
            protocol_version,
            stream_id,
            consumer_id,
            subscription,
            StreamPlace.decode(b"".join(place)) if place else StreamPlace(),
            StreamFilter.decode(b"".join(desired)) if desired else StreamFilter(),
            start,
            on_trimmed,
            snapshots_if_behind,
            window_bytes,
            batch_bytes,
            batch_events,
            clock_us,
            history,
        )


_FILTER_UPDATE_KEYS: Final = frozenset({8, 18})


class FilterUpdate:
    """Another filter is wanted."""

    __slots__ = (
        "version",
        "criteria",
    )

    def __init__(self, version: int = 0, criteria: str = "") -> None:
        self.version = version
        self.criteria = criteria

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.version:
            out.append(number(b"\x08", self.version))
        if self.criteria:
            out.append(delimited(b"\x12", self.criteria.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> FilterUpdate:
        """The message that these bytes are; fields that it does not know are left out."""
        version = 0
        criteria = ""
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
                if key not in _FILTER_UPDATE_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("FilterUpdate", error) from error
        return FilterUpdate(version, criteria)


_CONSUMER_ACK_KEYS: Final = frozenset({8})


class ConsumerAck:
    """The first `deliveries` Deliver messages of this stream have taken effect. Cumulative."""

    __slots__ = ("deliveries",)

    def __init__(self, deliveries: int = 0) -> None:
        self.deliveries = deliveries

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.deliveries:
            out.append(number(b"\x08", self.deliveries))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> ConsumerAck:
        """The message that these bytes are; fields that it does not know are left out."""
        deliveries = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    deliveries, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _CONSUMER_ACK_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("ConsumerAck", error) from error
        return ConsumerAck(deliveries)


_REPLAY_KEYS: Final = frozenset({10, 16})


class Replay:
    """Events of this entity are missing from from_seq_nr on."""

    __slots__ = (
        "persistence_id",
        "from_seq_nr",
    )

    def __init__(self, persistence_id: str = "", from_seq_nr: int = 0) -> None:
        self.persistence_id = persistence_id
        self.from_seq_nr = from_seq_nr

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.persistence_id:
            out.append(delimited(b"\x0a", self.persistence_id.encode()))
        if self.from_seq_nr:
            out.append(number(b"\x10", self.from_seq_nr))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Replay:
        """The message that these bytes are; fields that it does not know are left out."""
        persistence_id = ""
        from_seq_nr = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    persistence_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 16:
                    from_seq_nr, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _REPLAY_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Replay", error) from error
        return Replay(persistence_id, from_seq_nr)


FROM_CONSUMER_SUBSCRIBE: Final = b"\x0a"
FROM_CONSUMER_FILTER_UPDATE: Final = b"\x12"
FROM_CONSUMER_ACK: Final = b"\x1a"
FROM_CONSUMER_REPLAY: Final = b"\x22"
FROM_CONSUMER_HEARTBEAT: Final = b"\x2a"


class FromConsumer:
    """The message FromConsumer."""

    __slots__ = ("message",)

    def __init__(self, message: Subscribe | FilterUpdate | ConsumerAck | Replay | Heartbeat | None = None) -> None:
        self.message = message

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes; none when nothing is set."""
        message = self.message
        if isinstance(message, Subscribe):
            return delimited(FROM_CONSUMER_SUBSCRIBE, message.encode())
        if isinstance(message, FilterUpdate):
            return delimited(FROM_CONSUMER_FILTER_UPDATE, message.encode())
        if isinstance(message, ConsumerAck):
            return delimited(FROM_CONSUMER_ACK, message.encode())
        if isinstance(message, Replay):
            return delimited(FROM_CONSUMER_REPLAY, message.encode())
        if isinstance(message, Heartbeat):
            return delimited(FROM_CONSUMER_HEARTBEAT, message.encode())
        return b""

    @staticmethod
    def decode(data: bytes) -> FromConsumer:
        """None is set when it is one that this version does not know."""
        try:
            number, content = read_one_of(data, 5)
        except (IndexError, ValueError) as error:
            raise undecoded("FromConsumer", error) from error
        if number == 1:
            return FromConsumer(Subscribe.decode(content))
        if number == 2:
            return FromConsumer(FilterUpdate.decode(content))
        if number == 3:
            return FromConsumer(ConsumerAck.decode(content))
        if number == 4:
            return FromConsumer(Replay.decode(content))
        if number == 5:
            return FromConsumer(Heartbeat.decode(content))
        return FromConsumer()


_SUBSCRIBED_KEYS: Final = frozenset({10, 18, 24, 32, 42, 50, 56, 64, 72})


class Subscribed:
    """First message of the source, exactly once."""

    __slots__ = (
        "journal_id",
        "generation",
        "head_position",
        "floor_position",
        "resume",
        "place",
        "window_bytes",
        "replays_max",
        "clock_us",
    )

    def __init__(
        self,
        journal_id: str = "",
        generation: list[Generation] | None = None,
        head_position: int = 0,
        floor_position: int = 0,
        resume: str = "",
        place: StreamPlace | None = None,
        window_bytes: int = 0,
        replays_max: int = 0,
        clock_us: int = 0,
    ) -> None:
        self.journal_id = journal_id
        self.generation = [] if generation is None else generation
        self.head_position = head_position
        self.floor_position = floor_position
        self.resume = resume
        self.place = StreamPlace() if place is None else place
        self.window_bytes = window_bytes
        self.replays_max = replays_max
        self.clock_us = clock_us

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.journal_id:
            out.append(delimited(b"\x0a", self.journal_id.encode()))
        out += [delimited(b"\x12", each.encode()) for each in self.generation]
        if self.head_position:
            out.append(number(b"\x18", self.head_position))
        if self.floor_position:
            out.append(number(b"\x20", self.floor_position))
        if self.resume:
            out.append(delimited(b"\x2a", self.resume.encode()))
        if place := self.place.encode():
            out.append(delimited(b"\x32", place))
        if self.window_bytes:
            out.append(number(b"\x38", self.window_bytes))
        if self.replays_max:
            out.append(number(b"\x40", self.replays_max))
        if self.clock_us:
            out.append(number(b"\x48", self.clock_us))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Subscribed:
        """The message that these bytes are; fields that it does not know are left out."""
        journal_id = ""
        generation: list[Generation] = []
        head_position = 0
        floor_position = 0
        resume = ""
        place: list[bytes] = []
        window_bytes = 0
        replays_max = 0
        clock_us = 0
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
                    part, at = read_blob(data, at + 1)
                    generation.append(Generation.decode(part))
                    if at == end:
                        break
                    key = data[at]
                if key == 24:
                    head_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 32:
                    floor_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    resume, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 50:
                    part, at = read_blob(data, at + 1)
                    place.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 56:
                    window_bytes, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 64:
                    replays_max, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 72:
                    clock_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _SUBSCRIBED_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5, 6, 7, 8, 9}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Subscribed", error) from error
        return Subscribed(
            journal_id,
            generation,
            head_position,
            floor_position,
            resume,
            StreamPlace.decode(b"".join(place)) if place else StreamPlace(),
            window_bytes,
            replays_max,
            clock_us,
        )


_DELIVER_KEYS: Final = frozenset({10, 16, 24, 32, 42, 50, 58, 66, 72, 80, 88, 96, 106, 114, 120})
DELIVER_EVENTS: Final = b"\x32"


class Deliver:
    """What a lane selects of the positions after_position < p <= through_position."""

    __slots__ = (
        "lane",
        "after_position",
        "through_position",
        "timestamp_us",
        "digest",
        "events",
        "ranges",
        "leaving",
        "snapshots",
        "in_snapshots",
        "scan_head",
        "scan_low",
        "scan_after",
        "replay_of",
        "replay_done",
        "reached_position",
        "unstated_to",
    )

    def __init__(
        self,
        lane: str = "",
        after_position: int = 0,
        through_position: int = 0,
        timestamp_us: int = 0,
        digest: str = "",
        events: bytes = b"",
        ranges: StatedRanges | None = None,
        leaving: list[int] | None = None,
        snapshots: int = 0,
        in_snapshots: bool = False,
        scan_head: int = 0,
        scan_low: int = 0,
        scan_after: str = "",
        replay_of: str = "",
        replay_done: bool = False,
        reached_position: int = 0,
        unstated_to: int = 0,
    ) -> None:
        self.lane = lane
        self.after_position = after_position
        self.through_position = through_position
        self.timestamp_us = timestamp_us
        self.digest = digest
        self.events = events
        self.ranges = StatedRanges() if ranges is None else ranges
        self.leaving = [] if leaving is None else leaving
        self.snapshots = snapshots
        self.in_snapshots = in_snapshots
        self.scan_head = scan_head
        self.scan_low = scan_low
        self.scan_after = scan_after
        self.replay_of = replay_of
        self.replay_done = replay_done
        self.reached_position = reached_position
        self.unstated_to = unstated_to

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.lane:
            out.append(delimited(b"\x0a", self.lane.encode()))
        if self.after_position:
            out.append(number(b"\x10", self.after_position))
        if self.through_position:
            out.append(number(b"\x18", self.through_position))
        if self.timestamp_us:
            out.append(number(b"\x20", self.timestamp_us))
        if self.digest:
            out.append(delimited(b"\x2a", self.digest.encode()))
        if self.events:
            out += (prefix(b"\x32", len(self.events)), self.events)
        if ranges := self.ranges.encode():
            out.append(delimited(b"\x3a", ranges))
        if self.leaving:
            out.append(numbers(b"\x42", self.leaving))
        if self.snapshots:
            out.append(number(b"\x48", self.snapshots))
        if self.in_snapshots:
            out.append(b"\x50\x01")
        if self.scan_head:
            out.append(number(b"\x58", self.scan_head))
        if self.scan_low:
            out.append(number(b"\x60", self.scan_low))
        if self.scan_after:
            out.append(delimited(b"\x6a", self.scan_after.encode()))
        if self.replay_of:
            out.append(delimited(b"\x72", self.replay_of.encode()))
        if self.replay_done:
            out.append(b"\x78\x01")
        if self.reached_position:
            out.append(number(b"\x80\x01", self.reached_position))
        if self.unstated_to:
            out.append(number(b"\x88\x01", self.unstated_to))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Deliver:
        """The message that these bytes are; fields that it does not know are left out."""
        lane = ""
        after_position = 0
        through_position = 0
        timestamp_us = 0
        digest = ""
        events: list[bytes] = []
        ranges: list[bytes] = []
        leaving: list[int] = []
        snapshots = 0
        in_snapshots = False
        scan_head = 0
        scan_low = 0
        scan_after = ""
        replay_of = ""
        replay_done = False
        reached_position = 0
        unstated_to = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    lane, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 16:
                    after_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 24:
                    through_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 32:
                    timestamp_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    digest, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 50:
                    part, at = read_blob(data, at + 1)
                    events.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 58:
                    part, at = read_blob(data, at + 1)
                    ranges.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 66:
                    at = read_int64s(data, at + 1, leaving)
                    if at == end:
                        break
                    key = data[at]
                if key == 72:
                    snapshots, at = read_int32(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 80:
                    in_snapshots, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 88:
                    scan_head, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 96:
                    scan_low, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 106:
                    scan_after, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 114:
                    replay_of, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 120:
                    replay_done, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _DELIVER_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number == 8 and wire_type == 0:
                        one_int64, at = read_int64(data, at)
                        leaving.append(one_int64)
                    elif number == 16 and wire_type == 0:
                        reached_position, at = read_int64(data, at)
                    elif number == 17 and wire_type == 0:
                        unstated_to, at = read_int64(data, at)
                    elif number in {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Deliver", error) from error
        return Deliver(
            lane,
            after_position,
            through_position,
            timestamp_us,
            digest,
            b"".join(events),
            StatedRanges.decode(b"".join(ranges)) if ranges else StatedRanges(),
            leaving,
            snapshots,
            in_snapshots,
            scan_head,
            scan_low,
            scan_after,
            replay_of,
            replay_done,
            reached_position,
            unstated_to,
        )


_PROGRESS_KEYS: Final = frozenset({10, 16, 24, 32, 42})


class Progress:
    """Nothing of after_position < p <= through_position is for this lane."""

    __slots__ = (
        "lane",
        "after_position",
        "through_position",
        "timestamp_us",
        "digest",
        "unstated_to",
    )

    def __init__(
        self,
        lane: str = "",
        after_position: int = 0,
        through_position: int = 0,
        timestamp_us: int = 0,
        digest: str = "",
        unstated_to: int = 0,
    ) -> None:
        self.lane = lane
        self.after_position = after_position
        self.through_position = through_position
        self.timestamp_us = timestamp_us
        self.digest = digest
        self.unstated_to = unstated_to

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.lane:
            out.append(delimited(b"\x0a", self.lane.encode()))
        if self.after_position:
            out.append(number(b"\x10", self.after_position))
        if self.through_position:
            out.append(number(b"\x18", self.through_position))
        if self.timestamp_us:
            out.append(number(b"\x20", self.timestamp_us))
        if self.digest:
            out.append(delimited(b"\x2a", self.digest.encode()))
        if self.unstated_to:
            out.append(number(b"\x88\x01", self.unstated_to))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> Progress:
        """The message that these bytes are; fields that it does not know are left out."""
        lane = ""
        after_position = 0
        through_position = 0
        timestamp_us = 0
        digest = ""
        unstated_to = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    lane, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 16:
                    after_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 24:
                    through_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 32:
                    timestamp_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    digest, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _PROGRESS_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number == 17 and wire_type == 0:
                        unstated_to, at = read_int64(data, at)
                    elif number in {1, 2, 3, 4, 5, 17}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("Progress", error) from error
        return Progress(lane, after_position, through_position, timestamp_us, digest, unstated_to)


_FILTER_APPLIED_KEYS: Final = frozenset({8, 16, 24, 34, 42})


class FilterApplied:
    """From change_position on the live lane serves what the filter before and this one let through."""

    __slots__ = (
        "version",
        "change_position",
        "backfill",
        "begin",
        "wall",
    )

    def __init__(
        self,
        version: int = 0,
        change_position: int = 0,
        backfill: bool = False,
        begin: StreamCursor | None = None,
        wall: str = "",
    ) -> None:
        self.version = version
        self.change_position = change_position
        self.backfill = backfill
        self.begin = StreamCursor() if begin is None else begin
        self.wall = wall

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.version:
            out.append(number(b"\x08", self.version))
        if self.change_position:
            out.append(number(b"\x10", self.change_position))
        if self.backfill:
            out.append(b"\x18\x01")
        if begin := self.begin.encode():
            out.append(delimited(b"\x22", begin))
        if self.wall:
            out.append(delimited(b"\x2a", self.wall.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> FilterApplied:
        """The message that these bytes are; fields that it does not know are left out."""
        version = 0
        change_position = 0
        backfill = False
        begin: list[bytes] = []
        wall = ""
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    version, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 16:
                    change_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 24:
                    backfill, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 34:
                    part, at = read_blob(data, at + 1)
                    begin.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 42:
                    wall, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _FILTER_APPLIED_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("FilterApplied", error) from error
        return FilterApplied(
            version, change_position, backfill, StreamCursor.decode(b"".join(begin)) if begin else StreamCursor(), wall
        )


_BACKFILL_DONE_KEYS: Final = frozenset({8, 16})


class BackfillDone:
    """The backfill lane is where the live lane is: the filter of this version is the applied one."""

    __slots__ = (
        "version",
        "position",
    )

    def __init__(self, version: int = 0, position: int = 0) -> None:
        self.version = version
        self.position = position

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.version:
            out.append(number(b"\x08", self.version))
        if self.position:
            out.append(number(b"\x10", self.position))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> BackfillDone:
        """The message that these bytes are; fields that it does not know are left out."""
        version = 0
        position = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 8:
                    version, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 16:
                    position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _BACKFILL_DONE_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("BackfillDone", error) from error
        return BackfillDone(version, position)


FROM_SOURCE_SUBSCRIBED: Final = b"\x0a"
FROM_SOURCE_DELIVER: Final = b"\x12"
FROM_SOURCE_PROGRESS: Final = b"\x1a"
FROM_SOURCE_FILTER_APPLIED: Final = b"\x22"
FROM_SOURCE_BACKFILL_DONE: Final = b"\x2a"
FROM_SOURCE_HEARTBEAT: Final = b"\x32"
FROM_SOURCE_DRAIN: Final = b"\x3a"


class FromSource:
    """The message FromSource."""

    __slots__ = ("message",)

    def __init__(
        self, message: Subscribed | Deliver | Progress | FilterApplied | BackfillDone | Heartbeat | Drain | None = None
    ) -> None:
        self.message = message

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes; none when nothing is set."""
        message = self.message
        if isinstance(message, Subscribed):
            return delimited(FROM_SOURCE_SUBSCRIBED, message.encode())
        if isinstance(message, Deliver):
            return delimited(FROM_SOURCE_DELIVER, message.encode())
        if isinstance(message, Progress):
            return delimited(FROM_SOURCE_PROGRESS, message.encode())
        if isinstance(message, FilterApplied):
            return delimited(FROM_SOURCE_FILTER_APPLIED, message.encode())
        if isinstance(message, BackfillDone):
            return delimited(FROM_SOURCE_BACKFILL_DONE, message.encode())
        if isinstance(message, Heartbeat):
            return delimited(FROM_SOURCE_HEARTBEAT, message.encode())
        if isinstance(message, Drain):
            return delimited(FROM_SOURCE_DRAIN, message.encode())
        return b""

    @staticmethod
    def decode(data: bytes) -> FromSource:
        """None is set when it is one that this version does not know."""
        try:
            number, content = read_one_of(data, 7)
        except (IndexError, ValueError) as error:
            raise undecoded("FromSource", error) from error
        if number == 1:
            return FromSource(Subscribed.decode(content))
        if number == 2:
            return FromSource(Deliver.decode(content))
        if number == 3:
            return FromSource(Progress.decode(content))
        if number == 4:
            return FromSource(FilterApplied.decode(content))
        if number == 5:
            return FromSource(BackfillDone.decode(content))
        if number == 6:
            return FromSource(Heartbeat.decode(content))
        if number == 7:
            return FromSource(Drain.decode(content))
        return FromSource()


_LATEST_OFFSET_REQUEST_KEYS: Final = frozenset({10, 18})


class LatestOffsetRequest:
    """The message LatestOffsetRequest."""

    __slots__ = (
        "stream_id",
        "consumer_id",
    )

    def __init__(self, stream_id: str = "", consumer_id: str = "") -> None:
        self.stream_id = stream_id
        self.consumer_id = consumer_id

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.stream_id:
            out.append(delimited(b"\x0a", self.stream_id.encode()))
        if self.consumer_id:
            out.append(delimited(b"\x12", self.consumer_id.encode()))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> LatestOffsetRequest:
        """The message that these bytes are; fields that it does not know are left out."""
        stream_id = ""
        consumer_id = ""
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    stream_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    consumer_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _LATEST_OFFSET_REQUEST_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("LatestOffsetRequest", error) from error
        return LatestOffsetRequest(stream_id, consumer_id)


_LATEST_OFFSET_REPLY_KEYS: Final = frozenset({10, 18, 24, 32, 40})


class LatestOffsetReply:
    """The message LatestOffsetReply."""

    __slots__ = (
        "journal_id",
        "generation_id",
        "head_position",
        "floor_position",
        "timestamp_us",
    )

    def __init__(
        self,
        journal_id: str = "",
        generation_id: str = "",
        head_position: int = 0,
        floor_position: int = 0,
        timestamp_us: int = 0,
    ) -> None:
        self.journal_id = journal_id
        self.generation_id = generation_id
        self.head_position = head_position
        self.floor_position = floor_position
        self.timestamp_us = timestamp_us

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.journal_id:
            out.append(delimited(b"\x0a", self.journal_id.encode()))
        if self.generation_id:
            out.append(delimited(b"\x12", self.generation_id.encode()))
        if self.head_position:
            out.append(number(b"\x18", self.head_position))
        if self.floor_position:
            out.append(number(b"\x20", self.floor_position))
        if self.timestamp_us:
            out.append(number(b"\x28", self.timestamp_us))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> LatestOffsetReply:
        """The message that these bytes are; fields that it does not know are left out."""
        journal_id = ""
        generation_id = ""
        head_position = 0
        floor_position = 0
        timestamp_us = 0
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
                    head_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 32:
                    floor_position, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 40:
                    timestamp_us, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _LATEST_OFFSET_REPLY_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("LatestOffsetReply", error) from error
        return LatestOffsetReply(journal_id, generation_id, head_position, floor_position, timestamp_us)


_ENTITY_EVENTS_REQUEST_KEYS: Final = frozenset({10, 18, 26, 32, 40})


class EntityEventsRequest:
    """The message EntityEventsRequest."""

    __slots__ = (
        "stream_id",
        "consumer_id",
        "persistence_id",
        "from_seq_nr",
        "to_seq_nr",
    )

    def __init__(
        self,
        stream_id: str = "",
        consumer_id: str = "",
        persistence_id: str = "",
        from_seq_nr: int = 0,
        to_seq_nr: int = 0,
    ) -> None:
        self.stream_id = stream_id
        self.consumer_id = consumer_id
        self.persistence_id = persistence_id
        self.from_seq_nr = from_seq_nr
        self.to_seq_nr = to_seq_nr

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.stream_id:
            out.append(delimited(b"\x0a", self.stream_id.encode()))
        if self.consumer_id:
            out.append(delimited(b"\x12", self.consumer_id.encode()))
        if self.persistence_id:
            out.append(delimited(b"\x1a", self.persistence_id.encode()))
        if self.from_seq_nr:
            out.append(number(b"\x20", self.from_seq_nr))
        if self.to_seq_nr:
            out.append(number(b"\x28", self.to_seq_nr))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> EntityEventsRequest:
        """The message that these bytes are; fields that it does not know are left out."""
        stream_id = ""
        consumer_id = ""
        persistence_id = ""
        from_seq_nr = 0
        to_seq_nr = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    stream_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    consumer_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    persistence_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 32:
                    from_seq_nr, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 40:
                    to_seq_nr, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _ENTITY_EVENTS_REQUEST_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4, 5}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("EntityEventsRequest", error) from error
        return EntityEventsRequest(stream_id, consumer_id, persistence_id, from_seq_nr, to_seq_nr)


_ENTITY_EVENTS_REPLY_KEYS: Final = frozenset({10, 16, 26, 32})
ENTITY_EVENTS_REPLY_EVENTS: Final = b"\x0a"


class EntityEventsReply:
    """The message EntityEventsReply."""

    __slots__ = (
        "events",
        "begins_with_snapshot",
        "ranges",
        "next_seq_nr",
    )

    def __init__(
        self,
        events: bytes = b"",
        begins_with_snapshot: bool = False,
        ranges: StatedRanges | None = None,
        next_seq_nr: int = 0,
    ) -> None:
        self.events = events
        self.begins_with_snapshot = begins_with_snapshot
        self.ranges = StatedRanges() if ranges is None else ranges
        self.next_seq_nr = next_seq_nr

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.events:
            out += (prefix(b"\x0a", len(self.events)), self.events)
        if self.begins_with_snapshot:
            out.append(b"\x10\x01")
        if ranges := self.ranges.encode():
            out.append(delimited(b"\x1a", ranges))
        if self.next_seq_nr:
            out.append(number(b"\x20", self.next_seq_nr))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> EntityEventsReply:
        """The message that these bytes are; fields that it does not know are left out."""
        events: list[bytes] = []
        begins_with_snapshot = False
        ranges: list[bytes] = []
        next_seq_nr = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    part, at = read_blob(data, at + 1)
                    events.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 16:
                    begins_with_snapshot, at = read_bool(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    part, at = read_blob(data, at + 1)
                    ranges.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key == 32:
                    next_seq_nr, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _ENTITY_EVENTS_REPLY_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("EntityEventsReply", error) from error
        return EntityEventsReply(
            b"".join(events),
            begins_with_snapshot,
            StatedRanges.decode(b"".join(ranges)) if ranges else StatedRanges(),
            next_seq_nr,
        )


_EVENT_REQUEST_KEYS: Final = frozenset({10, 18, 26, 32})


class EventRequest:
    """The message EventRequest."""

    __slots__ = (
        "stream_id",
        "consumer_id",
        "persistence_id",
        "seq_nr",
    )

    def __init__(self, stream_id: str = "", consumer_id: str = "", persistence_id: str = "", seq_nr: int = 0) -> None:
        self.stream_id = stream_id
        self.consumer_id = consumer_id
        self.persistence_id = persistence_id
        self.seq_nr = seq_nr

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.stream_id:
            out.append(delimited(b"\x0a", self.stream_id.encode()))
        if self.consumer_id:
            out.append(delimited(b"\x12", self.consumer_id.encode()))
        if self.persistence_id:
            out.append(delimited(b"\x1a", self.persistence_id.encode()))
        if self.seq_nr:
            out.append(number(b"\x20", self.seq_nr))
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> EventRequest:
        """The message that these bytes are; fields that it does not know are left out."""
        stream_id = ""
        consumer_id = ""
        persistence_id = ""
        seq_nr = 0
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    stream_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 18:
                    consumer_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 26:
                    persistence_id, at = read_text(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key == 32:
                    seq_nr, at = read_int64(data, at + 1)
                    if at == end:
                        break
                    key = data[at]
                if key not in _EVENT_REQUEST_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1, 2, 3, 4}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("EventRequest", error) from error
        return EventRequest(stream_id, consumer_id, persistence_id, seq_nr)


_EVENT_REPLY_KEYS: Final = frozenset({10})
EVENT_REPLY_EVENTS: Final = b"\x0a"


class EventReply:
    """The message EventReply."""

    __slots__ = ("events",)

    def __init__(self, events: bytes = b"") -> None:
        self.events = events

    __eq__ = has_same_fields
    __repr__ = shown

    def encode(self) -> bytes:
        """Its bytes, fields in the order of their numbers."""
        out: list[bytes] = []
        if self.events:
            out += (prefix(b"\x0a", len(self.events)), self.events)
        return b"".join(out)

    @staticmethod
    def decode(data: bytes) -> EventReply:
        """The message that these bytes are; fields that it does not know are left out."""
        events: list[bytes] = []
        at, end = 0, len(data)
        try:
            while at < end:
                key = data[at]
                if key == 10:
                    part, at = read_blob(data, at + 1)
                    events.append(part)
                    if at == end:
                        break
                    key = data[at]
                if key not in _EVENT_REPLY_KEYS:
                    number, wire_type, at = read_key(data, at)
                    if number in {1}:
                        raise unfit(number, wire_type)
                    else:
                        at = skip(data, at, wire_type)
        except (IndexError, ValueError) as error:
            raise undecoded("EventReply", error) from error
        return EventReply(b"".join(events))
