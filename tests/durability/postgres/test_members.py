"""Nodes and their ranges on a real server: rows that a stopped node locks, a new generation, sessions that are counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from common import border
from common.core.errors import BackhaulError
from common.core.events.ids import SliceRange, slice_ranges
from common.core.journal.history import epoch_jump
from common.core.journal.session_budget import ServerSessions
from common.core.members.member import MemberReport
from common.journal.postgres import offsets, open_postgres_journal, opening
from common.journal.postgres.connection import SCHEMA, SessionLimits
from common.journal.postgres.exchange import PreparedStatements
from common.journal.postgres.opening import MEMBER_LOCK
from common.journal.postgres.shared_commits import RangeCommit
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease, ProjectionRow
from examples.support.postgres import Databases
from tests.support.builders import START_US, ids
from tests.support.members import node

import asyncpg  # isort: skip  # after border, which prepares asyncio

STUCK_S = 60.0
FRESH_IDS = ids("new")
FOUR = slice_ranges(4)
NODE = MemberReport("n1/1", "n1", 17, runs=frozenset({"tally"}))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Journal]:
    async with open_postgres_journal(url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__) as journal:
        yield journal


async def connected(url: str, **settings: str) -> asyncpg.Connection:
    connect = partial(asyncpg.connect, server_settings={"search_path": SCHEMA, **settings}, timeout=10)
    return await border.call_asyncio(connect, url)


@asynccontextmanager
async def a_stopped_nodes_transaction(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Open, and with the row of the first range locked; its session is set up as every one of a node."""
    connection = await connected(url, **SessionLimits().settings())
    try:
        await border.call_asyncio(connection.execute, "BEGIN")
        await border.call_asyncio(connection.execute, "UPDATE projection SET position = 9 WHERE first_slice = 0")
        yield connection
    finally:
        connection.terminate()


async def until_rows(journal: Journal, holds: Callable[[list[ProjectionRow]], bool]) -> list[ProjectionRow]:
    with trio.fail_after(STUCK_S):
        while True:
            rows = await answered(journal)
            if holds(rows):
                return rows
            await trio.sleep(0.02)


async def answered(journal: Journal) -> list[ProjectionRow]:
    """Rows as soon as the journal can be read."""
    while True:
        try:
            return await journal.projections.rows()
        except BackhaulError as error:
            if error.code != "journal.unavailable":
                raise
        await trio.sleep(0.02)


async def test_a_takeover_leaves_out_what_a_stopped_nodes_transaction_locks_and_gets_it_later(
    postgres_url: str,
) -> None:
    async with border.open_loop(), opened(postgres_url) as journal:
        await journal.projections.declare("tally", FOUR)
        keys = [("tally", slices) for slices in FOUR]
        async with a_stopped_nodes_transaction(postgres_url) as stopped:
            with trio.fail_after(STUCK_S):
                assert sorted(await journal.projections.take_all("n2/2", keys, 60)) == keys[1:]
            await border.call_asyncio(stopped.execute, "ROLLBACK")
        assert await journal.projections.take_all("n2/2", keys, 60) == keys[:1]


async def test_a_node_takes_the_rest_once_the_server_has_ended_that_transaction(postgres_url: str) -> None:
    async with border.open_loop(), opened(postgres_url) as journal:
        await journal.projections.declare("tally", FOUR)
        async with a_stopped_nodes_transaction(postgres_url):
            async with node(journal, "n1", ranges=4) as only:
                await until_rows(journal, lambda rows: sum(row.owner == only.instance for row in rows) == 3)
                rows = await until_rows(journal, lambda rows: all(row.owner == only.instance for row in rows))
        assert rows[0].position == 0, "what the stopped node had not committed is undone"


async def test_a_new_generation_clears_members_and_owners_and_waits_as_long_as_a_lease(
    postgres: Databases, postgres_url: str
) -> None:
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    async with border.open_loop(), opened(postgres_url) as journal:
        lease_s = 3.0
        await journal.members.renew(MemberReport("n1/1", "n1", 0), lease_s)
        await journal.projections.declare("tally", FOUR)
        await journal.projections.take_all("n1/1", [("tally", FOUR[0]), ("tally", FOUR[1])], 60)
        lease = await journal.projections.acquire("tally", FOUR[0], "n1/1", 60)
        assert lease is not None
        await journal.projections.hand_over([(lease, "n2/2")])
        before = {row.key: row.epoch for row in await journal.projections.rows()}

        # As after a copy was put back: the database has another identity than the journal in it remembers.
        postgres.run("UPDATE backhaul.journal SET database_oid = 1", database=name)
        sessions = f"pg_stat_activity WHERE datname = '{name}' AND usename = current_user"
        postgres.run(f"SELECT pg_terminate_backend(pid, 5000) FROM {sessions}")
        rows = await until_rows(journal, lambda rows: any(row.epoch > 1_000_000 for row in rows))
        assert [(row.owner, row.is_directed) for row in rows] == [("", False)] * 4
        jump = epoch_jump(journal.log.history.generation_id)
        assert [row.epoch for row in rows] == [before[row.key] + jump for row in rows]
        assert (await journal.members.look()).members == []

        seen = await journal.members.renew(MemberReport("n3/3", "n3", 0), lease_s)
        assert 0 < seen.settles_in_s <= lease_s
        async with node(journal, "n4", ranges=4) as only:
            while (settles_in_s := (await journal.members.look()).settles_in_s) > 0:
                # In this order: what is owned now was taken before the wait was found to go on.
                owned = [row for row in await answered(journal) if row.owner]
                if (await journal.members.look()).settles_in_s > 0:
                    assert not owned, settles_in_s
                await trio.sleep(0.05)
            await until_rows(journal, lambda rows: any(row.owner == only.instance for row in rows))


async def test_nodes_that_have_opened_few_sessions_yet_are_counted_by_their_rows(postgres_url: str) -> None:
    async with border.open_loop(), opened(postgres_url) as first, opened(postgres_url) as second:
        await first.members.renew(MemberReport("n1/1", "n1", 0), 60.0)
        await second.members.renew(MemberReport("n2/2", "n2", 0), 60.0)
        found = await count(postgres_url)
        assert found.nodes == 2
        connection = await connected(postgres_url)
        # Sessions of members only, named as a pooler names them: neither has two for the same purpose then.
        hold = f"SELECT pg_advisory_lock({MEMBER_LOCK}, pg_backend_pid())"
        await border.call_asyncio(connection.execute, hold)
        await border.call_asyncio(
            connection.execute,
            "INSERT INTO member SELECT 'n3/3', 'n3', 0, 1, '{}', 12, 0, 1, clock_timestamp(),"
            " clock_timestamp() + interval '1 minute', pg_backend_pid()",
        )
        assert (await count(postgres_url)).nodes == 3
        # A row that its dead process has left is no node, though its lease has not lapsed.
        connection.terminate()
        with trio.fail_after(STUCK_S):
            while (await count(postgres_url)).nodes != 2:  # noqa: ASYNC110  the server's
                await trio.sleep(0.05)


async def count(url: str) -> ServerSessions:
    connection = await connected(url, application_name="backhaul start")
    try:
        return await border.call_asyncio(opening.count_sessions, connection)
    finally:
        await border.call_asyncio(connection.close)


async def test_a_database_without_a_journal_yet_has_no_nodes(postgres_url: str) -> None:
    async with border.open_loop():
        assert (await count(postgres_url)).nodes == 0


async def waits_for_a_row(connection: asyncpg.Connection) -> None:
    """Until a session of this database waits for a lock that another one holds."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND pid <> pg_backend_pid()"
    )
    with trio.fail_after(STUCK_S):
        while not await border.call_asyncio(connection.fetchval, waiting):  # noqa: ASYNC110  the server's
            await trio.sleep(0.02)


class TestRowsAreLockedInOneOrder:
    """Whoever locks rows of several ranges does so by name and slices: else two of them may wait for each other."""

    @staticmethod
    @asynccontextmanager
    async def a_commit_of_two_ranges(url: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Open, with the row of its first range locked; what is yielded goes on to the second, and commits."""
        connection = await connected(url, **SessionLimits().settings())
        move = "UPDATE projection SET position = position WHERE name = 'tally' AND first_slice = $1"
        try:
            await border.call_asyncio(connection.execute, "BEGIN")
            await border.call_asyncio(connection.execute, move, FOUR[0].first)

            async def go_on() -> None:
                await waits_for_a_row(other)
                await border.call_asyncio(connection.execute, move, FOUR[2].first)
                await border.call_asyncio(connection.execute, "COMMIT")

            other = await connected(url)
            yield go_on
            other.terminate()
        finally:
            connection.terminate()

    @pytest.mark.parametrize("act", ["leave", "accept", "pause"])
    async def test_by_what_touches_all_rows(self, postgres_url: str, act: str) -> None:
        async with border.open_loop(), opened(postgres_url) as journal:
            await journal.projections.declare("tally", FOUR)
            await journal.members.renew(NODE, 60.0)
            await journal.projections.take_all(NODE.instance, [("tally", slices) for slices in FOUR], 60.0)
            first = await connected(postgres_url)
            # It is the last on its page now: what goes by places comes to it last.
            await border.call_asyncio(first.execute, "UPDATE projection SET directed = true")
            await border.call_asyncio(first.execute, "UPDATE projection SET updated_us = 9 WHERE first_slice = 0")
            first.terminate()
            async with self.a_commit_of_two_ranges(postgres_url) as go_on, trio.open_nursery() as nursery:
                match act:
                    case "leave":
                        nursery.start_soon(journal.members.leave, NODE.instance, {})
                    case "accept":
                        nursery.start_soon(journal.projections.accept, NODE.instance)
                    case _:
                        nursery.start_soon(journal.projections.set_paused, "tally", True)
                await go_on()
            rows = await journal.projections.rows()
            match act:
                case "leave":
                    assert {row.owner for row in rows} == {""}
                case "accept":
                    assert not any(row.is_directed for row in rows)
                case _:
                    assert all(row.paused for row in rows)

    async def test_by_commits_that_share_a_transaction(self, postgres_url: str) -> None:
        async with border.open_loop(), opened(postgres_url) as journal:
            await journal.projections.declare("tally", FOUR)
            leases = [await acquired(journal, slices) for slices in reversed(FOUR)]
            commits = [RangeCommit(lease, 5, [], 60.0, START_US) for lease in leases]
            committer = await connected(postgres_url, **SessionLimits().settings())
            together: list[bool] = []

            async def commit() -> None:
                together.append(
                    await border.call_asyncio(offsets.commit_together, committer, PreparedStatements(), commits)
                )

            async with self.a_commit_of_two_ranges(postgres_url) as go_on, trio.open_nursery() as nursery:
                nursery.start_soon(commit)
                await go_on()
            committer.terminate()
            assert together == [True]


async def acquired(journal: Journal, slices: SliceRange) -> ProjectionLease:
    lease = await journal.projections.acquire("tally", slices, "me", 60.0)
    assert lease is not None
    return lease
