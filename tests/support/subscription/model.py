"""A source's log, and what a firehose gives of it, as plain as can be: a list of rows, and feeds that look at each row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from common.core.events.batch import NO_TAGS, EventBatch
from common.core.events.stated_range import StatedRange
from common.core.filters.permission import match_batch
from common.core.filters.predicates import EntityPredicate
from common.core.journal.history import Generation, History
from common.core.journal.snapshot import Snapshot

JOURNAL, GENERATION = "journal-1", "g1"
PAGE = 3


@dataclass
class Row:
    """An event of the log."""

    position: int
    persistence_id: str
    seq_nr: int
    tags: str
    prev_tags: str


class Rows(EventBatch):
    """Events with the column that only a journal knows."""

    prev_tags: list[str]


def columns(rows: list[Row]) -> EventBatch:
    """Rows as a journal gives them."""
    n = len(rows)
    batch = Rows(
        position=[row.position for row in rows],
        timestamp_us=[1_000 + row.position for row in rows],
        stored_us=[0] * n,
        event_time_us=[0] * n,
        persistence_id=[row.persistence_id for row in rows],
        seq_nr=[row.seq_nr for row in rows],
        prev_seq_nr=[row.seq_nr - 1 for row in rows],
        origin_seq_nr=[0] * n,
        event_type=["Changed"] * n,
        codec=["bytes"] * n,
        payload=[b"%d" % row.position for row in rows],
        tags=[row.tags for row in rows],
        metadata=[""] * n,
    )
    batch.prev_tags = [row.prev_tags for row in rows]
    return batch


@dataclass
class Page:
    """What a feed gives."""

    after: int
    through: int
    rows: list[Row]
    ranges: tuple[StatedRange, ...] = ()
    leaving: tuple[int, ...] = ()
    snapshots: list[Snapshot] = field(default_factory=list)


class Source:
    """The log with its snapshots and what was deleted of it."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.heads: dict[str, Row] = {}
        self.deleted: set[int] = set()
        self.deleted_to: dict[str, Row] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.all_snapshots: list[Snapshot] = []

    @property
    def history(self) -> History:
        return History(JOURNAL, (Generation(GENERATION, 1),), len(self.rows))

    @property
    def floor(self) -> int:
        return max(self.deleted, default=0)

    def append(self, name: str, tags: str) -> None:
        last = self.heads.get(name)
        before = ""
        if last is not None and last.tags != tags:
            before = last.tags or NO_TAGS
        row = Row(len(self.rows) + 1, name, (last.seq_nr if last else 0) + 1, tags, before)
        self.rows.append(row)
        self.heads[name] = row

    def take_snapshot(self, name: str) -> None:
        row = self.heads.get(name)
        if row is not None:
            self.snapshots[name] = Snapshot(
                name, row.seq_nr, row.position, 1_000 + row.position, 0, 0, "State", "bytes", b"s", row.tags, "", 0
            )
            self.all_snapshots.append(self.snapshots[name])

    def delete(self, name: str) -> None:
        """The entity's first event that is left, if it is covered by a snapshot."""
        snapshot = self.snapshots.get(name)
        for row in self.rows:
            if row.persistence_id == name and row.position not in self.deleted:
                if snapshot is not None and row.seq_nr <= snapshot.seq_nr:
                    self.deleted.add(row.position)
                    self.deleted_to[name] = row
                return

    def read(self, predicate: EntityPredicate, after: int, through: int, *, states_past: bool) -> Page | None:
        """The next stretch as a firehose would give it; None at the end."""
        if after >= through:
            return None
        through = min(through, after + PAGE)
        gone = [row for row in self.deleted_to.values() if after < row.position <= through]
        snapshots: list[Snapshot] = []
        ranges: list[StatedRange] = []
        for row in gone:
            snapshot = self.snapshots[row.persistence_id]
            if predicate.matches(row.persistence_id, snapshot.tags):
                snapshots.append(snapshot)
        stretch: list[Row] = []
        leaving: list[int] = []
        here: set[str] = set()
        rows = [row for row in self.rows[after:through] if row.position not in self.deleted]
        matched = match_batch(predicate, columns(rows))
        for index in matched.indexes:
            row = rows[index]
            if states_past and index in matched.entering and row.seq_nr > 1:
                if row.persistence_id in here:  # its numbers jump: the stretch ends before
                    return self._cut(after, row.position - 1, stretch, ranges, leaving, snapshots)
                ranges.append(StatedRange(row.persistence_id, 1, row.seq_nr - 1, "withheld"))
            here.add(row.persistence_id)
            stretch.append(row)
            if index in matched.leaving:
                leaving.append(row.position)
        return self._cut(after, through, stretch, ranges, leaving, snapshots)

    def _cut(
        self,
        after: int,
        through: int,
        rows: list[Row],
        ranges: list[StatedRange],
        leaving: list[int],
        snapshots: list[Snapshot],
    ) -> Page:
        return Page(after, through, rows, tuple(ranges), tuple(leaving), snapshots)

    def outdated(self, row: Row, wanted: EntityPredicate) -> bool:
        """Whether some snapshot that is not selected stands for this row."""
        return any(
            one.persistence_id == row.persistence_id
            and one.seq_nr >= row.seq_nr
            and not wanted.matches(one.persistence_id, one.tags)
            for one in self.all_snapshots
        )

    def uncovered_after(self, through: int) -> int:
        for row in self.rows[:through]:
            snapshot = self.snapshots.get(row.persistence_id)
            if row.position not in self.deleted and not (snapshot and row.seq_nr <= snapshot.seq_nr):
                return row.position - 1
        return through

    def entity(self, name: str, from_seq_nr: int, through: int) -> list[Row]:
        return [
            row
            for row in self.rows[:through]
            if row.persistence_id == name and row.seq_nr >= from_seq_nr and row.position not in self.deleted
        ]


def criteria(tags: frozenset[str]) -> str:
    """The filter for entities with one of these tags."""
    return json.dumps([{"exclude_all": True}, {"include_tags": sorted(tags)}])


def selects(wanted: EntityPredicate, row: Row) -> bool:
    """The naive rule: by its own tags or its predecessor's."""
    before = "" if row.prev_tags == NO_TAGS else row.prev_tags or row.tags
    return wanted.matches(row.persistence_id, row.tags) or wanted.matches(row.persistence_id, before)
