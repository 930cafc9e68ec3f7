"""A small group of appends as most are, for ``append_plain``: a third less for the server than ``append_batch``; pure.

What is plain is said in ``sql/postgres/functions/append_plain.sql``. The function stores all of the group, or nothing; then
``AppendCall`` has it judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from common.core.events.batch import EventBatch, concat
from common.core.events.ids import entity_type_of, slice_of
from common.core.journal.append import (
    Appended,
    AppendOutcome,
    AppendRequest,
    LocalAppend,
    Pushed,
    PushedAppend,
    PushLane,
)
from common.journal.postgres.appends.batch import (
    NO_SESSION,
    GroupEntities,
    as_stored,
    int_array,
    number_local,
    number_pushed,
    shared_column,
    text_array,
)

# Above it, what a group costs by itself is little beside its events.
_MAX_EVENTS = 64

_TYPES = [
    *("bigint", "text", *["bigint"] * 3, *["text"] * 2, *["bigint"] * 2, "text", "bigint"),
    *("int", *["text"] * 6, "text", "text"),
    *("bigint", *["text"] * 7, "bytea", "bigint", *["text"] * 3),
]

PLAIN_SQL = f"SELECT * FROM append_plain({', '.join(f'${i}::{type_}' for i, type_ in enumerate(_TYPES, 1))})"


@dataclass(slots=True)
class PlainCall:
    """One call of ``append_plain``: its arguments in order, and what is needed to read the answer."""

    requests: Sequence[AppendRequest]
    events: EventBatch
    now_us: int
    arguments: tuple[Any, ...]
    event_entity: list[int]
    event_seq: list[int]

    @classmethod
    def of(
        cls, requests: Sequence[AppendRequest], now_us: int, entity_no: Mapping[str, int], *, generation_id: str
    ) -> PlainCall | None:
        """As ``AppendCall.of``; None when the group is not plain, or too large."""
        if not all(map(_may_be_plain, requests)):
            return None
        if len(requests) > 1 and any(isinstance(request, PushedAppend) for request in requests):
            return None
        events = requests[0].events if len(requests) == 1 else concat(request.events for request in requests)
        if not 0 < len(events) <= _MAX_EVENTS or any(events.tags):
            return None
        numbered = _numbered(requests)
        if numbered is None:
            return None
        entities, event_entity, event_seq = numbered
        numbers = [entity_no.get(name, 0) for name in entities.index]
        if 0 in numbers:
            return None
        types = list(dict.fromkeys(map(entity_type_of, entities.index)))
        columns = [shared_column(values) for values in (events.event_type, events.codec, events.metadata)]
        times, time = shared_column(events.event_time_us)
        arguments = (
            now_us,
            *_origin(requests[0], generation_id),
            len(numbers),
            int_array(numbers),
            int_array(list(map(slice_of, entities.index))),
            *map(int_array, (entities.count, entities.prev, entities.last)),
            int_array(entities.expect),
            text_array(types),
            types[0] if len(types) == 1 else "",
            len(events),
            int_array(event_entity),
            int_array(event_seq),
            int_array(times),
            *(text_array(values) for values, _ in columns),
            int_array(list(accumulate(map(len, events.payload)))),
            b"".join(events.payload),
            time or 0,
            *(value or "" for _, value in columns),
        )
        return cls(requests, events, now_us, arguments, event_entity, event_seq)

    def _numbers(self, answer: Mapping[str, Any]) -> list[int]:
        base = answer["n_base"]
        return [base[ent - 1] + seq for ent, seq in zip(self.event_entity, self.event_seq, strict=True)]

    def stored(self, answer: Mapping[str, Any]) -> EventBatch:
        """The events as a reader will find them."""
        events = self.events
        n = len(events)
        is_pushed = isinstance(self.requests[0], PushedAppend)
        return as_stored(
            events,
            self._numbers(answer),
            head_position=answer["head_position"],
            first_us=answer["last_timestamp"] + 1 - n,
            stored_us=self.now_us,
            origin_seq_nr=list(events.seq_nr) if is_pushed else [0] * n,
            prev_tags=[""] * n,
        )

    def outcomes(self, answer: Mapping[str, Any]) -> list[AppendOutcome]:
        """One outcome a request, in order: all is stored."""
        only = self.requests[0]
        if isinstance(only, PushedAppend):
            return [Pushed(only.through.position, len(self.events))]
        numbers, reported, start = self._numbers(answer), list[AppendOutcome](), 0
        first = answer["head_position"] + 1 - len(numbers)
        for request in self.requests:
            stop = start + len(request.events)
            reported.append(Appended(first + start, numbers[start:stop]))
            start = stop
        return reported


def _may_be_plain(request: AppendRequest) -> bool:
    if isinstance(request, LocalAppend):
        return not (request.append_id or request.statements)
    return request.lane is PushLane.LIVE and not (request.ranges or request.poison)


def _numbered(requests: Sequence[AppendRequest]) -> tuple[GroupEntities, list[int], list[int]] | None:
    """The entities of the group, and of each event the place of its entity and its number; None when it is not regular."""
    entities, event_entity, event_seq = GroupEntities(), list[int](), list[int]()
    for request in requests:
        if isinstance(request, PushedAppend):
            if not number_pushed(request, 1, entities, event_entity):
                return None
            event_seq += request.events.seq_nr
            continue
        number_local(request, entities, event_entity, event_seq)
        for name, seq_nr in request.expected.items():
            entities.expect[entities.number(name, 0) - 1] = seq_nr
    return entities, event_entity, event_seq


def _origin(request: AppendRequest, generation_id: str) -> tuple[Any, ...]:
    """Origin, session, branch, position before; journal, generation, position, timestamp, entity and number after."""
    if isinstance(request, LocalAppend):
        return "", 0, 0, 0, "", "", 0, 0, "", 0
    to = request.through
    session = request.session if request.generation_id in ("", generation_id) else NO_SESSION
    place = to.journal_id, to.generation_id, to.position, to.timestamp_us, to.persistence_id, to.seq_nr
    return request.origin_id, session, request.branch, request.after_position, *place
