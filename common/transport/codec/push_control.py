"""What begins and steers a push stream, to generated messages and back: Hello, Start, and the filters' messages.

``codec`` frames them; the rest of the stream, events and acks, is there.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import common.border  # noqa: F401  (trio-asyncio must be imported before grpclib, which the generated code imports)

# isort: split
from common.core.journal.history import Generation, History, Offset, Resume
from common.core.push.filter_transition import (
    EVERYTHING,
    NO_FILTER,
    UNFILTERED,
    PushFilter,
    PushFilterApplied,
    PushFilterState,
)
from common.core.push.messages import Hello, PushFilterUpdate, PushLimits, Start
from common.generated.backhaul import v1 as wire
from common.transport.codec.decode import malformed


def hello_to_wire(hello: Hello) -> wire.Hello:
    """Who dials."""
    return wire.Hello(
        protocol_version=hello.protocol_version,
        origin_id=hello.origin_id,
        instance=hello.instance,
        journal_id=hello.history.journal_id,
        generation=[wire.Generation(entry.id, entry.first_position) for entry in hello.history.generations],
        head_position=hello.history.head_position,
        entity_type=list(hello.entity_types),
        clock_us=hello.clock_us,
    )


def hello_from_wire(message: wire.Hello) -> Hello:
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


def start_to_wire(start: Start) -> wire.Start:
    """Where to go on. What says that nothing was ever filtered is left out."""
    stored = start.stored
    return wire.Start(
        session=start.session,
        stored=wire.Offset(
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
        window_events=start.limits.window_events,
        window_bytes=start.limits.window_bytes,
        batch_bytes=start.limits.batch_bytes,
        event_bytes=start.limits.event_bytes,
        clock_us=start.clock_us,
        **_filters_of(start),
    )


def start_from_wire(message: wire.Start) -> Start:
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


def _filters_of(start: Start) -> dict[str, Any]:
    place = start.place
    fields: dict[str, Any] = {}
    if place != UNFILTERED:
        fields["old_filter"], fields["new_filter"] = _filter_to_wire(place.old), _filter_to_wire(place.new)
        fields["change_position"], fields["backfill_position"] = place.change_position, place.backfill_position
    if start.requested != NO_FILTER:
        fields["desired_filter"] = _filter_to_wire(start.requested)
    return fields


def _place_of(message: wire.Start) -> PushFilterState:
    if not 0 <= message.backfill_position <= message.change_position <= message.stored.position:
        raise malformed("a start whose lanes are not in order")
    return PushFilterState(
        _filter_from_wire(message.old_filter),
        _filter_from_wire(message.new_filter),
        message.change_position,
        message.backfill_position,
    )


def applied_to_wire(applied: PushFilterApplied) -> wire.PushFilterApplied:
    """From where on the live lane obeys a filter."""
    return wire.PushFilterApplied(_filter_to_wire(applied.filter), applied.position, applied.needs_backfill)


def applied_from_wire(message: wire.PushFilterApplied) -> PushFilterApplied:
    """Criteria are looked at by whoever uses them."""
    return PushFilterApplied(_filter_from_wire(message.filter), message.position, message.needs_backfill)


def update_to_wire(update: PushFilterUpdate) -> wire.PushFilterUpdate:
    """What the cloud asks for now."""
    return wire.PushFilterUpdate(_filter_to_wire(PushFilter(update.version, update.criteria)))


def update_from_wire(message: wire.PushFilterUpdate) -> PushFilterUpdate:
    """Criteria are looked at by whoever uses them."""
    decoded = _filter_from_wire(message.filter)
    return PushFilterUpdate(decoded.version, decoded.criteria)


def _filter_to_wire(filter_: PushFilter) -> wire.PushFilter:
    def text(criteria: str) -> str:
        return "" if criteria == EVERYTHING else criteria

    return wire.PushFilter(filter_.version, text(filter_.criteria), text(filter_.producer))


def _filter_from_wire(message: wire.PushFilter) -> PushFilter:
    return PushFilter(message.version, message.criteria or EVERYTHING, message.producer or EVERYTHING)
