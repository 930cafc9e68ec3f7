"""What a push stream says of events that were deleted before it sent them.

"Stored up to P" must imply that everything at or below P was sent or stated. A log keeps one number an entity of what it
deleted, with the position of the last: which of those events lie at or below P is not known. So all that is gone ahead of
a stream is stated before the stream passes the first hole, though it lies further on; and the receiver takes what comes
nevertheless, from a copy of the log that had not lost it (``core.journal.admission``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.core.events.batch import EventBatch
from common.core.events.stated_range import REPLACED, StatedRange

AHEAD_MAX_BYTES = 64 * 1024
# A range on the wire beside its entity's id.
RANGE_BYTES = 32


class StatedDeletions:
    """What one stream has stated of deleted events, so that only news is stated with its next page."""

    def __init__(self) -> None:
        self._stated: dict[str, int] = {}
        self._unstated: dict[str, StatedRange] = {}

    def news(self, events: EventBatch, deleted: Iterable[StatedRange]) -> Iterator[StatedRange]:
        """What is to be stated with or before a page: ``deleted``, each entity's whole range, as far as it is news.

        It may be newer than ``events``: an entity's range ends before its first event in the page.
        """
        first = dict(zip(reversed(events.persistence_id), reversed(events.seq_nr), strict=True))
        known = self._stated.get
        for gone in deleted:
            name, from_seq_nr, to_seq_nr, _ = gone
            is_cut = name in first and first[name] <= to_seq_nr
            if is_cut:
                to_seq_nr = first[name] - 1
            if to_seq_nr >= from_seq_nr and to_seq_nr > known(name, 0):
                yield gone._replace(to_seq_nr=to_seq_nr) if is_cut else gone

    def look_at(self, deleted: Iterable[StatedRange]) -> None:
        """All that is deleted ahead: what of it is not stated yet is asked for with ``unstated``."""
        self._unstated = {gone.persistence_id: gone for gone in self.news(EventBatch(), deleted)}

    def unstated(self, events: EventBatch, message_bytes: int) -> tuple[list[StatedRange], bool]:
        """As ``news`` of what was looked at last, as far as it fits beside the page (``fits_ahead``); and whether that is all."""
        return fits_ahead(self.news(events, self._unstated.values()), message_bytes)

    def sent(self, ranges: Iterable[StatedRange]) -> None:
        """These were handed to the line."""
        for name, _, to_seq_nr, reason in ranges:
            unstated = self._unstated.get(name)
            if reason == REPLACED and unstated is None:
                continue  # nothing of it is gone, as far as is known; there may be any number of them
            if to_seq_nr > self._stated.get(name, 0):
                self._stated[name] = to_seq_nr
            if unstated is not None and unstated.to_seq_nr <= self._stated[name]:
                del self._unstated[name]

    def keep(self, persistence_ids: Iterable[str]) -> None:
        """Only of these entities is there anything left to state: the others' numbers need not be remembered."""
        self._stated = {name: self._stated[name] for name in persistence_ids if name in self._stated}


def fits_ahead(ranges: Iterable[StatedRange], message_bytes: int) -> tuple[list[StatedRange], bool]:
    """The first of these ranges that go into one message of so many bytes beside its events, at least one; and whether all do."""
    left, fit = min(AHEAD_MAX_BYTES, message_bytes // 4), list[StatedRange]()
    for stated in ranges:
        name = stated.persistence_id
        left -= (len(name) if name.isascii() else len(name.encode())) + RANGE_BYTES
        if left < 0 and fit:
            return fit, False
        fit.append(stated)
    return fit, True
