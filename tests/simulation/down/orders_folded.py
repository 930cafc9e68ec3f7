"""A projection of the cloud that takes snapshots: a fold that is wrong when an event is missing, comes twice, or is a snapshot.

It starts late, from the log or from snapshots, and is reset while retention deletes: so it is led over snapshots and
deleted numbers again and again, among all other faults. Its table says of each order from which number on it was folded,
and how. ``check_folded`` compares that with everything that was ever published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Final
from zlib import crc32

import trio

from common.core.events.ids import slice_of
from common.core.journal.statement import Statement
from common.projection.handlers import Event, Handler
from common.runtime.app.application import NO_APPLICATION, App, Application, check_application
from tests.simulation.disks import Disk

NAME: Final = "orders_folded"

_CREATE: Final = (
    "CREATE TABLE orders_folded (persistence_id TEXT NOT NULL PRIMARY KEY, base BIGINT NOT NULL, says BIGINT NOT NULL,"
    " last BIGINT NOT NULL, events BIGINT NOT NULL, checksum BIGINT NOT NULL, faults BIGINT NOT NULL)"
)
_COLUMNS: Final = "persistence_id, base, says, last, events, checksum, faults"
_INSERT: Final = f"INSERT INTO orders_folded ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)"
_ADD: Final = (
    f"{_INSERT} ON CONFLICT (persistence_id) DO UPDATE SET last = excluded.last, events = orders_folded.events + 1,"
    " checksum = orders_folded.checksum + excluded.checksum, faults = orders_folded.faults"
    " + CASE WHEN excluded.last = orders_folded.last + 1 THEN 0 ELSE 1 END"
)
_BEGIN_AT: Final = (
    f"{_INSERT} ON CONFLICT (persistence_id) DO UPDATE SET base = excluded.base, says = excluded.says,"
    " last = excluded.last, events = 0, checksum = 0, faults = orders_folded.faults"
    " + CASE WHEN excluded.last > orders_folded.last THEN 0 ELSE 1 END"
)


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """When it begins, where, and when an operator resets it; times in seconds."""

    from_s: float
    start_from: str
    resets_s: tuple[float, ...]


def draw_fold_plan(seed: int, faults_s: float) -> FoldPlan | None:
    """Of a fifth of the seeds that have a way down."""
    chance = Random(f"{NAME} {seed}")
    if chance.random() >= 0.2:
        return None
    return FoldPlan(
        from_s=round(chance.choice((0.0, chance.uniform(faults_s / 4, faults_s))), 3),
        start_from=chance.choice(("log", "snapshots")),
        resets_s=tuple(sorted(round(chance.uniform(0, faults_s), 3) for _ in range(chance.randint(0, 3)))),
    )


def _fold(event: Event) -> Statement:
    name, seq_nr = event.envelope.persistence_id, event.envelope.seq_nr
    if event.deleted is not None:
        last = event.deleted.to_seq_nr
        return Statement(_BEGIN_AT, [(name, last, 0, last, 0, 0, 0)])
    says = crc32(event.envelope.payload)
    if event.replaces:
        return Statement(_BEGIN_AT, [(name, seq_nr, says, seq_nr, 0, 0, 0)])
    return Statement(_ADD, [(name, 0, 0, seq_nr, 1, says, int(seq_nr != 1))])


ORDERS_FOLDED: Final = Handler(
    NAME,
    [[_CREATE]],
    each=_fold,
    entity_types=frozenset({"Order"}),
    snapshots=True,
    sees_deleted=True,
    reset=["DELETE FROM orders_folded"],
    is_quick=True,
)


def application_at(plan: FoldPlan | None) -> Application:
    """What a node that starts now runs."""
    if plan is None or plan.from_s > trio.current_time():
        return NO_APPLICATION
    return check_application(App(projections=[replace(ORDERS_FOLDED, start_from=plan.start_from)]))


def check_folded(cloud: Disk, plan: FoldPlan | None) -> Iterator[tuple[str, str]]:
    """(Checker, what is wrong) for each order whose row is not the fold of what was published."""
    state = cloud.state
    if plan is None or NAME not in state.migrated:
        return
    payloads: dict[str, dict[int, bytes]] = {}
    reached: dict[str, int] = {}
    done = [(slices, row.position) for (name, slices), row in state.projections.items() if name == NAME]
    log = cloud.history
    for name, seq_nr, position, payload in zip(log.persistence_id, log.seq_nr, log.position, log.payload, strict=True):
        if name.startswith("Order|"):
            payloads.setdefault(name, {})[seq_nr] = payload
            if any(slice_of(name) in slices and position <= through for slices, through in done):
                reached[name] = seq_nr
    rows = {row[0]: row[1:] for row in cloud.tables.query(f"SELECT {_COLUMNS} FROM orders_folded", ())}
    for name in sorted({*rows, *reached}):
        problem = _problem(cloud, plan, name, rows.get(name), reached.get(name, 0), payloads.get(name, {}))
        if problem:
            yield "FoldIsWhole", f"{name}: {problem}; the table says {rows.get(name)}"


def _problem(
    cloud: Disk, plan: FoldPlan, name: str, row: tuple[int, ...] | None, reached: int, payloads: dict[int, bytes]
) -> str:
    if row is None:
        return f"nothing is known of 1 to {reached}"
    base, says, last, events, checksum, faults = row
    head = cloud.state.heads[name]
    if faults:
        return f"{faults} events did not follow"
    if last != max(base, reached):
        return f"it is at {last} and has read up to {reached}"
    folded = [payloads[seq_nr] for seq_nr in range(base + 1, last + 1)]
    if (events, checksum) != (len(folded), sum(map(crc32, folded))):
        return f"{events} events behind {base}, and {len(folded)} were published, or other ones"
    if says and says not in map(crc32, cloud.snapshots.get((name, base), ())):
        return f"there was no such snapshot at {base}"
    if base and not says and base > head.deleted_to:
        return f"1 to {base} are taken for deleted, and {head.deleted_to} is the last that is"
    if base and says and plan.start_from == "log" and not head.deleted_to:
        return f"it begins with a snapshot at {base}, and nothing is deleted"
    return ""
