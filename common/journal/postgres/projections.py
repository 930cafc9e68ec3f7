"""The part of the journal that projections use: which session does what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import trio

from common.core.errors import BackhaulError
from common.core.events.ids import SliceRange
from common.core.journal.range_failure import RangeFailure
from common.core.journal.slice_ranges import RangeOffset
from common.core.journal.statement import Statement
from common.core.members.assignment import RangeKey
from common.journal.postgres import offsets
from common.journal.postgres import ranges as range_changes
from common.journal.postgres.connection import Call, OwnedConnection
from common.journal.postgres.exchange import fits
from common.journal.postgres.sessions import PostgresSessions
from common.journal.postgres.shared_commits import RangeCommit, SharedCommits
from common.journal.stores.projections import ProjectionLease, ProjectionRow, moved_to
from common.journal.tables import SqlValue, Tables, tables_closed


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
                return await self._call(offsets.ask, sql, args)
            except BackhaulError as error:
                self.failure = error
                raise

    def close(self) -> None:
        self._is_closed = True


async def _commit_in_transaction(
    session: OwnedConnection,
    lease: ProjectionLease,
    position: int,
    work: Callable[[Tables], Awaitable[None]],
    statements: Sequence[Statement],
    lease_s: float,
    now_us: int,
) -> ProjectionLease:
    """A transaction that stays open while an application's function reads and writes in it, from a thread of its own.

    The function's calls are synchronous; each is carried to this session and waited for in its thread. The session is
    cut when the function did not come back in time, and the server undoes what it did.
    """
    async with session.held() as call:
        transaction = await call(offsets.begin, lease)
        tables = _CarriedTables(call)
        try:
            await work(tables)
        finally:
            tables.close()
        if tables.failure is not None:
            raise tables.failure
        return await call(offsets.end, transaction, lease, position, statements, lease_s, now_us)


class PostgresProjections:
    """``ProjectionStore`` over an open database."""

    def __init__(self, sessions: PostgresSessions, *, migrates: bool) -> None:
        self._sessions = sessions
        self._migrates = migrates
        self._shared_commits = SharedCommits(self._commit_together)

    async def warm_up(self) -> None:
        """See ``ProjectionStore.warm_up``."""
        await self._sessions.open_committers()

    async def migrate(self, name: str, steps: Sequence[Sequence[str]]) -> None:
        """See ``ProjectionStore.migrate``."""
        change = offsets.migrate if self._migrates else offsets.check_migrated
        await self._sessions.committer().connection.run(change, name, steps)

    async def acquire(self, name: str, slices: SliceRange, owner: str, lease_s: float) -> ProjectionLease | None:
        """See ``ProjectionStore.acquire``."""
        connection = self._sessions.committer().connection
        return await connection.run(offsets.acquire, name, slices, owner, lease_s, self._sessions.now_us())

    async def release(self, lease: ProjectionLease) -> None:
        """See ``ProjectionStore.release``."""
        await self._sessions.committer().connection.run(offsets.release, lease)

    async def take_all(self, owner: str, keys: Collection[RangeKey], lease_s: float) -> list[RangeKey]:
        """See ``ProjectionStore.take_all``."""
        return await self._sessions.committer().connection.run(offsets.take_all, owner, keys, lease_s)

    async def hand_over(self, moves: Sequence[tuple[ProjectionLease, str]]) -> None:
        """See ``ProjectionStore.hand_over``: on a session that waits neither for commits of ranges nor for a disk."""
        await self._sessions.members.run(offsets.hand_over, moves)

    async def accept(self, owner: str) -> None:
        """See ``ProjectionStore.accept``: for the counting of moves only, so it waits for no disk."""
        await self._sessions.members.run(offsets.accept, owner)

    async def commit(
        self, lease: ProjectionLease, position: int, statements: Sequence[Statement], lease_s: float
    ) -> ProjectionLease:
        """See ``ProjectionStore.commit``."""
        mine = RangeCommit(lease, position, statements, lease_s, self._sessions.now_us())
        if not fits(statements) or not await self._shared_commits.take_part(mine):
            committer = self._sessions.committer()
            await committer.connection.run(offsets.commit, committer.prepared, mine)
        return moved_to(lease, position)

    async def commit_in_transaction(
        self,
        lease: ProjectionLease,
        position: int,
        work: Callable[[Tables], Awaitable[None]],
        statements: Sequence[Statement],
        lease_s: float,
    ) -> ProjectionLease:
        """See ``ProjectionStore.commit_in_transaction``."""
        session = next(
            (session for session in self._sessions.in_transaction if not session.is_busy),
            self._sessions.in_transaction[0],
        )
        return await _commit_in_transaction(
            session, lease, position, work, statements, lease_s, self._sessions.now_us()
        )

    async def intervene(self, name: str, statements: Sequence[Statement], *, restart: bool = False) -> int:
        """See ``ProjectionStore.intervene``."""
        return await self._sessions.committer().connection.run(range_changes.intervene, name, statements, restart)

    async def move(self, name: str, position: int, statements: Sequence[Statement] = ()) -> int:
        """See ``ProjectionStore.move``."""
        return await self._sessions.committer().connection.run(range_changes.move, name, position, statements)

    async def declare(self, name: str, ranges: Sequence[SliceRange], begin: int = 0) -> list[SliceRange]:
        """See ``ProjectionStore.declare``."""
        return await self._sessions.committer().connection.run(
            range_changes.declare, name, ranges, begin, self._sessions.now_us()
        )

    async def reshape(self, name: str, ranges: Sequence[SliceRange]) -> list[RangeOffset]:
        """See ``ProjectionStore.reshape``."""
        return await self._sessions.committer().connection.run(
            range_changes.reshape, name, ranges, self._sessions.now_us()
        )

    async def forget(self, name: str, statements: Sequence[Statement]) -> int:
        """See ``ProjectionStore.forget``."""
        return await self._sessions.committer().connection.run(range_changes.forget, name, statements)

    async def set_failing(self, lease: ProjectionLease, failing: RangeFailure | None) -> ProjectionLease:
        """See ``ProjectionStore.set_failing``."""
        return await self._sessions.committer().connection.run(offsets.set_failing, lease, failing)

    async def rows(self) -> list[ProjectionRow]:
        """See ``ProjectionStore.rows``."""
        return await self._sessions.read(offsets.rows)

    async def set_paused(self, name: str, paused: bool) -> int:
        """See ``ProjectionStore.set_paused``."""
        return await self._sessions.committer().connection.run(offsets.set_paused, name, paused)

    async def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See ``ProjectionStore.query``."""
        return await self._sessions.read(offsets.query, sql, args)

    async def _commit_together(self, group: Sequence[RangeCommit]) -> bool:
        committer = self._sessions.committer()
        return await committer.connection.run(offsets.commit_together, committer.prepared, group)
