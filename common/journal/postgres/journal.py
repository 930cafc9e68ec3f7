"""``Journal`` over a PostgreSQL database: which session does what, and what this process remembers.

What is done is in the modules beside this one, on which session in ``sessions``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

import asyncpg
import trio

from common.core.events.batch import EventBatch
from common.core.events.ids import ALL_SLICES, SliceRange
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import EVERYTHING, Selection
from common.core.journal.admission import EntityHead
from common.core.journal.append import AppendOutcome, AppendRequest, LocalAppend
from common.core.journal.history import History, Offset, OriginState, ResumeDecision
from common.core.journal.slice_ranges import RangeOffset
from common.fail_points import fail_point
from common.journal.postgres import handler_transaction, log, opening, origins, parked, projections
from common.journal.postgres import ranges as range_changes
from common.journal.postgres.append import APPEND_SQL, AppendCall, answers, only_asks
from common.journal.postgres.connection import (
    Server,
    SessionLimits,
    finish,
    map_start_errors,
    pooler_refused,
    say_goodbye,
)
from common.journal.postgres.exchange import fits
from common.journal.postgres.push_filters import PostgresPushFilters
from common.journal.postgres.shared_commits import RangeCommit
from common.journal.stores.journal import (
    JournalStats,
    LogPage,
    ParkedRow,
    ProjectionLease,
    ProjectionRow,
    Statement,
    StoredRange,
    Tables,
    TrimLimit,
)
from common.journal.stores.lease import moved_to

P = ParamSpec("P")
T = TypeVar("T")

_ENTITIES_MAX = 200_000


@asynccontextmanager
async def open_postgres_journal(
    url: str,
    *,
    now_us: Callable[[], int],
    new_id: Callable[[], str],
    notify: bool = True,
    limits: SessionLimits | None = None,
) -> AsyncIterator[PostgresJournal]:
    """Open the journal in the database at ``url``, made or migrated when need be. Needs ``border.open_loop``.

    Without ``notify`` nodes neither tell each other of commits nor listen: they only poll.

    Raises:
        ConfigurationError: ``postgres.access_denied``, ``postgres.no_database``, ``postgres.invalid_url``,
            ``postgres.pooler``, ``postgres.too_old``, ``postgres.encoding``, ``journal.not_durable``,
            ``journal.not_a_journal``, ``journal.schema_newer``.
        BackhaulError: ``postgres.unreachable``: it may answer later.
    """
    server = Server(url, limits or SessionLimits())
    history = await _look_and_migrate(server, new_id)
    journal = PostgresJournal(server, history, now_us, new_id)
    try:
        async with trio.open_nursery() as nursery:
            if notify:
                nursery.start_soon(journal.run_hints)
            yield journal
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery is our affair: what the block raised comes out as it was.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    finally:
        await journal.aclose()


async def _look_and_migrate(server: Server, new_id: Callable[[], str]) -> History:
    with map_start_errors(server.name):
        first = await server.connect("start", {})
        try:
            if not await finish(first, server.limits, opening.has_own_session, first):
                await _refuse_shared_session(server, first)
            await finish(first, server.limits, opening.check_server, first, server.name)
            await finish(first, opening.MIGRATION_LIMITS, opening.migrate, first, server.name)
            return await finish(first, server.limits, opening.settle_history, first, new_id, None)
        finally:
            await say_goodbye(first)


async def _refuse_shared_session(server: Server, first: asyncpg.Connection) -> None:
    second = await server.connect("start", {})
    try:
        if await finish(first, server.limits, opening.shares_session, first, second):
            raise pooler_refused(server.name)
    finally:
        await say_goodbye(second)


class PostgresJournal(PostgresPushFilters):
    """``common.journal.stores.journal.Journal`` over an open database; made by ``open_postgres_journal``."""

    # -- the log -----------------------------------------------------------------------------------------------------
    async def append_group(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        """See ``Journal.append_group``: one call of the server function ``append_batch``.

        Its arguments are made before the writer's turn comes, while the server is busy with the group before.
        """
        if all(map(only_asks, requests)):
            return await self._answer(requests)
        call = AppendCall.of(requests, self._now_us(), self._entity_no, wants_all=self.feed.is_wanted)
        outcomes, stored, head = await self._writer.run(self._append, call, self._writer_sessions)
        self.feed.give(stored)
        self._saw_head(head)
        self._hints.committed(head)
        return outcomes

    async def _answer(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        # The server function would write, and sync, what has not changed.
        names = {name for request in requests if isinstance(request, LocalAppend) for name in request.expected}
        position, heads = await self._writer.run(log.entity_numbers, names)
        self._saw_head(position)
        return answers(requests, position, heads)

    async def _append(
        self, connection: asyncpg.Connection, call: AppendCall, made_for_session: int
    ) -> tuple[list[AppendOutcome], EventBatch, int]:
        if made_for_session != self._writer_sessions:  # its entity numbers may be those of another history
            call = AppendCall.of(call.requests, self._now_us(), self._entity_no, wants_all=call.wants_all)
        fail_point("append.before_commit")
        if call.has_statements:
            # The head is held for as long as they take; what they touch nobody else writes.
            async with connection.transaction():
                answer = await connection.fetchrow(APPEND_SQL, *call.arguments)
                await projections.run_statements(connection, call.statements_of(call.outcomes(answer)))
        else:
            answer = await connection.fetchrow(APPEND_SQL, *call.arguments)
        fail_point("append.after_commit")
        numbers = answer["n_no"]
        if numbers:
            if len(self._entity_no) > _ENTITIES_MAX:
                self._entity_no.clear()
            self._entity_no.update(
                (name, number) for name, number in zip(call.entities, numbers, strict=True) if number
            )
        stored = call.stored(answer) if call.wants_all else EventBatch()
        return call.outcomes(answer), stored, answer["head_position"]

    async def read(
        self,
        after: int,
        *,
        through: int | None = None,
        max_events: int,
        max_bytes: int,
        slices: SliceRange = ALL_SLICES,
        selection: Selection = EVERYTHING,
    ) -> LogPage:
        """See ``Journal.read``."""
        self.read_counts["log" if selection.is_all else "selected"] += 1
        lane = self._readers if selection.is_all else self._searchers
        async with lane.reader() as reader:
            found = await reader.connection.run(
                log.read,
                reader.names,
                after,
                through=through,
                max_events=max_events,
                max_bytes=max_bytes,
                slices=slices,
                selection=selection,
            )
        self._saw_head(found.head)
        return found

    async def read_entity(
        self, persistence_id: str, from_seq_nr: int, to_seq_nr: int, *, max_events: int
    ) -> EventBatch:
        """See ``Journal.read_entity``."""
        self.read_counts["entity"] += 1
        async with self._readers.reader() as reader:
            return await reader.connection.run(
                log.read_entity, reader.names, persistence_id, from_seq_nr, to_seq_nr, max_events
            )

    async def read_entities(self, known: Mapping[str, int], *, each_max: int) -> EventBatch:
        """See ``Journal.read_entities``."""
        async with self._readers.reader() as reader:
            return await reader.connection.run(log.read_entities, reader.names, known, each_max)

    async def entity_head(self, persistence_id: str) -> EntityHead | None:
        """See ``Journal.entity_head``."""
        return await self._read(log.entity_head, persistence_id)

    async def stats(self) -> JournalStats:
        """See ``Journal.stats``."""
        stats, generations = await self._read(log.stats)
        self._saw_generations(opening.load_generations(generations), stats.head_position)
        return stats

    async def deleted_ranges(self, after: int, through: int, *, max_rows: int | None = None) -> list[StatedRange]:
        """See ``Journal.deleted_ranges``."""
        return await self._read(log.deleted_ranges, after, through, max_rows)

    async def trim(self, limit: TrimLimit) -> int:
        """See ``Journal.trim``."""
        return await self._state.run(log.trim, limit, self._now_us())

    async def event_bytes(self, after: int, through: int) -> int:
        """See ``Journal.event_bytes``."""
        return await self._read(log.event_bytes, after, through)

    async def forget_append_ids(self, stored_before_us: int, max_rows: int) -> int:
        """See ``Journal.forget_append_ids``."""
        return await self._state.run(log.forget_append_ids, stored_before_us, max_rows)

    # -- origins -----------------------------------------------------------------------------------------------------
    async def open_session(self, origin_id: str, instance: str, history: History) -> ResumeDecision:
        """See ``Journal.open_session``."""
        return await self._state.run(origins.open_session, origin_id, instance, history, self._now_us())

    async def origins(self) -> list[OriginState]:
        """See ``Journal.origins``."""
        return await self._read(origins.origins)

    async def forget_superseded(self, origin_id: str) -> bool:
        """See ``Journal.forget_superseded``."""
        return await self._state.run(origins.forget_superseded, origin_id)

    async def stored_ranges(self, persistence_id: str) -> list[StoredRange]:
        """See ``Journal.stored_ranges``."""
        return await self._read(origins.stored_ranges, persistence_id)

    # -- parked events -----------------------------------------------------------------------------------------------
    async def parked(
        self, *, origin_id: str | None = None, after_id: int = 0, max_rows: int = 1_000
    ) -> list[ParkedRow]:
        """See ``Journal.parked``."""
        return await self._read(parked.parked, origin_id, after_id, max_rows)

    async def parked_row(self, row_id: int) -> ParkedRow | None:
        """See ``Journal.parked_row``."""
        return await self._read(parked.parked_row, row_id)

    async def retry_parked(self, persistence_id: str, *, accept_gap: bool) -> tuple[int, str]:
        """See ``Journal.retry_parked``."""
        stored, left, head = await self._state.run(parked.retry, persistence_id, accept_gap, self._now_us())
        self._saw_head(head)
        self._hints.committed(head)
        return stored, left

    async def discard_parked(self, row_id: int) -> bool:
        """See ``Journal.discard_parked``."""
        return await self._state.run(parked.discard, row_id, self._now_us())

    # -- cursors -----------------------------------------------------------------------------------------------------
    async def load_cursor(self, name: str) -> Offset | None:
        """See ``Journal.load_cursor``."""
        return await self._read(origins.load_cursor, name)

    async def save_cursor(self, name: str, offset: Offset) -> None:
        """See ``Journal.save_cursor``."""
        await self._state.run(origins.save_cursor, name, offset)

    # -- projections -------------------------------------------------------------------------------------------------
    async def migrate(self, name: str, steps: Sequence[Sequence[str]]) -> None:
        """See ``ProjectionStore.migrate``."""
        await self._committer().connection.run(projections.migrate, name, steps)

    async def acquire(self, name: str, slices: SliceRange, owner: str, lease_s: float) -> ProjectionLease | None:
        """See ``ProjectionStore.acquire``."""
        connection = self._committer().connection
        return await connection.run(projections.acquire, name, slices, owner, lease_s, self._now_us())

    async def release(self, lease: ProjectionLease) -> None:
        """See ``ProjectionStore.release``."""
        await self._committer().connection.run(projections.release, lease)

    async def commit(
        self, lease: ProjectionLease, position: int, statements: Sequence[Statement], lease_s: float
    ) -> ProjectionLease:
        """See ``ProjectionStore.commit``."""
        mine = RangeCommit(lease, position, statements, lease_s, self._now_us())
        if not fits(statements) or not await self._shared_commits.take_part(mine):
            committer = self._committer()
            await committer.connection.run(projections.commit, committer.prepared, mine)
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
        session = next((session for session in self._in_transaction if not session.is_busy), self._in_transaction[0])
        return await handler_transaction.commit_in_transaction(
            session, lease, position, work, statements, lease_s, self._now_us()
        )

    async def intervene(self, name: str, statements: Sequence[Statement], *, restart: bool = False) -> int:
        """See ``ProjectionStore.intervene``."""
        return await self._committer().connection.run(range_changes.intervene, name, statements, restart)

    async def declare(self, name: str, ranges: Sequence[SliceRange]) -> list[SliceRange]:
        """See ``ProjectionStore.declare``."""
        return await self._committer().connection.run(range_changes.declare, name, ranges, self._now_us())

    async def reshape(self, name: str, ranges: Sequence[SliceRange]) -> list[RangeOffset]:
        """See ``ProjectionStore.reshape``."""
        return await self._committer().connection.run(range_changes.reshape, name, ranges, self._now_us())

    async def forget(self, name: str, statements: Sequence[Statement]) -> int:
        """See ``ProjectionStore.forget``."""
        return await self._committer().connection.run(range_changes.forget, name, statements)

    async def rows(self) -> list[ProjectionRow]:
        """See ``ProjectionStore.rows``."""
        return await self._read(projections.rows)

    async def set_paused(self, name: str, paused: bool) -> int:
        """See ``ProjectionStore.set_paused``."""
        return await self._committer().connection.run(projections.set_paused, name, paused)

    async def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See ``ProjectionStore.query``."""
        return await self._read(projections.query, sql, args)
