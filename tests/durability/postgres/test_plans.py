"""Reading by a selection walks along indexes whatever the statistics say: fresh tables, stale ones, and true ones.

A plan that sorts or hashes the log is right and useless: its time grows with the log, for each of thousands of consumers.
"""

from __future__ import annotations

import re

import asyncpg
import pytest

from common import border
from common.core.journal.append import LocalAppend
from common.journal.postgres import log, open_postgres_journal, selected
from common.journal.postgres.connection import Server, SessionLimits, finish
from common.journal.postgres.sessions import _READER_SETTINGS
from tests.support.builders import START_US, ids, local

EVENTS = 20_000
NEXT_ID = ids("plans").__next__
STATEMENTS = {
    "by tags and entities": (selected._BY_KEYS, (100, None, 8_000, True, 500, ["t:1", "t:2"], [1, 2])),
    "by types": (selected._BY_TYPES, (100, None, 50_000, False, 700, ["A", "B"])),
    "tags below a prefix": (selected._TAGS_BELOW, ("t:1", "t:2", 1_000)),
    "events of types": (
        log._IN_STRETCHES.format(condition=log.TYPE_CONDITION.format(5)),
        ([1], 500, 1_000_000, [EVENTS], ["A"]),
    ),
    "events at positions": (
        log._IN_STRETCHES.format(condition=" AND slice BETWEEN 0 AND 100"),
        (list(range(1, EVENTS, 40)), 500, 1_000_000, list(range(1, EVENTS, 40))),
    ),
}
# `head` has one row. A sort is of what was found, never of the log: below it there is always a limited walk.
BAD = re.compile(r"Seq Scan on (?!head)|Bitmap|Hash Join|Hash Cond|Merge Join")


async def analyze(connection: asyncpg.Connection) -> None:
    await connection.execute("ANALYZE event, event_tag, type_block, entity")


async def plans(connection: asyncpg.Connection) -> dict[str, tuple[str, int]]:
    """Each statement's plan, and how many events it read."""
    found = {}
    for name, (sql, args) in STATEMENTS.items():
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) {sql}", *args)
        plan = "\n".join(row[0] for row in rows)
        walks = re.findall(r"using event_pkey on event\b[^\n]*rows=([0-9.]+) loops=(\d+)", plan)
        found[name] = plan, round(sum(float(rows) * int(loops) for rows, loops in walks))
    return found


async def general_plan(connection: asyncpg.Connection, sql: str, arguments: str) -> str:
    """How a session runs the statement after some times, with a plan that was made for no arguments in particular."""
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE general AS {sql}")
    rows = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) EXECUTE general ({arguments})")
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize("statistics", ["none", "of one event", "of all"])
async def test_a_selection_is_read_along_indexes(postgres_url: str, statistics: str) -> None:
    async with border.open_loop():
        connection = await Server(postgres_url, SessionLimits()).connect("plans", _READER_SETTINGS)
        limits = SessionLimits()
        async with open_postgres_journal(
            postgres_url, now_us=lambda: START_US, new_id=NEXT_ID, notify=False
        ) as journal:
            await journal.log.append_group([local("A|0", tags=["t:0"])])
            if statistics == "of one event":
                await finish(connection, limits, analyze, connection)
            names = [f"{'AB'[n % 2]}|{n % 200}" for n in range(2_000)]
            tags = [f"t:{n % 200}" for n in range(2_000)]
            for _ in range(EVENTS // 2_000):
                await journal.log.append_group([LocalAppend(local(*names, tags=tags).events)])
            if statistics == "of all":
                await finish(connection, limits, analyze, connection)
            for name, (plan, read) in (await finish(connection, limits, plans, connection)).items():
                assert not BAD.search(plan), f"{name}:\n{plan}"
                assert read <= 2_100, f"{name} read {read} events:\n{plan}"
            plan = await finish(
                connection, limits, general_plan, connection, selected._TAGS_BELOW, "'t:1', 't:2', 1000"
            )
            passed_over = max(map(int, re.findall(r"Rows Removed by Filter: (\d+)", plan)), default=0)
            assert passed_over <= 10, f"tags below a prefix: looked at {passed_over} more:\n{plan}"
        await finish(connection, limits, connection.close)
