"""The next page of one range of slices, put together from stretches of the log that all ranges share."""

from __future__ import annotations

from bisect import bisect_left

from common.core.events.batch import EventBatch, concat
from common.core.events.ids import SliceRange
from common.core.firehose.ring import LogStretch
from common.core.journal.recent_commits import fitting, weight_of


class RangePage:
    """Begins after ``after``; ``through`` is how far it goes. At least one event fits, whatever its size."""

    def __init__(self, slices: SliceRange, after: int, *, max_events: int, max_bytes: int) -> None:
        self.after = after
        self.through = after
        self._slices = slices
        self._room = max_events
        self._bytes_room = max_bytes
        self._parts: list[EventBatch] = []

    @property
    def has_events(self) -> bool:
        """Whether anything was taken."""
        return bool(self._parts)

    @property
    def events(self) -> EventBatch:
        """What was taken, in order."""
        if len(self._parts) == 1:
            return self._parts[0]
        return concat(self._parts) if self._parts else EventBatch()

    def take(self, stretch: LogStretch) -> bool:
        """Take the range's events beyond ``through``; False when there was no room for all of them."""
        indexes = stretch.of_slices(self._slices)
        first = stretch.index_after(self.through)
        if first:
            indexes = indexes[bisect_left(indexes, first) :]
        events = stretch.select(indexes) if indexes else EventBatch()
        if events:
            bytes_room = self._bytes_room if self._parts else max(self._bytes_room, weight_of(events, 0))
            fits = fitting(events, self._room, bytes_room)
            if fits < len(events):
                if fits:
                    self._parts.append(events.slice(0, fits))
                    self.through = events.position[fits - 1]
                return False
            self._parts.append(events)
            self._room -= fits
            self._bytes_room -= events.byte_size()
        self.through = stretch.through
        return self._room > 0
