"""Who may use the journal's two connections when: changes one transaction at a time on the writer, reads on the reader.

What the parts of ``SqliteJournal`` stand on; what is done in a turn is in the modules beside this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import apsw

from common.core.journal.history import History
from common.journal.commit_feed import CommitFeed
from common.journal.fast_lock import FastLock
from common.journal.head_signal import HeadSignal
from common.journal.snapshot_watermark import SnapshotWatermark
from common.journal.sqlite.connection import Runner, SqliteFile, coded_errors, transaction
from common.journal.sqlite.entities import EntityNames, EntityRows

P = ParamSpec("P")
T = TypeVar("T")


class SqliteConnections:
    """An open file and the turns on its connections, each piece of work through the runner."""

    def __init__(self, file: SqliteFile, run: Runner, history: History, now_us: Callable[[], int]) -> None:
        self._file = file
        self._run = run
        self._now_us = now_us
        self._history = history
        self._entities = EntityRows(file.writer)
        self._names = EntityNames(file.reader)
        self._covered = SnapshotWatermark()
        self._writer_lock = FastLock()
        self._reader_lock = FastLock()
        self._search_lock = FastLock()
        self.head_signal = HeadSignal(history.head_position)
        self.feed = CommitFeed()
        self.read_counts: Counter[str] = Counter()

    @property
    def history(self) -> History:
        """Journal id and generations as of opening, head as last known here."""
        return History(self._history.journal_id, self._history.generations, self.head_signal.position)

    async def _write(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``fn`` in a transaction that may use the pages kept in reserve."""

        def work() -> T:
            with coded_errors(self._file.path), self._file.reserve(), transaction(self._file.writer):
                return fn(self._file.writer, *args, **kwargs)

        async with self._writer_lock:
            return await self._run(work)

    async def _search(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``_read``, for reading by a selection: one of these at a time waits for the reader, however many want it.

        So consumers that catch up, thousands at once, hold up each other and nobody else.
        """
        async with self._search_lock:
            return await self._read(fn, *args, **kwargs)

    async def _read(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        def work() -> T:
            with coded_errors(self._file.path):
                return fn(self._file.reader, *args, **kwargs)

        async with self._reader_lock:
            return await self._run(work)
