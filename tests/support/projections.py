"""What the tests of projections share: events to store, the tally a log must give, a journal that can be staged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import trio

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch, new_events
from common.core.events.ids import ALL_SLICES, SliceRange
from common.core.filters.selection import EVERYTHING, Selection
from common.core.journal.append import Appended, LocalAppend
from common.core.journal.statement import Statement
from common.firehose.firehose import Firehose
from common.firehose.settings import FirehoseSettings
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.journal import compose
from common.journal.memory.log import MemoryLog
from common.journal.memory.projections import MemoryProjections
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogPage
from common.journal.stores.projections import ProjectionLease
from common.projection.handler_executor import ThreadExecutor, call_inline
from common.projection.handler_invoker import Decode, undecoded
from common.projection.handlers import Handler
from common.projection.progress import ProjectionProgress, ProjectionSettings
from common.projection.projection import run_projections
from common.projection.tally import TALLY, Tally, fold_all, tally_statements
from common.transport.codec.events import encode_batch
from common.watchdog import Watchdog

SMALL_PAGES = ProjectionSettings(page_max_events=10)
UNAVAILABLE = BackhaulError("journal.unavailable", "cut", retry_after_s=0.1)


async def store(journal: Journal, random: Random, n: int, *, entities: int = 7) -> None:
    """Append ``n`` events of some of ``entities`` entities, mixed."""
    ids = [f"Sensor|edge-{random.randrange(entities)}" for _ in range(n)]
    payloads = [random.randbytes(random.randrange(20)) for _ in range(n)]
    [stored] = await journal.log.append_group([LocalAppend(new_events(ids, ["Measured"] * n, payloads))])
    assert isinstance(stored, Appended)


async def log_of(journal: Journal) -> EventBatch:
    """All stored events."""
    return (await journal.log.read(0, max_events=1_000_000, max_bytes=1 << 40)).events


async def expected_tallies(journal: Journal) -> Mapping[str, Tally]:
    """What ``tally`` must say of the whole log."""
    return fold_all([await log_of(journal)])


class Commits:
    """Counts the events that took effect, over any number of runs; an ``on_commit``."""

    def __init__(self) -> None:
        self.events = 0
        self.pages = 0
        self._more = trio.lowlevel.ParkingLot()

    def __call__(self, _progress: ProjectionProgress, events: EventBatch) -> None:
        self.events += len(events)
        self.pages += 1
        self._more.unpark_all()

    async def reach(self, events: int) -> None:
        """Wait until that many events took effect."""
        while self.events < events:
            await self._more.park()


async def until(condition: Callable[[], bool], at_most_s: float = 60.0) -> None:
    """Wait, in real time, for something that other tasks bring about."""
    with trio.fail_after(at_most_s):
        while True:
            if condition():
                return
            await trio.sleep(0.01)


def clock_us() -> int:
    """UTC microseconds that follow trio's clock, so that the two cannot part under a mock clock."""
    return 1_700_000_000_000_000 + round(trio.current_time() * 1e6)


@asynccontextmanager
async def running(
    journal: Journal,
    *handlers: Handler,
    owner: str = "node-a",
    settings: ProjectionSettings | None = None,
    commits: Commits | None = None,
    seed: int = 1,
    decode: Decode = undecoded,
    in_threads: bool = False,
    watchdog: Watchdog | None = None,
    block_events: int = 2_000,
) -> AsyncIterator[list[ProjectionProgress]]:
    """Projections (``tally`` if none is named) that run until the block is left.

    ``in_threads`` calls their functions as a service does, which a mock clock would not wait for.
    """
    poll_s = (settings or ProjectionSettings()).poll_s
    firehose = Firehose(journal, encode_batch, FirehoseSettings(poll_s=poll_s, block_events=block_events))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(firehose.run)

        async def run(task_status: trio.TaskStatus[list[ProjectionProgress]]) -> None:
            await run_projections(
                journal,
                firehose,
                handlers or (TALLY,),
                owner=owner,
                settings=settings or ProjectionSettings(),
                now_us=clock_us,
                random=Random(seed),
                on_commit=commits,
                decode=decode,
                plain_calls=ThreadExecutor if in_threads else lambda: call_inline,
                watchdog=watchdog,
                task_status=task_status,
            )

        progress: list[ProjectionProgress] = await nursery.start(run)
        yield progress
        nursery.cancel_scope.cancel()


class Mendable:
    """A tally that cannot digest event number ``seq_nr`` of one entity until it is mended."""

    def __init__(self, persistence_id: str, seq_nr: int, *, bad_sql: bool) -> None:
        self._bad = (persistence_id, seq_nr)
        self._bad_sql = bad_sql
        self.is_mended = False
        self.was_met_alone = trio.Event()
        self.handler = replace(TALLY, name="mendable", statements=self._statements)

    def _statements(self, batch: EventBatch) -> Sequence[Statement]:
        if self._bad in zip(batch.persistence_id, batch.seq_nr, strict=True) and not self.is_mended:
            if len(batch) == 1:
                self.was_met_alone.set()
            if self._bad_sql:
                return [*tally_statements(batch), Statement("INSERT INTO nowhere VALUES (1)")]
            raise ZeroDivisionError("secret payload")
        return tally_statements(batch)


class Stage:
    """What one node of several is made to do: to stop, to fail, or to stay silent; and what it did."""

    def __init__(self) -> None:
        self.reads = 0
        self.commits: list[int] = []
        self.before_commit: Callable[[], Awaitable[None]] | None = None
        self.after_commit: Callable[[], Awaitable[None]] | None = None
        self.before_read: Callable[[], Awaitable[None]] | None = None
        self.is_cut_off = False


class _StagedLog(MemoryLog):
    def __init__(self, connections: MemoryConnections, stage: Stage) -> None:
        super().__init__(connections)
        self._stage = stage

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
        self._stage.reads += 1
        if self._stage.before_read is not None:
            await self._stage.before_read()
        return await super().read(
            after, through=through, max_events=max_events, max_bytes=max_bytes, slices=slices, selection=selection
        )


class _StagedProjections(MemoryProjections):
    def __init__(self, connections: MemoryConnections, stage: Stage) -> None:
        super().__init__(connections)
        self._stage = stage

    async def commit(
        self, lease: ProjectionLease, position: int, statements: Sequence[Statement], lease_s: float
    ) -> ProjectionLease:
        if self._stage.before_commit is not None:
            await self._stage.before_commit()
        following = await super().commit(lease, position, statements, lease_s)
        self._stage.commits.append(position)
        if self._stage.after_commit is not None:
            await self._stage.after_commit()
        return following

    async def release(self, lease: ProjectionLease) -> None:
        if self._stage.is_cut_off:
            raise UNAVAILABLE
        await super().release(lease)


@dataclass(frozen=True)
class StagedJournal(Journal):
    """A memory journal with a stage; made by ``staged_journal``."""

    stage: Stage
    database: MemoryDatabase


def staged_journal(database: MemoryDatabase | None = None, *, commit_s: float = 0.0) -> StagedJournal:
    """One node's journal on a database that several may share."""
    stage, database = Stage(), database or MemoryDatabase()
    connections = MemoryConnections(database, clock_us, commit_s)
    database.head_signals.append(connections.head_signal)
    parts = {
        **vars(compose(connections)),
        "log": _StagedLog(connections, stage),
        "projections": _StagedProjections(connections, stage),
    }
    return StagedJournal(**parts, stage=stage, database=database)


def logged(lines: Sequence[Any], event: str) -> list[Any]:
    """The captured lines of one event."""
    return [line for line in lines if line["event"] == event]
