"""What the PostgreSQL journal refuses to open, with which code; and when it says that history may have parted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import trio

from common import border
from common.core.errors import BackhaulError, ConfigurationError
from common.core.events.batch import NO_TAGS
from common.core.filters.selection import Selection
from common.core.subscription.place import NO_FILTER, LogCursor, PlaceVerdict, ResumePoint, decide_resume_point
from common.journal.migrations import load_migrations
from common.journal.postgres import SessionLimits, open_postgres_journal, opening
from common.journal.stores.journal import Journal
from examples.support.postgres import Databases, postgres_server
from tests.support.builders import START_US, appended, ids, local, whole_log
from tests.support.projections import until

FRESH_IDS = ids("new")


@asynccontextmanager
async def opened(url: str, limits: SessionLimits | None = None) -> AsyncIterator[Journal]:
    """The journal in a loop of its own."""
    new_id = FRESH_IDS.__next__
    async with (
        border.open_loop(),
        open_postgres_journal(url, now_us=lambda: START_US, new_id=new_id, notify=False, limits=limits) as journal,
    ):
        yield journal


async def refusal(url: str, limits: SessionLimits | None = None) -> BackhaulError:
    """Why it cannot be opened."""
    error: BackhaulError | None = None
    async with border.open_loop():
        try:
            async with open_postgres_journal(url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__, limits=limits):
                pass
        except BackhaulError as refused:
            error = refused
    assert error is not None, "it was opened"
    password = urlsplit(url).password
    assert not password or password not in f"{error} {error.details}"
    return error


def run(postgres: Databases, url: str, sql: str) -> str:
    """A statement in the database of a URL."""
    return postgres.run(sql, database=urlsplit(url).path.removeprefix("/"))


def with_netloc(url: str, *, user: str | None = None, port: int | None = None) -> str:
    """The URL with another account or port."""
    parts = urlsplit(url)
    account = user or f"{parts.username}:{parts.password}"
    return urlunsplit(parts._replace(netloc=f"{account}@{parts.hostname}:{port or parts.port}"))


async def test_a_wrong_password_is_told_without_it(postgres_url: str) -> None:
    error = await refusal(with_netloc(postgres_url, user="backhaul:not-the-secret"))
    assert (type(error), error.code) == (ConfigurationError, "postgres.access_denied")


async def test_a_database_that_does_not_exist_is_named(postgres: Databases) -> None:
    error = await refusal(postgres.url_of("nothing_here"))
    assert (type(error), error.code) == (ConfigurationError, "postgres.no_database")
    assert "nothing_here" in error.message


async def test_a_port_nobody_listens_on_may_answer_later(postgres_url: str) -> None:
    error = await refusal(with_netloc(postgres_url, port=1))
    assert (error.code, error.retry_after_s) == ("postgres.unreachable", 1.0)


async def test_a_server_that_accepts_and_says_nothing_is_given_up_and_leaves_no_trace(postgres_url: str) -> None:
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def say_nothing(stream: trio.SocketStream) -> None:
            async for _ in stream:
                pass

        nursery.start_soon(trio.serve_listeners, say_nothing, [listener])
        url = with_netloc(postgres_url, port=listener.socket.getsockname()[1])
        error = await refusal(url, limits=SessionLimits(connect_timeout_s=0.3))
        assert error.code == "postgres.unreachable"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("url", ["postgresql://host:port/db", "mysql://h/db"])
async def test_what_is_no_url_of_a_database_is_told(url: str) -> None:
    assert (await refusal(url)).code == "postgres.invalid_url"


async def test_a_schema_of_another_program_is_left_alone(postgres: Databases, postgres_url: str) -> None:
    run(postgres, postgres_url, "CREATE SCHEMA backhaul; CREATE TABLE backhaul.event (id int)")
    assert (await refusal(postgres_url)).code == "journal.not_a_journal"
    assert run(postgres, postgres_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'backhaul'") == "1"


async def test_tables_of_a_later_version_are_refused(postgres: Databases, postgres_url: str) -> None:
    async with opened(postgres_url):
        pass
    run(postgres, postgres_url, "INSERT INTO backhaul.schema_version VALUES (9999, 'later')")
    assert (await refusal(postgres_url)).code == "journal.schema_newer"


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
def test_a_server_that_does_not_sync_is_refused(setting: str) -> None:
    with postgres_server(settings={setting: "off"}) as server:
        url = server.create()
        error = trio.run(refusal, url)
    assert (error.code, setting in error.message) == ("journal.not_durable", True)


async def test_two_nodes_may_start_at_once_on_an_empty_database(postgres_url: str) -> None:
    histories = []

    async def start() -> None:
        async with open_postgres_journal(postgres_url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__) as journal:
            histories.append(journal.log.history)

    async with border.open_loop(), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(start)
    assert len(set(histories)) == 1


async def test_a_restart_begins_no_generation_but_another_identity_does(postgres: Databases, postgres_url: str) -> None:
    async with opened(postgres_url) as journal:
        first = journal.log.history.generation_id
        await appended(journal, local("A|1", "A|1"))
    async with opened(postgres_url) as journal:
        assert journal.log.history.generation_id == first
    newest = first
    for column in ("timeline", "system_identifier", "database_oid"):
        run(postgres, postgres_url, f"UPDATE backhaul.journal SET {column} = {column} + 1")
        async with opened(postgres_url) as journal:
            assert journal.log.history.generation_id != newest
            assert journal.log.history.generation_at(2) == first
            assert journal.log.history.generations[-1].first_position == 3
            newest = journal.log.history.generation_id
    async with opened(postgres_url) as journal:
        assert journal.log.history.generation_id == newest


async def test_a_node_that_writes_nothing_hears_of_the_generation_another_one_began(
    postgres: Databases, postgres_url: str
) -> None:
    """A consumer that was served by the other one comes with it, and must not be told that its history has parted."""
    async with opened(postgres_url) as journal:
        first = journal.log.history.generation_id
        await appended(journal, local("A|1", "A|1"))
        run(postgres, postgres_url, "UPDATE backhaul.journal SET timeline = timeline + 1")
        async with open_postgres_journal(
            postgres_url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__, notify=False
        ) as other:
            await appended(other, local("A|1"))
            newest = other.log.history.generation_id
        assert newest != first
        stats = await journal.log.stats()
        history = journal.log.history
        assert (history.generation_at(2), history.generation_at(stats.head_position)) == (first, newest)
        assert history.head_position == 3
        place = ResumePoint(history.journal_id, newest, LogCursor(3), NO_FILTER)
        assert decide_resume_point(place, history, stats.deleted_through) is PlaceVerdict.RESUME


async def test_a_head_that_went_back_under_a_running_node_begins_a_generation(
    postgres: Databases, postgres_url: str
) -> None:
    async with opened(postgres_url) as journal:
        first = journal.log.history.generation_id
        await appended(journal, local("A|1", "A|2", "A|3"))
        run(
            postgres,
            postgres_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'backhaul %'"
            " AND datname = current_database();"
            "DELETE FROM backhaul.event WHERE position > 1; DELETE FROM backhaul.entity WHERE entity_no > 1;"
            "UPDATE backhaul.head SET position = 1, entities = 1",
        )
        outcome = None
        while outcome is None:  # the cut may be felt at the first use
            try:
                outcome = await appended(journal, local("A|4"))
            except BackhaulError as error:
                if error.code != "journal.unavailable":
                    raise
        assert (outcome.first_position, outcome.seq_nr) == (2, [1])
        assert [generation.first_position for generation in journal.log.history.generations] == [1, 2]
        assert journal.log.history.generation_at(1) == first


class PooledClient:
    """A client of a pool in transaction mode: each statement goes to the server session that is free."""

    def __init__(self, pool: list[asyncpg.Connection]) -> None:
        self._pool = pool
        self._mine: asyncpg.Connection | None = None

    def get_server_pid(self) -> int:
        """What the pool says, which is its own invention."""
        return 1

    async def fetchval(self, sql: str) -> object:
        """On the session of the open transaction, or on a free one."""
        return await (self._mine or self._pool[-1]).fetchval(sql)

    execute = fetchval

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Keeps a session."""
        self._mine = self._pool.pop()
        yield
        self._pool.append(self._mine)
        self._mine = None


async def test_shared_sessions_are_seen_for_what_they_are(postgres_url: str) -> None:
    async def look() -> None:
        sessions = [await asyncpg.connect(postgres_url) for _ in range(2)]
        assert await opening.has_own_session(sessions[0])
        assert not await opening.shares_session(*sessions)
        pool = [await asyncpg.connect(postgres_url) for _ in range(2)]
        assert not await opening.has_own_session(PooledClient(pool))
        assert await opening.shares_session(PooledClient(pool), PooledClient(pool))
        for connection in sessions + pool:
            await connection.close()

    async with border.open_loop():
        await border.call_asyncio(look)


async def test_a_pool_that_refuses_session_settings_is_named(postgres_url: str) -> None:
    message = b"SFATAL\0C08P01\0Munsupported startup parameter: search_path\0\0"

    async def refuse(stream: trio.SocketStream) -> None:
        if await stream.receive_some(8) == b"\0\0\0\x08\x04\xd2\x16\x2f":  # asks for TLS
            await stream.send_all(b"N")
            await stream.receive_some()
        await stream.send_all(b"E" + (4 + len(message)).to_bytes(4, "big") + message)

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, refuse, [listener])
        error = await refusal(with_netloc(postgres_url, port=listener.socket.getsockname()[1]))
        assert (type(error), error.code) == (ConfigurationError, "postgres.pooler")
        nursery.cancel_scope.cancel()


async def test_what_an_earlier_version_stored_is_indexed_when_it_is_opened(
    postgres: Databases, postgres_url: str
) -> None:
    first_steps = "".join(step.sql for step in load_migrations("postgres")[:2])
    events = ", ".join(
        f"({position}, {position}, 1, 0, {entity}, {seq_nr}, 0, 0, 'happened', 'json', {tags}, '', '')"
        for position, entity, seq_nr, tags in (
            (1, 1, 1, "E't:a\\x1fdoor'"),
            (2, 2, 1, "''"),
            (70, 1, 2, "'t:b'"),
            (71, 2, 2, "'t:a'"),
            (72, 1, 3, "''"),
        )
    )
    run(
        postgres,
        postgres_url,
        "CREATE SCHEMA backhaul; SET search_path = backhaul; SET client_min_messages = warning;"
        "CREATE TABLE schema_version (version int PRIMARY KEY, name text NOT NULL);"
        f"{first_steps}"
        "INSERT INTO schema_version VALUES (1, 'journal'), (2, 'append_batch');"
        "INSERT INTO entity VALUES (1, 3, 0, 0, 0, '', 'Door|1'), (2, 2, 0, 0, 0, '', 'Lamp|1');"
        f"INSERT INTO event VALUES {events};"
        "UPDATE head SET position = 72, timestamp_us = 72, entities = 2",
    )
    async with opened(postgres_url) as journal:
        log = await whole_log(journal)
        assert log.prev_tags == ["", "", "t:a\x1fdoor", NO_TAGS, "t:b"]
        for selection, positions in (
            (Selection(tags=frozenset({"t:a"})), [1, 70, 71]),
            (Selection(tag_prefixes=frozenset({"t:"})), [1, 70, 71, 72]),
            (Selection(frozenset({"Lamp"})), [2, 71]),
            (Selection(persistence_ids=frozenset({"Door|1"})), [1, 70, 72]),
        ):
            assert (await whole_log(journal, selection=selection)).position == positions
        await appended(journal, local("Door|1", "Lamp|1", tags=["t:c"]))
        assert (await whole_log(journal)).prev_tags[-2:] == [NO_TAGS, "t:a"]


# -- sessions ----------------------------------------------------------------------------------------------------
async def test_a_node_for_which_there_are_no_sessions_left_is_refused_at_start(postgres: Databases) -> None:
    with postgres.fresh() as url:
        database = urlsplit(url).path.removeprefix("/")
        async with border.open_loop():
            async with open_postgres_journal(url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__) as first:
                await first.log.stats()
                sessions = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
                await until(lambda: "backhaul hints" in run(postgres, url, sessions))
                run(postgres, url, f'ALTER DATABASE "{database}" CONNECTION LIMIT 23')
                with pytest.raises(ConfigurationError) as refused:
                    async with open_postgres_journal(url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__):
                        pass
                assert refused.value.code == "postgres.too_few_connections"
                assert "2 node(s) of this journal need 24 sessions" in refused.value.message
                run(postgres, url, f'ALTER DATABASE "{database}" CONNECTION LIMIT 24')
                async with open_postgres_journal(url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__) as second:
                    await second.log.stats()
