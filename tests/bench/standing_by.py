"""What a cloud costs PostgreSQL while nothing happens: transactions a second of two nodes with many ranges.

At idle every statement is a transaction of its own, but for those that take two or three; what the server's own counters say
is of both nodes, and of nothing else in that database.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio

from common import border
from tests.bench.moves import until_held
from tests.bench.place import Place
from tests.bench.processes import cloud
from tests.bench.table import Table

import asyncpg  # isort: skip  # after border, which prepares asyncio

RANGES = 64
ROWS = 2 * RANGES
BAR = 60.0
_SETTLE_S = 15.0
# The session's own counters are reported now and then; pg_stat_database is exact enough over this time.
_COUNTED = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"


async def measure(place: Place) -> Table:
    """Once; the nodes have their shares and nothing is stored."""
    seconds = place.sized(30, 10)
    with place.postgres.fresh() as url:
        async with AsyncExitStack() as stack:
            settings = {"projection_ranges": RANGES}
            await stack.enter_async_context(cloud(url, {"node": "n1", **settings}))
            await stack.enter_async_context(cloud(url, {"node": "n2", **settings}))
            connection = await border.call_asyncio(asyncpg.connect, url)
            stack.callback(connection.terminate)
            for name in ("n1", "n2"):
                await until_held(connection, name, ROWS // 2)
            await trio.sleep(_SETTLE_S)
            before, began_s = await border.call_asyncio(connection.fetchval, _COUNTED), trio.current_time()
            await trio.sleep(seconds)
            after = await border.call_asyncio(connection.fetchval, _COUNTED)
            a_second = (after - before) / (trio.current_time() - began_s)
    table = Table(f"Nodes stand by: two nodes, {RANGES} ranges of 2 projections, nothing stored")
    table.judge("transactions of both, a second", f"{a_second:.0f}", f"< {BAR:.0f}", a_second < BAR)
    return table
