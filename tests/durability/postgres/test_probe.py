"""Trying whether appends can be stored finds a database that only reads, also when nothing was asked for."""

from __future__ import annotations

import pytest
import trio

from common import border
from common.core.errors import BackhaulError
from common.journal.postgres import open_postgres_journal
from common.journal.stores.journal import Journal
from examples.support.postgres import Databases
from tests.support.builders import START_US, ids


def read_only(server: Databases, url: str, value: str) -> None:
    """Let new sessions of the database only read, or write again; those that are open end."""
    name = url.rpartition("/")[2].partition("?")[0]
    server.run(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")
    server.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


async def is_refused(journal: Journal, append_bytes: int) -> bool:
    """Whether nothing can be stored now."""
    try:
        await journal.log.probe(append_bytes)
    except BackhaulError:
        return True
    return False


@pytest.mark.parametrize("append_bytes", [0, 1_000])
async def test_a_database_that_only_reads_is_found(postgres: Databases, append_bytes: int) -> None:
    with postgres.fresh() as url:
        async with (
            border.open_loop(),
            open_postgres_journal(url, now_us=lambda: START_US, new_id=ids().__next__) as journal,
        ):
            await journal.log.probe(append_bytes)
            read_only(postgres, url, "on")
            for _ in range(3):  # the first may only find that its session has ended
                with pytest.raises(BackhaulError, match=r"journal\.unavailable"):
                    await journal.log.probe(append_bytes)
            read_only(postgres, url, "off")
            with trio.fail_after(20):
                while await is_refused(journal, append_bytes):  # noqa: ASYNC110 - there is nothing to wait for
                    await trio.sleep(0.1)
