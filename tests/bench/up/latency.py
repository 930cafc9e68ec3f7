"""Latency: from the moment an event was due at the edge to the commit of the cloud's projections that hold its effect.

Open loop: a feeder appends on a fixed schedule. Feeder, edge, and cloud with PostgreSQL are processes of their own.
"""

from __future__ import annotations

import json
import shutil

import trio

from tests.bench.place import Place
from tests.bench.processes import BenchFailure, cloud, edge, measured
from tests.bench.table import Table, milliseconds, percentile

_RATE = 500
_P50_S = 0.005
_P99_S = 0.025
_WARM_UP_S = 2
_SETTLE_S = 2.0


async def _delays(place: Place, kind: str, seconds: int) -> tuple[list[float], float]:
    """For each event, seconds to the last projection's commit; and how late the feeder was at worst."""
    folder = place.fresh_folder("latency")
    seen = folder / "seen.json"
    with place.postgres.fresh() as url:
        async with cloud(url, module="tests.bench.up.timed_cloud", words=(str(seen),)) as node:
            port = (await node.event("service.ready"))["grpc_port"]
            async with edge("edge-1", folder / "edge.db", port) as program:
                await program.event("push.started")
                door = (await program.event("service.ready"))[f"{kind}_port"]
                result = await measured(
                    "tests.bench.up.feeder", kind=kind, port=door, rate=_RATE, seconds=seconds + _WARM_UP_S
                )
                await trio.sleep(_SETTLE_S)
    projections: dict[str, list[tuple[int, int]]] = json.loads(seen.read_text())["projections"]
    shutil.rmtree(folder)
    worst: dict[int, int] = {}
    for committed in projections.values():
        for due_us, delay_us in committed:
            worst[due_us] = max(delay_us, worst.get(due_us, 0))
    expected = _RATE * (seconds + _WARM_UP_S)
    if len(projections) != 2 or len(worst) != expected:
        raise BenchFailure(f"{len(worst)} of {expected} events went through {len(projections)} projections")
    return [worst[due_us] / 1e6 for due_us in sorted(worst)][_RATE * _WARM_UP_S :], float(result["late_s"])


async def run(place: Place) -> list[Table]:
    """Through a gRPC stream, then through HTTP."""
    seconds = place.sized(30, 3)
    table = Table(f"Latency: {_RATE} events/s on a schedule for {seconds} s, due at the edge to committed projections")
    for kind, name in (("grpc", "gRPC stream"), ("http", "HTTP, an event a request")):
        delays, late_s = await _delays(place, kind, seconds)
        p50_s, p99_s = percentile(delays, 0.5), percentile(delays, 0.99)
        if kind == "grpc":
            table.judge(f"{name}: p50", f"{p50_s * 1e3:.1f} ms", f"< {_P50_S * 1e3:.0f} ms", p50_s < _P50_S)
            table.judge(f"{name}: p99", f"{p99_s * 1e3:.1f} ms", f"< {_P99_S * 1e3:.0f} ms", p99_s < _P99_S)
        else:
            table.add(name, milliseconds(delays))
        table.add(f"{name}: largest", f"{max(delays) * 1e3:.1f} ms")
        table.add(f"{name}: furthest behind its schedule", f"{late_s * 1e3:.1f} ms (the feeder itself)")
    return [table]
