"""What reading costs PostgreSQL when projections have several ranges, on one node and on two.

Processor time of the sessions that read the log, an event of the log, until every range has reached its end. Two situations,
in turns of one run: projections are paused until the log is there (`behind`), and edges push it while they run (`pushed`).
On two nodes each has one of the two projections, so each reads everything once, but for what it has stored itself and
still has in memory.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median

import psutil
import trio

from common import border
from common.core.journal.append import LocalAppend
from common.journal.postgres import open_postgres_journal
from common.runtime.environment import utc_now_us
from examples.support.processes import Program
from tests.bench.place import Place
from tests.bench.processes import BenchFailure, cloud, cpu_s, edge, metric
from tests.bench.table import Table, middle_ratio
from tests.bench.workload import BATCH, batches, fill

import asyncpg  # isort: skip  # after border, which prepares asyncio

RANGES = 8
EDGES = 4
_READERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'backhaul reader%'"
)
PROJECTIONS = ("latest", "tally")
_OWNED = "SELECT count(*) FROM backhaul.projection WHERE owner <> ''"
_LOWEST = "SELECT min(position) FROM backhaul.projection"
_READ = ("read_events_total", "range_events_total")
_STUCK_S = 120.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class _Shape:
    """``ranges`` of each projection, and what each node runs."""

    ranges: int
    nodes: Sequence[str]

    @property
    def name(self) -> str:
        ranges = "1 range" if self.ranges == 1 else f"{self.ranges} ranges"
        return f"{ranges}, {'one node' if len(self.nodes) == 1 else 'two nodes'}"

    @property
    def rows(self) -> int:
        return 2 * self.ranges


ONE_NODE, TWO_NODES = ("latest,tally",), ("latest", "tally")
SHAPES = [_Shape(ranges, nodes) for nodes in (ONE_NODE, TWO_NODES) for ranges in (1, RANGES)]
BARS = {SHAPES[1]: 1.2, SHAPES[3]: 2.2}


@dataclass(frozen=True, slots=True)
class _Cost:
    """Processor microseconds an event: of the sessions that read, and of the nodes; and how often nodes read it from the log."""

    readers_us: float
    nodes_us: float
    reads: float


async def run(place: Place) -> list[Table]:
    """All shapes in turn, five times, in both situations."""
    total = place.sized(150_000, 8_000)
    rounds = place.sized(5, 1)
    folder = place.fresh_folder("waiting")
    edges = {f"edge-{n}": folder / f"edge-{n}.db" for n in range(1, EDGES + 1)}
    for name, path in edges.items():
        await fill(path, name, total // EDGES)
    tables = []
    for situation, journals in (("behind", {}), ("pushed", edges)):
        found: dict[_Shape, list[_Cost]] = {shape: [] for shape in SHAPES}
        for _ in range(rounds):
            for shape in SHAPES:
                found[shape].append(await _measure(place, shape, total, journals))
        tables.append(_table(situation, total, found))
    shutil.rmtree(folder)
    return tables


def _table(situation: str, total: int, found: dict[_Shape, list[_Cost]]) -> Table:
    table = Table(f"Reading for projections, {situation}: {total:,} events, latest and tally; microseconds an event")
    for shape, costs in found.items():
        table.add(f"{shape.name}: sessions that read", f"{median(cost.readers_us for cost in costs):.1f} us")
        pairs = list(zip(costs, found[SHAPES[0]], strict=True))
        of_one = middle_ratio((cost.readers_us, one.readers_us) for cost, one in pairs)
        table.add("  of 1 range, one node", f"{of_one:.2f}")
        # One node alone does not read what it has stored itself and still has: that is no cost of ranges or nodes.
        ratio = middle_ratio((cost.readers_us * one.reads, one.readers_us) for cost, one in pairs)
        bar = BARS.get(shape)
        if bar is not None:
            table.judge("  of 1 range that reads each event once", f"{ratio:.2f}", f"<= {bar}", ratio <= bar)
        table.add("  times that an event was read", f"{median(cost.reads for cost in costs):.2f}")
        table.add("  nodes, all their work", f"{median(cost.nodes_us for cost in costs):.1f} us")
    return table


async def _measure(place: Place, shape: _Shape, total: int, edges: dict[str, Path]) -> _Cost:
    folder = place.fresh_folder("nodes")
    with place.postgres.fresh() as url:
        async with AsyncExitStack() as stack:
            nodes: list[Program] = []
            for projections in shape.nodes:
                settings = {"projections": projections, "projection_ranges": shape.ranges}
                nodes.append(await stack.enter_async_context(cloud(url, settings)))
            lines = [await node.event("service.ready") for node in nodes]
            connection = await stack.enter_async_context(_connected(url))
            await _until(connection, _OWNED, lambda owned: owned == shape.rows)
            if not edges:
                await _fill(url, total)
            # What nodes spend on starting, and their sessions, is not reading.
            started_cpu_s, readers_cpu_s = sum(map(cpu_s, nodes)), await _readers_cpu_s(connection)
            for (name, journal), line in zip(edges.items(), cycle(lines), strict=False):
                shutil.copy(journal, folder / f"{name}.db")
                await stack.enter_async_context(edge(name, folder / f"{name}.db", line["grpc_port"]))
            await _until(connection, _LOWEST, lambda position: position >= total)
            readers_cpu_s = await _readers_cpu_s(connection) - readers_cpu_s
            nodes_cpu_s = sum(map(cpu_s, nodes)) - started_cpu_s
            read = 0.0
            for line in lines:
                read += sum([await metric(line["http_port"], f"backhaul_cloud_firehose_{name}") for name in _READ])
    shutil.rmtree(folder)
    return _Cost(readers_cpu_s / total * 1e6, nodes_cpu_s / total * 1e6, read / total)


async def _fill(url: str, total: int) -> None:
    """Store so many events while projections are paused, and let them go."""
    async with open_postgres_journal(url, now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex) as journal:
        for name in PROJECTIONS:
            await journal.projections.set_paused(name, True)
        for batch in batches("node", total, BATCH):
            await journal.log.append_group([LocalAppend(batch)])
        for name in PROJECTIONS:
            await journal.projections.set_paused(name, False)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await border.call_asyncio(asyncpg.connect, url)
    try:
        yield connection
    finally:
        connection.terminate()


async def _until(connection: asyncpg.Connection, question: str, holds: Callable[[int], bool]) -> None:
    """Wait for an answer. Raises ``BenchFailure`` when it does not come in time."""
    with trio.move_on_after(_STUCK_S):
        while True:
            found = await border.call_asyncio(connection.fetchval, question)
            if holds(found or 0):
                return
            await trio.sleep(_POLL_S)
    raise BenchFailure(f"{question}: {found}")


async def _readers_cpu_s(connection: asyncpg.Connection) -> float:
    pids = [row[0] for row in await border.call_asyncio(connection.fetch, _READERS)]
    return sum(map(_session_cpu_s, pids))


def _session_cpu_s(pid: int) -> float:
    """Finer than the ticks of ``cpu_times`` where the system tells it."""
    exact = Path(f"/proc/{pid}/schedstat")
    if exact.exists():
        return int(exact.read_text().split()[0]) / 1e9
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
