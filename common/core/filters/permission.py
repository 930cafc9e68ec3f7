"""Which events of a batch a follower is given: what it asked for, as far as it may see it.

Interest selects entities: an event is delivered when its own tags match or those of its predecessor did, so the event
that takes an entity out of a filter is still seen, marked as leaving, and the one that brings it in is marked as
entering. Permission (an edge's own push filter, a policy's read filter) is asked of the event's own tags: what it
forbids is not delivered, whatever came before it. Where an entity leaves what is selected through a wall, a leaving mark
(``core.events.leaving``) goes in the event's place; the next permitted event counts as entering. Both directions decide
here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

from common.core.events.batch import FOLDS_TAG, LEFT_TAGS, EventBatch, predecessor_tags
from common.core.filters.predicates import EVERY_ENTITY, EntityPredicate, Filter, Keys, fewest_keys
from common.core.filters.selection import Selection


@dataclass(frozen=True, slots=True)
class Walled:
    """What ``wish`` selects of what ``wall`` permits.

    A row with ``FOLDS_TAG`` says something of events whose tags are not known here, so no wall that asks for tags permits it.
    """

    wall: EntityPredicate
    wish: EntityPredicate

    @property
    def is_everything(self) -> bool:
        return self.wall.is_everything and self.wish.is_everything

    def matches(self, persistence_id: str, tags: str) -> bool:
        if not self._wall_permits(persistence_id, tags):
            return False
        return self.wish is EVERY_ENTITY or self.wish.matches(persistence_id, tags)

    @property
    def permits_by_tags(self) -> bool:
        return self._wall_asks_tags or self.wish.permits_by_tags

    def permits(self, persistence_id: str, tags: str) -> bool:
        return self._wall_permits(persistence_id, tags) and self.wish.permits(persistence_id, tags)

    @property
    def _wall_asks_tags(self) -> bool:
        return not (isinstance(self.wall, Filter) and not self.wall.asks_tags)

    def _wall_permits(self, persistence_id: str, tags: str) -> bool:
        if FOLDS_TAG in tags and self._wall_asks_tags:
            return False
        return self.wall.matches(persistence_id, tags)

    def selection(self, entity_types: frozenset[str]) -> Selection:
        keys = self.keys()
        return keys.selection(entity_types) if keys else Selection(entity_types)

    def from_seq_nr(self, persistence_id: str) -> int:
        return max(self.wall.from_seq_nr(persistence_id), self.wish.from_seq_nr(persistence_id))

    def keys(self) -> Keys | None:
        return fewest_keys((self.wall, self.wish))


def within(wall: EntityPredicate, wish: EntityPredicate) -> EntityPredicate:
    """``wish`` as far as ``wall`` permits; a wall that permits everything is not asked."""
    return wish if wall.is_everything else Walled(wall, EVERY_ENTITY if wish.is_everything else wish)


def wall_version(wall: Filter) -> str:
    """A name of what a wall permits, that says nothing of it; '' for one that permits everything."""
    return "" if wall.is_everything else blake2b(wall.criteria.encode(), digest_size=8).hexdigest()


def widens(before: str, after: str) -> bool:
    """Whether a wall of version ``after`` may permit what one of version ``before`` did not."""
    return bool(before) and before != after


def may_see_folded(predicate: EntityPredicate, persistence_id: str, tag_sets: frozenset[str] | None) -> bool:
    """Whether a snapshot may be seen: all events that it folds may be, whose distinct tags are ``tag_sets`` (None = unknown).

    The sets may be of later events too: then less is seen than could be. A leaving mark that it folds has no content.
    """
    if not predicate.permits_by_tags:
        return predicate.permits(persistence_id, "")
    return tag_sets is not None and all(
        tags == LEFT_TAGS or predicate.permits(persistence_id, tags) for tags in tag_sets
    )


@dataclass(slots=True)
class Matched:
    """Indexes into a batch, ascending: what is delivered, and which of it takes its entity out or brings it in."""

    indexes: list[int] = field(default_factory=list)
    leaving: list[int] = field(default_factory=list)
    entering: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    """Of ``leaving``, the events that permission forbids: a leaving mark goes in their place."""

    def add(self, index: int, now: bool, before: bool, permitted: bool) -> None:
        """Take in an event whose own tags match ``now``, whose predecessor's did ``before``, and that may be seen."""
        if not (now or before):
            return
        self.indexes.append(index)
        if not now:
            self.leaving.append(index)
            if not permitted:
                self.marks.append(index)
        elif not before:
            self.entering.append(index)


def match_batch(predicate: EntityPredicate, events: EventBatch) -> Matched:
    """Which events of a batch are delivered."""
    matches, matched = predicate.matches, Matched()
    last_name, last_tags, now = "", "", False
    rows = zip(events.persistence_id, events.tags, events.prev_tags, strict=True)
    for index, (persistence_id, tags, prev_tags) in enumerate(rows):
        if tags != last_tags or persistence_id != last_name or not index:  # a history is mostly of the same tags
            last_name, last_tags, now = persistence_id, tags, matches(persistence_id, tags)
        before = matches(persistence_id, predecessor_tags(tags, prev_tags)) if prev_tags else now
        if now or before:
            matched.add(index, now, before, now or predicate.permits(persistence_id, tags))
    return matched
