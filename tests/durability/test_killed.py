"""A process killed with SIGKILL at each named place leaves a journal that has all it acknowledged (P1, P2)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.core.errors import BackhaulError
from common.core.events.ids import ALL_SLICES
from common.core.journal.append import Appended
from common.core.journal.statement import Statement
from common.journal.migrations import load_migrations
from common.journal.stores.journal import Journal
from tests.durability import victim
from tests.durability.victim import TABLE, check_not_restarted, check_received, check_snapshots
from tests.support.builders import appended, ids, local, seq_nrs, whole_log


@dataclass(frozen=True)
class Store:
    """Where the victim's journal is; ``kind`` is also the name of its migrations."""

    kind: str
    where: str

    def kill_at(self, fail_point: str, work: str) -> list[list[str]]:
        """Run the victim until it is killed there; answers what it printed, as words."""
        killed = subprocess.run(
            [sys.executable, "-m", "tests.durability.victim", self.where, work],
            env=os.environ | {"BACKHAUL_FAIL_POINT": fail_point},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert f"fail point hit: {fail_point.partition(':')[0]}" in killed.stderr
        return [line.split() for line in killed.stdout.splitlines()]

    def reopened(self) -> AbstractAsyncContextManager[Journal]:
        """The journal as the next process finds it."""
        return victim.opened(self.where, ids("again"))


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty one."""
    is_file = request.param == "sqlite"
    return Store(request.param, str(tmp_path / "journal.db") if is_file else request.getfixturevalue("postgres_url"))


@pytest.mark.parametrize(
    ("fail_point", "stored"),
    [
        ("append.before_commit:1", 0),
        ("append.before_commit:8", 7),
        ("append.after_commit:1", 1),
        ("append.after_commit:8", 8),
    ],
)
async def test_acknowledged_appends_are_there_and_a_repeat_gets_the_same_answer(
    fail_point: str, stored: int, store: Store
) -> None:
    result = store.kill_at(fail_point, "append")
    assert len(result) == int(fail_point.partition(":")[2]) - 1
    async with store.reopened() as journal:
        assert (await journal.log.stats()).head_position == 2 * stored
        for line in result:
            number, position, *numbers = map(int, line)
            repeated = await appended(journal, local(*victim.request(number), append_id=f"key-{number}"))
            assert repeated == Appended(position, numbers, repeated=True)
        for number in range(len(result) + 1, 21):
            again = await appended(journal, local(*victim.request(number), append_id=f"key-{number}"))
            assert again == Appended(2 * number - 1, [number, 1], repeated=number <= stored)
        log = seq_nrs(await whole_log(journal))
    assert log == [(name, nr) for n in range(1, 21) for name, nr in zip(victim.request(n), (n, 1), strict=True)]


async def test_retention_that_is_killed_has_removed_nothing_yet(store: Store) -> None:
    result = store.kill_at("trim.before_commit:2", "trim")
    assert result[-1] == ["trimmed", "10"]
    async with store.reopened() as journal:
        stats = await journal.log.stats()
        assert (stats.first_position, stats.deleted_through, stats.head_position) == (11, 10, 40)
        assert (await whole_log(journal)).position == list(range(11, 41))
        head = await journal.log.entity_head("Sensor|shared")
        assert head is not None
        assert (head.seq_nr, head.deleted_to, head.deleted_position) == (20, 5, 9)


async def test_a_first_start_killed_in_its_migration_is_begun_again(store: Store) -> None:
    # PostgreSQL makes all steps in one transaction, SQLite each in one of its own.
    step = {"sqlite": 1, "postgres": 2}[store.kind]
    assert store.kill_at(f"migration.in_transaction:{step}", "append") == []
    async with store.reopened() as journal:
        assert await appended(journal, local("Sensor|a")) == Appended(1, [1])


async def test_an_applications_migration_that_is_killed_has_made_no_table(store: Store) -> None:
    store.kill_at(f"migration.in_transaction:{len(load_migrations(store.kind)) + 1}", "project")
    async with store.reopened() as journal:
        with pytest.raises(BackhaulError, match=r"projection\.statement_failed"):
            await journal.projections.query("SELECT * FROM counted")
        await journal.projections.migrate("counted", [[TABLE]])
        assert await journal.projections.query("SELECT * FROM counted") == []


async def test_a_projections_effect_and_offset_are_there_together_or_not_at_all(store: Store) -> None:
    result = store.kill_at("projection.in_transaction:4", "project")
    assert result[-1] == ["projected", "3"]
    async with store.reopened() as journal:
        [row] = await journal.projections.rows()
        assert row.position == 3
        assert await journal.projections.query("SELECT position FROM counted ORDER BY position") == [(1,), (2,), (3,)]
        lease = await journal.projections.acquire("counted", ALL_SLICES, "me", 60)
        assert lease is not None
        await journal.projections.commit(lease, 4, [Statement("INSERT INTO counted VALUES ($1)", [(4,)])], 60)


async def test_what_a_subscription_brings_is_there_with_its_place_or_not_at_all(store: Store) -> None:
    result = store.kill_at("subscription.in_transaction:4", "receive")
    assert result[-1] == ["received", "3"]
    async with store.reopened() as journal:
        await check_received(journal, 3)


async def test_a_subscription_that_is_killed_while_it_begins_anew_has_lost_nothing_yet(store: Store) -> None:
    store.kill_at("subscription.in_transaction:4", "restart")
    async with store.reopened() as journal:
        await check_not_restarted(journal)


async def test_snapshots_by_rule_go_on_where_a_kill_between_them_and_the_offset_left_them(store: Store) -> None:
    store.kill_at("projection.in_transaction:2", "snapshots")
    async with store.reopened() as journal:
        [row] = await journal.projections.rows()
        assert row.position == 8
        await check_snapshots(journal, 6)
