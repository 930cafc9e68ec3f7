"""Intake: events appended at an edge, each answered after its synced commit, from programs beside it.

In turns with the edge: apsw alone on the same table with as many events a commit as the edge had, and the product's
gRPC server with a method that does nothing. The edge has no cloud to push to.
"""

from __future__ import annotations

import shutil

from tests.bench.place import Place
from tests.bench.processes import edge, measured, metric, running
from tests.bench.table import Table, middle_ratio, spread
from tests.bench.workload import PAYLOAD_BYTES

_RAW_TARGET = 0.5
_ECHO_TARGET = 0.7
_BATCH = 100
_CALLERS = 64
_NOBODY = 1  # a port on which nothing listens
_CALLERS_MODULE = "tests.bench.callers"


async def run(place: Place) -> list[Table]:
    """Rounds of everything, one after the other."""
    rounds, seconds = place.sized(3, 1), place.sized(4, 1)
    found: dict[str, list[float]] = {}
    groups: list[float] = []
    for _ in range(rounds):
        folder = place.fresh_folder("intake")

        async def raw(kind: str, group: int) -> float:
            path = folder / f"{kind}-{group}.db"  # noqa: B023  called in this round
            told = await measured("tests.bench.raw_sqlite", path=str(path), kind=kind, group=group, seconds=seconds)
            return float(told["rate"])

        async def calls(kind: str, port: int, callers: int, batch: int) -> float:
            told = await measured(_CALLERS_MODULE, kind=kind, port=port, callers=callers, batch=batch, seconds=seconds)
            return float(told["rate"])

        async with (
            edge("edge-1", folder / "edge.db", _NOBODY) as program,
            running("echo", "tests.bench.echo_server") as echo,
        ):
            ready = await program.event("service.ready")
            echo_port = (await echo.event("service.ready"))["grpc_port"]
            grpc_port, http_port = ready["grpc_port"], ready["http_port"]
            this = {
                "raw batches": await raw("raw", _BATCH),
                "journal batches": await raw("journal", _BATCH),
                "batches": await calls("unary", grpc_port, 1, _BATCH),
            }
            before = [
                await metric(http_port, f"backhaul_edge_journal_{what}") for what in ("appended_events", "commits")
            ]
            this["stream"] = await calls("stream", grpc_port, 1, _BATCH)
            after = [
                await metric(http_port, f"backhaul_edge_journal_{what}") for what in ("appended_events", "commits")
            ]
            group = round((after[0] - before[0]) / (after[1] - before[1]))
            groups.append(group)
            this["raw stream"] = await raw("raw", group)
            this["echo"] = await calls("echo", echo_port, _CALLERS, 1)
            this["unary"] = await calls("unary", grpc_port, _CALLERS, 1)
            this["http"] = await calls("http", http_port, _CALLERS, 1)
            this["http batches"] = await calls("http", http_port, 1, _BATCH)
        shutil.rmtree(folder)
        for name, rate in this.items():
            found.setdefault(name, []).append(rate)
    return [_table(found, groups)]


def _table(found: dict[str, list[float]], groups: list[float]) -> Table:
    table = Table(f"Intake at an edge: events of {PAYLOAD_BYTES} bytes, answered after a synced commit")

    def ratio(what: str, to: str, target: float | None = None) -> None:
        share = middle_ratio(zip(found[what], found[to], strict=True))
        if target is None:
            table.add("  of it", f"{share:.2f}")
        else:
            table.judge("  of it", f"{share:.2f}", f">= {target}", share >= target)

    table.add(f"apsw alone, {_BATCH} events a commit", spread(found["raw batches"], "events/s"))
    table.add(f"one gRPC caller, {_BATCH} events a request", spread(found["batches"], "events/s"))
    ratio("batches", "raw batches", _RAW_TARGET)
    table.add(f"the journal without a service, {_BATCH} events a commit", spread(found["journal batches"], "events/s"))
    ratio("journal batches", "raw batches")
    table.add(f"one HTTP caller, {_BATCH} events a request", spread(found["http batches"], "events/s"))
    ratio("http batches", "raw batches")
    table.add(f"apsw alone, {spread(groups, 'events a commit')}", spread(found["raw stream"], "events/s"))
    table.add(f"one gRPC stream, {_BATCH} events a message, same grouping", spread(found["stream"], "events/s"))
    ratio("stream", "raw stream", _RAW_TARGET)
    table.add(f"no-op gRPC echo, {_CALLERS} callers", spread(found["echo"], "calls/s"))
    table.add(f"unary gRPC, {_CALLERS} callers, 1 event a call", spread(found["unary"], "events/s"))
    ratio("unary", "echo", _ECHO_TARGET)
    table.add(f"HTTP, {_CALLERS} callers, 1 event a request", spread(found["http"], "events/s"))
    ratio("http", "echo")
    return table
