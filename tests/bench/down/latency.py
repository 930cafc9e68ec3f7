"""Latency downwards: from the moment an event was due at the cloud to the handler of an edge that has it.

Open loop, at the tail: a publisher posts single events on a schedule; cloud, PostgreSQL and the consumer with its own
SQLite journal are processes of their own.
"""

from __future__ import annotations

from tests.bench.down.crowd import publisher, source
from tests.bench.place import Place
from tests.bench.processes import measured_meanwhile
from tests.bench.table import Table, milliseconds, percentile

_RATE = 500
_P50_S = 0.005
_P99_S = 0.025
_WARM_UP_S = 2


async def run(place: Place) -> list[Table]:
    """One consumer with everything."""
    seconds = place.sized(30, 3)
    table = Table(
        f"Latency downwards: {_RATE} events/s on a schedule for {seconds} s, due at the cloud to edge handler"
    )
    path = place.fresh_folder("follower") / "journal.db"
    async with (
        source(place) as node,
        publisher(node.http_port) as publishing,
        measured_meanwhile("tests.bench.down.follower", port=node.grpc_port, path=str(path)) as follower,
    ):
        await follower.event("follower.connected")
        through = await publishing.begin(_RATE * (seconds + _WARM_UP_S), batch=1, rate=_RATE)
        late_s = float((await publishing.end())["late_s"])
        await follower.tell(str(through))
        result = await follower.event("result")
    ordered = sorted((due_us, delay_us) for due_us, delay_us in result["delays"])
    assert len(ordered) == through, f"{len(ordered)} of {through} came to the handler"
    delays = [delay_us / 1e6 for _, delay_us in ordered][_RATE * _WARM_UP_S :]
    p50_s, p99_s = percentile(delays, 0.5), percentile(delays, 0.99)
    table.judge("p50", f"{p50_s * 1e3:.1f} ms", f"< {_P50_S * 1e3:.0f} ms", p50_s < _P50_S)
    table.judge("p99", f"{p99_s * 1e3:.1f} ms", f"< {_P99_S * 1e3:.0f} ms", p99_s < _P99_S)
    table.add("all", milliseconds(delays))
    table.add("furthest behind its schedule", f"{late_s * 1e3:.1f} ms (the publisher itself)")
    return [table]
