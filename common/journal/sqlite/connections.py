"""The journal's two connections: changes one transaction at a time on the writer, reads on the reader.

The value that the parts of the journal share; what is done on the connections is in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Concatenate, ParamSpec, TypeVar

import apsw
import structlog

from common.core.errors import BackhaulError
from common.core.journal.history import Generation, History
from common.journal.change_signal import ChangeSignal
from common.journal.fast_lock import FastLock
from common.journal.head_signal import HeadSignal
from common.journal.sqlite.connection import Runner, transaction
from common.journal.sqlite.entities import EntityNames, EntityRows
from common.journal.sqlite.file import SqliteFile

_log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")


class SqliteConnections:
    """An open file and the locks of its connections; each piece of work goes through the runner.

    ``unstored`` is the generation that this process has begun and the full disk did not take at the start. It is stored
    before the first event: until then the log is the one that its older generations name, in every copy of the file.
    """

    def __init__(
        self, file: SqliteFile, run: Runner, history: History, now_us: Callable[[], int], *, is_stored: bool = True
    ) -> None:
        self.file = file
        self.run = run
        self.place_key: str = file.reader.execute("SELECT key FROM place_key").get
        self.now_us = now_us
        self._opened_with = history
        self._unstored = None if is_stored else history.generations
        self.entities = EntityRows(file.writer)
        self.names = EntityNames(file.reader)
        self.writer_lock = FastLock()
        self._reader_lock = FastLock()
        self._search_lock = FastLock()
        self.head_signal = HeadSignal(history.head_position)
        self.members_changed = ChangeSignal()

    @property
    def history(self) -> History:
        """Journal id and generations as of opening, head as last known here."""
        return History(self._opened_with.journal_id, self._opened_with.generations, self.head_signal.position)

    async def make_ready(self) -> None:
        """Before events are stored; the caller has the writer's lock.

        Raises:
            BackhaulError: ``journal.io_error``, ``journal.disk_full``.
        """
        if self.file.is_suspect:
            await self._renew()
        if self._unstored:

            def work() -> None:
                with self.file.coded_errors(), self.file.reserve(), transaction(self.file.writer):
                    self._store_generation(self.file.writer)

            await self.run(work)
            self._unstored = None

    def _store_generation(self, writer: apsw.Connection) -> None:
        if self._unstored:
            store_generations(writer, self._unstored, self._opened_with.head_position)

    async def _renew(self) -> None:
        async with self._reader_lock:
            if not self.file.is_suspect:  # another task has
                return
            head = await self.run(self.file.renew, self._opened_with.journal_id, self.head_signal.position)
            self.entities.use(self.file.writer)
            self.names.use(self.file.reader)
        _log.warning("journal.reopened", head=head)
        self.head_signal.raise_to(head)

    async def write(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``fn`` in a transaction that may use the pages kept in reserve.

        When the disk is full, what the WAL holds is taken over into the file and the WAL begun anew: what makes room
        needs no more of the disk then.
        """

        def attempt() -> T:
            with self.file.coded_errors(), self.file.reserve(), transaction(self.file.writer):
                self._store_generation(self.file.writer)
                return fn(self.file.writer, *args, **kwargs)

        def work() -> T:
            try:
                return attempt()
            except BackhaulError as error:
                if error.code != "journal.disk_full":
                    raise
            with suppress(apsw.Error):
                self.file.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            return attempt()

        async with self.writer_lock:
            if self.file.is_suspect:
                await self._renew()
            result = await self.run(work)
            self._unstored = None
            return result

    async def search(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``read``, for reading by a selection: one of these at a time waits for the reader, however many want it.

        So consumers that catch up, thousands at once, hold up each other and nobody else.
        """
        async with self._search_lock:
            return await self.read(fn, *args, **kwargs)

    async def read(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``fn`` on the reader."""

        def work() -> T:
            with self.file.coded_errors():
                return fn(self.file.reader, *args, **kwargs)

        if self.file.is_suspect:
            async with self.writer_lock:
                if self.file.is_suspect:
                    await self._renew()
        async with self._reader_lock:
            return await self.run(work)


def store_generations(writer: apsw.Connection, generations: Sequence[Generation], head_position: int) -> None:
    """Store the newest of ``generations``, and forget those that are not among them; the caller holds the transaction."""
    newest = generations[-1]
    writer.execute(
        "DELETE FROM generation WHERE first_position NOT BETWEEN ? AND ?",
        (generations[0].first_position, head_position),
    )
    writer.execute("INSERT INTO generation VALUES (?, ?)", (newest.first_position, newest.id))
