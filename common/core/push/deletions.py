"""What a push stream says of events that were deleted before it sent them.

"Stored up to P" must imply that everything at or below P was sent or stated. A log keeps one number an entity of what it
deleted, with the position of the last: which of those events lie at or below P is not known. So all that is gone ahead of
a stream is stated before the stream passes the first hole, though it lies further on; and the receiver takes what comes
nevertheless, from a copy of the log that had not lost it (``core.journal.admission``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange

AHEAD_MAX_BYTES = 64 * 1024
# A range on the wire beside its entity's id.
RANGE_BYTES = 32


class StatedDeletions:
    """What one stream has stated of deleted events, so that only news is stated with its next page."""

    def __init__(self) -> None:
        self._stated: dict[str, int] = {}

    def news(self, events: EventBatch, deleted: Sequence[StatedRange]) -> list[StatedRange]:
        """What is to be stated with or before a page: ``deleted``, each entity's whole range, as far as it is news.

        It may be newer than ``events``: an entity's range ends before its first event in the page.
        """
        first = dict(zip(reversed(events.persistence_id), reversed(events.seq_nr), strict=True))
        news = []
        for gone in deleted:
            to_seq_nr = min(gone.to_seq_nr, first.get(gone.persistence_id, gone.to_seq_nr + 1) - 1)
            if to_seq_nr >= gone.from_seq_nr and to_seq_nr > self._stated.get(gone.persistence_id, 0):
                news.append(replace(gone, to_seq_nr=to_seq_nr))
        return news

    def sent(self, ranges: Iterable[StatedRange]) -> None:
        """These were handed to the line."""
        for stated in ranges:
            self._stated[stated.persistence_id] = max(stated.to_seq_nr, self._stated.get(stated.persistence_id, 0))

    def keep(self, persistence_ids: Iterable[str]) -> None:
        """Only of these entities is there anything left to state: the others' numbers need not be remembered."""
        self._stated = {name: self._stated[name] for name in persistence_ids if name in self._stated}


def fits_ahead(ranges: Sequence[StatedRange], message_bytes: int) -> int:
    """How many of these ranges go into one message that may take so many bytes with its events; at least one."""
    left = min(AHEAD_MAX_BYTES, message_bytes // 4)
    for count, stated in enumerate(ranges):
        left -= len(stated.persistence_id.encode()) + RANGE_BYTES
        if left < 0:
            return max(1, count)
    return len(ranges)
