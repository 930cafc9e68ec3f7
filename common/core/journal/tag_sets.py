"""The distinct tag sets that an entity's events had, kept beside its head, also when retention deletes the events.

A snapshot folds all events of its entity up to its number: it passes a wall only if permission lets each of them through
(``core.filters.permission``). A set is noted where it begins: with an entity's first event, and with each event whose
predecessor had another. An entity of which nothing is noted never had a tag.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from common.core.events.batch import NO_TAGS, EventBatch, predecessor_tags

TAG_SETS_MAX: Final = 32
# Noted of an entity that lost events before sets were kept; no event has it.
UNKNOWN_TAGS: Final = NO_TAGS


def begun_tag_sets(events: EventBatch) -> set[tuple[str, str]]:
    """(persistence id, tags) of the sets that numbered events with their ``prev_tags`` begin, or show to have been."""
    found: set[tuple[str, str]] = set()
    if not (any(events.tags) or any(events.prev_tags)):
        return found
    rows = zip(events.persistence_id, events.seq_nr, events.tags, events.prev_tags, strict=True)
    for name, seq_nr, tags, prev_tags in rows:
        if prev_tags:
            found.add((name, tags))
            found.add((name, predecessor_tags(tags, prev_tags)))
        elif seq_nr == 1 and tags:
            found.add((name, tags))
    return found


def known_tag_sets(noted: Collection[str]) -> frozenset[str] | None:
    """What an entity's notes say; None when that is not all: too many, or some were deleted before they were kept."""
    if len(noted) > TAG_SETS_MAX or UNKNOWN_TAGS in noted:
        return None
    return frozenset(noted) or frozenset({""})
