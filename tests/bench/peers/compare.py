"""Peers: NATS and Mosquitto beside ours, one run, in turns, on events of 200 bytes, loaded by one driver (in Go).

For each in turn: memory at rest; events on a schedule from the edge to beyond the cloud's store, with the processor
time that they take; appends that wait for their acknowledgement; a backlog. Ratios are to NATS with every message
synced, which promises what ours does.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import trio

from examples.support.processes import Program
from tests.bench.peers.ours import delays_s, open_services
from tests.bench.peers.servers import Mosquitto, Nats, Peer, drive
from tests.bench.peers.tools import Tools, find_tools
from tests.bench.place import Place
from tests.bench.processes import cpu_s, rss_bytes
from tests.bench.table import Table, middle_ratio, percentile, spread
from tests.bench.up import drain
from tests.bench.workload import PAYLOAD_BYTES, fill

_RATE: Final = 500
_CALLERS: Final = 64
_SETTLE_S: Final = 1.5
_SYNCED: Final = "NATS, sync always"
_UNSYNCED: Final = "NATS, default sync"

# Measures, in the order of the table; ours may have several variants of one, as "ours, gRPC".
_P50, _P99 = "p50", "p99"
_MANY, _ONE, _DRAIN = f"acknowledged appends, {_CALLERS} callers", "acknowledged appends, one caller", "drain"
_EDGE_CPU, _CLOUD_CPU, _STORE_CPU = "edge", "cloud", "PostgreSQL"
_EDGE_RSS, _CLOUD_RSS = "memory, edge", "memory, cloud"

Figures = dict[tuple[str, str], list[float]]
"""By measure and product: a figure a round."""


@dataclass(frozen=True)
class _Round:
    """One round's sizes, and where its figures go."""

    place: Place
    tools: Tools
    found: Figures

    @property
    def _seconds(self) -> float:
        return self.place.sized(20, 3)

    @property
    def _warm_up_s(self) -> int:
        return self.place.sized(2, 1)

    @property
    def backlog(self) -> int:
        return self.place.sized(300_000, 20_000)

    def note(self, measure: str, product: str, figure: float) -> None:
        self.found.setdefault((measure, product), []).append(figure)

    async def peer(self, peer: Peer) -> None:
        """Everything of one peer, in a new folder."""
        folder = self.place.fresh_folder("peer")
        async with peer.open_pair(folder) as pair:
            await trio.sleep(_SETTLE_S)
            self._note_memory(peer.name, pair.edge, pair.cloud)
            used = _processors(pair.edge, pair.cloud)
            delays = await self._schedule(peer.kind, pair.edge_address, pair.cloud_address)
            self._note_processors(peer.name, used, _processors(pair.edge, pair.cloud))
            self._note_delays(peer.name, delays)
            await self._appends(peer.name, peer.kind, pair.edge_address)
        shutil.rmtree(folder)
        folder = self.place.fresh_folder("peer-drain")
        self.note(_DRAIN, peer.name, await peer.drain(folder, self.backlog))
        shutil.rmtree(folder)

    async def ours(self) -> None:
        """Everything of ours."""
        folder = self.place.fresh_folder("ours")
        async with open_services(self.place, folder) as running:
            await trio.sleep(_SETTLE_S)
            self._note_memory("ours", running.edge, running.cloud)
            used, store_s = _processors(running.edge, running.cloud), self.place.postgres.processor_s()
            await self._schedule("grpc", running.grpc_address, "")
            await trio.sleep(_SETTLE_S)
            self._note_processors("ours", used, _processors(running.edge, running.cloud))
            self._note_processor("ours", _STORE_CPU, self.place.postgres.processor_s() - store_s)
            await self._appends("ours, gRPC", "grpc", running.grpc_address)
            await self._appends("ours, HTTP", "http", running.http_address)
        events = _RATE * (round(self._seconds) + self._warm_up_s)
        to_commit, to_projections = delays_s(folder, events, _RATE * self._warm_up_s)
        self._note_delays("ours, to the cloud's commit", to_commit)
        self._note_delays("ours, to committed projections", to_projections)
        shutil.rmtree(folder)

    async def our_drain(self, journals: dict[str, Path]) -> None:
        """The backlog that was written before."""
        drained = await drain.drain(self.place, journals, self.backlog, "")
        self.note(_DRAIN, "ours, no projections", drained.rate)

    async def _schedule(self, kind: str, edge: str, cloud: str) -> list[float]:
        measured = await drive(
            self.tools,
            kind="schedule",
            peer=kind,
            edge=edge,
            cloud=cloud,
            rate=_RATE,
            seconds=self._seconds,
            warm_up=self._warm_up_s,
        )
        self.note("driver behind its schedule at worst", "driver", float(measured["late_s"]))
        return list(measured.get("delays_s", ()))

    async def _appends(self, product: str, kind: str, edge: str) -> None:
        for measure, callers in ((_ONE, 1), (_MANY, _CALLERS)):
            measured = await drive(
                self.tools,
                kind="appends",
                peer=kind,
                edge=edge,
                callers=callers,
                seconds=self.place.sized(5, 1),
                warm_up=self.place.sized(1, 0) or 0.3,
            )
            self.note(measure, product, float(measured["rate"]))

    def _note_delays(self, product: str, delays: list[float]) -> None:
        for measure, share in ((_P50, 0.5), (_P99, 0.99)):
            self.note(measure, product, percentile(delays, share))

    def _note_memory(self, product: str, edge: Program, cloud: Program) -> None:
        self.note(_EDGE_RSS, product, rss_bytes(edge) / 1e6)
        self.note(_CLOUD_RSS, product, rss_bytes(cloud) / 1e6)

    def _note_processors(self, product: str, before: tuple[float, float], after: tuple[float, float]) -> None:
        for measure, first, last in zip((_EDGE_CPU, _CLOUD_CPU), before, after, strict=True):
            self._note_processor(product, measure, last - first)

    def _note_processor(self, product: str, measure: str, seconds: float) -> None:
        self.note(measure, product, seconds / (_RATE * (self._seconds + self._warm_up_s)))


def _processors(edge: Program, cloud: Program) -> tuple[float, float]:
    return cpu_s(edge), cpu_s(cloud)


async def run(place: Place) -> list[Table]:
    """Rounds of everything, one product after the other."""
    tools = await trio.to_thread.run_sync(find_tools)
    if tools is None:
        return []
    this = _Round(place, tools, {})
    peers: list[Peer] = [Nats(tools, True), Nats(tools, False)] if tools.nats else []
    if tools.mosquitto:
        peers.append(Mosquitto(tools))
    folder = place.fresh_folder("waiting")
    journals = {"edge-1": folder / "edge-1.db"}
    await fill(journals["edge-1"], "edge-1", this.backlog)
    turns: list[Callable[[], Awaitable[None]]] = [
        *(lambda peer=peer: this.peer(peer) for peer in peers),
        this.ours,
        lambda: this.our_drain(journals),
    ]
    for number in range(place.sized(5, 1)):
        # Who begins changes, so that nobody always follows the same one.
        first = number % len(turns)
        for turn in (*turns[first:], *turns[:first]):
            await turn()
    shutil.rmtree(folder)
    return _tables(this)


def _tables(this: _Round) -> list[Table]:
    found = this.found
    delays = Table(f"Peers: {_RATE} events/s of {PAYLOAD_BYTES} bytes, due at the edge to beyond the cloud's store")
    _rows(delays, found, _P50, _ms, _Bars({"ours, to the cloud's commit": 3, "ours, to committed projections": 5}))
    _rows(delays, found, _P99, _ms, _Bars({"ours, to the cloud's commit": 3, "ours, to committed projections": 5}))
    late = max(found[("driver behind its schedule at worst", "driver")])
    delays.add("driver behind its schedule at worst", f"{late * 1e3:.1f} ms")
    rates = Table(f"Peers: events of {PAYLOAD_BYTES} bytes a second")
    _rows(rates, found, _MANY, _per_s, _Bars({"ours, gRPC": 1, "ours, HTTP": 0.8}, is_more_better=True))
    _rows(rates, found, _ONE, _per_s, _Bars({"ours, gRPC": 0.7}, is_more_better=True))
    to_unsynced = _Bars({"ours, no projections": 0.8}, is_more_better=True, to=_UNSYNCED)
    _rows(rates, found, _DRAIN, _per_s, to_unsynced, title=f"drain, {this.backlog:,} events")
    costs = Table(f"Peers: processor time of one event at {_RATE} events/s, and memory at rest")
    for measure in (_EDGE_CPU, _CLOUD_CPU, _STORE_CPU):
        _rows(costs, found, measure, _ms, _Bars({}), title=f"processor time, {measure}")
    for measure in (_EDGE_RSS, _CLOUD_RSS):
        _rows(costs, found, measure, _mb, _Bars({}))
    return [delays, rates, costs]


@dataclass(frozen=True)
class _Bars:
    """Targets by product, as ratios to the figure of ``to``."""

    of: dict[str, float]
    is_more_better: bool = False
    to: str = _SYNCED


def _rows(
    table: Table,
    found: Figures,
    measure: str,
    shown: Callable[[list[float]], str],
    bars: _Bars,
    *,
    title: str = "",
) -> None:
    """One measure: a row a product, and below each of ours its ratio."""
    table.add(title or measure, "")
    base = found.get((measure, bars.to))
    for (of, product), figures in found.items():
        if of != measure:
            continue
        table.add(f"  {product}", shown(figures))
        if base is None or not product.startswith("ours"):
            continue
        ratio = middle_ratio(zip(figures, base, strict=True))
        what, bar = f"    to {bars.to}", bars.of.get(product)
        if bar is None:
            table.add(what, f"{ratio:.2f}")
        elif bars.is_more_better:
            table.judge(what, f"{ratio:.2f}", f">= {bar:g}", ratio >= bar)
        else:
            table.judge(what, f"{ratio:.2f}", f"<= {bar:g}", ratio <= bar)


def _ms(figures: list[float]) -> str:
    middle = f"{median(figures) * 1e3:.2f} ms"
    return middle if len(figures) == 1 else f"{middle} ({min(figures) * 1e3:.2f} to {max(figures) * 1e3:.2f})"


def _per_s(figures: list[float]) -> str:
    return spread(figures, "events/s")


def _mb(figures: list[float]) -> str:
    return f"{median(figures):.0f} MB"
