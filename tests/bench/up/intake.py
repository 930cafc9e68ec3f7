"""Intake: events appended at an edge, each answered after its synced commit, from programs beside it.

In turns with the edge: apsw alone on the same table with as many events a commit as the edge had, and the product's
gRPC server with a method that does nothing. The edge has no cloud to push to.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.bench.place import Place
from tests.bench.processes import edge, measured, metric, running
from tests.bench.table import Table, middle_ratio, spread
from tests.bench.workload import PAYLOAD_BYTES

_RAW_TARGET = 0.5
_ECHO_TARGET = 0.7
_BATCH = 100
_CALLERS = 64
_NOBODY = 1  # a port on which nothing listens
_CALLERS_MODULE = "tests.bench.up.callers"


@dataclass(frozen=True, slots=True)
class _Round:
    """One round in a folder of its own. Whatever is measured begins with an empty file: the rate falls as one grows."""

    folder: Path
    seconds: float

    async def without_service(self, kind: str, group: int) -> float:
        """apsw alone (``raw``) or the journal alone (``journal``), so many events a commit; events a second."""
        path = self.folder / f"{kind}-{group}.db"
        result = await measured(
            "tests.bench.up.raw_sqlite", path=str(path), kind=kind, group=group, seconds=self.seconds
        )
        return float(result["rate"])

    async def edge(self, kind: str, callers: int, batch: int) -> tuple[float, float]:
        """An edge's answered events a second, and its events a commit."""
        name = f"{kind}-{callers}-{batch}"
        async with edge("edge-1", self.folder / f"{name}.db", _NOBODY) as program:
            ready = await program.event("service.ready")
            rate = await self._calls(kind, ready["http_port" if kind == "http" else "grpc_port"], callers, batch)
            stored, commits = [
                await metric(ready["http_port"], f"backhaul_edge_journal_{what}")
                for what in ("appended_events_total", "commits_total")
            ]
        return rate, stored / commits

    async def echo(self) -> float:
        """Answered calls a second of a method that does nothing."""
        async with running("echo", "tests.bench.up.echo_server") as program:
            ready = await program.event("service.ready")
            return await self._calls("echo", ready["grpc_port"], _CALLERS, 1)

    async def _calls(self, kind: str, port: int, callers: int, batch: int) -> float:
        result = await measured(
            _CALLERS_MODULE, kind=kind, port=port, callers=callers, batch=batch, seconds=self.seconds
        )
        return float(result["rate"])


async def run(place: Place) -> list[Table]:
    """Rounds of everything, one after the other."""
    rounds, seconds = place.sized(3, 1), place.sized(4, 1)
    found: dict[str, list[float]] = {}
    groups: list[float] = []
    for _ in range(rounds):
        this = _Round(place.fresh_folder("intake"), seconds)
        streamed, group = await this.edge("stream", 1, _BATCH)
        groups.append(round(group))
        rates = {
            "stream": streamed,
            "raw stream": await this.without_service("raw", round(group)),
            "raw batches": await this.without_service("raw", _BATCH),
            "batches": (await this.edge("unary", 1, _BATCH))[0],
            "journal batches": await this.without_service("journal", _BATCH),
            "echo": await this.echo(),
            "unary": (await this.edge("unary", _CALLERS, 1))[0],
            "http": (await this.edge("http", _CALLERS, 1))[0],
            "http batches": (await this.edge("http", 1, _BATCH))[0],
        }
        shutil.rmtree(this.folder)
        for name, rate in rates.items():
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
