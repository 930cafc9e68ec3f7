"""The newest stretch of a log, kept in memory for one who follows it; pure.

A follower at the end of the log takes the next page from here instead of asking the storage for what it has just
stored. Only what is next is ever given: after a hole, or behind a stretch that was too large to keep, there is nothing here
and the log itself must be read. So a tail may forget at any time, and does, rather than grow.
"""

from __future__ import annotations

from collections import deque

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch, concat


class RecentCommits:
    """Batches in the order of the log. ``add`` is quick and never raises."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._batches: deque[EventBatch] = deque()
        self._events = 0
        self._bytes = 0

    def add(self, events: EventBatch) -> None:
        """Keep what was stored now; positions within a batch have no holes."""
        size = events.byte_size()
        if self._events + len(events) > self._max_events or self._bytes + size > self._max_bytes:
            self.clear()  # who follows is behind: it has to read, and what is added from now on may be of use again
            if len(events) > self._max_events or size > self._max_bytes:
                return
        self._batches.append(events)
        self._events += len(events)
        self._bytes += size

    def clear(self) -> None:
        """Forget everything."""
        self._batches.clear()
        self._events = self._bytes = 0

    def after(self, position: int, max_events: int, max_bytes: int) -> EventBatch | None:
        """The events that follow ``position``, at least one, else up to the bounds; None when they are not here.

        What is at or before ``position`` is forgotten.
        """
        batches = self._batches
        while batches and batches[0].position[-1] <= position:
            self._drop_first()
        if not batches or batches[0].position[0] > position + 1:
            return None
        page: list[EventBatch] = []
        room, bytes_room, next_position = max_events, max_bytes, position + 1
        for batch in batches:
            first, last = batch.position[0], batch.position[-1]
            if first > next_position:
                break
            events = batch.slice(next_position - first, len(batch)) if first < next_position else batch
            fits = fitting(events, room, bytes_room if page else max(bytes_room, weight_of(events, 0)))
            if fits < len(events):
                if fits:
                    page.append(events.slice(0, fits))
                break
            page.append(events)
            room, bytes_room, next_position = room - fits, bytes_room - events.byte_size(), last + 1
        return page[0] if len(page) == 1 else concat(page)

    def _drop_first(self) -> None:
        first = self._batches.popleft()
        self._events -= len(first)
        self._bytes -= first.byte_size()


def weight_of(events: EventBatch, index: int) -> int:
    """Bytes that the event at ``index`` counts for."""
    return len(events.payload[index]) + EVENT_OVERHEAD_BYTES


def fitting(events: EventBatch, room: int, bytes_room: int) -> int:
    """How many of the first events are within the bounds."""
    if len(events) <= room and events.byte_size() <= bytes_room:
        return len(events)
    fits = 0
    for weight in events.weights()[:room]:
        bytes_room -= weight
        if bytes_room < 0:
            break
        fits += 1
    return fits
