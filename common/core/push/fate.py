"""What the filters in force make of one event of an edge: sent, sent later by the backfill, or withheld and by which.

What an earlier filter made of it is not kept: the answer is of the filter before the last change and of the last one.
"""

from __future__ import annotations

from enum import Enum

from common.core.events.batch import EventBatch
from common.core.filters.permission import match_batch, within
from common.core.filters.predicates import EntityPredicate, parse_filter
from common.core.push.filter_transition import STORED_LIMITS, PushFilter, PushFilterState


class Fate(Enum):
    """What becomes of an event when its lane comes to it."""

    LIVE = "live"
    BACKFILL = "backfill"
    BY_OWN_FILTER = "push_filter"
    BY_REQUESTED_FILTER = "requested_filter"

    @property
    def is_withheld(self) -> bool:
        """Whether no lane sends it."""
        return self in {Fate.BY_OWN_FILTER, Fate.BY_REQUESTED_FILTER}


def fate_of(place: PushFilterState, event: EventBatch) -> Fate:
    """The fate of the one event of ``event``, which stands in the log with its number, tags and those before it."""
    in_change = event.position[0] <= place.change_position
    live = place.old if in_change else place.new
    if _passes(live.predicate(), event):
        return Fate.LIVE
    if in_change and _passes(place.new.predicate(), event):
        return Fate.BACKFILL
    own = within(parse_filter(place.new.producer, STORED_LIMITS), PushFilter().predicate())
    return Fate.BY_REQUESTED_FILTER if _passes(own, event) else Fate.BY_OWN_FILTER


def _passes(predicate: EntityPredicate, event: EventBatch) -> bool:
    """Whether the event itself is sent: of one that the edge's own filter forbids at most a mark is."""
    matched = match_batch(predicate, event)
    starts = predicate.from_seq_nr(event.persistence_id[0]) <= event.seq_nr[0]
    return bool(matched.indexes) and not matched.marks and starts
