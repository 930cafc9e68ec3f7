"""A small group of appends as most are, for ``append_plain``: a third less for the server than ``append_batch``; pure.

What is plain is said in ``sql/postgres/functions/append_plain.sql``. The function stores all of the group, or nothing; then
``AppendCall`` has it judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
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
    GroupEntities,
    as_stored,
    int_array,
    number_local,
    number_pushed,
    session_of,
    shared_column,
    text_array,
    transposed,
)

# Above it, what a group costs by itself is little beside its events.
_MAX_EVENTS = 64

_TYPES = [
    *("bigint", "bigint", *["text"] * 9),
    *("bigint", *["text"] * 11),
    *("bigint", *["text"] * 8, "bytea", "bigint", *["text"] * 4),
    *("bigint", *["text"] * 4),
]

_NO_APPEND_IDS = (0, "", "", "{}", "{}")

PLAIN_SQL = f"SELECT * FROM append_plain({', '.join(f'${i}::{type_}' for i, type_ in enumerate(_TYPES, 1))})"


@dataclass(slots=True)
class PlainCall:
    """One call of ``append_plain``: its arguments in order, and what is needed to read the answer."""

    requests: Sequence[AppendRequest]
    events: EventBatch
    now_us: int
    arguments: tuple[Any, ...]
    entity_sub: list[int]
    event_entity: list[int]
    event_seq: list[int]

    @classmethod
    def of(
        cls, requests: Sequence[AppendRequest], now_us: int, entity_no: Mapping[str, int], *, generation_id: str
    ) -> PlainCall | None:
        """As ``AppendCall.of``; None when the group is not plain, or too large."""
        if not all(map(_may_be_plain, requests)):
            return None
        events = requests[0].events if len(requests) == 1 else concat(request.events for request in requests)
        if not 0 < len(events) <= _MAX_EVENTS:
            return None
        numbered = _numbered(requests)
        if numbered is None:
            return None
        entities, event_entity, event_seq = numbered
        numbers = [entity_no.get(name, 0) for name in entities.index]
        columns = [shared_column(values) for values in (events.event_type, events.codec, events.tags, events.metadata)]
        tags = _tags_of(events, entities) if columns[2][0] else []
        if 0 in numbers or tags is None:
            return None
        types = list(dict.fromkeys(map(entity_type_of, entities.index)))
        times, time = shared_column(events.event_time_us)
        arguments = (
            now_us,
            *_pushed(requests, generation_id),
            len(numbers),
            int_array(numbers),
            int_array(list(map(slice_of, entities.index))),
            *_owners(requests, entities),
            *map(int_array, (entities.count, entities.prev, entities.last, entities.expect)),
            text_array(tags),
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
            *_append_ids(requests),
        )
        return cls(requests, events, now_us, arguments, entities.sub, event_entity, event_seq)

    def _numbers(self, answer: Mapping[str, Any]) -> list[int]:
        base = answer["n_base"]
        return [base[ent - 1] + seq for ent, seq in zip(self.event_entity, self.event_seq, strict=True)]

    def stored(self, answer: Mapping[str, Any]) -> EventBatch:
        """The events as a reader will find them."""
        events = self.events
        n = len(events)
        subs = (self.entity_sub[ent - 1] for ent in self.event_entity)
        return as_stored(
            events,
            self._numbers(answer),
            head_position=answer["head_position"],
            first_us=answer["last_timestamp"] + 1 - n,
            stored_us=self.now_us,
            origin_seq_nr=[seq if sub else 0 for seq, sub in zip(events.seq_nr, subs, strict=True)],
            prev_tags=[""] * n,
        )

    def outcomes(self, answer: Mapping[str, Any]) -> list[AppendOutcome]:
        """One outcome a request, in order: all is stored."""
        numbers, reported, start = self._numbers(answer), list[AppendOutcome](), 0
        first = answer["head_position"] + 1 - len(numbers)
        for request in self.requests:
            n = len(request.events)
            if isinstance(request, PushedAppend):
                reported.append(Pushed(request.through.position, n))
            else:
                reported.append(Appended(first + start, numbers[start : start + n]))
            start += n
        return reported


def _may_be_plain(request: AppendRequest) -> bool:
    if isinstance(request, LocalAppend):
        return not request.statements
    moves = request.through.position > request.after_position
    return moves and request.lane is PushLane.LIVE and not (request.ranges or request.poison)


def _numbered(requests: Sequence[AppendRequest]) -> tuple[GroupEntities, list[int], list[int]] | None:
    """The entities of the group, and of each event the place of its entity and its number; None when it is not regular."""
    entities, event_entity, event_seq = GroupEntities(), list[int](), list[int]()
    for sub, request in enumerate(requests, start=1):
        if isinstance(request, PushedAppend):
            if not number_pushed(request, sub, entities, event_entity):
                return None
            event_seq += request.events.seq_nr
            continue
        number_local(request, entities, event_entity, event_seq)
        for name, seq_nr in request.expected.items():
            entities.expect[entities.number(name, 0) - 1] = seq_nr
    return entities, event_entity, event_seq


def _tags_of(events: EventBatch, entities: GroupEntities) -> list[str] | None:
    """The tags of each entity's events; None when those of one differ."""
    tags = dict(zip(events.persistence_id, events.tags, strict=True))
    if list(map(tags.__getitem__, events.persistence_id)) != events.tags:
        return None
    return [tags.get(name, "") for name in entities.index]


def _pushed(requests: Sequence[AppendRequest], generation_id: str) -> tuple[Any, ...]:
    """How many sub-batches are pushed; of each, by origin: session, position before; and where it ends."""
    pushed = [request for request in requests if isinstance(request, PushedAppend)]
    rows = []
    for request in sorted(pushed, key=attrgetter("origin_id")):
        to = request.through
        place = to.journal_id, to.generation_id, to.position, to.timestamp_us, to.persistence_id, to.seq_nr
        rows.append((request.origin_id, session_of(request, generation_id), request.after_position, *place))
    origin, session, after, journal, generation, position, timestamp, entity, seq = transposed(rows, 9)
    return (
        len(rows),
        text_array(origin),
        *map(int_array, (session, after)),
        *map(text_array, (journal, generation)),
        *map(int_array, (position, timestamp)),
        text_array(entity),
        int_array(seq),
    )


def _owners(requests: Sequence[AppendRequest], entities: GroupEntities) -> tuple[str, str]:
    """The origin and the branch of the sub-batch that touches each entity."""
    sides = [
        (request.origin_id, request.branch) if isinstance(request, PushedAppend) else ("", 0) for request in requests
    ]
    owner, branch = transposed([sides[sub - 1] if sub else ("", 0) for sub in entities.sub], 2)
    return text_array(owner), int_array(branch)


def _append_ids(requests: Sequence[AppendRequest]) -> tuple[Any, ...]:
    """How many append ids there are; of each its digest, and the first and last event it stands for (from 1)."""
    rows, stop = [], 0
    for request in requests:
        start, stop = stop, stop + len(request.events)
        if isinstance(request, LocalAppend) and request.append_id:
            rows.append((request.append_id, request.digest.hex(), start + 1, stop))
    if not rows:
        return _NO_APPEND_IDS
    append_id, digest, first, last = transposed(rows, 4)
    return len(rows), text_array(append_id), text_array(digest), int_array(first), int_array(last)
