"""What a cloud costs PostgreSQL while nothing happens: transactions a second of two nodes with many ranges, and of many nodes.

At idle every statement is a transaction of its own, but for those that take two or three; what the server's own counters say
is of these nodes, and of nothing else in that database. The many nodes are whole services in one process.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio

from common import border
from tests.bench.moves import until_held
from tests.bench.place import Place
from tests.bench.processes import cloud, measured_meanwhile
from tests.bench.table import Table

import asyncpg  # isort: skip  # after border, which prepares asyncio

RANGES = 64
ROWS = 2 * RANGES
BAR = 60.0
MANY, MANY_RANGES, MANY_BAR = 20, 128, 100.0
_SETTLE_S = 15.0
# The session's own counters are reported now and then; pg_stat_database is exact enough over this time.
_COUNTED = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"


async def run(place: Place) -> list[Table]:
    """Once; the nodes have their shares and nothing is stored."""
    seconds = place.sized(30, 10)
    table = Table("Nodes stand by, nothing stored: transactions of all of them, a second")
    two = await _two(place, seconds)
    table.judge(f"2 nodes, {RANGES} ranges of 2 projections", f"{two:.0f}", f"< {BAR:.0f}", two < BAR)
    nodes = place.sized(MANY, 5)
    many = await _many(place, nodes, seconds)
    table.judge(f"{nodes} nodes, {MANY_RANGES} ranges", f"{many:.0f}", f"< {MANY_BAR:.0f}", many < MANY_BAR)
    return [table]


async def _two(place: Place, seconds: int) -> float:
    with place.postgres.fresh() as url:
        async with AsyncExitStack() as stack:
            settings = {"projection_ranges": RANGES}
            await stack.enter_async_context(cloud(url, {"node": "n1", **settings}))
            await stack.enter_async_context(cloud(url, {"node": "n2", **settings}))
            return await _transactions_a_second(stack, url, {"n1": ROWS // 2, "n2": ROWS // 2}, seconds)


async def _many(place: Place, nodes: int, seconds: int) -> float:
    with place.postgres.fresh() as url:
        async with AsyncExitStack() as stack:
            program = measured_meanwhile("tests.bench.many_nodes", url=url, nodes=nodes, ranges=MANY_RANGES)
            load = await stack.enter_async_context(program)
            await load.event("load.ready")
            per_s = await _transactions_a_second(stack, url, {}, seconds)
            await load.tell("over")
            return per_s


async def _transactions_a_second(stack: AsyncExitStack, url: str, held: dict[str, int], seconds: int) -> float:
    """Once the nodes named in ``held`` have so many ranges, and a while after."""
    connection = await border.call_asyncio(asyncpg.connect, url)
    stack.callback(connection.terminate)
    for name, rows in held.items():
        await until_held(connection, name, rows)
    await trio.sleep(_SETTLE_S)
    before, began_s = await border.call_asyncio(connection.fetchval, _COUNTED), trio.current_time()
    await trio.sleep(seconds)
    after = await border.call_asyncio(connection.fetchval, _COUNTED)
    return float(after - before) / (trio.current_time() - began_s)
