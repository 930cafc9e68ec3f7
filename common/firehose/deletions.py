"""What a page of the journal lacks because it was deleted, looked up once for all who are given the page.

The page is read first and what is gone after it, so an event is in the page or is known to be gone; what was removed in
between is handed over, not stated. A removal that has gone on beyond the page is stated with the page it has reached; until
then the consumer's place says so (``deleted_ahead``).
"""

from __future__ import annotations

from dataclasses import replace

from common.core.events.batch import EventBatch, predecessor_tags
from common.core.events.stated_range import StatedRange
from common.core.firehose.catch_up import DeletedEntity, cap_to_stored
from common.core.journal.snapshot import folded_by, reached_by_snapshots, snapshot_batch
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogPage, LogStore

_ANYWHERE = 2**62


async def find_deleted(
    journal: Journal, after: int, page: LogPage, *, max_entities: int
) -> tuple[LogPage, list[DeletedEntity]]:
    """What is gone of positions after ``after`` up to the page's end; the page is cut where there is too much of it."""
    page, capped = await ranges_gone(journal.log, after, page, max_entities=max_entities)
    if not capped:
        return page, []
    names = [one.persistence_id for one in capped]
    last_tags = {stated.persistence_id: tags for stated, tags in await journal.log.deleted_of(names)}
    tag_sets = await journal.log.tag_sets(names)
    return page, [
        await _what_is_left(journal, stated, last_tags[stated.persistence_id], tag_sets.get(stated.persistence_id))
        for stated in capped
    ]


async def ranges_gone(
    log: LogStore, after: int, page: LogPage, *, max_entities: int
) -> tuple[LogPage, list[StatedRange]]:
    """The numbers alone of what ``find_deleted`` finds."""
    if len(page.events) == page.through - after:
        return page, []
    while True:
        gone = await log.deleted_ranges(after, page.through, max_rows=max_entities + 1)
        if len(gone) <= max_entities:
            break
        gone = gone[:max_entities]
        last_position = await _deleted_position(log, gone[-1])
        if last_position <= page.through:
            page = _cut(page, last_position)
            break
        # More of that entity has been removed meanwhile, beyond the page, so another one is the last of its part.
    return page, cap_to_stored(gone, page.events)


async def deleted_ahead(log: LogStore, after: int, page: LogPage) -> int:
    """The highest deleted position, when entities that may have lost events of this page lost later ones too; else 0.

    To be asked after ``find_deleted``: a removal that goes on beyond the page in between is noticed here.
    """
    if len(page.events) == page.through - after or not await log.deleted_ranges(page.through, _ANYWHERE, max_rows=1):
        return 0
    return (await log.stats()).deleted_through


async def _deleted_position(log: LogStore, stated: StatedRange) -> int:
    head = await log.entity_head(stated.persistence_id)
    assert head is not None, stated
    return head.deleted_position


def _cut(page: LogPage, through: int) -> LogPage:
    fitting = sum(position <= through for position in page.events.position)
    return replace(page, events=page.events.slice(0, fitting), through=through)


async def _what_is_left(
    journal: Journal, gone: StatedRange, last_tags: str, tag_sets: frozenset[str] | None
) -> DeletedEntity:
    """Tags of the last removed event are known from the one after it, else they are the last that the entity had."""
    snapshot = await journal.snapshots.get(gone.persistence_id)
    next_seq_nr = gone.to_seq_nr + 1
    following = await journal.log.read_entity(gone.persistence_id, next_seq_nr, next_seq_nr, max_events=1)
    tags = predecessor_tags(following.tags[0], following.prev_tags[0]) if following else last_tags
    if snapshot is None:
        return DeletedEntity(gone, tags, EventBatch())
    reached = reached_by_snapshots([snapshot])
    return DeletedEntity(gone, tags, snapshot_batch([snapshot]), reached, folded_by(snapshot, tag_sets))
