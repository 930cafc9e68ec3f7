"""Entities: commands a second on both databases, recovery with and without a snapshot, memory with many entities touched."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.support.processes import Program, service_variables
from tests.bench.place import Place
from tests.bench.processes import BenchFailure, measured, running
from tests.bench.table import Table

_LOAD = "tests.bench.entity.load"
_CALLERS = 64
_RATES = {"SQLite": 10_000, "PostgreSQL": 5_000}
_RECOVERY_S = 0.1
_SNAPSHOT_S = 0.002
_TOUCHED = (100_000, 500_000, 1_000_000)
_GROWTH_MB = 10
_PEAK_MB = 100
_NOBODY = 1  # a port on which nothing listens


async def run(place: Place) -> list[Table]:
    """SQLite in a file, then PostgreSQL."""
    folder = place.fresh_folder("entities")
    count = place.sized(1_000, 50)
    table = Table(f"Entities: {count:,} counters, {_CALLERS} callers, one command at a time each")
    with place.postgres.fresh() as postgres_url:
        for name, url in (("SQLite", str(folder / "entities.db")), ("PostgreSQL", postgres_url)):
            await _commands(table, place, name, url, count)
            await _recovery(table, place, name, url)
    await _http(table, place, folder / "edge.db", count)
    await _touched(table, place, folder / "touched.db")
    shutil.rmtree(folder)
    return [table]


async def _commands(table: Table, place: Place, name: str, url: str, count: int) -> None:
    result = await measured(
        _LOAD, kind="commands", url=url, entities=count, callers=_CALLERS, seconds=place.sized(8, 1)
    )
    if not result["is_right"]:
        raise BenchFailure(f"{name}: the states do not add up to the acknowledged commands")
    rate, wanted = result["rate"], _RATES[name]
    table.judge(f"{name}: commands in process", f"{rate:,.0f} a second", f"> {wanted:,}", rate > wanted)
    table.add(f"{name}: processor time a command", f"{result['cpu_us']:.0f} us")
    table.add(f"{name}: commands a commit", f"{result['each_commit']:.0f}")
    table.add(f"{name}: all states read again, and they add up", f"{result['reread_s']:.2f} s")


async def _recovery(table: Table, place: Place, name: str, url: str) -> None:
    events = place.sized(10_000, 1_000)
    result = await measured(_LOAD, kind="recovery", url=url, events=events, rounds=5)
    for what, key, most_s in (("", "Counter", _RECOVERY_S), (", with a snapshot", "Snapped", _SNAPSHOT_S)):
        took_s = result[key]
        table.judge(
            f"{name}: recovery of {events:,} events{what}",
            f"{took_s * 1e3:.1f} ms",
            f"< {most_s * 1e3:.0f} ms",
            took_s < most_s,
        )


def _edge(journal: Path) -> Mapping[str, object]:
    settings = {
        "id": "bench",
        "cloud": f"127.0.0.1:{_NOBODY}",
        "journal": journal,
        "grpc_port": 0,
        "http_port": 0,
        "log_format": "json",
        "app": "tests.bench.entity.app:app",
    }
    return service_variables("edge_service", settings)


async def _port(program: Program) -> Any:  # noqa: ANN401  as the log has it
    return (await program.event("service.ready"))["http_port"]


async def _http(table: Table, place: Place, journal: Path, count: int) -> None:
    async with running("edge", "edge_service", "run", variables=_edge(journal)) as program:
        result = await measured(
            _LOAD,
            kind="http",
            port=await _port(program),
            entities=count,
            callers=_CALLERS,
            seconds=place.sized(8, 1),
        )
    table.add("SQLite: commands over HTTP from another process", f"{result['rate']:,.0f} a second")
    async with running("edge", "edge_service", "run", variables=_edge(journal)) as program:
        states = await measured(_LOAD, kind="states", port=await _port(program), entities=count)
    if states["total"] != result["acknowledged"]:
        raise BenchFailure(f"HTTP: {result['acknowledged']} commands acknowledged, {states['total']} counted")
    table.add("SQLite: restarted, all states read over HTTP, and they add up", f"{states['took_s']:.2f} s")


async def _touched(table: Table, place: Place, journal: Path) -> None:
    touched, cached = [place.sized(n, n // 200) for n in _TOUCHED], place.sized(10_000, 500)
    result = await measured(_LOAD, kind="touch", url=str(journal), touched=touched, cached=cached)
    if result["live"] > cached + _CALLERS:  # who is busy stays beyond the limit
        raise BenchFailure(f"{result['live']} entities are in memory, the limit is {cached}")
    table.add(f"memory with {cached:,} entities, as many as are kept", f"{result['before_mb']:.0f} MB")
    for count, resident_mb in zip(touched, result["resident_mb"], strict=True):
        table.add(f"after {count:,} entities touched", f"{resident_mb:.0f} MB")
    first_mb, last_mb = result["resident_mb"][0], result["resident_mb"][-1]
    table.judge(
        f"growth from {touched[0]:,} to {touched[-1]:,}",
        f"{last_mb - first_mb:+.0f} MB",
        f"< {_GROWTH_MB} MB",
        last_mb - first_mb < _GROWTH_MB,
    )
    at_most_mb = result["peak_mb"] - result["before_mb"]
    table.judge(
        f"at most, with {cached:,} kept", f"{result['peak_mb']:.0f} MB", f"+ < {_PEAK_MB} MB", at_most_mb < _PEAK_MB
    )
    table.add("new entities, one command each", f"{result['rate']:,.0f} a second")
