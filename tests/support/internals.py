"""What tests need of a storage and its journal does not show: the file, the sessions, the database in memory."""

from __future__ import annotations

from common.journal.memory.log import MemoryLog
from common.journal.memory.state import MemoryDatabase
from common.journal.postgres.log import PostgresLog
from common.journal.postgres.sessions import PostgresSessions
from common.journal.sqlite.file import SqliteFile
from common.journal.sqlite.log import SqliteLog
from common.journal.stores.journal import Journal


def sqlite_file(journal: Journal) -> SqliteFile:
    """The open file of a journal in SQLite."""
    assert isinstance(journal.log, SqliteLog)
    return journal.log._connections.file


def postgres_sessions(journal: Journal) -> PostgresSessions:
    """The sessions of a journal in PostgreSQL."""
    assert isinstance(journal.log, PostgresLog)
    return journal.log._sessions


def memory_database(journal: Journal) -> MemoryDatabase:
    """The database of a journal in memory."""
    assert isinstance(journal.log, MemoryLog)
    return journal.log._connections.database
