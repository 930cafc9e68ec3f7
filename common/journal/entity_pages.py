"""Pages of one entity as they are sent again, from what a journal has of it: events, the latest snapshot, what is deleted.

What is made of a page is decided by ``core.subscription.replay``, the same on the way down and up.
"""

from __future__ import annotations

from dataclasses import replace

from common.core.events.batch import EventBatch, predecessor_tags
from common.core.events.replacing import as_pushed
from common.core.filters.past import Past
from common.core.filters.predicates import EntityPredicate
from common.core.subscription.replay import EntityPage, QueuedReplay, ReplayPart, replay_page
from common.journal.entity_history import TO_THE_LAST, EntityHistory, HistoryRequest, ReadHistory


async def entity_page(
    read: ReadHistory,
    replay: QueuedReplay,
    wanted: EntityPredicate,
    past: Past,
    through_position: int,
    max_events: int,
    max_bytes: int,
    last: int = TO_THE_LAST,
    *,
    snapshots_to: int = TO_THE_LAST,
    as_events: bool = False,
) -> tuple[list[ReplayPart], QueuedReplay | None]:
    """What ``wanted`` selects of an entity's numbers up to ``last``, with its past, and the rest (None = that was all).

    Of its snapshots only those up to ``snapshots_to`` stand for something. ``as_events``: the receiver stores a snapshot like
    an event, so one that folds events of other tags than its own gets ``FOLDS_TAG``: the walls there must know.
    """
    asked = page_request(replay, wanted, past, max_events, last, snapshots_to=snapshots_to, as_events=as_events)
    page = _page(asked, await read(asked), through_position, max_bytes)
    parts, rest = replay_page(replay, page, wanted, past)
    if as_events and page.snapshot is not None:
        folds = page.tag_sets != frozenset({page.snapshot.tags})
        parts = [_marked(part, folds=folds) for part in parts]
    return parts, rest


def page_request(
    replay: QueuedReplay,
    wanted: EntityPredicate,
    past: Past,
    max_events: int,
    last: int = TO_THE_LAST,
    *,
    snapshots_to: int = TO_THE_LAST,
    as_events: bool = False,
) -> HistoryRequest:
    """What ``entity_page`` reads."""
    return HistoryRequest(
        replay.persistence_id,
        replay.from_seq_nr,
        last,
        max_events,
        wants_snapshot=past is Past.SNAPSHOT,
        wants_tag_sets=wanted.permits_by_tags or as_events,
        snapshots_to=snapshots_to,
    )


def _page(asked: HistoryRequest, history: EntityHistory, through_position: int, max_bytes: int) -> EntityPage:
    """As much of a history as fits, up to a position."""
    first, last, found, head = asked.from_seq_nr, asked.to_seq_nr, history.events, history.head
    events = _within(found, through_position, max_bytes)
    is_cut = len(events) < len(found) and bool(events) and found.position[len(events)] <= through_position
    goes_on = is_cut or (len(events) == len(found) == asked.max_events)
    is_last = not goes_on or events.seq_nr[-1] >= last
    first_stored = found.seq_nr[0] if found else min(last, head.deleted_to if head else 0) + 1
    page = EntityPage(events, first_stored, is_last)
    if first >= first_stored and not asked.wants_snapshot:
        return page
    return replace(
        page,
        last_tags=predecessor_tags(found.tags[0], found.prev_tags[0]) if found else head.tags if head else "",
        deleted_position=head.deleted_position if head else 0,
        snapshot=history.snapshot,
        tag_sets=history.tag_sets,
    )


def _marked(part: ReplayPart, *, folds: bool) -> ReplayPart:
    if not part.snapshots:
        return part
    return replace(part, events=as_pushed(part.events, dict.fromkeys(range(part.snapshots), folds)))


def _within(events: EventBatch, position: int, max_bytes: int) -> EventBatch:
    """The first events up to a position and a size, at least one of those up to the position."""
    n, size = 0, 0
    for at, weight in zip(events.position, events.weights(), strict=True):
        if at > position or (n and size + weight > max_bytes):
            break
        n, size = n + 1, size + weight
    return events if n == len(events) else events.slice(0, n)
