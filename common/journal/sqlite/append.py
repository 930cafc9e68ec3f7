"""Append: judge a group of requests and store what is accepted, all in one transaction. Runs in the writer's thread.

Heads of entities are kept in memory between groups, bounded, and written through: the same entities come back in
every batch. This is the only writer of ``entity``'s numbers, so a kept head is the stored one; after a failure, and
whenever an operator's command changed one, it is read again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import repeat

import apsw
import orjson

from common.core.append import (
    Appended,
    AppendOutcome,
    AppendRefused,
    AppendRequest,
    Fenced,
    LocalAppend,
    OriginBlocked,
    OutOfStep,
    Pushed,
    PushedAppend,
)
from common.core.batch import EventBatch
from common.core.ids import slice_of
from common.core.judge import EntityHead, PushJudgement, judge_local, judge_pushed, judge_repeat
from common.fail_points import fail_point
from common.journal.sqlite.connection import insert_rows, select, transaction
from common.journal.sqlite.log import HEAD_COLUMNS, head_position
from common.journal.sqlite.origins import Origins

HEADS_KEPT = 20_000


class Appender:
    """The writer's memory between groups. Its methods run one at a time, inside the writer's turn."""

    def __init__(self, writer: apsw.Connection) -> None:
        self._writer = writer
        self._heads: OrderedDict[str, EntityHead] = OrderedDict()

    def append_group(self, requests: Sequence[AppendRequest], now_us: int) -> tuple[list[AppendOutcome], int]:
        """The outcomes and the head's position after the synced commit."""
        entities: dict[str, None] = {}
        for request in requests:
            entities.update(dict.fromkeys(request.events.persistence_id))
            if isinstance(request, LocalAppend):
                entities.update(dict.fromkeys(request.expected))
            else:
                entities.update(dict.fromkeys(stated.persistence_id for stated in request.ranges))
        try:
            with transaction(self._writer):
                outcomes, head = _Group(self._writer, self, now_us).run(requests, entities)
                fail_point("append.before_commit")
        except BaseException:
            self.forget(entities)
            raise
        fail_point("append.after_commit")
        while len(self._heads) > HEADS_KEPT:
            self._heads.popitem(last=False)
        return outcomes, head

    def heads(self, entities: Iterable[str]) -> OrderedDict[str, EntityHead]:
        """Heads in which those of ``entities`` are present if they exist. Changing one is for the group's transaction."""
        missing = [entity for entity in entities if entity not in self._heads]
        if missing:
            rows = select(
                self._writer,
                f"SELECT {HEAD_COLUMNS} FROM json_each(?) CROSS JOIN entity ON persistence_id = value",
                (orjson.dumps(missing).decode(),),
            )
            for row in rows:
                self._heads[row[0]] = EntityHead(*row)
        return self._heads

    def forget(self, entities: Iterable[str]) -> None:
        """Read these heads again before they are used again."""
        for entity in entities:
            self._heads.pop(entity, None)

    def forget_all(self) -> None:
        """Read every head again before it is used again."""
        self._heads.clear()


class _Group:
    """One transaction's work."""

    def __init__(self, writer: apsw.Connection, appender: Appender, now_us: int) -> None:
        self._writer = writer
        self._appender = appender
        self._now_us = now_us
        self._origins = Origins(writer, now_us)
        self._accepted = EventBatch()
        self._touched: dict[str, None] = {}
        self._append_ids: dict[str, tuple[bytes, Appended]] = {}
        self._new_append_ids: list[str] = []
        self._head_position = head_position(writer)

    def run(self, requests: Sequence[AppendRequest], entities: Iterable[str]) -> tuple[list[AppendOutcome], int]:
        """Judge in order, then write what was accepted."""
        self._heads = self._appender.heads(entities)
        self._load_append_ids(requests)
        outcomes: list[AppendOutcome] = [
            self._local(request) if isinstance(request, LocalAppend) else self._pushed(request) for request in requests
        ]
        if self._accepted:
            store_events(self._writer, self._accepted, self._now_us)
        write_heads(self._writer, [self._heads[entity] for entity in self._touched])
        if self._new_append_ids:
            self._store_append_ids()
        return outcomes, self._head_position + len(self._accepted)

    def _load_append_ids(self, requests: Sequence[AppendRequest]) -> None:
        asked = [request.append_id for request in requests if isinstance(request, LocalAppend) and request.append_id]
        if not asked:
            return
        rows = select(
            self._writer,
            "SELECT append_id, digest, first_position, seq_nrs FROM json_each(?) CROSS JOIN append_id"
            " ON append_id = value",
            (orjson.dumps(asked).decode(),),
        )
        for append_id, digest, first_position, seq_nrs in rows:
            self._append_ids[append_id] = (digest, Appended(first_position, orjson.loads(seq_nrs)))

    def _local(self, request: LocalAppend) -> Appended | AppendRefused:
        known = self._append_ids.get(request.append_id) if request.append_id else None
        if known:
            return judge_repeat(request, *known)
        judged = judge_local(request, self._heads)
        if isinstance(judged, AppendRefused):
            return judged
        appended = Appended(self._head_position + 1 + len(self._accepted), judged)
        self._accepted.extend(replace(request.events, seq_nr=judged, origin_seq_nr=[0] * len(judged)))
        self._touched.update(dict.fromkeys(request.events.persistence_id))
        if request.append_id:
            self._append_ids[request.append_id] = (request.digest, appended)
            self._new_append_ids.append(request.append_id)
        return appended

    def _pushed(self, request: PushedAppend) -> Pushed | Fenced | OutOfStep | OriginBlocked:
        refused = self._origins.compare(request)
        if refused:
            return refused
        judgement = judge_pushed(request, self._heads)
        touched = dict.fromkeys(request.events.persistence_id)
        touched.update(dict.fromkeys(stated.persistence_id for stated in request.ranges))
        if judgement.parked:
            already = self._origins.parked_count(request.origin_id)
            if already + len(judgement.parked) > request.parked_max:
                # Judging has changed heads; nobody else in the group has any of them.
                self._appender.forget(touched)
                self._appender.heads(touched)
                return OriginBlocked(already, request.parked_max)
            self._origins.park(request, judgement.parked)
        self._origins.keep_ranges(request.origin_id, request.branch, judgement.skipped)
        self._origins.move(request.origin_id, request.through)
        self._touched.update(touched)
        accepted = _accepted_events(request, judgement)
        self._accepted.extend(replace(accepted, seq_nr=judgement.seq_nr, origin_seq_nr=accepted.seq_nr))
        told = tuple(parked for _, parked in judgement.parked)
        return Pushed(request.through.position, len(judgement.accepted), told)

    def _store_append_ids(self) -> None:
        stored = [self._append_ids[append_id] for append_id in self._new_append_ids]
        columns = (
            self._new_append_ids,
            [digest for digest, _ in stored],
            [appended.first_position for _, appended in stored],
            [orjson.dumps(appended.seq_nr).decode() for _, appended in stored],
            repeat(self._now_us, len(stored)),
        )
        insert_rows(self._writer, "append_id", 5, columns)


def _accepted_events(request: PushedAppend, judgement: PushJudgement) -> EventBatch:
    whole = len(judgement.accepted) == len(request.events)
    return request.events if whole else request.events.select(judgement.accepted)


def store_events(writer: apsw.Connection, events: EventBatch, now_us: int) -> None:
    """Write the events after the head and move it: positions and times go up by one from event to event.

    Their numbers are set by the caller, their positions and times here.
    """
    n = len(events)
    before, head_timestamp_us = writer.execute("SELECT head_position, head_timestamp_us FROM journal").get
    position = before + 1
    timestamp_us = max(now_us, head_timestamp_us + 1)
    columns = (
        range(position, position + n),
        range(timestamp_us, timestamp_us + n),
        repeat(now_us, n),
        events.event_time_us,
        events.persistence_id,
        map(slice_of, events.persistence_id),
        events.seq_nr,
        events.origin_seq_nr,
        events.event_type,
        events.codec,
        events.payload,
        events.tags,
        events.metadata,
    )
    insert_rows(writer, "event", 13, columns)
    writer.execute(
        "UPDATE journal SET head_position = ?, head_timestamp_us = ?", (position + n - 1, timestamp_us + n - 1)
    )


def write_heads(writer: apsw.Connection, heads: Sequence[EntityHead]) -> None:
    """Write the numbers of these heads; what retention keeps in the same rows is left alone."""
    columns = (
        [head.persistence_id for head in heads],
        [head.seq_nr for head in heads],
        [head.owner for head in heads],
        [head.origin_seq_nr for head in heads],
        [head.branch for head in heads],
        [head.parked for head in heads],
        repeat(0, len(heads)),
        repeat(0, len(heads)),
        repeat("", len(heads)),
    )
    insert_rows(
        writer,
        "entity",
        9,
        columns,
        "ON CONFLICT DO UPDATE SET seq_nr = excluded.seq_nr, origin_seq_nr = excluded.origin_seq_nr,"
        " branch = excluded.branch, parked = excluded.parked",
    )
