"""A group of append requests as the arguments of ``append_batch``, and its answer as their outcomes; pure.

The server function judges (``sql/postgres/functions/append_batch.sql``); here requests become arrays and back. What a batch
says about itself is found out here, where it costs the database nothing: which entities it has, and whether its events
follow each other within each of them, so that the server need only look at the entities' heads.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from typing import Any, TypeVar

import orjson

from common.core.events.batch import EventBatch, concat
from common.core.events.ids import entity_type_of, slice_of
from common.core.journal.admission import Heads, admit_local, admit_repeat
from common.core.journal.append import (
    Appended,
    AppendOutcome,
    AppendRefused,
    AppendRequest,
    Fenced,
    LocalAppend,
    OriginBlocked,
    OutOfStep,
    ParkedEvent,
    Pushed,
    PushedAppend,
    PushLane,
)
from common.core.journal.statement import Statement, merged

T = TypeVar("T")

_TYPES = [
    *("bigint", *["boolean"] * 2, "int[]", *["text[]"] * 6, *["bigint[]"] * 8),
    *("text[]", "bigint[]", *["int[]"] * 3, *["bigint[]"] * 3, *["int[]"] * 2, "text[]"),
    *(*["int[]"] * 4, "bigint[]", "bigint[]", "int[]", "text[]", "int[]", "text[]"),
    *("int[]", *["bigint[]"] * 3, *["text[]"] * 4, "int[]", "bytea"),
    *("bigint", *["text"] * 4, *["bytea"] * 4),
]


def _parameter(number: int, type_: str) -> str:
    if type_ == "text[]":
        return f"texts(${number})"
    return f"${number}::text::{type_}" if type_.endswith("[]") else f"${number}::{type_}"


APPEND_SQL = f"SELECT * FROM append_batch({', '.join(map(_parameter, range(1, len(_TYPES) + 1), _TYPES))})"

# s_lane of the function's arguments
_LANES = {PushLane.LIVE: 0, PushLane.BACKFILL: 1, PushLane.PAST: 2}
# s_session of a stream that began under another generation of the journal
_NO_SESSION = -1
# s_code of the function's answer
_STORED, _WRONG_SEQ, _FOREIGN_OWNER, _SEEN, _FENCED, _OUT_OF_STEP, _BLOCKED = range(7)


@dataclass(slots=True)
class GroupEntities:
    """The distinct entities of a group, numbered from 1 in order of first appearance; a list per attribute."""

    index: dict[str, int] = field(default_factory=dict)
    sub: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    prev: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    expect: list[int] = field(default_factory=list)
    range: list[int] = field(default_factory=list)

    def number(self, persistence_id: str, sub: int) -> int:
        found = self.index.get(persistence_id)
        if found is None:
            found = self.index[persistence_id] = len(self.index) + 1
            self.sub.append(sub)
            self.count.append(0)
            self.prev.append(0)
            self.last.append(0)
            self.expect.append(-1)
            self.range.append(0)
        assert self.sub[found - 1] == sub, f"{persistence_id} is in two sub-batches that may not share a group"
        return found


@dataclass(slots=True)
class AppendCall:
    """One call of ``append_batch``: its arguments in order, and what is needed to read the answer."""

    requests: Sequence[AppendRequest]
    events: EventBatch
    now_us: int
    wants_all: bool
    generation_id: str
    arguments: tuple[Any, ...]
    entities: list[str]
    entity_sub: list[int]
    event_entity: list[int]
    event_seq: list[int]

    @classmethod
    def of(
        cls,
        requests: Sequence[AppendRequest],
        now_us: int,
        entity_no: Mapping[str, int],
        *,
        generation_id: str = "",
        wants_all: bool = False,
    ) -> AppendCall:
        """Arrays of a group whose requests may share one (``group_commit.Group``).

        ``entity_no`` holds the numbers of entities that are known from earlier answers on the same connection.
        ``generation_id`` is the journal's newest: what was pushed to another one is refused as of no session. ``wants_all``
        asks for what ``stored`` needs.
        """
        entities = GroupEntities()
        event_entity: list[int] = []
        event_seq: list[int] = []
        regular = True
        expectations: list[tuple[int, int]] = []
        ranges: list[tuple[int, int, int, int, str]] = []
        range_next: list[int] = []
        poison: list[tuple[int, str]] = []
        for sub, request in enumerate(requests, start=1):
            if isinstance(request, LocalAppend):
                number_local(request, entities, event_entity, event_seq)
                for name, seq_nr in request.expected.items():
                    ent = entities.number(name, 0)
                    entities.expect[ent - 1] = seq_nr
                    expectations.append((sub, ent))
                continue
            poison += [(len(event_entity) + i + 1, request.poison[i]) for i in sorted(request.poison)]
            continuous = number_pushed(request, sub, entities, event_entity)
            event_seq += request.events.seq_nr
            leading = _chain_ranges(request, sub, entities, ranges, range_next)
            regular = regular and continuous and leading and not request.poison
        events = requests[0].events if len(requests) == 1 else concat(request.events for request in requests)
        names = list(entities.index)
        types, n_type = _types(entities)
        columns = [shared_column(values) for values in (events.event_type, events.codec, events.tags, events.metadata)]
        times, time = shared_column(events.event_time_us)
        s_events, s_origin, *s_numbers, journal, generation, entity, append_id, digest = _sub_batches(
            requests, generation_id
        )
        r_sub, r_ent, r_from, r_to, r_reason = transposed(ranges, 5)
        x_sub, x_ent = transposed(expectations, 2)
        p_event, p_code = transposed(poison, 2)
        arguments = (
            now_us,
            regular,
            wants_all,
            int_array(s_events),
            *map(text_array, (s_origin, journal, generation, entity, append_id, digest)),
            *map(int_array, s_numbers),
            text_array(names),
            int_array([entity_no.get(name, 0) for name in names]),
            int_array([slice_of(name) if count else 0 for name, count in zip(names, entities.count, strict=True)]),
            *map(int_array, (entities.sub, entities.count, entities.prev, entities.last)),
            int_array(entities.expect if expectations else []),
            int_array(entities.range if ranges else []),
            int_array(n_type),
            text_array(types),
            *map(int_array, (x_sub, x_ent, r_sub, r_ent, r_from, r_to, range_next)),
            text_array(r_reason),
            int_array(p_event),
            text_array(p_code),
            int_array(event_entity),
            int_array(event_seq),
            int_array([] if regular else events.prev_seq_nr),
            int_array(times),
            *(text_array(values) for values, _ in columns),
            int_array(list(accumulate(map(len, events.payload)))),
            b"".join(events.payload),
            time or 0,
            *(value or "" for _, value in columns),
            *map(_packed, (events.position, events.timestamp_us, events.stored_us, events.origin_seq_nr)),
        )
        return cls(
            requests, events, now_us, wants_all, generation_id, arguments, names, entities.sub, event_entity, event_seq
        )

    def _numbers(self, answer: Mapping[str, Any]) -> list[int]:
        """Each event's number, 0 = not stored; empty when nobody asked."""
        base: list[int] = answer["n_base"]
        if base:
            return [base[ent - 1] + seq for ent, seq in zip(self.event_entity, self.event_seq, strict=True)]
        numbers: list[int] = answer["stored_seq"]
        return numbers

    def stored(self, answer: Mapping[str, Any]) -> EventBatch:
        """The events that were stored, as a reader will find them; the call must have been made with ``wants_all``."""
        numbers = self._numbers(answer)
        kept = [index for index, number in enumerate(numbers) if number]
        events = self.events if len(kept) == len(numbers) else self.events.select(kept)
        numbers = numbers if events is self.events else [numbers[index] for index in kept]
        before: list[str] = answer["e_before"] or [""] * len(self.events)
        is_pushed = [sub > 0 for sub in self.entity_sub]
        pushed = (is_pushed[self.event_entity[index] - 1] for index in kept)
        return as_stored(
            events,
            numbers,
            head_position=answer["head_position"],
            first_us=answer["first_timestamp"],
            stored_us=self.now_us,
            origin_seq_nr=[seq if was else 0 for seq, was in zip(events.seq_nr, pushed, strict=True)],
            prev_tags=[before[index] for index in kept],
        )

    @property
    def has_statements(self) -> bool:
        """Whether any request has statements to run with it."""
        return any(isinstance(request, LocalAppend) and request.statements for request in self.requests)

    def statements_of(self, outcomes: Sequence[AppendOutcome]) -> list[Statement]:
        """Those of the requests that were stored now."""
        return merged([
            request.statements
            for request, reported in zip(self.requests, outcomes, strict=True)
            if isinstance(request, LocalAppend) and isinstance(reported, Appended) and not reported.repeated
        ])  # fmt: skip

    def outcomes(self, answer: Mapping[str, Any]) -> list[AppendOutcome]:
        """One outcome a request, in order."""
        numbers = self._numbers(answer)
        parked = list(zip(answer["parked_event"], answer["parked_code"], strict=True))
        seen_seq = iter(answer["seen_seq"])
        reported: list[AppendOutcome] = []
        start = 0
        for sub, request in enumerate(self.requests):
            stop = start + len(request.events)
            code, first, number = answer["s_code"][sub], answer["s_first"][sub], answer["s_number"][sub]
            if isinstance(request, PushedAppend):
                mine = [(event - start - 1, why) for event, why in parked if start < event <= stop]
                reported.append(_pushed_outcome(request, code, number, mine))
            elif code == _SEEN:
                stored = Appended(first, list(islice(seen_seq, number)))
                reported.append(admit_repeat(request, bytes.fromhex(answer["s_seen"][sub]), stored))
            elif code == _STORED:
                reported.append(Appended(first, numbers[start:stop]))
            else:
                name = self.entities[answer["s_entity"][sub] - 1]
                reported.append(_refused(code, name, answer["s_owner"][sub], expected=first, actual=number))
            start = stop
        return reported


def as_stored(
    events: EventBatch,
    numbers: list[int],
    *,
    head_position: int,
    first_us: int,
    stored_us: int,
    origin_seq_nr: list[int],
    prev_tags: list[str],
) -> EventBatch:
    """A group's events as a reader will find them: at the end of a log whose head is at ``head_position`` after it."""
    n = len(events)
    first = head_position + 1 - n
    return replace(
        events,
        position=list(range(first, first + n)),
        timestamp_us=list(range(first_us, first_us + n)),
        stored_us=[stored_us] * n,
        seq_nr=numbers,
        prev_seq_nr=[number - 1 for number in numbers],
        origin_seq_nr=origin_seq_nr,
        prev_tags=prev_tags,
    )


def only_asks(request: AppendRequest) -> bool:
    """Whether a request stores nothing, whatever becomes of it: all it wants is to know entities' numbers confirmed."""
    return isinstance(request, LocalAppend) and not (request.events or request.append_id or request.statements)


def answers(requests: Sequence[AppendRequest], head_position: int, heads: Heads) -> list[AppendOutcome]:
    """The outcomes of requests that only ask, from the heads of the entities they name."""
    reported: list[AppendOutcome] = []
    for request in requests:
        assert isinstance(request, LocalAppend)
        numbers = admit_local(request, heads)
        reported.append(numbers if isinstance(numbers, AppendRefused) else Appended(head_position + 1, numbers))
    return reported


def _types(entities: GroupEntities) -> tuple[list[str], list[int]]:
    """The entity types of the events, and for each entity the place of its type (from 1); no places for a single type."""
    places: dict[str, int] = {}
    n_type = []
    for name, count in zip(entities.index, entities.count, strict=True):
        n_type.append(places.setdefault(entity_type_of(name), len(places) + 1) if count else 0)
    return list(places), n_type if len(places) > 1 else []


def _pushed_outcome(request: PushedAppend, code: int, number: int, parked: Sequence[tuple[int, str]]) -> AppendOutcome:
    if code == _FENCED:
        return Fenced(number)
    if code == _OUT_OF_STEP:
        return OutOfStep(number)
    if code == _BLOCKED:
        return OriginBlocked(number, request.parked_max)
    events = request.events
    reported = (ParkedEvent(events.position[i], events.persistence_id[i], events.seq_nr[i], why) for i, why in parked)
    return Pushed(request.through.position, number, tuple(reported))


def _refused(code: int, name: str, owner: str, *, expected: int, actual: int) -> AppendRefused:
    # The words of common.core.journal.admission.judge_local.
    if code == _WRONG_SEQ:
        message = f"{name} is at {actual}, not at the expected {expected}"
        return AppendRefused("append.wrong_expected_seq_nr", message, name, expected, actual)
    assert code == _FOREIGN_OWNER, code
    return AppendRefused("append.foreign_owner", f"{name} is owned by {owner}: only its owner writes it", name)


def number_local(request: LocalAppend, entities: GroupEntities, event_entity: list[int], event_seq: list[int]) -> None:
    """Number the events 1, 2, 3 … within each entity of the group."""
    count = entities.count
    for persistence_id in request.events.persistence_id:
        ent = entities.number(persistence_id, 0)
        count[ent - 1] += 1
        event_entity.append(ent)
        event_seq.append(count[ent - 1])


def number_pushed(request: PushedAppend, sub: int, entities: GroupEntities, event_entity: list[int]) -> bool:
    """Whether the events follow each other within each entity, from a first one that may follow something."""
    events = request.events
    index, owner, count, last = entities.index, entities.sub, entities.count, entities.last
    continuous = True
    for persistence_id, seq_nr, prev in zip(events.persistence_id, events.seq_nr, events.prev_seq_nr, strict=True):
        ent = index.get(persistence_id)
        if ent is None:
            ent = entities.number(persistence_id, sub)
            entities.prev[ent - 1] = prev
            continuous = continuous and prev >= 0
        elif prev != last[ent - 1]:
            continuous = False
        if seq_nr != prev + 1:
            continuous = False
        assert owner[ent - 1] == sub, f"{persistence_id} is in two sub-batches that may not share a group"
        last[ent - 1] = seq_nr
        count[ent - 1] += 1
        event_entity.append(ent)
    return continuous


def _chain_ranges(
    request: PushedAppend,
    sub: int,
    entities: GroupEntities,
    ranges: list[tuple[int, int, int, int, str]],
    range_next: list[int],
) -> bool:
    """Add the stated ranges, those of one entity linked in the order they were stated.

    Answers whether they lead to the events: live, one an entity, which ends where the entity's events begin.
    """
    newest: dict[int, int] = {}
    leading = request.lane is PushLane.LIVE or not request.ranges
    for stated in request.ranges:
        ent = entities.number(stated.persistence_id, sub)
        if ent in newest or not 1 <= stated.from_seq_nr <= stated.to_seq_nr:
            leading = False
        elif not entities.count[ent - 1]:
            entities.prev[ent - 1] = entities.last[ent - 1] = stated.to_seq_nr
        elif entities.prev[ent - 1] != stated.to_seq_nr:
            leading = False
        # Numbers begin at 1; a peer that says otherwise must not make the server's arithmetic overflow.
        ranges.append((sub, ent, max(1, stated.from_seq_nr), stated.to_seq_nr, stated.reason))
        range_next.append(0)
        if ent in newest:
            range_next[newest[ent] - 1] = len(ranges)
        else:
            entities.range[ent - 1] = len(ranges)
        newest[ent] = len(ranges)
    return leading


def _sub_batches(requests: Sequence[AppendRequest], generation_id: str) -> list[list[Any]]:
    """A list per attribute: events, origin, eight numbers, and texts."""
    rows: list[tuple[Any, ...]] = []
    for request in requests:
        n = len(request.events)
        if isinstance(request, PushedAppend):
            to = request.through
            rows.append((
                n, request.origin_id, session_of(request, generation_id), request.branch, request.after_position,
                request.parked_max, to.position, to.timestamp_us, to.seq_nr, _LANES[request.lane],
                to.journal_id, to.generation_id, to.persistence_id, "", "",
            ))  # fmt: skip
        else:
            local = ("", 0, 0, 0, 0, 0, 0, 0, 0, "", "", "")
            rows.append((n, *local, request.append_id, request.digest.hex()))
    return transposed(rows, 15)


def session_of(request: PushedAppend, generation_id: str) -> int:
    """The session that the origin must have."""
    return request.session if request.generation_id in ("", generation_id) else _NO_SESSION


def transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """A list for each of so many columns."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def shared_column(values: list[T]) -> tuple[list[T], T | None]:
    """A column as it travels: one value when all are equal, which is common and costs the server nothing."""
    if values and values.count(values[0]) == len(values):
        return [], values[0]
    return values, None


# asyncpg spends 400 to 1,200 ns on every element of an array argument; a text that the server parses costs a tenth.
# So arrays travel as text, and payloads as one value with the places where each ends.
_SEPARATOR = "\x1e"


def int_array(values: list[int]) -> str:
    """The text of an array of integers."""
    # As JSON, which is written a dozen times faster than Python's own text of a list.
    return f"{{{orjson.dumps(values)[1:-1].decode()}}}"


def text_array(values: Sequence[str]) -> str:
    """Each text and a U+001E; nothing fit to be stored contains one, and what is to be parked anyway loses it."""
    if not values:
        return ""
    joined = _SEPARATOR.join(values)
    if joined.count(_SEPARATOR) != len(values) - 1 or "\0" in joined:
        joined = _SEPARATOR.join(value.translate(_UNFIT) for value in values)
    return joined + _SEPARATOR


# PostgreSQL stores no U+0000 in texts.
_UNFIT = {0: "\ufffd", 0x1E: "\ufffd"}


def _packed(values: list[int]) -> bytes:
    numbers = array("q", values)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()
