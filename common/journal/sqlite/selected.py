"""Reading what a selection wants: positions from the indexes first, then the events at them. Runs in the reader's thread.

Each key (a tag, an entity) gives its next positions in order; together they say which events come next and how far the
log has been looked through. One look does a bounded amount of work, whatever the selection is and however long the log.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import orjson

from common.core.events.batch import EVENT_OVERHEAD_BYTES
from common.core.events.ids import SliceRange
from common.core.filters.selection import (
    BLOCK_BITS,
    BLOCK_POSITIONS,
    KEYS_MAX,
    Selection,
    block_of,
    prefix_end,
    stretches,
    widths,
)
from common.journal.sqlite.connection import select

# A look is a short read, so that the WAL can always be taken over.
POSITIONS_PER_LOOK = 20_000
NAMED = "EXISTS (SELECT 1 FROM entity WHERE entity.entity_no = event.entity_no AND {})"


def of_types(entity_types: frozenset[str]) -> tuple[str, list[str]]:
    """A condition on events, and its arguments: '}' is the character after '|'."""
    ranges = " OR ".join(["persistence_id >= ? AND persistence_id < ?"] * len(entity_types))
    return NAMED.format(f"({ranges})"), [f"{name}{end}" for name in sorted(entity_types) for end in "|}"]


def look(
    reader: apsw.Connection, selection: Selection, *, after: int, last: int, max_events: int, slices: SliceRange
) -> tuple[list[tuple[int, int]], int]:
    """Where to look next: (position, size) of at most ``max_events`` events, and how far the log was looked through.

    ``after`` < position <= ``last``. The events are those wanted and perhaps others: the caller judges them.
    """
    keys = _keys(reader, selection) if selection.has_keys else None
    if keys is not None:
        positions, through = _by_keys(reader, *keys, after=after, last=last, max_events=max_events)
        where, args = "position IN (SELECT value FROM json_each(?))", [orjson.dumps(positions).decode()]
        rows = _sizes(reader, "event", where, args, slices, max_events) if positions else []
        return rows, through
    if selection.has_keys:
        last = end_of_look(reader, after, last)
        rows = _sizes(reader, "event", "position > ? AND position <= ?", [after, last], slices, max_events)
    else:
        blocks, last = _blocks(reader, selection.entity_types, after, last)
        of_type, names = of_types(selection.entity_types)
        ranges = orjson.dumps(list(stretches(blocks, after + 1, last))).decode()
        source = "json_each(?) AS part CROSS JOIN event ON position BETWEEN part.value ->> 0 AND part.value ->> 1"
        rows = _sizes(reader, source, of_type, [ranges, *names], slices, max_events)
    return rows, rows[-1][0] if len(rows) == max_events else last


def _sizes(
    reader: apsw.Connection, source: str, where: str, args: Sequence[int | str], slices: SliceRange, max_events: int
) -> list[tuple[int, int]]:
    in_slices = "" if slices.is_all else f" AND slice BETWEEN {slices.first} AND {slices.last}"
    return select(
        reader,
        f"SELECT position, length(payload) + {EVENT_OVERHEAD_BYTES} FROM {source} WHERE {where}{in_slices}"
        " ORDER BY position LIMIT ?",
        (*args, max_events),
    )


def end_of_look(reader: apsw.Connection, after: int, last: int, width: int | None = None) -> int:
    """``last``, or where a look so wide ends if that is before; positions deleted meanwhile do not count."""
    first: int = reader.execute("SELECT min(position) FROM event WHERE position > ?", (after,)).get or last
    return min(last, first + (width or POSITIONS_PER_LOOK))


def _keys(reader: apsw.Connection, selection: Selection) -> tuple[list[str], list[int]] | None:
    """The tags (those below prefixes one by one) and entities to look up; None when they are too many."""
    tags = set(selection.tags)
    for prefix in sorted(selection.tag_prefixes):
        room = KEYS_MAX - len(tags) - len(selection.persistence_ids)
        if room <= 0:
            return None
        tags.update(_tags_below(reader, prefix, room + 1))
    if len(tags) + len(selection.persistence_ids) > KEYS_MAX:
        return None
    entities = select(
        reader,
        "SELECT entity_no FROM json_each(?) CROSS JOIN entity ON persistence_id = value",
        (orjson.dumps(sorted(selection.persistence_ids)).decode(),),
    )
    return sorted(tags), [number for (number,) in entities]


def _tags_below(reader: apsw.Connection, prefix: str, at_most: int) -> list[str]:
    """The tags in the log that begin with ``prefix``, each found by one step along the index."""
    end = prefix_end(prefix)
    below, args = ("", (prefix, at_most)) if end is None else (" AND tag < ?2", (prefix, end, at_most))
    rows = select(
        reader,
        f"WITH RECURSIVE found (tag) AS (SELECT min(tag) FROM event_tag WHERE tag >= ?1{below} UNION ALL"
        f" SELECT (SELECT min(tag) FROM event_tag WHERE tag > found.tag{below}) FROM found WHERE tag IS NOT NULL)"
        f" SELECT tag FROM found WHERE tag IS NOT NULL LIMIT ?{len(args)}",
        args,
    )
    return [tag for (tag,) in rows]


def _by_keys(
    reader: apsw.Connection, tags: Sequence[str], entities: Sequence[int], *, after: int, last: int, max_events: int
) -> tuple[list[int], int]:
    """The first ``max_events`` positions that any key has, and how far that is complete."""
    positions: list[int] = []
    end = last
    for width in widths((len(tags) + len(entities)) * max_events, max_events, POSITIONS_PER_LOOK):
        end = last if width is None else end_of_look(reader, after, last, width)
        positions = _of_keys(reader, tags, entities, after=after, last=end, max_events=max_events)
        if len(positions) == max_events:
            return positions, positions[-1]
        if end == last:
            break
    return positions, end


def _of_keys(
    reader: apsw.Connection, tags: Sequence[str], entities: Sequence[int], *, after: int, last: int, max_events: int
) -> list[int]:
    found: set[int] = set()
    for tag in tags:
        sql = (
            "SELECT position FROM event_tag WHERE tag = ? AND position > ? AND position <= ? ORDER BY position LIMIT ?"
        )
        found.update(position for (position,) in select(reader, sql, (tag, after, last, max_events)))
    for entity_no in entities:
        sql = "SELECT position FROM event WHERE entity_no = ? AND seq_nr >= ? ORDER BY seq_nr LIMIT ?"
        rows = select(reader, sql, (entity_no, _first_number_after(reader, entity_no, after), max_events))
        found.update(position for (position,) in rows if position <= last)
    return sorted(found)[:max_events]


def _first_number_after(reader: apsw.Connection, entity_no: int, after: int) -> int:
    """The number of the entity's first event above position ``after``: its numbers and its positions rise together."""
    low, high = reader.execute("SELECT min(seq_nr), max(seq_nr) + 1 FROM event WHERE entity_no = ?", (entity_no,)).get
    while low is not None and low < high:
        middle = (low + high) // 2
        sql = "SELECT seq_nr, position FROM event WHERE entity_no = ? AND seq_nr >= ? ORDER BY seq_nr LIMIT 1"
        seq_nr, position = reader.execute(sql, (entity_no, middle)).get
        if position > after:
            high = middle
        else:
            low = seq_nr + 1
    return low or 1


def _blocks(reader: apsw.Connection, entity_types: frozenset[str], after: int, last: int) -> tuple[list[int], int]:
    """The next blocks that may have events of these types, and how far that is complete."""
    wanted = POSITIONS_PER_LOOK // BLOCK_POSITIONS
    found: set[int] = set()
    for entity_type in sorted(entity_types):
        sql = "SELECT block FROM type_block WHERE entity_type = ? AND block >= ? AND block <= ? ORDER BY block LIMIT ?"
        rows = select(reader, sql, (entity_type, block_of(after + 1), block_of(last), wanted))
        found.update(block for (block,) in rows)
    blocks = sorted(found)[:wanted]
    if len(blocks) == wanted:
        last = min(last, (blocks[-1] << BLOCK_BITS) + BLOCK_POSITIONS - 1)
    return blocks, last
