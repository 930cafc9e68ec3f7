"""The simulation from beginning to end: two sites and a cloud as processes, flights, orders, an outage, and the comparison."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import trio

from common.runtime.environment import real_environment
from examples.demo.cast import Service, open_cast
from examples.drones.simulation.people import Site
from examples.drones.simulation.proof import Facts, compare
from examples.drones.simulation.stores import read_cloud, read_site
from examples.drones.simulation.town import TOWNS
from examples.drones.simulation.view import TownNow, View
from examples.support.http_client import HttpClient, Unanswered
from examples.support.relay import Relay

DRONES: Final = ("d1", "d2", "d3", "d4")
_CUT_SITE: Final = "south"
_REPORT_S: Final = 0.12
_ORDER_S: Final = 0.25
_WATCH_S: Final = 0.25
_ANSWER_S: Final = 2.0
_QUIET_TIMEOUT_S: Final = 30.0
_FELT_LOOKS: Final = 40
_QUICK: Final[Mapping[str, object]] = {
    "heartbeat_s": 0.5,
    "progress_timeout_s": 2,
    "poll_interval_s": 0.2,
    "drain_s": 4,
    "log_format": "json",
    "http_port": 0,
    "grpc_port": 0,
}


@dataclass
class Outage:
    """What was seen of it: the most drones that the cloud had elsewhere, and orders that had not come."""

    drones_outdated: int = 0
    orders_waiting: int = 0
    found_meanwhile: int = 0

    @property
    def was_felt(self) -> bool:
        """Whether it showed what it should: in the cloud, in the queue, and not to the drones of the site."""
        return bool(self.drones_outdated and self.orders_waiting and self.found_meanwhile)


@dataclass(frozen=True)
class Outcome:
    """Everything that was found."""

    facts: Facts
    outage: Outage
    seconds: float
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether all of it is as it must be."""
        return not self.problems


@dataclass
class _Stage:
    """Who is there while it is played."""

    cloud: Service
    edges: Mapping[str, Service]
    lines: Mapping[str, Relay]
    sites: Mapping[str, Site]
    view: View
    began_s: float
    seen: Sequence[TownNow] = ()
    outage: Outage = field(default_factory=Outage)

    def tell(self, what: str) -> None:
        self.view.tell(trio.current_time() - self.began_s, what)


async def play(place: Path, view: View, *, pace_s: float, seed: int) -> Outcome:
    """Fly for ``pace_s`` seconds, wait for quiet, stop everybody and compare. Raises DemoFailure, alone or in a group."""
    began_s, chance = trio.current_time(), Random(seed)
    view.tell(0.0, f"starting a cloud and the sites {' and '.join(town.site for town in TOWNS)}, a process each")
    logs = place / "logs"
    for folder in (logs, *(place / town.site for town in TOWNS)):
        folder.mkdir(parents=True)
    cloud = Service(
        "cloud", "cloud_service", {**_QUICK, "journal": place / "cloud.db", "app": "examples.drones.cloud:app"}
    )
    async with open_cast(logs, lambda _who, _fields: None) as cast:
        await cast.start(cloud)
        async with _lines(cloud) as lines:
            edges = {site: _edge(place, site, port) for site, (_, port) in lines.items()}
            async with trio.open_nursery() as starting:
                for edge in edges.values():
                    starting.start_soon(cast.start, edge)
            sites = {town.site: Site(town, partial(_port, edges[town.site])) for town in TOWNS}
            stage = _Stage(cloud, edges, {site: relay for site, (relay, _) in lines.items()}, sites, view, began_s)
            stage.tell(f"a cloud and the sites {' and '.join(edges)} are up; {len(DRONES)} drones fly at each")
            async with trio.open_nursery() as watching:
                watching.start_soon(_watch, stage)
                await _fly(stage, chance, pace_s)
                problems = await _quiet(stage)
                watching.cancel_scope.cancel()
            stage.tell("everything has come; stopping the services and reading their stores")
            for service in (*edges.values(), cloud):
                if await cast.stop(service):
                    problems.append(f"{service.name} did not stop in order")
    async with real_environment() as environment:
        facts = compare(
            await read_cloud(environment, str(place / "cloud.db")),
            {site: await read_site(environment, str(place / site / "journal.db")) for site in edges},
            {site: played.reports for site, played in sites.items()},
            {site: played.ordered for site, played in sites.items()},
        )
    if not stage.outage.was_felt:
        problems.append(f"the outage did not show what it should: {stage.outage}")
    return Outcome(facts, stage.outage, trio.current_time() - began_s, (*facts.problems, *problems))


def _edge(place: Path, site: str, port: int) -> Service:
    settings = {
        **_QUICK,
        "id": site,
        "cloud": f"127.0.0.1:{port}",
        "journal": place / site / "journal.db",
        "app": "examples.drones.edge:app",
        "connect_timeout_s": 2,
        "backoff_min_s": 0.1,
        "backoff_max_s": 1,
    }
    return Service(site, "edge_service", settings)


def _port(service: Service) -> int:
    return service.http_port


@asynccontextmanager
async def _lines(cloud: Service) -> AsyncIterator[dict[str, tuple[Relay, int]]]:
    """Each site's line to the cloud, with its port."""
    async with trio.open_nursery() as nursery:
        lines = {}
        for town in TOWNS:
            relay = Relay([("127.0.0.1", cloud.grpc_port)])
            lines[town.site] = (relay, await nursery.start(relay.run))
        yield lines
        nursery.cancel_scope.cancel()


async def _fly(stage: _Stage, chance: Random, pace_s: float) -> None:
    """Flights and orders; in the second quarter one site's line is down, for a quarter of the time or more."""
    cloud_port = partial(_port, stage.cloud)
    for site in stage.sites.values():
        await site.open_restaurants(cloud_port, chance)
    async with trio.open_nursery() as nursery:
        for site in stage.sites.values():
            nursery.start_soon(site.order, cloud_port, Random(chance.random()), _ORDER_S)
            for drone in DRONES:
                nursery.start_soon(site.fly, drone, Random(chance.random()), _REPORT_S)
        await trio.sleep(pace_s / 4)
        stage.tell(f"the line of {_CUT_SITE} is cut; its drones fly on, and find the deliveries that it has")
        found = stage.sites[_CUT_SITE].found
        stage.lines[_CUT_SITE].set_mode("refuse")
        await trio.sleep(pace_s / 3)
        for _ in range(_FELT_LOOKS):  # on a busy machine it takes longer to be seen
            stage.outage.found_meanwhile = stage.sites[_CUT_SITE].found - found
            if stage.outage.was_felt:
                break
            await trio.sleep(_WATCH_S)
        stage.lines[_CUT_SITE].set_mode("pass")
        stage.tell(
            f"the line is up again; at the worst the cloud's map had {stage.outage.drones_outdated} of {len(DRONES)}"
            f" drones in an old place, and {stage.outage.orders_waiting} orders waited in the cloud"
        )
        await trio.sleep(pace_s * 5 / 12)
        nursery.cancel_scope.cancel()
    stage.tell("all drones have landed; waiting until the cloud and the sites have everything")


async def _watch(stage: _Stage) -> None:
    """Look at the overview and at the queues, and show them; what cannot be asked now stays as it was."""
    clients = {name: HttpClient(partial(_port, one)) for name, one in {"": stage.cloud, **stage.edges}.items()}
    rows: list[dict[str, Any]] = []
    queued = dict.fromkeys(stage.edges, 0)
    while True:
        with suppress(Unanswered, trio.TooSlowError), trio.fail_after(_ANSWER_S):
            rows = (await clients[""].get("/v1/overview")).body["drones"]
            for site in stage.edges:
                queued[site] = len((await clients[site].get("/v1/states/Delivery?max=1000")).body["states"])
        stage.seen = [_now(stage, name, rows, queued[name]) for name in stage.edges]
        for now in stage.seen:
            if not now.is_up:
                stage.outage.drones_outdated = max(stage.outage.drones_outdated, now.outdated)
                stage.outage.orders_waiting = max(stage.outage.orders_waiting, now.ordered - now.queued)
        stage.view.show(stage.seen)
        await trio.sleep(_WATCH_S)


def _now(stage: _Stage, name: str, rows: Sequence[Mapping[str, Any]], queued: int) -> TownNow:
    site = stage.sites[name]
    shown = {
        str(row["drone"]).rpartition("/")[2]: str(row["cell"]) for row in rows if row["drone"].startswith(f"{name}/")
    }
    is_up = stage.lines[name].mode == "pass"
    return TownNow(site.town, is_up, dict(site.positions), shown, site.reports, len(site.ordered), queued)


async def _quiet(stage: _Stage) -> list[str]:
    """Until the cloud has every drone where it is, and every order has come; what takes too long is a problem."""
    with trio.move_on_after(_QUIET_TIMEOUT_S):
        while True:
            await trio.sleep(2 * _WATCH_S)
            if all(now.outdated == 0 and now.queued == now.ordered for now in stage.seen):
                return []
    return [f"after {_QUIET_TIMEOUT_S:.0f} s of quiet something is still on its way"]
