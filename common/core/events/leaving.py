"""The leaving mark: what a follower gets in the place of an event that a wall forbids, where its entity leaves it.

It says which entity, and the number, and where in the log; nothing of the event. It is an event of its own kind: its tags
are ``LEFT_TAGS``, which no event can have, so it matches no filter, and the entity's next event counts as entering.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from common.core.events.batch import LEFT_TAGS, EventBatch

LEAVING_TYPE: Final = "backhaul.leaving"
LEAVING_CODEC: Final = "none"


def has_marks(events: EventBatch) -> bool:
    """Whether some of the events are leaving marks."""
    return LEFT_TAGS in events.tags


def is_mark(events: EventBatch, index: int) -> bool:
    """Whether the event at ``index`` is a leaving mark."""
    return events.tags[index] == LEFT_TAGS


def marked(events: EventBatch, indexes: Sequence[int]) -> EventBatch:
    """The batch with leaving marks in the place of the events at ``indexes``; the batch itself when there are none."""
    if not indexes:
        return events
    copy = events.slice(0, len(events))
    for index in indexes:
        copy.event_time_us[index] = 0
        copy.event_type[index] = LEAVING_TYPE
        copy.codec[index] = LEAVING_CODEC
        copy.payload[index] = b""
        copy.tags[index] = LEFT_TAGS
        copy.metadata[index] = ""
    return copy


def mark_problem(events: EventBatch, index: int) -> str:
    """What makes an event that is said to be a leaving mark none, or ''."""
    is_bare = not (events.payload[index] or events.metadata[index] or events.event_time_us[index])
    is_kind = is_mark(events, index) and events.event_type[index] == LEAVING_TYPE and is_bare
    return "" if is_kind else f"event_type {LEAVING_TYPE!r} is that of a leaving mark, which has no content and no tags"
