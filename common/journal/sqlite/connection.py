"""The SQLite file itself: who may open it, how durable and how big it is, and what its errors are called.

Blocking calls go through a ``Runner``. Threads and Python's one lock do not go well together: SQLite gives the lock
back around every step of a statement, and a busy event loop may keep it for 5 ms each time. So what is written is
written in few statements of many rows (``insert_rows``), never in one step a row; and a small append is written where
its caller runs, so that only the sync is waited for in a thread (``journal``).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, TypeVarTuple

import apsw
import trio

from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.fail_points import fail_point
from common.journal.migrations import load_migrations, pending
from common.private_files import open_private

APPLICATION_ID = int.from_bytes(b"BKHL")
PAGE_BYTES = 4096
WAL_BYTES = 8 * 1024 * 1024
CAP_MIN_BYTES = 1024 * 1024
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
        all_pages = (max_bytes - wal_bytes) // PAGE_BYTES
        reserve = min(_RESERVE_MAX_PAGES, max(_RESERVE_MIN_PAGES, all_pages // 20))
        return cls(all_pages - reserve, all_pages, wal_bytes)

    @property
    def is_capped(self) -> bool:
        """Whether there is a cap."""
        return self.all_pages != _NO_LIMIT_PAGES


@dataclass(slots=True)
class SqliteFile:
    """An open journal file: its one writer, its one reader and the lock that keeps other processes out."""

    path: Path
    writer: apsw.Connection
    reader: apsw.Connection
    budget: Budget
    _lock: int

    def close(self) -> None:
        """Close both connections (the last one checkpoints the WAL), then give up the lock."""
        for connection in (self.reader, self.writer):
            with suppress(apsw.IOError, apsw.FullError):  # what could not be checkpointed is in the WAL next time
                connection.close()
        os.close(self._lock)

    def used_bytes(self) -> tuple[int, int]:
        """Bytes that count against the cap (pages in use, and the WAL or its share), and those of the WAL alone.

        Runs in the reader's thread.
        """
        pages = self.reader.execute("PRAGMA page_count").get - self.reader.execute("PRAGMA freelist_count").get
        try:
            wal_bytes = os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            wal_bytes = 0
        share = self.budget.wal_bytes if self.budget.is_capped else 0
        return pages * PAGE_BYTES + max(wal_bytes, share), wal_bytes

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """Let the writer use the pages kept back for what makes room again."""
        if not self.budget.is_capped:
            yield
            return
        self.writer.execute(f"PRAGMA max_page_count = {self.budget.all_pages}")
        try:
            yield
        finally:
            self.writer.execute(f"PRAGMA max_page_count = {self.budget.append_pages}")


def open_file(path: Path, *, max_bytes: int | None, vfs: str | None, now_us: Callable[[], int]) -> SqliteFile:
    """Lock, check, open and migrate the file, creating it when it is missing.

    Raises:
        ConfigurationError: ``journal.in_use``, ``journal.no_directory``, ``journal.not_writable``,
            ``journal.not_a_journal``, ``journal.schema_newer``, ``journal.not_durable``, ``journal.cap_too_small``.
        BackhaulError: ``journal.full``, ``journal.broken``, ``journal.unavailable``.
    """
    budget = Budget.of(max_bytes)
    lock = _lock(path)
    opened: list[apsw.Connection] = []
    try:
        with coded_errors(path):
            writer = apsw.Connection(str(path), vfs=vfs, statementcachesize=_STATEMENTS_PREPARED)
            opened.append(writer)
            _check_ours(writer, path)
            _make_durable(writer, path)
            _migrate(writer, now_us)
            # It is taken over when half its share is full: the transaction that does it may be a large one.
            writer.execute(f"PRAGMA wal_autocheckpoint = {budget.wal_bytes // PAGE_BYTES // 2}")
            writer.execute(f"PRAGMA journal_size_limit = {budget.wal_bytes}")
            writer.execute("PRAGMA cache_size = -8192")
            # A statement of many rows keeps the pages it changes, to undo it alone: in a file once they are 16, unless told.
            writer.execute("PRAGMA temp_store = MEMORY")
            writer.execute(f"PRAGMA max_page_count = {budget.append_pages}")
            reader = apsw.Connection(str(path), vfs=vfs)
            opened.append(reader)
            for connection in opened:
                # Nobody else should be here, but an operator may look in with the sqlite3 shell.
                connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            reader.execute("PRAGMA query_only = 1")
            return SqliteFile(path, writer, reader, budget, lock)
    except BaseException:
        for connection in reversed(opened):
            connection.close()
        os.close(lock)
        raise


def _lock(path: Path) -> int:
    """The descriptor that holds ``<path>.lock``. The file stays: removing it would let two processes lock two files."""
    if not path.parent.is_dir():
        raise ConfigurationError(
            "journal.no_directory",
            f"the journal's directory {str(path.parent)!r} does not exist",
            hint="create it, or mount the volume there",
        )
    if path.is_dir():
        raise _not_a_journal(path, "is a directory")
    try:
        lock = open_private(Path(f"{path}.lock"), is_new=False)
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # SQLite would make it by the umask, and gives its companion files the file's own mode.
        is_there = path.exists()
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC) if is_there else open_private(path, is_new=True))
    except BlockingIOError as error:
        os.close(lock)
        raise ConfigurationError(
            "journal.in_use",
            f"another process has the journal {str(path)!r} open",
            hint="stop it, or give this service a file of its own",
        ) from error
    except OSError as error:
        os.close(lock)
        raise _not_writable(path, error) from error
    return lock


def _not_writable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        "journal.not_writable",
        f"cannot write the journal {str(path)!r}: {error.strerror}",
        hint="let the service's user read and write the file and its directory",
    )


def _not_a_journal(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        "journal.not_a_journal",
        f"{str(path)!r} {why}",
        hint="give the path of a journal, or one where no file is yet",
    )


def _check_ours(writer: apsw.Connection, path: Path) -> None:
    """Refuse what is not ours before anything is written to it."""
    try:
        application_id = writer.execute("PRAGMA application_id").get
        tables = writer.execute("SELECT count(*) FROM sqlite_schema").get
    except apsw.NotADBError as error:
        raise _not_a_journal(path, "is not an SQLite database") from error
    if application_id != APPLICATION_ID and (application_id or tables):
        raise _not_a_journal(path, "is the database of another program")


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


def roll_back(writer: apsw.Connection) -> None:
    """Leave a transaction that failed."""
    if writer.in_transaction:  # SQLite itself rolls back after some errors
        with suppress(apsw.Error):
            writer.execute("ROLLBACK")


def begin_at_once(writer: apsw.Connection) -> bool:
    """Begin a transaction, unless somebody else writes now: then it would have to be waited for."""
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


@contextmanager
def coded_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except apsw.Error as error:
        raise coded_error(error, path) from error


def coded_error(error: apsw.Error, path: Path) -> BackhaulError:
    """What an error of SQLite means for whoever uses the journal."""
    told = f"{path.name}: {type(error).__name__}: {error}"
    if isinstance(error, apsw.FullError):
        return BackhaulError(
            "journal.full",
            f"no room in {told}",
            hint="events leave when they are acknowledged and old enough; raise the cap or free disk space",
            kind=ErrorKind.FULL,
        )
    if isinstance(
        error,
        apsw.IOError | apsw.BusyError | apsw.LockedError | apsw.CantOpenError | apsw.ReadOnlyError | apsw.NoMemError,
    ):
        return BackhaulError(
            "journal.unavailable",
            f"cannot read or write {told}",
            hint="look at the disk and its file system; nothing acknowledged is lost",
            retry_after_s=1.0,
        )
    return BackhaulError(
        "journal.broken",
        f"cannot use {told}",
        hint="keep a copy of the file; check it with sqlite3's PRAGMA integrity_check",
        kind=ErrorKind.INTERNAL,
    )


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
