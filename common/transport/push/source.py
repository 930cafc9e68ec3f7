"""What of the edge's journal goes up next: pages of the lane that is served, and what is said of what is left out.

At the log's end pages come from the commits themselves, and where nothing is chosen a commit's task may send them on
(``stored_now``); else they are read, through an index where a filter allows it.
Which events of a page are sent is decided by ``core.push.filter_transition``; what an index or retention left out of the log is
stated here. A stretch from which nothing is sent is kept back for a moment, so that a filter that withholds all an edge
does costs the cloud no commit for each event.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

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
from common.core.push.stand_ins import PushPage, StatedReplaced, as_replaced
from common.journal.stores.journal import Journal
from common.transport.push.stand_ins import StandIns

_ANYWHERE = 2**62
WITHHELD_TOLD_S = 1.0
# Not less: what is left of a second may be too little to move a clock.
_LEAST_WAIT_S = 0.01


class PushSource:
    """The journal as one stream's producer sees it. Used by the sending task, and while that waits by the tasks of commits."""

    def __init__(
        self,
        journal: Journal,
        producer: Producer,
        *,
        batch_max_events: int,
        batch_max_bytes: int,
        on_push: Callable[[EventBatch], Transformed] | None = None,
        snapshots_if_behind: int = 0,
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
        self._replaced = StatedReplaced()
        self._stand_ins = StandIns(
            journal,
            self._replaced,
            if_behind=snapshots_if_behind,
            max_events=batch_max_events,
            max_bytes=batch_max_bytes,
        )
        self._ahead = _GoneAhead()
        self._held: PushPage | None = None
        """It is to come when more of what is gone ahead is stated."""
        self._lost_ahead: dict[str, int] = {}
        self._snapshots_ahead: dict[str, int] = {}
        """By entity of which something is gone ahead: up to which number, and that of the snapshot that comes for it."""
        self.page = PushPage()
        """What ``batch_of`` looked at last, with the snapshots that stand in."""
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

    async def begin(self) -> None:
        """Find out where snapshots stand in; before the first page."""
        await self._stand_ins.begin(self._producer.position)

    def listening(self, then: Callable[[EventBatch], None]) -> AbstractContextManager[None]:
        """Hear of commits while the block runs; ``then`` is called after each, in the commit's task."""

        def take(events: EventBatch) -> None:
            self._tail.add(events)
            then(events)

        return self._journal.log.feed.listen(take)

    def restart(self) -> None:
        """The lane or its filter has changed: look again from where the lane is."""
        self._withheld_to = 0
        self._must_look = True
        self._ahead, self._held = _GoneAhead(), None
        self._lost_ahead, self._snapshots_ahead = {}, {}

    async def next(self, room_bytes: int) -> PushPage | None:
        """The next page of the lane and the position it goes to; None when there is nothing new."""
        producer, lanes = self._producer, self._producer.lanes
        if self._held is not None:
            held, self._held = self._held, None
            return held
        if lanes.lane is PushLane.BACKFILL:
            return await self._read(producer.cursor, room_bytes)
        after = self.looked_through
        if self._stand_ins.are_active(after):
            return await self._stand_ins.read(after, room_bytes, lanes)
        fresh = None if after < self._holes_to else self._tail.after(after, self._batch_max_events, room_bytes)
        if fresh is not None:
            return PushPage(fresh, fresh.position[-1])
        if self._must_look or self._journal.log.head_signal.position > max(self._heard, after):
            self._heard = self._journal.log.head_signal.position
            found = await self._read(after, room_bytes)
            self._must_look = found is not None
            if found:
                return found
        if self._withheld_to > producer.cursor and self._is_due:
            return PushPage(through=self._withheld_to)
        return None

    async def _read(self, after: int, room_bytes: int) -> PushPage | None:
        page = await self._journal.log.read(
            after,
            through=self._producer.bound,
            max_events=self._batch_max_events,
            max_bytes=room_bytes,
            selection=self._producer.lanes.selection,
        )
        return PushPage(page.events, page.through) if page.through > after else None

    async def wait(self, at_most_s: float) -> None:
        """Until there may be something new, or ``wake``."""
        before = self._known()
        if self._withheld_to > self._producer.cursor:
            due_s = self._stated_s + WITHHELD_TOLD_S
            at_most_s = min(at_most_s, max(_LEAST_WAIT_S, due_s - trio.current_time()))
        with trio.CancelScope() as self._waiting:
            await self._journal.log.head_signal.wait_news(self._known, at_most_s)
        self._waiting = None
        if self._journal.log.head_signal.position <= before:  # a hint may have been lost
            self._must_look = True

    def _known(self) -> int:
        """A higher position of the log is news here."""
        return max(self._heard, self._producer.cursor, self._withheld_to)

    @property
    def looked_through(self) -> int:
        """Up to here the lane has been looked through."""
        return max(self._producer.cursor, self._withheld_to)

    def wake(self) -> None:
        """End a ``wait``: something else is to be looked at."""
        if self._waiting:
            self._waiting.cancel()

    def stored_now(self, room_bytes: int) -> PushBatch | None:
        """What follows at the log's end, if the sending task waits for that and it takes neither a read nor a choice.

        It is as ``batch_of`` would have it; ``sent`` is to be called when it was.
        """
        lanes, after = self._producer.lanes, self._producer.cursor
        if (
            self._waiting is None
            or self._waiting.cancel_called
            or self._must_look
            or self._held is not None
            or self._on_push is not None
            or lanes.lane is not PushLane.LIVE
            or not lanes.sends_everything
            or after < max(self._holes_to, self._withheld_to)
            or self._stand_ins.are_active(after)
        ):
            return None
        events = self._tail.after(after, self._batch_max_events, room_bytes)
        if events is None:
            return None
        self.page, self.entries, self._leaving = PushPage(), (), ()
        return self._batch(events.position[-1], events, ())

    async def batch_of(self, page: PushPage, *, is_due: bool = False) -> PushBatch | None:
        """What is sent of a page; None when it is nothing and need not be stated yet, unless ``is_due``.

        Raises:
            BackhaulError: ``transformation.failed``.
        """
        producer, lanes = self._producer, self._producer.lanes
        after, lane = producer.cursor, lanes.lane
        gone: list[StatedRange] = []
        self.entries = self._leaving = ()
        self.page = PushPage()
        ahead: list[StatedRange] = []
        seen = self.looked_through  # what is withheld before it has nothing that stands in: else it would have gone
        self.has_holes = page.has_holes or after < seen if page.is_made else len(page.events) < page.through - after
        if self.has_holes or not lanes.sends_everything:
            ahead = await self._gone_ahead(after)
        if lanes.sends_everything and ahead:
            gone, is_all = self._unstated(page.events)
            if not is_all:
                return self._without_positions(gone, page)
        if lane is PushLane.LIVE and not page.is_made and self._stand_ins.are_active(seen):
            page = await self._stand_ins.over(page, seen, lanes.predicate)
        self.page, through = page, page.through
        if lanes.sends_everything:
            events, ranges = page.marked(page.events), tuple(page.replaced.ranges)
        else:
            events, gone, selection = await self._choose(page.events, ahead)
            events, ranges = page.marked(events), (*page.replaced.ranges, *selection.ranges)
            if selection.end is not None:
                through = page.events.position[selection.end] - 1
                if page.replaced:  # some of them may be of what comes behind
                    return await self.batch_of(page.cut(through))
            if lane is PushLane.LIVE and not events and not gone and not ranges and not (is_due or self._is_due):
                self._withheld_to = through
                return None
            gone, is_all = fits_ahead(gone, producer.message_bytes)
            if not is_all:
                return self._without_positions(gone, page)
            self.entries, self._leaving = selection.entries, selection.leaving
        ranges = (*gone, *ranges)
        if self._on_push is not None and events:
            transformed = self._on_push(events)
            events, ranges = transformed.events, (*ranges, *transformed.ranges)
        return self._batch(through, events, ranges)

    def _batch(self, through: int, events: EventBatch, ranges: tuple[StatedRange, ...]) -> PushBatch:
        self._stated_s = trio.current_time()
        generation_id = self._journal.log.history.generation_at(through)
        producer = self._producer
        return PushBatch(producer.cursor, through, generation_id, events, ranges, producer.lanes.lane)

    def sent(self, batch: PushBatch) -> None:
        """What ``batch_of`` made was handed to the line."""
        self._stated.sent(batch.ranges)
        self._replaced.sent(batch.ranges)
        if self._leaving and batch.through_position > batch.after_position:
            self.known.note(self._leaving)

    @property
    def _is_due(self) -> bool:
        return trio.current_time() - self._stated_s >= WITHHELD_TOLD_S

    def _unstated(self, events: EventBatch) -> tuple[list[StatedRange], bool]:
        return self._stated.unstated(events, self._producer.message_bytes)

    def _without_positions(self, gone: list[StatedRange], page: PushPage) -> PushBatch:
        """No hole is passed before what is gone ahead is stated: the page comes after a batch of ranges alone."""
        self.page, self._held = PushPage(), page
        after = self._producer.cursor
        generation_id = self._journal.log.history.generation_at(after)
        return PushBatch(after, after, generation_id, EventBatch(), tuple(gone), self._producer.lanes.lane)

    async def _gone_ahead(self, after: int) -> list[StatedRange]:
        """Each entity's whole range; from now on the log is read up to the last of them.

        Commits at hand may still have what is stated as gone: the receiver would take it for a conflict. All are read
        again only when more has been removed.
        """
        log, is_live = self._journal.log, self._producer.lanes.lane is PushLane.LIVE
        trims = log.trims
        is_known = trims is not None and trims == self._ahead.trims
        if not is_known:
            self._ahead = _GoneAhead.of(trims, await log.deleted_entities(after, _ANYWHERE, max_rows=_ANYWHERE))
        ahead = self._ahead.behind(after)
        self.has_holes = bool(ahead)
        if not ahead:
            self._stated.keep(())
            self._stated.look_at(())
            self._lost_ahead, self._snapshots_ahead = {}, {}
            return ahead
        if is_live:
            await self._stand_ins.lost(after)
        has_stretch = is_live and self._stand_ins.are_active(after)
        if not is_known or has_stretch != self._ahead.has_stretch:
            self._holes_to = (await log.stats()).deleted_through
            await self._look_for_snapshots(ahead, has_stretch=has_stretch)
            self._stated.keep(stated.persistence_id for stated in ahead)
            self._stated.look_at(as_replaced(ahead, self._snapshots_ahead))
            self._ahead.has_stretch = has_stretch
        return ahead

    async def _look_for_snapshots(self, ahead: list[StatedRange], *, has_stretch: bool) -> None:
        """Which snapshots stand for what is gone ahead; asked of an entity when it has lost more."""
        if not has_stretch:
            self._lost_ahead, self._snapshots_ahead = {}, {}
            return
        lost = {one.persistence_id: one.to_seq_nr for one in ahead}
        more = {name: to for name, to in lost.items() if self._lost_ahead.get(name) != to}
        found = await self._stand_ins.of_lost(more, self._producer.lanes.predicate) if more else {}
        known = {name: number for name, number in self._snapshots_ahead.items() if name in lost and name not in more}
        self._lost_ahead = lost
        self._snapshots_ahead = known | found

    async def _choose(
        self, events: EventBatch, gone_ahead: list[StatedRange]
    ) -> tuple[EventBatch, list[StatedRange], PushSelection]:
        """What the lane sends, and what it jumps over: deleted before it was wanted, and withheld.

        An entity without an event here is spoken of only if the filter selects it by the tags it had last. What is gone of one
        that comes in belongs to its past, in which a snapshot may stand for it.
        """
        lanes = self._producer.lanes
        chosen = lanes.chosen_of(events)
        kept, entering = chosen.events, {entry.persistence_id for entry in chosen.selection.entries}
        first = dict(zip(reversed(kept.persistence_id), reversed(kept.seq_nr), strict=True))
        ahead = {stated.persistence_id for stated in gone_ahead}
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
        return kept, list(self._stated.news(kept, as_replaced(gone, self._snapshots_ahead))), chosen.selection


@dataclass(slots=True)
class _GoneAhead:
    """What is deleted ahead of a lane, in the order of the positions of what went last; as of ``LogStore.trims``."""

    trims: int | None = None
    ranges: list[StatedRange] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    has_stretch: bool = False
    """It was looked for snapshots that stand in."""

    @classmethod
    def of(cls, trims: int | None, deleted: list[tuple[StatedRange, int]]) -> _GoneAhead:
        return cls(trims, [stated for stated, _ in deleted], [position for _, position in deleted])

    def behind(self, after: int) -> list[StatedRange]:
        """Those behind a position."""
        return self.ranges[bisect_right(self.positions, after) :]
