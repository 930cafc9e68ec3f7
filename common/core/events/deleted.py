"""The deleted mark: what stands in an inbox in the place of events that the source had deleted before they came.

It is a row like an event's, of a type that no event can have: its number is the last that is gone, its previous number the
one before the first, and its payload says both and the reason. So a program reads it in its order, and acknowledges it
as it does an event. It is made where it is stored and never sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from common.core.events.batch import Envelope, EventBatch
from common.core.events.stated_range import StatedRange

DELETED_TYPE: Final = "backhaul.deleted"
DELETED_CODEC: Final = "json"


def deleted_mark(stated: StatedRange) -> EventBatch:
    """The mark of one range: a batch of one."""
    payload = {"from_seq_nr": stated.from_seq_nr, "to_seq_nr": stated.to_seq_nr, "reason": stated.reason}
    return EventBatch(
        position=[0],
        timestamp_us=[0],
        stored_us=[0],
        event_time_us=[0],
        persistence_id=[stated.persistence_id],
        seq_nr=[stated.to_seq_nr],
        prev_seq_nr=[stated.from_seq_nr - 1],
        origin_seq_nr=[0],
        event_type=[DELETED_TYPE],
        codec=[DELETED_CODEC],
        payload=[orjson.dumps(payload)],
        tags=[""],
        metadata=[""],
        prev_tags=[""],
    )


def stated_by(mark: Envelope) -> StatedRange:
    """The range of a mark."""
    reason = orjson.loads(mark.payload)["reason"]
    return StatedRange(mark.persistence_id, mark.prev_seq_nr + 1, mark.seq_nr, reason)


def with_deleted(events: EventBatch, ranges: Sequence[StatedRange]) -> tuple[EventBatch, list[int]]:
    """The events with a mark for each range, before the entity's next event or at the end; and where each event went."""
    if not ranges:
        return events, list(range(len(events)))
    by_entity: dict[str, list[StatedRange]] = {}
    for stated in ranges:
        by_entity.setdefault(stated.persistence_id, []).append(stated)
    found, moved, start = EventBatch(), [], 0
    for index, name in enumerate(events.persistence_id):
        waiting = by_entity.get(name, [])
        if waiting and waiting[0].to_seq_nr < events.seq_nr[index]:
            found.extend(events.slice(start, index))
            start = index
            while waiting and waiting[0].to_seq_nr < events.seq_nr[index]:
                found.extend(deleted_mark(waiting.pop(0)))
        moved.append(len(found) + index - start)
    found.extend(events.slice(start, len(events)))
    for waiting in by_entity.values():
        for stated in waiting:
            found.extend(deleted_mark(stated))
    return found, moved
