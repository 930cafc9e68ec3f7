"""Append: judge a group of requests and store what is accepted, all in one transaction. Runs in the writer's turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat

import apsw
import orjson

from common.core.events.batch import EventBatch
from common.core.events.ids import slice_of
from common.core.journal.admission import PushAdmission, admit_local, admit_pushed, admit_repeat, link_tags
from common.core.journal.append import (
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
from common.core.journal.statement import Statement, merged
from common.fail_points import fail_point
from common.journal.sqlite import indexes
from common.journal.sqlite.connection import head_position, insert_rows, roll_back, select
from common.journal.sqlite.entities import EntityRows
from common.journal.sqlite.origins import Origins
from common.journal.sqlite_tables import run_statements


class OpenAppend:
    """A group that was judged and written in the transaction that is open, and is to be committed."""

    def __init__(
        self, writer: apsw.Connection, entities: EntityRows, requests: Sequence[AppendRequest], now_us: int
    ) -> None:
        self._writer = writer
        self._entities = entities
        self._names = _names(requests)
        try:
            self.outcomes, self.stored, self.head = _Group(writer, entities, now_us).run(requests, self._names)
            fail_point("append.before_commit")
        except BaseException:
            self.undo()
            raise

    def commit(self) -> None:
        """Synced when it returns; otherwise nothing is stored."""
        try:
            self._writer.execute("COMMIT")
        except BaseException:
            self.undo()
            raise
        fail_point("append.after_commit")
        self._entities.bound()

    def undo(self) -> None:
        """Leave the transaction, if it is still open."""
        roll_back(self._writer)
        self._entities.forget(self._names)


def append_group(
    writer: apsw.Connection, entities: EntityRows, requests: Sequence[AppendRequest], now_us: int
) -> OpenAppend:
    """The whole of it: outcomes, events stored and the head's position, after the synced commit."""
    writer.execute("BEGIN IMMEDIATE")
    append = OpenAppend(writer, entities, requests, now_us)
    append.commit()
    return append


def _names(requests: Sequence[AppendRequest]) -> dict[str, None]:
    """All entities of a group."""
    names: dict[str, None] = {}
    for request in requests:
        names.update(dict.fromkeys(request.events.persistence_id))
        if isinstance(request, LocalAppend):
            names.update(dict.fromkeys(request.expected))
        else:
            names.update(dict.fromkeys(stated.persistence_id for stated in request.ranges))
    return names


def append_within(writer: apsw.Connection, entities: EntityRows, request: PushedAppend, now_us: int) -> AppendOutcome:
    """Judge and store inside the caller's transaction. When that fails, ``entities`` must be forgotten."""
    names = dict.fromkeys([*request.events.persistence_id, *(stated.persistence_id for stated in request.ranges)])
    [outcome], _, _ = _Group(writer, entities, now_us).run([request], names)
    return outcome


class _Group:
    """One transaction's work."""

    def __init__(self, writer: apsw.Connection, entities: EntityRows, now_us: int) -> None:
        self._writer = writer
        self._entities = entities
        self._now_us = now_us
        self._origins = Origins(writer, now_us)
        self._accepted = EventBatch()
        self._seq_nr: list[int] = []
        self._origin_seq_nr: list[int] = []
        self._touched: dict[str, None] = {}
        self._append_ids: dict[str, tuple[bytes, Appended]] = {}
        self._new_append_ids: list[str] = []
        self._statements: list[Sequence[Statement]] = []
        self._head_position = head_position(writer)

    def run(
        self, requests: Sequence[AppendRequest], names: Iterable[str]
    ) -> tuple[list[AppendOutcome], EventBatch, int]:
        """Judge in order, then write what was accepted."""
        self._heads = self._entities.heads(names)
        self._load_append_ids(requests)
        outcomes: list[AppendOutcome] = [
            self._local(request) if isinstance(request, LocalAppend) else self._pushed(request) for request in requests
        ]
        self._accepted.seq_nr, self._accepted.origin_seq_nr = self._seq_nr, self._origin_seq_nr
        self._accepted.prev_tags = link_tags(self._accepted, self._heads)
        self._entities.write(self._touched)
        stored = self._accepted
        if stored:
            stored = store_events(self._writer, self._entities, stored, self._now_us)
        if self._new_append_ids:
            self._store_append_ids()
        if self._statements:
            run_statements(self._writer, merged(self._statements))
        return outcomes, stored, self._head_position + len(stored)

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
            return admit_repeat(request, *known)
        judged = admit_local(request, self._heads)
        if isinstance(judged, AppendRefused):
            return judged
        appended = Appended(self._head_position + 1 + len(self._accepted), judged)
        self._accept(request.events, judged, [0] * len(judged))
        self._touched.update(dict.fromkeys(request.events.persistence_id))
        if request.append_id:
            self._append_ids[request.append_id] = (request.digest, appended)
            self._new_append_ids.append(request.append_id)
        if request.statements:
            self._statements.append(request.statements)
        return appended

    def _pushed(self, request: PushedAppend) -> Pushed | Fenced | OutOfStep | OriginBlocked:
        refused = self._origins.compare(request)
        if refused:
            return refused
        admission = admit_pushed(
            request, self._heads, self._origins.parked_to(request), partial(self._origins.ranges_of, request)
        )
        touched = dict.fromkeys(request.events.persistence_id)
        touched.update(dict.fromkeys(stated.persistence_id for stated in request.ranges))
        if admission.parked:
            already = self._origins.parked_count(request.origin_id)
            if already + len(admission.parked) > request.parked_max:
                # Judging has changed heads; nobody else in the group has any of them.
                self._entities.forget(touched)
                self._entities.heads(touched)
                return OriginBlocked(already, request.parked_max)
            self._origins.park(request, admission.parked)
        self._origins.cut_ranges(request, admission.returned)
        self._origins.keep_ranges(request.origin_id, request.branch, admission.skipped)
        self._origins.move(request)
        # what was not allowed has made no head
        self._touched.update((name, None) for name in touched if name in self._heads)
        accepted = _accepted_events(request, admission)
        self._accept(accepted, admission.seq_nr, accepted.seq_nr)
        answer = tuple(parked for _, parked in admission.parked)
        return Pushed(request.through.position, len(admission.accepted), answer)

    def _accept(self, events: EventBatch, seq_nr: list[int], origin_seq_nr: list[int]) -> None:
        """Take events into the group's batch; it gets their numbers when it is whole."""
        self._accepted.extend(events)
        self._seq_nr += seq_nr
        self._origin_seq_nr += origin_seq_nr

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


def _accepted_events(request: PushedAppend, admission: PushAdmission) -> EventBatch:
    whole = len(admission.accepted) == len(request.events)
    return request.events if whole else request.events.select(admission.accepted)


def store_events(writer: apsw.Connection, entities: EntityRows, events: EventBatch, now_us: int) -> EventBatch:
    """Write the events after the head and move it: positions and times go up by one from event to event.

    Their entities are written and their numbers and ``prev_tags`` set by the caller, their positions and times here;
    answers the events as a reader will find them.
    """
    n = len(events)
    before, head_timestamp_us = writer.execute("SELECT head_position, head_timestamp_us FROM journal").get
    position = before + 1
    timestamp_us = max(now_us, head_timestamp_us + 1)
    events = replace(
        events,
        position=list(range(position, position + n)),
        timestamp_us=list(range(timestamp_us, timestamp_us + n)),
        stored_us=[now_us] * n,
        prev_seq_nr=[seq_nr - 1 for seq_nr in events.seq_nr],
    )
    columns = (
        events.position,
        events.timestamp_us,
        events.stored_us,
        events.event_time_us,
        entities.numbers(events.persistence_id),
        map(slice_of, events.persistence_id),
        events.seq_nr,
        events.origin_seq_nr,
        events.event_type,
        events.codec,
        events.payload,
        events.tags,
        events.metadata,
        events.prev_tags,
    )
    insert_rows(writer, "event", 14, columns)
    indexes.add(writer, events)
    writer.execute(
        "UPDATE journal SET head_position = ?, head_timestamp_us = ?", (position + n - 1, timestamp_us + n - 1)
    )
    return events


def forget_append_ids(writer: apsw.Connection, through: int, max_rows: int) -> int:
    """See ``LogStore.forget_append_ids``."""
    writer.execute(
        "DELETE FROM append_id WHERE append_id IN"
        " (SELECT append_id FROM append_id WHERE first_position <= ? ORDER BY first_position LIMIT ?)",
        (through, max_rows),
    )
    return writer.changes()
