"""Filters on the way up: which of an edge's events are pushed, and what happens when that is changed.

What is pushed matches the cloud's filter for this edge and the edge's own. The log goes up lane by lane. *Live* sends
what matches now. A changed filter takes effect at a position L, once everything up to L is acknowledged: then
*backfill* sends, of the positions up to L, what the new filter selects and the old one did not; when that is
acknowledged too, live goes on after L. One change at a time; what is asked for meanwhile waits, and only the last of it.

The receiver keeps the place (``PushFilterState``) and moves it with the events, so either side may die at any point: the next
Start names it and both cursors go on. A number that the receiver has is passed over in the backfill lane: an entity that
was taken out and put back is continued where it had been. Whatever an entity's numbers jump over is stated.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from common.core.events.batch import EventBatch
from common.core.events.leaving import marked
from common.core.events.stated_range import StatedRange
from common.core.filters.criteria import FilterLimits
from common.core.filters.past import Past
from common.core.filters.permission import Matched, match_batch, within
from common.core.filters.predicates import EntityPredicate, parse_filter
from common.core.filters.selection import Selection
from common.core.journal.append import PushLane

EVERYTHING = "[]"
_LEAST_FIRST = (Past.NONE, Past.SNAPSHOT, Past.FULL)
# What one side has accepted and stored is good for the other, whatever its limits are now.
STORED_LIMITS = FilterLimits(
    json_bytes=1 << 20, criteria=100_000, entries=100_000, regex_entries=1_000, regex_bytes=4_096
)


@dataclass(frozen=True, slots=True)
class PushFilter:
    """Criteria as canonical JSON: the cloud's for an edge, with their version, and the edge's own.

    ``history`` is no part of what is selected: it is said with a filter that is requested, and not kept in a place.
    """

    version: int = 0
    criteria: str = EVERYTHING
    producer: str = EVERYTHING
    history: Past = field(default=Past.NONE, compare=False)

    @property
    def is_everything(self) -> bool:
        """Whether nothing is withheld."""
        return self.criteria == EVERYTHING and self.producer == EVERYTHING

    def selects_as(self, other: PushFilter) -> bool:
        """Whether both select the same."""
        return (self.criteria, self.producer) == (other.criteria, other.producer)

    def predicate(self) -> EntityPredicate:
        """The cloud's filter behind the edge's own as a wall. Raises ``filter.…`` for criteria that are none."""
        return within(parse_filter(self.producer, STORED_LIMITS), parse_filter(self.criteria, STORED_LIMITS))


NO_FILTER = PushFilter()


@dataclass(frozen=True, slots=True)
class PushFilterState:
    """Where the two lanes of an origin are, as its receiver keeps it.

    Up to ``change_position`` live obeyed ``old``; of that, everything up to ``backfill_position`` has been looked through
    for what only ``new`` selects. When they are equal the change is done, and live obeys ``new``.
    """

    old: PushFilter = NO_FILTER
    new: PushFilter = NO_FILTER
    change_position: int = 0
    backfill_position: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether no change is under way."""
        return self.backfill_position >= self.change_position

    def at(self, position: int) -> PushFilterState:
        """The place when the origin's log was found to part at ``position``: what lay beyond is another log now."""
        if self.change_position <= position:
            return self
        return replace(self, change_position=position, backfill_position=min(self.backfill_position, position))

    def changed(self, to: PushFilter, position: int, needs_backfill: bool) -> PushFilterState:
        """The place after a change was announced that takes effect at ``position``."""
        assert self.is_settled, "one change at a time"
        return PushFilterState(self.new, to, position, 0 if needs_backfill else position)


UNFILTERED = PushFilterState()


@dataclass(frozen=True, slots=True)
class PushFilterApplied:
    """An edge says: after ``position``, up to which all is acknowledged, the live lane obeys ``filter``.

    ``needs_backfill`` is set when there may be something below that only this filter selects.
    """

    filter: PushFilter
    position: int
    needs_backfill: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """An entity comes in with its event ``seq_nr`` at ``position``; numbers below ``start`` are not wanted."""

    persistence_id: str
    seq_nr: int
    position: int
    start: int = 1


def past_in_force(requested: PushFilter, own: Past) -> Past:
    """How much past is brought: what the cloud asks for with its filter, at most ``own``.

    A cloud of before there was a past asks for none.
    """
    return min(requested.history, own, key=_LEAST_FIRST.index)


@dataclass(frozen=True, slots=True)
class PushSelection:
    """What of a stretch is pushed: indexes, and the numbers that the entities which come in by it jump over.

    Of the events at ``marks``, which are some of ``indexes``, leaving marks are sent. Before the stretch the past of
    ``entries`` is brought. ``end`` is the index at which the stretch must end, because an entity that it brings out comes
    in again there: its past lies between. ``leaving`` are entities with the number that takes them out.
    """

    indexes: list[int]
    marks: list[int]
    ranges: tuple[StatedRange, ...]
    entries: tuple[Entry, ...] = ()
    leaving: tuple[tuple[str, int], ...] = ()
    end: int | None = None


@dataclass(frozen=True, slots=True)
class ChosenEvents:
    """The same as the events that are sent, with the marks among them."""

    events: EventBatch
    selection: PushSelection


class FilterTransition:
    """The sending end: which lane is served, what it sends, and when the next change begins."""

    def __init__(self, place: PushFilterState, requested: PushFilter, own_past: Past = Past.FULL) -> None:
        self.place = place
        self._requested = requested
        self._own_past = own_past
        self._compile()

    @property
    def lane(self) -> PushLane:
        """The lane that is served now."""
        return PushLane.LIVE if self.place.is_settled else PushLane.BACKFILL

    @property
    def is_change_wanted(self) -> bool:
        """Whether the next thing is a change: nothing is sent before it."""
        return self.place.is_settled and self._requested != self.place.new

    @property
    def sends_everything(self) -> bool:
        """Whether the live lane withholds nothing."""
        return self.place.is_settled and self.place.new.is_everything

    @property
    def past(self) -> Past:
        """How much past an entity that comes in brings."""
        return past_in_force(self._requested, self._own_past)

    def desire(self, version: int, criteria: str, history: Past = Past.NONE) -> None:
        """The cloud asks for another filter; only the last that was asked for counts."""
        self._requested = replace(self._requested, version=version, criteria=criteria, history=history)

    def change(self, position: int) -> PushFilterApplied:
        """Begin the change that is wanted at ``position``, up to which everything is acknowledged."""
        old, new = self.place.new, self._requested
        needs_backfill = position > 0 and not old.is_everything and not old.selects_as(new)
        self.place = self.place.changed(new, position, needs_backfill)
        self._compile()
        return PushFilterApplied(new, position, needs_backfill)

    def backfilled(self, position: int) -> None:
        """The backfill lane is acknowledged up to here."""
        was_settled = self.place.is_settled
        self.place = replace(self.place, backfill_position=position)
        if self.place.is_settled and not was_settled:
            self._compile()

    @property
    def predicate(self) -> EntityPredicate:
        """What selects the lane's entities: for those too that have no events any more."""
        return self._new

    @property
    def selection(self) -> Selection:
        """The same, as an index can find it."""
        return self._selection

    def choose(self, events: EventBatch) -> PushSelection:
        """What of a stretch of the own log the lane sends."""
        chosen, entering, matched = _delivered(self._new, events)
        if self._old is not None:
            sent_before = set(_delivered(self._old, events)[0])
            chosen = [index for index in chosen if index not in sent_before]
        brings_past = self.past is not Past.NONE
        ranges, entries = [], []
        last: dict[str, int] = {}
        end: int | None = None
        for at, index in enumerate(chosen):
            persistence_id, seq_nr = events.persistence_id[index], events.seq_nr[index]
            from_seq_nr = last.get(persistence_id, 0) + 1
            if index in entering and from_seq_nr < seq_nr:
                if brings_past:
                    start = self._new.from_seq_nr(persistence_id)
                    if from_seq_nr > 1 and start < seq_nr:
                        chosen, end = chosen[:at], index
                        break
                    if start < seq_nr:
                        entries.append(Entry(persistence_id, seq_nr, events.position[index], start))
                ranges.append(StatedRange(persistence_id, from_seq_nr, seq_nr - 1, "withheld"))
            last[persistence_id] = seq_nr
        sent = set(chosen) if matched.leaving else frozenset[int]()
        leaving = [index for index in matched.leaving if index in sent] if brings_past else []
        return PushSelection(
            chosen,
            [index for index in matched.marks if index in sent],
            tuple(ranges),
            tuple(entries),
            tuple((events.persistence_id[index], events.seq_nr[index]) for index in leaving),
            end,
        )

    def chosen_of(self, events: EventBatch) -> ChosenEvents:
        """The same as the events that are sent, with the marks among them, and what they jump over."""
        chosen = self.choose(events)
        kept = events if len(chosen.indexes) == len(events) else events.select(chosen.indexes)
        marks = set(chosen.marks)
        return ChosenEvents(marked(kept, [at for at, index in enumerate(chosen.indexes) if index in marks]), chosen)

    def _compile(self) -> None:
        new = self.place.new.predicate()
        self._old: EntityPredicate | None = None
        if not self.place.is_settled:
            # The edge's own filter is obeyed as it is now, also by a change that began before it was set.
            new = within(parse_filter(self._requested.producer, STORED_LIMITS), new)
            self._old = self.place.old.predicate()
        self._new: EntityPredicate = new
        self._selection = new.selection(frozenset())


def _delivered(predicate: EntityPredicate, events: EventBatch) -> tuple[list[int], set[int], Matched]:
    """What a predicate delivers of a stretch, with stated starts obeyed; which of it brings its entity in; all that matches."""
    matched = match_batch(predicate, events)
    delivered, entering = [], set(matched.entering)
    for index in matched.indexes:
        start = predicate.from_seq_nr(events.persistence_id[index])
        if start > events.seq_nr[index]:
            continue
        if start > 1 and start == events.seq_nr[index]:
            entering.add(index)
        delivered.append(index)
    return delivered, entering, matched
