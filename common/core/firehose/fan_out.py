"""The ring and who is served from it: new events reach those they concern, and nobody can hold the ring up.

A cursor that takes everything of its types walks the ring's pages; those at the same place share one stretch. One that
selects is found through an index of filters, which puts positions into its bounded list, so what does not concern it
costs it nothing. To join, it first judges by itself what the ring holds beyond its place, some at a time.

    outside ── level with the ring ──> member ── its next event evicted, or its list full ──> outside, demoted
                                         └─────── the ring began anew, or its filter changed ──> outside
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from common.core.events.batch import EventBatch
from common.core.filters.index import FilterIndex
from common.core.filters.predicates import EntityPredicate
from common.core.firehose.demotion import SubscriberTier
from common.core.firehose.fetch_builder import FetchLimits
from common.core.firehose.fetch_result import FetchResult
from common.core.firehose.ring import LogStretch, Ring
from common.core.firehose.subscriber_cursor import SubscriberCursor

# How many events a cursor judges by itself in one step, and how many it may have before it in the ring to do so; from
# further behind the journal's index is the shorter way.
JUDGE_MAX = 1_000
JUDGE_FROM_MAX = 5_000
# Stretches kept for those at the same place: newer ones make room. Small ones may be many, since a consumer that takes a
# few events at a time is seldom where the next one is.
_SHARED_MAX = 16
_SMALL_MAX = 256
_SMALL_BYTES = 16_384


@dataclass(slots=True)
class News:
    """Who has something to take now: selecting cursors one by one, the others by their types."""

    selecting: dict[SubscriberCursor, None] = field(default_factory=dict)
    entity_types: dict[frozenset[str], None] = field(default_factory=dict)


class _View:
    """The members that look at the same types."""

    def __init__(self) -> None:
        self.plain: dict[SubscriberCursor, None] = {}
        self.selecting: dict[SubscriberCursor, None] = {}
        self.index: FilterIndex[SubscriberCursor] = FilterIndex()
        self.shared: dict[tuple[int, ...], FetchResult] = {}
        self.small: dict[tuple[int, ...], FetchResult] = {}
        """Those that have as many events as they may and end before the ring: for whoever has that much room."""

    @property
    def is_empty(self) -> bool:
        return not (self.plain or self.selecting)


class FanOut:
    """Owns the ring. Every method is one step that nothing interrupts. Times in seconds of the caller's clock."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self._views: dict[frozenset[str], _View] = {}
        self._evaluations = 0
        self.demotions = 0
        self.changes: list[SubscriberCursor] = []
        """Who was demoted or came back since this list was last emptied."""

    @property
    def evaluations(self) -> int:
        """How often a filter was asked about an event on its way through the index."""
        return self._evaluations + sum(view.index.evaluations for view in self._views.values())

    @property
    def members(self) -> int:
        """How many are served from the ring."""
        return sum(len(view.plain) + len(view.selecting) for view in self._views.values())

    # -- the log's side ------------------------------------------------------------------------------------------
    def extend(self, events: EventBatch, now_s: float) -> News:
        """The log goes on with ``events``; returns the feeds to wake."""
        news = News()
        for page in self.ring.extend(events):
            for entity_types, view in self._views.items():
                view.shared.clear()
                indexes = page.of_types(entity_types)
                if not indexes:
                    continue
                if view.plain:
                    news.entity_types[entity_types] = None
                if view.selecting:
                    self._hand_out(page, page.select(indexes), view, news, now_s)
        for entity_types in [types for types, view in self._views.items() if view.is_empty]:
            self._drop(entity_types)
        return news

    def _hand_out(self, page: LogStretch, events: EventBatch, view: _View, news: News, now_s: float) -> None:
        for cursor, matched in view.index.match(events).items():
            news.selecting[cursor] = None
            if not cursor.hit(events, matched):
                # At once: its list must not go on behind what was left out.
                self._expel(cursor, view, page.after)
                self._demoted(cursor, now_s)

    def restart(self, after: int) -> list[SubscriberCursor]:
        """The ring begins anew after that position; answers who was a member: they are behind, through no fault."""
        sent_back = [cursor for view in self._views.values() for cursor in self._members_of(view)]
        for cursor in sent_back:
            self.leave(cursor)
            cursor.record.sent_back()
        self.ring.restart(after)
        return sent_back

    def sweep(self, now_s: float) -> list[SubscriberCursor]:
        """Demote those whose next event is no longer in the ring, also when nobody asks on their behalf."""
        members = [cursor for view in self._views.values() for cursor in self._members_of(view)]
        fallen = [cursor for cursor in members if not self.ring.holds(cursor.seen(self.ring))]
        for cursor in fallen:
            self._demote(cursor, now_s)
        return fallen

    def plain_members(self, entity_types: frozenset[str]) -> Iterable[SubscriberCursor]:
        """The members that take everything of these types."""
        view = self._views.get(entity_types)
        return view.plain if view else ()

    # -- a cursor's side -----------------------------------------------------------------------------------------
    def take(self, cursor: SubscriberCursor, limits: FetchLimits, now_s: float) -> FetchResult | None:
        """What the ring has for it now. It joins, or is demoted, when that is so."""
        ring = self.ring
        if not cursor.is_member:
            if not self.may_serve(cursor, now_s):
                return None
            if not cursor.is_plain:
                stretch = cursor.take_judged(ring, limits, JUDGE_MAX)
                if cursor.seen(ring) == ring.through:
                    self._join(cursor, now_s)
                return stretch
            self._join(cursor, now_s)
        seen = cursor.seen(ring)
        if not ring.holds(seen):
            self._demote(cursor, now_s)
            return None
        return self._take_plain(cursor, seen, limits) if cursor.is_plain else cursor.take_pending(ring, limits)

    def may_serve(self, cursor: SubscriberCursor, now_s: float) -> bool:
        """Whether what comes next for one outside is taken from the ring; else the journal has it."""
        seen = cursor.seen(self.ring)
        if not self.ring.holds(seen) or not cursor.record.may_join(now_s):
            return False
        return not cursor.is_narrow or self.ring.through - seen <= JUDGE_FROM_MAX

    def has_more(self, cursor: SubscriberCursor, now_s: float) -> bool:
        """Whether ``take`` would get further without waiting."""
        if cursor.is_member and not cursor.is_plain:
            return cursor.has_pending
        has_more = cursor.seen(self.ring) < self.ring.through
        return has_more and (cursor.is_member or self.may_serve(cursor, now_s))

    def leave(self, cursor: SubscriberCursor) -> None:
        """It is served from the ring no more, or ends; nothing of it stays here."""
        if cursor.is_member:
            view = self._views[cursor.entity_types]
            self._expel(cursor, view)
            if view.is_empty:
                self._drop(cursor.entity_types)

    def change(self, cursor: SubscriberCursor, predicate: EntityPredicate) -> None:
        """It selects by ``predicate`` what follows its position."""
        if cursor.is_member:
            self.leave(cursor)
            cursor.record.sent_back()
        cursor.change(predicate)

    def _take_plain(self, cursor: SubscriberCursor, seen: int, limits: FetchLimits) -> FetchResult | None:
        ring = self.ring
        if seen == ring.through:
            return None
        if cursor.unstated_to:  # what it has to say of its way here is not for the others
            return cursor.take_plain(ring, limits)
        view = self._views[cursor.entity_types]
        begin = (cursor.position, seen, limits.max_events)
        stretch = view.small.get(begin)
        if stretch is None or stretch.weight > limits.max_bytes:
            stretch = view.shared.get((*begin, limits.max_bytes))
        if stretch is not None:
            cursor.follow(stretch)
            return stretch
        stretch = cursor.take_plain(ring, limits)
        if stretch is not None:
            is_cut = stretch.n == limits.max_events and stretch.through < ring.through
            if is_cut and stretch.weight <= _SMALL_BYTES:
                _keep(view.small, begin, stretch, _SMALL_MAX)
            else:
                _keep(view.shared, (*begin, limits.max_bytes), stretch, _SHARED_MAX)
        return stretch

    # -- membership ----------------------------------------------------------------------------------------------
    def _join(self, cursor: SubscriberCursor, now_s: float) -> None:
        view = self._views.setdefault(cursor.entity_types, _View())
        if cursor.is_plain:
            view.plain[cursor] = None
        else:
            view.selecting[cursor] = None
            view.index.add(cursor, cursor.predicate)
        if cursor.record.standing is SubscriberTier.DEMOTED:
            self.changes.append(cursor)
        cursor.is_member = True
        cursor.record.joined(now_s)

    def _demote(self, cursor: SubscriberCursor, now_s: float) -> None:
        self.leave(cursor)
        self._demoted(cursor, now_s)

    def _demoted(self, cursor: SubscriberCursor, now_s: float) -> None:
        cursor.record.fell_out(now_s)
        self.demotions += 1
        self.changes.append(cursor)

    def _expel(self, cursor: SubscriberCursor, view: _View, level: int | None = None) -> None:
        view.plain.pop(cursor, None)
        view.selecting.pop(cursor, None)
        view.index.remove(cursor)
        cursor.leave(self.ring, level)

    def _drop(self, entity_types: frozenset[str]) -> None:
        self._evaluations += self._views.pop(entity_types).index.evaluations

    def _members_of(self, view: _View) -> Iterable[SubscriberCursor]:
        return [*view.plain, *view.selecting]


def _keep(
    stretches: dict[tuple[int, ...], FetchResult], place: tuple[int, ...], stretch: FetchResult, at_most: int
) -> None:
    if len(stretches) >= at_most:
        del stretches[next(iter(stretches))]
    stretches[place] = stretch
