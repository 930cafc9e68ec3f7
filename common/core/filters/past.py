"""What comes before the event with which an entity enters a filter: its past, as far as permission lets.

A filter selects entities by the tags of their events, so an entity may enter with its event n while the follower lacks
what came before: a handler that folds events would begin in the middle. The past of n is the latest snapshot below n that
may be seen, then all stored events after it that may be seen, selected or not, above the number that the follower knows.
Numbers that may not be seen, or are gone, are stated.
"""

from __future__ import annotations

from enum import StrEnum


class Past(StrEnum):
    """How much of an entity's past a follower is brought when it enters."""

    SNAPSHOT = "snapshot"
    """The latest snapshot and what came after it; without one all stored events."""
    FULL = "full"
    """All stored events; a snapshot only in the place of deleted ones."""
    NONE = "none"
    """Nothing: the numbers before are stated as withheld."""
