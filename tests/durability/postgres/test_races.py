"""The PostgreSQL journal against others, on real connections: order, unknown outcomes, a server that dies (P1, P2)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
import trio

from common import border
from common.core.errors import BackhaulError
from common.core.events.ids import slice_ranges
from common.core.journal.append import (
    Appended,
    AppendOutcome,
    AppendRequest,
    LocalAppend,
    OutOfStep,
    Pushed,
    PushedAppend,
)
from common.core.journal.statement import Statement
from common.journal.postgres import SessionLimits, open_postgres_journal
from common.journal.postgres.appends.batch import APPEND_SQL, AppendCall
from common.journal.postgres.connection import say_goodbye
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease
from examples.support.postgres import PostgresServer
from tests.support.builders import START_US, Origin, append, appended, ids, local, seq_nrs, whole_log
from tests.support.swallowing_proxy import SwallowingProxy

HELD_S = 2.0


@asynccontextmanager
async def opened(url: str, **more: object) -> AsyncIterator[Journal]:
    """A node's journal, in an asyncio loop of the caller's."""
    new_id = ids("node").__next__
    async with open_postgres_journal(url, now_us=lambda: START_US, new_id=new_id, **more) as journal:  # type: ignore[arg-type]
        yield journal


@pytest.fixture
async def loop() -> AsyncIterator[None]:
    """The asyncio loop that asyncpg needs."""
    async with border.open_loop():
        yield


@asynccontextmanager
async def outsider(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session beside the journal's, to get in its way."""

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(url, server_settings={"search_path": "backhaul"})

    connection = await border.call_asyncio(connect)
    try:
        yield connection
    finally:
        await say_goodbye(connection)


async def on(connection: asyncpg.Connection, method: Callable[..., Awaitable[object]], *args: object) -> None:
    """Call a method of an asyncpg connection from trio."""

    async def call() -> None:
        await method(*args)

    await border.call_asyncio(call)


async def insist(journal: Journal, request: LocalAppend | PushedAppend) -> AppendOutcome:
    """Repeat a request unchanged until it is answered, as every caller does."""
    while True:
        try:
            return await append(journal, request)
        except BackhaulError as error:
            if error.code != "journal.unavailable":
                raise
            await trio.sleep(0.05)


async def test_a_commit_held_open_for_two_seconds_hides_nothing_from_tailing_readers(
    loop: None, postgres_url: str
) -> None:
    seen: list[int] = []

    async def tail(journal: Journal) -> None:
        position = 0
        while position < 5:
            page = await journal.log.read(position, max_events=2, max_bytes=1_000_000)
            seen.extend(page.events.position)
            position = page.through
            await journal.log.head_signal.wait_above(position, 0.02)

    async with opened(postgres_url) as journal, opened(postgres_url) as other, outsider(postgres_url) as slow:
        await appended(journal, local("A|0"))
        call = AppendCall.of([local("A|slow", "A|slow")], START_US, {})
        await on(slow, slow.execute, "BEGIN")
        await on(slow, slow.fetchrow, APPEND_SQL, *call.arguments)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tail, journal)
            nursery.start_soon(tail, other)
            nursery.start_soon(appended, other, local("A|quick", "A|quick"))
            await trio.sleep(HELD_S)
            assert seen == [1, 1]
            await on(slow, slow.execute, "COMMIT")
        assert sorted(seen) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        assert seq_nrs(await whole_log(journal))[1:] == [
            ("A|slow", 1), ("A|slow", 2), ("A|quick", 1), ("A|quick", 2)
        ]  # fmt: skip


@pytest.mark.parametrize("in_one_group", [True, False])
async def test_two_nodes_that_append_to_the_same_entities_leave_no_hole(
    loop: None, postgres_url: str, in_one_group: bool
) -> None:
    rounds = 25

    async def write(journal: Journal, first: int, origin: Origin) -> None:
        await origin.dial(journal)
        for number in range(1, rounds + 1):
            shared = [f"A|{(first + number + k) % 7}" for k in range(5)]
            request = origin.batch((f"B|{origin.origin_id}", number), (f"C|{origin.origin_id}", number))
            requests: list[AppendRequest] = [local(*shared), request, local(*shared[::-1])]
            for group in [requests] if in_one_group else [[one] for one in requests]:  # those are plain, by and by
                outcomes = await journal.log.append_group(group)
                assert isinstance(outcomes[0], Appended | Pushed)
            origin.position = request.through.position

    async with opened(postgres_url) as one, opened(postgres_url) as two:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, one, 0, Origin("edge-1"))
            nursery.start_soon(write, two, 3, Origin("edge-2"))
        log = await whole_log(one)
    assert log.position == list(range(1, 2 * rounds * 12 + 1))
    assert log.timestamp_us == sorted(set(log.timestamp_us))
    by_entity: dict[str, list[int]] = {}
    for name, seq_nr in seq_nrs(log):
        by_entity.setdefault(name, []).append(seq_nr)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_entity.values())


@pytest.mark.parametrize("are_known", [True, False])
async def test_an_append_whose_answer_is_lost_is_repeated_without_a_second_copy(
    loop: None, postgres_url: str, are_known: bool
) -> None:
    proxy = SwallowingProxy(postgres_url)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        async with opened(proxy.url, notify=False) as journal:
            origin, other = Origin(), Origin("edge-2")
            for edge, name in ((origin, "A|1"), (other, "A|2")):
                await edge.dial(journal)
                await edge.push(journal, (name, 1))
            for _ in range(2):
                await appended(journal, local("B|1"))  # both server functions have been called
            known = ("A|1", 3) if are_known else ("A|3", 1)  # then all of the group is plain
            group: list[AppendRequest] = [
                origin.batch(("A|1", 2), known),
                other.batch(("A|2", 2)),
                local("B|1", append_id="key"),
            ]
            proxy.swallow_next = True
            with pytest.raises(BackhaulError, match=r"journal\.unavailable"):
                await journal.log.append_group(group)
            assert proxy.swallowed == 1
            outcomes = await journal.log.append_group(group)
            assert outcomes == [OutOfStep(3), OutOfStep(2), Appended(8, [3], repeated=True)]
            assert seq_nrs(await whole_log(journal))[4:] == [("A|1", 2), known, ("A|2", 2), ("B|1", 3)]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("are_known", [True, False])
async def test_origins_are_locked_in_one_order_whatever_that_of_the_group(
    loop: None, postgres_url: str, are_known: bool
) -> None:
    async with opened(postgres_url) as journal, outsider(postgres_url) as other:
        edges = [Origin(f"edge-{number}") for number in (1, 2)]
        for edge in edges:
            await edge.dial(journal)
            await edge.push(journal, (f"A|{edge.origin_id}", 1))
        await on(other, other.execute, "BEGIN; SELECT FROM origin WHERE origin_id = 'edge-1' FOR UPDATE")
        name, number = ("A", 2) if are_known else ("B", 1)
        group = [edge.batch((f"{name}|{edge.origin_id}", number)) for edge in reversed(edges)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.log.append_group, group)
            waiting = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"
            with trio.fail_after(10):
                while not await border.call_asyncio(lambda: other.fetchval(waiting)):  # noqa: ASYNC110  the server's
                    await trio.sleep(0.01)
            # It waits for the first one, and has not locked the second, for which a group of another node may hold the first.
            await on(other, other.execute, "SELECT FROM origin WHERE origin_id = 'edge-2' FOR UPDATE NOWAIT; COMMIT")
        assert [state.stored.position for state in await journal.origins.rows()] == [2, 2]


async def test_a_server_that_is_killed_under_load_loses_nothing_acknowledged(
    loop: None, own_postgres: PostgresServer
) -> None:
    acknowledged: list[int] = []
    enough, stop = trio.Event(), False

    async def write(journal: Journal) -> None:
        number = 0
        while not stop:
            number += 1
            outcome = await insist(journal, local("A|1", f"B|{number}", append_id=f"key-{number}"))
            assert isinstance(outcome, Appended)
            assert outcome.seq_nr[0] == number
            acknowledged.append(outcome.first_position)
            if number % 20 == 0:
                enough.set()

    async with opened(own_postgres.create()) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, journal)
            for _ in range(2):
                enough = trio.Event()
                await enough.wait()
                await trio.to_thread.run_sync(own_postgres.crash)
                await trio.to_thread.run_sync(own_postgres.start)
            enough = trio.Event()
            await enough.wait()
            stop = True
        log = await whole_log(journal)
        assert acknowledged == list(range(1, 2 * len(acknowledged), 2))
        assert log.position == list(range(1, 2 * len(acknowledged) + 1))
        assert log.persistence_id[::2] == ["A|1"] * len(acknowledged)


async def test_who_waits_too_long_for_the_head_is_told_and_can_go_on(loop: None, postgres_url: str) -> None:
    limits = SessionLimits(lock_timeout_s=0.2)
    async with opened(postgres_url, limits=limits) as journal, outsider(postgres_url) as paused:
        await appended(journal, local("A|1"))
        await on(paused, paused.execute, "BEGIN; SELECT FROM head FOR UPDATE")
        with pytest.raises(BackhaulError, match="LockNotAvailable") as raised:
            await append(journal, local("A|1"))
        assert (raised.value.code, raised.value.retry_after_s) == ("journal.unavailable", 1.0)
        assert (await journal.log.read(0, max_events=10, max_bytes=1_000)).head == 1
        await on(paused, paused.execute, "ROLLBACK")
        assert await appended(journal, local("A|1")) == Appended(2, [2])


async def test_a_node_that_is_paused_in_a_transaction_loses_it_and_not_the_others_time(
    loop: None, postgres_url: str
) -> None:
    async with opened(postgres_url) as journal, outsider(postgres_url) as paused:
        await on(paused, paused.execute, "SET idle_in_transaction_session_timeout = 300")
        await on(paused, paused.execute, "BEGIN; SELECT FROM head FOR UPDATE")
        assert await appended(journal, local("A|1")) == Appended(1, [1])


async def test_another_nodes_commit_is_heard_of_at_once_and_also_after_the_session_broke(
    loop: None, postgres_url: str
) -> None:
    async with (
        opened(postgres_url) as writer,
        opened(postgres_url) as listener,
        opened(postgres_url, notify=False) as deaf,
        outsider(postgres_url) as admin,
    ):
        with trio.fail_after(10):
            # The listener's session opens in the background: what came before it is in the head it reads then.
            await appended(writer, local("A|1"))
            await listener.log.head_signal.wait_above(0, 10)
            assert listener.log.head_signal.position == 1
            await appended(writer, local("A|1"))
            await listener.log.head_signal.wait_above(1, 10)
            assert listener.log.head_signal.position == 2
            await on(
                admin,
                admin.execute,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'backhaul hints' AND datname = current_database()",
            )
            await appended(writer, local("A|1"))
            await listener.log.head_signal.wait_above(2, 10)
        assert deaf.log.head_signal.position == 0
        assert (await deaf.log.read(0, max_events=10, max_bytes=1_000)).head == 3


async def test_one_projection_that_waits_for_a_row_does_not_fail_those_that_commit_with_it(
    loop: None, postgres_url: str
) -> None:
    limits = SessionLimits(lock_timeout_s=0.2)
    async with opened(postgres_url, limits=limits) as journal, outsider(postgres_url) as other:
        await journal.projections.migrate("tally", [["CREATE TABLE tally (name text PRIMARY KEY, n bigint)"]])
        leases = [await journal.projections.acquire("tally", part, "node-1", 60) for part in slice_ranges(4)]
        await on(other, other.execute, "INSERT INTO tally VALUES ('1', 0)")
        await on(other, other.execute, "BEGIN; SELECT FROM tally WHERE name = '1' FOR UPDATE")
        count = "INSERT INTO tally VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET n = tally.n + 1"
        result: dict[int, str] = {}

        async def commit(number: int, lease: ProjectionLease | None) -> None:
            assert lease is not None
            try:
                await journal.projections.commit(lease, 7, [Statement(count, [(str(number),)])], 60)
                result[number] = "done"
            except BackhaulError as error:
                result[number] = error.code

        async with trio.open_nursery() as nursery:
            for number, lease in enumerate(leases):
                nursery.start_soon(commit, number, lease)
        assert result == {0: "done", 1: "journal.unavailable", 2: "done", 3: "done"}
        assert await journal.projections.query("SELECT name, n FROM tally ORDER BY name") == [
            ("0", 1),
            ("1", 0),
            ("2", 1),
            ("3", 1),
        ]
