"""A database that is put back to a point in its past, from a base backup and archived log, as docs/high-availability.md says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from common import border
from common.core.events.ids import ALL_SLICES
from common.core.members.member import MemberReport
from common.core.subscription.place import PlaceVerdict
from examples.support.postgres import PostgresServer, PostgresUnavailable, postgres_server
from tests.durability.postgres.test_failover import a_node, answered, append_one, verdict
from tests.support.builders import appended, local, whole_log
from tests.support.replication import away

STUCK_S = 60.0
# Relative to the data directory, where the server runs them.
_ARCHIVING = {"archive_mode": "on", "archive_command": "test ! -f ../archive/%f && cp %p ../archive/%f"}
_RECOVERY = """
restore_command = 'cp ../archive/%f %p'
recovery_target_name = 'before the accident'
recovery_target_action = 'promote'
"""


@pytest.fixture
def archived() -> Iterator[PostgresServer]:
    try:
        with postgres_server(settings=_ARCHIVING) as server:
            as_server(server, "mkdir", str(server.directory / "archive"))
            yield server
    except PostgresUnavailable as reason:
        pytest.fail(f"no PostgreSQL that archives: {reason}", pytrace=False)


def as_server(server: PostgresServer, *command: str) -> None:
    server._as_user(list(command), cwd=server.directory).check_returncode()


def base_backup(server: PostgresServer) -> Path:
    backup = server.directory / "backup"
    source = f"host=127.0.0.1 port={server.port} user=postgres password={server._password} dbname=postgres"
    program = str(server._bin / "pg_basebackup")
    as_server(server, program, f"--pgdata={backup}", f"--dbname={source}", "--checkpoint=fast", "--wal-method=stream")
    return backup


def put_back(server: PostgresServer, backup: Path) -> None:
    """The steps of the page: stop, the backup in place of the data, where the log is and how far, start."""
    server.stop()
    shutil.rmtree(server._data)
    as_server(server, "mv", str(backup), str(server._data))
    as_server(server, "touch", str(server._data / "recovery.signal"))
    with open(server._data / "postgresql.auto.conf", "a") as settings:
        settings.write(_RECOVERY)
    server.start()


async def until_promoted(server: PostgresServer) -> None:
    with trio.fail_after(STUCK_S):
        while await away(server.superuser.run, "SELECT pg_is_in_recovery()") != "f":  # noqa: ASYNC110  the server's
            await trio.sleep(0.05)


async def test_a_node_goes_on_with_a_database_that_was_put_back_to_a_point_in_time(archived: PostgresServer) -> None:
    url = archived.create()
    async with border.open_loop(), a_node(url) as journal:
        await appended(journal, local("A|1", "A|2", "A|3"))
        await journal.members.renew(MemberReport("n1/1", "n1", 0), 60.0)
        old = await journal.projections.acquire("tally", ALL_SLICES, "n1/1", 60.0)
        assert old is not None
        backup = await trio.to_thread.run_sync(base_backup, archived)
        await appended(journal, local("A|4", "A|5"))
        await away(archived.superuser.run, "SELECT pg_create_restore_point('before the accident')")
        await appended(journal, local("A|6", "A|7", "A|8"))
        await away(archived.superuser.run, "SELECT pg_switch_wal()")
        seen = journal.log.history

        await away(put_back, archived, backup)
        await until_promoted(archived)
        with trio.fail_after(STUCK_S):
            await answered(append_one, journal)

        assert (await whole_log(journal)).persistence_id == ["A|1", "A|2", "A|3", "A|4", "A|5", "A|9"]
        now = journal.log.history
        assert now.generations[-1].first_position == 6
        assert verdict(seen, now) is PlaceVerdict.DIVERGED
        [row] = await journal.projections.rows()
        assert (row.owner, row.epoch > old.epoch) == ("", True)
        assert (await journal.members.look()).members == []
