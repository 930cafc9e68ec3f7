"""Filters: which entities a reader of a log is given.

An event passes unless an exclude matches it; what an exclude matches passes if an include matches. Filters select
entities, by id or by the tags their events carry; which events of a selected entity are delivered is decided in
``core.filters.permission``. Expressions are decided once for an entity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.core.events.batch import LEFT_TAGS, UNIT_SEPARATOR
from common.core.events.ids import SEPARATOR
from common.core.filters.criteria import DEFAULT_LIMITS, Criteria, FilterLimits, compile_regex, parse_criteria
from common.core.filters.selection import Selection
from common.core.filters.topics import TOPIC_PREFIX, TopicTree, fixed_prefix, is_wildcard

# Entities for which a filter with expressions remembers what they say; the oldest makes room.
VERDICTS_MAX = 1_024
# No event has it: what nothing matches is looked for there, and not found at the cost of one look.
_NO_ENTITY = SEPARATOR


@dataclass(frozen=True, slots=True)
class Keys:
    """What an event has at least one of if it matches: where an index looks.

    ``topics`` are expressions with wildcards (one without is a tag); ``ids`` stand with or without their entity type.
    """

    tags: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()

    def selection(self, entity_types: frozenset[str]) -> Selection:
        """The same as a journal can look for it; an id without its type cannot be, unless the types are known."""
        typed = {one for one in self.ids if SEPARATOR in one}
        bare = self.ids - typed
        if bare and not entity_types:
            return Selection()
        named = typed.union(f"{entity_type}{SEPARATOR}{one}" for entity_type in entity_types for one in bare)
        above = {TOPIC_PREFIX + one.removesuffix("/#") for one in self.topics if one.endswith("/#")}
        tags = self.tags.union(one for one in above if not is_wildcard(one))
        prefixes = frozenset(TOPIC_PREFIX + fixed_prefix(one) for one in self.topics)
        if not (tags or prefixes or named):
            named = {_NO_ENTITY}
        return Selection(entity_types, tags, prefixes, frozenset(named))


class EntityPredicate(Protocol):
    """Something that selects entities. Asked with the tags of an event, joined as in their column; must not change."""

    @property
    def is_everything(self) -> bool:
        """Whether it is known to withhold nothing: then nobody need ask."""

    def matches(self, persistence_id: str, tags: str) -> bool:
        """Whether an entity whose last event has ``tags`` is selected."""

    @property
    def permits_by_tags(self) -> bool:
        """Whether what may be seen depends on tags."""

    def permits(self, persistence_id: str, tags: str) -> bool:
        """Whether an event with ``tags`` may be seen at all, selected or not (``core.filters.permission``)."""

    def selection(self, entity_types: frozenset[str]) -> Selection:
        """Where a journal finds every event of ``entity_types`` (none: all) that may match."""

    def from_seq_nr(self, persistence_id: str) -> int:
        """The number from which on this entity's events were asked for; 0 when none was stated."""

    def keys(self) -> Keys | None:
        """Where an index of predicates finds this one; None when it must be asked about every event."""


class Filter:
    """What criteria amount to, ready to be asked. Equal filters have equal ``criteria``, the canonical JSON."""

    __slots__ = (
        "_by_id",
        "_exclude_regex",
        "_exclude_tags",
        "_include_regex",
        "_include_tags",
        "_keys",
        "_meaning",
        "_topics",
        "criteria",
    )

    def __init__(self, meaning: Criteria, limits: FilterLimits = DEFAULT_LIMITS) -> None:
        self.criteria = meaning.canonical()
        self._meaning = meaning
        self._exclude_tags = meaning.exclude_tags
        wildcards = frozenset(filter(is_wildcard, meaning.include_topics))
        exact = meaning.include_topics - wildcards
        self._include_tags = meaning.include_tags.union(TOPIC_PREFIX + topic for topic in exact)
        self._topics: TopicTree[bool] = TopicTree()
        for expression in wildcards:
            self._topics.add(expression, True)
        memory = limits.regex_memory_bytes
        self._exclude_regex = [compile_regex(pattern, memory) for pattern in sorted(meaning.exclude_regex)]
        self._include_regex = [compile_regex(pattern, memory) for pattern in sorted(meaning.include_regex)]
        self._by_id: dict[str, tuple[bool, bool]] = {}
        self._keys = None
        if meaning.exclude_all and not meaning.include_regex:
            self._keys = Keys(self._include_tags, wildcards, frozenset(meaning.include_ids))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and other.criteria == self.criteria

    def __hash__(self) -> int:
        return hash(self.criteria)

    def __repr__(self) -> str:
        return f"Filter({self.criteria})"

    @property
    def is_everything(self) -> bool:
        """Whether nothing is ever withheld."""
        meaning = self._meaning
        return not (meaning.exclude_all or meaning.exclude_tags or meaning.exclude_ids or meaning.exclude_regex)

    def matches(self, persistence_id: str, tags: str) -> bool:
        if tags == LEFT_TAGS:
            return False
        excluded, included = self._decide_by_id(persistence_id)
        if included:
            return True
        parts = tags.split(UNIT_SEPARATOR)
        if not excluded and self._exclude_tags.isdisjoint(parts):
            return True
        if not self._include_tags.isdisjoint(parts):
            return True
        if not self._topics:
            return False
        topics = (part.removeprefix(TOPIC_PREFIX) for part in parts if part.startswith(TOPIC_PREFIX))
        return any(map(self._topics.matches, topics))

    @property
    def permits_by_tags(self) -> bool:
        return False

    @property
    def asks_tags(self) -> bool:
        """Whether tags can make a difference to it."""
        meaning = self._meaning
        return bool(meaning.exclude_tags or meaning.include_tags or meaning.include_topics)

    def permits(self, persistence_id: str, tags: str) -> bool:
        return True

    def selection(self, entity_types: frozenset[str]) -> Selection:
        return self._keys.selection(entity_types) if self._keys else Selection(entity_types)

    def from_seq_nr(self, persistence_id: str) -> int:
        ids = self._meaning.include_ids
        named = persistence_id if persistence_id in ids else persistence_id.partition(SEPARATOR)[2]
        return ids.get(named, 0)

    def keys(self) -> Keys | None:
        return self._keys

    @property
    def starts(self) -> Mapping[str, int]:
        """Ids whose events are wanted from a stated number on."""
        return {one: first for one, first in self._meaning.include_ids.items() if first}

    def changed(self, criteria_json: str | bytes, limits: FilterLimits = DEFAULT_LIMITS) -> Filter:
        """This filter with more criteria applied after its own. Raises as ``parse_filter``."""
        return Filter(parse_criteria(criteria_json, limits, self._meaning), limits)

    def _decide_by_id(self, persistence_id: str) -> tuple[bool, bool]:
        """Whether an exclude and whether an include matches an entity whatever its tags are."""
        if not (self._exclude_regex or self._include_regex):
            return self._named(persistence_id)
        verdict = self._by_id.get(persistence_id)
        if verdict is None:
            excluded, included = self._named(persistence_id)
            entity_id = persistence_id.partition(SEPARATOR)[2]
            verdict = (
                excluded or _any_matches(self._exclude_regex, entity_id),
                included or _any_matches(self._include_regex, entity_id),
            )
            if len(self._by_id) >= VERDICTS_MAX:
                del self._by_id[next(iter(self._by_id))]
            self._by_id[persistence_id] = verdict
        return verdict

    def _named(self, persistence_id: str) -> tuple[bool, bool]:
        meaning = self._meaning
        excluded, included = meaning.exclude_all, False
        if meaning.exclude_ids or meaning.include_ids:
            entity_id = persistence_id.partition(SEPARATOR)[2]
            excluded = excluded or persistence_id in meaning.exclude_ids or entity_id in meaning.exclude_ids
            included = persistence_id in meaning.include_ids or entity_id in meaning.include_ids
        return excluded, included


def parse_filter(criteria_json: str | bytes, limits: FilterLimits = DEFAULT_LIMITS) -> Filter:
    """The filter that criteria say; an empty list, and no text at all, is everything.

    Raises:
        BackhaulError: ``filter.invalid``, ``filter.too_large``, ``filter.bad_regex`` or ``filter.bad_topic``.
    """
    return Filter(parse_criteria(criteria_json, limits), limits)


EVERY_ENTITY = Filter(Criteria())


@dataclass(frozen=True, slots=True)
class AllOf:
    """What every one of some predicates selects."""

    parts: tuple[EntityPredicate, ...]

    @property
    def is_everything(self) -> bool:
        return all(part.is_everything for part in self.parts)

    def matches(self, persistence_id: str, tags: str) -> bool:
        return all(part.matches(persistence_id, tags) for part in self.parts)

    @property
    def permits_by_tags(self) -> bool:
        return any(part.permits_by_tags for part in self.parts)

    def permits(self, persistence_id: str, tags: str) -> bool:
        return all(part.permits(persistence_id, tags) for part in self.parts)

    def selection(self, entity_types: frozenset[str]) -> Selection:
        keys = self.keys()
        return keys.selection(entity_types) if keys else Selection(entity_types)

    def from_seq_nr(self, persistence_id: str) -> int:
        return max((part.from_seq_nr(persistence_id) for part in self.parts), default=0)

    def keys(self) -> Keys | None:
        return fewest_keys(self.parts)


def fewest_keys(parts: Sequence[EntityPredicate]) -> Keys | None:
    """Those of the part that has the fewest, wildcards last: one part's are enough to find whatever all select."""
    known = [keys for keys in (part.keys() for part in parts) if keys]
    return min(known, key=lambda keys: (len(keys.topics), len(keys.tags) + len(keys.ids)), default=None)


@dataclass(frozen=True, slots=True)
class OnlyNew:
    """What a changed filter selects and the one before it did not."""

    new: EntityPredicate
    old: EntityPredicate

    @property
    def is_everything(self) -> bool:
        return False

    def matches(self, persistence_id: str, tags: str) -> bool:
        return self.new.matches(persistence_id, tags) and not self.old.matches(persistence_id, tags)

    @property
    def permits_by_tags(self) -> bool:
        return self.new.permits_by_tags

    def permits(self, persistence_id: str, tags: str) -> bool:
        return self.new.permits(persistence_id, tags)

    def selection(self, entity_types: frozenset[str]) -> Selection:
        return self.new.selection(entity_types)

    def from_seq_nr(self, persistence_id: str) -> int:
        return self.new.from_seq_nr(persistence_id)

    def keys(self) -> Keys | None:
        return self.new.keys()


def all_of(*parts: Filter) -> EntityPredicate:
    """What all of them select, as simple as it can be said: who wants everything need not be asked."""
    narrowing = [part for part in parts if not part.is_everything]
    if not narrowing:
        return EVERY_ENTITY
    return narrowing[0] if len(narrowing) == 1 else AllOf(tuple(narrowing))


def _any_matches(patterns: list[Callable[[str], bool]], entity_id: str) -> bool:
    return any(pattern(entity_id) for pattern in patterns)
