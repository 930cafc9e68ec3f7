"""The database fails over under load: its primary dies, the streaming standby is promoted, and its address follows.

Two real nodes on a real pair of PostgreSQL servers, and edges with the product's own links. Time begins when the standby is
promoted and the address leads to it; an edge's ack moves when it covers more than all that was acknowledged before.
Synchronous, nothing that was acknowledged may be missing from the promoted standby. Asynchronous, the standby is cut off for two
seconds before: what it lacks comes again from the edges and takes effect once.
"""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from statistics import median

import trio

from examples.support.postgres import PostgresServer
from examples.support.processes import Program
from tests.bench.place import Place
from tests.bench.processes import BenchFailure, cloud, measured_meanwhile
from tests.bench.table import Table
from tests.support.replication import Address, ReplicatedPair, away, replicated_pair

MOVES_S = 3.0
EDGES, EVERY_S = 20, 0.2
_NODES = ("n1", "n2")
_RANGES = 4
_LOAD_S, _CUT_OFF_S = 3.0, 2.0
_STUCK_S = 60.0
_ORIGINS = "SELECT origin_id || ' ' || position FROM backhaul.origin"
_STORED = "SELECT count(*) FROM backhaul.event"
_TALLY = "SELECT coalesce(sum(events), 0) || ' ' || coalesce(sum(out_of_order), 0) FROM backhaul.tally"
_SAID = ("push.peer_refilled", "push.peer_lost_history")


@dataclass(frozen=True, slots=True)
class _Found:
    """Of one failover: seconds until each edge's ack moved, longest wait of an event, and what became of the events.

    ``lost`` were acknowledged and not on the standby, of ``losers`` edges; so many edges ``said`` so.
    """

    moved_s: list[float]
    longest_s: float
    lost: int
    losers: int
    said: int
    sent: int
    stored: int
    tally: str

    @property
    def is_whole(self) -> bool:
        """Whether everything is stored and was projected once, in order."""
        return self.stored == self.sent and self.tally == f"{self.sent} 0"


async def run(place: Place) -> list[Table]:
    """Both kinds in turns, on one pair of servers."""
    found: dict[bool, list[_Found]] = {True: [], False: []}
    folder = place.fresh_folder("pair")
    folder.chmod(0o711)
    with replicated_pair(folder) as pair:
        for _ in range(place.sized(5, 1)):
            for synchronous in found:
                await away(partial(pair.restore, synchronous=synchronous))
                pair.primary.require_durable()
                found[synchronous].append(await _fail_over(pair, synchronous))
    shutil.rmtree(folder, ignore_errors=True)
    table = Table(f"Failover under load: two nodes, {EDGES} edges with {1 / EVERY_S:.0f} events a second each")
    for synchronous, rounds in found.items():
        moved_s = [one for each in rounds for one in each.moved_s]
        table.add(
            f"{'synchronous' if synchronous else 'asynchronous'}: until an edge's ack moves, median",
            f"{median(moved_s):.2f} s",
        )
        table.judge("  the last edge's", f"{max(moved_s):.2f} s", f"< {MOVES_S} s", max(moved_s) < MOVES_S)
        table.add("  longest that an event waited for its ack", f"{max(one.longest_s for one in rounds):.2f} s")
        lost = sum(one.lost for one in rounds)
        sent, stored = sum(one.sent for one in rounds), sum(one.stored for one in rounds)
        whole = all(one.is_whole for one in rounds)
        if synchronous:
            table.judge("  acknowledged and not on the standby", f"{lost}", "0", not lost)
            table.judge("  sent; stored", f"{sent:,}; {stored:,}", "tally the same", whole)
        else:
            losers, said = sum(one.losers for one in rounds), sum(one.said for one in rounds)
            table.judge(
                "  acknowledged and not on the standby; of edges; that said so",
                f"{lost}; {losers}; {said}",
                "some; all",
                lost > 0 and said >= losers,
            )
            table.judge("  sent; stored in the end", f"{sent:,}; {stored:,}", "tally the same", whole)
    return [table]


async def _fail_over(pair: ReplicatedPair, synchronous: bool) -> _Found:
    database_url = pair.primary.create()
    name = database_url.rpartition("/")[2]
    address = Address(pair.primary)
    async with trio.open_nursery() as nursery:
        await nursery.start(address.run)
        async with AsyncExitStack() as stack:
            settings = {"projections": "tally", "projection_ranges": _RANGES}
            nodes = [
                await stack.enter_async_context(cloud(address.url(database_url), {**settings, "node": node}))
                for node in _NODES
            ]
            ports = [(await node.event("service.ready"))["grpc_port"] for node in nodes]
            load = await stack.enter_async_context(
                measured_meanwhile("tests.bench.up.linked_edges", ports=ports, first=1, edges=EDGES, every_s=EVERY_S)
            )
            await load.event("load.connected")
            await trio.sleep(_LOAD_S)
            await pair.caught_up()
            if not synchronous:
                await away(pair.standby.crash)
                await trio.sleep(_CUT_OFF_S)
            await away(pair.primary.crash)
            acked = await _acked(load)
            if not synchronous:
                await away(pair.standby.start)
            await away(pair.promote)
            kept = await _kept(pair.primary, name)
            lacking = [acked[edge] - kept.get(edge, 0) for edge in acked if acked[edge] > kept.get(edge, 0)]
            address.lead_to(pair.primary)
            await load.tell("moved")
            moved_s = (await load.event("load.moved"))["seconds"]
            await trio.sleep(_LOAD_S)
            await load.tell("over")
            result = await load.event("result")
            sent = int(result["stored"])
            found = _Found(
                moved_s,
                max(result["longest_s"]),
                sum(lacking),
                len(lacking),
                sum(len(load.said(event)) for event in _SAID),
                sent,
                int(await _asked(pair.primary, name, _STORED)),
                await _tally(pair.primary, name, sent),
            )
        nursery.cancel_scope.cancel()
    await away(pair.primary.drop, database_url)
    return found


async def _acked(load: Program) -> dict[str, int]:
    await load.tell("acked")
    acked: dict[str, int] = (await load.event("load.acked"))["acked"]
    return acked


async def _kept(server: PostgresServer, database: str) -> dict[str, int]:
    rows = (await _asked(server, database, _ORIGINS)).splitlines()
    return {origin: int(position) for origin, position in map(str.split, rows)}


async def _tally(server: PostgresServer, database: str, wanted: int) -> str:
    """Waited for. Raises ``BenchFailure`` when it stays behind."""
    found = ""
    with trio.move_on_after(_STUCK_S):
        while True:
            found = await _asked(server, database, _TALLY)
            if int(found.split()[0]) >= wanted:
                return found
            await trio.sleep(0.1)
    raise BenchFailure(f"the tally stands at {found} of {wanted}")


async def _asked(server: PostgresServer, database: str, sql: str) -> str:
    return str(await away(partial(server.superuser.run, sql, database=database)))
