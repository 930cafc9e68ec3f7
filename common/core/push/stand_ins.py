"""Snapshots that stand in for events on the way up, each at the place of its own event in the log.

Two causes have them do so. Where an entity has lost events that the cloud does not have, its latest snapshot stands in for
what is gone and for what is still stored below it (``deleted``). And an edge that is further behind than it is set to
brings of every entity its latest snapshot and what came after it (``behind``). What is set aside is stated as replaced
before the live lane passes it, and the snapshot is an event of that lane: it is stored in the transaction that moves
the position past its place, so it can neither come twice nor be known without its place.

Both hold for a stretch of the log (``Stretch``), which the edge keeps beside its log, and keeps before it sends anything by
it: an entity whose numbers were stated as replaced up to the middle gets its snapshot also after a cut or a kill. While
the stretch lasts the rule is a function of what the log has, so nothing else needs to be remembered. A snapshot that is
taken meanwhile at a place behind the stretch's end makes the stretch longer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, repeat
from operator import gt
from typing import Final

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch, concat
from common.core.events.replacing import as_pushed
from common.core.events.stated_range import REPLACED, StatedRange
from common.core.filters.permission import may_see_folded
from common.core.filters.predicates import EntityPredicate
from common.core.journal.snapshot import Snapshot, SnapshotsBeside, folded_by

STATED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where in the log snapshots stand in: of all entities up to ``all_to``, up to ``lost_to`` of those that lost events.

    They lost them behind ``lost_after``, where the live lane was when the stretch began. Positions; 0 = there is none.
    """

    all_to: int = 0
    lost_after: int = 0
    lost_to: int = 0

    def is_active(self, after: int) -> bool:
        """Whether anything stands in behind this position."""
        return after < max(self.all_to, self.lost_to)

    def takes_all(self, after: int) -> bool:
        """Whether in a page behind ``after`` all entities' stand in; else of those that lost events behind ``lost_after``."""
        return after < self.all_to

    def behind(self, head: int) -> Stretch:
        """Everything stored up to ``head`` is brought by snapshots."""
        return replace(self, all_to=head)

    def lost(self, after: int, head: int) -> Stretch:
        """Events are gone that the live lane, which is at ``after``, has not passed."""
        return replace(self, lost_after=self.lost_after if after < self.lost_to else after, lost_to=head)

    def reaching(self, position: int, after: int, head: int) -> Stretch:
        """The stretch while a snapshot that stands in has this place; the same where that is inside."""
        if self.takes_all(after):
            return self if position <= self.all_to else replace(self, all_to=head)
        return self if position <= self.lost_to else replace(self, lost_to=head)


def is_far_behind(position: int, head: int, most: int) -> bool:
    """Whether an edge whose cloud has ``position`` begins with snapshots; ``most`` is 0 where it never does."""
    return 0 < most < head - position


def place_of(seq_nr: int, position: int, deleted_to: int, deleted_position: int) -> int:
    """The place of a snapshot of ``seq_nr`` whose event stood at ``position``; 0 when it stands for nothing.

    That is below what is deleted. One that was stored after its event was deleted has no position of its own: that event
    was the last deleted one.
    """
    if seq_nr < deleted_to:
        return 0
    return position or (deleted_position if seq_nr == deleted_to else 0)


def may_stand_in(snapshot: Snapshot, predicate: EntityPredicate, tag_sets: frozenset[str] | None) -> bool:
    """Whether a snapshot may be sent: it is selected, and everything that it folds is permitted."""
    name = snapshot.persistence_id
    is_selected = predicate.matches(name, snapshot.tags) and predicate.from_seq_nr(name) <= snapshot.seq_nr
    return is_selected and may_see_folded(predicate, name, folded_by(snapshot, tag_sets))


@dataclass(frozen=True, slots=True)
class Standing:
    """Snapshots that stand in beside a stretch of the log, in columns that have an entry an entity, in the order of ``at``.

    ``position`` is the snapshot's place, ``size`` its payload's in bytes, and ``at`` the first position of the stretch for
    which it stands. ``kept_at`` is the first with an event for which none does (0 = there is none): from there on
    the log is read. ``events`` counts all that the stretch has.
    """

    persistence_id: list[str] = field(default_factory=list)
    seq_nr: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    kept_at: int = 0
    events: int = 0

    def here(self, after: int, through: int) -> list[int]:
        """Indexes of those with their place in ``after`` < position <= ``through``, in the order of the places."""
        places = self.position
        if not places or min(places) > through:  # as in the most of a long stretch
            return []
        found = [index for index, position in enumerate(places) if after < position <= through]
        found.sort(key=places.__getitem__)
        return found

    def furthest(self, through: int) -> int:
        """The last place of those that stand for something up to ``through``; 0 = there are none."""
        return max(self.position[: bisect_right(self.at, through)], default=0)


def standing_of(beside: SnapshotsBeside, stands_in: Callable[[str], bool] | None = None) -> Standing:
    """Which of the snapshots beside a stretch stand in: those with a place, and of them those that may."""
    kept_at = beside.kept_at
    if any(beside.deleted_to) or not all(beside.position):
        places = list(map(place_of, beside.seq_nr, beside.position, beside.deleted_to, beside.deleted_position))
    else:
        places = beside.position
    if stands_in is None and all(places):
        return Standing(
            beside.persistence_id, beside.seq_nr, places, beside.size, beside.at, beside.kept_at, beside.events
        )
    standing = Standing(events=beside.events)
    rows = zip(beside.persistence_id, beside.seq_nr, places, beside.size, beside.at, strict=True)
    for name, seq_nr, place, size, at in rows:
        if place and (stands_in is None or stands_in(name)):
            standing.persistence_id.append(name)
            standing.seq_nr.append(seq_nr)
            standing.position.append(place)
            standing.size.append(size)
            standing.at.append(at)
        else:  # some of its events may be there
            kept_at = min(kept_at or at, at)
    return replace(standing, kept_at=kept_at)


@dataclass(frozen=True, slots=True)
class Replaced:
    """Numbers that are replaced, a range an entity, and beside each the first position that it is stated with, rising."""

    ranges: Sequence[StatedRange] = ()
    at: Sequence[int] = ()

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def cut(self, through: int) -> Replaced:
        """Those up to a position."""
        stop = bisect_right(self.at, through)
        return self if stop == len(self.at) else Replaced(self.ranges[:stop], self.at[:stop])


NOTHING_REPLACED: Final = Replaced()


def fitting_through(
    standing: Standing, news: Replaced, after: int, through: int, *, max_rows: int, max_bytes: int
) -> int:
    """How far a page behind ``after`` goes, at most ``through``: not so far that what stands in is too much for one.

    It states at most ``max_rows`` of ``news``, and brings at most so many snapshots of a weight of ``max_bytes``, but one
    whatever it weighs.
    """
    if len(news.at) > max_rows:
        through = min(through, news.at[max_rows] - 1)
    left = max_bytes
    for count, index in enumerate(standing.here(after, through)):
        left -= standing.size[index] + EVENT_OVERHEAD_BYTES
        if count and (left < 0 or count >= max_rows):
            return standing.position[index] - 1
    return through


@dataclass(frozen=True, slots=True)
class PushPage:
    """A page of the log that goes to ``through``: its events, with what stands in and without what that stands for.

    ``replaced`` are numbers that are replaced, as far as that was not stated before. ``set_aside`` are the
    positions of events that were left out; of a page that ``is_replaced`` all were, and the log was not read for it.
    ``stand_ins`` are the positions of snapshots, and whether each folds events of other tags. ``is_made``: it has been looked
    at for what stands in; then ``has_holes`` says whether it has positions without an event.
    """

    events: EventBatch = field(default_factory=EventBatch)
    through: int = 0
    replaced: Replaced = NOTHING_REPLACED
    set_aside: frozenset[int] = frozenset()
    stand_ins: Mapping[int, bool] = field(default_factory=dict)
    is_replaced: bool = False
    is_made: bool = False
    has_holes: bool = False

    @property
    def has_stand_ins(self) -> bool:
        """Whether it is not as the log has it."""
        return self.is_replaced or bool(self.set_aside or self.stand_ins or self.replaced)

    def cut(self, through: int) -> PushPage:
        """The part that goes to an earlier position."""
        events = self.events.slice(0, bisect_right(self.events.position, through))
        return replace(self, events=events, through=through, replaced=self.replaced.cut(through))

    def counted(self, looked_at: Sequence[int], sent: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Positions of events that were looked at, and of those that were sent, without what snapshots stand for."""
        if self.is_replaced:
            return (), ()
        if not self.set_aside and not self.stand_ins:
            return looked_at, sent
        left = {position for position in looked_at if position not in self.set_aside and position not in self.stand_ins}
        return sorted(left), [position for position in sent if position in left]

    def marked(self, events: EventBatch) -> EventBatch:
        """What was chosen of the page as it is sent: snapshots say that they are."""
        if not self.stand_ins:
            return events
        standing = enumerate(map(self.stand_ins.get, events.position))
        return as_pushed(events, {index: folds for index, folds in standing if folds is not None})


def replaced_page(
    events: EventBatch | None,
    through: int,
    standing: Standing,
    replaced: Replaced,
    snapshots: EventBatch,
    folds: Sequence[bool],
    *,
    has_holes: bool = False,
) -> PushPage:
    """The page that goes to ``through`` in which these stand in; ``events`` is None where they do for all of it.

    ``snapshots`` are those with their place in it, in the order of their places, and ``folds`` says whether each folds events of
    other tags. A snapshot says of itself that its predecessor had its tags: nothing of its entity comes before it that
    would enter.
    """
    aside = set[int]()
    merged, stand_ins = snapshots, dict(zip(snapshots.position, folds, strict=True))
    if events:
        stop = bisect_right(standing.at, through)
        covered_to = dict(zip(standing.persistence_id[:stop], standing.seq_nr, strict=False)).get
        numbers = zip(events.persistence_id, events.seq_nr, strict=True)
        kept = [index for index, (name, seq_nr) in enumerate(numbers) if seq_nr > covered_to(name, 0)]
        merged = events if len(kept) == len(events) else events.select(kept)
        aside = set(events.position).difference(merged.position, stand_ins)
        if snapshots:
            merged = concat([merged, snapshots])
            merged = merged.select(sorted(range(len(merged)), key=merged.position.__getitem__))
    return PushPage(
        merged,
        through,
        replaced.cut(through),
        frozenset(aside),
        stand_ins,
        is_replaced=events is None,
        is_made=True,
        has_holes=has_holes,
    )


class StatedReplaced:
    """What one stream has stated as replaced, so that each page need not state it again; bounded."""

    def __init__(self) -> None:
        self._stated: dict[str, int] = {}

    def news(self, standing: Standing, through: int) -> Replaced:
        """What those that stand for something up to ``through`` replace, and was not stated yet."""
        stop = bisect_right(standing.at, through)
        names, last = standing.persistence_id[:stop], [seq_nr - 1 for seq_nr in standing.seq_nr[:stop]]
        is_news = list(map(gt, last, map(self._stated.get, names, repeat(0))))
        if not any(is_news):
            return NOTHING_REPLACED
        of_news = map(StatedRange, compress(names, is_news), repeat(1), compress(last, is_news), repeat(REPLACED))
        return Replaced(list(of_news), list(compress(standing.at, is_news)))

    def sent(self, ranges: Iterable[StatedRange]) -> None:
        """These were handed to the line."""
        for name, _, to_seq_nr, reason in ranges:
            if reason == REPLACED and to_seq_nr > self._stated.get(name, 0):
                self._stated[name] = to_seq_nr
        if len(self._stated) > STATED_MAX:
            self._stated.clear()


def as_replaced(ranges: Sequence[StatedRange], stand_ins: Mapping[str, int]) -> list[StatedRange]:
    """Deleted numbers, each entity's from 1, as they are stated: as replaced where a snapshot of that number stands for them.

    Its own number is not: it comes.
    """
    stated = []
    for one in ranges:
        name, from_seq_nr, to_seq_nr, _ = one
        seq_nr = stand_ins.get(name, 0)
        if to_seq_nr > seq_nr:
            stated.append(one)
        elif seq_nr > from_seq_nr:
            stated.append(StatedRange(name, from_seq_nr, to_seq_nr if to_seq_nr < seq_nr else seq_nr - 1, REPLACED))
    return stated
