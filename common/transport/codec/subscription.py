"""A subscription's messages to bytes and back (protos/backhaul/v1/subscribe.proto).

Deliver is the hot one: a source sends the same events to a thousand consumers. It is put together around event bytes
that are ready, which were encoded once, whole or one event at a time and joined. Messages carry no number of their own,
so equal ones are equal bytes. Decoding trusts nothing, as in ``push``.
"""

from __future__ import annotations

import re
from dataclasses import astuple, replace
from functools import lru_cache

from common.core.filters.past import Past
from common.core.flow.messages import Drain, Heartbeat
from common.core.journal.history import Generation, History
from common.core.subscription.messages import (
    BackfillDone,
    Begin,
    ConsumerAck,
    Deliver,
    DeliveryLane,
    FilterApplied,
    FilterUpdate,
    FromConsumer,
    FromSource,
    OrderTime,
    Progress,
    Replay,
    StreamLimits,
    Subscribe,
    Subscribed,
)
from common.core.subscription.place import FilterState, LogCursor, ResumePoint, SnapshotScan, Unstated
from common.transport.codec.events import decode_batch, encode_batch, ranges_from_wire, ranges_to_wire
from common.transport.codec.framing import delimited, malformed
from common.transport.codec.wire import events, push
from common.transport.codec.wire import subscribe as wire

_WALL_MAX_CHARS = 64
_MICROSECONDS = re.compile(r"[0-9]{1,18}")
_LANES = {lane.value: lane for lane in DeliveryLane}


def encode_from_consumer(message: FromConsumer) -> bytes:
    """A message of the consumer's end."""
    return wire.FromConsumer(_from_consumer_to_wire(message)).encode()


def _from_consumer_to_wire(
    message: FromConsumer,
) -> wire.ConsumerAck | push.Heartbeat | wire.Replay | wire.FilterUpdate | wire.Subscribe:
    match message:
        case ConsumerAck():
            return wire.ConsumerAck(message.deliveries)
        case Heartbeat():
            return push.Heartbeat(message.bytes_received, message.clock_us)
        case Replay():
            return wire.Replay(message.persistence_id, message.from_seq_nr)
        case FilterUpdate():
            return wire.FilterUpdate(message.version, message.criteria)
        case Subscribe():
            return _subscribe_to_wire(message)


def decode_from_consumer(data: bytes) -> FromConsumer:
    """Raises ``link.malformed``."""
    content = wire.FromConsumer.decode(data).message
    match content:
        case wire.ConsumerAck():
            return ConsumerAck(content.deliveries)
        case push.Heartbeat():
            return Heartbeat(content.bytes_received, content.clock_us)
        case wire.Replay():
            return Replay(content.persistence_id, content.from_seq_nr)
        case wire.FilterUpdate():
            return FilterUpdate(content.version, content.criteria)
        case wire.Subscribe():
            return _subscribe_from_wire(content)
        case None:
            raise malformed("a message of the consumer without known content")


def encode_from_source(message: FromSource) -> bytes:
    """A message of the source's end; a Deliver that has its event bytes ready is for ``encode_deliver``."""
    match message:
        case Deliver():
            return encode_deliver(message, encode_batch(message.events) if message.events else b"")
        case Progress():
            place = (message.after, message.through, message.timestamp_us, message.digest)
            moved = _moved(message.lane, *place, message.unstated_to)
            return delimited(wire.FROM_SOURCE_PROGRESS, moved)
    return wire.FromSource(_from_source_to_wire(message)).encode()


def _from_source_to_wire(
    message: Heartbeat | Drain | BackfillDone | FilterApplied | Subscribed,
) -> push.Heartbeat | push.Drain | wire.BackfillDone | wire.FilterApplied | wire.Subscribed:
    match message:
        case Heartbeat():
            return push.Heartbeat(message.bytes_received, message.clock_us)
        case Drain():
            return push.Drain(message.redial_within_s, message.reason)
        case BackfillDone():
            return wire.BackfillDone(message.version, message.position)
        case FilterApplied():
            begin = _cursor_to_wire(message.begin or LogCursor(0))
            return wire.FilterApplied(
                message.version, message.change_position, message.begin is not None, begin, message.wall
            )
        case Subscribed():
            return _subscribed_to_wire(message)


def encode_deliver(message: Deliver, encoded: bytes) -> bytes:
    """A Deliver around the bytes of its events; ``message.events`` is not looked at."""
    if _is_plain(message):
        moved = _moved(message.lane, message.after, message.through, message.timestamp_us, message.digest)
        content = moved + delimited(wire.DELIVER_EVENTS, encoded) if encoded else moved
        return delimited(wire.FROM_SOURCE_DELIVER, content)
    scan = message.scan
    full = wire.Deliver(
        message.lane.value,
        message.after,
        message.through,
        message.timestamp_us,
        message.digest,
        encoded,
        ranges_to_wire(message.ranges),
        list(message.leaving),
        message.snapshots,
        scan is not None,
        scan.head if scan else 0,
        scan.low if scan else 0,
        scan.after if scan else "",
        message.replay_of,
        message.replay_done,
        message.reached,
        message.unstated_to,
    )
    return delimited(wire.FROM_SOURCE_DELIVER, full.encode())


def _is_plain(message: Deliver) -> bool:
    beside = message.ranges or message.leaving or message.snapshots or message.scan or message.unstated_to
    return not beside and message.lane is not DeliveryLane.REPLAY


@lru_cache(1024)
def _moved(lane: DeliveryLane, after: int, through: int, timestamp_us: int, digest: str, unstated_to: int = 0) -> bytes:
    """A Progress, whose fields Deliver begins with too; many consumers are at one place."""
    return wire.Progress(lane.value, after, through, timestamp_us, digest, unstated_to).encode()


def decode_from_source(data: bytes) -> FromSource:
    """Raises ``link.malformed``, ``events.ragged`` or ``events.invalid``."""
    content = wire.FromSource.decode(data).message
    match content:
        case wire.Deliver():
            return _deliver_from_wire(content)
        case wire.Progress():
            return Progress(
                _lane(content.lane),
                content.after_position,
                content.through_position,
                content.timestamp_us,
                content.digest,
                content.unstated_to,
            )
        case push.Heartbeat():
            return Heartbeat(content.bytes_received, content.clock_us)
        case push.Drain():
            return Drain(content.redial_within_s, content.reason)
        case wire.FilterApplied():
            begin = _cursor_from_wire(content.begin) if content.backfill else None
            return FilterApplied(content.version, content.change_position, begin, _wall(content.wall))
        case wire.BackfillDone():
            return BackfillDone(content.version, content.position)
        case wire.Subscribed():
            return _subscribed_from_wire(content)
        case None:
            raise malformed("a message of the source without known content")


def _deliver_from_wire(message: wire.Deliver) -> Deliver:
    scan = SnapshotScan(message.scan_head, message.scan_low, message.scan_after) if message.in_snapshots else None
    return Deliver(
        _lane(message.lane),
        message.after_position,
        message.through_position,
        message.timestamp_us,
        message.digest,
        decode_batch(message.events),
        ranges_from_wire(message.ranges),
        tuple(message.leaving),
        message.snapshots,
        scan,
        message.replay_of,
        message.replay_done,
        message.reached_position,
        message.unstated_to,
    )


def _lane(name: str) -> DeliveryLane:
    if name not in _LANES:
        raise malformed(f"unknown lane {name[:40]!r}")
    return _LANES[name]


# -- places ------------------------------------------------------------------------------------------------------------
def _cursor_to_wire(cursor: LogCursor) -> wire.StreamCursor:
    scan = cursor.scan
    if scan is None:
        return wire.StreamCursor(cursor.position, cursor.digest, cursor.timestamp_us)
    return wire.StreamCursor(cursor.position, cursor.digest, cursor.timestamp_us, True, scan.head, scan.low, scan.after)


def _cursor_from_wire(message: wire.StreamCursor) -> LogCursor:
    scan = SnapshotScan(message.scan_head, message.scan_low, message.scan_after) if message.in_snapshots else None
    numbers = (message.position, message.timestamp_us, message.scan_head, message.scan_low)
    if min(numbers) < 0:
        raise malformed("a place before the beginning")
    return LogCursor(message.position, message.digest, message.timestamp_us, scan)


def _place_to_wire(place: ResumePoint) -> wire.StreamPlace:
    decoded = wire.StreamPlace(
        journal_id=place.journal_id,
        generation_id=place.generation_id,
        live=_cursor_to_wire(place.live),
        applied=wire.StreamFilter(*astuple(place.applied)),
        reached_position=place.reached,
        begin_position=place.begin,
    )
    if place.unstated is not None:
        decoded.unstated_after, decoded.unstated_to = place.unstated.after, place.unstated.to
        decoded.unstated_generation_id = place.unstated.generation_id
    if place.next is not None and place.backfill is not None:
        decoded.backfill = _cursor_to_wire(place.backfill)
        decoded.next = wire.StreamFilter(*astuple(place.next))
        decoded.change_position = place.change_position
    return decoded


def _filter_from_wire(message: wire.StreamFilter) -> FilterState:
    return FilterState(message.version, message.criteria, _wall(message.wall))


def _wall(name: str) -> str:
    if len(name) > _WALL_MAX_CHARS or not name.isascii() or not (name.isalnum() or not name):
        raise malformed("a wall's name that is none")
    return name


def _place_from_wire(message: wire.StreamPlace) -> ResumePoint:
    unstated = (message.unstated_after, message.unstated_to)
    if min(message.reached_position, message.begin_position, *unstated) < 0:
        raise malformed("a place before the beginning")
    place = ResumePoint(
        message.journal_id,
        message.generation_id,
        _cursor_from_wire(message.live),
        _filter_from_wire(message.applied),
        reached=message.reached_position,
        begin=message.begin_position,
        unstated=Unstated(*unstated, message.unstated_generation_id) if message.unstated_to else None,
    )
    if not message.next.version:
        return place
    return replace(
        place,
        backfill=_cursor_from_wire(message.backfill),
        next=_filter_from_wire(message.next),
        change_position=message.change_position,
    )


def _subscribe_to_wire(message: Subscribe) -> wire.Subscribe:
    return wire.Subscribe(
        protocol_version=message.protocol_version,
        stream_id=message.stream_id,
        consumer_id=message.consumer_id,
        subscription=message.subscription,
        place=_place_to_wire(message.place),
        desired=wire.StreamFilter(message.requested.version, message.requested.criteria),
        start=_start_to_wire(message.start),
        on_trimmed=message.on_trimmed.value,
        snapshots_if_behind=message.snapshots_if_behind,
        window_bytes=message.limits.window_bytes,
        batch_bytes=message.limits.batch_bytes,
        batch_events=message.limits.batch_events,
        clock_us=message.clock_us,
        history="" if message.past is Past.SNAPSHOT else message.past.value,
    )


def _start_to_wire(start: Begin | OrderTime) -> str:
    return str(start.timestamp_us) if isinstance(start, OrderTime) else start.value


def _start_from_wire(text: str) -> Begin | OrderTime:
    """Raises ValueError."""
    return OrderTime(int(text)) if _MICROSECONDS.fullmatch(text) else Begin(text or Begin.LOG)


def _subscribe_from_wire(message: wire.Subscribe) -> Subscribe:
    try:
        start, on_trimmed = _start_from_wire(message.start), Begin(message.on_trimmed or Begin.SNAPSHOTS)
        past = Past(message.history or Past.SNAPSHOT)
    except ValueError:
        given = [one[:40] for one in (message.start, message.on_trimmed, message.history)]
        raise malformed(f"one of start, on_trimmed and history is unknown: {given}") from None
    limits = StreamLimits(message.window_bytes, message.batch_bytes, message.batch_events)
    if min(astuple(limits)) < 1 or message.snapshots_if_behind < 0:
        raise malformed("limits by which nothing can be sent")
    return Subscribe(
        message.stream_id,
        message.consumer_id,
        message.subscription,
        _place_from_wire(message.place),
        FilterState(message.desired.version, message.desired.criteria),
        limits,
        message.clock_us,
        start,
        on_trimmed,
        message.snapshots_if_behind,
        past,
        message.protocol_version,
    )


def _subscribed_to_wire(message: Subscribed) -> wire.Subscribed:
    return wire.Subscribed(
        journal_id=message.history.journal_id,
        generation=[events.Generation(entry.id, entry.first_position) for entry in message.history.generations],
        head_position=message.history.head_position,
        floor_position=message.floor_position,
        resume=message.resume,
        place=_place_to_wire(message.place),
        window_bytes=message.window_bytes,
        replays_max=message.replays_max,
        clock_us=message.clock_us,
    )


def _subscribed_from_wire(message: wire.Subscribed) -> Subscribed:
    if not message.journal_id or not message.generation or message.replays_max < 1:
        raise malformed("a journal without id or generations, or no replay allowed")
    generations = tuple(Generation(entry.id, entry.first_position) for entry in message.generation)
    return Subscribed(
        History(message.journal_id, generations, message.head_position),
        message.floor_position,
        message.resume,
        _place_from_wire(message.place),
        message.window_bytes,
        message.replays_max,
        message.clock_us,
    )
