"""What the database's errors are called."""

from __future__ import annotations

import asyncpg
import pytest

from common.core.errors import BackhaulError, ErrorKind
from common.journal.postgres.connection import map_errors


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (asyncpg.DiskFullError("could not extend file"), "journal.disk_full", ErrorKind.FULL),
        (asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE"), "journal.unavailable", ErrorKind.UNAVAILABLE),
        (asyncpg.UndefinedTableError("relation does not exist"), "journal.broken", ErrorKind.INTERNAL),
    ],
)
def test_each_has_the_code_of_what_it_means(error: asyncpg.PostgresError, code: str, kind: ErrorKind) -> None:
    with pytest.raises(BackhaulError) as caught, map_errors("db:5432/backhaul"):
        raise error
    assert (caught.value.code, caught.value.kind) == (code, kind)
    assert caught.value.hint


def test_a_connection_that_is_refused_is_told_in_the_systems_words() -> None:
    with pytest.raises(BackhaulError) as caught, map_errors("db:5432/backhaul"):
        raise ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 5432)")
    assert caught.value.message == "db:5432/backhaul: Connection refused"
