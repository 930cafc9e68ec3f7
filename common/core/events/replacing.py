"""The mark of a snapshot that stands in a log like an event: it went up in the place of its entity's events before it.

A log has no column that says what a row is, so a snapshot that is pushed says it in its metadata. Handlers see it as
``replaces``, whichever way it comes to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from common.core.events.batch import UNIT_SEPARATOR, EventBatch, folding, join_metadata, split_metadata

REPLACES_KEY: Final = "backhaul.replaces"
_REPLACES_VALUE: Final = "1"


@lru_cache(256)
def with_mark(metadata: str) -> str:
    """A metadata entry that says that its event is a snapshot. Cached: those of an application are mostly alike."""
    return join_metadata({**split_metadata(metadata), REPLACES_KEY: _REPLACES_VALUE})


def as_pushed(events: EventBatch, snapshots: Mapping[int, bool]) -> EventBatch:
    """Events of which those at these indexes are snapshots, as a log keeps them: marked, with ``FOLDS_TAG`` where it is true."""
    if not snapshots:
        return events
    copy = events.slice(0, len(events))
    for index, folds in snapshots.items():
        copy.metadata[index] = with_mark(copy.metadata[index])
        if folds:
            copy.tags[index] = folding(copy.tags[index])
    return copy


def is_marked(metadata: str) -> bool:
    """Whether a metadata entry says that its event is a snapshot."""
    return REPLACES_KEY in metadata and REPLACES_KEY in metadata.split(UNIT_SEPARATOR)[::2]


def replacing(events: EventBatch) -> list[int]:
    """Indexes of the events that are snapshots by their own mark."""
    if not any(events.metadata):
        return []
    return [index for index, metadata in enumerate(events.metadata) if is_marked(metadata)]
