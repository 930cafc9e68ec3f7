"""Snapshots up: an edge with a long backlog pushes each entity's latest snapshot, and in turns the whole backlog.

Of each entity some events wait, the last of which is its snapshot: what arrives is one row an entity, or all events. A second
edge has lost to its cap all that snapshots stand for.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from common.core.journal.snapshot import NewSnapshot
from common.journal.sqlite import open_sqlite_journal
from common.journal.stores.log import TrimLimit
from common.runtime.environment import utc_now_us
from tests.bench.place import Place
from tests.bench.table import Table, middle_ratio, spread
from tests.bench.up.drain import Drained, drain
from tests.bench.workload import BATCH, PAYLOAD_BYTES, entity_names, fill

_EDGE = "edge-1"
_EACH = 3
_TARGET = 0.5


async def _take_snapshots(journal: Path, entities: int) -> None:
    """Of the last event of each entity, as the rule "every N events" does."""
    names = entity_names(_EDGE, entities)
    payload = b"x" * PAYLOAD_BYTES
    async with open_sqlite_journal(journal, now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex) as opened:
        for first in range(0, entities, BATCH):
            taken = [
                NewSnapshot(name, _EACH, "TemperatureRead", "json", payload, says_last_event=True)
                for name in names[first : first + BATCH]
            ]
            await opened.snapshots.put(taken)


async def _drop(journal: Path, through: int) -> None:
    """What the byte cap does, up to this position."""
    async with open_sqlite_journal(journal, now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex) as opened:
        while await opened.log.trim(TrimLimit(through, BATCH, "dropped")):
            pass


async def run(place: Place) -> list[Table]:
    """One edge, in turns."""
    entities, rounds = place.sized(100_000, 2_000), place.sized(5, 1)
    folder = place.fresh_folder("snapshots-up")
    journals = {_EDGE: folder / f"{_EDGE}.db"}
    await fill(journals[_EDGE], _EDGE, _EACH * entities, entities)
    await _take_snapshots(journals[_EDGE], entities)
    lossy = {_EDGE: folder / "lossy.db"}
    shutil.copy(journals[_EDGE], lossy[_EDGE])
    await _drop(lossy[_EDGE], (_EACH - 1) * entities)
    plain, begun, lost = list[Drained](), list[Drained](), list[Drained]()
    for _ in range(rounds):
        plain.append(await drain(place, journals, _EACH * entities, ""))
        begun.append(await drain(place, journals, entities, "", of_edges={"push_snapshots_if_behind": 1}))
        lost.append(await drain(place, lossy, entities, ""))
    shutil.rmtree(folder)

    table = Table(
        f"Snapshots up: {entities:,} entities of {_EACH} events of {PAYLOAD_BYTES} bytes, the last a snapshot"
    )
    table.add("the whole backlog", spread([one.rate for one in plain], "events/s"))
    for what, found in (("from snapshots", begun), ("from snapshots, for what is lost", lost)):
        ratio = middle_ratio((one.rate, other.rate) for one, other in zip(found, plain, strict=True))
        table.add(what, spread([one.rate for one in found], "snapshots/s"))
        table.judge("  of the whole backlog's rate", f"{ratio:.2f}", f">= {_TARGET}", ratio >= _TARGET)
    done = middle_ratio((other.rate / _EACH, one.rate) for one, other in zip(begun, plain, strict=True))
    table.add("  until all is there, of the whole backlog's time", f"{done:.2f}")
    for what, found in (("the whole backlog", plain), ("from snapshots", begun), ("for what is lost", lost)):
        table.add(f"  processor time a row that arrives, {what}, edge", spread([one.edge_us for one in found], "us"))
        table.add(f"  processor time a row that arrives, {what}, cloud", spread([one.cloud_us for one in found], "us"))
    return [table]
