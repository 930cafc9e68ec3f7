"""A transaction that stays open while an application's function reads and writes in it, from a thread of its own.

The function's calls are synchronous; each is carried to this session and waited for in its thread. The session is cut
when the function did not come back in time, and the server undoes what it did.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from common.core.errors import BackhaulError
from common.journal.postgres import projections
from common.journal.postgres.connection import Call, OwnedConnection
from common.journal.sqlite.statements import tables_closed
from common.journal.stores.journal import ProjectionLease, SqlValue, Statement, Tables


class _CarriedTables:
    """``Tables`` whose calls come from another thread; one at a time."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._lock = trio.Lock()
        self._is_closed = False
        self.failure: BackhaulError | None = None

    def query(self, sql: str, *args: SqlValue) -> list[tuple[Any, ...]]:
        """See ``Tables.query``."""
        return trio.from_thread.run(self._ask, sql, args)

    def execute(self, sql: str, *args: SqlValue) -> None:
        """See ``Tables.execute``."""
        trio.from_thread.run(self._ask, sql, args)

    async def _ask(self, sql: str, args: Sequence[Any]) -> list[tuple[Any, ...]]:
        async with self._lock:
            if self._is_closed:
                raise tables_closed()
            if self.failure is not None:
                raise self.failure
            try:
                return await self._call(projections.ask, sql, args)
            except BackhaulError as error:
                self.failure = error
                raise

    def close(self) -> None:
        self._is_closed = True


async def commit_in_transaction(
    session: OwnedConnection,
    lease: ProjectionLease,
    position: int,
    work: Callable[[Tables], Awaitable[None]],
    statements: Sequence[Statement],
    lease_s: float,
    now_us: int,
) -> ProjectionLease:
    """See ``ProjectionStore.commit_in_transaction``."""
    async with session.held() as call:
        transaction = await call(projections.begin, lease)
        tables = _CarriedTables(call)
        try:
            await work(tables)
        finally:
            tables.close()
        if tables.failure is not None:
            raise tables.failure
        return await call(projections.end, transaction, lease, position, statements, lease_s, now_us)
