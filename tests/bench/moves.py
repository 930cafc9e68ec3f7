"""How long ranges rest when nodes come and go: a node that joins, planned moves under load, and nodes that end.

Two real nodes on one PostgreSQL. A range rests from its old holder's last statement, or from the signal, until the database
shows its new owner at work. Times are of leases and prompts, not of speed. After each round the tally must have every event
once, in order.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from statistics import median, quantiles

import trio

from common import border
from common.core.journal.append import LocalAppend
from common.journal.postgres import open_postgres_journal
from common.runtime.environment import utc_now_us
from examples.support.processes import Program
from tests.bench.place import Place
from tests.bench.processes import BenchFailure, cloud
from tests.bench.table import Table
from tests.bench.workload import batches

import asyncpg  # isort: skip  # after border, which prepares asyncio

RANGES = 8
ROWS = 2 * RANGES
BARS_S = {"SIGKILL": 2.5, "SIGSTOP": 5.0, "SIGTERM": 0.3}
JOIN_S, MOVE_MEDIAN_S, MOVE_WORST_S = 2.0, 0.05, 0.25
_HELD = "SELECT count(*) FROM backhaul.projection WHERE split_part(owner, '/', 1) = $1 AND NOT directed"
_COUNTS = (
    "SELECT head.position, coalesce(sum(events), 0)::bigint, coalesce(sum(out_of_order), 0)::bigint"
    " FROM backhaul.head LEFT JOIN backhaul.tally ON true GROUP BY 1"
)
_STUCK_S = 60.0
_POLL_S = 0.005


async def run(place: Place) -> list[Table]:
    """All rounds; each begins with an empty database."""
    ends: dict[str, list[float]] = {name: [] for name in BARS_S}
    joins: list[float] = []
    moves: list[float] = []
    counted: list[tuple[int, int, int]] = []
    for _ in range(place.sized(20, 1)):
        for name, taken in ends.items():
            counted.append(await _round(place, name, taken, joins, moves))
    table = Table(f"Nodes come and go: {ROWS} ranges, two nodes, events all the time")
    table.judge("a node that joins has its share, p95", _s(_p95(joins)), f"< {JOIN_S} s", _p95(joins) < JOIN_S)
    table.add("planned moves", f"{len(moves)}")
    table.judge("planned move, median", _s(median(moves)), f"< {MOVE_MEDIAN_S} s", median(moves) < MOVE_MEDIAN_S)
    table.judge("planned move, worst", _s(max(moves)), f"< {MOVE_WORST_S} s", max(moves) < MOVE_WORST_S)
    for name, taken in ends.items():
        table.judge(
            f"{name}: all ranges run elsewhere, p95", _s(_p95(taken)), f"< {BARS_S[name]} s", _p95(taken) < BARS_S[name]
        )
    stored, tallied, disorder = (sum(column) for column in zip(*counted, strict=True))
    table.judge(
        "events stored; in the tally; out of order",
        f"{stored:,}; {tallied:,}; {disorder}",
        "the same; 0",
        stored == tallied and not disorder,
    )
    return [table]


async def _round(
    place: Place, end: str, ends: list[float], joins: list[float], moves: list[float]
) -> tuple[int, int, int]:
    """One of them; returns the events that were stored, those in the tally, and those that came to it out of order."""
    with place.postgres.fresh() as url:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(cloud(url, {"node": "n1", "projection_ranges": RANGES}))
            connection = await border.call_asyncio(asyncpg.connect, url)
            stack.callback(connection.terminate)
            await until_held(connection, "n1", ROWS)
            nursery = await stack.enter_async_context(trio.open_nursery())
            storing = await nursery.start(_load, url)
            second = await stack.enter_async_context(cloud(url, {"node": "n2", "projection_ranges": RANGES}))
            joins.append(await until_held(connection, "n2", ROWS // 2))
            await trio.sleep(0.5)
            moves += _gaps(first, second)
            joined_s = trio.current_time()
            match end:
                case "SIGKILL":
                    nursery.start_soon(second.kill)
                case "SIGSTOP":
                    second.freeze()
                case _:
                    nursery.start_soon(second.stop, 20.0)
            ends.append(await until_held(connection, "n1", ROWS, since_s=joined_s))
            storing.cancel()
            if end == "SIGSTOP":
                await second.kill()
            with trio.move_on_after(_STUCK_S):
                while True:
                    stored, tallied, disorder = await border.call_asyncio(connection.fetchrow, _COUNTS)
                    if stored == tallied:
                        break
                    await trio.sleep(_POLL_S)
            return stored, tallied, disorder


async def _load(url: str, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    """A few events again and again, of many entities, until the scope is cancelled that it starts with."""
    with trio.CancelScope() as storing:
        async with open_postgres_journal(url, now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex) as journal:
            task_status.started(storing)
            for batch in batches("node", 1_000_000, 20):
                await journal.log.append_group([LocalAppend(batch)])
                await trio.sleep(0.02)


async def until_held(connection: asyncpg.Connection, node: str, rows: int, since_s: float | None = None) -> float:
    """Seconds until the node has so many ranges. Raises ``BenchFailure`` when it has not in time."""
    since_s = trio.current_time() if since_s is None else since_s
    with trio.move_on_after(_STUCK_S):
        while await border.call_asyncio(connection.fetchval, _HELD, node) != rows:  # noqa: ASYNC110  processes'
            await trio.sleep(_POLL_S)
        return trio.current_time() - since_s
    raise BenchFailure(f"{node} did not get {rows} ranges")


def _gaps(giver: Program, taker: Program) -> list[float]:
    """From each hand-over to the line that the successor reached the end of the log."""
    came = {(line["projection"], line["slices"]): line for line in taker.said("projection.caught_up")}
    return [
        _at_s(came[line["projection"], line["slices"]]["timestamp"]) - _at_s(line["timestamp"])
        for line in giver.said("projection.handed_over")
        if (line["projection"], line["slices"]) in came
    ]


def _at_s(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _p95(taken: Sequence[float]) -> float:
    return quantiles(taken, n=20)[-1] if len(taken) > 1 else taken[0]


def _s(seconds: float) -> str:
    return f"{seconds:.3f} s"
