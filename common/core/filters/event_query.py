"""Which events a reader of the log asks for by name: entity, entity type, tag, topic; all that are named must fit.

A filter selects entities and so delivers the event with which one leaves; a query shows events, each by its own tags.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.core.events.batch import EventBatch, split_tags
from common.core.events.ids import entity_type_of
from common.core.filters.predicates import Keys
from common.core.filters.selection import Selection
from common.core.filters.topics import TOPIC_PREFIX, TopicTree, is_wildcard


@dataclass(frozen=True, slots=True)
class EventQuery:
    """An empty text is no condition. ``topic`` is a good expression (``topics.topic_problem``)."""

    entity: str = ""
    entity_type: str = ""
    tag: str = ""
    topic: str = ""

    @property
    def is_all(self) -> bool:
        """Whether every event is asked for."""
        return not (self.entity or self.entity_type or self.tag or self.topic)

    @property
    def selection(self) -> Selection:
        """Where an index finds at least these events: by the narrowest of what is named."""
        types = frozenset({self.entity_type} if self.entity_type else ())
        if self.entity:
            return Selection(types, persistence_ids=frozenset({self.entity}))
        if self.tag:
            return Selection(types, tags=frozenset({self.tag}))
        if self.topic and is_wildcard(self.topic):
            return Keys(topics=frozenset({self.topic})).selection(types)
        if self.topic:
            return Selection(types, tags=frozenset({TOPIC_PREFIX + self.topic}))
        return Selection(types)

    def of(self, events: EventBatch) -> EventBatch:
        """The events that are asked for; the batch itself when all are."""
        if self.is_all:
            return events
        tree: TopicTree[bool] = TopicTree()
        if self.topic:
            tree.add(self.topic, True)
        rows = zip(events.persistence_id, events.tags, strict=True)
        wanted = [index for index, (name, tags) in enumerate(rows) if self._wants(name, split_tags(tags), tree)]
        return events if len(wanted) == len(events) else events.select(wanted)

    def may_name(self, persistence_id: str) -> bool:
        """Whether events of this entity may be among those asked for."""
        if self.entity and persistence_id != self.entity:
            return False
        return not self.entity_type or entity_type_of(persistence_id) == self.entity_type

    def _wants(self, persistence_id: str, tags: tuple[str, ...], topics: TopicTree[bool]) -> bool:
        if not self.may_name(persistence_id):
            return False
        if self.tag and self.tag not in tags:
            return False
        found = (tag[len(TOPIC_PREFIX) :] for tag in tags if tag.startswith(TOPIC_PREFIX))
        return not topics or any(map(topics.matches, found))
