"""What a second node costs writing: edges drain through two nodes on one PostgreSQL, beside the same edges through one.

Every commit locks the head of the log until it is synced, so two nodes store one after the other: what can be lost is what
one does while the other holds the lock. Pairs in turns, a new database each; the ratio is the median of the pairs' own.
"""

from __future__ import annotations

import shutil
from statistics import median

from tests.bench.place import Place
from tests.bench.table import Table, middle_ratio, spread
from tests.bench.up.drain import Drained, drain
from tests.bench.workload import PAYLOAD_BYTES, fill

EDGES = 4
BAR = 0.85


async def run(place: Place) -> list[Table]:
    """One node and two, in turns."""
    total = place.sized(400_000, 80_000)
    each = total // EDGES
    folder = place.fresh_folder("waiting")
    journals = {f"edge-{n}": folder / f"edge-{n}.db" for n in range(1, EDGES + 1)}
    for name, path in journals.items():
        await fill(path, name, each)
    found: dict[int, list[Drained]] = {1: [], 2: []}
    for number in range(place.sized(5, 1)):
        for nodes in (1, 2) if number % 2 == 0 else (2, 1):
            found[nodes].append(await drain(place, journals, each, "", nodes=nodes))
    shutil.rmtree(folder)
    table = Table(f"Two nodes store: {total:,} events of {PAYLOAD_BYTES} bytes, {EDGES} edges, no projections")
    for nodes, name in ((1, "one node"), (2, "two nodes")):
        table.add(name, spread([drained.rate for drained in found[nodes]], "events/s"))
        for what, values in (
            ("edges", [drained.edge_us for drained in found[nodes]]),
            ("nodes", [drained.cloud_us for drained in found[nodes]]),
            ("PostgreSQL", [drained.server_us for drained in found[nodes]]),
        ):
            table.add(f"  processor time an event, {what}", f"{median(values):.1f} us")
        table.add("  events a commit", f"{median(drained.group for drained in found[nodes]):,.0f}")
    ratio = middle_ratio((two.rate, one.rate) for two, one in zip(found[2], found[1], strict=True))
    table.judge("two nodes of one", f"{ratio:.2f}", f">= {BAR}", ratio >= BAR)
    return [table]
