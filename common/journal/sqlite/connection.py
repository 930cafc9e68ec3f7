"""A connection to the journal's SQLite file: checked, durable, capped and migrated; transactions and rows on it.

Blocking calls go through a ``Runner``. Threads and Python's one lock do not go well together: SQLite gives the lock
back around every step of a statement, and a busy event loop may keep it for 5 ms each time. So what is written is
written in few statements of many rows (``insert_rows``), never in one step a row; and a small append is written where
its caller runs, so that only the sync is waited for in a thread (``journal``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar, TypeVarTuple

import apsw
import trio

from common.core.errors import ConfigurationError
from common.fail_points import fail_point
from common.journal.migrations import load_migrations, pending

APPLICATION_ID = int.from_bytes(b"BKHL")
PAGE_BYTES = 4096
WAL_BYTES = 8 * 1024 * 1024
CAP_MIN_BYTES = 1024 * 1024
# Beside the file, given up when the disk has no room at a start (``file``).
RESERVE_FILE_BYTES = 128 * 1024
BUSY_TIMEOUT_MS = 5_000
# A commit that makes room touches a few pages of a dozen tables and indexes; well below what counts as full (core.retention).
_RESERVE_MIN_PAGES = 16
_RESERVE_MAX_PAGES = 256
# A statement's text depends on its number of rows; these many texts are kept prepared.
ROWS_PER_STATEMENT = 64
_STATEMENTS_PREPARED = 400
_NO_LIMIT_PAGES = 4_294_967_294
_INCREMENTAL = 2
# How often SQLite syncs: at every commit, and more carefully while a new file becomes one.
SYNCHRONOUS, SYNCHRONOUS_WHILE_NEW = "FULL", "EXTRA"
_SYNCHRONOUS_LEVELS = {"NORMAL": 1, "FULL": 2, "EXTRA": 3}

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Runner(Protocol):
    """Runs a blocking function and waits for it; a cancellation waits too, so that a commit is never in doubt."""

    def __call__(self, fn: Callable[[*Ts], T], *args: *Ts) -> Awaitable[T]: ...


async def run_inline(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """For simulations and tests: a real thread would make a mock clock jump."""
    await trio.lowlevel.checkpoint()
    return fn(*args)


@dataclass(frozen=True, slots=True)
class Budget:
    """The byte cap in pages: what appends may fill, and what deletes, acks and heads may use beyond.

    The WAL's share is set aside whether it is used or not: a full journal then always counts as nearly ``max_bytes``,
    by which retention knows that room must be made.
    """

    append_pages: int
    all_pages: int
    wal_bytes: int

    @classmethod
    def of(cls, max_bytes: int | None) -> Budget:
        """Split ``max_bytes`` for file and WAL; None = no cap.

        Raises:
            ConfigurationError: ``journal.cap_too_small``.
        """
        if max_bytes is None:
            return cls(_NO_LIMIT_PAGES, _NO_LIMIT_PAGES, WAL_BYTES)
        if max_bytes < CAP_MIN_BYTES:
            raise ConfigurationError(
                "journal.cap_too_small",
                f"a cap of {max_bytes} bytes leaves no room for a journal",
                hint=f"allow at least {CAP_MIN_BYTES} bytes",
            )
        wal_bytes = min(WAL_BYTES, max_bytes // 4)
        all_pages = (max_bytes - wal_bytes - RESERVE_FILE_BYTES) // PAGE_BYTES
        reserve = min(_RESERVE_MAX_PAGES, max(_RESERVE_MIN_PAGES, all_pages // 20))
        return cls(all_pages - reserve, all_pages, wal_bytes)

    @property
    def is_capped(self) -> bool:
        """Whether there is a cap."""
        return self.all_pages != _NO_LIMIT_PAGES


def not_a_journal(path: Path, why: str) -> ConfigurationError:
    """``journal.not_a_journal``, whatever ``why`` says of the file."""
    return ConfigurationError(
        "journal.not_a_journal",
        f"{str(path)!r} {why}",
        hint="give the path of a journal, or one where no file is yet",
    )


def connect(
    path: Path, budget: Budget, *, vfs: str | None, now_us: Callable[[], int]
) -> tuple[apsw.Connection, apsw.Connection]:
    """The writer, which has checked and migrated the file, and the reader. The caller holds the file's lock.

    Raises what SQLite raises, and ConfigurationError as ``file.open_file``.
    """
    opened: list[apsw.Connection] = []
    try:
        writer = apsw.Connection(str(path), vfs=vfs, statementcachesize=_STATEMENTS_PREPARED)
        opened.append(writer)
        _check_ours(writer, path)
        _make_durable(writer, path)
        _take_over_wal(writer)
        _migrate(writer, now_us)
        # It is taken over when half its share is full: the transaction that does it may be a large one.
        writer.execute(f"PRAGMA wal_autocheckpoint = {budget.wal_bytes // PAGE_BYTES // 2}")
        writer.execute(f"PRAGMA journal_size_limit = {budget.wal_bytes}")
        writer.execute("PRAGMA cache_size = -8192")
        # A statement of many rows keeps the pages it changes, to undo it alone: in a file once they are 16, unless set otherwise.
        writer.execute("PRAGMA temp_store = MEMORY")
        writer.execute(f"PRAGMA max_page_count = {budget.append_pages}")
        reader = apsw.Connection(str(path), vfs=vfs)
        opened.append(reader)
        for connection in opened:
            # Nobody else should be here, but an operator may look in with the sqlite3 shell.
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        reader.execute("PRAGMA query_only = 1")
    except BaseException:
        for connection in reversed(opened):
            connection.close()
        raise
    return writer, reader


def _check_ours(writer: apsw.Connection, path: Path) -> None:
    """Refuse what is not ours before anything is written to it."""
    try:
        application_id = writer.execute("PRAGMA application_id").get
        tables = writer.execute("SELECT count(*) FROM sqlite_schema").get
    except apsw.NotADBError as error:
        raise not_a_journal(path, "is not an SQLite database") from error
    if application_id != APPLICATION_ID and (application_id or tables):
        raise not_a_journal(path, "is the database of another program")


def _make_durable(writer: apsw.Connection, path: Path) -> None:
    """WAL with a sync at every commit.

    A new file is switched to WAL under EXTRA: otherwise a power cut may bring the deleted rollback journal of the
    switch back.
    """
    if not writer.execute("SELECT count(*) FROM sqlite_schema").get:
        _set_synchronous(writer, path, SYNCHRONOUS_WHILE_NEW)
        writer.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _set(writer, path, "journal_mode", "WAL", "wal")
        if writer.execute("PRAGMA auto_vacuum").get != _INCREMENTAL:
            writer.execute("VACUUM")  # an earlier start was cut between creating the file and its first table
    _expect(path, "journal_mode", writer.execute("PRAGMA journal_mode").get, "wal")
    _expect(path, "auto_vacuum", writer.execute("PRAGMA auto_vacuum").get, _INCREMENTAL)
    _set_synchronous(writer, path, SYNCHRONOUS)


def _set_synchronous(writer: apsw.Connection, path: Path, level: str) -> None:
    _set(writer, path, "synchronous", level, _SYNCHRONOUS_LEVELS[level])


def _set(writer: apsw.Connection, path: Path, name: str, value: str, expected: int | str) -> None:
    writer.execute(f"PRAGMA {name} = {value}").fetchall()
    _expect(path, name, writer.execute(f"PRAGMA {name}").get, expected)


def _expect(path: Path, name: str, got: object, expected: int | str) -> None:
    if got != expected:
        raise ConfigurationError(
            "journal.not_durable",
            f"SQLite answers {name} = {got!r} for {str(path)!r}, not {expected!r}",
            hint="keep the journal on a local file system that SQLite's write-ahead log works on",
        )


def _take_over_wal(writer: apsw.Connection) -> None:
    """Bring what the WAL holds into the file, with syncs, before anything is built on it.

    A commit whose sync failed may be found in the WAL: read from memory, and never on the disk, since the kernel reports
    a failed write once. Everything behind it in the WAL would be lost with it at a power cut.
    """
    with suppress(apsw.FullError):  # the file cannot grow now: what was synced stays in the WAL
        writer.execute("PRAGMA wal_checkpoint(FULL)").fetchall()


def _migrate(writer: apsw.Connection, now_us: Callable[[], int]) -> None:
    applied: Sequence[int] = ()
    if writer.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'schema_version'").get:
        applied = [version for (version,) in select(writer, "SELECT version FROM schema_version")]
    for step in pending(load_migrations("sqlite"), applied):
        with transaction(writer):
            writer.execute(step.sql)
            writer.execute("INSERT INTO schema_version VALUES (?, ?, ?)", (step.version, step.name, now_us()))
            fail_point("migration.in_transaction")


@contextmanager
def transaction(writer: apsw.Connection) -> Iterator[None]:
    """All or nothing, synced when it returns; takes the write lock first, so it never fails half way for want of it."""
    writer.execute("BEGIN IMMEDIATE")
    try:
        yield
        writer.execute("COMMIT")
    except BaseException:
        roll_back(writer)
        raise


def cut(joined: bytes | None, lengths: list[int]) -> list[bytes]:
    """Values of these lengths that were read one behind the other."""
    ends = list(accumulate(lengths, initial=0))
    return [joined[start:end] for start, end in pairwise(ends)] if joined else [b""] * len(lengths)


def roll_back(writer: apsw.Connection) -> None:
    """Leave a transaction that failed."""
    if writer.in_transaction:  # SQLite itself rolls back after some errors
        with suppress(apsw.Error):
            writer.execute("ROLLBACK")


def begin_at_once(writer: apsw.Connection) -> bool:
    """Begin a transaction, unless another connection writes now: then it would have to be waited for."""
    writer.set_busy_timeout(0)
    try:
        writer.execute("BEGIN IMMEDIATE")
    except apsw.BusyError:
        return False
    finally:
        writer.set_busy_timeout(BUSY_TIMEOUT_MS)
    return True


@contextmanager
def snapshot(reader: apsw.Connection) -> Iterator[None]:
    """Several queries on one state of the database."""
    reader.execute("BEGIN")
    try:
        yield
    finally:
        reader.execute("ROLLBACK")


def select(connection: apsw.Connection, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query of ours: its columns' types are those of STRICT tables."""
    rows: list[tuple[Any, ...]] = connection.execute(sql, args).fetchall()
    return rows


def head_position(connection: apsw.Connection) -> int:
    """The position of the last event ever stored."""
    position: int = connection.execute("SELECT head_position FROM journal").get
    return position


def insert_rows(
    writer: apsw.Connection, table: str, width: int, columns: Iterable[Iterable[Any]], tail: str = ""
) -> None:
    """Insert rows given as ``width`` columns, many rows a statement; ``tail`` is an upsert clause or ''."""
    rows = zip(*columns, strict=True)
    while values := list(chain.from_iterable(islice(rows, ROWS_PER_STATEMENT))):
        writer.execute(_insert(table, width, len(values) // width, tail), values)


@lru_cache(_STATEMENTS_PREPARED)
def _insert(table: str, width: int, rows: int, tail: str) -> str:
    row = f"({','.join('?' * width)})"
    return f"INSERT INTO {table} VALUES {','.join([row] * rows)} {tail}"
