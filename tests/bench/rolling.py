"""A rolling restart under load: three nodes on one PostgreSQL, one after the other stopped and started again.

Edges have the product's own links to the three addresses. An edge's stall is the longest time that one of its events waited for
an ack; after the last restart the nodes' shares of the edges are watched until they are even again.
"""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

import trio

from common import border
from examples.support.processes import Program, Programs, open_programs, service_variables
from tests.bench.place import Place
from tests.bench.processes import measured_meanwhile
from tests.bench.table import Table, percentile

import asyncpg  # isort: skip  # after border, which prepares asyncio

NODES = ("n1", "n2", "n3")
SHARE, EVEN_S, STALL_S = 0.7, 120.0, 2.0
_RANGES = 8
_LOADS = 3
_BETWEEN_S = 5.0
_STOP_S = 20.0
_POLL_S = 0.25
_EDGES = (
    "SELECT node, edges FROM backhaul.member WHERE member_left(member) > interval '0' ORDER BY node, started_us DESC"
)


async def run(place: Place) -> list[Table]:
    """Once."""
    edges, loads = place.sized(300, 30), place.sized(_LOADS, 1)
    ports = dict(zip(NODES, _free_ports(len(NODES)), strict=True))
    with place.postgres.fresh() as url:
        async with AsyncExitStack() as stack:
            connection = await border.call_asyncio(
                lambda: asyncpg.connect(url, server_settings={"search_path": "backhaul"})
            )
            stack.callback(connection.terminate)
            programs = await stack.enter_async_context(open_programs())
            nodes = {name: await _started(programs, url, name, ports[name]) for name in NODES}
            each = edges // loads
            running = [
                await stack.enter_async_context(
                    measured_meanwhile(
                        "tests.bench.up.linked_edges", ports=list(ports.values()), first=number * each + 1, edges=each
                    )
                )
                for number in range(loads)
            ]
            for load in running:
                await load.event("load.connected")
            began_with = await _edges(connection)
            for name in NODES:
                await trio.sleep(_BETWEEN_S)
                await nodes[name].stop(_STOP_S)
                nodes[name] = await _started(programs, url, name, ports[name])
            ready_s = trio.current_time()
            left_with, even_s = await _edges(connection), EVEN_S + _BETWEEN_S
            while trio.current_time() - ready_s < EVEN_S + _BETWEEN_S:
                if min((await _edges(connection)).values()) >= SHARE * edges / len(NODES):
                    even_s = trio.current_time() - ready_s
                    break
                await trio.sleep(_POLL_S)
            ended_with = await _edges(connection)
            for load in running:
                await load.tell("over")
            longest_s = [one for load in running for one in (await load.event("result"))["longest_s"]]
    table = Table(f"Rolling restart: {len(NODES)} nodes, {edges} edges with an event a second each")
    table.add("edges of each node before, and when the last was ready", f"{_shares(began_with)}; {_shares(left_with)}")
    table.judge(
        f"until no node has less than {SHARE:.0%} of the mean",
        f"{even_s:.0f} s, {_shares(ended_with)}",
        f"< {EVEN_S:.0f} s",
        even_s < EVEN_S,
    )
    table.add("longest an event of an edge waited, half of the edges", f"{percentile(longest_s, 0.5):.2f} s")
    worst_s = max(longest_s)
    table.judge("  of any edge", f"{worst_s:.2f} s", f"< {STALL_S} s", worst_s < STALL_S)
    return [table]


async def _started(programs: Programs, url: str, name: str, port: int) -> Program:
    """A node that is ready."""
    settings = {
        "journal": url,
        "node": name,
        "grpc_port": port,
        "http_port": 0,
        "log_format": "json",
        "projection_ranges": _RANGES,
    }
    variables = service_variables("cloud_service", settings)
    node = await programs.start(name, "cloud_service", "run", variables=variables)
    await node.event("service.ready")
    return node


async def _edges(connection: asyncpg.Connection) -> dict[str, int]:
    """Edges of each node that is alive; 0 of one that is not."""
    found = dict.fromkeys(NODES, 0)
    for node, edges in await border.call_asyncio(connection.fetch, _EDGES):
        found[node] = max(found[node], edges)
    return found


def _shares(edges: dict[str, int]) -> str:
    return " / ".join(map(str, edges.values()))


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
