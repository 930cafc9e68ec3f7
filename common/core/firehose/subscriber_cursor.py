"""One subscriber's place in the log, and its steps: over pages of the ring, its own list, or pages of the journal.

``position`` is what was handed over. ``seen`` may be beyond it: nothing in between is selected, so it moves the
position together with the next event, or alone when progress is asked for. Each step happens whole, between two
awaits of the caller. Who belongs to the ring, and who has fallen out of it, is the affair of ``fan_out``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from common.core.events.batch import EventBatch
from common.core.filters.permission import Matched, match_batch
from common.core.filters.predicates import EntityPredicate
from common.core.firehose.demotion import DemotionHistory
from common.core.firehose.fetch_builder import NO_PLACE, FetchBuilder, FetchLimits, Stated
from common.core.firehose.fetch_result import FetchResult
from common.core.firehose.ring import LogStretch, Ring


class SubscriberCursor:
    """A subscriber's place. At most ``pending_max`` positions wait in its list; ``states_past`` as in ``Feeds``."""

    def __init__(
        self,
        name: str,
        predicate: EntityPredicate,
        entity_types: frozenset[str],
        position: int,
        record: DemotionHistory,
        pending_max: int,
        *,
        states_past: bool = True,
    ) -> None:
        self.name = name
        self.entity_types = entity_types
        self.position = position
        self.record = record
        self.is_member = False
        """Whether the ring gives it what is new: if it selects, into its list."""
        self.unstated_to = 0
        """Up to where it has seen deleted events that are stated later and its consumer has not learned that; 0 = none."""
        self._pending_max = pending_max
        self._states_past = states_past
        self._pending: deque[int] = deque()
        self._leaving: set[int] = set()
        self._marks: set[int] = set()
        self._entering: set[int] = set()
        self._seen = position
        self._seen_place = NO_PLACE
        self._stated_through = position
        self._select_by(predicate)

    def _select_by(self, predicate: EntityPredicate) -> None:
        self.predicate = predicate
        self.selection = predicate.selection(self.entity_types)
        self.is_plain = predicate.is_everything
        self.is_narrow = bool(self.selection.tags or self.selection.tag_prefixes or self.selection.persistence_ids)
        """Whether an index of the journal finds what it selects."""

    def change(self, predicate: EntityPredicate) -> None:
        """Select by ``predicate`` what follows ``position``. It must have left the ring."""
        assert not self.is_member
        self._select_by(predicate)
        self._seen, self._seen_place = self.position, NO_PLACE
        self._stated_through = min(self._stated_through, self._seen)  # what was stated was of what it selected

    # -- where it is ---------------------------------------------------------------------------------------------
    def seen(self, ring: Ring) -> int:
        """Up to here there is nothing for it that was not handed over."""
        if self.is_member and not self.is_plain:
            return self._pending[0] - 1 if self._pending else ring.through
        return self._seen

    def leave(self, ring: Ring, level: int | None = None) -> None:
        """The ring gives it nothing more: its list goes, its place stays.

        ``level`` is up to where its list is complete when that is not the whole ring.
        """
        seen = self.seen(ring)
        if level is not None and not self._pending:
            seen = level
        if seen != self._seen:
            self._seen, self._seen_place = seen, ring.place(seen)
        self.is_member = False
        self._stated_through = min(self._stated_through, self._seen)  # more may be deleted when it reads the log again
        self._pending.clear()
        self._leaving.clear()
        self._marks.clear()
        self._entering.clear()

    # -- as a member that selects --------------------------------------------------------------------------------
    def hit(self, events: EventBatch, matched: Matched) -> bool:
        """New ``events`` of the ring hold some for it. False when its list is full: it must leave."""
        matched = self._stating(events, matched)
        if len(self._pending) + len(matched.indexes) > self._pending_max:
            return False
        positions = events.position
        self._pending.extend([positions[index] for index in matched.indexes])
        if matched.leaving:
            self._leaving.update(positions[index] for index in matched.leaving)
        if matched.marks:
            self._marks.update(positions[index] for index in matched.marks)
        if matched.entering:
            self._entering.update(positions[index] for index in matched.entering)
        return True

    @property
    def has_pending(self) -> bool:
        """Whether events wait in its list."""
        return bool(self._pending)

    def take_pending(self, ring: Ring, limits: FetchLimits) -> FetchResult | None:
        """The next events of its list, which must still be in the ring."""
        if not self._pending:
            return None
        step = FetchBuilder(self.position, self._pending[0] - 1, limits)
        for page, indexes in ring.locate(list(islice(self._pending, max(1, limits.max_events)))):
            if not step.take(page, indexes, entering=self._entering, leaving=self._leaving, marks=self._marks):
                break
        for _ in range(step.n):
            position = self._pending.popleft()
            self._leaving.discard(position)
            self._marks.discard(position)
            self._entering.discard(position)
        if not self._pending and ring.last is not None:
            step.reach(ring.last)
        return self._hand_over(step, ring.through, shared=True, from_ring=True)

    # -- over pages ----------------------------------------------------------------------------------------------
    def take_plain(self, ring: Ring, limits: FetchLimits) -> FetchResult | None:
        """What the ring has beyond ``seen``, whole pages where they fit: all of it is wanted but for its type."""
        step = FetchBuilder(self.position, self._seen, limits)
        for page in ring.pages_after(self._seen):
            if not step.take(page, self._unseen(page), whole=True):
                break
            step.reach(page)
        return self._hand_over(step, ring.through, shared=False, from_ring=True)

    def take_judged(self, ring: Ring, limits: FetchLimits, judge_max: int) -> FetchResult | None:
        """What it selects in the ring beyond ``seen``; it judges about ``judge_max`` events by itself."""
        step = FetchBuilder(self.position, self._seen, limits)
        for page in ring.pages_after(self._seen):
            if not self._take_selected(step, page):
                break
            judge_max -= len(page.events)
            if judge_max <= 0:
                break
        return self._hand_over(step, ring.through, shared=True, from_ring=True)

    def _take_unstated(self) -> int:
        unstated_to, self.unstated_to = self.unstated_to, 0
        return unstated_to

    def take_page(
        self, page: LogStretch, stated: Stated, limits: FetchLimits, head: int, unstated_to: int = 0
    ) -> FetchResult | None:
        """What it selects in a page of the journal that begins at ``seen`` or before it; see ``FoundPage``."""
        assert page.after <= self._seen, (page.after, self._seen)
        if page.through <= self._seen:
            return None
        step = FetchBuilder(self.position, self._seen, limits)
        self.unstated_to = max(unstated_to, self.unstated_to)
        if page.through > self._stated_through:
            step.state(stated, page.through)
            self._stated_through = page.through
        self._take_selected(step, page)
        return self._hand_over(step, head, shared=False, from_ring=False)

    def take_withheld(self, ring: Ring, head: int) -> FetchResult | None:
        """The step over what holds nothing for it, if there is any."""
        through = self.seen(ring)
        if through <= self.position:
            return None
        timestamp_us, digest = self._seen_place if through == self._seen else ring.place(through)
        stretch = FetchResult(
            self.position,
            through,
            max(head, through),
            timestamp_us=timestamp_us,
            digest=digest,
            unstated_to=self._take_unstated(),
        )
        self.follow(stretch)
        return stretch

    def follow(self, stretch: FetchResult) -> None:
        """A stretch that begins at ``position`` is handed over, made for this cursor or for another like it."""
        assert stretch.after == self.position, (stretch, self.position)
        self.position = stretch.through
        if stretch.through >= self._seen:
            self._seen, self._seen_place = stretch.through, (stretch.timestamp_us, stretch.digest)

    def _hand_over(self, step: FetchBuilder, head: int, *, shared: bool, from_ring: bool) -> FetchResult | None:
        if step.is_empty:
            if step.through > self._seen:
                self._seen, self._seen_place = step.through, step.place
            return None
        stretch = step.stretch(head, shared=shared, from_ring=from_ring, unstated_to=self._take_unstated())
        self.follow(stretch)
        return stretch

    def _take_selected(self, step: FetchBuilder, page: LogStretch) -> bool:
        indexes = self._unseen(page)
        if self.is_plain:
            is_all = step.take(page, indexes)
        else:
            events = page.select(indexes)
            positions = events.position
            matched = self._stating(events, match_batch(self.predicate, events))
            is_all = step.take(
                page,
                [indexes[index] for index in matched.indexes],
                entering={positions[index] for index in matched.entering},
                leaving={positions[index] for index in matched.leaving},
                marks={positions[index] for index in matched.marks},
            )
        if is_all:
            step.reach(page)
        return is_all

    def _stating(self, events: EventBatch, matched: Matched) -> Matched:
        """``matched``, entering of it only the events before which numbers are stated."""
        if not self._states_past and matched.entering:
            matched = replace(matched, entering=[])
        return from_stated_start(self.predicate, events, matched)

    def _unseen(self, page: LogStretch) -> Sequence[int]:
        """Indexes of events of its types beyond ``seen``."""
        indexes = page.of_types(self.entity_types)
        first = page.index_after(self._seen)
        if not first:
            return indexes
        if isinstance(indexes, range):
            return indexes[first:]
        return [index for index in indexes if index >= first]


def from_stated_start(predicate: EntityPredicate, events: EventBatch, matched: Matched) -> Matched:
    """``matched`` without what comes before the number that was asked for with an entity; that event enters."""
    starts = [predicate.from_seq_nr(events.persistence_id[index]) for index in matched.indexes]
    if not any(starts):
        return matched
    kept = Matched()
    entering = set(matched.entering)
    for index, start in zip(matched.indexes, starts, strict=True):
        seq_nr = events.seq_nr[index]
        if seq_nr < start:
            continue
        kept.indexes.append(index)
        if index in entering or seq_nr == start:
            kept.entering.append(index)
    gone = set(matched.indexes).difference(kept.indexes)
    kept.leaving = [index for index in matched.leaving if index not in gone]
    kept.marks = [index for index in matched.marks if index not in gone]
    return kept
