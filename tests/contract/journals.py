"""The storages that the journal contract is about, each as a place where journals can be opened again and again.

A storage that cannot be had fails the test: nothing here skips.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import trio

from common import border
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.postgres import open_postgres_journal
from common.journal.sqlite import open_sqlite_journal
from common.journal.stores.journal import Journal
from tests.support.builders import SettableClock, ids


class Storage(Protocol):
    """What outlives a service. ``shared`` says whether several journals may be open on it at once."""

    clock: SettableClock
    shared: bool

    def open(self) -> AbstractAsyncContextManager[Journal]:
        """Open a journal on it, as a service (or node) that starts does."""

    async def pass_time(self, seconds: float) -> None:
        """Let leases of up to ``seconds`` run out."""


class MemoryStorage:
    """``MemoryDatabase``, with a commit that takes no time."""

    shared = True

    def __init__(self) -> None:
        self.clock = SettableClock()
        self.database = MemoryDatabase()
        self._ids = ids("memory")

    def open(self) -> AbstractAsyncContextManager[Journal]:
        return open_memory_journal(self.database, now_us=self.clock, new_id=self._ids.__next__)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


class SqliteStorage:
    """A file in a directory of the test's own, with the threads a service uses."""

    shared = False

    def __init__(self, directory: Path) -> None:
        self.clock = SettableClock()
        self.path = directory / "journal.db"
        self._ids = ids("sqlite")

    def open(self) -> AbstractAsyncContextManager[Journal]:
        return open_sqlite_journal(self.path, now_us=self.clock, new_id=self._ids.__next__)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


class PostgresStorage:
    """A database of the test's own on a server that syncs. Lease time is the database's, so time really passes."""

    shared = True

    def __init__(self, url: str) -> None:
        self.clock = SettableClock()
        self.url = url
        self._ids = ids("postgres")

    def open(self) -> AbstractAsyncContextManager[Journal]:
        return open_postgres_journal(self.url, now_us=self.clock, new_id=self._ids.__next__)

    async def pass_time(self, seconds: float) -> None:
        await trio.sleep(seconds)


@asynccontextmanager
async def open_storage(name: str, directory: Path, postgres_url: str) -> AsyncIterator[Storage]:
    """The storage called ``name``."""
    match name:
        case "memory":
            yield MemoryStorage()
        case "sqlite":
            yield SqliteStorage(directory)
        case "postgres":
            async with border.open_loop():
                yield PostgresStorage(postgres_url)
        case _:
            raise ValueError(name)
