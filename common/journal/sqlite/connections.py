"""The journal's two connections: changes one transaction at a time on the writer, reads on the reader.

The value that the parts of the journal share; what is done on the connections is in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import apsw

from common.core.journal.history import History
from common.journal.fast_lock import FastLock
from common.journal.head_signal import HeadSignal
from common.journal.sqlite.connection import Runner, SqliteFile, coded_errors, transaction
from common.journal.sqlite.entities import EntityNames, EntityRows

P = ParamSpec("P")
T = TypeVar("T")


class SqliteConnections:
    """An open file and the locks of its connections; each piece of work goes through the runner."""

    def __init__(self, file: SqliteFile, run: Runner, history: History, now_us: Callable[[], int]) -> None:
        self.file = file
        self.run = run
        self.now_us = now_us
        self.opened_with = history
        """Journal id, generations and head as of opening."""
        self.entities = EntityRows(file.writer)
        self.names = EntityNames(file.reader)
        self.writer_lock = FastLock()
        self._reader_lock = FastLock()
        self._search_lock = FastLock()
        self.head_signal = HeadSignal(history.head_position)

    async def write(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``fn`` in a transaction that may use the pages kept in reserve."""

        def work() -> T:
            with coded_errors(self.file.path), self.file.reserve(), transaction(self.file.writer):
                return fn(self.file.writer, *args, **kwargs)

        async with self.writer_lock:
            return await self.run(work)

    async def search(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``read``, for reading by a selection: one of these at a time waits for the reader, however many want it.

        So consumers that catch up, thousands at once, hold up each other and nobody else.
        """
        async with self._search_lock:
            return await self.read(fn, *args, **kwargs)

    async def read(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``fn`` on the reader."""

        def work() -> T:
            with coded_errors(self.file.path):
                return fn(self.file.reader, *args, **kwargs)

        async with self._reader_lock:
            return await self.run(work)
