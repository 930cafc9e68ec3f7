"""Offsets, leases and effects of projections, and the places of those who take the log elsewhere.

Asyncio-flavoured functions on a session; lease time is the database's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from typing import Any, Final
from weakref import WeakKeyDictionary

import asyncpg

from common.core.errors import BackhaulError
from common.core.events.ids import SliceRange
from common.core.journal.history import Offset
from common.core.journal.range_failure import RangeFailure, failure_as_text, failure_of_text
from common.core.journal.slice_ranges import ahead_as_text, ahead_of_text, check_ranges, still_ahead
from common.core.journal.sql_text import read_sql
from common.core.journal.statement import Statement, check_rows, statement_failed
from common.core.members.assignment import RangeKey
from common.fail_points import fail_point, is_aimed_at
from common.journal.migrations import check_not_newer, check_not_older
from common.journal.postgres.connection import is_passing
from common.journal.postgres.exchange import PreparedStatements
from common.journal.postgres.shared_commits import RangeCommit
from common.journal.stores.projections import ProjectionLease, ProjectionRow, fenced, moved_to

_RANGES_LOCK = 22254285
_CURSOR_COLUMNS = "journal_id, generation_id, position, timestamp_us, persistence_id, seq_nr"
_RANGE = "name = $1 AND first_slice = $2 AND last_slice = $3"
_GUARD = f"{_RANGE} AND epoch = $4 AND position = $5 AND NOT paused"


def _key(lease: ProjectionLease) -> tuple[str, int, int, int, int]:
    return lease.name, lease.slices.first, lease.slices.last, lease.epoch, lease.position


async def migrate(connection: asyncpg.Connection, name: str, steps: Sequence[Sequence[str]]) -> None:
    """See ``ProjectionStore.migrate``."""
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO application_schema (name, steps) VALUES ($1, 0) ON CONFLICT DO NOTHING", name
        )
        done = await connection.fetchval("SELECT steps FROM application_schema WHERE name = $1 FOR UPDATE", name)
        check_not_newer(f"the application {name}", done, len(steps))
        for step in steps[done:]:
            for sql in step:
                with _mapped_errors(connection, sql):
                    await connection.execute(sql)
        if done < len(steps):
            await connection.execute("UPDATE application_schema SET steps = $2 WHERE name = $1", name, len(steps))
            fail_point("migration.in_transaction")


async def check_migrated(connection: asyncpg.Connection, name: str, steps: Sequence[Sequence[str]]) -> None:
    """As ``migrate``, where no table may be changed. Raises ``journal.schema_older`` for what is still to be done."""
    done = await connection.fetchval("SELECT steps FROM application_schema WHERE name = $1", name) or 0
    check_not_newer(f"the application {name}", done, len(steps))
    check_not_older(f"the application {name}", done, len(steps))


async def acquire(
    connection: asyncpg.Connection, name: str, slices: SliceRange, owner: str, lease_s: float, now_us: int
) -> ProjectionLease | None:
    """See ``ProjectionStore.acquire``."""
    key = (name, slices.first, slices.last)
    take = (
        "UPDATE projection SET epoch = epoch + (owner <> $4)::int, owner = $4, directed = false,"
        " lease_until = clock_timestamp() + make_interval(secs => $5)"
        f" WHERE {_RANGE} AND NOT paused AND (owner = $4 OR NOT is_held(owner, lease_until, $5))"
        " RETURNING epoch, position, ahead, failing"
    )
    async with connection.transaction():
        row = await connection.fetchrow(take, *key, owner, lease_s)
        if row is None and not await connection.fetchval(f"SELECT count(*) FROM projection WHERE {_RANGE}", *key):
            # A new range: two nodes with ranges that cut across each other must not both find room for theirs.
            await lock_ranges(connection, name)
            stored = await connection.fetch("SELECT first_slice, last_slice FROM projection WHERE name = $1", name)
            check_ranges(name, slices, [SliceRange(*row) for row in stored])
            await connection.execute(
                "INSERT INTO projection VALUES ($1, $2, $3, 0, 0, '', '-infinity', false, $4, '')"
                " ON CONFLICT DO NOTHING",
                *key,
                now_us,
            )
            row = await connection.fetchrow(take, *key, owner, lease_s)
    if row is None:
        return None
    epoch, position, ahead, failing = row
    return ProjectionLease(name, slices, epoch, position, ahead_of_text(ahead), failure_of_text(failing))


async def lock_ranges(connection: asyncpg.Connection, name: str) -> None:
    """Until the end of the transaction nobody else makes ranges of this projection."""
    await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _RANGES_LOCK, name)


async def release(connection: asyncpg.Connection, lease: ProjectionLease) -> None:
    """See ``ProjectionStore.release``."""
    await connection.execute(
        f"UPDATE projection SET owner = '', directed = false, lease_until = '-infinity' WHERE {_RANGE} AND epoch = $4",
        *_key(lease)[:4],
    )


# Rows that a stopped node's open transaction has locked are left for the next time: the server ends it within seconds.
_TAKE_ALL = """
WITH free AS (
    SELECT projection.name, projection.first_slice
    FROM projection JOIN unnest($2::text[], $3::int[], $4::int[]) AS wanted (name, first_slice, last_slice)
        USING (name, first_slice, last_slice)
    WHERE NOT paused AND owner <> $1 AND NOT is_held(owner, lease_until, $5)
    ORDER BY name, first_slice FOR UPDATE OF projection SKIP LOCKED
)
UPDATE projection SET epoch = epoch + 1, owner = $1, directed = false,
    moved_at = CASE WHEN owner = '' THEN moved_at ELSE clock_timestamp() END,
    lease_until = clock_timestamp() + make_interval(secs => $5)
FROM free WHERE projection.name = free.name AND projection.first_slice = free.first_slice
RETURNING projection.name, projection.first_slice, projection.last_slice
"""


async def take_all(
    connection: asyncpg.Connection, owner: str, keys: Collection[RangeKey], lease_s: float
) -> list[RangeKey]:
    """See ``ProjectionStore.take_all``."""
    taken = await connection.fetch(_TAKE_ALL, owner, *key_columns(keys), lease_s)
    fail_point("projection.taken_over")
    return [(name, SliceRange(first, last)) for name, first, last in taken]


def key_columns(keys: Collection[RangeKey]) -> tuple[list[str], list[int], list[int]]:
    """Ranges as columns: names, first and last slices."""
    return [name for name, _ in keys], [slices.first for _, slices in keys], [slices.last for _, slices in keys]


# Two that lock rows of several ranges, each in an order of its own, may wait for each other, until the server ends one a
# second later: all do it in this order, and commits too.
_LOCKED = "SELECT name AS n, first_slice AS f FROM projection WHERE {} ORDER BY name, first_slice FOR NO KEY UPDATE"
_IS_MINE = "projection.name = mine.n AND projection.first_slice = mine.f"
_HAND_OVER = """
WITH mine AS MATERIALIZED (
    SELECT held.name AS n, held.first_slice AS f, successor
    FROM projection AS held
    JOIN unnest($1::text[], $2::int[], $3::int[], $4::bigint[], $5::text[])
        AS moves (name, first_slice, last_slice, epoch, successor)
        USING (name, first_slice, last_slice, epoch)
    WHERE NOT paused ORDER BY 1, 2 FOR NO KEY UPDATE OF held
)
UPDATE projection SET epoch = projection.epoch + 1, owner = successor, directed = true, lease_until = '-infinity',
    moved_at = clock_timestamp()
FROM mine WHERE projection.name = mine.n AND projection.first_slice = mine.f
"""


async def hand_over(connection: asyncpg.Connection, moves: Sequence[tuple[ProjectionLease, str]]) -> None:
    """See ``ProjectionStore.hand_over``."""
    leases = [lease for lease, _ in moves]
    await connection.execute(
        _HAND_OVER,
        *key_columns([(lease.name, lease.slices) for lease in leases]),
        [lease.epoch for lease in leases],
        [successor for _, successor in moves],
    )
    fail_point("projection.handed_over")


async def accept(connection: asyncpg.Connection, owner: str) -> None:
    """See ``ProjectionStore.accept``. ``owner`` is named for the sake of the trigger that prompts the others."""
    await connection.execute(
        f"WITH mine AS MATERIALIZED ({_LOCKED.format('owner = $1 AND directed')})"
        f" UPDATE projection SET directed = false, owner = owner FROM mine WHERE {_IS_MINE}",
        owner,
    )
    fail_point("projection.accepted")


_MOVE = (
    "UPDATE projection SET position = $6, updated_us = $8, ahead = $9,"
    " failing = CASE WHEN position = $6 THEN failing ELSE '' END,"
    f" lease_until = clock_timestamp() + make_interval(secs => $7) WHERE {_GUARD}"
)
# Divides by zero unless the guarded row moved. Only "it failed" is wanted of it: the steps then find out why.
_MOVE_OR_FAIL = f"WITH moved AS ({_MOVE} RETURNING 1) SELECT 1 / count(*) FROM moved"
_IN_TRANSACTION = "projection.in_transaction"
# A lock of another session on a row of one range, or a deadlock of two: the server gave up and has undone all of it.
_HELD_UP = (asyncpg.LockNotAvailableError, asyncpg.TransactionRollbackError, asyncpg.QueryCanceledError)


async def commit(connection: asyncpg.Connection, prepared: PreparedStatements, one: RangeCommit) -> None:
    """See ``ProjectionStore.commit``; small ones take one exchange with the server.

    A text of several statements is one transaction, so one that failed has written nothing and is done again in steps.
    These know which statement failed, and whether it was only because another owner has written the same.
    """
    if not await commit_together(connection, prepared, [one]):
        await _commit_in_steps(connection, one.lease, _arguments(one), one.statements)


async def commit_together(
    connection: asyncpg.Connection, prepared: PreparedStatements, all_of: Sequence[RangeCommit]
) -> bool:
    """Commit the effects and offsets of several ranges in one exchange; False: nothing is written, go one by one."""
    statements: list[Statement] = []
    for one in sorted(all_of, key=lambda one: (one.lease.name, one.lease.slices.first)):
        statements += one.statements
        statements.append(Statement(_MOVE_OR_FAIL, [_arguments(one)]))
    try:
        return await _commit_in_one_exchange(connection, prepared, statements)
    except _HELD_UP:
        if len(all_of) == 1:
            raise
        return False


def _arguments(one: RangeCommit) -> tuple[object, ...]:
    ahead = ahead_as_text(still_ahead(one.lease.ahead, one.position))
    return (*_key(one.lease), one.position, float(one.lease_s), one.now_us, ahead)


async def _commit_in_one_exchange(
    connection: asyncpg.Connection, prepared: PreparedStatements, statements: Sequence[Statement]
) -> bool:
    try:
        text = await prepared.text(connection, statements)
        if text is None:
            return False
        if is_aimed_at(_IN_TRANSACTION):
            # The same as two exchanges, since in one there is no moment between effect and commit.
            async with connection.transaction():
                await connection.execute(text)
                fail_point(_IN_TRANSACTION)
        else:
            await connection.execute(text)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if not _is_statements_fault(connection, error):
            raise
        return False
    return True


async def _commit_in_steps(
    connection: asyncpg.Connection,
    lease: ProjectionLease,
    arguments: tuple[object, ...],
    statements: Sequence[Statement],
) -> None:
    try:
        async with connection.transaction():
            await run_statements(connection, statements)
            if await connection.execute(_MOVE, *arguments) != "UPDATE 1":
                raise fenced(lease)
            fail_point(_IN_TRANSACTION)
    except BackhaulError as error:
        # A statement may fail because another owner has written the same before: being fenced is the better answer.
        if error.code == "projection.statement_failed" and not await connection.fetchval(
            f"SELECT count(*) FROM projection WHERE {_GUARD}", *_key(lease)
        ):
            raise fenced(lease) from error
        raise


async def run_statements(connection: asyncpg.Connection, statements: Sequence[Statement]) -> None:
    """Run every statement once for each of its rows; the caller holds the transaction.

    Raises:
        BackhaulError: ``projection.statement_failed``.
    """
    for statement in statements:
        with _mapped_errors(connection, statement.sql):
            check_rows(statement.sql, statement.rows)
            check_rows(statement.sql, statement.rows, await _types(connection, statement.sql))
            await connection.executemany(statement.sql, statement.rows)


async def begin(connection: asyncpg.Connection, lease: ProjectionLease) -> asyncpg.transaction.Transaction:
    """Open a transaction for a function that runs inside it, unless the range is no longer ours."""
    transaction = connection.transaction()
    await transaction.start()
    if not await connection.fetchval(f"SELECT count(*) FROM projection WHERE {_GUARD}", *_key(lease)):
        await transaction.rollback()
        raise fenced(lease)
    return transaction


async def ask(connection: asyncpg.Connection, sql: str, args: Sequence[Any]) -> list[tuple[Any, ...]]:
    """One statement of such a function."""
    with _mapped_errors(connection, sql):
        check_rows(sql, (args,))
        check_rows(sql, (args,), await _types(connection, sql))
        return list(map(tuple, await connection.fetch(sql, *args)))


async def end(
    connection: asyncpg.Connection,
    transaction: asyncpg.transaction.Transaction,
    lease: ProjectionLease,
    position: int,
    statements: Sequence[Statement],
    lease_s: float,
    now_us: int,
) -> ProjectionLease:
    """Run the last statements, move the offset and commit. The guard comes last: rows of applications are locked first."""
    moved = moved_to(lease, position)
    arguments = (*_key(lease), position, lease_s, now_us, ahead_as_text(moved.ahead))
    await run_statements(connection, statements)
    if await connection.execute(_MOVE, *arguments) != "UPDATE 1":
        raise fenced(lease)
    fail_point(_IN_TRANSACTION)
    await transaction.commit()
    return moved


async def rows(connection: asyncpg.Connection) -> list[ProjectionRow]:
    """See ``ProjectionStore.rows``."""
    stored = await connection.fetch(
        "SELECT name, first_slice, last_slice, position, epoch, owner,"
        " extract(epoch FROM lease_left(owner, lease_until))::float8, paused, updated_us, ahead, directed,"
        " CASE WHEN moved_at > 'epoch' THEN extract(epoch FROM clock_timestamp() - moved_at)::float8 ELSE 'infinity' END,"
        " failing, begin_position FROM projection ORDER BY name, first_slice, last_slice",
    )
    return [
        ProjectionRow(
            name,
            SliceRange(first, last),
            position,
            epoch,
            owner,
            left_s,
            paused,
            updated_us,
            ahead_of_text(ahead),
            directed,
            stayed_s,
            failure_of_text(failing),
            begin,
        )
        for (
            name,
            first,
            last,
            position,
            epoch,
            owner,
            left_s,
            paused,
            updated_us,
            ahead,
            directed,
            stayed_s,
            failing,
            begin,
        ) in stored
    ]


async def set_failing(
    connection: asyncpg.Connection, lease: ProjectionLease, failing: RangeFailure | None
) -> ProjectionLease:
    """See ``ProjectionStore.set_failing``."""
    done = await connection.execute(
        f"UPDATE projection SET failing = $5 WHERE {_RANGE} AND epoch = $4", *_key(lease)[:4], failure_as_text(failing)
    )
    if done != "UPDATE 1":
        raise fenced(lease)
    return replace(lease, failing=failing)


async def set_paused(connection: asyncpg.Connection, name: str, paused: bool) -> int:
    """See ``ProjectionStore.set_paused``."""
    done: str = await connection.execute(
        f"WITH mine AS MATERIALIZED ({_LOCKED.format('name = $1')})"
        f" UPDATE projection SET paused = $2, epoch = epoch + $2::boolean::int FROM mine WHERE {_IS_MINE}",
        name,
        paused,
    )
    return int(done.split()[-1])


async def query(connection: asyncpg.Connection, sql: str, args: Sequence[Any]) -> list[tuple[Any, ...]]:
    """See ``ProjectionStore.query``."""
    try:
        with _mapped_errors(connection, sql):
            check_rows(sql, (args,))
            async with connection.transaction(readonly=True):
                check_rows(sql, (args,), await _types(connection, sql))
                return list(map(tuple, await connection.fetch(sql, *args)))
    except asyncpg.ReadOnlySQLTransactionError as error:
        raise _failed(sql, error) from error


@contextmanager
def _mapped_errors(connection: asyncpg.Connection, sql: str) -> Iterator[None]:
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if not _is_statements_fault(connection, error):
            raise
        raise _failed(sql, error) from error


def _is_statements_fault(connection: asyncpg.Connection, error: BaseException) -> bool:
    """By its cause: while the session is open, what the driver itself refuses is what it was given."""
    return not is_passing(error) or (isinstance(error, asyncpg.InterfaceError) and not connection.is_closed())


# By session: the types that the server wants for each text's parameters.
_KNOWN_TYPES: Final[WeakKeyDictionary[asyncpg.Connection, dict[str, list[str]]]] = WeakKeyDictionary()
_KNOWN_MAX: Final = 200
_DECLARED: Final = {
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "float4": "REAL",
    "float8": "DOUBLE PRECISION",
    "bool": "BOOLEAN",
    "text": "TEXT",
    "varchar": "TEXT",
    "bytea": "BYTEA",
}


async def _types(connection: asyncpg.Connection, sql: str) -> list[str]:
    """The types of a text's parameters: asyncpg itself makes 1 of 1.5 where an integer is wanted."""
    if not read_sql(sql).parameters:
        return []
    known = _KNOWN_TYPES.setdefault(connection, {})
    types = known.get(sql)
    if types is None:
        if len(known) >= _KNOWN_MAX:
            known.clear()
        prepared = await connection.prepare(sql)
        types = known[sql] = [_DECLARED.get(parameter.name, "") for parameter in prepared.get_parameters()]
    return types


def _failed(sql: str, error: BaseException) -> BackhaulError:
    first_line = str(error).partition("\n")[0]
    return statement_failed(sql, f"{type(error).__name__}: {first_line}")


async def load_cursor(connection: asyncpg.Connection, name: str) -> Offset | None:
    """See ``LogStore.load_cursor``."""
    row = await connection.fetchrow(f"SELECT {_CURSOR_COLUMNS} FROM cursor_in_log WHERE name = $1", name)
    return Offset(*row) if row else None


async def save_cursor(connection: asyncpg.Connection, name: str, offset: Offset) -> None:
    """See ``LogStore.save_cursor``."""
    await connection.execute(
        f"INSERT INTO cursor_in_log (name, {_CURSOR_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)"
        f" ON CONFLICT (name) DO UPDATE SET ({_CURSOR_COLUMNS}) = ($2, $3, $4, $5, $6, $7)",
        name,
        *astuple(offset),
    )
