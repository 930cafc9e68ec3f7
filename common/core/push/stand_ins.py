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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from common.core.events.batch import EventBatch
from common.core.events.replacing import as_pushed
from common.core.events.stated_range import REPLACED, StatedRange
from common.core.filters.permission import may_see_folded
from common.core.filters.predicates import EntityPredicate
from common.core.journal.snapshot import Snapshot, folded_by, snapshot_batch

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


def place_of(snapshot: Snapshot, deleted_to: int, deleted_position: int) -> int:
    """The position of a snapshot's event; 0 when it is below what is deleted, where it stands for nothing.

    One that was stored after its event was deleted has none of its own: that event was the last deleted one.
    """
    if snapshot.seq_nr < deleted_to:
        return 0
    return snapshot.position or (deleted_position if snapshot.seq_nr == deleted_to else 0)


def may_stand_in(snapshot: Snapshot, predicate: EntityPredicate, tag_sets: frozenset[str] | None) -> bool:
    """Whether a snapshot may be sent: it is selected, and everything that it folds is permitted."""
    name = snapshot.persistence_id
    is_selected = predicate.matches(name, snapshot.tags) and predicate.from_seq_nr(name) <= snapshot.seq_nr
    return is_selected and may_see_folded(predicate, name, folded_by(snapshot, tag_sets))


@dataclass(frozen=True, slots=True)
class StandIn:
    """A snapshot that stands in at ``position``; it has its payload if that is in the page. ``folds``: see ``FOLDS_TAG``."""

    snapshot: Snapshot
    position: int
    folds: bool = True


@dataclass(frozen=True, slots=True)
class ReplacedPage:
    """A page of the log with snapshots standing in: its events, what is stated as replaced, and the positions set aside."""

    events: EventBatch = field(default_factory=EventBatch)
    ranges: tuple[StatedRange, ...] = ()
    set_aside: frozenset[int] = frozenset()
    stand_ins: Mapping[int, StandIn] = field(default_factory=dict)

    @property
    def has_stand_ins(self) -> bool:
        """Whether it is not as the log has it."""
        return bool(self.set_aside or self.stand_ins)

    def counted(self, looked_at: Sequence[int], sent: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Positions of events that were looked at, and of those that were sent, without what snapshots stand for."""
        if not self.has_stand_ins:
            return looked_at, sent
        left = {position for position in looked_at if position not in self.set_aside and position not in self.stand_ins}
        return sorted(left), [position for position in sent if position in left]

    def marked(self, events: EventBatch) -> EventBatch:
        """What was chosen of the page as it is sent: snapshots say that they are."""
        if not self.stand_ins:
            return events
        standing = enumerate(map(self.stand_ins.get, events.position))
        return as_pushed(events, {index: one.folds for index, one in standing if one is not None})


def replaced_page(events: EventBatch, after: int, through: int, stand_ins: Mapping[str, StandIn]) -> ReplacedPage:
    """The page of ``after`` < position <= ``through`` in which these stand in, by entity.

    A snapshot says of itself that its predecessor had its tags: nothing of its entity comes before it that would enter.
    """
    here = {one.position: one for one in stand_ins.values() if after < one.position <= through}
    kept, aside, last = list[int](), set[int](), dict[str, int]()
    for index, (name, seq_nr) in enumerate(zip(events.persistence_id, events.seq_nr, strict=True)):
        one = stand_ins.get(name)
        if one is None or seq_nr > one.snapshot.seq_nr:
            kept.append(index)
        else:
            aside.add(events.position[index])
            last[name] = one.snapshot.seq_nr - 1
    for one in here.values():
        last[one.snapshot.persistence_id] = one.snapshot.seq_nr - 1
    merged = events.select(kept) if aside else events.slice(0, len(events))
    if here:
        merged.extend(snapshot_batch([replace(one.snapshot, position=one.position) for one in here.values()]))
        order = sorted(range(len(merged)), key=merged.position.__getitem__)
        merged = merged.select(order)
    ranges = tuple(StatedRange(name, 1, to, REPLACED) for name, to in last.items() if to)
    return ReplacedPage(merged, ranges, frozenset(aside - here.keys()), here)


class StatedReplaced:
    """What one stream has stated as replaced, so that each page need not state it again; bounded."""

    def __init__(self) -> None:
        self._stated: dict[str, int] = {}

    def news(self, ranges: Iterable[StatedRange]) -> tuple[StatedRange, ...]:
        """What of it was not stated yet."""
        return tuple(one for one in ranges if one.to_seq_nr > self._stated.get(one.persistence_id, 0))

    def sent(self, ranges: Iterable[StatedRange]) -> None:
        """These were handed to the line."""
        self._stated.update((one.persistence_id, one.to_seq_nr) for one in ranges if one.reason == REPLACED)
        if len(self._stated) > STATED_MAX:
            self._stated.clear()


def as_replaced(ranges: Sequence[StatedRange], stand_ins: Mapping[str, int]) -> list[StatedRange]:
    """Deleted numbers, each entity's from 1, as they are stated: as replaced where a snapshot of that number stands for them.

    Its own number is not: it comes.
    """
    stated = []
    for one in ranges:
        seq_nr = stand_ins.get(one.persistence_id, 0)
        if one.to_seq_nr > seq_nr:
            stated.append(one)
        elif seq_nr > one.from_seq_nr:
            stated.append(replace(one, to_seq_nr=min(one.to_seq_nr, seq_nr - 1), reason=REPLACED))
    return stated
