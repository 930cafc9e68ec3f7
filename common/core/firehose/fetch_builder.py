"""A stretch while it is put together: which events of which pages, within bounds, and what is stated before them.

Every way of serving a cursor ends here, so all cut alike. A step ends at its bounds, though one event always fits, and
before an event with which an entity enters that the step has named already: the range that explains the jump holds
before the first event of a stretch, so it would swallow the earlier one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch, concat
from common.core.events.stated_range import StatedRange
from common.core.firehose.fetch_result import FetchResult
from common.core.firehose.ring import LogStretch

WITHHELD = "withheld"
NO_PLACE = (0, "")


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one step may carry beside the one event that always fits."""

    max_events: int
    max_bytes: int


@dataclass(slots=True)
class Stated:
    """What stands for deleted events: stated ranges, and the newest snapshots of their entities as events.

    ``reached`` is the highest position of what the snapshots stand for.
    """

    ranges: list[StatedRange] = field(default_factory=list)
    snapshots: EventBatch = field(default_factory=EventBatch)
    encoded: bytes = b""
    reached: int = 0


class FetchBuilder:
    """Begun for a cursor at ``after`` that knows there is nothing for it up to ``through``."""

    def __init__(self, after: int, through: int, limits: FetchLimits) -> None:
        self.through = through
        self.n = 0
        self._after = after
        self._limits = limits
        self._size = 0
        self._parts: list[tuple[LogStretch, Sequence[int]]] = []
        self._leaving: list[int] = []
        self._marks: set[int] = set()
        self._ranges: list[StatedRange] = []
        self._stated: Stated | None = None
        self._stated_through = 0
        self._end: tuple[LogStretch, int] | None = None

    def state(self, stated: Stated, through: int) -> None:
        """What comes before the first event, for what was deleted up to ``through``; only at the beginning."""
        assert not self._parts
        self._stated, self._stated_through = stated, through
        self._ranges += stated.ranges

    def take(
        self,
        page: LogStretch,
        indexes: Sequence[int],
        *,
        entering: Collection[int] = (),
        leaving: Collection[int] = (),
        marks: Collection[int] = (),
        whole: bool = False,
    ) -> bool:
        """Take the events at ``indexes`` of the next page; False when they do not all fit, and the step is over.

        ``entering``, ``leaving`` and ``marks`` (events in whose place leaving marks go) are positions. With ``whole`` a
        page that does not fit behind others is left for the next step, so that those who follow the same pages cut at
        the same places.
        """
        if not indexes:
            return True
        fitting = self._fitting(page, indexes)
        if entering:
            fitting = self._before_reentry(page, fitting, entering)
        is_all = len(fitting) == len(indexes)
        if not fitting or (whole and not is_all and self._parts):
            return False
        positions = page.events.position
        self._parts.append((page, fitting))
        self.n += len(fitting)
        self.through = positions[fitting[-1]]
        self._end = (page, fitting[-1])
        if leaving:
            self._leaving += [positions[index] for index in fitting if positions[index] in leaving]
        if marks:
            self._marks.update(positions[index] for index in fitting if positions[index] in marks)
        return is_all

    def reach(self, page: LogStretch) -> None:
        """The page was looked through to its end."""
        if page.through >= self.through:
            self.through = page.through
            self._end = (page, -1)

    def _fitting(self, page: LogStretch, indexes: Sequence[int]) -> Sequence[int]:
        at_least = 0 if self._parts else 1
        room = max(at_least, self._limits.max_events - self.n)
        if len(indexes) > room:
            indexes = indexes[:room]
        payload = page.events.payload
        if len(indexes) == len(payload):
            size = page.events_bytes
        else:
            size = sum(len(payload[index]) for index in indexes) + EVENT_OVERHEAD_BYTES * len(indexes)
        if self._size + size <= self._limits.max_bytes:
            self._size += size
            return indexes
        for count, index in enumerate(indexes):
            weight = len(payload[index]) + EVENT_OVERHEAD_BYTES
            if count >= at_least and self._size + weight > self._limits.max_bytes:
                return indexes[:count]
            self._size += weight
        return indexes

    def _before_reentry(self, page: LogStretch, indexes: Sequence[int], entering: Collection[int]) -> Sequence[int]:
        """``indexes`` up to the first entity that enters for a second time; states what the others have missed."""
        events, named = page.events, self._named
        for count, index in enumerate(indexes):
            entity = events.persistence_id[index]
            seq_nr = events.seq_nr[index]
            if seq_nr > 1 and events.position[index] in entering:
                if entity in named:
                    return indexes[:count]
                self._ranges.append(StatedRange(entity, 1, seq_nr - 1, WITHHELD))
            named.add(entity)
        return indexes

    @property
    def _named(self) -> set[str]:
        named = set(self._stated.snapshots.persistence_id) if self._stated else set()
        for page, indexes in self._parts:
            named.update(page.events.persistence_id[index] for index in indexes)
        return named

    @property
    def place(self) -> tuple[int, str]:
        """Order time and digest of the event at ``through``, as far as it is known."""
        if self._end is None:
            return NO_PLACE
        page, index = self._end
        return page.place if index < 0 else page.place_at(index)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to hand over."""
        return not (self._parts or self._ranges or (self._stated and self._stated.snapshots))

    def stretch(self, head: int, *, shared: bool, from_ring: bool, unstated_to: int = 0) -> FetchResult:
        """The step as a stretch; ``shared`` when other cursors want some of its events too, but not all of them."""
        parts, stated, marks = self._parts, self._stated, self._marks
        snapshots = stated.snapshots if stated else EventBatch()

        def encoded() -> bytes:
            if len(parts) == 1 and not snapshots:
                return parts[0][0].encode(parts[0][1], shared=shared, marks=marks)
            before = stated.encoded if stated else b""
            return before + b"".join(page.encode(indexes, shared=shared, marks=marks) for page, indexes in parts)

        def events() -> EventBatch:
            if len(parts) == 1 and not snapshots:
                return parts[0][0].select(parts[0][1], marks)
            return concat((snapshots, *(page.select(indexes, marks) for page, indexes in parts)))

        timestamp_us, digest = self.place
        reached = stated.reached if stated else 0
        if stated and stated.ranges and self._stated_through > self.through:
            reached = max(reached, self._stated_through)
        return FetchResult(
            self._after,
            self.through,
            max(head, self.through),
            n=len(snapshots) + self.n,
            encoded=encoded,
            events=events,
            snapshots=len(snapshots),
            leaving=tuple(self._leaving),
            ranges=tuple(self._ranges),
            timestamp_us=timestamp_us,
            digest=digest,
            from_ring=from_ring,
            reached=reached,
            unstated_to=unstated_to,
            weight=self._size,
        )
