"""The demo from curtain to curtain: start everybody, replay, let the script happen, stop everybody, read, compare.

Each step is bounded in time. What does not hold is a problem in the outcome; only what keeps the demo from being played
at all is raised, as DemoFailure.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import trio

from common.projection.snapshot_rule import SNAPSHOT_RULE
from examples.demo.cast import Cast, Service, open_cast
from examples.demo.failure import DemoFailure
from examples.demo.feed import Feed
from examples.demo.findings import read_and_compare
from examples.demo.nodes import NODES_MIN, RANGES, kill_a_node
from examples.demo.orders.findings import Down
from examples.demo.orders.orders import ORDER_TYPE, SNAPSHOT_EVERY, STREAM, Dispatcher, SiteProgram, only
from examples.demo.orders.script import (
    OrderActs,
    move_an_order,
    orders_arrived,
    start_late,
    stop_reading,
    widen_and_kill,
)
from examples.demo.outcome import NodeMoves, Outcome, StoryLine
from examples.demo.script import EDGE_FILE, Acts, Edge, break_the_line, kill_the_process, lose_the_disk
from examples.demo.series import Series, read_folder
from examples.demo.service_lines import answer
from examples.demo.show import EdgeProgress, Show
from examples.demo.wall import PUSH_FILTER, write_behind_the_wall
from examples.support.http_client import HttpClient, Unanswered
from examples.support.relay import Relay

EDGE_IDS: Final = ("edge-a", "edge-b", "edge-c")
LATE_ID: Final = "edge-d"
SITE_OF: Final[Mapping[str, str]] = {"edge-a": "north", "edge-b": "south", "edge-c": "east", LATE_ID: "north"}

_PROGRESS_TIMEOUT_S: Final = 2.0
_DARK_S: Final = 4.0
_WATCH_S: Final = 0.2
_KILL_NODE_AT: Final = 0.7  # of edge-a's readings, behind what happens to its line
_REPLAY_TIMEOUT_S: Final = 120.0
_QUIET_TIMEOUT_S: Final = 25.0
_QUIET_POLL_S: Final = 0.1
_STATUS_TIMEOUT_S: Final = 2.0
# Short, so that the demo shows in seconds what takes half a minute with the defaults.
_QUICK: Final[Mapping[str, object]] = {
    "heartbeat_s": 0.5,
    "progress_timeout_s": _PROGRESS_TIMEOUT_S,
    "poll_interval_s": 0.1,
    "drain_s": 5,
    "log_format": "json",
    "http_port": 0,
    "grpc_port": 0,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How to play it. ``postgres_url`` names an empty database, or None for SQLite; ``place`` is an empty folder."""

    data: Path
    place: Path
    postgres_url: str | None
    nodes: int
    poll_only: bool
    pace_s: float
    seed: int

    @property
    def cloud_journal(self) -> str:
        return self.postgres_url or str(self.place / "cloud" / "journal.db")

    @property
    def logs(self) -> Path:
        return self.place / "logs"

    def volume(self, edge_id: str) -> Path:
        """The folder that is the edge's disk."""
        return self.place / edge_id


class _Story:
    """Prints the story, and remembers it."""

    def __init__(self, show: Show, nodes: int) -> None:
        self._show = show
        self._nodes = nodes
        self._began_s = trio.current_time()
        self.is_open = True
        self.lines: list[StoryLine] = []

    @property
    def seconds(self) -> float:
        return trio.current_time() - self._began_s

    def tell(self, who: str, what: str, kind: Literal["act", "log", "alarm"] = "act") -> None:
        line = StoryLine(round(self.seconds, 3), who, what, kind)
        self.lines.append(line)
        self._show.tell(line)

    def heard(self, who: str, fields: Mapping[str, Any]) -> None:
        """A service's log line; those that matter are part of the story."""
        found = answer(fields, with_nodes=self._nodes > 1) if self.is_open else None
        if found:
            self.tell(who, found.text, "alarm" if found.is_alarm else "log")


async def play(plan: Plan, show: Show) -> Outcome:
    """Play it and compare. Raises DemoFailure, alone or in a group, when it cannot be played."""
    series = read_folder(plan.data, EDGE_IDS)
    moves: NodeMoves | None = None
    chance = random.Random(plan.seed)
    story, acts = _Story(show, plan.nodes), Acts()
    for folder in (plan.logs, plan.place / "cloud", *map(plan.volume, (*EDGE_IDS, LATE_ID))):
        folder.mkdir(parents=True)
    where = "one PostgreSQL" if plan.postgres_url else "a SQLite file"
    cloud = f"{'one cloud node' if plan.nodes == 1 else f'{plan.nodes} cloud nodes'} over {where}"
    story.tell("demo", f"starting {cloud} and three edges: each a process of its own, over real sockets and disks")
    story.tell(
        "demo", "lines will be cut, processes killed and a disk destroyed; then every store is compared with the input"
    )
    async with open_cast(plan.logs, story.heard) as cast:
        nodes = [_node(plan, number) for number in range(1, plan.nodes + 1)]
        await _start(cast, nodes)
        story.tell("demo", f"{cloud} {'is' if plan.nodes == 1 else 'are'} up")
        async with _lines(nodes) as lines:
            edges = [_edge(plan, edge_id, series[edge_id], *lines[edge_id]) for edge_id in EDGE_IDS]
            down = _down(plan, nodes[0], chance)
            late = Service(LATE_ID, "edge_service", _edge_settings(plan, LATE_ID, lines[LATE_ID][1]))
            await _start(cast, [edge.service for edge in edges])
            total = sum(edge.feed.total for edge in edges)
            files = sum(len(edge.feed.series) for edge in edges)
            story.tell(
                "demo",
                f"three edges are up; {files} programs replay {files} sensors to them: {total:,} readings, each an event",
            )
            story.tell(
                "demo", f"{EDGE_IDS[0]} and {EDGE_IDS[1]} call their sensors by equal names: sensor-1, sensor-2 …"
            )
            async with trio.open_nursery() as watching:
                watching.start_soon(_watch, edges, show)
                for program, service in [*((edge.program, edge.service) for edge in edges), (down.late_program, late)]:
                    watching.start_soon(program.run, partial(getattr, service, "http_port"))
                await down.dispatcher.publish_archive()
                story.tell("cloud", "publishes work orders by site; each edge follows those of its own")
                orders = trio.CancelScope()
                watching.start_soon(_dispatch, down.dispatcher, orders)
                with trio.move_on_after(plan.pace_s + _REPLAY_TIMEOUT_S) as in_time:
                    moves = await _replay(plan, cast, edges, nodes, acts, story, chance)
                if in_time.cancelled_caught:
                    answered = sum(len(edge.feed.answered) for edge in edges)
                    raise DemoFailure(
                        f"the replay did not end in time: {answered:,} of {total:,} readings are answered for"
                    )
                story.tell("demo", f"all {total:,} readings are answered for; waiting until nothing is on its way")
                problems = await _quiet(edges, nodes)
                problems += await _way_down(cast, edges, late, nodes[0], down, orders, story)
                watching.cancel_scope.cancel()
            story.is_open = False
            for services in (
                [*(edge.service for edge in edges), late],
                nodes,
            ):  # edges first: nothing is left on its way
                problems += await _stop(cast, services)
    story.tell("demo", "everything is stopped; reading the journals")
    return await read_and_compare(
        plan.cloud_journal, edges, acts, down, moves, story=story.lines, seconds=story.seconds, problems=problems
    )


async def _start(cast: Cast, services: Sequence[Service]) -> None:
    """All at once; returns when all are ready. Raises DemoFailure."""
    async with trio.open_nursery() as nursery:
        for service in services:
            nursery.start_soon(cast.start, service)


def _node(plan: Plan, number: int) -> Service:
    name = "cloud" if plan.nodes == 1 else f"cloud-{number}"
    settings = {
        **_QUICK,
        "node": name,
        "journal": plan.cloud_journal,
        "poll_only": plan.poll_only,
        "streams": f"{STREAM}={ORDER_TYPE}",
        "snapshot_every": f"{ORDER_TYPE}={SNAPSHOT_EVERY}",
        **({"projection_ranges": RANGES} if plan.nodes > 1 else {}),
    }
    return Service(name, "cloud_service", settings)


def _edge(plan: Plan, edge_id: str, series: Sequence[Series], line: Relay, port: int) -> Edge:
    service = Service(edge_id, "edge_service", _edge_settings(plan, edge_id, port))
    program = SiteProgram(edge_id, acks=edge_id == EDGE_IDS[0])
    return Edge(service, plan.volume(edge_id), line, Feed(edge_id, series), program)


def _edge_settings(plan: Plan, edge_id: str, port: int) -> dict[str, object]:
    return {
        **_QUICK,
        "id": edge_id,
        "cloud": f"127.0.0.1:{port}",
        "journal": plan.volume(edge_id) / EDGE_FILE,
        "poll_only": plan.poll_only,
        "connect_timeout_s": _PROGRESS_TIMEOUT_S,
        "backoff_min_s": 0.1,
        "backoff_max_s": 1,
        "subscriptions": STREAM,
        "subscription_filters": f"{STREAM}={json.dumps(only(SITE_OF[edge_id]))}",
        "start_from": "snapshots" if edge_id == LATE_ID else "log",
        "push_filter": PUSH_FILTER,
    }


def _down(plan: Plan, node: Service, chance: random.Random) -> Down:
    sites = [SITE_OF[edge_id] for edge_id in EDGE_IDS]
    dispatcher = Dispatcher(lambda: node.http_port, sites, random.Random(chance.random()))
    return Down(dispatcher, OrderActs(), SITE_OF, SiteProgram(LATE_ID), str(plan.volume(LATE_ID) / EDGE_FILE))


@asynccontextmanager
async def _lines(nodes: Sequence[Service]) -> AsyncIterator[dict[str, tuple[Relay, int]]]:
    """Each edge's line to the cloud, with its port; with several nodes all lines end at one that takes turns."""
    upstreams = [("127.0.0.1", node.grpc_port) for node in nodes]
    async with trio.open_nursery() as nursery:
        if len(upstreams) > 1:
            upstreams = [("127.0.0.1", await nursery.start(Relay(upstreams).run))]
        lines = {}
        for edge_id in (*EDGE_IDS, LATE_ID):
            relay = Relay(upstreams)
            lines[edge_id] = (relay, await nursery.start(relay.run))
        yield lines
        nursery.cancel_scope.cancel()


async def _replay(
    plan: Plan,
    cast: Cast,
    edges: Sequence[Edge],
    nodes: Sequence[Service],
    acts: Acts,
    story: _Story,
    chance: random.Random,
) -> NodeMoves | None:
    """Feed all edges and let the script happen to them; returns when both are through."""
    a, b, c = edges
    moves: NodeMoves | None = None

    async def kill_node() -> None:
        nonlocal moves
        await a.feed.reached(_KILL_NODE_AT)
        moves = await kill_a_node(nodes, cast, story.tell)

    async with trio.open_nursery() as nursery:
        for edge in edges:
            feeding = random.Random(chance.random())
            nursery.start_soon(partial(edge.feed.run, edge.http_port, pace_s=plan.pace_s, chance=feeding))
        nursery.start_soon(partial(break_the_line, a, acts, story.tell, dark_s=_DARK_S))
        nursery.start_soon(kill_the_process, b, cast, acts, story.tell)
        nursery.start_soon(lose_the_disk, c, cast, acts, story.tell)
        if len(nodes) >= NODES_MIN:
            nursery.start_soon(kill_node)
    return moves


async def _dispatch(dispatcher: Dispatcher, orders: trio.CancelScope) -> None:
    with orders:
        await dispatcher.run()


async def _way_down(
    cast: Cast,
    edges: Sequence[Edge],
    late: Service,
    cloud: Service,
    down: Down,
    orders: trio.CancelScope,
    story: _Story,
) -> list[str]:
    """What happens to the orders; returns when all of them are where they belong, or what is not."""
    a, b, c = edges
    acts, dispatcher = down.acts, down.dispatcher
    await widen_and_kill(b, SITE_OF[b.id], cast, acts, story.tell)
    await stop_reading(c, c.program, SITE_OF[c.id], cast, dispatcher, acts, story.tell)
    orders.cancel()
    await start_late(late, cloud, SITE_OF[LATE_ID], cast, dispatcher, acts, story.tell)
    await move_an_order(cloud, SITE_OF[a.id], SITE_OF[b.id], dispatcher, story.tell)
    await write_behind_the_wall(a, cloud, story.tell)
    story.tell("demo", f"{dispatcher.published:,} orders' events are published; waiting until every site has its own")
    everybody = [*((edge.service, edge.program) for edge in edges), (late, down.late_program)]
    return await orders_arrived(everybody, cloud, at_most_s=_QUIET_TIMEOUT_S)


async def _watch(edges: Sequence[Edge], show: Show) -> None:
    """Keep the progress on the screen; what cannot be asked now is shown as down."""
    clients = [HttpClient(edge.http_port) for edge in edges]
    while True:
        rows = []
        for edge, client in zip(edges, clients, strict=True):
            state, waiting = "down", None
            try:
                with trio.fail_after(_STATUS_TIMEOUT_S):
                    status = (await client.get("/status")).body
                state, waiting = str(status["link"]["state"]), int(status["lag"]["events"])
            except (Unanswered, trio.TooSlowError, KeyError):
                pass
            rows.append(EdgeProgress(edge.id, state, len(edge.feed.answered), edge.feed.total, waiting))
        show.progress(rows)
        await trio.sleep(_WATCH_S)


async def _quiet(edges: Sequence[Edge], nodes: Sequence[Service]) -> list[str]:
    """Until the cloud has everything and has projected it; what is still on its way after a while is a problem."""
    waiting_for = "nothing"
    with trio.move_on_after(_QUIET_TIMEOUT_S):
        edge_clients = [(edge.id, HttpClient(edge.http_port)) for edge in edges]
        cloud = HttpClient(lambda: nodes[0].http_port)
        while True:
            behind: dict[str, int] = {}
            for edge_id, client in edge_clients:
                status = (await client.get("/status")).body
                if status["lag"]["events"]:
                    behind[f"events of {edge_id}"] = status["lag"]["events"]
            for row in (await cloud.get("/v1/projections")).body["projections"]:
                if (
                    row["behind"] and row["name"] != SNAPSHOT_RULE
                ):  # orders flow on, and it keeps its place now and then
                    behind[f"events for {row['name']} {row['slices']}"] = row["behind"]
            if not behind:
                return []
            waiting_for = ", ".join(f"{count} {what}" for what, count in behind.items())
            await trio.sleep(_QUIET_POLL_S)
    return [f"after {_QUIET_TIMEOUT_S:.0f} s of quiet still on their way: {waiting_for}"]


async def _stop(cast: Cast, services: Sequence[Service]) -> list[str]:
    """Ask them all to end; each must drain and end with status 0."""
    problems: list[str] = []

    async def stop(service: Service) -> None:
        status = await cast.stop(service)
        if status:
            problems.append(f"{service.name} did not stop in order: exit status {status}")

    async with trio.open_nursery() as nursery:
        for service in services:
            nursery.start_soon(stop, service)
    return problems
