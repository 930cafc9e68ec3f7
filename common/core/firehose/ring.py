"""The newest part of a log in memory, by position: what subscribers near the head are served from.

Positions have no holes, so a cursor is in the ring or behind it, and which is a comparison. The ring never waits: what
is too much is evicted at its oldest end, wanted or not. One that meets deleted positions begins anew behind them,
for what replaces them is read from the journal. Bounds count an event as its columns and the bytes that may be made of
it. These are made when first wanted and kept: one encoding serves every subscriber, a page that all want is one piece.

    evicted │ page │ page │ page │
            after                through
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from common.core.events.batch import EventBatch, concat
from common.core.events.ids import SliceRange
from common.core.events.leaving import marked
from common.core.filters.selection import indexes_of_types
from common.core.firehose.fetch_result import Encode
from common.core.firehose.slice_split import SliceSplit
from common.core.journal.place_digest import place_digest

PAGE_MAX_EVENTS = 500
PAGE_MAX_BYTES = 262_144
# Single commits make pages of one event. So many small ones in a row become one, or their frames outweigh their events.
_SMALL_EVENTS = 32
_SMALL_BYTES = 16_384
_JOINED_PAGES = 64
# Fewer events than this are worth an encoding each, to be shared; a long run is cheaper in one piece.
_FEW = 8


@dataclass(frozen=True, slots=True)
class LogSource:
    """The log that pages come from, and how its events become bytes. ``generation``: which history of it (its newest).

    ``place_key`` is the journal's secret for the digests of places.
    """

    place_key: str
    encode: Encode
    generation: str = ""

    def is_of(self, generation: str) -> bool:
        """Whether pages of this log may be given to a reader of that history: positions of another name other events."""
        return self.generation == generation


class LogStretch:
    """Positions ``after`` < p <= ``through`` of a log, their events, and the bytes of these as far as they were wanted."""

    __slots__ = (
        "_encodings",
        "_of_types",
        "_place",
        "_source",
        "_split",
        "_whole",
        "after",
        "events",
        "events_bytes",
        "through",
    )

    def __init__(
        self,
        source: LogSource,
        after: int,
        through: int,
        events: EventBatch,
        encodings: list[bytes | None] | None = None,
        place: tuple[int, str] | None = None,
    ) -> None:
        self.after = after
        self.through = through
        self.events = events
        self.events_bytes = events.byte_size()
        self._source = source
        self._encodings = encodings or []
        self._whole: bytes | None = None
        self._of_types: dict[frozenset[str], Sequence[int]] = {}
        self._split: SliceSplit | None = None
        self._place = place

    @property
    def weight(self) -> int:
        """Bytes it counts for: its columns, an encoding of each event, and one of the page."""
        return 3 * self.events_bytes

    @property
    def place(self) -> tuple[int, str]:
        """Order time and digest of the event at ``through``; 0 and '' when it is not known here."""
        if self._place is None:
            events = self.events
            is_known = bool(events) and events.position[-1] == self.through
            self._place = self.place_at(len(events) - 1) if is_known else (0, "")
        return self._place

    def place_at(self, index: int) -> tuple[int, str]:
        """Order time and digest of the event at ``index``."""
        events = self.events
        timestamp_us = events.timestamp_us[index]
        identity = (timestamp_us, events.persistence_id[index], events.seq_nr[index])
        return timestamp_us, place_digest(self._source.place_key, *identity)

    def index_after(self, position: int) -> int:
        """The index of the first event beyond ``position``."""
        return bisect_right(self.events.position, position) if position > self.after else 0

    def of_types(self, entity_types: frozenset[str]) -> Sequence[int]:
        """Indexes of the events of these types; all when none is named. Judged once for all who ask."""
        if not entity_types:
            return range(len(self.events))
        chosen = self._of_types.get(entity_types)
        if chosen is None:
            chosen = self._of_types[entity_types] = indexes_of_types(self.events.persistence_id, entity_types)
        return chosen

    def of_slices(self, slices: SliceRange) -> Sequence[int]:
        """Indexes of the events in these slices. Split by slice once, for all ranges that ask."""
        if slices.is_all:
            return range(len(self.events))
        if self._split is None:
            self._split = SliceSplit(self.events.persistence_id)
        return self._split.of(slices)

    def is_of(self, generation: str) -> bool:
        """Whether it may be given to a reader of that history."""
        return self._source.is_of(generation)

    def select(self, indexes: Sequence[int], marks: Collection[int] = ()) -> EventBatch:
        """The events at ``indexes``: shared when it is all of them. Those at positions in ``marks`` as leaving marks."""
        events = self.events if len(indexes) == len(self.events) else self.events.select(indexes)
        if not marks:
            return events
        return marked(events, [index for index, position in enumerate(events.position) if position in marks])

    def encode(self, indexes: Sequence[int], *, shared: bool, marks: Collection[int] = ()) -> bytes:
        """The bytes of the events at ``indexes``, ascending; ``shared`` when others will want some of these too."""
        if marks:
            positions = self.events.position
            return b"".join(
                self._source.encode(marked(self.events.slice(index, index + 1), [0]))
                if positions[index] in marks
                else self._one(index)
                for index in indexes
            )
        n = len(self.events)
        if len(indexes) == n and n > 1:
            return self._all()
        if shared or len(indexes) <= _FEW:
            return b"".join(map(self._one, indexes))
        return self._source.encode(self.events.select(indexes))

    def _one(self, index: int) -> bytes:
        if not self._encodings:
            self._encodings = [None] * len(self.events)
        encoding = self._encodings[index]
        if encoding is None:
            encoding = self._encodings[index] = self._source.encode(self.events.slice(index, index + 1))
        return encoding

    def _all(self) -> bytes:
        if self._whole is None:
            made = [encoding for encoding in self._encodings if encoding is not None]
            is_complete = len(made) == len(self.events)
            self._whole = b"".join(made) if is_complete else self._source.encode(self.events)
        return self._whole

    def joined(self, later: Sequence[LogStretch]) -> LogStretch:
        """This page and those that follow it as one, with what was encoded."""
        pages = (self, *later)
        encodings: list[bytes | None] = []
        if any(page._encodings for page in pages):
            for page in pages:
                encodings += page._encodings or [None] * len(page.events)
        events = concat(page.events for page in pages)
        return LogStretch(self._source, self.after, later[-1].through, events, encodings)

    @property
    def is_small(self) -> bool:
        """Whether it is joined with others like it."""
        return len(self.events) <= _SMALL_EVENTS and self.weight <= _SMALL_BYTES


class Ring:
    """Pages that follow each other; ``after`` and ``through`` bound what is held, ``through`` is the head here."""

    def __init__(self, source: LogSource, after: int, *, max_events: int, max_bytes: int) -> None:
        assert max_events > 0 < max_bytes, (max_events, max_bytes)
        self.source = source
        """Of the pages to come: it changes with the log."""
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._pages: list[LogStretch] = []
        self._afters: list[int] = []
        self._small = 0
        self.after = after
        self.through = after
        self.events = 0
        self.bytes = 0
        self.evicted = 0

    def limit(self, max_events: int, max_bytes: int) -> None:
        """Keep so much from now on."""
        self._max_events, self._max_bytes = max_events, max_bytes
        self._evict()

    def holds(self, position: int) -> bool:
        """Whether a cursor at ``position`` finds all that follows it here; else it is behind."""
        return position >= self.after

    def extend(self, events: EventBatch) -> list[LogStretch]:
        """Take in what follows, without a hole. Answers the new pages; the oldest make room for them."""
        assert events.position[0] == self.through + 1, "not what follows"
        assert events.position[-1] - self.through == len(events), "a hole"
        new: list[LogStretch] = []
        for start, stop in _cuts(events):
            part = events if stop - start == len(events) else events.slice(start, stop)
            page = LogStretch(self.source, self.through, part.position[-1], part)
            self.through = page.through
            self._append(page)
            new.append(page)
        self._evict()
        return new

    def restart(self, after: int) -> None:
        """Forget everything and go on after that position."""
        self.after = self.through = after
        self.events = self.bytes = self._small = 0
        self._pages, self._afters = [], []

    def pages_after(self, position: int) -> Iterator[LogStretch]:
        """The pages that hold what follows ``position``, which must be in the ring."""
        assert self.holds(position), (position, self.after)
        for number in range(max(0, bisect_right(self._afters, position) - 1), len(self._pages)):
            if self._pages[number].through > position:
                yield self._pages[number]

    def locate(self, positions: Sequence[int]) -> Iterator[tuple[LogStretch, list[int]]]:
        """Pages and indexes of events whose ``positions``, ascending, are in the ring."""
        done = 0
        while done < len(positions):
            page = self._pages[bisect_left(self._afters, positions[done]) - 1]
            stop = bisect_right(positions, page.through, done)
            first = page.after + 1
            yield page, [position - first for position in positions[done:stop]]
            done = stop

    def place(self, position: int) -> tuple[int, str]:
        """Order time and digest of the event at ``position``; 0 and '' when it is not here."""
        if not self.after < position <= self.through:
            return 0, ""
        page = self._pages[bisect_left(self._afters, position) - 1]
        return page.place if position == page.through else page.place_at(position - page.after - 1)

    @property
    def last(self) -> LogStretch | None:
        """The newest page."""
        return self._pages[-1] if self._pages else None

    def _append(self, page: LogStretch) -> None:
        self._pages.append(page)
        self._afters.append(page.after)
        self.events += len(page.events)
        self.bytes += page.weight
        self._small = self._small + 1 if page.is_small else 0
        if self._small > _JOINED_PAGES:
            self._join_small()

    def _join_small(self) -> None:
        # Without the newest: its events are only now being encoded.
        first, *later = self._pages[-_JOINED_PAGES - 1 : -1]
        self._pages[-_JOINED_PAGES - 1 : -1] = [first.joined(later)]
        del self._afters[-_JOINED_PAGES:-1]
        self._small = 1

    def _evict(self) -> None:
        gone = 0
        while len(self._pages) - gone > 1 and (self.events > self._max_events or self.bytes > self._max_bytes):
            page = self._pages[gone]
            self.events -= len(page.events)
            self.bytes -= page.weight
            self.evicted += len(page.events)
            self.after = page.through
            gone += 1
        if gone:
            del self._pages[:gone], self._afters[:gone]
            self._small = min(self._small, len(self._pages))


def _cuts(events: EventBatch) -> Iterator[tuple[int, int]]:
    """Where a batch is divided so that no page is large."""
    n = len(events)
    if n <= PAGE_MAX_EVENTS and events.byte_size() <= PAGE_MAX_BYTES:
        yield 0, n
        return
    start, size = 0, 0
    for index, weight in enumerate(events.weights()):
        size += weight
        if index > start and (size > PAGE_MAX_BYTES or index - start == PAGE_MAX_EVENTS):
            yield start, index
            start, size = index, weight
    yield start, n
