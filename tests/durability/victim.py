"""A process that is killed while it uses a journal: ``python -m tests.durability.victim WHERE WORK``.

``WHERE`` is a file for SQLite or a PostgreSQL URL. It prints one line for each thing that was acknowledged to it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from random import Random

import trio

from common import border
from common.core.events.ids import ALL_SLICES
from common.core.journal.append import PushedAppend
from common.core.journal.history import Offset
from common.core.journal.statement import Statement
from common.core.subscription.place import NO_RESUME_POINT, FilterState, LogCursor
from common.journal.postgres import open_postgres_journal
from common.journal.sqlite import open_sqlite_journal
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.journal.stores.subscriptions import ReceivedCommit, lease_name
from common.projection.progress import ProjectionSettings
from common.projection.snapshot_rule import run_snapshot_rule
from tests.support.builders import START_US, appended, events, ids, local

TABLE = "CREATE TABLE counted (position BIGINT PRIMARY KEY)"


def request(number: int) -> tuple[str, ...]:
    """Entities of the append with this number: two events, one entity shared by all."""
    return "Sensor|shared", f"Sensor|{number}"


def tell(*words: object) -> None:
    """One line for the one who watches, out before anything else is done."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def _append(journal: Journal) -> None:
    for number in range(1, 21):
        outcome = await appended(journal, local(*request(number), append_id=f"key-{number}"))
        tell(number, outcome.first_position, *outcome.seq_nr)


async def _trim(journal: Journal) -> None:
    await _append(journal)
    for through in (10, 20):
        tell("trimmed", await journal.log.trim(TrimLimit(through, 1_000)))


async def _project(journal: Journal) -> None:
    await _append(journal)
    await journal.projections.migrate("counted", [[TABLE]])
    lease = await journal.projections.acquire("counted", ALL_SLICES, "me", 60)
    assert lease
    for position in range(1, 11):
        lease = await journal.projections.commit(
            lease, position, [Statement("INSERT INTO counted VALUES ($1)", [(position,)])], 60
        )
        tell("projected", position)


async def _receive(journal: Journal) -> None:
    lease = await journal.leases.acquire(lease_name("orders"), "me", 60)
    assert lease
    for number in range(1, 11):
        revision = await journal.subscriptions.commit("orders", lease, number - 1, received(number), 60)
        tell("received", revision)


async def _restart(journal: Journal) -> None:
    await _append(journal)
    await journal.subscriptions.set_requested("orders", "[1]")
    lease = await journal.leases.acquire(lease_name("orders"), "me", 60)
    assert lease
    for number in range(1, 4):
        await journal.subscriptions.commit("orders", lease, number - 1, replace(received(number), append=None), 60)
    tell("restarted", await journal.subscriptions.restart("orders", lease))


def received(number: int) -> ReceivedCommit:
    """One event for the inbox, one for the own log, and the place behind both."""
    batch = events("Order|1")
    batch.position, batch.seq_nr, batch.prev_seq_nr = [number], [number], [number - 1]
    append = PushedAppend("cloud", 0, 1, 0, Offset("cloud-1", "g1", number), batch)
    place = replace(NO_RESUME_POINT, live=LogCursor(number))
    return ReceivedCommit(place, {"Order|1": number}, {}, batch, append=append, received=1)


async def _take_snapshots(journal: Journal) -> None:
    await _append(journal)
    await run_snapshot_rule(
        journal, {"Sensor": 3}, owner="me", settings=ProjectionSettings(page_max_events=8), random=Random(1)
    )


WORKS = {
    "append": _append,
    "trim": _trim,
    "project": _project,
    "receive": _receive,
    "restart": _restart,
    "snapshots": _take_snapshots,
}


async def check_snapshots(journal: Journal, seq_nr: int) -> None:
    """The last killed page's snapshot is there, and the rule goes on from the offset that was stored before it."""
    found = await journal.snapshots.get("Sensor|shared")
    assert found is not None
    assert found.seq_nr == seq_nr
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                run_snapshot_rule,
                journal,
                {"Sensor": 3},
                owner="me",  # whose lease has not run out
                settings=ProjectionSettings(standby_poll_s=0.05),
                random=Random(1),
            )
        )
        while found is None or found.seq_nr < 18:
            await trio.sleep(0.02)
            found = await journal.snapshots.get("Sensor|shared")
        nursery.cancel_scope.cancel()
    assert (await journal.snapshots.get("Sensor|1")) is None
    [row] = await journal.projections.rows()
    assert (row.position, row.owner) == (40, "")


async def check_received(journal: Journal, number: int) -> None:
    """Place, numbers, inbox and log have all of the first ``number`` commits and nothing of the next one."""
    state = await journal.subscriptions.get("orders")
    assert state is not None
    assert (state.revision, state.received, state.place.live.position) == (number, number, number)
    assert await journal.subscriptions.known("orders", ["Order|1"]) == {"Order|1": number}
    rows = await journal.subscriptions.inbox("orders", 0, max_rows=100, max_bytes=10**6)
    assert [(row.id, row.event.seq_nr) for row in rows] == [(n, n) for n in range(1, number + 1)]
    assert (await journal.log.read_entity("Order|1", 1, 100, max_events=100)).seq_nr == list(range(1, number + 1))
    lease = await journal.leases.acquire(lease_name("orders"), "me", 60)
    assert lease is not None
    assert await journal.subscriptions.commit("orders", lease, number, received(number + 1), 60) == number + 1


async def check_not_restarted(journal: Journal) -> None:
    """What three commits brought is all there, and the filter that was asked for; it can begin anew now."""
    state = await journal.subscriptions.get("orders")
    assert state is not None
    assert (state.revision, state.place.live.position, state.requested) == (3, 3, FilterState(1, "[1]"))
    assert await journal.subscriptions.known("orders", ["Order|1"]) == {"Order|1": 3}
    rows = await journal.subscriptions.inbox("orders", 0, max_rows=100, max_bytes=10**6)
    assert [(row.id, row.event.seq_nr) for row in rows] == [(1, 1), (2, 2), (3, 3)]
    lease = await journal.leases.acquire(lease_name("orders"), "me", 60)
    assert lease is not None
    assert await journal.subscriptions.restart("orders", lease)
    state = await journal.subscriptions.get("orders")
    assert state is not None
    assert (state.place, state.requested) == (NO_RESUME_POINT, FilterState(1, "[1]"))


@asynccontextmanager
async def opened(where: str, new_id: Iterator[str]) -> AsyncIterator[Journal]:
    """The journal in a file or a PostgreSQL database."""
    async with AsyncExitStack() as stack:
        if where.startswith("postgresql://"):
            await stack.enter_async_context(border.open_loop())
            yield await stack.enter_async_context(
                open_postgres_journal(where, now_us=lambda: START_US, new_id=new_id.__next__, notify=False)
            )
        else:
            yield await stack.enter_async_context(
                open_sqlite_journal(where, now_us=lambda: START_US, new_id=new_id.__next__)
            )


async def main(where: str, work: str) -> None:
    """Open the journal and do the work."""
    async with opened(where, ids(work)) as journal:
        await WORKS[work](journal)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
