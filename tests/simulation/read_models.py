"""Are the projections' tables exactly what the cloud's log says, up to where each projection has come?"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from common.core.events.batch import EventBatch
from common.core.events.ids import slice_of
from common.projection.latest import LATEST
from common.projection.tally import TALLY, fold
from tests.simulation.disks import Disk, State


def check_read_models(cloud: Disk) -> Iterator[tuple[str, str]]:
    """(Checker, what is wrong) for each table that differs from the log."""
    state = cloud.state
    if TALLY.name in state.migrated:
        wanted = {
            (entity, tally.events, tally.checksum, tally.first_seq_nr, tally.last_seq_nr, tally.out_of_order)
            for entity, tally in fold(_seen(cloud, TALLY.name)).items()
        }
        rows = set(
            cloud.tables.query(
                "SELECT persistence_id, events, checksum, first_seq_nr, last_seq_nr, out_of_order FROM tally", ()
            )
        )
        if rows != wanted:
            yield "TallyIsFold", f"the table says {sorted(rows - wanted)[:3]}, the log {sorted(wanted - rows)[:3]}"
    if LATEST.name in state.migrated:
        seen = _seen(cloud, LATEST.name)
        last = dict(zip(seen.persistence_id, zip(seen.position, seen.payload, strict=True), strict=True))
        stored = {
            row[0]: row[1:] for row in cloud.tables.query("SELECT persistence_id, position, payload FROM latest", ())
        }
        if stored != last:
            wrong = [name for name in sorted({*stored, *last}) if stored.get(name) != last.get(name)]
            yield "LatestIsLast", f"{wrong[0]} is {stored.get(wrong[0])} in the table, {last.get(wrong[0])} in the log"


def has_caught_up(state: State, ranges: int, *, others: Collection[str] = ()) -> bool:
    """Whether every range of the built-in projections, and of ``others``, is at the end of the log."""
    names = {TALLY.name, LATEST.name, *others}
    rows = [row for (name, _), row in state.projections.items() if name in names]
    return len(rows) == len(names) * ranges and all(row.position == state.head_position for row in rows)


def _seen(cloud: Disk, projection: str) -> EventBatch:
    """The events that the projection has processed, also those that retention has removed since."""
    log, projections = cloud.history, cloud.state.projections
    done = [(slices, row.position) for (name, slices), row in projections.items() if name == projection]
    chosen = []
    for index, (entity, position) in enumerate(zip(log.persistence_id, log.position, strict=True)):
        if any(slice_of(entity) in slices and position <= through for slices, through in done):
            chosen.append(index)
    return log.select(chosen)
