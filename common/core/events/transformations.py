"""Events changed or withheld by an application's function: on their way out, or as they are received.

Columns go in; columns come out, with the numbers of what was withheld as stated ranges, so that no receiver takes it for
a gap. Numbers, positions and times stay the sender's: by them repeats are known. A fault of the function is reported for
its event; the caller decides what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from common.core.errors import FOREIGN, BackhaulError, ErrorKind
from common.core.events.batch import Envelope, EventBatch, join_metadata, join_tags
from common.core.events.leaving import is_mark
from common.core.events.stated_range import StatedRange
from common.core.events.types import place_of

Transformation = Callable[[Envelope], Envelope | None]
"""The event as it goes on, made with ``dataclasses.replace``, or the same one, or None to withhold it."""

_KEPT = ("position", "timestamp_us", "stored_us", "seq_nr", "prev_seq_nr", "origin_seq_nr")


@dataclass(frozen=True, slots=True)
class Transformed:
    """What came of a batch. ``faults`` are by index in ``events``, where the event is as it was."""

    events: EventBatch
    ranges: tuple[StatedRange, ...] = ()
    faults: dict[int, BackhaulError] = field(default_factory=dict)

    def checked(self) -> Transformed:
        """The same, where a fault must stop everything: nothing may go out that the function has not seen through.

        Raises:
            BackhaulError: ``transformation.failed``.
        """
        for fault in self.faults.values():
            raise fault
        return self


def transform(function: Transformation, events: EventBatch, *, maps_ids: bool = False) -> Transformed:
    """Let ``function`` see every event, in order.

    With ``maps_ids`` it may name other entities. An entity may then begin, or go on, anywhere in its numbers, so what it
    jumps over is stated as "mapped"; else another id is a fault.
    """
    changed: EventBatch | None = None
    kept: list[int] = []
    withheld: list[StatedRange] = []
    faults: dict[int, BackhaulError] = {}
    for index, envelope in enumerate(events.envelopes()):
        if is_mark(
            events, index
        ):  # nothing in it is the application's; whose it would be under another id is not known
            if not maps_ids:
                kept.append(index)
            continue
        try:
            result = _checked(function, function(envelope), envelope, maps_ids=maps_ids)
        except BackhaulError as fault:
            faults[len(kept)] = fault
            result = envelope
        except FOREIGN as error:  # foreign code: reported with its place, and is one event's affair
            faults[len(kept)] = _fault(function, envelope, f"raised {type(error).__name__}")
            result = envelope
        if result is None:
            withheld.append(StatedRange(envelope.persistence_id, envelope.seq_nr, envelope.seq_nr, "withheld"))
            continue
        kept.append(index)
        if result is not envelope:
            changed = changed or events.slice(0, len(events))
            _put(changed, index, result)
    result_events = changed or events
    if len(kept) < len(events):
        result_events = result_events.select(kept)
    ranges = _between(result_events) if maps_ids else _joined(withheld)
    return Transformed(result_events, tuple(ranges), faults)


def _checked(function: Transformation, result: object, given: Envelope, *, maps_ids: bool) -> Envelope | None:
    if result is None or result is given:
        return given if result is given else None
    if not isinstance(result, Envelope):
        raise _fault(function, given, f"returned {type(result).__name__} instead of an Envelope or None")
    for name in (*_KEPT, *(() if maps_ids else ("persistence_id",))):
        if getattr(result, name) != getattr(given, name):
            raise _fault(function, given, f"changed {name}, which must stay")
    return result


def _put(events: EventBatch, index: int, envelope: Envelope) -> None:
    events.persistence_id[index] = envelope.persistence_id
    events.event_time_us[index] = envelope.event_time_us
    events.event_type[index] = envelope.event_type
    events.codec[index] = envelope.codec
    events.payload[index] = envelope.payload
    events.tags[index] = join_tags(envelope.tags)
    events.metadata[index] = join_metadata(envelope.metadata)


def _between(events: EventBatch) -> list[StatedRange]:
    """What each entity jumps over. Of what the sender stated it is not known any more to whom it would belong."""
    last: dict[str, int] = {}
    jumps = []
    for name, seq_nr, before in zip(events.persistence_id, events.seq_nr, events.prev_seq_nr, strict=True):
        if before > last.get(name, 0):
            jumps.append(StatedRange(name, last.get(name, 0) + 1, before, "mapped"))
        last[name] = seq_nr
    return jumps


def _joined(withheld: list[StatedRange]) -> list[StatedRange]:
    """Neighbouring numbers of an entity as one range."""
    joined: list[StatedRange] = []
    at: dict[str, int] = {}
    for one in withheld:
        last = at.get(one.persistence_id)
        if last is not None and joined[last].to_seq_nr + 1 == one.from_seq_nr:
            joined[last] = StatedRange(one.persistence_id, joined[last].from_seq_nr, one.to_seq_nr, one.reason)
            continue
        at[one.persistence_id] = len(joined)
        joined.append(one)
    return joined


def _fault(function: Transformation, given: Envelope, what: str) -> BackhaulError:
    return BackhaulError(
        "transformation.failed",
        f"{place_of(function)} {what}",
        "mend the function; nothing that it has not seen through is passed on",
        kind=ErrorKind.INTERNAL,
        details={"persistence_id": given.persistence_id, "seq_nr": given.seq_nr, "position": given.position},
    )
