"""What of the edge's journal goes up next: pages of the lane that is served, and what is said of what is left out.

At the log's end pages come from the commits themselves; else they are read, through an index where a filter allows it.
Which events of a page are sent is decided by ``core.push.filter_transition``; what an index or retention left out of the log is
stated here. A stretch from which nothing is sent is kept back for a moment, so that a filter that withholds all an edge
does costs the cloud no commit for each event.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import trio

from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.events.transformations import Transformed
from common.core.journal.append import PushLane
from common.core.journal.recent_commits import RecentCommits
from common.core.push.deletions import StatedDeletions, fits_ahead
from common.core.push.filter_transition import Entry, PushSelection
from common.core.push.messages import PushBatch
from common.core.push.past import KnownEntities
from common.core.push.producer import Producer
from common.journal.stores.journal import Journal

_ANYWHERE = 2**62
WITHHELD_TOLD_S = 1.0
# Not less: what is left of a second may be too little to move a clock.
_LEAST_WAIT_S = 0.01


class PushSource:
    """The journal as one stream's producer sees it. Used by the sending task alone."""

    def __init__(
        self,
        journal: Journal,
        producer: Producer,
        *,
        batch_max_events: int,
        batch_max_bytes: int,
        on_push: Callable[[EventBatch], Transformed] | None = None,
    ) -> None:
        self._on_push = on_push
        self._journal = journal
        self._producer = producer
        self._batch_max_events = batch_max_events
        self._tail = RecentCommits(batch_max_events, batch_max_bytes)
        self._heard = 0
        """The log was read after the prompt had named this position."""
        self._must_look = True
        self._stated = StatedDeletions()
        self._holes_to = 0
        """Up to here events may be gone that no page has stated yet: the log is read, also where commits are at hand."""
        self.has_holes = False
        """Whether something ahead of the last page is deleted: a position that it lacks may be either."""
        self._withheld_to = 0
        """Live: up to here nothing is sent, and that is not stated yet."""
        self.entries: tuple[Entry, ...] = ()
        """Entities that come in with what ``batch_of`` made last: their past goes before it."""
        self.known = KnownEntities()
        self._leaving: tuple[tuple[str, int], ...] = ()
        self._stated_s = trio.current_time()
        self._waiting: trio.CancelScope | None = None

    def listening(self) -> AbstractContextManager[None]:
        """Hear of commits while the block runs."""
        return self._journal.log.feed.listen(self._tail.add)

    def restart(self) -> None:
        """The lane or its filter has changed: look again from where the lane is."""
        self._withheld_to = 0
        self._must_look = True

    async def next(self, room_bytes: int) -> tuple[EventBatch, int] | None:
        """The next page of the lane and the position it goes to; None when there is nothing new."""
        producer, lanes = self._producer, self._producer.lanes
        if lanes.lane is PushLane.BACKFILL:
            return await self._read(producer.cursor, room_bytes)
        after = max(producer.cursor, self._withheld_to)
        fresh = None if after < self._holes_to else self._tail.after(after, self._batch_max_events, room_bytes)
        if fresh is not None:
            return fresh, fresh.position[-1]
        if self._must_look or self._journal.log.head_signal.position > max(self._heard, after):
            self._heard = self._journal.log.head_signal.position
            found = await self._read(after, room_bytes)
            self._must_look = found is not None
            if found:
                return found
        if self._withheld_to > producer.cursor and self._is_due:
            return EventBatch(), self._withheld_to
        return None

    async def _read(self, after: int, room_bytes: int) -> tuple[EventBatch, int] | None:
        page = await self._journal.log.read(
            after,
            through=self._producer.bound,
            max_events=self._batch_max_events,
            max_bytes=room_bytes,
            selection=self._producer.lanes.selection,
        )
        return (page.events, page.through) if page.through > after else None

    async def wait(self, at_most_s: float) -> None:
        """Until there may be something new, or ``wake``."""
        known = max(self._heard, self._producer.cursor, self._withheld_to)
        if self._withheld_to > self._producer.cursor:
            due_s = self._stated_s + WITHHELD_TOLD_S
            at_most_s = min(at_most_s, max(_LEAST_WAIT_S, due_s - trio.current_time()))
        with trio.CancelScope() as self._waiting:
            await self._journal.log.head_signal.wait_above(known, at_most_s)
        self._waiting = None
        self._must_look = (
            self._must_look or self._journal.log.head_signal.position <= known
        )  # a hint may have been lost

    @property
    def looked_through(self) -> int:
        """Up to here the lane has been looked through."""
        return max(self._producer.cursor, self._withheld_to)

    def wake(self) -> None:
        """End a ``wait``: something else is to be looked at."""
        if self._waiting:
            self._waiting.cancel()

    async def batch_of(self, events: EventBatch, through: int, *, is_due: bool = False) -> PushBatch | None:
        """What is sent of a page; None when it is nothing and need not be stated yet, unless ``is_due``.

        Raises:
            BackhaulError: ``transformation.failed``.
        """
        producer, lanes = self._producer, self._producer.lanes
        after, lane = producer.cursor, lanes.lane
        gone: list[StatedRange] = []
        ranges: tuple[StatedRange, ...] = ()
        selection: PushSelection | None = None
        self.entries = self._leaving = ()
        if lanes.sends_everything:
            self.has_holes = len(events) < through - after
            if self.has_holes:
                gone = await self._deleted(events, after)
        else:
            page = events
            events, gone, selection = await self._choose(page, after)
            ranges = selection.ranges
            if selection.end is not None:
                through = page.position[selection.end] - 1
            if lane is PushLane.LIVE and not events and not gone and not ranges and not (is_due or self._is_due):
                self._withheld_to = through
                return None
        count = fits_ahead(gone, producer.message_bytes)
        if count < len(gone):  # the stream passes no hole before all that is gone ahead is stated
            ahead, generation_id = tuple(gone[:count]), self._journal.log.history.generation_at(after)
            return PushBatch(after, after, generation_id, EventBatch(), ahead, lane)
        if selection is not None:
            self.entries, self._leaving = selection.entries, selection.leaving
        ranges = (*gone, *ranges)
        if self._on_push is not None and events:
            transformed = self._on_push(events)
            events, ranges = transformed.events, (*ranges, *transformed.ranges)
        self._stated_s = trio.current_time()
        return PushBatch(after, through, self._journal.log.history.generation_at(through), events, ranges, lane)

    def sent(self, batch: PushBatch) -> None:
        """What ``batch_of`` made was handed to the line."""
        self._stated.sent(batch.ranges)
        if self._leaving and batch.through_position > batch.after_position:
            self.known.note(self._leaving)

    @property
    def _is_due(self) -> bool:
        return trio.current_time() - self._stated_s >= WITHHELD_TOLD_S

    async def _deleted(self, events: EventBatch, after: int) -> list[StatedRange]:
        """What is gone ahead of the stream and not stated yet: all of it, how far on it may lie."""
        ahead = await self._gone_ahead(after)
        return self._stated.news(events, ahead)

    async def _gone_ahead(self, after: int) -> list[StatedRange]:
        """Each entity's whole range; from now on the log is read up to the last of them.

        Commits at hand may still have what is stated as gone: the receiver would take it for a conflict.
        """
        ahead = await self._journal.log.deleted_ranges(after, _ANYWHERE)
        if ahead:
            self._holes_to = (await self._journal.log.stats()).deleted_through
        self.has_holes = bool(ahead)
        self._stated.keep(stated.persistence_id for stated in ahead)
        return ahead

    async def _choose(self, events: EventBatch, after: int) -> tuple[EventBatch, list[StatedRange], PushSelection]:
        """What the lane sends, and what it jumps over: deleted before it was wanted, and withheld.

        An entity without an event here is spoken of only if the filter selects it by the tags it had last. What is gone of one
        that comes in belongs to its past, in which a snapshot may stand for it.
        """
        lanes = self._producer.lanes
        chosen = lanes.chosen_of(events)
        kept, entering = chosen.events, {entry.persistence_id for entry in chosen.selection.entries}
        first = dict(zip(reversed(kept.persistence_id), reversed(kept.seq_nr), strict=True))
        ahead = {stated.persistence_id for stated in await self._gone_ahead(after)}
        asked = ahead.union(name for name, seq_nr in first.items() if seq_nr > 1) - entering
        deleted = await self._journal.log.deleted_of(asked) if asked else []
        selects = lanes.predicate.matches
        gone = []
        for stated, tags in deleted:
            before = first.get(stated.persistence_id, 0) - 1
            # In between are events that were withheld, or sent before: the range would set the entity back.
            reaches = before <= stated.to_seq_nr
            if reaches if before >= 0 else selects(stated.persistence_id, tags):
                gone.append(stated)
        return kept, self._stated.news(kept, gone), chosen.selection
