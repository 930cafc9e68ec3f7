"""What PostgreSQL is asked for: one exchange for a projection's small commit, no write for a question about entities.

A large commit, or an unusual value, takes steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest
import trio

from common import border
from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.events.ids import ALL_SLICES, SliceRange, slice_ranges
from common.core.journal.append import Appended, AppendRefused, LocalAppend
from common.core.journal.statement import Statement
from common.journal.postgres import open_postgres_journal
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease
from tests.support.builders import START_US, appended, ids, local
from tests.support.internals import postgres_sessions

TABLES = [["CREATE TABLE counted (name TEXT PRIMARY KEY, n NUMERIC, at BIGINT)"]]
COUNT = "INSERT INTO counted VALUES ($1, 1, $2) ON CONFLICT (name) DO UPDATE SET n = counted.n + 1, at = excluded.at"


@pytest.fixture
async def journal(postgres_url: str) -> AsyncIterator[Journal]:
    """A journal in a new database."""
    new_id = ids("exchange").__next__
    async with (
        border.open_loop(),
        open_postgres_journal(postgres_url, now_us=lambda: START_US, new_id=new_id, notify=False) as opened,
    ):
        yield opened


class Exchanges:
    """The statements that the sessions for projections have sent."""

    def __init__(self, journal: Journal) -> None:
        self.sent: list[str] = []
        for committer in postgres_sessions(journal)._projections:
            session = committer.connection._connection
            if session is not None:
                session.add_query_logger(self._note)

    def _note(self, record: asyncpg.connection.LoggedQuery) -> None:
        self.sent.append(record.query)


async def lease_of(journal: Journal) -> ProjectionLease:
    await journal.projections.migrate("counted", TABLES)
    lease = await journal.projections.acquire("counted", ALL_SLICES, "node-1", 60)
    assert lease is not None
    return lease


async def test_a_small_commit_is_one_exchange_once_its_statements_are_known(journal: Journal) -> None:
    lease = await lease_of(journal)
    statements = [Statement(COUNT, [(f"sensor {i}", i) for i in range(20)]), Statement(COUNT, [("x", 1)])]
    lease = await journal.projections.commit(lease, 1, statements, 60)
    exchanges = Exchanges(journal)
    lease = await journal.projections.commit(lease, 2, statements, 60)
    await journal.projections.commit(lease, 3, [], 60)
    assert [query.partition(" ")[0] for query in exchanges.sent] == ["EXECUTE", "EXECUTE"]
    assert await journal.projections.query("SELECT count(*), sum(n)::int FROM counted") == [(21, 42)]


async def test_what_has_no_plain_literal_goes_step_by_step(journal: Journal) -> None:
    add = "INSERT INTO counted VALUES ('a', $1, 0) ON CONFLICT (name) DO UPDATE SET n = counted.n + $1"
    lease = await lease_of(journal)
    lease = await journal.projections.commit(lease, 1, [Statement(add, [(1,)])], 60)
    exchanges = Exchanges(journal)
    await journal.projections.commit(lease, 2, [Statement(add, [(2,)])], 60)
    assert "COMMIT;" in exchanges.sent
    assert await journal.projections.query("SELECT n::int FROM counted") == [(3,)]


async def test_a_fenced_commit_in_one_exchange_writes_nothing(journal: Journal) -> None:
    lease = await lease_of(journal)
    newer = await journal.projections.commit(lease, 1, [Statement(COUNT, [("a", 1)])], 60)
    with pytest.raises(BackhaulError, match=r"projection\.fenced"):
        await journal.projections.commit(lease, 1, [Statement(COUNT, [("a", 1)])], 60)
    assert await journal.projections.query("SELECT n::int FROM counted") == [(1,)]
    await journal.projections.commit(newer, 2, [Statement(COUNT, [("a", 1)])], 60)


async def leases_of(journal: Journal, count: int) -> list[ProjectionLease]:
    await journal.projections.migrate("counted", TABLES)
    leases = [await journal.projections.acquire("counted", part, "node-1", 60) for part in slice_ranges(count)]
    return [lease for lease in leases if lease is not None]


async def test_small_commits_of_one_moment_are_one_transaction(journal: Journal) -> None:
    leases = await leases_of(journal, 4)
    async with trio.open_nursery() as nursery:
        for lease in leases:
            nursery.start_soon(
                journal.projections.commit, lease, 1, [Statement(COUNT, [(str(lease.slices.first), 1)])], 60
            )
    assert await journal.projections.query("SELECT count(*), count(DISTINCT xmin::text) FROM counted") == [(4, 1)]
    assert await journal.projections.query("SELECT count(*), count(DISTINCT xmin::text) FROM projection") == [(4, 1)]


async def test_too_many_rows_for_one_exchange_are_no_ones_burden(journal: Journal) -> None:
    leases = await leases_of(journal, 4)
    async with trio.open_nursery() as nursery:
        for lease in leases:
            rows = [(f"{lease.slices.first} {number}", 1) for number in range(30)]
            nursery.start_soon(journal.projections.commit, lease, 1, [Statement(COUNT, rows)], 60)
    assert await journal.projections.query("SELECT count(*) FROM counted") == [(120,)]


async def test_whoever_commits_for_others_and_is_cancelled_loses_nothing_of_theirs(journal: Journal) -> None:
    """In turns one of four is cancelled: its offset says whether its effect is there, and the others have theirs."""
    leases = await leases_of(journal, 4)
    owed: Counter[str] = Counter()

    async def commit(lease: ProjectionLease, patience_s: float) -> None:
        name = str(lease.slices.first)
        with trio.move_on_after(patience_s) as scope:
            await journal.projections.commit(lease, lease.position + 1, [Statement(COUNT, [(name, 1)])], 60)
        owed[name] += not scope.cancelled_caught

    for number in range(20):
        async with trio.open_nursery() as nursery:
            for index, lease in enumerate(leases):
                nursery.start_soon(commit, lease, number * 0.000_2 if index == number % 4 else 30.0)
        result = await journal.projections.query("SELECT first_slice::text, position FROM projection")
        counted = dict(await journal.projections.query("SELECT name, n::bigint FROM counted"))
        assert all(position == counted.get(name, 0) >= owed[name] for name, position in result)
        leases = [
            found for lease in leases if (found := await journal.projections.acquire(*lease_key(lease), "node-1", 60))
        ]


def lease_key(lease: ProjectionLease) -> tuple[str, SliceRange]:
    return lease.name, lease.slices


async def test_who_only_asks_for_numbers_writes_nothing_and_so_waits_for_no_sync(journal: Journal) -> None:
    written = "SELECT head.xmin::text, entity.xmin::text FROM head, entity WHERE persistence_id = 'A|1'"
    await appended(journal, local("A|1"))
    before = await journal.projections.query(written)
    right, wrong = (LocalAppend(EventBatch(), {"A|1": number}) for number in (1, 2))
    [confirmed, refused] = await journal.log.append_group([right, wrong])
    assert isinstance(confirmed, Appended)
    assert isinstance(refused, AppendRefused)
    assert await journal.projections.query(written) == before
    await appended(journal, local("A|1"))
    assert await journal.projections.query(written) != before
