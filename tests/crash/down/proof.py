"""Did the way down hold? What an inbox brought, compared with the log and the filters that were asked for. Pure.

A row is an event of the log that some filter wanted, or the past of one: whatever its entity had before it. An entity
comes from its first number (or a snapshot in its place) without a hole, in order, once; what entered before the end has
come up to its last selected number, and what the last filter wants to its last. Only what the log itself has lost to
retention may be missing, and where a consumer starts from snapshots, what they stand for.

`late` is wanted from a number on, and what lies below may be missing. Where a filter states a lower number than one before, a
restart mark sets its known number back: from there its numbers rise again, and only from there may one come twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from tests.crash.consumer import NEVER, Row, Wanted
from tests.crash.orders import AWAY, HOME, LATE, Order

_NAMED_MAX: Final = 3


def examine_inbox(
    orders: Sequence[Order],
    rows: Sequence[Row],
    wanted: Sequence[Wanted],
    deleted_to: Mapping[str, int],
    *,
    from_snapshots: bool = False,
) -> list[str]:
    """What does not hold. ``deleted_to`` is up to which number retention removed an entity's events at the source."""
    by_entity: dict[str, list[Order]] = defaultdict(list)
    for order in orders:
        by_entity[order.entity_id].append(order)
    got: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        got[row.entity_id].append(row)
    events = [row for row in rows if row.is_event]
    problems = [*_complaints("are not as in the log", _invented(by_entity, events))]
    problems += _complaints("were never wanted", _unwanted(by_entity, events, wanted))
    problems += _complaints("are not in their entity's order", _disordered(got))
    problems += _complaints("were said to be deleted and are not", _kept(got, deleted_to))
    problems += _complaints("begin again and nobody asked for it", _unasked(got, wanted))
    problems += _complaints("came after a hole", _holes(got, wanted))
    problems += _complaints("did not come", _unfinished(by_entity, got, wanted[-1]))
    if not from_snapshots:
        problems += _complaints("of movers did not come", _missed(by_entity, got, deleted_to))
    problems += _complaints("of movers are wrongly marked as leaving or not", _mismarked(by_entity, events))
    return problems


def _stretches(rows: Sequence[Row]) -> list[list[Row]]:
    """An entity's rows, parted at restart marks: each stretch but the first begins with one."""
    found: list[list[Row]] = [[]]
    for row in rows:
        if row.restarts:
            found.append([])
        found[-1].append(row)
    return found


def _invented(log: Mapping[str, Sequence[Order]], rows: Iterable[Row]) -> Iterable[str]:
    for row in rows:
        entity = log.get(row.entity_id, ())
        order = entity[row.seq_nr - 1] if row.seq_nr <= len(entity) else None
        found = row.seq_nr, row.tags, row.payload
        is_same = order is not None and found == (order.seq_nr, (f"t:{order.topic}",), order.payload)
        # A snapshot may be of an event that was deleted: its position is not known then.
        if not is_same or (not row.replaces and order is not None and row.position != order.position):
            yield f"{row} instead of {order}"


def _kept(got: Mapping[str, Sequence[Row]], deleted_to: Mapping[str, int]) -> Iterable[str]:
    for entity, rows in got.items():
        for stretch in _stretches(rows):
            for index, mark in enumerate(stretch):
                if mark.deleted:
                    numbers = range(_stated_from(mark), _payload(mark)["to_seq_nr"] + 1)
                    came = any(row.seq_nr in numbers for row in stretch[:index] if row.is_event)
                    if came or mark.seq_nr != numbers[-1] or mark.seq_nr > deleted_to.get(entity, 0):
                        yield f"{entity}:{numbers[0]}-{numbers[-1]}"


def _unasked(got: Mapping[str, Sequence[Row]], wanted: Sequence[Wanted]) -> Iterable[str]:
    """A restart mark is of a filter that states a lower number than one between it and the mark before."""
    stated = [one.late_from for one in wanted]
    highest = max((first for first in stated if first != NEVER), default=0)
    for entity, rows in got.items():
        at = 0  # the filter of the mark before, at the earliest
        for before, stretch in pairwise(_stretches(rows)):
            mark = stretch[0]
            first = _stated_from(mark)
            asked = (one for one in range(at + 1, len(stated)) if stated[one] == first < max(stated[at:one]))
            found = next(asked, None) if entity == LATE and mark.seq_nr == first - 1 else None
            known = max(highest - 1, *(row.seq_nr for row in before), 0)  # what lies below a start is known too
            if found is None or first > known:
                yield f"{entity} from {first}"
            at = found or at


def _unwanted(log: Mapping[str, Sequence[Order]], rows: Iterable[Row], wanted: Sequence[Wanted]) -> Iterable[str]:
    """What lies behind the last event that a filter selected, or below every number that was stated."""
    ever = frozenset().union(*(one.topics for one in wanted))
    lowest = min(one.late_from for one in wanted)
    last = {
        entity: max((order.seq_nr for order in orders if {order.topic, order.before} & ever), default=0)
        for entity, orders in log.items()
    }
    for row in rows:
        if row.seq_nr > last.get(row.entity_id, 0) or (row.entity_id == LATE and row.seq_nr < lowest):
            yield f"{row.entity_id}:{row.seq_nr}"


def _disordered(got: Mapping[str, Sequence[Row]]) -> Iterable[str]:
    for entity, rows in got.items():
        for stretch in _stretches(rows):
            numbers = [row.seq_nr for row in stretch]
            if any(later <= sooner for sooner, later in pairwise(numbers)):
                yield f"{entity}: {numbers}"


def _holes(got: Mapping[str, Sequence[Row]], wanted: Sequence[Wanted]) -> Iterable[str]:
    """Numbers that are missing before an event; below a start that a filter stated they are not wanted.

    In the last stretch only the last filter's start counts: for a lower one than before, the entity would begin again.
    """
    starts = {one.late_from for one in wanted}
    for entity, rows in got.items():
        stretches = _stretches(rows)
        for stretch in stretches:
            known = 0
            for row in stretch:
                first = _stated_from(row) if row.deleted else row.seq_nr
                is_start = entity == LATE and first in starts
                if stretch is stretches[-1]:
                    is_start = is_start and first <= wanted[-1].late_from
                if first != known + 1 and not (row.replaces or row.restarts or is_start):
                    yield f"{entity}:{first} after {known}"
                known = row.seq_nr


def _unfinished(
    log: Mapping[str, Sequence[Order]], got: Mapping[str, Sequence[Row]], last_filter: Wanted
) -> Iterable[str]:
    """The last event of an entity that the last filter wants has come, as its last."""
    for entity, orders in log.items():
        last = orders[-1]
        is_wanted = last.topic in last_filter.topics and (entity != LATE or last.seq_nr >= last_filter.late_from)
        came = [row.seq_nr for row in _stretches(got.get(entity, ()))[-1] if row.is_event]
        if is_wanted and came[-1:] != [last.seq_nr]:
            yield f"{entity}:{last.seq_nr} (at {last.position}, the last that came is {came[-1] if came else 0})"


def _missed(
    log: Mapping[str, Sequence[Order]], got: Mapping[str, Sequence[Row]], deleted_to: Mapping[str, int]
) -> Iterable[str]:
    """A mover's events up to the last at home, or the one with which it leaves: that is in every filter.

    A snapshot stands for some.
    """
    for entity, orders in log.items():
        if entity.startswith("mover"):
            rows = [row for row in got.get(entity, ()) if row.is_event]
            came = {row.seq_nr for row in rows}
            replaced_to = max((row.seq_nr for row in rows if row.replaces), default=0)
            last = max((order.seq_nr for order in orders if HOME in (order.topic, order.before)), default=0)
            for order in orders[:last]:
                is_excused = order.seq_nr <= max(deleted_to.get(entity, 0), replaced_to)
                if order.seq_nr not in came and not is_excused:
                    yield f"{entity}:{order.seq_nr} at {order.position}"


def _mismarked(log: Mapping[str, Sequence[Order]], rows: Iterable[Row]) -> Iterable[str]:
    for row in rows:
        if row.entity_id.startswith("mover") and not row.replaces:
            for order in log.get(row.entity_id, ())[row.seq_nr - 1 : row.seq_nr]:
                if row.leaving != (order.topic == AWAY and order.before == HOME):
                    yield f"{row.entity_id}:{row.seq_nr}"


def _payload(mark: Row) -> Mapping[str, int]:
    assert isinstance(mark.payload, Mapping)
    return mark.payload


def _stated_from(mark: Row) -> int:
    return _payload(mark)["from_seq_nr"]


def _complaints(what: str, found: Iterable[str]) -> Iterable[str]:
    names = list(found)
    if names:
        more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
        yield f"{len(names)} events {what}: {', '.join(names[:_NAMED_MAX])}{more}"
