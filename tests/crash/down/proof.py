"""Did the way down hold? What an inbox brought, compared with the log and the filters that were asked for. Pure.

A row is an event of the log that some filter wanted, in the order of its entity, once. An entity that stays at its site
has come from its first number (or a snapshot in its place) without a hole, and to its last if the last filter wants it.
Movers have come exactly as their tags say. Only what the log itself has lost to retention may be missing, and where
a consumer starts from snapshots, what they stand for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from tests.crash.consumer import Row
from tests.crash.orders import AWAY, LATE, Order

_NAMED_MAX: Final = 3


def examine_inbox(
    orders: Sequence[Order],
    rows: Sequence[Row],
    wanted: Sequence[frozenset[str]],
    deleted_to: Mapping[str, int],
    *,
    from_snapshots: bool = False,
) -> list[str]:
    """What does not hold. ``deleted_to`` is up to which number retention removed an entity's events at the source."""
    by_entity: dict[str, list[Order]] = defaultdict(list)
    for order in orders:
        by_entity[order.entity_id].append(order)
    marks, rows = [row for row in rows if row.deleted], [row for row in rows if not row.deleted]
    got: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        got[row.entity_id].append(row)
    ever = frozenset().union(*wanted)
    problems = [*_complaints("are not as in the log", _invented(by_entity, rows))]
    problems += _complaints("were never wanted", _unwanted(by_entity, rows, ever))
    problems += _complaints("are not in their entity's order", _disordered(got))
    problems += _complaints("were said to be deleted and are not", _kept(marks, got, deleted_to))
    problems += _complaints("came after a hole", _holes(got))
    problems += _complaints("did not come", _unfinished(by_entity, got, wanted[-1]))
    if not from_snapshots:
        problems += _complaints("of movers did not come", _missed(by_entity, got, deleted_to))
    problems += _complaints("of movers are wrongly marked as leaving or not", _mismarked(rows))
    return problems


def _invented(log: Mapping[str, Sequence[Order]], rows: Iterable[Row]) -> Iterable[str]:
    for row in rows:
        entity = log.get(row.entity_id, ())
        order = entity[row.seq_nr - 1] if row.seq_nr <= len(entity) else None
        found = row.seq_nr, row.tags, row.payload
        is_same = order is not None and found == (order.seq_nr, (f"t:{order.topic}",), order.payload)
        # A snapshot may be of an event that was deleted: its position is not known then.
        if not is_same or (not row.replaces and order is not None and row.position != order.position):
            yield f"{row} instead of {order}"


def _kept(marks: Iterable[Row], got: Mapping[str, Sequence[Row]], deleted_to: Mapping[str, int]) -> Iterable[str]:
    for mark in marks:
        stated = mark.payload
        assert isinstance(stated, Mapping)
        numbers = range(stated["from_seq_nr"], stated["to_seq_nr"] + 1)
        came = any(row.seq_nr in numbers for row in got.get(mark.entity_id, ()) if row.id < mark.id)
        if came or mark.seq_nr != numbers[-1] or mark.seq_nr > deleted_to.get(mark.entity_id, 0):
            yield f"{mark.entity_id}:{numbers[0]}-{numbers[-1]}"


def _unwanted(log: Mapping[str, Sequence[Order]], rows: Iterable[Row], ever: frozenset[str]) -> Iterable[str]:
    for row in rows:
        for order in log.get(row.entity_id, ())[row.seq_nr - 1 : row.seq_nr]:
            if not {order.topic, order.before} & ever:
                yield f"{row.entity_id}:{row.seq_nr}"


def _disordered(got: Mapping[str, Sequence[Row]]) -> Iterable[str]:
    for entity, rows in got.items():
        numbers = [row.seq_nr for row in rows]
        if any(later <= sooner for sooner, later in pairwise(numbers)):
            yield f"{entity}: {numbers}"


def _holes(got: Mapping[str, Sequence[Row]]) -> Iterable[str]:
    """Of entities that stay where they are, so that a filter has them whole or not."""
    for entity, rows in got.items():
        if not _stays(entity):
            continue
        known = 0
        for row in rows:
            if row.seq_nr != known + 1 and not row.replaces:
                yield f"{entity}:{row.seq_nr} after {known}"
            known = row.seq_nr


def _unfinished(
    log: Mapping[str, Sequence[Order]], got: Mapping[str, Sequence[Row]], last_filter: frozenset[str]
) -> Iterable[str]:
    """The last event of an entity that the last filter wants has come, as its last."""
    for entity, orders in log.items():
        last = orders[-1]
        rows = got.get(entity, ())
        if last.topic in last_filter and (not rows or rows[-1].seq_nr != last.seq_nr) and last.seq_nr >= _first(entity):
            yield f"{entity}:{last.seq_nr} (at {last.position}, the last that came is {rows[-1].seq_nr if rows else 0})"


def _missed(
    log: Mapping[str, Sequence[Order]], got: Mapping[str, Sequence[Row]], deleted_to: Mapping[str, int]
) -> Iterable[str]:
    """A mover's events at home, and the one with which it leaves: every filter had these. A snapshot stands for some."""
    for entity, orders in log.items():
        if entity.startswith("mover"):
            rows = got.get(entity, ())
            came = {row.seq_nr for row in rows}
            replaced_to = max((row.seq_nr for row in rows if row.replaces), default=0)
            for order in orders:
                is_selected = order.topic != AWAY or order.before not in ("", AWAY)
                is_excused = order.seq_nr <= max(deleted_to.get(entity, 0), replaced_to)
                if is_selected and order.seq_nr not in came and not is_excused:
                    yield f"{entity}:{order.seq_nr} at {order.position}"


def _mismarked(rows: Iterable[Row]) -> Iterable[str]:
    for row in rows:
        if row.entity_id.startswith("mover") and not row.replaces and row.leaving != (row.tags == (f"t:{AWAY}",)):
            yield f"{row.entity_id}:{row.seq_nr}"


def _stays(entity: str) -> bool:
    return entity.startswith("site/")


def _first(entity: str) -> int:
    """From which number on any filter wants it; the highest that an operator asks for."""
    return 5 if entity == LATE else 1


def _complaints(what: str, found: Iterable[str]) -> Iterable[str]:
    names = list(found)
    if names:
        more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
        yield f"{len(names)} events {what}: {', '.join(names[:_NAMED_MAX])}{more}"
