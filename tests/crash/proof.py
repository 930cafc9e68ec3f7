"""Did it hold? The stores after the end, compared with what was asked and answered. Pure; nothing was counted on the way.

An acknowledged append is where the answer said, at the edge (unless retention removed it) and in the cloud under the
same number of the same entity; one whose answer never came is there whole or not at all; nothing else is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from common.projection.tally import Tally
from tests.crash.ledger import Request

_NAMED_MAX: Final = 3


class Row(NamedTuple):
    """An event as a journal holds it; ``position`` and ``seq_nr`` are that journal's."""

    position: int
    timestamp_us: int
    entity: str
    seq_nr: int
    origin_seq_nr: int
    payload: bytes


class Latest(NamedTuple):
    """A row of the projection `latest`."""

    seq_nr: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class JournalContent:
    """A journal in log order. ``deleted_through`` is the highest position that retention removed."""

    rows: Sequence[Row]
    head: int
    deleted_through: int
    parked: int


@dataclass(frozen=True, slots=True)
class CloudContent:
    """The cloud's journal, a fold of it, and the tables of its projections."""

    journal: JournalContent
    folded: Mapping[str, Tally]
    tally: Mapping[str, Tally]
    latest: Mapping[str, Latest]


@dataclass(frozen=True, slots=True)
class Finding:
    """What the comparison says. It held when ``problems`` is empty."""

    acknowledged: int
    given_up: int
    given_up_stored: int
    at_edge: int
    in_cloud: int
    missing: int
    duplicates: int
    out_of_order: int
    problems: tuple[str, ...]


def examine(requests: Sequence[Request], edge: JournalContent, cloud: CloudContent) -> Finding:
    """Compare everything with everything."""
    problems = [
        *_shape("the edge's journal", edge, own=True),
        *_shape("the cloud's journal", cloud.journal, own=False),
        *_at_edge(requests, edge),
        *_projected(cloud),
    ]
    place = {row.payload: index for index, row in enumerate(cloud.journal.rows)}
    duplicates = len(cloud.journal.rows) - len(place)
    if duplicates:
        problems.append(f"{duplicates} events are more than once in the cloud")
    missing: list[str] = []
    stored_unanswered = accounted = 0
    for request in requests:
        there = [event.payload in place for event in request.events]
        accounted += sum(there)
        if request.is_answered:
            missing += _not_as_answered(request, cloud.journal.rows, place)
        elif any(there):
            stored_unanswered += 1
            if not all(there):
                problems.append(f"{request.key} was not answered and is in the cloud in part: {there}")
        indexes = [place[event.payload] for event in request.events if event.payload in place]
        if any(later <= sooner for sooner, later in pairwise(indexes)):
            problems.append(f"the events of {request.key} are in another order in the cloud")
    if missing:
        problems.append(f"{len(missing)} acknowledged events are not in the cloud as answered: {_named(missing)}")
    if accounted != len(place):
        problems.append(f"the cloud holds {len(place) - accounted} events that nobody sent")
    out_of_order = _out_of_order(cloud.journal.rows)
    if out_of_order:
        problems.append(f"{len(out_of_order)} events in the cloud are out of order: {_named(out_of_order)}")
    return Finding(
        acknowledged=sum(len(request.events) for request in requests if request.is_answered),
        given_up=sum(request.was_abandoned for request in requests),
        given_up_stored=stored_unanswered,
        at_edge=len(edge.rows),
        in_cloud=len(cloud.journal.rows),
        missing=len(missing),
        duplicates=duplicates,
        out_of_order=len(out_of_order),
        problems=tuple(problems),
    )


def _shape(name: str, journal: JournalContent, *, own: bool) -> Iterable[str]:
    """Positions without holes, times that rise, nothing parked; numbers equal the sender's."""
    wanted = range(journal.deleted_through + 1, journal.head + 1)
    if [row.position for row in journal.rows] != list(wanted):
        yield f"{name} should hold positions {wanted.start} to {wanted.stop - 1} and holds {len(journal.rows)} events"
    if any(later.timestamp_us <= sooner.timestamp_us for sooner, later in pairwise(journal.rows)):
        yield f"{name} has timestamps that do not rise"
    if journal.parked:
        yield f"{name} holds {journal.parked} parked events"
    if not own and journal.deleted_through:
        yield f"{name} was trimmed"
    changed = [f"{row.entity}:{row.seq_nr}" for row in journal.rows if not own and row.seq_nr != row.origin_seq_nr]
    if changed:
        yield f"{name} numbers {len(changed)} events otherwise than the edge: {_named(changed)}"


def _at_edge(requests: Iterable[Request], edge: JournalContent) -> Iterable[str]:
    """What was acknowledged stands at the position that was answered, unless it was removed."""
    rows = {row.position: row for row in edge.rows}
    wrong = []
    for request in requests:
        if not request.is_answered:
            continue
        for offset, (event, seq_nr) in enumerate(zip(request.events, request.seq_nr, strict=True)):
            position = request.first_position + offset
            if position <= edge.deleted_through:
                continue
            row = rows.get(position)
            if row is None or (row.entity, row.seq_nr, row.payload) != (event.entity, seq_nr, event.payload):
                wrong.append(f"{request.key} at {position}")
    if wrong:
        yield f"{len(wrong)} acknowledged events are not in the edge's journal as answered: {_named(wrong)}"


def _not_as_answered(request: Request, rows: Sequence[Row], place: Mapping[bytes, int]) -> Iterable[str]:
    for event, seq_nr in zip(request.events, request.seq_nr, strict=True):
        index = place.get(event.payload)
        if index is None or (rows[index].entity, rows[index].seq_nr) != (event.entity, seq_nr):
            yield f"{event.entity}:{seq_nr} of {request.key}"


def _out_of_order(rows: Iterable[Row]) -> list[str]:
    """Events whose number is not one more than that of the event of their entity before: repeats, holes, steps back."""
    last: dict[str, int] = {}
    wrong = []
    for row in rows:
        if row.seq_nr != last.get(row.entity, 0) + 1:
            wrong.append(f"{row.entity}:{row.seq_nr} after {last.get(row.entity, 0)}")
        last[row.entity] = row.seq_nr
    return wrong


def _projected(cloud: CloudContent) -> Iterable[str]:
    """`tally` has counted every event once, `latest` has the last one of each entity."""
    for entity in sorted(cloud.folded.keys() | cloud.tally.keys()):
        folded, stored = cloud.folded.get(entity), cloud.tally.get(entity)
        if folded != stored:
            yield f"tally of {entity}: the table says {stored}, the journal {folded}"
    last = {row.entity: Latest(row.seq_nr, row.payload) for row in cloud.journal.rows}
    wrong = sorted(
        entity for entity in last.keys() | cloud.latest.keys() if last.get(entity) != cloud.latest.get(entity)
    )
    if wrong:
        yield f"latest is wrong for {len(wrong)} entities: {_named(wrong)}"


def _named(things: Sequence[str]) -> str:
    more = len(things) - _NAMED_MAX
    return ", ".join(things[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
