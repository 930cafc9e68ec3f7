"""Whom an event concerns, of thousands who filter: found by the event's tags and ids, not by asking everyone.

Predicates of the shape "exclude all, include these" are found where an event has one of their keys; the others are
asked about every event. Equal predicates are one, asked once for all who have it. The answer is that of asking each
subscriber about the whole batch (``match_batch``); what the index remembers between batches is bounded.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from common.core.events.batch import UNIT_SEPARATOR, EventBatch, predecessor_tags
from common.core.events.ids import SEPARATOR
from common.core.filters.permission import Matched
from common.core.filters.predicates import EntityPredicate
from common.core.filters.topics import TOPIC_PREFIX, TopicTree

Key = TypeVar("Key", bound=Hashable)

# Different joined tags for which the candidates are remembered; when full, all are forgotten.
REMEMBERED_TAGS_MAX = 4_096


class _Group(Generic[Key]):
    """Those who have equal predicates. Its number is its hash, so that sets of groups have the same order in every run."""

    __slots__ = ("keys", "number", "predicate")

    def __init__(self, predicate: EntityPredicate, number: int) -> None:
        self.predicate = predicate
        self.number = number
        self.keys: dict[Key, None] = {}

    def __hash__(self) -> int:
        return self.number


class FilterIndex(Generic[Key]):
    """Subscribers by what they filter for. ``evaluations`` counts how often a predicate was asked."""

    def __init__(self) -> None:
        self.evaluations = 0
        self._numbers = 0
        self._group_of: dict[Key, _Group[Key]] = {}
        self._groups: dict[EntityPredicate, _Group[Key]] = {}
        self._scanned: set[_Group[Key]] = set()
        self._by_tag: dict[str, set[_Group[Key]]] = {}
        self._by_id: dict[str, set[_Group[Key]]] = {}
        self._by_topic: TopicTree[_Group[Key]] = TopicTree()
        self._remembered: dict[str, frozenset[_Group[Key]]] = {}

    def __len__(self) -> int:
        return len(self._group_of)

    def add(self, key: Key, predicate: EntityPredicate) -> None:
        """Have ``key`` notified of what ``predicate`` selects, in place of what it had before."""
        self.remove(key)
        group = self._groups.get(predicate)
        if group is None:
            group = self._groups[predicate] = _Group(predicate, self._numbers)
            self._numbers += 1
            self._enter(group)
        group.keys[key] = None
        self._group_of[key] = group

    def remove(self, key: Key) -> None:
        """Forget ``key``; nothing happens when it is not known."""
        group = self._group_of.pop(key, None)
        if group is None:
            return
        del group.keys[key]
        if not group.keys:
            del self._groups[group.predicate]
            self._leave(group)

    def match(self, events: EventBatch) -> dict[Key, Matched]:
        """For everyone whom some event of the batch concerns: which events, as ``match_batch`` would tell."""
        found: dict[_Group[Key], Matched] = {}
        rows = zip(events.persistence_id, events.tags, events.prev_tags, strict=True)
        for index, (persistence_id, tags, prev_tags) in enumerate(rows):
            before_tags = predecessor_tags(tags, prev_tags)
            for group in self._candidates(persistence_id, tags, before_tags):
                matches = group.predicate.matches
                now = before = matches(persistence_id, tags)
                self.evaluations += 1
                if prev_tags:
                    before = matches(persistence_id, before_tags)
                    self.evaluations += 1
                if now or before:
                    matched = found.get(group)
                    if matched is None:
                        matched = found[group] = Matched()
                    matched.add(index, now, before, now or group.predicate.permits(persistence_id, tags))
        return {key: matched for group, matched in found.items() for key in group.keys}

    def _candidates(
        self, persistence_id: str, tags: str, before_tags: str
    ) -> set[_Group[Key]] | frozenset[_Group[Key]]:
        candidates: set[_Group[Key]] | frozenset[_Group[Key]] = self._with_tags(tags)
        if before_tags is not tags:
            candidates = candidates | self._with_tags(before_tags)
        if self._by_id:
            for name in (persistence_id, persistence_id.partition(SEPARATOR)[2]):
                candidates = candidates | self._by_id.get(name, frozenset())
        return candidates

    def _with_tags(self, tags: str) -> frozenset[_Group[Key]]:
        """Those an event with these tags may concern, whatever its id; all who must be asked anyway are among them."""
        candidates = self._remembered.get(tags)
        if candidates is None:
            found = set(self._scanned)
            for tag in tags.split(UNIT_SEPARATOR):
                found |= self._by_tag.get(tag, frozenset())
                if tag.startswith(TOPIC_PREFIX) and self._by_topic:
                    found |= self._by_topic.match(tag.removeprefix(TOPIC_PREFIX))
            candidates = frozenset(found)
            if len(self._remembered) >= REMEMBERED_TAGS_MAX:
                self._remembered.clear()
            self._remembered[tags] = candidates
        return candidates

    def _enter(self, group: _Group[Key]) -> None:
        self._remembered.clear()
        keys = group.predicate.keys()
        if keys is None:
            self._scanned.add(group)
            return
        for tag in keys.tags:
            self._by_tag.setdefault(tag, set()).add(group)
        for name in keys.ids:
            self._by_id.setdefault(name, set()).add(group)
        for expression in keys.topics:
            self._by_topic.add(expression, group)

    def _leave(self, group: _Group[Key]) -> None:
        self._remembered.clear()
        keys = group.predicate.keys()
        if keys is None:
            self._scanned.discard(group)
            return
        for names, groups_of in ((keys.tags, self._by_tag), (keys.ids, self._by_id)):
            for name in names:
                groups = groups_of[name]
                groups.discard(group)
                if not groups:
                    del groups_of[name]
        for expression in keys.topics:
            self._by_topic.remove(expression, group)
