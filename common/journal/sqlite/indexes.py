"""The indexes by tag and by type: kept in the transactions that store and remove events. Runs in the writer's thread."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import apsw
import orjson

from common.core.events.batch import EventBatch, tags_to_find_by
from common.core.filters.selection import BLOCK_BITS, BLOCK_POSITIONS, block_of, blocks_by_type
from common.core.journal.tag_sets import TAG_SETS_MAX, begun_tag_sets, known_tag_sets
from common.journal.sqlite.connection import insert_rows, select

_NOTED = "SELECT count(*) FROM entity_tags AS known WHERE known.entity_no = entity.entity_no"


def add(writer: apsw.Connection, events: EventBatch) -> None:
    """Make these events, which have their positions, findable; an event without tags costs next to nothing."""
    blocks = sorted(blocks_by_type(events.position, events.persistence_id))
    insert_rows(writer, "type_block", 2, zip(*blocks, strict=True), "ON CONFLICT DO NOTHING")
    entries = _tag_entries(zip(events.position, events.tags, events.prev_tags, strict=True))
    if entries:
        insert_rows(writer, "event_tag", 2, zip(*entries, strict=True))
    begun = begun_tag_sets(events)
    if begun:
        writer.execute(
            "INSERT INTO entity_tags SELECT entity_no, value ->> 1 FROM json_each(?) CROSS JOIN entity"
            f" ON persistence_id = value ->> 0 WHERE ({_NOTED}) <= {TAG_SETS_MAX} ON CONFLICT DO NOTHING",
            (orjson.dumps(sorted(begun)).decode(),),
        )


def tag_sets(reader: apsw.Connection, persistence_ids: Collection[str]) -> dict[str, frozenset[str] | None]:
    """See ``LogStore.tag_sets``."""
    rows = select(
        reader,
        "SELECT persistence_id, tags FROM json_each(?) CROSS JOIN entity ON persistence_id = value"
        " LEFT JOIN entity_tags USING (entity_no)",
        (orjson.dumps(sorted(set(persistence_ids))).decode(),),
    )
    noted: dict[str, list[str]] = {}
    for name, tags in rows:
        noted.setdefault(name, []).extend([] if tags is None else [tags])
    return {name: known_tag_sets(each) for name, each in noted.items()}


def remove_tags(writer: apsw.Connection, removed: Iterable[tuple[int, str, str]]) -> None:
    """Forget the tags of removed events, given as (position, tags, prev_tags)."""
    entries = _tag_entries(removed)
    if entries:
        writer.execute(
            "DELETE FROM event_tag WHERE (tag, position) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))",
            (orjson.dumps(entries).decode(),),
        )


def remove_blocks(writer: apsw.Connection, removed: Iterable[int], head: int) -> None:
    """Forget blocks that lost events at the positions ``removed``, for the types of which they have none any more."""
    types = _types(writer)
    first = writer.execute("SELECT min(position) FROM event").get or head + 1
    below = block_of(first)
    for entity_type in types:
        writer.execute("DELETE FROM type_block WHERE entity_type = ? AND block < ?", (entity_type, below))
    blocks = [block for block in sorted(set(map(block_of, removed))) if below <= block]
    if blocks:
        writer.execute(
            "DELETE FROM type_block WHERE (entity_type, block) IN (SELECT t.value, b.value FROM json_each(?) AS t,"
            " json_each(?) AS b) AND NOT EXISTS (SELECT 1 FROM event JOIN entity USING (entity_no)"
            f" WHERE position >= block << {BLOCK_BITS} AND position < (block << {BLOCK_BITS}) + {BLOCK_POSITIONS}"
            " AND persistence_id >= entity_type || '|' AND persistence_id < entity_type || '}')",
            (orjson.dumps(types).decode(), orjson.dumps(blocks).decode()),
        )


def _tag_entries(rows: Iterable[tuple[int, str, str]]) -> list[tuple[str, int]]:
    # In the order of the index, so that what goes to one page goes there at once.
    return sorted(
        (tag, position)
        for position, tags, prev_tags in rows
        if tags or prev_tags
        for tag in tags_to_find_by(tags, prev_tags)
    )


def _types(writer: apsw.Connection) -> Sequence[str]:
    """Every type in the index, each found by one step along it."""
    rows = select(
        writer,
        "WITH RECURSIVE found (entity_type) AS (SELECT min(entity_type) FROM type_block UNION ALL"
        " SELECT (SELECT min(entity_type) FROM type_block WHERE entity_type > found.entity_type) FROM found"
        " WHERE entity_type IS NOT NULL) SELECT entity_type FROM found WHERE entity_type IS NOT NULL",
    )
    return [entity_type for (entity_type,) in rows]
