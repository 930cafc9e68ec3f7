"""Reading what a selection wants: positions from the indexes first, then the events at them. Asyncio-flavoured.

Each key (a tag, an entity) gives its next positions in order; together they say which events come next and how far the
log has been looked through. One look does a bounded amount of work, whatever the selection is and however long the log.
Every part is a walk along one index, so that no statistics can make it anything else. Beside that, what is kept of entities
that are asked for by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import asyncpg

from common.core.events.ids import NAME_MAX_BYTES
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import (
    BLOCK_BITS,
    BLOCK_POSITIONS,
    KEYS_MAX,
    Selection,
    prefix_end,
    stretches,
    widths,
)
from common.core.journal.admission import EntityHead, Heads
from common.core.journal.tag_sets import known_tag_sets

# With a condition a look goes through at most so many positions, however few events it finds.
POSITIONS_PER_LOOK = 50_000

# Where a look ends that must not go on to the head: positions deleted meanwhile do not count.
_END_OF_LOOK = "(SELECT e.position + $3 FROM event AS e WHERE e.position > $1 ORDER BY e.position LIMIT 1)"
_BOUND = f"(SELECT position, least(position, $2, CASE WHEN $4 THEN {_END_OF_LOOK} END) AS bound FROM head) AS h"

_BY_KEYS = f"""
SELECT h.position, h.bound, ARRAY(
    SELECT DISTINCT f.position FROM (
        SELECT p.position FROM unnest($6::text[]) AS k (tag) CROSS JOIN LATERAL (
            SELECT t.position FROM event_tag AS t WHERE t.tag = k.tag AND t.position > $1 AND t.position <= h.bound
            ORDER BY t.position LIMIT $5
        ) AS p
        UNION ALL
        SELECT p.position FROM unnest($7::bigint[]) AS k (entity_no) CROSS JOIN LATERAL (
            SELECT e.position FROM event AS e
            WHERE e.entity_no = k.entity_no AND e.seq_nr >= seq_above(k.entity_no, $1) ORDER BY e.seq_nr LIMIT $5
        ) AS p WHERE p.position <= h.bound
    ) AS f ORDER BY f.position LIMIT $5
) FROM {_BOUND}
"""
_BY_TYPES = f"""
SELECT h.position, h.bound, ARRAY(
    SELECT DISTINCT p.block FROM unnest($6::text[]) AS k (entity_type) CROSS JOIN LATERAL (
        SELECT b.block FROM type_block AS b
        WHERE b.entity_type = k.entity_type AND b.block >= ($1 + 1) >> {BLOCK_BITS} AND b.block <= h.bound >> {BLOCK_BITS}
        ORDER BY b.block LIMIT $5
    ) AS p ORDER BY p.block LIMIT $5
) FROM {_BOUND}
"""
_HEAD_ONLY = f"SELECT h.position, h.bound, '{{}}'::bigint[] FROM {_BOUND} WHERE $5::int IS NOT NULL"
# Both ends are always given: what a parameter might leave out, a plan made for all parameters looks at row by row.
_BEYOND_ALL_TAGS = "\U0010ffff" * (NAME_MAX_BYTES // 4 + 1)
_TAGS_BELOW = """
WITH RECURSIVE found (tag) AS (
    (SELECT t.tag FROM event_tag AS t WHERE t.tag >= $1 AND t.tag < $2 ORDER BY t.tag LIMIT 1)
    UNION ALL
    SELECT (
        SELECT t.tag FROM event_tag AS t WHERE t.tag > found.tag AND t.tag < $2 ORDER BY t.tag LIMIT 1
    ) FROM found WHERE found.tag IS NOT NULL
)
SELECT tag FROM found WHERE tag IS NOT NULL LIMIT $3
"""

Stretches = list[tuple[int, int]]


async def look(
    connection: asyncpg.Connection, selection: Selection, *, after: int, through: int | None, max_events: int
) -> tuple[Stretches, int, int]:
    """Where wanted events may be: stretches (from, to) of positions; how far that is all; and the head it was read with.

    ``after`` < position <= ``through``. Events at them are those wanted and perhaps others: the caller judges them.
    """
    keys = await _keys(connection, selection) if selection.has_keys else None
    if keys is not None:
        tags, entities = keys
        positions: list[int] = []
        head = bound = after
        for width in widths((len(tags) + len(entities)) * max_events, max_events, POSITIONS_PER_LOOK):
            args = (after, through, width, width is not None, max_events)
            head, bound, positions = await connection.fetchrow(_BY_KEYS, *args, tags, entities)
            if len(positions) == max_events:
                return [(position, position) for position in positions], positions[-1], head
            if bound == (head if through is None else min(head, through)):
                break
        # Fewer than asked for: no key has more up to the bound.
        return [(position, position) for position in positions], bound, head
    if selection.has_keys:
        head, bound, _ = await connection.fetchrow(_HEAD_ONLY, after, through, POSITIONS_PER_LOOK, True, 0)
        return [(after + 1, bound)] if after < bound else [], bound, head
    wanted = POSITIONS_PER_LOOK // BLOCK_POSITIONS
    args = (after, through, POSITIONS_PER_LOOK, False, wanted)
    head, bound, blocks = await connection.fetchrow(_BY_TYPES, *args, sorted(selection.entity_types))
    if len(blocks) == wanted:
        bound = min(bound, (blocks[-1] << BLOCK_BITS) + BLOCK_POSITIONS - 1)
    return list(stretches(blocks, after + 1, bound)), bound, head


async def _keys(connection: asyncpg.Connection, selection: Selection) -> tuple[Sequence[str], Sequence[int]] | None:
    """The tags (those below prefixes one by one) and entities to look up; None when they are too many."""
    tags = set(selection.tags)
    for prefix in sorted(selection.tag_prefixes):
        room = KEYS_MAX - len(tags) - len(selection.persistence_ids)
        if room <= 0:
            return None
        end = prefix_end(prefix) or _BEYOND_ALL_TAGS
        tags.update(row[0] for row in await connection.fetch(_TAGS_BELOW, prefix, end, room + 1))
    if len(tags) + len(selection.persistence_ids) > KEYS_MAX:
        return None
    names = sorted(selection.persistence_ids)
    find = "SELECT entity_no FROM entity WHERE persistence_id = ANY ($1::text[])"
    rows = await connection.fetch(find, names) if names else []
    return sorted(tags), [row[0] for row in rows]


async def entity_numbers(connection: asyncpg.Connection, names: Iterable[str]) -> tuple[int, Heads]:
    """The log's last position and, of these entities, the heads of those that exist: their numbers only."""
    rows = await connection.fetch(
        "SELECT head.position, entity.persistence_id, entity.seq_nr"
        " FROM head LEFT JOIN entity ON entity.persistence_id = ANY ($1::text[])",
        list(names),
    )
    return rows[0]["position"], {name: EntityHead(name, seq_nr) for _, name, seq_nr in rows if name is not None}


async def entity_heads(connection: asyncpg.Connection, persistence_ids: Collection[str]) -> dict[str, EntityHead]:
    """See ``LogStore.entity_heads``."""
    rows = await connection.fetch(
        "SELECT persistence_id, seq_nr, owner, origin_seq_nr, branch, parked, coalesce(deleted_to, 0),"
        " coalesce(deleted_position, 0), coalesce(reason, ''), tags"
        " FROM entity LEFT JOIN entity_deleted USING (entity_no) WHERE persistence_id = ANY ($1)",
        sorted(set(persistence_ids)),
    )
    return {row[0]: EntityHead(*row) for row in rows}


async def tag_sets(
    connection: asyncpg.Connection, persistence_ids: Collection[str]
) -> dict[str, frozenset[str] | None]:
    """See ``LogStore.tag_sets``."""
    rows = await connection.fetch(
        "SELECT persistence_id, array(SELECT tags FROM entity_tags AS noted WHERE noted.entity_no = entity.entity_no)"
        " FROM entity WHERE persistence_id = ANY ($1)",
        sorted(set(persistence_ids)),
    )
    return {name: known_tag_sets(noted) for name, noted in rows}


async def deleted_entities(
    connection: asyncpg.Connection, after: int, through: int, max_rows: int | None
) -> list[tuple[StatedRange, int]]:
    """See ``LogStore.deleted_entities``."""
    rows = await connection.fetch(
        "SELECT persistence_id, 1, deleted_to, reason, deleted_position FROM entity_deleted JOIN entity USING (entity_no)"
        " WHERE deleted_position > $1 AND deleted_position <= $2 ORDER BY deleted_position LIMIT $3",
        after,
        through,
        max_rows,
    )
    return [(StatedRange(*row), position) for *row, position in rows]


async def deleted_of(connection: asyncpg.Connection, persistence_ids: Collection[str]) -> list[tuple[StatedRange, str]]:
    """See ``PushFilterStore.deleted_of``."""
    rows = await connection.fetch(
        "SELECT persistence_id, 1, deleted_to, reason, tags FROM entity_deleted JOIN entity USING (entity_no)"
        " WHERE persistence_id = ANY ($1) ORDER BY persistence_id",
        sorted(set(persistence_ids)),
    )
    return [(StatedRange(*row[:4]), row[4]) for row in rows]
