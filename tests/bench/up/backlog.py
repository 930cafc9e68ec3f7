"""Backlog: an edge starts with a million events waiting, and with few, and is as quick and as small both times.

Once without a cloud, timed from the start of its process to the answer to the first event posted; once with one, while
it drains.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import trio

from tests.bench.place import Place
from tests.bench.processes import cloud, edge, rss_peak_bytes
from tests.bench.table import Table
from tests.bench.up.http_door import http_body, open_http_door
from tests.bench.workload import events, fill

_START_S = 2.0
_RSS_MB = 80
_INDEPENDENT = 1.1
_NOBODY = 1  # a port on which nothing listens
_SETTLE_S = 3.0
_DRAIN_S = 6.0


async def _start(journal: Path) -> tuple[float, float]:
    """Seconds from the start of the process to its first answered append; megabytes at most until a little later."""
    began_s = trio.current_time()
    async with edge("edge-1", journal, _NOBODY) as program:
        port = (await program.event("service.ready"))["http_port"]
        async with open_http_door(port) as door:
            await door.append(http_body(events("edge-1", 0, 1)))
        took_s = trio.current_time() - began_s
        await trio.sleep(_SETTLE_S)
        return took_s, rss_peak_bytes(program) / 1e6


async def _drain(place: Place, journal: Path) -> float:
    """Megabytes at most while it pushes."""
    with place.postgres.fresh() as url:
        async with cloud(url, {"projections": ""}) as node:
            port = (await node.event("service.ready"))["grpc_port"]
            async with edge("edge-1", journal, port) as program:
                await program.event("push.started")
                await trio.sleep(_DRAIN_S)
                return rss_peak_bytes(program) / 1e6


async def run(place: Place) -> list[Table]:
    """The small backlog first, then the large one."""
    large, small = place.sized(1_000_000, 20_000), place.sized(10_000, 1_000)
    folder = place.fresh_folder("backlog")
    found = {}
    for size in (small, large):
        journal = folder / f"{size}.db"
        await fill(journal, "edge-1", size)
        took_s, idle_mb = await _start(journal)
        found[size] = took_s, idle_mb, await _drain(place, journal)
    shutil.rmtree(folder)

    table = Table(f"Backlog: an edge that starts with {large:,} events waiting, and with {small:,}")
    took_s, idle_mb, busy_mb = found[large]
    small_took_s, small_idle_mb, small_busy_mb = found[small]
    table.judge("process start to first event on disk", f"{took_s:.2f} s", f"< {_START_S:.0f} s", took_s < _START_S)
    table.add("  with the small backlog", f"{small_took_s:.2f} s")
    table.judge("memory at most, offline", f"{idle_mb:.0f} MB", f"< {_RSS_MB} MB", idle_mb < _RSS_MB)
    table.add("  with the small backlog", f"{small_idle_mb:.0f} MB")
    table.judge("memory at most, draining", f"{busy_mb:.0f} MB", f"< {_RSS_MB} MB", busy_mb < _RSS_MB)
    table.add("  with the small backlog", f"{small_busy_mb:.0f} MB")
    ratio = max(idle_mb / small_idle_mb, busy_mb / small_busy_mb)
    table.judge("large to small backlog, memory", f"{ratio:.2f}", f"<= {_INDEPENDENT}", ratio <= _INDEPENDENT)
    return [table]
