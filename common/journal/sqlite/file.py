"""The journal's file while it is open: who may open it, what is kept back for a full disk, what a failing medium does.

A file is locked by ``<path>.lock``, which stays when it is closed. Beside it lies ``<path>.reserve``, some disk space that
is given up when the disk has no room at a start: the index of the WAL and the first commit need a little. It is made again
when there is room. Where it is gone, too, the index is kept in memory, so that what is stored is read all the same.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import apsw

from common.core.errors import BackhaulError, ConfigurationError
from common.journal.sqlite.connection import (
    PAGE_BYTES,
    RESERVE_FILE_BYTES,
    Budget,
    connect,
    not_a_journal,
    transaction,
)
from common.journal.sqlite.errors import (
    DISK_ROOM_BYTES,
    cap_reached,
    coded_error,
    disk_full,
    disk_full_at,
    free_bytes,
    io_error,
    is_damage,
    is_of_medium,
)
from common.private_files import open_private

# An append needs its events twice (log and indexes are split pages), and some pages for heads.
_PROBE_FACTOR, _PROBE_PAGES = 2, 8
# SQLite's own file layer with the WAL's index on the heap, shared by this process's connections; others are locked out.
_INDEX_IN_MEMORY = "unix-excl"


@dataclass(slots=True)
class SqliteFile:
    """An open journal file: its one writer, its one reader and the lock that keeps other processes out."""

    path: Path
    budget: Budget
    lock: int
    vfs: str | None
    now_us: Callable[[], int]
    writer: apsw.Connection = field(init=False)
    reader: apsw.Connection = field(init=False)
    is_suspect: bool = False
    """Whether an error of the medium leaves the connections' state unknown: ``renew`` before the next use."""
    may_reread: bool = False
    """Whether damage is looked at again before it is believed; once, and not while the file is being opened."""

    def connect(self) -> None:
        """Open both connections. Raises as ``open_file``."""
        with self.coded_errors():
            self.writer, self.reader = connect(self.path, self.budget, vfs=self.vfs, now_us=self.now_us)

    def keep_index_in_memory(self) -> None:
        """For the next ``connect``: the WAL's index takes no room on the disk then."""
        self.vfs = self.vfs or _INDEX_IN_MEMORY

    def close(self) -> None:
        """Close both connections (the last one checkpoints the WAL), then give up the lock."""
        self._disconnect()
        os.close(self.lock)

    def _disconnect(self) -> None:
        for connection in (self.reader, self.writer):
            with suppress(apsw.Error):  # what could not be checkpointed is in the WAL next time
                connection.close()

    @contextmanager
    def coded_errors(self) -> Iterator[None]:
        """SQLite's errors as ours; one of the medium makes the file suspect.

        What does not read as a page may be the medium's fault as well: the first time it is read again, through new
        connections, before the file is called broken.
        """
        try:
            yield
        except apsw.Error as error:
            if is_of_medium(error, self.path) or (is_damage(error) and self.may_reread):
                self.may_reread = self.may_reread and not is_damage(error)
                self.is_suspect = True
                raise io_error(error, self.path) from error
            raise coded_error(error, self.path, is_capped=self.budget.is_capped) from error

    def renew(self, journal_id: str, head_position: int) -> int:
        """Open the file again under the same lock after an error of the medium; returns the head's position.

        Blocking; nobody else uses the connections meanwhile.

        Raises:
            BackhaulError: ``journal.io_error`` also when another file, or an older one, has taken the place of the one
                that was open: the file stays suspect.
        """
        self._disconnect()
        try:
            if os.stat(f"{self.path}.lock").st_ino != os.fstat(self.lock).st_ino:
                raise io_error("another file system is mounted there", self.path)
            self.connect()
            with self.coded_errors():
                found = self.writer.execute("SELECT journal_id, head_position FROM journal").get
        except OSError as error:
            raise io_error(error, self.path) from error
        if found is None or found[0] != journal_id or found[1] < head_position:
            self._disconnect()
            raise io_error(f"the log ended at {head_position} and does not any more", self.path)
        self.is_suspect = False
        head: int = found[1]
        return head

    def used_bytes(self) -> tuple[int, int]:
        """Bytes that count against the cap (pages in use, the WAL or its share, the reserve), and those of the WAL alone.

        Runs in the reader's thread.
        """
        try:
            wal_bytes = os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            wal_bytes = 0
        used = _used_pages(self.reader) * PAGE_BYTES
        if self.budget.is_capped:
            return used + max(wal_bytes, self.budget.wal_bytes) + RESERVE_FILE_BYTES, wal_bytes
        return used + wal_bytes, wal_bytes

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

    def probe(self, append_bytes: int) -> None:
        """See ``LogStore.probe``: one page is really written and synced; room for more is counted. Blocking.

        A request for which a whole cap is not enough says nothing of the room that others have: none is counted for it.
        """
        needed = _PROBE_FACTOR * append_bytes
        if self.budget.is_capped and needed > self.budget.append_pages * PAGE_BYTES:
            append_bytes = needed = 0
        with self.coded_errors():
            if self.budget.is_capped:
                free_pages = self.budget.append_pages - _used_pages(self.writer)
                if free_pages < (_PROBE_PAGES + needed // PAGE_BYTES if append_bytes else 1):
                    raise cap_reached(self.path.name)
            if append_bytes and free_bytes(self.path) < DISK_ROOM_BYTES + needed:
                raise disk_full(self.path.name)
            with transaction(self.writer):
                # A number in the file's header that nothing else uses; the same value again would write nothing.
                other = 1 - self.writer.execute("PRAGMA user_version").get
                self.writer.execute(f"PRAGMA user_version = {other}")
        keep_reserve_file(self.path)


def _used_pages(connection: apsw.Connection) -> int:
    pages: int = connection.execute("PRAGMA page_count").get
    free: int = connection.execute("PRAGMA freelist_count").get
    return pages - free


def open_file(path: Path, *, max_bytes: int | None, vfs: str | None, now_us: Callable[[], int]) -> SqliteFile:
    """Lock, check, open and migrate the file, creating it when it is missing.

    Raises:
        ConfigurationError: ``journal.in_use``, ``journal.no_directory``, ``journal.not_writable``,
            ``journal.not_a_journal``, ``journal.schema_newer``, ``journal.not_durable``, ``journal.cap_too_small``.
        BackhaulError: ``journal.disk_full``, ``journal.io_error``, ``journal.broken``, ``journal.unavailable``.
    """
    file = SqliteFile(path, Budget.of(max_bytes), -1, vfs, now_us)
    file.lock = _lock(path)
    try:
        _connect_in_what_room_there_is(file)
    except BaseException:
        os.close(file.lock)
        raise
    return file


def _connect_in_what_room_there_is(file: SqliteFile) -> None:
    """As it is; without the reserve; at last without a file for the WAL's index, until the service ends."""
    for make_do in (partial(drop_reserve_file, file.path), file.keep_index_in_memory):
        try:
            file.connect()
        except BackhaulError as error:
            if error.code != "journal.disk_full":
                raise
            make_do()
        else:
            return
    file.connect()


def keep_reserve_file(path: Path) -> None:
    """Make the reserve when it is missing and the disk has room for much more. Never raises: it is a help, no need."""
    reserve = _reserve_file(path)
    with suppress(OSError):
        if not reserve.exists() and free_bytes(path) > DISK_ROOM_BYTES + 4 * RESERVE_FILE_BYTES:
            descriptor = open_private(reserve, is_new=True)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_FILE_BYTES)
            finally:
                os.close(descriptor)


def drop_reserve_file(path: Path) -> bool:
    """Give the reserve up; whether there was one."""
    try:
        os.unlink(_reserve_file(path))
    except OSError:
        return False
    return True


def _reserve_file(path: Path) -> Path:
    return Path(f"{path.resolve()}.reserve")


def _lock(path: Path) -> int:
    """The descriptor that holds ``<path>.lock``. The file stays: removing it would let two processes lock two files."""
    if not path.parent.is_dir():
        raise ConfigurationError(
            "journal.no_directory",
            f"the journal's directory {str(path.parent)!r} does not exist",
            hint="create it, or mount the volume there",
        )
    if path.is_dir():
        raise not_a_journal(path, "is a directory")
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


def _not_writable(path: Path, error: OSError) -> BackhaulError:
    return disk_full_at(error, path) or ConfigurationError(
        "journal.not_writable",
        f"cannot write the journal {str(path)!r}: {error.strerror}",
        hint="let the service's user read and write the file and its directory",
    )
