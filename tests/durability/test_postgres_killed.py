"""A process killed with SIGKILL at each named place leaves in PostgreSQL what it acknowledged (P1, P2)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common import border
from common.core.append import Appended
from common.core.errors import BackhaulError
from common.core.ids import ALL_SLICES
from common.journal.interface import Statement
from common.journal.migrations import load_migrations
from common.journal.postgres import PostgresJournal, open_postgres_journal
from tests.durability.sqlite_victim import TABLE, check_not_restarted, check_received, check_snapshots, request
from tests.support.builders import START_US, appended, ids, local, seq_nrs, whole_log


def kill_at(fail_point: str, url: str, work: str) -> list[list[str]]:
    """Run the victim until it is killed there; answers what it printed, as words."""
    victim = subprocess.run(
        [sys.executable, "-m", "tests.durability.postgres_victim", url, work],
        env=os.environ | {"BACKHAUL_FAIL_POINT": fail_point},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert victim.returncode == -signal.SIGKILL, victim.stderr
    assert f"fail point hit: {fail_point.partition(':')[0]}" in victim.stderr
    return [line.split() for line in victim.stdout.splitlines()]


@asynccontextmanager
async def reopened(url: str) -> AsyncIterator[PostgresJournal]:
    """The journal as the next process finds it."""
    new_id = ids("again").__next__
    async with (
        border.open_loop(),
        open_postgres_journal(url, now_us=lambda: START_US, new_id=new_id, notify=False) as journal,
    ):
        yield journal


@pytest.mark.parametrize(("fail_point", "stored"), [("append.before_commit:8", 7), ("append.after_commit:8", 8)])
async def test_acknowledged_appends_are_there_and_a_repeat_gets_the_same_answer(
    fail_point: str, stored: int, postgres_url: str
) -> None:
    told = kill_at(fail_point, postgres_url, "append")
    assert len(told) == 7
    async with reopened(postgres_url) as journal:
        assert (await journal.stats()).head_position == 2 * stored
        for line in told:
            number, position, *numbers = map(int, line)
            repeated = await appended(journal, local(*request(number), append_id=f"key-{number}"))
            assert repeated == Appended(position, numbers, repeated=True)
        for number in range(len(told) + 1, 21):
            again = await appended(journal, local(*request(number), append_id=f"key-{number}"))
            assert again == Appended(2 * number - 1, [number, 1], repeated=number <= stored)
        log = seq_nrs(await whole_log(journal))
    assert log == [(name, nr) for n in range(1, 21) for name, nr in zip(request(n), (n, 1), strict=True)]


async def test_retention_that_is_killed_has_removed_nothing_yet(postgres_url: str) -> None:
    told = kill_at("trim.before_commit:2", postgres_url, "trim")
    assert told[-1] == ["trimmed", "10"]
    async with reopened(postgres_url) as journal:
        stats = await journal.stats()
        assert (stats.first_position, stats.deleted_through, stats.head_position) == (11, 10, 40)
        assert (await whole_log(journal)).position == list(range(11, 41))
        head = await journal.entity_head("Sensor|shared")
        assert head is not None
        assert (head.seq_nr, head.deleted_to, head.deleted_position) == (20, 5, 9)


async def test_a_first_start_killed_in_its_migration_is_begun_again(postgres_url: str) -> None:
    assert kill_at("migration.in_transaction:2", postgres_url, "append") == []
    async with reopened(postgres_url) as journal:
        assert await appended(journal, local("Sensor|a")) == Appended(1, [1])


async def test_an_applications_migration_that_is_killed_has_made_no_table(postgres_url: str) -> None:
    kill_at(f"migration.in_transaction:{len(load_migrations('postgres')) + 1}", postgres_url, "project")
    async with reopened(postgres_url) as journal:
        with pytest.raises(BackhaulError, match=r"projection\.statement_failed"):
            await journal.query("SELECT * FROM counted")
        await journal.migrate("counted", [[TABLE]])
        assert await journal.query("SELECT * FROM counted") == []


async def test_a_projections_effect_and_offset_are_there_together_or_not_at_all(postgres_url: str) -> None:
    told = kill_at("projection.in_transaction:4", postgres_url, "project")
    assert told[-1] == ["projected", "3"]
    async with reopened(postgres_url) as journal:
        [row] = await journal.rows()
        assert row.position == 3
        assert await journal.query("SELECT position FROM counted ORDER BY position") == [(1,), (2,), (3,)]
        lease = await journal.acquire("counted", ALL_SLICES, "me", 60)
        assert lease is not None
        await journal.commit(lease, 4, [Statement("INSERT INTO counted VALUES ($1)", [(4,)])], 60)


async def test_what_a_subscription_brings_is_there_with_its_place_or_not_at_all(postgres_url: str) -> None:
    told = kill_at("subscription.in_transaction:4", postgres_url, "receive")
    assert told[-1] == ["received", "3"]
    async with reopened(postgres_url) as journal:
        await check_received(journal, 3)


async def test_a_subscription_that_is_killed_while_it_begins_anew_has_lost_nothing_yet(postgres_url: str) -> None:
    kill_at("subscription.in_transaction:4", postgres_url, "restart")
    async with reopened(postgres_url) as journal:
        await check_not_restarted(journal)


async def test_snapshots_by_rule_go_on_where_a_kill_between_them_and_the_offset_left_them(postgres_url: str) -> None:
    kill_at("projection.in_transaction:2", postgres_url, "snapshots")
    async with reopened(postgres_url) as journal:
        [row] = await journal.rows()
        assert row.position == 8
        await check_snapshots(journal, 6)
