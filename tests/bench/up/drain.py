"""Drain: events that wait in edges' SQLite files flow through both real services into PostgreSQL.

The rate is taken from the push stream's Start to the moment the journal's head shows the last event. Beside it, turn by
turn: a bare loop that calls the same server function with ready arguments, and COPY into the bare table. Two cores
carry everything, so the processor time of each side is shown too.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import trio

from common import border
from examples.support.processes import Program
from tests.bench.place import Place
from tests.bench.processes import BenchFailure, cloud, cpu_s, edge, measured, metric
from tests.bench.table import Table, middle_ratio, spread
from tests.bench.workload import BATCH, ENTITIES, PAYLOAD_BYTES, fill

import asyncpg  # isort: skip  # after border, which prepares asyncio

_RATIO_TARGET = 0.8
_RATE_TARGET = 80_000
_COMMITS = "backhaul_cloud_journal_commits_total"
_POLL_S = 0.01
_STUCK_S = 60.0


@dataclass(frozen=True, slots=True)
class Drained:
    """Events a second, processor microseconds an event, and events a commit."""

    rate: float
    edge_us: float
    cloud_us: float
    server_us: float
    group: float


class _Head:
    """Looks at the journal's head from outside."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def reaches(self, position: int) -> None:
        """Wait for it. Raises ``BenchFailure`` when it stands still."""
        seen, since_s = -1, trio.current_time()
        while seen < position:
            found = await border.call_asyncio(self._connection.fetchval, "SELECT position FROM backhaul.head")
            if found != seen:
                seen, since_s = found, trio.current_time()
            elif trio.current_time() - since_s > _STUCK_S:
                raise BenchFailure(f"the cloud's journal stands at {seen} of {position}")
            await trio.sleep(_POLL_S)


@asynccontextmanager
async def _head(url: str) -> AsyncIterator[_Head]:
    connection = await border.call_asyncio(asyncpg.connect, url)
    try:
        yield _Head(connection)
    finally:
        connection.terminate()


async def drain(
    place: Place,
    journals: dict[str, Path],
    each: int,
    projections: str,
    *,
    nodes: int = 1,
    settings: Mapping[str, object] | None = None,
    ready: Callable[[str], Awaitable[None]] | None = None,
    of_edges: Mapping[str, object] | None = None,
) -> Drained:
    """Drain copies of the edges' files into a new database, through so many nodes; each edge has one of them.

    ``ready`` is given the database's URL before the edges start. Of each edge ``each`` events arrive.
    """
    total = each * len(journals)
    folder = place.fresh_folder("drain")
    with place.postgres.fresh() as url:
        async with _head(url) as head, AsyncExitStack() as stack:
            chosen = {"projections": projections, **(settings or {})}
            clouds = [await stack.enter_async_context(cloud(url, chosen)) for _ in range(nodes)]
            ready_lines = [await node.event("service.ready") for node in clouds]
            if ready:
                await ready(url)
            for name, journal in journals.items():
                shutil.copy(journal, folder / f"{name}.db")
            clouds_cpu_s = sum(map(cpu_s, clouds))
            programs: list[Program] = []
            for name, line in zip(journals, cycle(ready_lines), strict=False):
                program = await stack.enter_async_context(
                    edge(name, folder / f"{name}.db", line["grpc_port"], of_edges)
                )
                programs.append(program)
            first = programs[0]
            await first.event("push.started")
            # What an edge spends on starting is not draining.
            edges_cpu_s, server_cpu_s = sum(map(cpu_s, programs)), place.postgres.processor_s()
            await head.reaches(total)
            took_s = trio.current_time() - first.first_heard_s("push.started")
            commits = [await metric(line["http_port"], _COMMITS) for line in ready_lines]
            drained = Drained(
                total / took_s,
                (sum(map(cpu_s, programs)) - edges_cpu_s) / total * 1e6,
                (sum(map(cpu_s, clouds)) - clouds_cpu_s) / total * 1e6,
                (place.postgres.processor_s() - server_cpu_s) / total * 1e6,
                total / sum(commits),
            )
    shutil.rmtree(folder)
    return drained


async def _bare(place: Place, kind: str, total: int, batch: int) -> float:
    with place.postgres.fresh() as url:
        result = await measured("tests.bench.up.bare_postgres", url=url, kind=kind, events=total, batch=batch)
    return float(result["rate"])


async def run(place: Place) -> list[Table]:
    """One edge with everything, then many edges with a share each."""
    total = place.sized(300_000, 20_000)
    edges = place.sized(20, 3)
    rounds = place.sized(3, 1)
    folder = place.fresh_folder("waiting")
    one = {"edge-1": folder / "edge-1.db"}
    await fill(one["edge-1"], "edge-1", total)
    many = {f"edge-{n}": folder / f"share-{n}.db" for n in range(1, edges + 1)}
    for name, path in many.items():
        await fill(path, name, total // edges, ENTITIES // edges)

    bare, copied, plain, projected, shared = [], [], [], [], []
    for _ in range(rounds):
        bare.append(await _bare(place, "append", total, BATCH))
        plain.append(await drain(place, one, total, ""))
        shared.append(await drain(place, many, total // edges, ""))
        projected.append(await drain(place, one, total, "latest,tally"))
        copied.append(await _bare(place, "copy", total, BATCH))
    shutil.rmtree(folder)

    table = Table(f"Drain: {total:,} events of {PAYLOAD_BYTES} bytes, {ENTITIES:,} entities, into PostgreSQL")
    table.add(f"bare loop, the same append, batches of {BATCH:,}", spread(bare, "events/s"))
    table.add(f"COPY into the bare table, batches of {BATCH:,}", spread(copied, "events/s"))
    rates = [drained.rate for drained in plain]
    table.judge(
        "one edge, no projections",
        spread(rates, "events/s"),
        f">= {_RATE_TARGET:,}",
        max(rates) >= _RATE_TARGET,
    )
    for what, found in (
        ("one edge, no projections", plain),
        ("one edge, projections latest and tally", projected),
        (f"{edges} edges, no projections", shared),
    ):
        if found is not plain:
            table.add(what, spread([drained.rate for drained in found], "events/s"))
        ratio = middle_ratio(zip((drained.rate for drained in found), bare, strict=True))
        if found is plain:
            table.judge("  of the bare loop", f"{ratio:.2f}", f">= {_RATIO_TARGET}", ratio >= _RATIO_TARGET)
        else:
            table.add("  of the bare loop", f"{ratio:.2f}")
        table.add("  processor time an event, edges", spread([drained.edge_us for drained in found], "us"))
        table.add("  processor time an event, cloud", spread([drained.cloud_us for drained in found], "us"))
    return [table]
