"""Entities as the two threads keep them in memory: heads by name for the writer, names by number for the reader.

The same entities come back in every batch, so both are bounded caches in front of the tables. A number is never given
to another entity, so a name once read stays true. Heads are written through by this process's one writer; after a
failed transaction they are read again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from itertools import repeat

import apsw
import orjson

from common.core.events.stated_range import StatedRange
from common.core.journal.admission import EntityHead, Heads
from common.journal.sqlite.connection import insert_rows, select

ENTITIES_KEPT = 20_000

_HEAD_COLUMNS = (
    "persistence_id, seq_nr, owner, origin_seq_nr, branch, parked, deleted_to, deleted_position, deleted_reason, tags"
)


class EntityRows:
    """The writer's: what judging needs. The ``deleted_…`` fields of a kept head may be old: judging does not look."""

    def __init__(self, writer: apsw.Connection) -> None:
        self._writer = writer
        self._heads: OrderedDict[str, EntityHead] = OrderedDict()
        self._numbers: dict[str, int] = {}

    def use(self, writer: apsw.Connection) -> None:
        """Go on with another connection; everything is read again."""
        self._writer = writer
        self.forget_all()

    def heads(self, names: Iterable[str]) -> Heads:
        """Heads in which those of ``names`` are present if they exist. To change one is to ``write`` or ``forget`` it."""
        missing = [name for name in names if name not in self._heads]
        if missing:
            rows = select(
                self._writer,
                f"SELECT entity_no, {_HEAD_COLUMNS} FROM json_each(?) CROSS JOIN entity ON persistence_id = value"
                " JOIN entity_head USING (entity_no)",
                (orjson.dumps(missing).decode(),),
            )
            for number, name, *values in rows:
                self._heads[name] = EntityHead(name, *values)
                self._numbers[name] = number
        return self._heads

    def write(self, names: Iterable[str]) -> None:
        """Store the heads of these entities; new ones get their number."""
        heads = [self._heads[name] for name in names]
        new = [head for head in heads if head.persistence_id not in self._numbers]
        if new:
            first = (self._writer.execute("SELECT max(entity_no) FROM entity").get or 0) + 1
            numbers = range(first, first + len(new))
            for head, number in zip(new, numbers, strict=True):
                self._numbers[head.persistence_id] = number
            owners = [head.owner for head in new]
            names_of_new = [head.persistence_id for head in new]
            nothing = [0] * len(new)
            insert_rows(
                self._writer, "entity", 6, (numbers, names_of_new, owners, nothing, nothing, repeat("", len(new)))
            )
        columns = (
            [self._numbers[head.persistence_id] for head in heads],
            [head.seq_nr for head in heads],
            [head.origin_seq_nr for head in heads],
            [head.branch for head in heads],
            [head.parked for head in heads],
            [head.tags for head in heads],
        )
        insert_rows(
            self._writer,
            "entity_head",
            6,
            columns,
            "ON CONFLICT DO UPDATE SET seq_nr = excluded.seq_nr, origin_seq_nr = excluded.origin_seq_nr,"
            " branch = excluded.branch, parked = excluded.parked, tags = excluded.tags",
        )

    def numbers(self, names: Iterable[str]) -> Iterator[int]:
        """Numbers of entities that were read or written in this transaction."""
        return map(self._numbers.__getitem__, names)

    def forget(self, names: Iterable[str]) -> None:
        """Read these again before they are used again."""
        for name in names:
            self._heads.pop(name, None)
            self._numbers.pop(name, None)

    def forget_all(self) -> None:
        """Read everything again before it is used again."""
        self._heads.clear()
        self._numbers.clear()

    def bound(self) -> None:
        """Let the oldest go; between transactions only."""
        while len(self._heads) > ENTITIES_KEPT:
            name, _ = self._heads.popitem(last=False)
            del self._numbers[name]


class EntityNames:
    """The reader's: persistence ids of events."""

    def __init__(self, reader: apsw.Connection) -> None:
        self._reader = reader
        self._names: dict[int, str] = {}

    def use(self, reader: apsw.Connection) -> None:
        """Go on with another connection."""
        self._reader = reader

    def of(self, numbers: list[int]) -> list[str]:
        """The names of these entities, one for each number."""
        missing = set(numbers).difference(self._names)
        if missing:
            if len(self._names) + len(missing) > ENTITIES_KEPT:
                self._names.clear()
                missing = set(numbers)
            rows = select(
                self._reader,
                "SELECT entity_no, persistence_id FROM json_each(?) CROSS JOIN entity ON entity_no = value",
                (orjson.dumps(list(missing)).decode(),),
            )
            self._names.update(rows)
        return list(map(self._names.__getitem__, numbers))


def entity_heads(reader: apsw.Connection, persistence_ids: Collection[str]) -> dict[str, EntityHead]:
    """See ``LogStore.entity_heads``."""
    rows = select(
        reader,
        f"SELECT {_HEAD_COLUMNS} FROM json_each(?) CROSS JOIN entity ON persistence_id = value"
        " JOIN entity_head USING (entity_no)",
        (orjson.dumps(sorted(set(persistence_ids))).decode(),),
    )
    return {row[0]: EntityHead(*row) for row in rows}


def deleted_of(reader: apsw.Connection, persistence_ids: Collection[str]) -> list[tuple[StatedRange, str]]:
    """See ``PushFilterStore.deleted_of``."""
    rows = select(
        reader,
        "SELECT persistence_id, 1, deleted_to, deleted_reason, tags FROM json_each(?) CROSS JOIN entity"
        " ON persistence_id = value JOIN entity_head USING (entity_no) WHERE deleted_to > 0 ORDER BY persistence_id",
        (orjson.dumps(sorted(set(persistence_ids))).decode(),),
    )
    return [(StatedRange(*row[:4]), row[4]) for row in rows]
