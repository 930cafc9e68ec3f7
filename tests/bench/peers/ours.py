"""Ours under the load that the peers get: an edge and a cloud over PostgreSQL with its two projections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from examples.support.processes import Program
from tests.bench.place import Place
from tests.bench.processes import BenchFailure, cloud, edge


@dataclass(frozen=True, slots=True)
class Running:
    """Both services; ``seen`` is written when the cloud has ended."""

    edge: Program
    cloud: Program
    grpc_address: str
    http_address: str


@asynccontextmanager
async def open_services(place: Place, folder: Path) -> AsyncIterator[Running]:
    """Linked, and ready for events. The cloud notes its commits in ``folder``: `delays_s` reads them afterwards."""
    with place.postgres.fresh() as url:
        async with cloud(url, module="tests.bench.up.timed_cloud", words=(str(_seen(folder)),)) as node:
            port = (await node.event("service.ready"))["grpc_port"]
            async with edge("edge-1", folder / "edge.db", port) as program:
                await program.event("push.started")
                ready = await program.event("service.ready")
                yield Running(program, node, f"127.0.0.1:{ready['grpc_port']}", f"127.0.0.1:{ready['http_port']}")


def delays_s(folder: Path, expected: int, skipped: int) -> tuple[list[float], list[float]]:
    """Seconds from due to the cloud's commit, and to the last projection's, without the ``skipped`` first events.

    Raises:
        BenchFailure: not all of them arrived.
    """
    seen = orjson.loads(_seen(folder).read_bytes())
    projections = list(seen["projections"].values())
    found = []
    for lists in ([seen["commit"]], projections):
        worst: dict[int, int] = {}
        for committed in lists:
            for due_us, delay_us in committed:
                worst[due_us] = max(delay_us, worst.get(due_us, 0))
        if not lists or any(len(committed) != expected for committed in lists):
            counts = ", ".join(str(len(committed)) for committed in lists)
            raise BenchFailure(f"{counts or 'none'} of {expected} events arrived")
        found.append([worst[due_us] / 1e6 for due_us in sorted(worst)][skipped:])
    to_commit, to_projections = found
    return to_commit, to_projections


def _seen(folder: Path) -> Path:
    return folder / "seen.json"
