"""What ranges of projections need before their first page, read once for all that begin together.

After a node joined or died many ranges begin in the same moment, and each alone would ask the same few questions while the
log is not followed. Tables are made once for all ranges of a process, before any of them is given to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from common.core.errors import BackhaulError
from common.core.members.assignment import RangeKey
from common.journal.stores.journal import Journal
from common.journal.stores.log import JournalStats
from common.journal.stores.projections import ProjectionLease
from common.projection import parking, skips
from common.projection.beginning import covered
from common.projection.handlers import Handler, OnFailure

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Round(Generic[T]):
    """Callers that are answered by one read."""

    answer: T | None = None
    error: BackhaulError | None = None
    is_over: bool = False


class SharedRead(Generic[T]):
    """One read at a time, for all that asked before it began; what is read is never older than the question."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._lock = trio.Lock()
        self._next: _Round[T] = _Round()

    async def ask(self) -> T:
        """The answer of the next read that begins. Raises what the read raises, to all that it was for."""
        mine = self._next
        async with self._lock:
            # Cancelled, it is not over: the next of the same round reads.
            if not mine.is_over:
                if self._next is mine:
                    self._next = _Round()
                try:
                    mine.answer = await self._read()
                except BackhaulError as error:
                    mine.error = error
                mine.is_over = True
        if mine.error is not None:
            raise mine.error
        assert mine.answer is not None
        return mine.answer


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """``stats`` of the log, and by projection the positions of events that operators have decided to leave out."""

    stats: JournalStats
    decided: Mapping[str, Sequence[int]]


class RangeStart:
    """One for all ranges of a node."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._reads = SharedRead(self._read)
        self._lock = trio.Lock()
        self._with_tables: set[str] = set()
        self._ahead: dict[RangeKey, tuple[int, StartingPoint]] = {}

    async def make_tables(self, handler: Handler) -> None:
        """See that the projection has its tables; asked again, once they were there, it costs nothing.

        Raises:
            BackhaulError: what the store raises.
        """
        if handler.name in self._with_tables:
            return
        store = self._journal.projections
        async with self._lock:
            if not self._with_tables:
                await store.warm_up()
            await store.migrate(handler.name, handler.migrations)
            if not self._with_tables:
                await skips.make_tables(store)
                await covered.make_tables(store)
            if handler.on_failure is OnFailure.PARK:
                await parking.make_tables(store)
            self._with_tables.add(handler.name)

    async def read(self, lease: ProjectionLease) -> StartingPoint:
        """For a range whose lease is ours: what was read ahead, else as it is now. Raises what the journal raises."""
        epoch, point = self._ahead.pop((lease.name, lease.slices), (0, None))
        if point is not None and epoch == lease.epoch - 1:
            return point
        return await self._reads.ask()

    async def read_ahead(self, epochs: Mapping[RangeKey, int]) -> None:
        """For ranges of other nodes, which may come at any time, with their present epochs; once for each epoch.

        It holds for the epoch that follows, if that is the one in which the range comes: whatever operators decide, and a
        new generation, raise the epoch as well. Raises what the journal raises.
        """
        self._ahead = {key: found for key, found in self._ahead.items() if key in epochs}
        unread = {key: epoch for key, epoch in epochs.items() if self._ahead.get(key, (0,))[0] != epoch}
        if unread and self._with_tables:
            point = await self._reads.ask()
            self._ahead.update({key: (epoch, point) for key, epoch in unread.items()})

    async def _read(self) -> StartingPoint:
        return StartingPoint(await self._journal.log.stats(), await skips.all_decided(self._journal.projections))
