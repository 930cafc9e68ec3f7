"""A session that its server ends: what was asked may be asked again, and nobody uses the session any more."""

from __future__ import annotations

import asyncpg
import pytest

from common import border
from common.core.errors import BackhaulError
from common.journal.postgres import open_postgres_journal
from common.journal.stores.journal import Journal
from tests.support.builders import START_US, ids
from tests.support.internals import postgres_sessions

FRESH_IDS = ids("new")


@pytest.mark.parametrize("code", ["57P01", "57P02", "57P03", "57P04", "57P05"])
async def test_a_session_that_its_server_ends_is_not_used_again_and_the_request_may_be_repeated(
    postgres_url: str, code: str
) -> None:
    """57P04 comes only of a standby whose primary drops the database, where no session of ours stays."""
    async with (
        border.open_loop(),
        open_postgres_journal(
            postgres_url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__, notify=False
        ) as journal,
    ):
        ended = asyncpg.PostgresError.new({"C": code, "M": "the server ends this session", "S": "FATAL"})
        before = await pid_of(journal)
        with pytest.raises(BackhaulError) as refused:
            await postgres_sessions(journal).state.run(raising, ended)
        assert (refused.value.code, refused.value.retry_after_s is not None) == ("journal.unavailable", True)
        assert await pid_of(journal) != before


async def pid_of(journal: Journal) -> int:
    """Of the server's process behind the session for state."""
    pid: int = await postgres_sessions(journal).state.run(ask_pid)
    return pid


async def ask_pid(connection: asyncpg.Connection) -> int:
    pid: int = await connection.fetchval("SELECT pg_backend_pid()")
    return pid


async def raising(_: asyncpg.Connection, error: Exception) -> None:
    raise error
