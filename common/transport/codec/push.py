"""A push stream's messages to bytes and back (protos/backhaul/v1/push.proto).

Decoding trusts nothing: a message that is not protobuf, a ragged batch or a stream message without content is refused
with a code before anything of it is used.
"""

from __future__ import annotations

from dataclasses import astuple

from common.core.events.ids import text_problem
from common.core.filters.past import Past
from common.core.flow.messages import Drain, EdgeHealth, Heartbeat
from common.core.journal.append import ParkedEvent, PushLane
from common.core.journal.history import Generation, History, Offset, Resume
from common.core.push.filter_transition import (
    EVERYTHING,
    NO_FILTER,
    UNFILTERED,
    PushFilter,
    PushFilterApplied,
    PushFilterState,
)
from common.core.push.messages import (
    Ack,
    CheckReply,
    FromCloud,
    FromEdge,
    Hello,
    PastKnown,
    PastQuestion,
    PushBatch,
    PushFilterUpdate,
    PushLimits,
    Start,
)
from common.transport.codec.events import decode_batch, encode_batch, ragged, ranges_from_wire, ranges_to_wire
from common.transport.codec.framing import malformed
from common.transport.codec.wire import events
from common.transport.codec.wire import push as wire

_VERSION_MAX_BYTES = 64


def encode_from_edge(message: FromEdge) -> bytes:
    """A message of the edge's end of a push stream."""
    return wire.FromEdge(_from_edge_to_wire(message)).encode()


def _from_edge_to_wire(
    message: FromEdge,
) -> wire.PushBatch | wire.Heartbeat | wire.Hello | wire.PushFilterApplied | wire.PastQuestion:
    match message:
        case PushBatch():
            return wire.PushBatch(
                message.after_position,
                message.through_position,
                encode_batch(message.events),
                ranges_to_wire(message.ranges),
                message.generation_id,
                message.lane is PushLane.BACKFILL,
                message.lane is PushLane.PAST,
            )
        case Heartbeat():
            health = wire.EdgeHealth(*astuple(message.health)) if message.health else wire.EdgeHealth()
            return wire.Heartbeat(message.bytes_received, message.clock_us, health)
        case Hello():
            return _hello_to_wire(message)
        case PushFilterApplied():
            return _applied_to_wire(message)
        case PastQuestion():
            return wire.PastQuestion(list(message.persistence_ids))


def decode_from_edge(data: bytes) -> FromEdge:
    """Raises ``link.malformed``, ``events.ragged`` or ``events.invalid``."""
    content = wire.FromEdge.decode(data).message
    match content:
        case wire.PushBatch():
            return PushBatch(
                content.after_position,
                content.through_position,
                content.generation_id,
                decode_batch(content.events),
                ranges_from_wire(content.ranges),
                _lane(content.backfill, content.past),
            )
        case wire.Heartbeat():
            return Heartbeat(content.bytes_received, content.clock_us, _health_from_wire(content.health))
        case wire.Hello():
            return _hello_from_wire(content)
        case wire.PushFilterApplied():
            return _applied_from_wire(content)
        case wire.PastQuestion():
            return PastQuestion(tuple(content.persistence_id))
        case None:
            raise malformed("a message of the edge without known content")


def encode_from_cloud(message: FromCloud) -> bytes:
    """A message of the cloud's end of a push stream."""
    return wire.FromCloud(_from_cloud_to_wire(message)).encode()


def _from_cloud_to_wire(
    message: FromCloud,
) -> wire.Ack | wire.Heartbeat | wire.Start | wire.PushFilterUpdate | wire.Drain | wire.PastKnown:
    match message:
        case Ack():
            return _ack_to_wire(message)
        case Heartbeat():
            return wire.Heartbeat(message.bytes_received, message.clock_us)
        case Start():
            return _start_to_wire(message)
        case PushFilterUpdate():
            return _update_to_wire(message)
        case Drain():
            return wire.Drain(message.redial_within_s, message.reason)
        case PastKnown():
            return wire.PastKnown(list(message.seq_nrs))


def decode_from_cloud(data: bytes) -> FromCloud:
    """Raises ``link.malformed`` or ``events.ragged``."""
    content = wire.FromCloud.decode(data).message
    match content:
        case wire.Ack():
            return _ack_from_wire(content)
        case wire.Heartbeat():
            return Heartbeat(content.bytes_received, content.clock_us)
        case wire.Start():
            return _start_from_wire(content)
        case wire.Drain():
            return Drain(content.redial_within_s, content.reason)
        case wire.PushFilterUpdate():
            return _update_from_wire(content)
        case wire.PastKnown():
            return PastKnown(tuple(content.seq_nr))
        case None:
            raise malformed("a message of the cloud without known content")


def _ack_to_wire(ack: Ack) -> wire.Ack:
    message = wire.Ack(ack.position, backfill=ack.lane is PushLane.BACKFILL, past=ack.lane is PushLane.PAST)
    if ack.parked:
        message.parked_position = [parked.position for parked in ack.parked]
        message.parked_persistence_id = [parked.persistence_id for parked in ack.parked]
        message.parked_seq_nr = [parked.seq_nr for parked in ack.parked]
        message.parked_code = [parked.code for parked in ack.parked]
    return message


def _ack_from_wire(message: wire.Ack) -> Ack:
    positions, names = message.parked_position, message.parked_persistence_id
    numbers, codes = message.parked_seq_nr, message.parked_code
    if not (len(positions) == len(names) == len(numbers) == len(codes)):
        raise ragged("the parked columns of an ack differ in length")
    parked = tuple(map(ParkedEvent, positions, names, numbers, codes))
    return Ack(message.position, parked, _lane(message.backfill, message.past))


def _lane(backfill: bool, past: bool) -> PushLane:
    if past:
        return PushLane.PAST
    return PushLane.BACKFILL if backfill else PushLane.LIVE


# -- what begins and steers a stream -----------------------------------------------------------------------------------
def _hello_to_wire(hello: Hello) -> wire.Hello:
    return wire.Hello(
        protocol_version=hello.protocol_version,
        origin_id=hello.origin_id,
        instance=hello.instance,
        journal_id=hello.history.journal_id,
        generation=[events.Generation(entry.id, entry.first_position) for entry in hello.history.generations],
        head_position=hello.history.head_position,
        entity_type=list(hello.entity_types),
        clock_us=hello.clock_us,
    )


def _hello_from_wire(message: wire.Hello) -> Hello:
    """Raises ``link.malformed``."""
    if not message.journal_id or not message.generation:
        raise malformed("a hello without journal id or generations")
    generations = tuple(Generation(entry.id, entry.first_position) for entry in message.generation)
    return Hello(
        message.origin_id,
        message.instance,
        History(message.journal_id, generations, message.head_position),
        message.clock_us,
        tuple(message.entity_type),
        message.protocol_version,
    )


def _start_to_wire(start: Start) -> wire.Start:
    """What says that nothing was ever filtered is left out."""
    stored, limits, place = start.stored, start.limits, start.place
    message = wire.Start(
        session=start.session,
        stored=events.Offset(
            stored.journal_id,
            stored.generation_id,
            stored.position,
            stored.timestamp_us,
            stored.persistence_id,
            stored.seq_nr,
        ),
        resume=start.resume.value,
        cloud_journal_id=start.cloud_journal_id,
        cloud_generation_id=start.cloud_generation_id,
        window_events=limits.window_events,
        window_bytes=limits.window_bytes,
        batch_bytes=limits.batch_bytes,
        event_bytes=limits.event_bytes,
        clock_us=start.clock_us,
    )
    if place != UNFILTERED:
        message.old_filter, message.new_filter = _filter_to_wire(place.old), _filter_to_wire(place.new)
        message.change_position, message.backfill_position = place.change_position, place.backfill_position
    if start.requested != NO_FILTER or start.requested.history is not Past.NONE:
        message.desired_filter = _filter_to_wire(start.requested)
    return message


def _start_from_wire(message: wire.Start) -> Start:
    """Raises ``link.malformed``."""
    stored = message.stored
    try:
        resume = Resume(message.resume)
    except ValueError:
        raise malformed(f"unknown resume {message.resume!r}") from None
    limits = PushLimits(message.window_events, message.window_bytes, message.batch_bytes, message.event_bytes)
    if stored.position < 0 or min(astuple(limits)) < 1:
        raise malformed("a start from where, or with limits by which, nothing can be sent")
    return Start(
        message.session,
        Offset(
            stored.journal_id,
            stored.generation_id,
            stored.position,
            stored.timestamp_us,
            stored.persistence_id,
            stored.seq_nr,
        ),
        resume,
        message.cloud_journal_id,
        message.cloud_generation_id,
        limits,
        message.clock_us,
        _place_of(message),
        _filter_from_wire(message.desired_filter),
    )


def _place_of(message: wire.Start) -> PushFilterState:
    if not 0 <= message.backfill_position <= message.change_position <= message.stored.position:
        raise malformed("a start whose lanes are not in order")
    return PushFilterState(
        _filter_from_wire(message.old_filter),
        _filter_from_wire(message.new_filter),
        message.change_position,
        message.backfill_position,
    )


def _applied_to_wire(applied: PushFilterApplied) -> wire.PushFilterApplied:
    return wire.PushFilterApplied(_filter_to_wire(applied.filter), applied.position, applied.needs_backfill)


def _applied_from_wire(message: wire.PushFilterApplied) -> PushFilterApplied:
    """Criteria are checked where they are used."""
    return PushFilterApplied(_filter_from_wire(message.filter), message.position, message.needs_backfill)


def _update_to_wire(update: PushFilterUpdate) -> wire.PushFilterUpdate:
    asked = PushFilter(update.version, update.criteria, history=update.history)
    return wire.PushFilterUpdate(_filter_to_wire(asked))


def _update_from_wire(message: wire.PushFilterUpdate) -> PushFilterUpdate:
    """Criteria are checked where they are used."""
    decoded = _filter_from_wire(message.filter)
    return PushFilterUpdate(decoded.version, decoded.criteria, decoded.history)


def _filter_to_wire(filter_: PushFilter) -> wire.PushFilter:
    def text(criteria: str) -> str:
        return "" if criteria == EVERYTHING else criteria

    history = "" if filter_.history is Past.NONE else filter_.history.value
    return wire.PushFilter(filter_.version, text(filter_.criteria), text(filter_.producer), history)


def _filter_from_wire(message: wire.PushFilter) -> PushFilter:
    """Raises ``link.malformed``."""
    try:
        history = Past(message.history or Past.NONE)
    except ValueError:
        raise malformed(f"unknown history {message.history[:80]!r}") from None
    return PushFilter(message.version, message.criteria or EVERYTHING, message.producer or EVERYTHING, history)


def _health_from_wire(said: wire.EdgeHealth) -> EdgeHealth | None:
    """What an edge says of itself is stored and shown, so it is looked at: a version is a short plain text."""
    sizes = (said.head_position, said.lag_us, said.lag_bytes, said.used_bytes, said.cap_bytes, said.free_bytes)
    if min(*sizes, said.certificate_expires_us) < 0 or text_problem(said.version, _VERSION_MAX_BYTES):
        raise malformed("an edge's health has a number below 0, or a version that is no short plain text")
    health = EdgeHealth(*sizes, said.version, said.certificate_expires_us)
    return None if health == EdgeHealth() else health


# -- asked once, without a stream --------------------------------------------------------------------------------------
def encode_check_request(protocol_version: int, origin_id: str) -> bytes:
    """What would a Hello be answered?"""
    return wire.CheckRequest(protocol_version, origin_id).encode()


def decode_check_request(data: bytes) -> tuple[int, str]:
    """Protocol version and origin id. Raises ``link.malformed``."""
    message = wire.CheckRequest.decode(data)
    return message.protocol_version, message.origin_id


def encode_check_reply(reply: CheckReply) -> bytes:
    """The answer to it."""
    code, message, hint = reply.refusal or ("", "", "")
    return wire.CheckReply(
        reply.clock_us, code, message, hint, reply.version, reply.rule, reply.may_write, reply.is_connected
    ).encode()


def decode_check_reply(data: bytes) -> CheckReply:
    """Raises ``link.malformed``."""
    said = wire.CheckReply.decode(data)
    refusal = (said.error_code, said.error_message, said.error_hint) if said.error_code else None
    return CheckReply(said.clock_us, refusal, said.version, said.rule, said.may_write, said.connected)
