"""A node's sessions with its database, and what this process remembers of the log.

The value that the parts of the journal share. Each kind of work has a session of its own, so none waits for another:
appends, reads (two), reads by a selection (two), the state of origins and parked events, projections (two, and two more
for functions that run inside a transaction), and hints.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Concatenate, ParamSpec, TypeVar

import asyncpg
import trio

from common.core.journal.append import AppendRequest
from common.core.journal.history import Generation, History
from common.core.journal.server_choice import is_behind
from common.core.journal.session_budget import COMMITTERS, HANDLER_TRANSACTIONS, READERS, SEARCHERS
from common.journal.change_signal import ChangeSignal
from common.journal.head_signal import HeadSignal
from common.journal.postgres.appends.batch import AppendCall
from common.journal.postgres.appends.plain import PlainCall
from common.journal.postgres.connection import NoWritableServerError, OwnedConnection, map_errors
from common.journal.postgres.exchange import PreparedStatements
from common.journal.postgres.nodes.hints import Hints
from common.journal.postgres.opening import MEMBER_LOCK
from common.journal.postgres.server_group import ServerGroup
from common.journal.snapshot_watermark import SnapshotWatermark

P = ParamSpec("P")
T = TypeVar("T")

_NAMES_MAX = 100_000
# The writer runs one function over and over: its plans are made once, and only those whose cost does not grow with the
# tables (a new table's statistics say it is small).
_WRITER_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
}

# A page of the log is a walk along an index, whatever a new table's statistics say: they have it sorted as a whole.
# A renewal that takes longer comes too late.
_MEMBERS_SETTINGS = {"statement_timeout": "2s", "lock_timeout": "2s", "synchronous_commit": "off"}
_IN_TRANSACTION_SETTINGS = {"idle_in_transaction_session_timeout": "10s"}
_READER_SETTINGS = {"enable_seqscan": "off", "enable_bitmapscan": "off"}


class EntityNameCache:
    """Names by number, as far as they were needed; a name never changes. One for each session."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def clear(self) -> None:
        """Forget them all."""
        self._names.clear()

    async def of(self, connection: asyncpg.Connection, numbers: Sequence[int]) -> list[str]:
        """The name for each number."""
        missing = set(numbers) - self._names.keys()
        if missing:
            if len(self._names) > _NAMES_MAX:
                self._names.clear()
                missing = set(numbers)
            rows = await connection.fetch(
                "SELECT entity_no, persistence_id FROM entity WHERE entity_no = ANY ($1::bigint[])", sorted(missing)
            )
            self._names.update(map(tuple, rows))
        return list(map(self._names.__getitem__, numbers))


class _Reader:
    """A session for reading, with the names of entities it has met."""

    def __init__(self, group: ServerGroup, purpose: str, covered: SnapshotWatermark) -> None:
        self.names = EntityNameCache()
        self._covered = covered
        self.connection = OwnedConnection(group, purpose, settings=_READER_SETTINGS, prepare=self._begin)

    async def _begin(self, _: asyncpg.Connection) -> None:
        self.names.clear()
        self._covered.clear()


class _Lane:
    """Readers for one kind of reading: who has waited longest gets the first that is free.

    Consumers that catch up by a selection, thousands at once, have a lane of their own: they hold up each other, one
    bounded look at a time, and neither a push nor a projection.
    """

    def __init__(self, group: ServerGroup, purpose: str, count: int, covered: SnapshotWatermark) -> None:
        self.readers = [_Reader(group, f"{purpose} {number}", covered) for number in range(1, count + 1)]
        self._free = list(self.readers)
        self._turns = trio.Semaphore(len(self._free))

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[_Reader]:
        """One of them, while the block runs."""
        async with self._turns:
            reader = self._free.pop(0)
            try:
                yield reader
            finally:
                # The first in the row has its session open: a second one is opened when two are needed.
                self._free.insert(0, reader)


class Committer:
    """A session for projections' commits, with the statements it has prepared."""

    def __init__(self, group: ServerGroup, purpose: str) -> None:
        self.prepared = PreparedStatements()
        self.connection = OwnedConnection(group, purpose, prepare=self._begin)

    async def _begin(self, _: asyncpg.Connection) -> None:
        self.prepared.clear()


async def _lock_member(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT pg_advisory_lock($1, pg_backend_pid())", MEMBER_LOCK)


async def _touch(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT 1")


class PostgresSessions:
    """The sessions, opened when they are first used.

    A new one is judged, and compares the log with what this process has seen of it, before it answers anything
    (``server_group``): no consumer or edge learns of a history that is gone.
    """

    def __init__(self, group: ServerGroup, history: History, place_key: str, now_us: Callable[[], int]) -> None:
        self.now_us = now_us
        self.place_key = place_key
        self._group = group
        self._history = history
        self.entity_no: dict[str, int] = {}
        self._writer_sessions = 0
        self.head_signal = HeadSignal(history.head_position)
        group.open(self)
        self.members_changed = ChangeSignal()
        self.hints = Hints(group, self.head_signal, self.members_changed)
        self.writer = OwnedConnection(group, "writer", settings=_WRITER_SETTINGS, prepare=self._new_writer)
        self.watermark = SnapshotWatermark()
        self.readers = _Lane(group, "reader", READERS, self.watermark)
        self.searchers = _Lane(group, "search", SEARCHERS, self.watermark)
        self.state = OwnedConnection(group, "state")
        self._projections = [Committer(group, f"projections {number}") for number in range(1, COMMITTERS + 1)]
        # It keeps the lock of this node's member row while it is open.
        self.members = OwnedConnection(group, "members", settings=_MEMBERS_SETTINGS, prepare=_lock_member)
        # Apart: an application's function may keep its transaction open for seconds. No row of a range is locked meanwhile.
        self.in_transaction = [
            OwnedConnection(group, f"inside projections {number}", settings=_IN_TRANSACTION_SETTINGS)
            for number in range(1, HANDLER_TRANSACTIONS + 1)
        ]

    @property
    def history(self) -> History:
        """Journal id; generations as of the last ``stats`` or new session, head as last known here."""
        return self._history

    def saw_head(self, position: int) -> None:
        """A session has seen the log reach this position."""
        if position > self._history.head_position:
            self._history = History(self._history.journal_id, self._history.generations, position)
        self.head_signal.raise_to(position)

    def saw_generations(self, generations: tuple[Generation, ...], head_position: int) -> None:
        """A session has read these generations of the log."""
        # Another node may have begun one, after a failover say, while this one had nothing to write.
        if generations[-1].id not in {generation.id for generation in self._history.generations}:
            self._history = History(self._history.journal_id, generations, head_position)
            self.head_signal.put_back(head_position)

    def saw_history(self, found: History) -> None:
        """A new session has settled that this is the journal's history."""
        self.saw_generations(found.generations, found.head_position)
        self.saw_head(found.head_position)

    def saw_answer(self, connection: OwnedConnection, before: History, head_position: int) -> None:
        """A session has answered with the log's head, to a question that was sent when ``before`` was known.

        Raises:
            BackhaulError: as ``check_answer``.
        """
        self.check_answer(connection, before, head_position)
        self.saw_head(head_position)

    def check_answer(self, connection: OwnedConnection, before: History, head_position: int) -> None:
        """As ``saw_answer``, for one who tells of the head himself.

        Raises:
            BackhaulError: ``journal.unavailable``: the head is behind what this node has seen, so the session is with
                another server or another log; it is closed, and the next one settles what has happened.
        """
        if is_behind(before, self._history, head_position):
            connection.cut()
            with map_errors(self._group.server.name):
                raise NoWritableServerError(
                    f"the log ends at {head_position}, before {before.head_position}, which this node has seen"
                )

    def append_call(self, requests: Sequence[AppendRequest], *, wants_all: bool) -> AppendCall:
        """``AppendCall.of`` for the writer's session and the history as they are now."""
        generation_id = self._history.generation_id
        return AppendCall.of(requests, self.now_us(), self.entity_no, generation_id=generation_id, wants_all=wants_all)

    @property
    def writer_state(self) -> tuple[int, str]:
        """The writer's session and the log's generation: arguments of an append are made for both."""
        return self._writer_sessions, self._history.generation_id

    def plain_call(self, requests: Sequence[AppendRequest]) -> PlainCall | None:
        """``PlainCall.of``, likewise."""
        return PlainCall.of(requests, self.now_us(), self.entity_no, generation_id=self._history.generation_id)

    async def _new_writer(self, _: asyncpg.Connection) -> None:
        self.entity_no.clear()
        self._writer_sessions += 1

    async def watch_address(self) -> None:
        """Find out in time that the address leads to another server, until cancelled."""
        await self._group.watch_address()

    async def run_hints(self) -> None:
        """Tell other nodes of commits and hear of theirs, until cancelled."""
        await self.hints.run()

    async def aclose(self) -> None:
        """Close every session; bounded."""
        for connection in (
            self.writer,
            *(reader.connection for lane in (self.readers, self.searchers) for reader in lane.readers),
            self.state,
            self.members,
            *(committer.connection for committer in self._projections),
            *self.in_transaction,
        ):
            await connection.aclose()

    async def read(
        self, fn: Callable[Concatenate[asyncpg.Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``fn`` on a reader."""
        async with self.readers.reader() as reader:
            return await reader.connection.run(fn, *args, **kwargs)

    async def open_committers(self) -> None:
        """Open the sessions of projections' commits."""
        for one in self._projections:
            await one.connection.run(_touch)

    def committer(self) -> Committer:
        """A session for a projection's transaction: a free one, if there is one."""
        return next((one for one in self._projections if not one.connection.is_busy), self._projections[0])
