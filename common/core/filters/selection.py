"""Which events a reader of the log wants, as far as an index can find them.

A ``Selection`` is coarse on purpose: it may let more through than its owner's filter, never less, and a reader with
it judges each event again. An event is found by its own tags or by those of its entity's previous event, so that the
event with which an entity leaves is found too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from common.core.events.batch import EventBatch, tags_to_find_by
from common.core.events.ids import SEPARATOR, entity_type_of

# Types are indexed by blocks of positions: an index entry an event would cost every append more than it saves a reader.
BLOCK_BITS = 6
BLOCK_POSITIONS = 1 << BLOCK_BITS
# Tags (those below prefixes counted one by one) and ids looked up for one page; beyond that the log itself is read.
KEYS_MAX = 1_000

_LAST_CHARACTER = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Selection:
    """Events of the types, and with one of the tags, or a tag with one of the prefixes, or of one of the entities.

    No types: of all types. No tags, prefixes and ids: no condition beside the types.
    """

    entity_types: frozenset[str] = field(default_factory=frozenset)
    tags: frozenset[str] = field(default_factory=frozenset)
    tag_prefixes: frozenset[str] = field(default_factory=frozenset)
    persistence_ids: frozenset[str] = field(default_factory=frozenset)

    @property
    def has_keys(self) -> bool:
        """Whether something beside the types is asked for."""
        return bool(self.tags or self.tag_prefixes or self.persistence_ids)

    @property
    def is_all(self) -> bool:
        """Whether every event is wanted."""
        return not (self.entity_types or self.has_keys)

    def of(self, events: EventBatch) -> EventBatch:
        """The events that are wanted; the batch itself when all are."""
        if self.is_all:
            return events
        wanted: Sequence[int]
        if self.has_keys:
            rows = zip(events.persistence_id, events.tags, events.prev_tags, strict=True)
            wanted = [index for index, row in enumerate(rows) if self.wants(*row)]
        else:
            wanted = indexes_of_types(events.persistence_id, self.entity_types)
        return events if len(wanted) == len(events) else events.select(wanted)

    def wants(self, persistence_id: str, tags: str, prev_tags: str) -> bool:
        """Whether an event is wanted; ``tags`` and ``prev_tags`` are entries of these columns."""
        if self.entity_types and entity_type_of(persistence_id) not in self.entity_types:
            return False
        if not self.has_keys or persistence_id in self.persistence_ids:
            return True
        if not (tags or prev_tags):
            return False
        found = tags_to_find_by(tags, prev_tags)
        if not self.tags.isdisjoint(found):
            return True
        return any(tag.startswith(prefix) for prefix in self.tag_prefixes for tag in found)


EVERYTHING = Selection()


def indexes_of_types(persistence_ids: Sequence[str], entity_types: frozenset[str]) -> Sequence[int]:
    """Indexes of the events of these types. An entity is looked at once, however many events it has."""
    entities = set(persistence_ids)
    wanted = {name for name in entities if entity_type_of(name) in entity_types}
    if len(wanted) == len(entities):
        return range(len(persistence_ids))
    return [index for index, name in enumerate(persistence_ids) if name in wanted]


def prefix_end(prefix: str) -> str | None:
    """The first text, by code points, that is beyond every text with this prefix; None when there is none."""
    bare = prefix.rstrip(_LAST_CHARACTER)
    if not bare:
        return None
    following = ord(bare[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:  # no text that can be stored has these
        following = 0xE000
    return bare[:-1] + chr(following)


def widths(entries: int, wanted: int, at_most: int) -> Iterator[int | None]:
    """Through how many positions to look for ``wanted`` events when all keys together may give ``entries``; None = all.

    Few keys go as far as they need. Many would each give a page of which one page is used: those look a little way
    first, and further only while that finds too little.
    """
    if entries <= at_most:
        yield None
        return
    width = 4 * wanted
    while width < at_most:
        yield width
        width *= 4
    yield at_most


def block_of(position: int) -> int:
    """The block of positions that ``position`` lies in."""
    return position >> BLOCK_BITS


def blocks_by_type(positions: Sequence[int], persistence_ids: Sequence[str]) -> set[tuple[str, int]]:
    """The index entries (type, block) that events at these positions, which follow each other, need."""
    first = entity_type_of(persistence_ids[0])
    of_first = f"{first}{SEPARATOR}"
    if all(name.startswith(of_first) for name in persistence_ids):
        return {(first, block) for block in range(positions[0] >> BLOCK_BITS, (positions[-1] >> BLOCK_BITS) + 1)}
    return {
        (entity_type_of(name), position >> BLOCK_BITS)
        for position, name in zip(positions, persistence_ids, strict=True)
    }


def stretches(blocks: Iterable[int], first: int, last: int) -> Iterator[tuple[int, int]]:
    """The stretches (from, to) of positions that increasing ``blocks`` cover, cut to ``first`` … ``last``."""
    low = high = -1
    for block in blocks:
        start = block << BLOCK_BITS
        if start != high + 1 or high < 0:
            if max(low, first) <= min(high, last):
                yield max(low, first), min(high, last)
            low = start
        high = start + BLOCK_POSITIONS - 1
    if max(low, first) <= min(high, last):
        yield max(low, first), min(high, last)
